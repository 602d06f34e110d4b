from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from sc_dask.errors import InputError, RecallWarning, ScDaskWarning
from sc_dask.graph.knn import exact
from sc_dask.graph.knn.neighbors import KNN, METRICS, knn


def clustered(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, d)) * 4
    return (centres[rng.integers(0, 8, n)] + rng.normal(size=(n, d))).astype(np.float32)


def true_distances(x: np.ndarray, k: int, metric: str = "euclidean", **kwds: float) -> np.ndarray:
    d = cdist(x.astype(np.float64), x.astype(np.float64), {"manhattan": "cityblock"}.get(metric, metric), **kwds)
    return np.sort(d, axis=1)[:, :k]


def check_contract(found: KNN, n: int, k: int) -> None:
    assert found.indices.shape == found.distances.shape == (n, k)
    assert found.indices.dtype == np.int32 and found.distances.dtype == np.float32
    assert (found.indices[:, 0] == np.arange(n)).all() and (found.distances[:, 0] == 0).all()
    assert (np.diff(found.distances, axis=1) >= 0).all()
    assert ((found.indices >= 0) & (found.indices < n)).all()
    assert all(np.unique(row).size == k for row in found.indices)


@pytest.mark.parametrize("metric", METRICS)
def test_exact__equals_all_pairs(metric: str) -> None:
    x = clustered(300, 6)
    kwds = {"p": 3.0} if metric == "minkowski" else {}
    found = knn(x, 8, metric=metric, metric_kwds=kwds)
    check_contract(found, 300, 8)
    assert (found.recall, found.method) == (1.0, "brute")
    np.testing.assert_allclose(found.distances, true_distances(x, 8, metric, **kwds), rtol=1e-5, atol=2e-6)


def test_exact__near_duplicates_far_from_the_origin_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    x = (100 + rng.normal(size=(50, 10))).astype(np.float32)
    x = np.concatenate([x, x + np.float32(1e-3), x + np.float32(3e-3)])
    found = knn(x, 3)
    assert set(map(tuple, np.sort(found.indices % 50, axis=1))) == {(i, i, i) for i in range(50)}
    np.testing.assert_allclose(found.distances, true_distances(x, 3), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["brute", "pynndescent"])
def test_knn__equal_cells_keep_themselves_first(method: str) -> None:
    x = np.repeat(clustered(60, 10), 12, axis=0)  # more equals than neighbours
    found = knn(x, 6, method=method)
    check_contract(found, 720, 6)
    assert (found.distances < 1e-4).mean() > 0.99
    assert found.recall > 0.99


def test_pynndescent__recall_is_the_true_one_and_seed_decides() -> None:
    x = clustered(3000, 20)
    found, again = (knn(x, 15, method="pynndescent", random_state=3, n_jobs=1) for _ in range(2))
    check_contract(found, 3000, 15)
    true = exact.of_rows(x, 15, None)
    overlap = np.mean([len(set(a[1:]) & set(b[1:])) / 14 for a, b in zip(found.indices, true[0], strict=True)])
    assert found.recall >= 0.95
    assert abs(found.recall - overlap) < 0.02  # measured on 1,000 of 3,000
    np.testing.assert_array_equal(found.indices, again.indices)
    np.testing.assert_allclose(
        found.distances, np.linalg.norm(x[found.indices] - x[:, None], axis=2), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow  # every metric compiles anew
@pytest.mark.parametrize("metric", METRICS)
def test_pynndescent__measures_the_same_distance_as_exact_search(metric: str) -> None:
    x = clustered(1500, 10)
    kwds = {"p": 3.0} if metric == "minkowski" else {}
    found = knn(x, 8, metric=metric, metric_kwds=kwds, method="pynndescent")
    check_contract(found, 1500, 8)
    true = true_distances(x, 8, metric, **kwds)
    assert found.recall > 0.95
    assert np.mean(np.abs(found.distances - true) <= 1e-4 * true + 1e-5) > 0.95


def test_pynndescent__effort_rises_until_the_recall_is_reached() -> None:
    x = np.random.default_rng(1).normal(size=(5000, 30)).astype(np.float32)
    first = knn(x, 10, method="pynndescent", min_recall=0.0)
    assert len(first.attempts) == 1 and first.recall < 0.95
    raised = knn(x, 10, method="pynndescent", min_recall=0.95)
    assert len(raised.attempts) > 1 and raised.recall >= 0.95
    assert raised.attempts[0].recall == pytest.approx(first.recall, abs=0.02)


def test_pynndescent__warns_when_the_recall_is_out_of_reach() -> None:
    x = np.random.default_rng(1).normal(size=(5000, 200)).astype(np.float32)
    with pytest.warns(RecallWarning, match=r"expected at least 1\.0; next:"):
        found = knn(x, 5, method="pynndescent", min_recall=1.0)
    assert len(found.attempts) == 3
    assert found.recall == max(a.recall for a in found.attempts) < 1


def test_knn__auto_is_exact_where_scanpy_is() -> None:
    assert knn(clustered(8192, 3), 3).method == "brute"
    assert knn(clustered(4095, 3), 3, metric="cosine").method == "brute"


def test_knn__too_many_neighbours_become_half_of_the_cells() -> None:
    with pytest.warns(ScDaskWarning, match="using n_neighbors=4"):
        found = knn(clustered(7, 3), 15)
    check_contract(found, 7, 4)
    check_contract(knn(clustered(7, 3), 7), 7, 7)


NAN = np.ones((5, 2), np.float32) * np.nan
FIVE = np.arange(10, dtype=np.float32).reshape(5, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: knn(NAN, 3), "NaN or infinity in 5 cells"),
        (lambda: knn(np.where(FIVE == 9, np.inf, FIVE), 3), "1 cells .first: row 4"),
        (lambda: knn(FIVE[:1], 3), "found 1 cells"),
        (lambda: knn(FIVE[:, :0], 3), "found 5 cells x 0 dimensions"),
        (lambda: knn(FIVE[0], 3), "2-D numeric ndarray"),
        (lambda: knn(FIVE, 1), "n_neighbors=1"),
        (lambda: knn(FIVE, 2.5), "n_neighbors=2.5"),  # type: ignore[arg-type]
        (lambda: knn(FIVE, 3, metric="euclid"), "metric='euclid'"),
        (lambda: knn(FIVE, 3, metric_kwds={"p": 3}), "metric_kwds"),
        (lambda: knn(FIVE, 3, method="annoy"), "method='annoy'"),
        (lambda: knn(FIVE, 3, min_recall=95), "min_recall=95"),
    ],
)
def test_knn__bad_input_is_named(call: Callable[[], KNN], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
