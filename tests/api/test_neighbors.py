from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from packaging.version import Version

import sc_dask as sd
from sc_dask.errors import InputError, MemoryBudgetError, MissingKeyError, ScDaskWarning
from sc_dask.testing import lazy, source_of
from tests.laws.registry import logged
from tests.stack import SCANPY, UMAP_WEIGHTS


def embedded(n_obs: int = 120, n_vars: int = 80) -> ad.AnnData:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.poisson(1.0, size=(n_obs, n_vars)).astype(np.float32))
    centres = 5 * rng.normal(size=(3, 10))
    adata.obsm["X_pca"] = (centres[np.arange(n_obs) % 3] + rng.normal(size=(n_obs, 10))).astype(np.float32)
    return adata


@pytest.fixture(scope="module")
def pbmc3k_pca(data_dir: Path) -> ad.AnnData:
    """The published PBMC3k: 2,638 cells with 50 principal components."""
    full = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad")
    return ad.AnnData(full.X[:, :60], obs=full.obs[["louvain"]], obsm={"X_pca": full.obsm["X_pca"]})


@pytest.mark.parametrize(("method", "n_neighbors", "n_pcs"), [("umap", 15, None), ("umap", 10, 40), ("gauss", 15, 30)])
def test_neighbors__equals_scanpy(pbmc3k_pca: ad.AnnData, method: str, n_neighbors: int, n_pcs: int | None) -> None:
    import scanpy as sc

    ours, theirs = pbmc3k_pca.copy(), pbmc3k_pca.copy()
    sd.pp.neighbors(ours, n_neighbors, n_pcs, method=method)
    sc.pp.neighbors(theirs, n_neighbors, n_pcs, method=method)
    d, e = ours.obsp["distances"], theirs.obsp["distances"].sorted_indices()  # scanpy's gauss sorts them
    np.testing.assert_array_equal(d.indptr, e.indptr)
    assert (np.diff(d.data.reshape(ours.n_obs, -1)) >= 0).all()
    d = d.sorted_indices()
    assert (d.indices == e.indices).mean() > 0.999  # but for ties
    assert abs(d - e).max() < 1e-5
    assert abs(ours.obsp["connectivities"] - theirs.obsp["connectivities"]).max() < UMAP_WEIGHTS
    params = dict(ours.uns["neighbors"]["params"])
    assert (params.pop("recall"), params.pop("knn_method")) == (1.0, "brute")
    assert params == theirs.uns["neighbors"]["params"]
    assert {k: v for k, v in ours.uns["neighbors"].items() if k != "params"} == {
        k: v for k, v in theirs.uns["neighbors"].items() if k != "params"
    }


def test_neighbors__recall_of_pynndescent_is_stored(data_dir: Path) -> None:
    import scanpy as sc

    kang = ad.read_h5ad(data_dir / "kang" / "kang_12k_1287genes_counts.h5ad")
    sc.pp.normalize_total(kang)
    sc.pp.log1p(kang)
    sc.pp.pca(kang, n_comps=30)
    sd.pp.neighbors(kang, transformer="pynndescent", key_added="found")
    sd.pp.neighbors(kang, key_added="true")
    found, true = (kang.obsp[f"{key}_distances"] for key in ("found", "true"))
    overlap = (found.sign() + (true > 0)).power(1)
    share = (overlap.data == 2).sum() / true.nnz
    params = kang.uns["found"]["params"]
    assert params["knn_method"] == "pynndescent"
    assert params["recall"] >= 0.95 and share >= 0.94
    assert params["recall"] == pytest.approx(share, abs=0.02)


def test_neighbors__writes_its_slots_and_a_second_key_beside_them(tmp_path: Path) -> None:
    adata = embedded()
    sd.pp.neighbors(adata, 8)
    first = adata.obsp["connectivities"].copy()
    sd.pp.neighbors(adata, 5, 4, use_rep="X_pca", metric="minkowski", metric_kwds={"p": 3}, key_added="few")
    assert set(adata.obsp) == {"distances", "connectivities", "few_distances", "few_connectivities"}
    assert (adata.obsp["connectivities"] != first).nnz == 0
    assert adata.uns["few"] == {
        "connectivities_key": "few_connectivities",
        "distances_key": "few_distances",
        "params": {
            "n_neighbors": 5,
            "method": "umap",
            "random_state": 0,
            "metric": "minkowski",
            "metric_kwds": {"p": 3},
            "use_rep": "X_pca",
            "n_pcs": 4,
            "recall": 1.0,
            "knn_method": "brute",
        },
    }
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["few"]["params"]["recall"] == 1.0


def test_neighbors__representation_is_chosen_and_named_when_missing() -> None:
    adata = embedded()
    few = ad.AnnData(adata.X[:, :20])
    sd.pp.neighbors(few, 6)
    sd.pp.neighbors(few, 6, use_rep="X", key_added="x")
    assert (few.obsp["connectivities"] != few.obsp["x_connectivities"]).nnz == 0
    with pytest.raises(MissingKeyError, match="'X_scvi'"):
        sd.pp.neighbors(adata, use_rep="X_scvi")
    with pytest.raises(InputError, match="n_pcs=11"):
        sd.pp.neighbors(adata, n_pcs=11)


def test_neighbors__lazy_x_equals_x_in_memory() -> None:
    import dask.array as da

    few = ad.AnnData(embedded().X[:, :20])
    lazy = ad.AnnData(da.from_array(few.X, chunks=(50, -1)))
    sd.pp.neighbors(few, 6)
    sd.pp.neighbors(lazy, 6)
    assert (few.obsp["connectivities"] != lazy.obsp["connectivities"]).nnz == 0


