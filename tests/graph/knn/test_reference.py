from __future__ import annotations

import numpy as np
import pytest

from sc_dask.errors import InputError, RecallWarning
from sc_dask.graph.knn import reference as reference_search
from sc_dask.graph.knn.reference import Search, neighbours


def points(n: int, seed: int = 0, n_dims: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(20, n_dims)) * 4)[rng.integers(0, 20, n)] + rng.normal(size=(n, n_dims)).astype(np.float32)


def dense(new: np.ndarray, reference: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    d = np.linalg.norm(new[:, None].astype(np.float64) - reference[None].astype(np.float64), axis=2)
    order = np.argsort(d, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(d, order, axis=1)


def test_search__small_references_exactly() -> None:
    new, reference = points(50), points(700, seed=1)
    reference[5] = reference[3] = new[7]  # equals stand in the order of their numbers
    (indices, distances), how = neighbours(new, reference, 9)
    expected = dense(new, reference, 9)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_allclose(distances, expected[1], rtol=1e-5, atol=1e-6)
    assert how == Search("brute", 1.0) and indices[7, :2].tolist() == [3, 5] and distances[7, 0] == 0


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
def test_search__other_metrics(metric: str) -> None:
    from scipy.spatial.distance import cdist

    new, reference = points(20), points(90, seed=1)
    (indices, distances), _ = neighbours(new, reference, 4, metric=metric)
    expected = np.sort(cdist(new, reference, metric), axis=1)[:, :4]
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-6)


def test_search__large_references_with_a_measured_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reference_search.EXACT_BELOW, "euclidean", 100)
    monkeypatch.setattr(reference_search.ivf, "first_candidates", lambda n, k: 150)
    monkeypatch.setattr(reference_search, "_ROWS_A_TASK", 64)
    new, reference = points(900), points(3000, seed=1)
    found, how = neighbours(new, reference, 7, min_recall=0.99)
    expected = dense(new, reference, 7)[1]
    true = (found[1] <= expected[:, -1:] * (1 + 1e-5)).mean()
    assert how.method == "ivf" and how.recall == pytest.approx(true, abs=1e-6) and how.recall >= 0.99
    rough, low = neighbours(new, reference, 7, min_recall=0.3)
    assert 0.3 < low.recall < how.recall
    again, _ = neighbours(new, reference, 7, min_recall=0.3, n_jobs=3)
    assert all(np.array_equal(a, b) for a, b in zip(rough, again, strict=True))
    monkeypatch.setattr(reference_search, "_MAX_CANDIDATES", 150)
    with pytest.warns(RecallWarning, match="of the true neighbours of 1,000 cells"):
        neighbours(new, reference, 7, min_recall=0.999)


def test_search__no_new_cells() -> None:
    (indices, _), how = neighbours(np.empty((0, 6), np.float32), points(30), 3)
    assert indices.shape == (0, 3) and how.recall == 1


@pytest.mark.parametrize(
    ("new", "reference", "options", "message"),
    [
        (points(3), points(9, n_dims=5), {}, "shape .3, 6. and a reference of shape .9, 5."),
        (points(3), points(9), {"n_neighbors": 10}, "n_neighbors=10 for a reference of 9 cells; expected .* 1 to 9"),
        (points(3) * np.nan, points(9), {}, "NaN or infinity in 3 cells"),
        (points(3), points(9), {"metric": "canberra"}, "metric='canberra'"),
        (points(3) * 0, points(9), {"metric": "cosine"}, "a cell of length 0"),
    ],
)
def test_search__what_does_not_fit(new: np.ndarray, reference: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        neighbours(new, reference, **{"n_neighbors": 2, **options})
