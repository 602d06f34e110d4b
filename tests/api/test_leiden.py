from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError

FLAVORS = ("leidenalg", "igraph")


def grouped() -> ad.AnnData:
    """120 cells of 4 groups with their graph."""
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(4, 6))
    adata = ad.AnnData((np.repeat(centres, 30, axis=0) + rng.normal(size=(120, 6))).astype(np.float32))
    adata.obs["truth"] = pd.Categorical(np.repeat(list("abcd"), 30))
    sd.pp.neighbors(adata, 10)
    return adata


@pytest.fixture(scope="module")
def pbmc3k_graph(data_dir: Path) -> ad.AnnData:
    """The published PBMC3k with scanpy's own graph."""
    import scanpy as sc

    full = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad")
    adata = ad.AnnData(full.X[:, :60], obs=full.obs[["louvain"]], obsm={"X_pca": full.obsm["X_pca"]})
    sc.pp.neighbors(adata)
    return adata


def scanpy_leiden(adata: ad.AnnData, **options: Any) -> None:
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the flavor that will be the default
        sc.tl.leiden(adata, **options)


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("options", [{"random_state": s} for s in range(3)] + [{"resolution": 0.5, "n_iterations": 2}])
def test_leiden__labels_are_scanpys(pbmc3k_graph: ad.AnnData, flavor: str, options: dict[str, Any]) -> None:
    ours, theirs = pbmc3k_graph.copy(), pbmc3k_graph.copy()
    sd.tl.leiden(ours, flavor=flavor, **options)
    scanpy_leiden(theirs, flavor=flavor, **options)
    pd.testing.assert_series_equal(ours.obs["leiden"], theirs.obs["leiden"])
    assert theirs.uns["leiden"]["params"].items() <= ours.uns["leiden"]["params"].items()


@pytest.mark.parametrize("options", [{"directed": False}, {"use_weights": False}, {"obsp": "distances"}])
def test_leiden__readings_of_the_graph_are_scanpys(pbmc3k_graph: ad.AnnData, options: dict[str, Any]) -> None:
    ours, theirs = pbmc3k_graph.copy(), pbmc3k_graph.copy()
    sd.tl.leiden(ours, n_iterations=2, **options)
    scanpy_leiden(theirs, n_iterations=2, **options)
    pd.testing.assert_series_equal(ours.obs["leiden"], theirs.obs["leiden"])


def test_leiden__restricted_labels_are_scanpys(pbmc3k_graph: ad.AnnData) -> None:
    ours, theirs = pbmc3k_graph.copy(), pbmc3k_graph.copy()
    chosen = ("louvain", ["CD4 T cells", "CD8 T cells"])
    sd.tl.leiden(ours, 0.4, restrict_to=chosen, flavor="igraph")
    scanpy_leiden(theirs, resolution=0.4, restrict_to=chosen, flavor="igraph")
    pd.testing.assert_series_equal(ours.obs["leiden_R"], theirs.obs["leiden_R"])
    assert "CD4 T cells-CD8 T cells,0" in ours.obs["leiden_R"].cat.categories


def test_leiden__modularity_is_igraphs(pbmc3k_graph: ad.AnnData) -> None:
    import igraph

    adata = pbmc3k_graph.copy()
    sd.tl.leiden(adata, flavor="igraph", n_iterations=2)
    upper = sp.triu(adata.obsp["connectivities"]).tocoo()
    graph = igraph.Graph(n=adata.n_obs, edges=np.column_stack([upper.row, upper.col]))
    theirs = graph.modularity(adata.obs["leiden"].astype(int).tolist(), weights=upper.data.tolist())
    assert adata.uns["leiden"]["modularity"] == pytest.approx(theirs, abs=1e-6)


def test_leiden__a_second_key_keeps_the_first(tmp_path: Path) -> None:
    adata = grouped()
    sd.tl.leiden(adata, 1, key_added="coarse")
    first = adata.uns["coarse"]["modularity"], adata.obs["coarse"].copy()
    sd.tl.leiden(adata, 8, key_added="fine", flavor="igraph", random_state=3)
    assert (adata.uns["coarse"]["modularity"], adata.uns["coarse"]["params"]["resolution"]) == (first[0], 1)
    pd.testing.assert_series_equal(adata.obs["coarse"], first[1])
    assert adata.obs["fine"].nunique() > adata.obs["coarse"].nunique() == 4
    adata.write_h5ad(tmp_path / "a.h5ad")
    params = ad.read_h5ad(tmp_path / "a.h5ad").uns["fine"]["params"]
    assert (params["flavor"], params["random_state"], set(params["versions"])) == ("igraph", 3, {"igraph"})


def test_leiden__categories_are_in_natural_order() -> None:
    adata = grouped()
    sd.tl.leiden(adata, 30)
    labels = adata.obs["leiden"].cat.categories
    assert len(labels) > 10
    assert list(labels) == [str(i) for i in range(len(labels))]


def test_leiden__graph_may_be_given_by_key_or_value() -> None:
    adata = grouped()
    sd.pp.neighbors(adata, 10, key_added="same")
    labels = []
    for options in ({}, {"neighbors_key": "same"}, {"obsp": "same_connectivities"}):
        sd.tl.leiden(adata, **options)
        labels.append(adata.obs["leiden"].astype(str).tolist())
    out = sd.tl.leiden(adata, adjacency=adata.obsp["connectivities"], key_added="given", copy=True)
    assert out is not None and "given" not in adata.obs
    labels.append(out.obs["given"].astype(str).tolist())
    assert all(x == labels[0] for x in labels)


def test_leiden__missing_things_are_named() -> None:
    adata = grouped()
    with pytest.raises(MissingKeyError, match=r"no 'other' in adata.uns.*pp.neighbors"):
        sd.tl.leiden(adata, neighbors_key="other")
    with pytest.raises(MissingKeyError, match="no column 'cell_type'"):
        sd.tl.leiden(adata, restrict_to=("cell_type", ["a"]))
    with pytest.raises(MissingKeyError, match="no category .'z'. in obs.'truth'.; expected one or more of: a, b, c, d"):
        sd.tl.leiden(adata, restrict_to=("truth", ["a", "z"]))
    with pytest.raises(InputError, match="'1' instead of 1"):
        sd.tl.leiden(adata, restrict_to=("truth", [1]))  # type: ignore[list-item]
    with pytest.raises(InputError, match="adjacency together with"):
        sd.tl.leiden(adata, adjacency=adata.obsp["connectivities"], obsp="connectivities")
    with pytest.raises(InputError, match=r"shape \(3, 3\)"):
        sd.tl.leiden(adata, adjacency=sp.eye(3, format="csr"))
    with pytest.raises(InputError, match="'beta_'"):
        sd.tl.leiden(adata, flavor="igraph", beta_=1)
    assert "leiden" not in adata.obs and "leiden" not in adata.uns
