from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.testing import lazy


@pytest.fixture(scope="module")
def _pbmc(data_dir: Path) -> ad.AnnData:
    full = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad")
    adata = ad.AnnData(sp.csr_matrix(full.X[:, :120]), full.obs[["louvain"]], full.var[[]].iloc[:120])
    adata.obsm["X_pca"] = full.obsm["X_pca"]
    adata.obs["half"] = pd.Categorical(np.where(np.arange(full.n_obs) % 2, "one", "other"), ["other", "one"])
    return adata


@pytest.fixture
def pbmc(_pbmc: ad.AnnData) -> ad.AnnData:
    return _pbmc.copy()


def check_same(ours: dict[str, Any], theirs: dict[str, Any], *but: str) -> None:
    assert ours.keys() == theirs.keys()
    for key in ("categories_ordered", "categories_idx_ordered", "groupby", "use_rep", "cor_method", "linkage_method"):
        assert key in but or ours[key] == theirs[key], key
    for key in ("linkage", "correlation_matrix"):
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-5, atol=1e-6)
    assert ours["dendrogram_info"].keys() == theirs["dendrogram_info"].keys()
    np.testing.assert_allclose(ours["dendrogram_info"]["icoord"], theirs["dendrogram_info"]["icoord"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cor_method": "spearman", "linkage_method": "average", "optimal_ordering": True},
        {"cor_method": "kendall", "n_pcs": 10},
        {"use_rep": "X_pca", "groupby": ["louvain", "half"]},
    ],
)
def test_dendrogram__is_scanpys_on_pbmc3k(pbmc: ad.AnnData, options: dict[str, Any]) -> None:
    import scanpy as sc

    theirs = pbmc.copy()
    options = {"groupby": "louvain", **options}
    sc.tl.dendrogram(theirs, **options)
    sd.tl.dendrogram(pbmc, **options)
    (key,) = theirs.uns
    assert list(pbmc.uns) == [key]
    check_same(pbmc.uns[key], theirs.uns[key])


@pytest.mark.parametrize("groupby", ["louvain", ["half", "louvain"]])
def test_dendrogram__of_genes_is_scanpys_of_a_matrix_of_them(pbmc: ad.AnnData, groupby: Any) -> None:
    """Scanpy 1.11 does not look at the names: it always takes all genes."""
    import scanpy as sc

    genes = list(pbmc.var_names[np.argsort(np.asarray(pbmc.X.mean(axis=0)).ravel())[-12:]])
    few = pbmc[:, genes].copy()
    theirs = sc.tl.dendrogram(few, groupby, var_names=genes, use_raw=False, inplace=False)
    blocks = lazy(pbmc, 5)
    for adata in (pbmc, blocks):
        ours = sd.tl.dendrogram(adata, groupby, var_names=genes, inplace=False)
        assert ours is not None
        check_same(ours, theirs)
    assert not pbmc.uns
    pbmc.raw = few
    from_raw = sd.tl.dendrogram(pbmc, groupby, var_names=genes, inplace=False)
    assert from_raw is not None
    check_same(from_raw, theirs)
    of_x = sd.tl.dendrogram(few, groupby, use_rep="X", inplace=False)
    assert of_x is not None
    np.testing.assert_allclose(of_x["correlation_matrix"].sum(), theirs["correlation_matrix"].sum(), rtol=1e-5)


def test_dendrogram__writes_and_reads_back(pbmc: ad.AnnData, tmp_path: Path) -> None:
    sd.tl.dendrogram(pbmc, "louvain", key_added="tree", use_rep="X_pca")
    pbmc.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad").uns["tree"]
    assert list(back["categories_ordered"]) == pbmc.uns["tree"]["categories_ordered"]


def test_dendrogram__missing_and_wrong_things_are_named(pbmc: ad.AnnData) -> None:
    pbmc.obs["one"] = "same"
    pbmc.obs["number"] = 0.5
    pbmc.obs["empty"] = pbmc.obs["louvain"].cat.add_categories("none of them")
    gene = pbmc.var_names[0]
    for found, options in {
        "no column 'kind'": {"groupby": "kind"},
        "has 1 group": {"groupby": "one"},
        "holds numbers": {"groupby": "number"},
        "without cells: none of them": {"groupby": "empty"},
        "found no groupby": {"groupby": []},
        "cor_method='cosine'": {"cor_method": "cosine"},
        "linkage_method='nearest'": {"linkage_method": "nearest"},
        "together with use_rep": {"var_names": [gene], "use_rep": "X_pca"},
        "use_raw=True without var_names": {"use_raw": True},
        "not among the genes: NOBODY": {"var_names": ["NOBODY", gene]},
        "no correlation": {"var_names": [gene]},
        "no 'X_umap' in adata.obsm": {"use_rep": "X_umap"},
    }.items():
        with pytest.raises(InputError, match=found):
            sd.tl.dendrogram(pbmc, **{"groupby": "louvain", **options})
    with pytest.raises(MissingKeyError, match=r"adata.raw is not set"):
        sd.tl.dendrogram(pbmc, "louvain", var_names=[gene], use_raw=True)
    assert not pbmc.uns
