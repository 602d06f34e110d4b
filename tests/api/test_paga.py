from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.tl.paga import first_coordinates


def groups_in_a_row(n: int = 300) -> ad.AnnData:
    rng = np.random.default_rng(0)
    along = np.sort(rng.random(n) * 5)
    x = rng.normal(scale=0.3, size=(n, 4))
    x[:, 0] += along
    adata = ad.AnnData(x.astype(np.float32), obsm={"X_pca": x.astype(np.float32)})
    adata.obs["part"] = pd.Categorical(np.array(list("badce"))[along.astype(int)])
    return adata


def check_same(ours: ad.AnnData, theirs: ad.AnnData, keys: tuple[str, ...]) -> None:
    for key in keys:
        a, b = ours.uns["paga"][key], theirs.uns["paga"][key]
        assert a.nnz == b.nnz > 0 and a.dtype == b.dtype
        np.testing.assert_allclose(a.toarray(), b.toarray(), rtol=1e-12)


@pytest.mark.parametrize("model", ["v1.2", "v1.0"])
def test_paga__is_scanpys_on_paul15(paul15: ad.AnnData, model: Any) -> None:
    import scanpy as sc

    theirs = paul15.copy()
    sc.tl.paga(theirs, "group", model=model)
    sd.tl.paga(paul15, "group", model=model)
    check_same(paul15, theirs, ("connectivities", "connectivities_tree"))
    np.testing.assert_array_equal(paul15.uns["group_sizes"], theirs.uns["group_sizes"])
    assert paul15.uns["paga"]["groups"] == "group"
    if model == "v1.2":
        sc.pl.paga(theirs, plot=False)  # leaves positions
        from scanpy.tools._utils import get_init_pos_from_paga

        np.testing.assert_allclose(first_coordinates(paul15, 3), get_init_pos_from_paga(theirs, random_state=3))
        np.testing.assert_allclose(first_coordinates(theirs, 3), get_init_pos_from_paga(theirs, random_state=3))


def test_paga__is_scanpys_on_pbmc3k(data_dir: Path) -> None:
    import scanpy as sc

    full = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad")
    ours = ad.AnnData(full.X[:, :2], obs=full.obs[["louvain"]], obsm={"X_pca": full.obsm["X_pca"]})
    sd.pp.neighbors(ours, 10, use_rep="X_pca")
    theirs = ours.copy()
    sc.tl.paga(theirs)
    sd.tl.paga(ours)
    check_same(ours, theirs, ("connectivities", "connectivities_tree"))


def test_paga__velocity_is_scanpys_and_stands_beside_connectivities() -> None:
    import scanpy as sc

    adata = groups_in_a_row()
    sd.pp.neighbors(adata, 10)
    velocity = sp.random(300, 300, 0.05, "csr", random_state=0)
    velocity.data[:100] = 0  # stored, but no edge
    adata.uns["velocity_graph"] = velocity.copy()
    sd.tl.paga(adata, "part")
    theirs = adata.copy()
    sc.tl.paga(theirs, "part", use_rna_velocity=True)
    sd.tl.paga(adata, "part", use_rna_velocity=True)
    check_same(adata, theirs, ("transitions_confidence", "connectivities"))
    assert adata.uns["velocity_graph"].nnz == velocity.nnz


def test_paga__positions_of_an_earlier_result_go(tmp_path: Path) -> None:
    adata = groups_in_a_row()
    sd.pp.neighbors(adata, 10)
    sd.tl.paga(adata, "part")
    adata.uns["paga"]["pos"] = np.zeros((5, 2))
    assert (np.unique(first_coordinates(adata, 0)) == 0).all()
    sd.tl.paga(adata, "part")
    assert "pos" not in adata.uns["paga"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(first_coordinates(back, 0), first_coordinates(adata, 0))


def test_paga__a_landmark_graph_counts_the_same_edges(tmp_path: Path) -> None:
    adata = groups_in_a_row(1500)
    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
        for model in ("v1.2", "v1.0"):
            sd.pp.neighbors(adata, 10, use_rep="X_pca")
            sd.tl.paga(adata, "part", model=model)
            plain = adata.uns["paga"]["connectivities"].toarray()
            sd.pp.neighbors(adata, 10, use_rep="X_pca", compact=True)
            sd.tl.paga(adata, "part", model=model)
            np.testing.assert_allclose(adata.uns["paga"]["connectivities"].toarray(), plain, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("method", ["umap", "umap-learn"])
def test_umap__groups_stay_where_paga_has_them(method: str) -> None:
    adata = groups_in_a_row()
    sd.pp.neighbors(adata, 10, use_rep="X_pca")
    sd.tl.paga(adata, "part")
    sd.tl.umap(adata, init_pos="paga", maxiter=1, alpha=1e-6, method=method)
    start = first_coordinates(adata, 0)
    correlation = np.corrcoef(adata.obsm["X_umap"].T, start.T)[:2, 2:].diagonal()
    assert (correlation > 0.999).all()
    with pytest.raises(InputError, match=r"init_pos of shape \(300, 2\)"):
        sd.tl.umap(adata, init_pos="paga", n_components=3)


def test_paga__missing_and_wrong_things_are_named() -> None:
    adata = groups_in_a_row()
    with pytest.raises(MissingKeyError, match="no 'neighbors' in adata.uns.*pp.neighbors"):
        sd.tl.paga(adata, "part")
    sd.pp.neighbors(adata, 10)
    adata.obs["one"] = "same"
    adata.obs["number"] = 0.5
    adata.obs["gaps"] = adata.obs["part"].where(np.arange(300) > 4)
    adata.obs["empty"] = adata.obs["part"].cat.add_categories("z")
    for found, options in {
        r"no column 'parts'": {"groups": "parts"},
        r"neither 'leiden' nor 'louvain'.*tl.leiden": {},
        r"has 1 group.*at least 2": {"groups": "one"},
        r"holds numbers of type float64": {"groups": "number"},
        r"5 missing values": {"groups": "gaps"},
        r"without cells: z.*remove_unused": {"groups": "empty"},
        r"model='v2'": {"groups": "part", "model": "v2"},
        r"no 'velocity_graph'": {"groups": "part", "use_rna_velocity": True},
        r"no 'other' in adata.uns": {"groups": "part", "neighbors_key": "other"},
    }.items():
        with pytest.raises(InputError, match=found):
            sd.tl.paga(adata, **options)
    adata.uns["velocity_graph"] = np.eye(3)
    with pytest.raises(InputError, match=r"velocity_graph of type ndarray and shape \(3, 3\)"):
        sd.tl.paga(adata, "part", use_rna_velocity=True)
    assert "paga" not in adata.uns
    sd.tl.paga(adata, "part")
    adata.obs["part"] = adata.obs["part"].cat.rename_categories({"e": "f"}).where(adata.obs["part"] != "a", "b")
    adata.obs["part"] = adata.obs["part"].cat.remove_unused_categories()
    with pytest.raises(InputError, match=r"of 5 groups, obs\['part'\] has 4"):
        sd.tl.umap(adata, init_pos="paga")


def test_paga__takes_the_arrays_of_one_number_of_older_scanpy() -> None:
    adata = groups_in_a_row()
    sd.pp.neighbors(adata, use_rep="X_pca")
    expected = sd.tl.paga(adata, "part", copy=True)
    adata.uns["neighbors"]["params"]["n_neighbors"] = np.array([adata.uns["neighbors"]["params"]["n_neighbors"]])
    sd.tl.paga(adata, "part")
    assert expected is not None
    check_same(adata, expected, ("connectivities", "connectivities_tree"))
