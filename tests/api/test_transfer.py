from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from sc_dask.testing import lazy, source_of
from tests.laws.registry import N_OBS, N_VARS, logged, reduced, reference


def weighed(d: np.ndarray) -> np.ndarray:
    w = np.exp(-(d**2) / (2 * np.median(d, axis=1, keepdims=True) ** 2))
    return w / w.sum(axis=1, keepdims=True)


def test_transfer__is_the_dense_formula() -> None:
    ref, new = reference(), reduced()
    ref.obs["flag"] = np.arange(N_OBS) % 2 == 0
    ref.obs["score"] = np.arange(N_OBS)
    new.obsm["X_pca"] = new.obsm["X_pca"][::-1] + 0.3
    assert sd.tl.transfer_labels(new, ref, ["group", "score", "flag"], n_neighbors=7, threshold=0.4) is None
    d = np.linalg.norm(new.obsm["X_pca"][:, None].astype(float) - ref.obsm["X_pca"][None], axis=2)
    order = np.argsort(d, axis=1)[:, :7]
    w = weighed(np.take_along_axis(d, order, axis=1))
    share = np.stack([(w * (ref.obs["group"].cat.codes.to_numpy()[order] == c)).sum(axis=1) for c in range(3)], axis=1)
    np.testing.assert_allclose(new.obs["group_uncertainty"], 1 - share.max(axis=1), atol=1e-5)
    expected = np.where(share.max(axis=1) < 0.6, "unknown", np.array(list("abc"))[share.argmax(axis=1)])
    assert new.obs["group"].tolist() == expected.tolist() and 0 < (expected == "unknown").sum() < N_OBS
    assert list(new.obs["group"].cat.categories) == ["a", "b", "c", "unknown"]
    mean = (w * order).sum(axis=1)
    np.testing.assert_allclose(new.obs["score"], mean, rtol=1e-5)
    sd_ = np.sqrt((w * (order - mean[:, None]) ** 2).sum(axis=1))
    np.testing.assert_allclose(new.obs["score_uncertainty"], sd_, rtol=1e-4)
    assert set(new.obs["flag"].cat.categories) <= {"False", "True", "unknown"}
    params = new.uns["transfer_labels"]["params"]
    assert params["recall"] == 1 and params["threshold"] == 0.4


def test_transfer__missing_labels_are_doubt() -> None:
    ref, new = reference(), reference()
    ref.obs["part"] = ref.obs["group"].cat.remove_categories(["b", "c"])
    sd.tl.transfer_labels(new, ref, "part", n_neighbors=1, weights="uniform", key_added="kind")
    of_a = (ref.obs["group"] == "a").to_numpy()
    assert new.obs["kind"].tolist() == ["a" if a else "unknown" for a in of_a]
    np.testing.assert_array_equal(new.obs["kind_uncertainty"], 1.0 - of_a)
    sd.tl.transfer_labels(new, ref, "part", n_neighbors=1, threshold=None, key_added="kind")
    assert new.obs["kind"].isna().tolist() == (~of_a).tolist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"obs": "nope"}, MissingKeyError, "no column 'nope'"),
        ({"obs": ["group", "group"]}, InputError, "one or more different columns"),
        ({"obs": "group", "key_added": ["a", "b"]}, InputError, "as many different names as columns"),
        ({"obs": "group", "use_rep": "X_nope"}, MissingKeyError, "no 'X_nope' in adata.obsm"),
        ({"obs": "group", "use_rep": "X_other", "n_neighbors": 91}, InputError, "n_neighbors=91 for a reference of 90"),
        ({"obs": "group", "weights": "cosine"}, InputError, "one of gaussian, uniform, distance"),
        ({"obs": "group", "threshold": 2}, InputError, "threshold=2"),
        ({"obs": "group", "min_recall": 2}, InputError, "min_recall=2"),
        ({"obs": "group", "metric": "canberra"}, InputError, "metric='canberra'"),
    ],
    ids=str,
)
def test_transfer__what_does_not_apply(options: dict[str, Any], error: type, message: str) -> None:
    adata = reduced()
    with pytest.raises(error, match=message):
        sd.tl.transfer_labels(adata, reference(), **options)
    assert "transfer_labels" not in adata.uns


# -- ingest --------------------------------------------------------------------------------------


def test_ingest__genes_in_any_order_and_more_of_them() -> None:
    ref, new = reference(), logged()
    sd.tl.ingest(new, ref, obs="group")
    rng = np.random.default_rng(0)
    wide = ad.concat([logged(), logged()], axis=1, index_unique="-", merge="first")
    wide.var_names = [*logged().var_names, *(f"more{i}" for i in range(N_VARS))]
    wide = lazy(wide[:, rng.permutation(2 * N_VARS)].copy(), 3)
    sd.tl.ingest(wide, ref, obs="group")
    np.testing.assert_allclose(wide.obsm["X_pca"], new.obsm["X_pca"], atol=1e-5)
    assert wide.obs["group"].tolist() == new.obs["group"].tolist() and source_of(wide).passes == 1
    lower = logged()
    lower.var_names = lower.var_names.str.upper()
    sd.tl.ingest(lower, ref, obs="group")  # as in scanpy
    np.testing.assert_array_equal(lower.obsm["X_pca"], new.obsm["X_pca"])


