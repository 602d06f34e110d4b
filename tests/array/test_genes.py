from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask import work
from sc_dask.array import normalize
from sc_dask.array.blocks import RowBlocks, from_array, map_rows
from sc_dask.array.gene_major import files, genes
from sc_dask.errors import ScDaskWarning, StoreError
from sc_dask.testing import lazy, source_of

DENSE = np.random.default_rng(0).poisson(0.7, (30, 20)).astype(np.float32)
DENSE[:, 4] = 0
BOUNDS = [0, 0, 7, 7, 20, 30, 30]


@pytest.fixture(autouse=True)
def no_copy_is_left() -> None:
    genes.forget()


def columns(tile: sp.csc_matrix, times: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Each gene whole, so that a test sees everything; and its sum."""
    assert tile.has_canonical_format
    dense = tile.toarray().T
    return dense, dense.sum(axis=1) * times


def counts(kind: Any = sp.csr_matrix, dtype: str = "float32") -> RowBlocks:
    return lazy(kind(DENSE.astype(dtype)), bounds=BOUNDS)


@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "int64"])
def test_map_cols__sees_all_genes_once(kind: Any, dtype: str) -> None:
    x = counts(kind, dtype)
    whole, sums = genes.map_cols(columns, x, times=2)
    assert whole.dtype == dtype
    np.testing.assert_array_equal(whole, DENSE.T)
    np.testing.assert_array_equal(sums, 2 * DENSE.sum(axis=0))
    assert source_of(x).times_read().tolist() == [1] * 30


def test_map_cols__values_that_no_count_is() -> None:
    x = DENSE * np.float32(-1.37)
    x[2, 3], x[4, 5], x[6, 7] = np.nan, 70_000, 300
    np.testing.assert_array_equal(genes.map_cols(columns, lazy(sp.csr_matrix(x)))[0], x.T)


def test_map_cols__a_second_call_reads_nothing_and_some_genes_are_a_part_of_it() -> None:
    x = counts()
    genes.map_cols(columns, x)
    picked = np.array([1, 4, 7, 19])
    np.testing.assert_array_equal(genes.map_cols(columns, x, picked)[0], DENSE.T[picked])
    assert source_of(x).times_read().max() == 1


def test_map_cols__few_genes_are_copied_alone() -> None:
    x, picked = counts(), np.array([3, 5])
    np.testing.assert_array_equal(genes.map_cols(columns, x, picked)[0], DENSE.T[picked])
    ((copy, _),) = genes._HERE.values()
    assert copy.n_vars == 2


def steps() -> dict[str, Any]:
    known = DENSE.sum(axis=1)
    return {
        "normalised": lambda x: normalize.normalize(x, known, 100.0),
        "logarithms": lambda x: normalize.log1p(normalize.normalize(x, known, 100.0), None),
        "logarithms to 2": lambda x: normalize.log1p(normalize.normalize(x, known, 100.0), 2),
        "log1p": lambda x: normalize.log1p(x, None),
        "sums not known": lambda x: normalize.log1p(normalize.normalize(x, normalize.totals_of(x), 100.0), None),
        "another step": lambda x: map_rows(doubled, x, keeps_pattern=True),
    }


def doubled(block: Any) -> Any:
    return block * 2


@pytest.mark.parametrize("name", steps())
@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
def test_map_cols__the_last_step_is_made_again(name: str, kind: Any) -> None:
    x = steps()[name](counts(kind))
    whole = x.compute()
    whole = whole.toarray() if sp.issparse(whole) else whole
    np.testing.assert_array_equal(genes.map_cols(columns, x)[0], whole.T)
    ((copy, _),) = genes._HERE.values()
    kept = files.decoded(*files.read_raw(Path(copy.folder) / "1.genes", 0, 2), 2, 13, copy.dtype)
    is_counts = name not in ("sums not known", "another step")
    assert set(kept.values.tolist()) <= {1, 2, 3, 4, 5} or not is_counts
    # what the same X is found by, whatever its last step
    before = source_of(x).times_read().max()
    genes.map_cols(columns, x)
    assert source_of(x).times_read().max() == before


def test_map_cols__tiles_are_bounded() -> None:
    with dask.config.set({"sc-dask.block-bytes": 40}):  # 10 values
        n = genes.map_cols(lambda tile: np.full(tile.shape[1], tile.nnz if tile.shape[1] > 1 else 0), counts())
    assert n.max() <= 10
    np.testing.assert_array_equal(genes.map_cols(columns, counts())[0], DENSE.T)


def test_map_cols__memory_needs_no_copy() -> None:
    for x in (sp.csr_matrix(DENSE), DENSE):
        np.testing.assert_array_equal(genes.map_cols(columns, from_array(x))[0], DENSE.T)
    assert not genes._HERE


# -- the folder ----------------------------------------------------------------------------------


def test_copy__goes_with_this_process_and_no_more_than_two_stay() -> None:
    folders = []
    for i in range(3):
        genes.map_cols(columns, lazy(sp.csr_matrix(DENSE + i)))
        folders = [Path(copy.folder) for copy, _ in genes._HERE.values()]
    assert len(folders) == genes.KEPT and all(f.exists() for f in folders)
    genes.forget()
    gc.collect()
    assert not any(f.exists() for f in folders)


def test_copy__stays_in_the_work_dir_and_the_oldest_goes(tmp_path: Path) -> None:
    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
        for i in range(4):
            genes.map_cols(columns, lazy(sp.csr_matrix(DENSE + i)))
            folder = Path(genes._folder(lazy(sp.csr_matrix(DENSE + i)).expression.token()))
            os.utime(folder, (i, i))
        assert not genes._HERE and len(list(tmp_path.iterdir())) == genes.KEPT
        again = lazy(sp.csr_matrix(DENSE + 3))
        genes.map_cols(columns, again)
    assert source_of(again).rows_read == 0


def test_copy__a_killed_one_goes_on_with_whole_files(tmp_path: Path) -> None:
    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
        genes.map_cols(columns, counts())
        (folder,) = tmp_path.iterdir()
        assert sorted(p.name for p in folder.iterdir()) == ["1.genes", "3.genes", "4.genes", "complete", "layout.json"]
        (folder / "complete").unlink()
        (folder / "3.genes").rename(folder / "3.partial-77")
        raw = bytearray((folder / "4.genes").read_bytes())
        raw[-1] ^= 1
        (folder / "4.genes").write_bytes(raw)
        x = counts()
        np.testing.assert_array_equal(genes.map_cols(columns, x)[0], DENSE.T)
        assert source_of(x).times_read().tolist() == [0] * 7 + [1] * 23
        x = counts()
        (folder / "1.genes").unlink()
        np.testing.assert_array_equal(genes.map_cols(columns, x)[0], DENSE.T)
        assert source_of(x).times_read().tolist() == [1] * 7 + [0] * 23


def centred(block: Any) -> Any:
    return np.asarray(block.toarray() - 1.5, np.float32)


def test_copy__of_dense_blocks_that_are_cut_finer_goes_on_too(tmp_path: Path) -> None:
    with dask.config.set({"sc-dask.work-dir": str(tmp_path), "sc-dask.block-bytes": 400}):
        x = map_rows(centred, counts(), is_sparse=False)
        n_blocks = x.expression.n_blocks
        assert n_blocks > 6
        for _ in range(2):
            np.testing.assert_array_equal(genes.map_cols(columns, x)[0], DENSE.T - 1.5)
            (folder,) = tmp_path.iterdir()
            for i in (1, n_blocks - 2):
                (folder / f"{i}.genes").unlink(missing_ok=True)
    assert 30 < source_of(x).rows_read < 60


def test_copy__damage_is_told(tmp_path: Path) -> None:
    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
        genes.map_cols(columns, counts())
        (folder,) = tmp_path.iterdir()
        path = folder / "3.genes"
        raw = path.read_bytes()
        for broken in (raw[:-1], raw[:60], raw[:-1] + bytes([raw[-1] ^ 1])):
            path.write_bytes(broken)
            assert not files.is_whole(path, (13, 20), 10)
            with pytest.raises(StoreError, match=r"3.genes of the gene-major copy is damaged.*rm .*3.genes, run again"):
                genes.map_cols(columns, counts())


def test_copy__an_error_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "scratch", lambda: str(tmp_path))

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(files, "_packed", full)
    with pytest.raises(OSError, match="no space left"):
        genes.map_cols(columns, counts())
    gc.collect()
    assert not genes._HERE and not list(tmp_path.rglob("*.genes")) and not list(tmp_path.rglob("*.partial*"))


# -- a cluster -----------------------------------------------------------------------------------


def test_cluster__a_work_dir_that_all_see_or_x_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, processes=False, dashboard_address=":0") as cluster, Client(cluster):
        with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
            np.testing.assert_array_equal(genes.map_cols(columns, counts())[0], DENSE.T)
        assert len(list(tmp_path.glob("*/*.genes"))) == 3
        np.testing.assert_array_equal(genes.map_cols(columns, counts())[0], DENSE.T)
        monkeypatch.setattr(genes, "_GATHERED_BYTES", 800)
        with pytest.warns(ScDaskWarning, match="X is read . times: the workers have no work-dir"):
            found = genes.map_cols(columns, counts())
        np.testing.assert_array_equal(found[0], DENSE.T)
