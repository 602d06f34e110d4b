from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.graph import force, paga, starts


def test_edge_counts__are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    graph = sp.random(50, 50, 0.2, "csr", random_state=0)
    graph.data[:20] = 0  # equal cells: their distance is an edge too
    codes = rng.integers(4, size=50).astype(np.int32)
    expected = np.zeros((4, 4))
    for i, j in zip(*graph.tocoo().coords, strict=True):
        expected[codes[i], codes[j]] += 1
    for at_once in (10_000, 7):
        monkeypatch.setattr(paga, "_EDGES_AT_ONCE", at_once)
        np.testing.assert_array_equal(paga.edge_counts(graph, codes, codes, 4).toarray(), expected)
    empty = paga.edge_counts(sp.csr_matrix((3, 3)), codes[:3], codes[:3], 4)
    assert empty.shape == (4, 4) and empty.nnz == 0


def test_models__by_hand() -> None:
    counts = sp.csr_matrix(np.array([[10.0, 2, 0], [4, 20, 0], [0, 0, 30]]))
    sizes = np.array([3, 4, 5])
    new = paga.by_neighbours(counts, sizes)
    expected = (12 * 4 + 24 * 3) / (12 - 1)  # edges of both, each drawn from all other cells
    assert new.connectivities[0, 1] == new.connectivities[1, 0] == pytest.approx(6 / expected)
    assert new.connectivities.nnz == 2 and new.tree.nnz == 1
    old = paga.by_weights(counts, sizes, 5)
    assert old.connectivities[0, 1] == pytest.approx(3 / np.sqrt(25 * 3 * 4))
    go = paga.transitions(counts, sizes, 5).toarray()
    assert go[0, 1] == pytest.approx(2 / np.sqrt(15 * 20)) and (go > 0).sum() == 1  # more edges go from 1 to 0
    alone = paga.by_neighbours(sp.csr_matrix(np.diag([3.0, 4.0])), sizes[:2])
    assert alone.connectivities.nnz == alone.tree.nnz == 0


def test_of_groups__cells_start_about_their_group() -> None:
    weights = sp.csr_matrix(np.array([[0, 0.9, 0, 0], [0.9, 0, 0.1, 0], [0, 0.1, 0, 0], [0, 0, 0, 0]]))
    positions = force.of_groups(weights)
    np.testing.assert_array_equal(positions, force.of_groups(weights))
    assert np.isfinite(positions).all() and len(np.unique(positions, axis=0)) == 4
    codes = np.repeat([2, 0, 1, 3], 50).astype(np.int32)
    first = starts.of_groups(positions, weights, codes, seed=1)
    for g, nearest in ((0, 1), (1, 0), (2, 1)):
        half = np.abs(positions[g] - positions[nearest]) / 2
        assert (np.abs(first[codes == g] - positions[g]) <= half + 1e-9).all()
        assert len(np.unique(first[codes == g], axis=0)) == 50
    assert (first[codes == 3] == positions[3]).all()  # a group on its own
    np.testing.assert_array_equal(force.of_groups(sp.csr_matrix((1, 1))), [[0.5, 0.5]])
    assert force.of_groups(sp.csr_matrix((3, 3))).shape == (3, 2)
