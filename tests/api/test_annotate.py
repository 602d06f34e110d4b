from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import sc_dask as sd
from sc_dask.array import annotate as training
from sc_dask.errors import FormatError, InputError, MissingKeyError, ScDaskWarning
from sc_dask.testing import lazy, source_of
from sc_dask.tl.vote import resolution_for
from tests.laws.registry import N_OBS, connected, counts, logged, model

pytestmark = pytest.mark.filterwarnings("ignore:2 of the 32 genes of the model:sc_dask.errors.ScDaskWarning")


def decisions(adata: ad.AnnData) -> np.ndarray:
    """What the model of the registry says, from dense values."""
    m = model()
    z = (adata[:, m.features[:-2]].X.toarray().astype(np.float64) - m.mean[:-2]) / m.scale[:-2]
    z[z > 10] = 10
    return z @ m.coef[:, :-2].T + m.intercept


def test_annotate__is_the_dense_formula(tmp_path: Path) -> None:
    adata = lazy(logged(), 5)
    model().write(tmp_path / "model.npz")
    with pytest.warns(ScDaskWarning, match="2 of the 32 genes of the model are not in adata: lost, gone"):
        assert sd.tl.annotate(adata, tmp_path / "model.npz", keep=["decisions"]) is None
    scores = decisions(logged())
    assert adata.obs["predicted_labels"].tolist() == list(np.array(list("abc"))[scores.argmax(axis=1)])
    np.testing.assert_allclose(adata.obs["conf_score"], expit(scores).max(axis=1))
    np.testing.assert_allclose(adata.obsm["decisions"], scores, rtol=1e-5)
    facts = adata.uns["annotate"]
    assert (facts["n_genes"], facts["n_missing"], list(facts["labels"])) == (30, 2, list("abc"))


def test_annotate__several_labels_or_none() -> None:
    adata = logged()
    sd.tl.annotate(adata, model(), mode="prob match", p_thres=0.9, key_added="mine")
    flags = expit(decisions(adata)) > 0.9
    expected = ["|".join(np.array(list("abc"))[f]) or "Unassigned" for f in flags]
    assert adata.obs["mine_predicted_labels"].tolist() == expected
    assert {"Unassigned", "a"} < set(expected) and any("|" in e for e in expected)


@pytest.mark.parametrize("given", ["column", "values", "leiden"])
def test_annotate__majority_of_a_cluster(given: str) -> None:
    adata = connected()
    small: Any = {"column": "batch", "values": list(adata.obs["batch"]), "leiden": None}[given]
    sd.tl.annotate(adata, model(), majority_voting=True, over_clustering=small, min_prop=0.5)
    table = pd.crosstab(adata.obs["predicted_labels"], adata.obs["over_clustering"])
    most = table.idxmax(axis=0).astype(object)
    most[(table / table.sum()).max() < 0.5] = "Heterogeneous"
    assert adata.obs["majority_voting"].tolist() == most[adata.obs["over_clustering"]].tolist()
    if given == "leiden":
        assert len(table.columns) > 5
        sd.tl.leiden(adata, 5.0, flavor="sc_dask", n_iterations=2)
        assert adata.obs["leiden"].tolist() == adata.obs["over_clustering"].tolist()
    else:
        assert adata.obs["over_clustering"].tolist() == adata.obs["batch"].tolist()
        sd.tl.annotate(adata, model(), majority_voting=True, over_clustering=small, min_prop=1)
        assert set(adata.obs["majority_voting"]) == {"Heterogeneous"}


def test_annotate__resolution_by_number_of_cells() -> None:
    assert [resolution_for(n) for n in (10, 4999, 5000, 30_000, 99_999, 100_000, 10**6)] == [5, 5, 10, 15, 20, 25, 30]


def test_annotate__on_a_landmark_graph() -> None:
    adata = logged()
    adata.obsm["X_pca"] = connected().obsm["X_pca"]
    sd.pp.neighbors(adata, n_neighbors=10, compact=True)
    sd.tl.annotate(adata, model(), majority_voting=True)
    assert adata.obs["over_clustering"].nunique() > 1


