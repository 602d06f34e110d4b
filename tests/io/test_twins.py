"""Matrices that differ in their values alone are written with one read, and are what each would be by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

import sc_dask as sd
from sc_dask import log
from sc_dask.io.writing import matrix

N_OBS, N_VARS = 300, 80


@pytest.fixture
def counts(tmp_path: Path) -> ad.AnnData:
    """A lazy store of counts, some of its rows without any."""
    x = sp.random(N_OBS, N_VARS, 0.2, format="csr", random_state=0, dtype=np.float64)
    x.data = np.round(x.data * 50).astype(np.int32) + 1
    x[5:20] = 0
    x.eliminate_zeros()
    ad.AnnData(x.astype(np.int32)).write_zarr(tmp_path / "in.zarr")
    return sd.read(tmp_path / "in.zarr", block_bytes=4_000)


def analysed(counts: ad.AnnData, rows: bool, genes: bool) -> ad.AnnData:
    keep = np.arange(N_OBS) % 3 != 1 if rows else np.ones(N_OBS, bool)
    adata = counts[keep, 10:70].copy() if genes else counts[keep].copy()
    adata.layers["counts"] = adata.X
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    return adata


@pytest.mark.parametrize(("rows", "genes"), [(False, False), (True, False), (True, True)])
def test_twins__are_what_each_is_alone(rows: bool, genes: bool, counts: ad.AnnData, tmp_path: Path) -> None:
    adata = analysed(counts, rows, genes)
    with log.stage("write") as stage:
        sd.write(adata, tmp_path / "both.zarr", shard_bytes=4_000)
    assert stage.passes < (1.6 if genes else 1.1)
    for path, x in (("X", adata.X), ("layers/counts", adata.layers["counts"])):
        sd.write(
            ad.AnnData(x, obs=adata.obs[[]], var=adata.var[[]]),
            tmp_path / "one.zarr",
            overwrite=True,
            shard_bytes=4_000,
        )
        both, one = zarr.open(tmp_path / "both.zarr")[path], zarr.open(tmp_path / "one.zarr")["X"]
        for name in ("data", "indices", "indptr"):
            assert both[name].dtype == one[name].dtype
            assert both[name].metadata == one[name].metadata
            np.testing.assert_array_equal(both[name][:], one[name][:])
    made = ad.read_zarr(tmp_path / "both.zarr")
    expected = ad.read_zarr(tmp_path / "in.zarr")[adata.obs_names, adata.var_names].X
    assert (made.layers["counts"] != expected).nnz == 0
    assert abs(np.expm1(made.X.astype(np.float64)).sum(axis=1).max() - 1e4) < 1


def test_twins__where_the_forecast_was_wrong(counts: ad.AnnData, tmp_path: Path, monkeypatch: Any) -> None:
    adata, real = analysed(counts, True, True), matrix.forecast

    def wrong(x: Any, **how: Any) -> Any:
        found = real(x, **how)
        found.row_nnz[0] += 1
        return found

    monkeypatch.setattr(matrix, "forecast", wrong)
    sd.write(adata, tmp_path / "both.zarr")
    made = ad.read_zarr(tmp_path / "both.zarr")
    expected = ad.read_zarr(tmp_path / "in.zarr")[adata.obs_names, adata.var_names].X
    assert (made.layers["counts"] != expected).nnz == 0 and made.X.nnz == expected.nnz


def test_twins__only_where_the_pattern_is_the_same(counts: ad.AnnData, tmp_path: Path) -> None:
    adata = analysed(counts, False, False)
    x, below = adata.X, adata.layers["counts"]
    assert matrix.are_twins(x, below) and not matrix.are_twins(below, x)
    other = sd.read(tmp_path / "in.zarr", block_bytes=4_000)[::2]
    assert not matrix.are_twins(x, other.X) and not matrix.are_twins(x[:, 1:], below)
    adata.layers["counts"] = below[:, ::-1]
    adata.layers["memory"] = below.compute()
    adata.layers["dense"] = np.zeros(adata.shape, np.float32)
    sd.write(adata, tmp_path / "out.zarr")
    made = ad.read_zarr(tmp_path / "out.zarr")
    expected = ad.read_zarr(tmp_path / "in.zarr").X
    assert (made.layers["counts"] != expected[:, ::-1]).nnz == 0
    assert (made.layers["memory"] != expected).nnz == 0 and not made.layers["dense"].any()
