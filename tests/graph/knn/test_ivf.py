from __future__ import annotations

import numpy as np
import pytest

from sc_dask.errors import InputError, RecallWarning
from sc_dask.graph.knn import exact, ivf
from sc_dask.graph.knn.neighbors import knn
from sc_dask.graph.knn.recall import of_neighbours
from sc_dask.graph.partition import near_clusters, partition


def cells(n: int = 6000, n_dims: int = 20, seed: int = 0) -> np.ndarray:
    """Cells of groups that lie along curves, as real ones do."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(12, n_dims))
    group, along = rng.integers(12, size=n), rng.random((n, 1))
    x = centres[group] + along * (centres[(group + 1) % 12] - centres[group]) + 0.5 * rng.normal(size=(n, n_dims))
    return x.astype(np.float32)


def test_partition__holds_every_row_once_in_clusters_of_the_wanted_size() -> None:
    x = cells()
    p = partition(x, 100, seed=0, n_jobs=2)
    np.testing.assert_array_equal(np.sort(p.rows), np.arange(6000))
    sizes = np.diff(p.starts)
    assert p.starts[0] == 0 and p.starts[-1] == 6000 and sizes.min() >= 1 and sizes.max() <= 400
    assert 30 <= p.n_clusters <= 90
    inner = np.mean([np.square(x[p.rows[a:b]] - c).sum(axis=1).mean() for a, b, c in clusters(p)])
    assert inner < 0.5 * np.square(x - x.mean(axis=0)).sum(axis=1).mean()


def clusters(p):  # type: ignore[no-untyped-def]
    return zip(p.starts[:-1], p.starts[1:], p.centroids, strict=True)


def test_partition__cuts_clusters_of_equal_rows() -> None:
    x = np.zeros((3000, 4), np.float32)
    p = partition(x, 100, seed=0, n_jobs=1)
    assert np.diff(p.starts).max() <= 400
    np.testing.assert_array_equal(np.sort(p.rows), np.arange(3000))


def test_near_clusters__begin_with_themselves_and_hold_enough_rows() -> None:
    p = partition(cells(), 100, seed=0, n_jobs=2)
    sizes = np.diff(p.starts)
    near = near_clusters(p, 700, n_jobs=2)
    for c, others in enumerate(near):
        assert others[0] == c and len(set(others)) == len(others)
        assert sizes[others].sum() >= 700 > sizes[others[:-1]].sum()
    assert all(n.size == p.n_clusters for n in near_clusters(p, 10**6, n_jobs=2))


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "correlation"])
def test_ivf__finds_what_exact_search_finds(metric: str) -> None:
    x = cells()
    found = knn(x, 15, method="ivf", metric=metric, min_recall=0.97)
    true = exact.of_rows(x, 15, None, metric=metric)
    assert found.method == "ivf" and (found.indices[:, 0] == np.arange(6000)).all()
    assert of_neighbours((found.indices, found.distances), true) > 0.97
    assert found.recall == pytest.approx(of_neighbours((found.indices, found.distances), true), abs=0.02)
    same = found.indices == true[0]
    np.testing.assert_allclose(found.distances[same], true[1][same], rtol=2e-3, atol=1e-5)
    assert (np.diff(found.distances, axis=1) >= 0).all()
    assert all(len(set(row)) == 15 for row in found.indices)


def test_ivf__any_number_of_threads_gives_the_same() -> None:
    x = cells(3000)
    one, three = (knn(x, 10, method="ivf", random_state=4, n_jobs=n) for n in (1, 3))
    np.testing.assert_array_equal(one.indices, three.indices)
    np.testing.assert_array_equal(one.distances, three.distances)


def test_ivf__effort_rises_where_neighbours_are_hard_to_find() -> None:
    x = np.random.default_rng(0).normal(size=(8000, 60)).astype(np.float32)
    found = knn(x, 15, method="ivf", min_recall=0.98)
    assert len(found.attempts) > 1 and found.recall >= 0.98
    assert found.recall == max(a.recall for a in found.attempts)


def test_ivf__warns_of_what_it_could_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf, "_MAX_CANDIDATES", 0)
    x = np.random.default_rng(0).normal(size=(8000, 60)).astype(np.float32)
    with pytest.warns(RecallWarning, match="expected at least 1.0"):
        assert knn(x, 15, method="ivf", min_recall=1.0).recall < 1


def test_ivf__equal_cells_are_each_others_neighbours() -> None:
    x = np.repeat(np.arange(40, dtype=np.float32)[:, None] * 10, 50, axis=0) @ np.ones((1, 6), np.float32)
    found = knn(x, 15, method="ivf")
    assert found.recall == 1 and (found.distances == 0).all()
    assert (found.indices // 50 == np.arange(2000)[:, None] // 50).all()


@pytest.mark.parametrize("n", [2, 3, 40, 300])
def test_ivf__few_cells(n: int) -> None:
    x = cells(n)
    k = min(n, 10)
    found = knn(x, k, method="ivf")
    np.testing.assert_array_equal(np.sort(found.indices, axis=1), np.sort(exact.of_rows(x, k, None)[0], axis=1))


def test_ivf__needs_a_metric_that_it_knows() -> None:
    with pytest.raises(InputError, match="method='ivf' for metric='manhattan'"):
        knn(cells(100), 5, method="ivf", metric="manhattan")
    x = cells(100)
    x[3] = 0
    with pytest.raises(InputError, match="a cell of length 0"):
        knn(x, 5, method="ivf", metric="cosine")