def test_annotate__lazily_normalised_counts_and_raw() -> None:
    adata, expected = lazy(counts()), logged()
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    for x in (adata, expected):
        sd.tl.annotate(x, model(), keep=["probabilities"])
    np.testing.assert_allclose(adata.obsm["probabilities"], expected.obsm["probabilities"], rtol=1e-4, atol=1e-6)
    raw = logged()
    raw.raw = logged()
    raw.X = raw.X * 0
    sd.tl.annotate(raw, model(), use_raw=True)
    assert raw.obs["predicted_labels"].tolist() == expected.obs["predicted_labels"].tolist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "both"}, InputError, "mode='both'"),
        ({"p_thres": 0.7}, InputError, "p_thres=0.7 with mode='best match'"),
        ({"mode": "prob match", "p_thres": 7}, InputError, "p_thres=7"),
        ({"min_prop": 0.5}, InputError, "without majority_voting"),
        ({"over_clustering": "group"}, InputError, "without majority_voting"),
        ({"majority_voting": True, "min_prop": 2}, InputError, "min_prop=2"),
        ({"majority_voting": True, "over_clustering": "nope"}, MissingKeyError, "no column 'nope'"),
        ({"majority_voting": True, "over_clustering": ["a"]}, InputError, "of 1 cells, 0 of them in no cluster"),
        ({"majority_voting": True, "over_clustering": [None] * N_OBS}, InputError, "90 of them in no cluster"),
        ({"majority_voting": True}, MissingKeyError, "no 'neighbors' in adata.uns"),
        ({"keep": ["scores"]}, InputError, "keep="),
        ({"keep": "decisions"}, InputError, "keep='decisions'"),
        ({"layer": "nope"}, MissingKeyError, "no layer 'nope'"),
        ({"model": __file__}, FormatError, "cannot be read"),
    ],
    ids=str,
)
def test_annotate__what_does_not_apply(options: dict[str, Any], error: type, message: str) -> None:
    adata = lazy(logged())
    with pytest.raises(error, match=message):
        sd.tl.annotate(adata, **{"model": model(), **options})
    assert source_of(adata).rows_read == 0 and "predicted_labels" not in adata.obs


def test_annotate__values_and_genes_that_do_not_fit() -> None:
    for adata in (lazy(counts()), lazy(logged()[:, :30].copy())):
        with warnings.catch_warnings(), pytest.raises(InputError, match="cells of X sum up to .* and not to 10,000"):
            warnings.simplefilter("ignore", ScDaskWarning)
            sd.tl.annotate(adata, model())
        assert "predicted_labels" not in adata.obs
    with pytest.warns(ScDaskWarning, match="17 of the 32 genes of the model are not in adata"):
        sd.tl.annotate(adata, model(), check_expression=False)
    foreign = logged()
    foreign.var_names = [f"ENSG{i}" for i in range(foreign.n_vars)]
    with pytest.raises(InputError, match="0 of the 32 genes of the model are in adata .missing: gene0, gene2"):
        sd.tl.annotate(foreign, model())


# -- training ------------------------------------------------------------------------------------


