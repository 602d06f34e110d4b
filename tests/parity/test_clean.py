"""Regressing out, scaling and components of real cells: scanpy's numbers from a lazy X, and the tutorial's labels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.testing import lazy, source_of

SEEDS = (0, 1, 2)


@pytest.mark.parametrize(
    ("keys", "stored"),
    [(["n_counts", "percent_mito"], "regress_test_small.npy"), (["bulk_labels"], "regress_test_small_cat.npy")],
)
@pytest.mark.parametrize("kind", ["memory", "lazy"])
def test_regress_out__matches_the_stored_arrays(golden_dir: Path, keys: list[str], stored: str, kind: str) -> None:
    adata = ad.read_h5ad(golden_dir / "pbmc68k_reduced.h5ad").raw.to_adata()[:200, :200].copy()
    adata = lazy(adata, 5) if kind == "lazy" else adata
    sd.pp.regress_out(adata, keys)
    found = adata.X.compute() if kind == "lazy" else adata.X
    np.testing.assert_allclose(found, np.load(golden_dir / stored), atol=1e-6)


def test_regress_out__matches_the_stored_array_of_integers(golden_dir: Path, pbmc3k_counts: ad.AnnData) -> None:
    adata = ad.AnnData(pbmc3k_counts.X[:200, :200].toarray().astype(np.int64))
    adata.obs["labels"] = np.repeat(["A", "B"], 100)
    sd.pp.regress_out(adata, "labels")
    np.testing.assert_allclose(adata.X, np.load(golden_dir / "cat_regressor_for_int_input.npy"), atol=1e-12)


def cleaned(pp: Any, adata: ad.AnnData, max_value: float | None) -> ad.AnnData:
    """The tutorial from filtered counts to principal components, with the functions of either library."""
    pp.normalize_total(adata, target_sum=1e4)
    pp.log1p(adata)
    pp.highly_variable_genes(adata, min_mean=0.0125, max_mean=3, min_disp=0.5)
    adata = adata[:, adata.var["highly_variable"]].copy()
    pp.regress_out(adata, ["total_counts", "pct_counts_mt"])
    pp.scale(adata, max_value=max_value)
    pp.pca(adata, n_comps=50)
    return adata


@pytest.mark.parametrize("max_value", [10, None])
def test_clean__components_are_scanpys_and_labels_the_published(
    pbmc3k_filtered: ad.AnnData, data_dir: Path, max_value: float | None
) -> None:
    import scanpy as sc

    theirs = cleaned(sc.pp, pbmc3k_filtered.copy(), max_value)
    ours = lazy(pbmc3k_filtered, 7)
    source = source_of(ours)
    ours = cleaned(sd.pp, ours, max_value)
    assert isinstance(ours.X, RowBlocks) and ours.shape == (2638, 1838)
    assert source.passes == 3  # moments of the genes, coefficients, components
    np.testing.assert_allclose(ours.X.compute(), theirs.X, atol=1e-5)
    for c in ("mean", "std"):
        np.testing.assert_allclose(ours.var[c], theirs.var[c], rtol=1e-5, atol=1e-7)
    cosines = (ours.varm["PCs"] * theirs.varm["PCs"]).sum(axis=0)
    assert np.abs(cosines)[:20].min() > 0.9999
    np.testing.assert_allclose(ours.uns["pca"]["variance"], theirs.uns["pca"]["variance"], rtol=1e-4)
    if max_value is None:
        return
    published = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad", backed="r").obs["louvain"]
    published = published.reindex(ours.obs_names).to_numpy()
    agreement = []
    for seed in SEEDS:
        sd.pp.neighbors(ours, n_neighbors=10, n_pcs=40, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            options: dict[str, Any] = {"flavor": "igraph", "n_iterations": 2, "directed": False}
            sd.tl.leiden(ours, resolution=0.9, random_state=seed, **options)
        agreement.append(adjusted_rand_score(published, ours.obs["leiden"]))
    assert np.median(agreement) >= 0.88  # 0.915 here; scanpy's own 0.916


def test_pearson__genes_and_residuals_are_scanpys(pbmc3k_filtered: ad.AnnData) -> None:
    import scanpy as sc

    ours, theirs = lazy(pbmc3k_filtered, 5), pbmc3k_filtered
    sd.pp.highly_variable_genes(ours, flavor="pearson_residuals", n_top_genes=1000)
    sc.experimental.pp.highly_variable_genes(theirs, flavor="pearson_residuals", n_top_genes=1000)
    assert source_of(ours).passes == 2
    for c in ("means", "variances", "residual_variances", "highly_variable_rank"):
        np.testing.assert_allclose(ours.var[c], theirs.var[c], rtol=2e-5, err_msg=c)
    assert list(ours.var["highly_variable"]) == list(theirs.var["highly_variable"])
    ours, theirs = (x[:, x.var["highly_variable"]].copy() for x in (ours, theirs))
    sd.pp.normalize_pearson_residuals(ours)
    sc.experimental.pp.normalize_pearson_residuals(theirs)
    for pp, x in ((sd.pp, ours), (sc.pp, theirs)):
        pp.pca(x, n_comps=20)
    np.testing.assert_allclose(ours.X.compute(), theirs.X, rtol=1e-4, atol=1e-4)
    assert np.abs((ours.varm["PCs"] * theirs.varm["PCs"]).sum(axis=0)).min() > 0.9999


@pytest.mark.parametrize(("recipe", "n_genes"), [("recipe_seurat", 987), ("recipe_zheng17", 1000)])
def test_recipe__genes_and_values_are_scanpys(pbmc3k_counts: ad.AnnData, recipe: str, n_genes: int) -> None:
    import scanpy as sc

    ours, theirs = lazy(pbmc3k_counts, 5), pbmc3k_counts
    getattr(sd.pp, recipe)(ours)
    getattr(sc.pp, recipe)(theirs)
    assert ours.shape == (2700, n_genes) and list(ours.var_names) == list(theirs.var_names)
    np.testing.assert_allclose(ours.X.compute(), np.asarray(theirs.X), atol=2e-5)
