from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.graph.connectivities import METHODS, distances_matrix, gauss, jaccard, umap
from sc_dask.graph.knn.neighbors import KNN, knn
from tests.stack import UMAP_WEIGHTS


def points(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5)).astype(np.float32)
    if kind == "duplicates":
        x[100:110] = x[:10]
        x[200:230] = x[200]
    if kind == "islands":
        x[:50] += 1e4
        x[399] += 1e3
    return x


@pytest.mark.parametrize("kind", ["plain", "duplicates", "islands"])
@pytest.mark.parametrize("k", [2, 15])
def test_umap__equals_umap_learn(kind: str, k: int) -> None:
    from umap.umap_ import fuzzy_simplicial_set

    found = knn(points(kind), k)
    ours = umap(found)
    theirs = fuzzy_simplicial_set(
        sp.coo_matrix((400, 1)), k, None, None, knn_indices=found.indices, knn_dists=found.distances
    )[0].tocsr()
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_allclose(ours.data, theirs.data, atol=UMAP_WEIGHTS, rtol=0)


@pytest.mark.parametrize(("n_sure", "mix"), [(2.0, 1.0), (1.5, 0.25), (20.0, 0.0)])
def test_umap__equals_umap_learn_with_its_options(n_sure: float, mix: float) -> None:
    from umap.umap_ import fuzzy_simplicial_set

    found = knn(points("duplicates"), 15)
    theirs = fuzzy_simplicial_set(
        sp.coo_matrix((400, 1)), 15, None, None, knn_indices=found.indices, knn_dists=found.distances,
        local_connectivity=n_sure, set_op_mix_ratio=mix,
    )[0]  # fmt: skip
    ours = umap(found, n_sure=n_sure, mix=mix)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours.toarray(), theirs.toarray(), atol=UMAP_WEIGHTS, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["plain", "duplicates"])
def test_weights__are_a_symmetric_graph(method: str, kind: str) -> None:
    found = knn(points(kind), 6)
    w = METHODS[method](found)
    assert w.dtype == np.float32 and w.indices.dtype == np.int32 and w.has_canonical_format
    assert abs(w - w.T).max() == 0
    assert np.isfinite(w.data).all() and w.data.min() > 0 and w.data.max() <= 1 + 1e-6
    assert (w.diagonal() == 0).all()
    if kind == "plain" and method != "jaccard":  # every cell is joined to its nearest neighbour
        assert (np.asarray(w[np.arange(400), found.indices[:, 1]]) > 0).all()


def test_gauss__equals_the_formula() -> None:
    x = points("plain")[:40]
    found = knn(x, 5)
    d2 = ((x[:, None].astype(float) - x) ** 2).sum(axis=2)
    s2 = np.median(np.take_along_axis(d2, found.indices[:, 1:], axis=1), axis=1)
    total = s2[:, None] + s2
    w = np.sqrt(2 * np.sqrt(np.outer(s2, s2)) / total) * np.exp(-d2 / total)
    near = np.zeros((40, 40), bool)
    np.put_along_axis(near, found.indices[:, 1:], True, axis=1)
    np.testing.assert_allclose(gauss(found).toarray(), np.where(near | near.T, w, 0), atol=1e-6)


def test_distances_matrix__keeps_zeros_and_order() -> None:
    indices = np.array([[0, 2, 1], [1, 0, 2], [2, 0, 1]], np.int32)
    lengths = np.array([[0, 0, 4], [0, 4, 4], [0, 0, 4]], np.float32)
    m = distances_matrix(KNN(indices, lengths, 1.0, "brute"))
    np.testing.assert_array_equal(np.diff(m.indptr), 2)
    np.testing.assert_array_equal(m.indices.reshape(3, 2), indices[:, 1:])
    np.testing.assert_array_equal(m.data.reshape(3, 2), lengths[:, 1:])
    assert (m.dtype, m.indptr.dtype) == (np.float32, np.int32)
    lengths[:] = 9
    assert m.data.max() == 4  # a copy


def test_jaccard__equals_the_formula() -> None:
    found = knn(points("plain")[:60], 8)
    sets = [set(row[1:].tolist()) for row in found.indices]
    expected = np.zeros((60, 60))
    for i in range(60):
        for j in sets[i]:
            expected[i, j] = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
    np.testing.assert_allclose(jaccard(found).toarray(), (expected + expected.T) / 2, atol=1e-6)
