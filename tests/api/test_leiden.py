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

FLAVORS = ("leidenalg", "igraph")  # those of scanpy


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


@pytest.mark.parametrize("flavor", [*FLAVORS, "sc_dask"])
def test_leiden__several_resolutions_have_a_key_each(tmp_path: Path, flavor: str) -> None:
    adata = grouped()
    sd.tl.leiden(adata, [0.5, 8], flavor=flavor, random_state=3)
    one = adata.copy()
    sd.tl.leiden(one, 8, flavor=flavor, random_state=3)
    assert "leiden" not in adata.obs
    assert adata.obs["leiden_8"].tolist() == one.obs["leiden"].tolist()
    assert adata.obs["leiden_0.5"].nunique() < adata.obs["leiden_8"].nunique()
    assert [adata.uns[f"leiden_{r}"]["params"]["resolution"] for r in ("0.5", "8")] == [0.5, 8]
    assert adata.uns["leiden_0.5"]["modularity"] != adata.uns["leiden_8"]["modularity"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert back.uns["leiden_8"]["params"]["flavor"] == flavor


@pytest.mark.parametrize("resolution", [[], [1, 1], [-1], ["1"], [None, 1]])
def test_leiden__bad_resolutions_are_named(resolution: Any) -> None:
    with pytest.raises(InputError, match="found resolution="):
        sd.tl.leiden(grouped(), resolution)


def test_leiden__our_own_is_as_good_as_igraphs_on_real_cells(pbmc3k_graph: ad.AnnData) -> None:
    found = {}
    for flavor in ("igraph", "sc_dask"):
        quality, labels = [], []
        for seed in range(5):
            adata = pbmc3k_graph.copy()
            sd.tl.leiden(adata, flavor=flavor, random_state=seed)
            quality.append(adata.uns["leiden"]["modularity"])
            labels.append(adata.obs["leiden"])
        found[flavor] = np.median(quality), labels
    assert found["sc_dask"][0] > found["igraph"][0] - 0.001
    between = [sd.metrics.ari(a, b) for a in found["sc_dask"][1] for b in found["igraph"][1]]
    within = [sd.metrics.ari(a, b) for a in found["igraph"][1] for b in found["igraph"][1] if a is not b]
    assert np.median(between) > np.median(within) - 0.05


def test_leiden__our_own_reads_a_directed_graph_both_ways() -> None:
    adata = grouped()
    sd.tl.leiden(adata, flavor="sc_dask", obsp="distances", use_weights=False)
    assert sd.metrics.ari(adata.obs["leiden"], adata.obs["truth"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directed": True}, "directed=True with flavor='sc_dask'"),
        ({"partition_type": int}, "partition_type with flavor='sc_dask'"),
        ({"beta": 1}, "'beta'"),
        ({"initial_membership": [1, 2]}, r"initial_membership of shape \(2,\)"),
    ],
)
def test_leiden__options_that_ours_does_not_take_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sd.tl.leiden(grouped(), flavor="sc_dask", **options)