def scaled(adata: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.preprocessing import StandardScaler

    x = adata.X.toarray()
    used = x.any(axis=0)
    return np.minimum(StandardScaler().fit_transform(x[:, used].astype(np.float64)), 10), used


def test_train__is_scikit_learns_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    adata = logged()
    found = sd.tl.train_annotation(lazy(adata), "group", C=0.1)
    z, used = scaled(adata)
    assert found.features.tolist() == adata.var_names[used].tolist() and not used[7]
    scaler = StandardScaler().fit(adata.X.toarray()[:, used].astype(np.float64))
    np.testing.assert_allclose(found.mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(found.scale, scaler.scale_, rtol=1e-6)
    for i, c in enumerate("abc"):
        one = LogisticRegression(C=0.1, max_iter=1000).fit(z, adata.obs["group"] == c)
        np.testing.assert_allclose(found.coef[i], one.coef_[0], atol=2e-3)
        np.testing.assert_allclose(found.intercept[i], one.intercept_[0], atol=2e-3)
    assert found.description["method"] == "logreg"
    sd.tl.annotate(adata, found)
    assert (adata.obs["predicted_labels"] == adata.obs["group"]).mean() > 0.95


@pytest.mark.parametrize("balanced", [False, True])
def test_train__by_batches_of_drawn_cells(balanced: bool) -> None:
    adata = lazy(logged(), 6)
    options: dict[str, Any] = {"method": "sgd", "epochs": 8, "n_batches": 4, "batch_size": 15, "balanced": balanced}
    found = sd.tl.train_annotation(adata, "group", **options)
    source = source_of(adata)
    # a look at the first cells, one pass for the means, and one an epoch from the first to the last drawn of a block
    assert source.times_read().max() <= 10 and 2 * N_OBS < source.rows_read < 10 * N_OBS
    again = sd.tl.train_annotation(logged(), "group", **options)
    np.testing.assert_allclose(again.coef, found.coef, rtol=1e-5, atol=1e-7)
    other = sd.tl.train_annotation(logged(), "group", **options, random_state=1)
    assert not np.allclose(other.coef, found.coef, rtol=1e-3)
    labelled = logged()
    sd.tl.annotate(labelled, found)
    assert (labelled.obs["predicted_labels"] == labelled.obs["group"]).mean() > 0.9


def test_train__rare_labels_count_alike_if_balanced() -> None:
    adata = logged()
    rare = np.where(np.arange(N_OBS) % 15 == 0, "rare", "usual")
    adata.obs["kind"] = rare
    order = training._order(
        (rare == "rare").astype(np.int32), 2, training.Schedule(1, 2, 20, True, 0), np.random.default_rng(0)
    )
    assert (rare[order] == "rare").sum() == 20 and len(order) == 40
    # where nothing is learnt of genes, the intercept tells how frequent a label is
    plain, balanced = (sd.tl.train_annotation(adata, "kind", balanced=b, C=1e-4).intercept[0] for b in (False, True))
    np.testing.assert_allclose([plain, balanced], [np.log(6 / 84), 0], atol=0.05)


def test_train__the_genes_of_the_largest_weights() -> None:
    adata = logged()
    found = sd.tl.train_annotation(adata, "group", n_top_genes=4)
    assert 4 <= len(found.features) <= 12 and found.description["method"] == "logreg"
    alone = sd.tl.train_annotation(adata, "group", mask_var=adata.var_names.isin(found.features))
    np.testing.assert_allclose(found.coef, alone.coef, rtol=1e-6)


def test_train__two_labels_and_cells_without_one() -> None:
    adata = logged()
    adata.obs["part"] = adata.obs["group"].cat.remove_categories("c")
    found = sd.tl.train_annotation(adata, "part", description={"details": "two"})
    assert found.classes.tolist() == ["a", "b"] and found.description["details"] == "two"
    np.testing.assert_array_equal(found.coef[0], -found.coef[1])
    kept = adata[adata.obs["part"].notna().to_numpy()].copy()
    np.testing.assert_array_equal(sd.tl.train_annotation(kept, "part").coef, found.coef)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"labels": "nope"}, MissingKeyError, "no column 'nope'"),
        ({"labels": "same"}, InputError, "obs.'same'. has 1 group.*; expected at least 2"),
        ({"method": "svm"}, InputError, "method='svm'"),
        ({"method": "sgd", "C": 3}, InputError, "C or max_iter with method='sgd'"),
        ({"epochs": 0}, InputError, "epochs=0"),
        ({"n_top_genes": 60}, InputError, "n_top_genes=60 of 59 genes"),
        ({"n_top_genes": 0}, InputError, "n_top_genes=0"),
        ({"mask_var": "nope"}, MissingKeyError, "no column 'nope' in adata.var"),
        (
            {"method": "logreg", "batch_size": 1, "n_batches": 50},
            InputError,
            "'logreg' for 90 cells .* at most 50",
        ),
        ({"layer": "spare"}, InputError, "cells of X sum up to"),
    ],
    ids=str,
)
def test_train__what_does_not_apply(options: dict[str, Any], error: type, message: str) -> None:
    adata = logged()
    adata.obs["same"] = "one"
    with pytest.raises(error, match=message):
        sd.tl.train_annotation(adata, **{"labels": "group", **options})


def test_train__names_that_occur_twice() -> None:
    adata = logged()
    adata.var_names = ["gene1", *adata.var_names[1:]]
    with pytest.raises(InputError, match="more than once"):
        sd.tl.train_annotation(adata, "group")


def test_train__too_large_for_one_dense_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "DENSE_BYTES", 1000)
    assert sd.tl.train_annotation(logged(), "group").description["method"] == "sgd"
    with pytest.raises(InputError, match="method='logreg' for 90 cells and 59 genes"):
        sd.tl.train_annotation(logged(), "group", method="logreg")
