from __future__ import annotations

import numpy as np
import pytest

from sc_dask.graph import transfer
from sc_dask.graph.ingest import positions


def test_weights__of_each_kind() -> None:
    d = np.array([[1, 2, 4], [0, 0, 3], [0, 1, 2], [2, 2, 2]], np.float32)
    assert (transfer.weights_of(d, "uniform") == 1).all()
    np.testing.assert_allclose(transfer.weights_of(d, "distance"), [[1, 0.5, 0.25], [1, 1, 0], [1, 0, 0], [0.5] * 3])
    wide = np.exp(-np.array([[0.25, 1, 4], [0, 0, np.inf], [0, 1, 4], [1, 1, 1]]) / 2)
    np.testing.assert_allclose(transfer.weights_of(d, "gaussian"), wide)
    np.testing.assert_allclose(transfer.weights_of(d * 100, "gaussian"), wide)  # the scale does not matter


def test_voted__shares_and_missing_labels() -> None:
    labels = transfer.Labels(np.array([0, 1, 1, -1], np.int32), 2)
    indices = np.array([[0, 1, 2], [0, 1, 3], [3, 3, 3]], np.int32)
    best, uncertainty = transfer.voted(indices, np.array([[3, 1, 1], [1, 1, 2], [1, 1, 1]], float), labels)
    assert best.tolist() == [0, 0, -1]
    np.testing.assert_allclose(uncertainty, [0.4, 0.75, 1])


def test_averaged__is_the_weighted_mean_of_those_known() -> None:
    numbers = transfer.Numbers(np.array([1.0, 3.0, np.nan]))
    mean, sd = transfer.averaged(
        np.array([[0, 1, 2], [2, 2, 2]]), np.array([[3.0, 1.0, 9.0], [1.0, 1.0, 1.0]]), numbers
    )
    np.testing.assert_allclose(mean, [1.5, np.nan])
    np.testing.assert_allclose(sd, [np.sqrt(0.75), np.nan])


@pytest.mark.parametrize("n_components", [2, 3])
def test_positions__new_cells_stand_among_their_neighbours(n_components: int) -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 0], [20, 0, 5], [0, 20, 5], [20, 20, 0]], np.float32)[:, :n_components]
    coords = np.repeat(centres, 30, axis=0) + rng.normal(size=(120, n_components)).astype(np.float32)
    kind = rng.integers(0, 4, 50)
    indices = (kind[:, None] * 30 + rng.permuted(np.tile(np.arange(30), (50, 1)), axis=1)[:, :8]).astype(np.int32)
    distances = np.sort(rng.random((50, 8)), axis=1).astype(np.float32)
    found = positions(indices, distances, coords, 0.58, 1.33, seed=0, n_jobs=1)
    nearest = np.linalg.norm(found[:, None] - coords[None], axis=2).argmin(axis=1)
    assert (nearest // 30 == kind).all()
    few = positions(indices[:5], distances[:5], coords, 0.58, 1.33, seed=0, n_jobs=2)
    assert few.shape == (5, n_components) and np.isfinite(found).all()
    same = positions(indices, distances, coords, 0.58, 1.33, seed=0, n_jobs=3)
    np.testing.assert_array_equal(found, same)
