"""Arguments of scanpy's that mean the same here, or that are refused; and what a step says."""

from __future__ import annotations

import logging
from typing import Any

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import CountsWarning, InputError
from sc_dask.testing import lazy
from tests.laws.registry import connected, counts, logged

LAZILY = pytest.mark.parametrize("lazily", [False, True])


def made(lazily: bool, adata: ad.AnnData) -> ad.AnnData:
    return lazy(adata) if lazily else adata


@LAZILY
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_score_genes__leaves_nan_out_of_means_as_scanpy_does(lazily: bool, kind: Any) -> None:
    import scanpy as sc

    x = logged().X.toarray()
    rng = np.random.default_rng(0)
    x[rng.integers(0, 90, 60), rng.integers(0, 60, 60)] = np.nan
    x[:, 50] = np.nan  # a gene without values is never a control
    genes = [f"gene{i}" for i in (1, 5, 9, 40)]
    base = ad.AnnData(kind(x), obs=logged().obs[["group"]], var=logged().var[["mt"]])
    ours, theirs = made(lazily, base.copy()), base.copy()
    sd.tl.score_genes(ours, genes, ctrl_size=5, n_bins=5)
    sc.tl.score_genes(theirs, genes, ctrl_size=5, n_bins=5)
    np.testing.assert_allclose(ours.obs["score"], theirs.obs["score"], rtol=1e-5, atol=1e-6)
    assert np.isfinite(ours.obs["score"]).all()
    with pytest.raises(InputError, match="gene50"):
        sd.tl.score_genes(ours, ["gene1", "gene50"], ctrl_size=5, n_bins=5)


@LAZILY
@pytest.mark.parametrize("method", ["t-test", "wilcoxon"])
def test_rank_genes_groups__warns_of_counts_and_of_nothing_else(lazily: bool, method: Any, recwarn: Any) -> None:
    adata = made(lazily, logged())
    sd.tl.rank_genes_groups(adata, "group", method=method)
    assert not [w for w in recwarn if issubclass(w.category, CountsWarning)]
    adata = made(lazily, counts())
    sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)  # a pass that has seen the values
    with pytest.warns(CountsWarning, match="raw count data"):
        sd.tl.rank_genes_groups(adata, "group", method=method)
    if method == "t-test" or not lazily:
        with pytest.warns(CountsWarning, match="raw count data"):
            sd.tl.rank_genes_groups(made(lazily, counts()), "group", method=method)


def test_louvain__what_needs_the_package_louvain_is_refused() -> None:
    adata = connected()
    sd.tl.louvain(adata, directed=False)
    first = adata.obs["louvain"].copy()
    sd.tl.louvain(adata, directed=True)
    assert (first == adata.obs["louvain"]).all()
    for options in ({"flavor": "vtraag"}, {"partition_type": object}, {"partition_kwargs": {"a": 1}}):
        with pytest.raises(InputError, match="the package louvain is no longer kept"):
            sd.tl.louvain(adata, **options)


def test_calculate_qc_metrics__parallel_is_deprecated() -> None:
    with pytest.warns(FutureWarning, match="`parallel` is deprecated"):
        sd.pp.calculate_qc_metrics(counts(), percent_top=None, parallel=True)


def test_normalize_pearson_residuals__of_an_element_of_obsm() -> None:
    adata, alone = counts(), counts()
    adata.obsm["part"] = adata.X[:, :20].copy()
    alone = ad.AnnData(adata.X[:, :20].copy())
    sd.pp.normalize_pearson_residuals(adata, obsm="part")
    sd.pp.normalize_pearson_residuals(alone)
    np.testing.assert_allclose(adata.obsm["part"], alone.X)
    assert adata.uns["pearson_residuals_normalization"]["computed_on"] == "part"


@LAZILY
def test_highly_variable_genes__without_genes_that_nobody_has(lazily: bool) -> None:
    adata = logged()
    kept = np.asarray((adata.X > 0).sum(axis=0)).ravel() > 0
    some = adata[:, kept].copy()
    adata = made(lazily, adata)
    sd.pp.highly_variable_genes(adata, filter_unexpressed_genes=True, n_bins=10)
    sd.pp.highly_variable_genes(some, n_bins=10)
    assert not kept.all() and not adata.var["highly_variable"][~kept].any()
    for column in ("highly_variable", "means", "dispersions", "dispersions_norm"):
        np.testing.assert_allclose(adata.var[column][kept].astype(float), some.var[column].astype(float), rtol=1e-5)
    with pytest.raises(InputError, match="filter_unexpressed_genes"):
        sd.pp.highly_variable_genes(adata, filter_unexpressed_genes=True, flavor="seurat_v3", n_top_genes=5)


def test_tl_pca__is_that_of_pp() -> None:
    assert sd.tl.pca is sd.pp.pca
    with pytest.raises(AttributeError, match="nothing"):
        _ = sd.tl.nothing


def test_steps__say_what_scanpy_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(15, logger="sc_dask")
    adata = lazy(counts())
    sd.pp.filter_genes(adata, min_cells=10)
    sd.pp.filter_cells(adata, max_counts=100)
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.pca(adata, 5)
    said = [(r.levelno, r.getMessage()) for r in caplog.records]
    gone = 60 - adata.n_vars
    assert (logging.INFO, f"filtered out {gone} genes that are detected in less than 10 cells") in said
    assert (logging.INFO, f"filtered out {90 - adata.n_obs} cells that have more than 100 counts") in said
    assert (logging.INFO, "normalizing counts per cell") in said and (logging.INFO, "computing PCA") in said
    assert (logging.INFO, "    finished (0:00:00)") in said
    assert any(level == 15 and "'X_pca', principal components" in text for level, text in said)
    assert isinstance(adata.X, da.Array)