def test_ingest__missing_genes_are_reported_and_count_as_their_mean() -> None:
    ref, new = reference(), logged()
    few = new[:, 6:].copy()
    with pytest.warns(ScDaskWarning, match="6 of the 60 genes of the reference are not in adata: gene0, gene1"):
        sd.tl.ingest(few, ref, obs="group", embedding_method="pca")
    x = new.X.toarray().astype(float)
    expected = (x - x.mean(axis=0))[:, 6:] @ ref.varm["PCs"][6:]
    np.testing.assert_allclose(few.obsm["X_pca"], expected, atol=1e-4)
    with pytest.raises(InputError, match="5 of the 60 genes of the reference are in adata .missing: gene0"):
        sd.tl.ingest(new[:, 55:].copy(), ref, obs="group")


def test_ingest__uncentred_components_and_a_copy() -> None:
    ref, new = reference(), logged()
    ref.uns["pca"]["params"]["zero_center"] = False
    copied = sd.tl.ingest(new, ref, obs="group", embedding_method=["pca"], inplace=False, k=1)
    np.testing.assert_allclose(copied.obsm["X_pca"], new.X.toarray() @ ref.varm["PCs"], atol=1e-4)
    assert "X_pca" not in new.obsm and "X_umap" not in copied.obsm


def test_ingest__other_representations_of_both() -> None:
    ref, new = reference(), logged()
    new.obs["group"] = "none"
    sd.pp.neighbors(ref, n_neighbors=2, use_rep="X_other", key_added="mine")
    sd.tl.ingest(new, ref, obs="group", embedding_method=(), neighbors_key="mine", k=1)
    assert new.obs["group"].tolist() == ref.obs["group"].tolist() and "X_pca" not in new.obsm
    sd.pp.neighbors(ref, n_neighbors=2, use_rep="X", key_added="x")
    turned = lazy(logged()[:, ::-1].copy())
    sd.tl.ingest(turned, ref, obs="group", embedding_method="umap", neighbors_key="x", k=1)
    assert turned.obs["group"].tolist() == ref.obs["group"].tolist() and source_of(turned).passes == 1
    with pytest.raises(InputError, match="neighbours were searched in X"), pytest.warns(ScDaskWarning):
        sd.tl.ingest(logged()[:, 1:].copy(), ref, obs="group", embedding_method=(), neighbors_key="x")


def test_ingest__a_layout_without_its_curve() -> None:
    ref = reference()
    ref.uns["umap"]["params"].pop("a")
    new = logged()
    sd.tl.ingest(new, ref)
    known = logged()
    sd.tl.ingest(known, reference())
    np.testing.assert_allclose(new.obsm["X_umap"], known.obsm["X_umap"], atol=1e-4)
    assert list(new.obs) == list(logged().obs)


@pytest.mark.parametrize(
    ("lost", "options", "error", "message"),
    [
        (None, {"obs": "nope"}, MissingKeyError, "no column 'nope'"),
        (("uns", "neighbors"), {}, MissingKeyError, r"no 'neighbors' in adata_ref.uns.*pp.neighbors\(adata_ref\)"),
        (("uns", "pca"), {}, MissingKeyError, "no components in adata_ref"),
        (("varm", "PCs"), {}, MissingKeyError, "no components in adata_ref"),
        (("obsm", "X_umap"), {}, MissingKeyError, "no 'X_umap' in adata_ref.obsm"),
        (None, {"embedding_method": "tsne"}, InputError, "embedding_method=.'tsne'.; expected 'umap' and 'pca'"),
        (None, {"obs": "group", "labeling_method": "svm"}, InputError, "labeling_method='svm'"),
        (None, {"obs": ["group", "group"]}, InputError, "different columns"),
        (None, {"obs": "group", "epsilon": 0.1}, InputError, "the options epsilon; expected k and random_state"),
    ],
    ids=str,
)
def test_ingest__what_does_not_apply(lost: Any, options: dict[str, Any], error: type, message: str) -> None:
    ref, new = reference(), lazy(logged())
    if lost:
        del getattr(ref, lost[0])[lost[1]]
    with pytest.raises(error, match=message):
        sd.tl.ingest(new, ref, **options)
    assert source_of(new).rows_read == 0 and "X_pca" not in new.obsm


def test_ingest__names_that_occur_twice() -> None:
    new = logged()[:, ::-1].copy()
    new.var_names = ["gene1", *new.var_names[1:]]
    with pytest.raises(InputError, match="gene1 occurs more than once"):
        sd.tl.ingest(new, reference())


def test_transfer__categories_that_are_numbers() -> None:
    ref, new = reference(), reduced()
    ref.obs["number"] = pd.Categorical(np.arange(N_OBS) % 3)
    sd.tl.transfer_labels(new, ref, "number", n_neighbors=1)
    assert new.obs["number"].tolist() == ref.obs["number"].astype(str).tolist()
