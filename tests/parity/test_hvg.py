"""Highly variable genes: scanpy's set of genes, every flavour, with and without batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.testing import lazy, source_of
from tests.exact import exact_batch_moments

FLAVORS = ("seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper")


@pytest.fixture(scope="module")
def pbmc3k(_pbmc3k_filtered: ad.AnnData) -> ad.AnnData:
    return _normalised(_pbmc3k_filtered.copy())


@pytest.fixture(scope="module")
def kang(data_dir: Path) -> ad.AnnData:
    adata = ad.read_h5ad(data_dir / "kang" / "kang_12k_1287genes_counts.h5ad")
    assert adata.obs["sample_id"].nunique() == 8
    adata.obs["sample_id"] = adata.obs["sample_id"].astype("category")  # scanpy takes nothing else
    return _normalised(adata)


def _normalised(adata: ad.AnnData) -> ad.AnnData:
    import scanpy as sc

    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def assert_scanpys(adata: ad.AnnData, **options: Any) -> None:
    import scanpy as sc

    if options["flavor"].startswith("seurat_v3"):
        options["layer"] = "counts"
    expected = sc.pp.highly_variable_genes(adata, inplace=False, **options)
    expected = expected.reindex(adata.var_names)  # with batches scanpy sorts a returned table by name
    twin = lazy(adata, 7)
    found = sd.pp.highly_variable_genes(twin, inplace=False, **options)
    x = twin.layers["counts"] if "layer" in options else twin.X
    assert source_of(x).passes == (2 if "layer" in options else 1)
    different = found.index[found["highly_variable"] != expected["highly_variable"]]
    assert list(different) == [] and found["highly_variable"].any()
    for c in set(found) - {"highly_variable"}:
        if c == "mean_bin":
            np.testing.assert_array_equal(found[c].cat.codes, expected[c].cat.codes)
            continue
        theirs = expected[c].to_numpy(float)
        np.testing.assert_allclose(found[c].to_numpy(float), theirs, rtol=1e-5, atol=1e-5, err_msg=c)


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("n_top_genes", [None, 500, 2000])
def test_hvg__scanpys_genes_of_pbmc3k(pbmc3k: ad.AnnData, flavor: str, n_top_genes: int | None) -> None:
    assert_scanpys(pbmc3k, flavor=flavor, n_top_genes=n_top_genes)


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("n_top_genes", [None, 300])
def test_hvg__scanpys_genes_of_eight_samples(
    kang: ad.AnnData, flavor: str, n_top_genes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact_batch_moments(monkeypatch)
    assert_scanpys(kang, flavor=flavor, n_top_genes=n_top_genes, batch_key="sample_id")


def test_hvg__scanpys_genes_by_other_cut_offs(pbmc3k: ad.AnnData) -> None:
    assert_scanpys(pbmc3k, flavor="seurat", min_disp=0.1, min_mean=0.05, max_mean=4, n_bins=30)
    assert_scanpys(pbmc3k, flavor="cell_ranger", min_disp=1, max_disp=10)