def test_neighbors__copy_leaves_the_input_alone() -> None:
    adata = embedded()
    out = sd.pp.neighbors(adata, 5, copy=True)
    assert out is not None and "connectivities" in out.obsp
    assert not adata.obsp and not adata.uns


def test_neighbors__few_cells_are_warned_of() -> None:
    adata = embedded(9)
    with pytest.warns(ScDaskWarning, match="9 cells"):
        sd.pp.neighbors(adata)
    assert adata.uns["neighbors"]["params"]["n_neighbors"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"knn": False}, "knn=False"),
        ({"method": "cosine"}, "method='cosine'"),
        ({"transformer": "rapids"}, "transformer='rapids'"),
        ({"transformer": object}, "transformer="),
        ({"metric": "haming"}, "metric='haming'"),
        ({"n_neighbors": 1}, "n_neighbors=1"),
    ],
)
def test_neighbors__bad_options_are_named_and_nothing_is_written(options: dict[str, object], message: str) -> None:
    adata = embedded()
    with pytest.raises(InputError, match=message):
        sd.pp.neighbors(adata, **options)
    assert not adata.obsp and not adata.uns


@pytest.mark.parametrize(
    "options",
    [{"n_neighbors": 1}, {"metric": "haming"}, {"min_recall": 2}, {"knn": False, "method": "gauss", "n_neighbors": 99}],
)
def test_neighbors__bad_options_are_found_before_pca_is_run(options: dict[str, Any]) -> None:
    adata = lazy(logged())
    with pytest.raises(InputError, match=next(k for k in reversed(options))):
        sd.pp.neighbors(adata, **options)
    assert source_of(adata).rows_read == 0 and "X_pca" not in adata.obsm


def _points() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(150, 12)) + 3 * (np.arange(150) % 3)[:, None]).astype(np.float32)


def _greatest(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.abs(x - y).max())


def _same_graph(ours: ad.AnnData, theirs: ad.AnnData, atol: float = 1e-4) -> None:
    for key in ("distances", "connectivities"):
        a, b = (x.obsp[key] for x in (ours, theirs))
        assert isinstance(a, np.ndarray) == isinstance(b, np.ndarray)
        np.testing.assert_allclose(*(x if isinstance(x, np.ndarray) else x.toarray() for x in (a, b)), atol=atol)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "gauss", "knn": False},
        {"metric": _greatest},
        {"metric": "cityblock"},
        {"metric": "braycurtis"},
        {"transformer": "KNeighborsTransformer"},
    ],
    ids=["all pairs", "function", "cityblock", "braycurtis", "transformer"],
)
def test_neighbors__all_pairs_functions_of_rows_and_search_objects_equal_scanpy(options: dict[str, Any]) -> None:
    import scanpy as sc
    from sklearn.neighbors import KNeighborsTransformer

    if "transformer" in options:
        options = {"transformer": KNeighborsTransformer(n_neighbors=10, metric="manhattan", algorithm="kd_tree")}
    ours, theirs = ad.AnnData(_points()), ad.AnnData(_points())
    sd.pp.neighbors(ours, 10, **options)
    sc.pp.neighbors(theirs, 10, **options)
    _same_graph(ours, theirs)
    assert sd.get.graph(ours).shape == (150, 150)
    sd.tl.leiden(ours)


@pytest.mark.parametrize("method", ["umap", "gauss", "jaccard"])
@pytest.mark.parametrize("sparse", [False, True])
def test_neighbors__graph_of_given_distances(method: str, sparse: bool) -> None:
    import scanpy as sc

    full = np.linalg.norm(_points()[:, None].astype(np.float64) - _points(), axis=2)
    given: Any = full
    if sparse:
        nearest = ad.AnnData(_points())
        sd.pp.neighbors(nearest, 20)
        given = nearest.obsp["distances"]
    ours, theirs = ad.AnnData(_points()), ad.AnnData(_points())
    sd.pp.neighbors(ours, 20, distances=given, method=method)
    if Version("1.12") <= SCANPY:
        sc.pp.neighbors(theirs, 20, distances=given, method=method)
        _same_graph(ours, theirs)
    elif method == "umap":  # older ones search the same neighbours themselves
        sc.pp.neighbors(theirs, 20)
        a, b = (x.obsp["connectivities"].toarray() for x in (ours, theirs))
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert ours.uns["neighbors"]["params"]["knn_method"] == "given"
    with pytest.warns(UserWarning, match="ignored if `distances` is given: n_pcs"):
        sd.pp.neighbors(ours, 20, distances=given, n_pcs=5)
    with pytest.raises(InputError, match="at least n_neighbors - 1 = 29" if sparse else "shape"):
        sd.pp.neighbors(ours, 30, distances=given if sparse else given[:20])


def test_neighbors__without_components_of_many_genes_runs_pca_and_says_so() -> None:
    import scanpy as sc

    ours, theirs = embedded(), embedded()
    for adata in (ours, theirs):
        del adata.obsm["X_pca"]
    with pytest.warns(UserWarning, match="no X_pca, and X has 80 dimensions"):
        sd.pp.neighbors(ours, 8, 6)
    with pytest.warns(UserWarning):
        sc.pp.neighbors(theirs, 8, 6)
    assert ours.obsm["X_pca"].shape == (120, 6)
    _same_graph(ours, theirs, atol=1e-2)


def test_neighbors__all_pairs_that_do_not_fit_and_options_that_exclude_each_other_are_refused() -> None:
    from sc_dask.graph.dense import check

    with pytest.raises(MemoryBudgetError, match="all pairs of 5,000,000 cells"):
        check(5_000_000, 15)
    with pytest.raises(ValueError, match="knn=False"):
        sd.pp.neighbors(embedded(), knn=False)
    with pytest.raises(InputError, match="fit_transform"):
        sd.pp.neighbors(embedded(), transformer=3)
