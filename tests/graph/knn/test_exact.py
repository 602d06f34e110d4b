from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from sc_dask.graph.knn import exact


def dense(x: np.ndarray, queries: np.ndarray, k: int, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    d = cdist(queries.astype(np.float64), x.astype(np.float64))
    if own is not None:
        d[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(d, order, axis=1)


@pytest.mark.parametrize("tile", [64, 16_384])
@pytest.mark.parametrize("offset", [0, 300], ids=["at the origin", "far from it"])
def test_nearest__equals_all_pairs_in_any_tiles(monkeypatch: pytest.MonkeyPatch, tile: int, offset: float) -> None:
    monkeypatch.setattr(exact, "_ROWS_A_TILE", tile)
    rng = np.random.default_rng(0)
    x = (offset + rng.normal(size=(500, 7))).astype(np.float32)
    queries = np.concatenate([x[::5], (offset + rng.normal(size=(40, 7))).astype(np.float32)])
    own = np.concatenate([np.arange(0, 500, 5), np.full(40, -1)])
    for excluded in (None, own):
        one, three = (exact.nearest(x, queries, 9, own=excluded, n_jobs=n) for n in (1, 3))
        indices, distances = dense(x, queries, 9, excluded)
        np.testing.assert_array_equal(one[0], indices)
        np.testing.assert_allclose(one[1], distances, rtol=1e-5, atol=1e-6)
        assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))


def test_nearest__too_few_rows_and_equal_rows() -> None:
    x = np.array([[0, 0], [1, 0], [1, 0]], np.float32)
    indices, distances = exact.nearest(x, x, 4, own=np.arange(3))
    assert indices.tolist() == [[1, 2, -1, -1], [2, 0, -1, -1], [1, 0, -1, -1]]
    assert distances.tolist() == [[1, 1, np.inf, np.inf], [0, 1, np.inf, np.inf], [0, 1, np.inf, np.inf]]
    assert exact.nearest(x, x[:0], 2)[0].shape == (0, 2)


@pytest.mark.parametrize("n", [2, 3, 200])
def test_nearest__is_the_other_exact_search(n: int) -> None:
    x = np.random.default_rng(1).normal(size=(n, 5)).astype(np.float32)
    k = min(n, 12)
    indices, distances = exact.of_rows(x, k, None)
    own = np.arange(n)
    by_tiles = exact.nearest(x, x, k - 1, own=own)
    np.testing.assert_array_equal(indices[:, 1:], by_tiles[0])
    np.testing.assert_allclose(distances[:, 1:], by_tiles[1], rtol=1e-5)
