"""Diffusion maps (Coifman & Lafon 2006) of a neighbour graph, and distances along them (Haghverdi 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.graph.order import WORTH_IT, ordered
from sc_dask.kernels.communities import is_symmetric

_STATIONARY = 0.9994  # eigenvalues from here on are 1 in float32, as scanpy has it
_LARGE_TOLERANCE = 1e-9  # of eigenvalues of large graphs; the results are float32


@dataclass(frozen=True)
class Spectrum:
    """The largest eigenvalues of the transitions, falling, and their vectors."""

    values: NDArray[np.float32]  # n_comps
    vectors: NDArray[np.float32]  # n_obs x n_comps


def diffmap(
    connectivities: sp.csr_matrix, n_comps: int, *, random_state: int = 0, sizes: NDArray[np.int64] | None = None
) -> Spectrum:
    """Return the diffusion map of a symmetric graph, at most ``n_obs - 1`` components; the first is the steady state.

    Parameters
    ----------
    connectivities
        ``n_obs x n_obs`` weights.
    random_state
        Seed of the vector that Lanczos begins with.
    sizes
        Cells that each node stands for; None: one each. The vectors are then those of the cells (one row a node).

    Memory: the weights once more in float64 and ``2 n_comps + 1`` (at least 20) vectors of 8 bytes a node; beyond
    50,000 nodes the graph once more, in an order that is faster to walk.

    Raises
    ------
    InputError
        The graph is not symmetric, or the search does not converge.
    """
    if not is_symmetric(connectivities.indptr, connectivities.indices, connectivities.data):
        raise InputError("found connectivities that are not symmetric", "a symmetric graph", "run pp.neighbors")
    n = connectivities.shape[0]
    nodes = ordered(connectivities)
    n_cells = None if sizes is None else nodes.from_original(sizes.astype(np.float64))
    matrix = transitions(nodes.graph, n_cells)
    first = nodes.from_original(first_vector(n, random_state))
    values, vectors = largest(matrix, n_comps, first)
    if n_cells is not None:
        vectors = vectors / np.sqrt(n_cells)[:, None]
    vectors = nodes.to_original(vectors[:, ::-1].astype(np.float32))
    return Spectrum(values[::-1].astype(np.float32), np.ascontiguousarray(vectors))


def first_vector(n: int, random_state: int) -> NDArray[np.float64]:
    """Return the vector that scanpy's search begins with."""
    return np.random.RandomState(random_state).standard_normal(n)


def largest(
    matrix: sp.csr_matrix, n_comps: int, first: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest eigenvalues of symmetric transitions, rising, and their vectors (n_obs, n_comps).

    Raises
    ------
    InputError
        The search does not converge.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    n = matrix.shape[0]
    tolerance = 0 if n < WORTH_IT else _LARGE_TOLERANCE
    try:
        values, vectors = eigsh(matrix, k=min(n - 1, n_comps), which="LM", v0=first, tol=tolerance)
    except ArpackNoConvergence as error:
        raise InputError(
            f"found {len(error.eigenvalues)} of {n_comps} diffusion components that converge",
            "a graph whose components are told apart",
            "use fewer n_comps, or more n_neighbors in pp.neighbors",
        ) from error
    return values, vectors


def transitions(graph: sp.csr_matrix, sizes: NDArray[np.float64] | None = None) -> sp.csr_matrix:
    """Return the symmetric transitions of a random walk that does not see how densely cells lie, float64.

    Of nodes that stand for ``sizes`` cells each, the walk of the cells is lumped. Nodes without an edge have none.
    """
    return walk(graph, sizes)[0]


def walk(
    graph: sp.csr_matrix, sizes: NDArray[np.float64] | None = None, *, sees_density: bool = False
) -> tuple[sp.csr_matrix, NDArray[np.float64]]:
    """Return these transitions, or those of a walk that sees how densely cells lie, and the root of its limit."""
    sizes = np.ones(graph.shape[0]) if sizes is None else sizes
    row = np.repeat(np.arange(graph.shape[0], dtype=np.int32), np.diff(graph.indptr))
    data = graph.data.astype(np.float64)
    if not sees_density:
        _divide(data, row, graph.indices, np.bincount(graph.indices, data, graph.shape[0]) / sizes)
    steady = np.sqrt(np.bincount(graph.indices, data, graph.shape[0]))
    _divide(data, row, graph.indices, steady)
    return sp.csr_matrix((data, graph.indices, graph.indptr), shape=graph.shape), steady


def _divide(
    data: NDArray[np.float64], row: NDArray[np.int32], column: NDArray[np.int32], by: NDArray[np.float64]
) -> None:
    factors = inverse(by)
    data *= factors[row]
    data *= factors[column]


def inverse(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 by each value, 0 by 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


class Distances:
    """Distances between cells along a diffusion map, a row at a time and only when asked for.

    Cells of other connected components are infinitely far. The arithmetic is scanpy's, in float32.

    Parameters
    ----------
    spectrum
        Components to use.
    component
        The connected component of each cell; None: one for all.

    Memory: 4 bytes a cell for each row that was asked for; never cells times cells.
    """

    def __init__(self, spectrum: Spectrum, component: NDArray[np.int32] | None) -> None:
        self._spectrum, self._component = spectrum, component
        self._rows: dict[int, NDArray[np.float32]] = {}

    @property
    def n(self) -> int:
        """Number of cells."""
        return int(self._spectrum.vectors.shape[0])

    def __getitem__(self, cell: int) -> NDArray[np.float32]:
        """Return the distances of a cell to all cells."""
        cell = int(cell)
        if cell not in self._rows:
            self._rows[cell] = self._row(cell)
        return self._rows[cell]

    def _row(self, cell: int) -> NDArray[np.float32]:
        values, vectors = self._spectrum.values, self._spectrum.vectors
        parts = []
        for moving in (True, False):
            squares = np.zeros(self.n, vectors.dtype)
            for j in range(values.size):
                if (values[j] < _STATIONARY) == moving:
                    step = vectors[cell, j] - vectors[:, j]
                    squares += (values[j] / (1 - values[j]) * step) ** 2 if moving else step**2
            parts.append(squares)
        row = parts[0] + parts[1]
        if self._component is not None:
            row[self._component != self._component[cell]] = np.inf
        return np.sqrt(row)


def pseudotime(distances: Distances, root: int) -> NDArray[np.float32]:
    """Return the distances to a root, the farthest that can be reached at 1."""
    row = distances[root].copy()
    longest = row[row < np.inf].max()
    return row / longest if longest > 0 else row
