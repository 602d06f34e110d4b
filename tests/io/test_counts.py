"""What is known of a matrix before it is written, what a sample may say, and what happens where it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

import sc_dask as sd
from sc_dask import log
from sc_dask.array.blocks import RowBlocks, from_array, map_rows
from sc_dask.io.writing import counts
from sc_dask.io.writing.counts import cast_exactly, kept_row_nnz, known_row_nnz
from tests.io.cases import dense

N_OBS, N_VARS, SHARD = 400, 50, 8 * 397


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample is 8 places of 20 values, so that files of a test are larger than one."""
    monkeypatch.setattr(counts, "SAMPLE_VALUES", 20)


@pytest.fixture
def x() -> sp.csr_matrix:
    out = np.random.default_rng(0).poisson(0.5, (N_OBS, N_VARS)).astype(np.float32)
    return sp.csr_matrix(out)


def h5ad_of(x: Any, path: Path) -> Path:
    ad.AnnData(x).write_h5ad(path, compression="gzip")
    return path


def passes_of(work: Callable[[], Any]) -> float:
    with log.stage("work") as stage:
        work()
    return stage.passes


def test_convert__one_pass_when_a_sample_tells(tmp_path: Path, x: sp.csr_matrix) -> None:
    path = h5ad_of(x, tmp_path / "a.h5ad")
    passes = passes_of(lambda: sd.convert(path, tmp_path / "a.zarr", shard_bytes=SHARD))
    assert passes < 1.5  # a sample, and the rows that two shards share
    found = ad.read_zarr(tmp_path / "a.zarr").X
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(dense(found), dense(x))


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, np.asarray], ids=["csr", "csc", "dense"])
@pytest.mark.parametrize(
    ("value", "wanted"),
    [(300, "uint16"), (70_000, "uint32"), (2**40, "uint64"), (-1, "int8"), (0.5, "float64"), (np.nan, "float64")],
)
def test_convert__one_value_that_no_sample_saw(
    tmp_path: Path, x: sp.csr_matrix, make: Callable[[Any], Any], value: float, wanted: str
) -> None:
    rows = x.toarray().astype(np.float64)
    rows[N_OBS // 3, 7] = value
    path = h5ad_of(make(rows), tmp_path / "a.h5ad")
    found = sd.convert(path, tmp_path / "a.zarr", shard_bytes=SHARD, block_bytes=800)
    assert found.X.dtype == wanted
    np.testing.assert_array_equal(dense(found.X), rows)
    sd.convert(h5ad_of(make(rows), tmp_path / "b.h5ad"), tmp_path / "b.zarr", shard_bytes=SHARD, block_bytes=800)
    for path in (tmp_path / "a.zarr" / "X").rglob("c/*"):
        if path.is_file():
            assert (tmp_path / "b.zarr" / path.relative_to(tmp_path / "a.zarr")).read_bytes() == path.read_bytes()


def test_convert__counts_where_values_come_close_to_a_limit(tmp_path: Path, x: sp.csr_matrix) -> None:
    near = x.copy()
    near.data *= 20  # up to about 100: a type of 255 might not do
    path = h5ad_of(near, tmp_path / "a.h5ad")
    passes = passes_of(lambda: sd.convert(path, tmp_path / "a.zarr", shard_bytes=SHARD))
    assert passes > 1.9
    assert ad.read_zarr(tmp_path / "a.zarr").X.dtype == np.uint8


def test_convert__stored_rows_that_repeat_a_column(tmp_path: Path, x: sp.csr_matrix) -> None:
    import h5py

    indptr = x.indptr.copy()
    indptr[-1] += 1
    parts = {"data": np.append(x.data, 250.0), "indices": np.append(x.indices, x.indices[-1]), "indptr": indptr}
    ad.AnnData(x).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as f:
        for name, values in parts.items():
            del f[f"X/{name}"]
            f[f"X/{name}"] = values
    wanted = x.toarray()
    wanted[-1, x.indices[-1]] += 250
    found = sd.convert(tmp_path / "a.h5ad", tmp_path / "a.zarr", shard_bytes=SHARD)
    np.testing.assert_array_equal(dense(found.X), wanted)


def _filtered(lazy: ad.AnnData) -> ad.AnnData:
    return lazy[np.arange(N_OBS) % 3 > 0].copy()


def _normalized(lazy: ad.AnnData) -> ad.AnnData:
    sd.pp.normalize_total(lazy, target_sum=100)
    sd.pp.log1p(lazy)
    return lazy


def _genes_then_qc(lazy: ad.AnnData) -> ad.AnnData:
    lazy = lazy[:, ::2].copy()
    sd.pp.calculate_qc_metrics(lazy, percent_top=None, inplace=True)
    return lazy


@pytest.mark.parametrize(
    "change",
    [_filtered, _normalized, lambda a: _normalized(_filtered(a)), lambda a: _filtered(_normalized(a)), _genes_then_qc],
    ids=["rows", "log1p", "rows, log1p", "log1p, rows", "genes, qc"],
)
@pytest.mark.parametrize("zeros", [False, True], ids=["", "explicit zeros"])
def test_write__counts_nothing_where_the_pattern_is_known(
    tmp_path: Path, x: sp.csr_matrix, change: Callable[[ad.AnnData], ad.AnnData], zeros: bool
) -> None:
    x.data[::11] *= not zeros
    ad.AnnData(x).write_zarr(tmp_path / "a.zarr")
    lazy = change(sd.read(tmp_path / "a.zarr", block_bytes=800))
    assert isinstance(lazy.X, RowBlocks)
    assert known_row_nnz(lazy.X) is not None
    recounts = zeros and change is _genes_then_qc  # that QC counts values that are not 0
    passes = passes_of(lambda: sd.write(lazy, tmp_path / "b.zarr", shard_bytes=SHARD))
    assert (passes < 1.5) == (not recounts)
    found = ad.read_zarr(tmp_path / "b.zarr").X
    np.testing.assert_array_equal(dense(found), dense(lazy.X))
    assert found.nnz == lazy.X.compute().nnz


@pytest.mark.parametrize("zeros", [False, True], ids=["", "explicit zeros"])
@pytest.mark.parametrize("kind", ["zarr", "h5ad"])
@pytest.mark.parametrize(
    "genes", [slice(None, None, 2), [5, 3, 44], slice(0, 0)], ids=["half", "in another order", "none"]
)
def test_write__counts_column_numbers_where_genes_were_picked(
    tmp_path: Path, x: sp.csr_matrix, genes: Any, kind: str, zeros: bool
) -> None:
    x.data[::11] *= not zeros
    path = tmp_path / f"a.{kind}"
    getattr(ad.AnnData(x), "write_zarr" if kind == "zarr" else "write_h5ad")(path)
    lazy = _normalized(sd.read(path, block_bytes=800)[np.arange(N_OBS) % 5 > 0, genes].copy())
    with log.stage("count") as stage:
        row_nnz = kept_row_nnz(lazy.X)
    np.testing.assert_array_equal(row_nnz, np.diff(lazy.X.compute().tocsr().indptr))
    assert known_row_nnz(lazy.X) is None
    assert stage.passes == pytest.approx(0.5, abs=0.05)
    assert passes_of(lambda: sd.write(lazy, tmp_path / "b.zarr", shard_bytes=SHARD)) < 1.9
    np.testing.assert_array_equal(dense(ad.read_zarr(tmp_path / "b.zarr").X), dense(lazy.X))


def test_write__counts_all_where_a_picked_gene_is_stored_twice_in_a_row(tmp_path: Path, x: sp.csr_matrix) -> None:
    path = tmp_path / "a.zarr"
    ad.AnnData(x).write_zarr(path)
    twice = sp.csr_matrix((np.r_[1, x.data], np.r_[x.indices[0], x.indices], x.indptr + (x.indptr > 0)), x.shape)
    ad.io.write_elem(zarr.open_group(path, use_consolidated=False), "X", twice)
    lazy = sd.read(path, block_bytes=800)[:, ::-1].copy()
    sd.write(lazy, tmp_path / "b.zarr", shard_bytes=SHARD)
    np.testing.assert_array_equal(dense(ad.read_zarr(tmp_path / "b.zarr").X), twice.toarray()[:, ::-1])


def test_kept_row_nnz__is_none_where_a_step_may_drop_values(tmp_path: Path, x: sp.csr_matrix) -> None:
    ad.AnnData(x).write_zarr(tmp_path / "a.zarr")
    lazy = sd.read(tmp_path / "a.zarr")
    assert kept_row_nnz(map_rows(_less_than_two, lazy.X)[:, ::2]) is None
    assert kept_row_nnz(from_array(x)[:, ::2]) is None


def _less_than_two(block: Any) -> Any:
    return block.multiply(block < 2).tocsr()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint64", "int32"])
@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
def test_cast_exactly__says_what_does_not_fit(dtype: str, kind: str) -> None:
    limits = np.iinfo(kind)
    for value in (0, 1, limits.min, limits.max, limits.min - 1, limits.max + 1, 0.5, np.nan, np.inf, 2**62, -(2**62)):
        with np.errstate(all="ignore"):
            try:
                values = np.array([3, value]).astype(np.float64 if isinstance(value, float) else object).astype(dtype)
            except (OverflowError, ValueError):
                continue
        if not np.isfinite(values.astype(np.float64)).all() and np.dtype(dtype).kind != "f":
            continue
        fits = bool(np.isfinite(values.astype(np.float64)).all()) and all(
            float(v).is_integer() and limits.min <= int(v) <= limits.max for v in values.tolist()
        )
        out = np.empty(2, kind)
        assert cast_exactly(values, out) == fits
        assert not fits or out.tolist() == values.tolist()
