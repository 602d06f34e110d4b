from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.graph.bbknn import balanced


def shifted(n_obs: int = 240) -> ad.AnnData:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(np.zeros((n_obs, 1), np.float32))
    adata.obs["batch"] = np.where(np.arange(n_obs) % 5 < 2, "a", np.where(np.arange(n_obs) % 5 < 4, "b", "c"))
    centres, shifts = 5 * rng.normal(size=(4, 12)), {"a": 0.0, "b": 8.0, "c": -8.0}
    x = centres[rng.integers(4, size=n_obs)] + rng.normal(size=(n_obs, 12))
    x[:, 0] += adata.obs["batch"].map(shifts)
    adata.obsm["X_pca"] = x.astype(np.float32)
    return adata


def strengths(distances: np.ndarray, local: float) -> np.ndarray:
    """UMAP's weights of each cell's neighbours, self first; the neighbour at rank ``local`` still weighs 1."""
    from scipy.optimize import brentq

    out = []
    for row in distances:
        whole = int(local)
        rho = row[whole] + (local - whole) * (row[min(whole + 1, len(row) - 1)] - row[whole])
        beyond = np.maximum(row - rho, 0)
        target = np.log2(len(row))

        def missing(width: float, beyond: np.ndarray = beyond, target: float = target) -> float:
            return float(np.exp(-beyond[1:] / width).sum() - target)

        out.append(np.exp(-beyond / brentq(missing, 1e-6, 1e4, xtol=1e-10)))
    return np.array(out)


def reference(adata: ad.AnnData, k: int, n_pcs: int, trim: int, mix: float, local: float) -> tuple[Any, Any]:
    """BBKNN's distances and weights: all distances at once, UMAP's weights, trimming as bbknn does it."""
    x, batch = adata.obsm["X_pca"][:, :n_pcs].astype(float), adata.obs["batch"].to_numpy()
    apart = np.linalg.norm(x[:, None] - x, axis=2)
    lists = []
    for b in np.unique(batch):
        rows = np.flatnonzero(batch == b)
        lists.append(rows[np.argsort(apart[:, rows], axis=1, kind="stable")[:, :k]])
    indices = np.hstack(lists)
    distances = np.take_along_axis(apart, indices, axis=1)
    order = np.argsort(distances, axis=1, kind="stable")
    indices, distances = np.take_along_axis(indices, order, axis=1), np.take_along_axis(distances, order, axis=1)
    w = np.zeros_like(apart)
    np.put_along_axis(w, indices, strengths(distances, local), axis=1)
    np.fill_diagonal(w, 0)
    weights = mix * (w + w.T - w * w.T) + (1 - mix) * w * w.T
    least = [np.sort(row)[-trim] if trim and (row > 0).sum() > trim else 0 for row in weights]
    for _ in range(2):
        weights[weights < np.array(least)[:, None]] = 0
        weights = weights.T
    dense = np.zeros_like(apart)
    np.put_along_axis(dense, indices, distances, axis=1)
    return dense, weights


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({}, {}),
        ({"neighbors_within_batch": 5, "n_pcs": 8, "trim": 9}, {"k": 5, "n_pcs": 8, "trim": 9}),
        ({"set_op_mix_ratio": 0.3, "local_connectivity": 2}, {"mix": 0.3, "local": 2}),
        ({"set_op_mix_ratio": 0.0, "local_connectivity": 1.5, "trim": 0}, {"mix": 0.0, "local": 1.5, "trim": 0}),
    ],
    ids=str,
)
def test_bbknn__equals_dense_numpy(given: dict[str, Any], plain: dict[str, Any]) -> None:
    adata = shifted()
    sd.pp.bbknn(adata, **given)
    distances, weights = reference(adata, **({"k": 3, "n_pcs": 12, "trim": 90, "mix": 1.0, "local": 1.0} | plain))
    np.testing.assert_allclose(adata.obsp["distances"].toarray(), distances, atol=1e-4)
    np.testing.assert_allclose(adata.obsp["connectivities"].toarray(), weights, atol=1e-4)
    assert abs(adata.obsp["connectivities"] - adata.obsp["connectivities"].T).max() == 0
    params = adata.uns["neighbors"]["params"]
    assert params["n_neighbors"] == 3 * plain.get("k", 3) and params["recall"] == 1


def test_bbknn__other_verbs_take_the_graph_and_batches_mix() -> None:
    adata, plain = shifted(), shifted()
    sd.pp.bbknn(adata)
    sd.pp.neighbors(plain, n_neighbors=9, use_rep="X_pca")
    other = adata.obs["batch"].to_numpy()[:, None] != adata.obs["batch"].to_numpy()
    shares = [a.obsp["connectivities"].multiply(other).sum() / a.obsp["connectivities"].sum() for a in (adata, plain)]
    assert shares[0] > 2 * shares[1]
    sd.tl.leiden(adata)
    assert adata.obs["leiden"].nunique() > 1
    copied = sd.pp.bbknn(plain, copy=True)
    assert copied is not None and copied.uns["neighbors"]["params"]["n_neighbors"] == 9
    assert "bbknn" not in plain.uns["neighbors"]["params"]


def test_bbknn__a_cell_comes_before_its_equals() -> None:
    adata = shifted()
    adata.obsm["X_pca"][:40] = adata.obsm["X_pca"][0]
    x, codes = adata.obsm["X_pca"], (adata.obs["batch"] == "a").to_numpy().astype(np.int32)
    found = balanced(x, codes, 3)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(240))
    assert all(len(set(row)) == 6 for row in found.indices)


def test_bbknn__large_batches_are_searched_by_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = shifted(3000)
    x, codes = adata.obsm["X_pca"], (adata.obs["batch"] == "a").to_numpy().astype(np.int32)
    true = balanced(x, codes, 4)
    monkeypatch.setitem(__import__("sc_dask.graph.knn.neighbors", fromlist=["x"]).EXACT_BELOW, "euclidean", 500)
    found, exact = balanced(x, codes, 4), balanced(x, codes, 4, exact=True)
    assert (true.method, found.method, exact.method) == ("brute", "ivf", "brute")
    assert found.recall >= 0.95 and (found.distances <= true.distances * 1.0001).mean() > 0.93
    np.testing.assert_array_equal(exact.indices, true.indices)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_key": "nothing"}, "no column 'nothing'"),
        ({"use_rep": "X_none"}, "X_none"),
        ({"neighbors_within_batch": 60}, "fewer than 60 cells: c"),
        ({"neighbors_within_batch": 0}, "at least two"),
        ({"metric": "manhattan"}, "euclidean, cosine"),
        ({"trim": -1}, "trim=-1"),
        ({"n_pcs": 0}, "n_pcs=0"),
        ({"set_op_mix_ratio": 2}, "set_op_mix_ratio=2"),
        ({"local_connectivity": 0.5}, "local_connectivity=0.5"),
    ],
    ids=str,
)
def test_bbknn__refuses_what_it_cannot_do(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        sd.pp.bbknn(shifted(), **given)
    with pytest.raises(MissingKeyError):
        sd.pp.bbknn(shifted(), batch_key="nothing")
    with pytest.raises(TypeError):
        sd.pp.bbknn(shifted(), annoy_n_trees=10)  # type: ignore[call-arg]
