"""Every function that groups cells by a column of obs follows the rules of groups.py, and scanpy's where it has any."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError

N = 90
KINDS = ["text", "category", "unused category", "object", "pandas text"]


@functools.cache
def graph() -> ad.AnnData:
    rng = np.random.default_rng(0)
    of = np.arange(N) % 3
    x = np.log1p(rng.poisson(1 + 3 * (of[:, None] == np.arange(60) % 3))).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(x))
    adata.obsm["X_pca"] = adata.obsm["X_umap"] = rng.normal(size=(N, 4)) + of[:, None]
    sd.pp.neighbors(adata, 10)
    return adata


def cells(kind: str = "text", missing: tuple[int, ...] = ()) -> ad.AnnData:
    """Cells of the types c10, b and c2 of equal numbers, in a column of this type."""
    adata = graph().copy()
    values: Any = np.array(["c10", "b", "c2"], object)[np.arange(N) % 3]
    values[list(missing)] = None
    if kind in ("category", "unused category"):
        unused = ["zz"] if kind == "unused category" else []
        values = pd.Categorical(values, categories=["b", "c2", "c10", *unused])
    elif kind == "pandas text":
        values = pd.array(values, dtype="string")
    elif kind == "text" and not missing:
        values = values.astype(str)
    adata.obs["kind"] = pd.Series(values, index=adata.obs_names)
    return adata


def table(adata: ad.AnnData) -> dict[str, Any]:
    return {g: np.asarray(v) for g, v in sd.get.rank_genes_groups_df(adata).groupby("group", observed=True)["scores"]}


def ranked(adata: ad.AnnData) -> Any:
    sd.tl.rank_genes_groups(adata, "kind")
    return table(adata)


def filtered(adata: ad.AnnData) -> Any:
    sd.tl.rank_genes_groups(adata, "kind")
    sd.tl.filter_rank_genes_groups(adata, min_fold_change=0.2)
    return {g: adata.uns["rank_genes_groups_filtered"]["names"][g] for g in ("b", "c2", "c10")}


def variable(adata: ad.AnnData) -> Any:
    return {c: v.to_numpy() for c, v in sd.pp.highly_variable_genes(adata, batch_key="kind", inplace=False).items()}


def combat(adata: ad.AnnData) -> Any:
    return {"x": sd.pp.combat(adata, "kind", inplace=False)}


def covariate(adata: ad.AnnData) -> Any:
    adata.obs["half"] = ["x"] * (N // 2) + ["y"] * (N - N // 2)
    return {"x": sd.pp.combat(adata, "half", covariates=["kind"], inplace=False)}


def regressed(adata: ad.AnnData) -> Any:
    return {"x": sd.pp.regress_out(adata, "kind", copy=True).X}


def doublets(adata: ad.AnnData) -> Any:
    counts = ad.AnnData(sp.csr_matrix(np.random.default_rng(1).poisson(1.0, (N, 60)).astype(np.float32)), adata.obs)
    sd.pp.scrublet(counts, batch_key="kind", n_prin_comps=5, threshold=0.3)
    return {"scores": counts.obs["doublet_score"].to_numpy()} | {
        b: counts.uns["scrublet"]["batches"][b]["doublet_scores_sim"] for b in ("b", "c2", "c10")
    }


def harmony(adata: ad.AnnData) -> Any:
    sd.pp.harmony_integrate(adata, "kind", max_iter_harmony=2, theta=[0, 1, 2])
    return {"x": adata.obsm["X_pca_harmony"].round(4)}


def balanced(adata: ad.AnnData) -> Any:
    sd.pp.bbknn(adata, batch_key="kind")
    return {"graph": adata.obsp["connectivities"].toarray()}


def tree(adata: ad.AnnData) -> Any:
    sd.tl.dendrogram(adata, "kind")
    result = adata.uns["dendrogram_kind"]
    return {"order": np.asarray(result["categories_ordered"]), "correlation": result["correlation_matrix"]}


def tree_of_two(adata: ad.AnnData) -> Any:
    adata.obs["half"] = ["x"] * (N // 2) + ["y"] * (N - N // 2)
    sd.tl.dendrogram(adata, ["half", "kind"])
    return {"order": np.asarray(adata.uns["dendrogram_half_kind"]["categories_ordered"])}


def abstracted(adata: ad.AnnData) -> Any:
    sd.tl.paga(adata, "kind")
    return {"graph": adata.uns["paga"]["connectivities"].toarray(), "sizes": adata.uns["kind_sizes"]}


def density(adata: ad.AnnData) -> Any:
    sd.tl.embedding_density(adata, groupby="kind")
    return {"density": adata.obs["umap_density_kind"].to_numpy()}


def sums(adata: ad.AnnData) -> Any:
    found = sd.get.aggregate(adata, "kind", "sum")
    return {n: found.layers["sum"][i] for i, n in enumerate(found.obs_names)}


def ingested(adata: ad.AnnData) -> Any:
    new = ad.AnnData(adata.X, obsm={"X_pca": adata.obsm["X_pca"]})
    reference = adata.copy()
    reference.varm["PCs"] = np.ones((60, 4))
    reference.uns["pca"] = {"params": {"zero_center": True}}
    sd.tl.ingest(new, reference, obs="kind", embedding_method=())
    return {"kind": np.asarray(new.obs["kind"]).astype(str)}


def transferred(adata: ad.AnnData) -> Any:
    new = ad.AnnData(adata.X, obsm={"X_pca": adata.obsm["X_pca"]})
    sd.tl.transfer_labels(new, adata, "kind")
    return {"kind": np.asarray(new.obs["kind"]).astype(str), "not": new.obs["kind_uncertainty"].to_numpy()}


def trained(adata: ad.AnnData) -> Any:
    model = sd.tl.train_annotation(adata, "kind", check_expression=False, max_iter=20)
    return dict(zip(model.classes.tolist(), model.coef, strict=True))


def voted(adata: ad.AnnData) -> Any:
    adata.obs["label"] = ["x", "y"] * (N // 2)
    model = sd.tl.train_annotation(adata, "label", check_expression=False, max_iter=20)
    sd.tl.annotate(adata, model, majority_voting=True, over_clustering="kind", check_expression=False)
    return {
        "vote": np.asarray(adata.obs["majority_voting"]),
        "of": np.asarray(adata.obs["over_clustering"]).astype(str),
    }


def restricted(adata: ad.AnnData) -> Any:
    sd.tl.leiden(adata, restrict_to=("kind", ["c10", "b"]), random_state=1)
    return {"leiden": np.asarray(adata.obs["leiden_R"]).astype(str)}


def nmi(adata: ad.AnnData) -> Any:
    return {"nmi": np.asarray(sd.metrics.nmi(adata.obs["kind"], np.arange(N) % 2))}


def check(found: dict[str, Any], expected: dict[str, Any], **tolerance: float) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[name], values, **tolerance)
        else:
            np.testing.assert_array_equal(found[name], values)


Verb = Callable[[ad.AnnData], dict[str, Any]]
REFUSE: list[Verb] = [
    variable, combat, covariate, regressed, doublets, harmony, balanced, tree_of_two, abstracted, voted
]  # fmt: skip
LEAVE_OUT: list[Verb] = [tree, density, trained, ingested, transferred]
OWN_GROUP: list[Verb] = [ranked, filtered, restricted, nmi]
REFUSES_UNUSED = (tree, tree_of_two, abstracted, density)  # categories without cells: results go by their position


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", [*REFUSE, *LEAVE_OUT, *OWN_GROUP], ids=lambda f: f.__name__)
def test_groups__do_not_depend_on_the_type_of_the_column(verb: Verb, kind: str) -> None:
    if kind == "unused category" and verb in REFUSES_UNUSED:
        with pytest.raises(InputError, match=r"groups of obs\['kind'\] without cells: zz.*remove_unused_categories"):
            verb(cells(kind))
        return
    expected, found = verb(cells("text")), verb(cells(kind))
    if verb is harmony and kind in ("category", "unused category"):  # theta by batch: theirs is the order of categories
        assert not np.array_equal(found["x"], expected["x"])
        return
    check(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", REFUSE, ids=lambda f: f.__name__)
def test_missing__is_refused(verb: Verb, kind: str) -> None:
    with pytest.raises(InputError, match=r"2 missing values|2 of them in no cluster"):
        verb(cells(kind, missing=(3, 4)))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "unused category"])
@pytest.mark.parametrize("verb", [tree, trained], ids=lambda f: f.__name__)
def test_missing__is_left_out(verb: Verb, kind: str) -> None:
    adata = cells(kind, missing=(3, 4))
    expected = verb(adata[adata.obs["kind"].notna()].copy())
    found = verb(adata)
    check(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "unused category"])
def test_missing__has_no_density(kind: str) -> None:
    found = density(cells(kind, missing=(3, 4)))["density"]
    assert found[3] == found[4] == 0 and found[[0, 1, 2]].min() > 0


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "unused category"])
@pytest.mark.parametrize("verb", [ranked, filtered], ids=lambda f: f.__name__)
def test_missing__is_of_the_rest(verb: Verb, kind: str) -> None:
    adata = cells(kind, missing=(3, 4))
    with_a_group = cells("text")
    with_a_group.obs["kind"] = with_a_group.obs["kind"].astype(object)
    with_a_group.obs.loc[with_a_group.obs_names[[3, 4]], "kind"] = "rest"
    expected = verb(with_a_group)
    for name, values in verb(adata).items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize("kind", KINDS)
def test_missing__is_called_nan_where_clusters_are_renamed_as_in_scanpy(kind: str) -> None:
    adata = cells(kind, missing=(3, 4))
    found = restricted(adata)["leiden"]
    assert set(found[[3, 4]]) == {"nan"} and not np.isin(found[[0, 1]], "nan").any()
    assert all(name.startswith("c10-b,") for name in found[[0, 1]])
    assert set(found[[2, 5]]) == {"c2"}


@pytest.mark.parametrize("kind", ["text", "object", "category"])
def test_rank__groups_stand_in_scanpys_order(kind: str) -> None:
    adata = cells(kind)
    theirs = adata.copy()
    sc.tl.rank_genes_groups(theirs, "kind", method="t-test")
    sd.tl.rank_genes_groups(adata, "kind")
    assert adata.uns["rank_genes_groups"]["names"].dtype.names == theirs.uns["rank_genes_groups"]["names"].dtype.names
    assert adata.uns["rank_genes_groups"]["names"].dtype.names == ("b", "c2", "c10")


@pytest.mark.parametrize("kind", ["text", "category"])
def test_rank__two_groups_of_a_regression_are_scanpys(kind: str) -> None:
    adata = cells(kind)
    adata = adata[adata.obs["kind"].isin(["c10", "c2"])].copy()
    theirs = adata.copy()
    sc.tl.rank_genes_groups(theirs, "kind", method="logreg")
    sd.tl.rank_genes_groups(adata, "kind", method="logreg")
    ours, scanpys = (a.uns["rank_genes_groups"]["scores"] for a in (adata, theirs))
    assert ours.dtype.names == scanpys.dtype.names
    for name in ours.dtype.names:
        np.testing.assert_allclose(ours[name], scanpys[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["text", "object", "category"])
def test_aggregate__groups_stand_in_scanpys_order(kind: str) -> None:
    adata = cells(kind)
    assert list(sd.get.aggregate(adata, "kind", "sum").obs_names) == list(
        sc.get.aggregate(adata, "kind", "sum").obs_names
    )


def test_values__of_one_text_are_not_one_group() -> None:
    adata = cells()
    adata.obs["kind"] = pd.Categorical([1, "1"] * (N // 2))
    for verb in (ranked, variable, doublets, sums, tree, abstracted, transferred):
        with pytest.raises(InputError, match=r"two groups of obs\['kind'\] are called '1'"):
            verb(adata)


def test_single_cells__are_no_batches() -> None:
    adata = ad.AnnData(sp.csr_matrix((12_000, 3), dtype=np.float32))
    adata.obs["kind"] = [f"barcode{i}" for i in range(12_000)]
    for verb in (variable, combat, regressed, ranked):
        with pytest.raises(InputError, match=r"obs\['kind'\] has 12000 groups: .*; expected at most 10000"):
            verb(adata)


def test_modularity__cells_without_a_label_are_a_cluster_more() -> None:
    two_pairs = sp.csr_matrix(np.kron(np.eye(2), [[0, 1], [1, 0]]))
    assert sd.metrics.modularity(two_pairs, ["a", "a", None, None]) == pytest.approx(0.5)
    assert sd.metrics.modularity(two_pairs, np.array([np.nan, np.nan, 1, 1])) == pytest.approx(0.5)
