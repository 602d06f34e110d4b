"""What scanpy keeps for old scripts: `normalize_per_cell`, `filter_genes_dispersion`, `recipe_weinreb17`."""

from __future__ import annotations

from typing import Any

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.testing import lazy

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")


def counts(n_empty: int = 1, *, depth: bool = False) -> np.ndarray:
    """Counts of 90 cells; with ``depth`` times a factor of each cell, so that no mean lies on the edge of a bin."""
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.lognormal(0, 1.2, (1, 120)) * rng.lognormal(0, 0.3, (90, 1))).astype(np.float32)
    x[:n_empty] = 0
    return x * rng.lognormal(0, 0.3, (90, 1)).astype(np.float32) if depth else x


def both(lazily: bool, kind: Any, x: np.ndarray) -> tuple[ad.AnnData, ad.AnnData]:
    adata = ad.AnnData(kind(x), layers={"twice": kind(2 * x)})
    return (lazy(adata) if lazily else adata.copy()), adata.copy()


def dense(x: Any) -> np.ndarray:
    x = x.compute() if isinstance(x, da.Array) else x
    return x.toarray() if sp.issparse(x) else np.asarray(x)


cases = pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
lazily = pytest.mark.parametrize("lazily", [False, True])


@lazily
@cases
@pytest.mark.parametrize("options", [{}, {"counts_per_cell_after": 100, "key_n_counts": "n"}, {"min_counts": 150}])
def test_normalize_per_cell__is_scanpys(lazily: bool, kind: Any, options: dict[str, Any]) -> None:
    import scanpy as sc

    ours, theirs = both(lazily, kind, counts())
    sd.pp.normalize_per_cell(ours, **options)
    sc.pp.normalize_per_cell(theirs, **options)
    np.testing.assert_allclose(dense(ours.X), dense(theirs.X), rtol=1e-5)
    key = options.get("key_n_counts", "n_counts")
    np.testing.assert_array_equal(ours.obs[key], theirs.obs[key])
    assert isinstance(ours.X, da.Array) == lazily


@lazily
def test_normalize_per_cell__layers_are_brought_to_the_sum_that_use_rep_names(lazily: bool) -> None:
    for use_rep, after in (("after", 10.0), ("X", None), (None, None)):
        ours, _ = both(lazily, sp.csr_matrix, counts())
        sd.pp.normalize_per_cell(ours, layers="all", use_rep=use_rep, counts_per_cell_after=after)
        x, layer = dense(ours.X).sum(axis=1), dense(ours.layers["twice"]).sum(axis=1)
        np.testing.assert_allclose(layer, 2 * x if use_rep is None else x, rtol=1e-5)


def test_normalize_per_cell__of_a_matrix_alone() -> None:
    x = counts(0)
    sums = x.sum(axis=1)
    with pytest.raises(ValueError, match="copy=True"):
        sd.pp.normalize_per_cell(x)
    got = sd.pp.normalize_per_cell(counts(3), copy=True, counts_per_cell_after=50)
    assert got.shape == (87, 120)
    assert sd.pp.normalize_per_cell(x, counts_per_cell=sums, counts_per_cell_after=50) is None
    np.testing.assert_allclose(x.sum(axis=1), 50, rtol=1e-5)
    with pytest.warns(FutureWarning, match="normalize_per_cell is deprecated"):
        sd.pp.normalize_per_cell(x, copy=True)


@lazily
@cases
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flavor": "cell_ranger"},
        {"log": False},
        {"subset": False},
        {"min_mean": 0.1, "max_mean": 5, "min_disp": 0.1, "max_disp": 3},
    ],
)
def test_filter_genes_dispersion__is_scanpys(lazily: bool, kind: Any, options: dict[str, Any]) -> None:
    import scanpy as sc

    ours, theirs = both(lazily, kind, counts(depth=True))
    sd.pp.filter_genes_dispersion(ours, **options)
    sc.pp.filter_genes_dispersion(theirs, **options)
    assert list(ours.var_names) == list(theirs.var_names)
    assert list(ours.var.columns) == list(theirs.var.columns)
    for column in theirs.var:
        assert ours.var[column].dtype == theirs.var[column].dtype
        np.testing.assert_allclose(ours.var[column], theirs.var[column], rtol=1e-3, atol=1e-4)
    table = sd.pp.filter_genes_dispersion(kind(counts(depth=True)), **options)
    wanted = sc.pp.filter_genes_dispersion(kind(counts(depth=True)), **options)
    assert table.dtype == wanted.dtype
    np.testing.assert_array_equal(table.gene_subset, wanted.gene_subset)


def test_filter_genes_dispersion__number_of_bins_counts_for_an_anndata_too() -> None:
    import scanpy as sc

    x = counts(depth=True)
    adata = ad.AnnData(x.copy())
    sd.pp.filter_genes_dispersion(adata, n_bins=10, subset=False)
    wanted = sc.pp.filter_genes_dispersion(x, n_bins=10)  # of an AnnData scanpy takes 20 always
    np.testing.assert_array_equal(adata.var["highly_variable"], wanted.gene_subset)


def test_filter_genes_dispersion__keeps_as_many_as_were_asked_for() -> None:
    for flavor in ("seurat", "cell_ranger"):
        ours, _ = both(True, sp.csr_matrix, counts())
        with pytest.warns(UserWarning, match="cutoffs are ignored"):
            sd.pp.filter_genes_dispersion(ours, n_top_genes=20, min_mean=0.1, flavor=flavor)
        assert ours.n_vars == 20
    with pytest.raises(ValueError, match="flavor"):
        sd.pp.filter_genes_dispersion(ours, flavor="seurat_v3")


@lazily
@cases
@pytest.mark.parametrize("log", [True, False])
def test_recipe_weinreb17__is_scanpys(lazily: bool, kind: Any, log: bool) -> None:
    import scanpy as sc

    ours, theirs = both(lazily, kind, counts(0))[0], ad.AnnData(counts(0))
    options: dict[str, Any] = {"n_pcs": 6, "cv_threshold": 0.5, "svd_solver": "arpack", "log": log}
    sd.pp.recipe_weinreb17(ours, **options)
    sc.pp.recipe_weinreb17(theirs, **options)
    assert list(ours.var_names) == list(theirs.var_names)
    np.testing.assert_allclose(dense(ours.X), theirs.X, rtol=1e-4)
    np.testing.assert_allclose(np.abs(ours.obsm["X_pca"]), np.abs(theirs.obsm["X_pca"]), atol=1e-3)
    assert isinstance(ours.X, da.Array) == lazily


@lazily
def test_scrublet_simulate_doublets__pairs_and_counts_are_scanpys(lazily: bool) -> None:
    import scanpy as sc

    ours, theirs = both(lazily, sp.csr_matrix, counts())
    got, wanted = sd.pp.scrublet_simulate_doublets(ours), sc.pp.scrublet_simulate_doublets(theirs)
    assert (got.X != wanted.X).nnz == 0
    np.testing.assert_array_equal(got.obsm["doublet_parents"], wanted.obsm["doublet_parents"])
    np.testing.assert_array_equal(got.obs["n_counts"], np.ravel(wanted.obs["n_counts"]))
    assert got.uns["scrublet"] == wanted.uns["scrublet"]
    fewer = sd.pp.scrublet_simulate_doublets(ours, sim_doublet_ratio=1, synthetic_doublet_umi_subsampling=0.5)
    assert fewer.n_obs == 90 and 0.4 < fewer.X.sum() / (got.X.sum() / 2) < 0.6
