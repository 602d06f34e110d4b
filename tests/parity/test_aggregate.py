"""Pseudobulk of real data: scanpy's numbers, and sums that are counts."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask.testing import lazy, source_of


def assert_scanpys(adata: ad.AnnData, by: list[str], functions: list[str], rtol: float) -> ad.AnnData:
    import scanpy as sc

    twin = lazy(adata, 7)
    found, expected = (f(a, by, functions) for f, a in ((sd.get.aggregate, twin), (sc.get.aggregate, adata)))
    assert source_of(twin).passes == (2 if "median" in functions else 1)
    pd.testing.assert_frame_equal(found.obs[by].astype(str), expected.obs[by].astype(str))
    for f in functions:
        np.testing.assert_allclose(found.layers[f], expected.layers[f], rtol=rtol, atol=rtol, err_msg=f)
    return found


def test_aggregate__scanpys_pseudobulk_of_kang(data_dir: Path) -> None:
    adata = ad.read_h5ad(data_dir / "kang" / "kang_12k_1287genes_counts.h5ad")
    cell_type = next(c for c in adata.obs if adata.obs[c].nunique() == 8 and c != "sample_id")
    adata = adata[adata.obs[cell_type].notna().to_numpy()].copy()
    found = assert_scanpys(adata, ["sample_id", cell_type], ["sum", "mean", "count_nonzero", "median"], 1e-6)
    sums = found.layers["sum"]
    assert (sums == np.rint(sums)).all() and sums.sum() == adata.X.sum(dtype=np.float64)
    assert found.obs["n_obs_aggregated"].sum() == adata.n_obs and len(found) > 50


@pytest.mark.parametrize("logged", [False, True])
def test_aggregate__scanpys_numbers_on_pbmc3k(pbmc3k_filtered: ad.AnnData, logged: bool) -> None:
    import scanpy as sc

    adata = pbmc3k_filtered
    adata.obs["depth"] = pd.qcut(adata.obs["total_counts"], 6).astype(str)
    adata.obs["mt"] = pd.qcut(adata.obs["pct_counts_mt"], 3, labels=["low", "mid", "high"])
    if logged:
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    assert_scanpys(adata, ["depth", "mt"], ["sum", "mean", "var", "count_nonzero", "median"], 1e-5)
