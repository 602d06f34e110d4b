"""Partition-based graph abstraction (Wolf 2019): how much groups of nodes are connected beyond chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

_EDGES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Abstraction:
    """A graph of groups."""

    connectivities: sp.csr_matrix  # n_groups x n_groups, float64
    tree: sp.csr_matrix  # the spanning tree of the strongest, each of its edges stored once


def edge_counts(graph: sp.csr_matrix, source: NDArray[np.int32], target: NDArray[np.int32], n: int) -> sp.csr_matrix:
    """Count the stored entries from each group to each, zeros too, in one sweep.

    Parameters
    ----------
    source, target
        Group of each row, and of each column.
    n
        Number of groups.

    Memory: 30 bytes for each of four million edges at a time, and the pairs of groups that have an edge.
    """
    total = sp.csr_matrix((n, n), dtype=np.float64)
    cuts = np.searchsorted(graph.indptr, np.arange(0, graph.nnz, _EDGES_AT_ONCE), side="left")
    bounds = np.unique([0, *cuts, graph.shape[0]])
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        sizes = np.diff(graph.indptr[begin : end + 1])
        columns = target[graph.indices[graph.indptr[begin] : graph.indptr[end]]]
        pairs = (np.repeat(source[begin:end], sizes), columns)
        total = total + sp.coo_matrix((np.ones(columns.size), pairs), shape=(n, n)).tocsr()
    return total.tocsr()


def by_neighbours(counts: sp.csr_matrix, sizes: NDArray[np.int64]) -> Abstraction:
    """Return the model v1.2: edges between two groups over those expected when neighbours are drawn by chance, up to 1.

    Parameters
    ----------
    counts
        Directed edges of the nearest neighbours between groups, those within on the diagonal.
    sizes
        Nodes of each group.
    """
    outgoing = np.asarray(counts.sum(axis=1)).ravel()
    between = _outside(counts)
    between = (between + between.T).tocsr()
    i, j = between.nonzero()
    expected = (outgoing[i] * sizes[j] + outgoing[j] * sizes[i]) / (sizes.sum() - 1)
    share = np.divide(between.data, expected, out=np.ones_like(between.data), where=expected != 0)
    connectivities = sp.csr_matrix((np.minimum(share, 1), (i, j)), shape=between.shape)
    return Abstraction(connectivities, _tree(connectivities, connectivities))


def by_weights(counts: sp.csr_matrix, sizes: NDArray[np.int64], n_neighbors: int) -> Abstraction:
    """Return the model v1.0: edges between two groups over ``n_neighbors`` times the mean size (geometric) of both.

    Parameters
    ----------
    counts
        Edges of the connectivities, both directions of each, between groups.
    """
    between = _outside(counts)
    between = ((between + between.T) / 2).tocsr()
    i, j = between.nonzero()
    share = between.data / np.sqrt(float(n_neighbors) ** 2 * sizes[i] * sizes[j])
    connectivities = sp.csr_matrix((share, (i, j)), shape=between.shape)
    return Abstraction(connectivities, _tree(connectivities, between))


def transitions(counts: sp.csr_matrix, sizes: NDArray[np.int64], n_neighbors: int) -> sp.csr_matrix:
    """Return how sure it is that cells go from group j to group i (entry i, j), by the edges of a directed graph."""
    net = (counts - counts.T).tocsr()
    net.data = np.maximum(net.data, 0)
    net.eliminate_zeros()
    i, j = net.nonzero()
    reach = float(n_neighbors) * sizes
    return sp.csr_matrix((net.data / np.sqrt(reach[i] * reach[j]), (j, i)), shape=net.shape)


Model = Callable[[sp.csr_matrix, NDArray[np.int64], int], Abstraction]
MODELS: dict[str, Model] = {"v1.2": lambda counts, sizes, _: by_neighbours(counts, sizes), "v1.0": by_weights}


def _outside(counts: sp.csr_matrix) -> sp.csr_matrix:
    out = counts.tocsr(copy=True)
    out.setdiag(0)
    out.eliminate_zeros()
    return out


def _tree(connectivities: sp.csr_matrix, weights: sp.csr_matrix) -> sp.csr_matrix:
    from scipy.sparse.csgraph import minimum_spanning_tree

    inverse = weights.copy()
    inverse.data = 1.0 / inverse.data
    i, j = minimum_spanning_tree(inverse).nonzero()
    values = np.asarray(connectivities[i, j]).ravel() if len(i) else np.empty(0)
    return sp.csr_matrix((values, (i, j)), shape=connectivities.shape)
