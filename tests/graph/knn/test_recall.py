from __future__ import annotations

import numpy as np
import pytest

from sc_dask.errors import RecallWarning
from sc_dask.graph.knn import recall

TRUE = np.array([[0, 1, 2]], np.int32), np.array([[0, 1, 2]], np.float32)


@pytest.mark.parametrize(
    ("indices", "distances", "share"),
    [
        ([0, 1, 2], [0, 1, 2], 1),
        ([0, 1, 9], [0, 1, 3], 0.5),
        ([0, 1, 9], [0, 1, 2], 1),  # a tie with the farthest true one
        ([0, 1, 9], [0, 1, 2 * (1 + 5e-6)], 1),  # the same but for rounding
        ([0, 1, 9], [0, 1, 2 * (1 + 5e-5)], 0.5),
        ([0, 1, 2], [0, 1, 2.1], 1),  # the same cell by a distance of other rounding
        ([0, 1, -1], [0, 1, np.inf], 0.5),
        ([0, 8, 9], [0, 4, 5], 0),
    ],
)
def test_recall__counts_hits_and_ties(indices: list[int], distances: list[float], share: float) -> None:
    found = np.array([indices], np.int32), np.array([distances], np.float32)
    assert recall.of_neighbours(found, TRUE) == share
    if distances[-1] != 2.1:
        assert recall.of_distances(found[1][:, 1:], TRUE[1][:, 1:]) == share


def test_sample__different_rows_in_order() -> None:
    rows = recall.sample(5000, 3)
    assert rows.size == 1000 and (np.diff(rows) > 0).all() and rows.max() < 5000
    np.testing.assert_array_equal(rows, recall.sample(5000, 3))
    assert not np.array_equal(rows, recall.sample(5000, 4))
    np.testing.assert_array_equal(recall.sample(7, 0), np.arange(7))


def test_warning__says_what_to_do() -> None:
    recall.warn_below(0.95, 0.95, stacklevel=1)
    message = r"found 0\.900 of the true neighbours of 1,000 cells in 3 searches; expected at least 0\.95; next: lower "
    with pytest.warns(RecallWarning, match=message) as warned:
        recall.warn_below(0.95, 0.9, after=" in 3 searches", stacklevel=1)
    assert warned[0].filename == __file__
