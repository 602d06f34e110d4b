"""Leiden and Louvain on a CSR graph as it stands: no edge becomes a Python object, and no second graph is built.

The result of Leiden (Traag, Waltman & van Eck 2019) at the modularity that igraph and leidenalg reach, in a fraction of
their time and memory; which of several equally good partitions is found depends on the seed, as theirs does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import config
from sc_dask.graph.order import ordered
from sc_dask.graph.partition import threaded
from sc_dask.kernels import communities as kernels


@dataclass(frozen=True)
class Weighted:
    """A symmetric graph and what its nodes stand for."""

    adjacency: sp.csr_matrix
    strengths: NDArray[np.float64]
    sizes: NDArray[np.int64]  # nodes of the first graph in each

    @property
    def n(self) -> int:
        return int(self.strengths.size)

    @classmethod
    def of(cls, adjacency: sp.csr_matrix) -> Weighted:
        """Take a graph whose nodes are single cells."""
        strengths = kernels.sums_of_rows(adjacency.indptr, adjacency.data)
        return cls(adjacency, np.asarray(strengths, np.float64), np.ones(adjacency.shape[0], np.int64))

    def joined(self, labels: NDArray[np.int32]) -> Weighted:
        """Return the graph of the groups ``labels`` (0 to the largest): weights added up, inner ones too."""
        n_groups = int(labels.max()) + 1 if labels.size else 0
        strengths = np.bincount(labels, self.strengths, n_groups).astype(np.float64)
        sizes = np.bincount(labels, self.sizes, n_groups).astype(np.int64)
        return Weighted(aggregate(self.adjacency, labels), strengths, sizes)


def aggregate(adjacency: sp.csr_matrix, labels: NDArray[np.int32]) -> sp.csr_matrix:
    """Return the weights between groups, float64: the sum over the pairs of their members, so modularity is the same.

    Parameters
    ----------
    adjacency
        ``n x n``, symmetric.
    labels
        ``n``, from 0 without gaps.

    Memory: 12 bytes for each pair of groups that touch, and per thread 12 a group.
    """
    n_groups = int(labels.max()) + 1 if labels.size else 0
    return aggregate_rows(adjacency, labels, n_groups, labels, n_groups, config.n_threads())


def aggregate_rows(
    rows: sp.csr_matrix,
    row_labels: NDArray[np.int32],
    n_groups: int,
    labels: NDArray[np.int32],
    n_labels: int,
    n_jobs: int,
) -> sp.csr_matrix:
    """Return the weights from the groups of some rows (``n_groups``) to the groups of all columns (``n_labels``)."""
    nodes, starts = kernels.members_of(row_labels, n_groups)
    step = max(1, -(-n_groups // n_jobs))
    begins = range(0, n_groups, step)
    sizes = np.zeros(n_groups, np.int64)
    groups = (labels, n_labels, nodes, starts)
    a = rows
    threaded(
        lambda c: kernels.aggregate_sizes(a.indptr, a.indices, *groups, c, min(c + step, n_groups), sizes),
        begins,
        n_jobs,
    )
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    indices, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1])
    into = (indptr, indices, weights)
    threaded(
        lambda c: kernels.aggregate(a.indptr, a.indices, a.data, *groups, c, min(c + step, n_groups), *into),
        begins,
        n_jobs,
    )
    if indptr[-1] < np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)
    return sp.csr_matrix((weights, indices, indptr), shape=(n_groups, n_labels))


def communities(
    adjacency: sp.csr_matrix,
    *,
    resolution: float = 1.0,
    n_iterations: int = -1,
    seed: int = 0,
    refined: bool = True,
    initial: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """Return the communities of a symmetric graph, largest first.

    Parameters
    ----------
    adjacency
        ``n x n`` symmetric weights, none negative; float32 or float64.
    resolution
        Of modularity: higher gives more communities.
    n_iterations
        How often Leiden begins anew from what it has; -1: until nothing moves.
    refined
        Leiden; without, Louvain (Blondel 2008), whose communities may come apart.
    initial
        ``n`` labels to begin with; None: every node on its own.

    Memory: the graph once more, and about 100 bytes a node.
    """
    placed = ordered(adjacency)
    first = Weighted.of(placed.graph)
    labels = np.arange(first.n, dtype=np.int32) if initial is None else placed.from_original(initial).astype(np.int32)
    kernels.renumber(labels)
    state = np.array([np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] | np.uint64(1)], np.uint64)
    total = float(first.strengths.sum())
    done = 0
    while n_iterations < 0 or done < n_iterations:
        moved = _once(first, labels, resolution, total, refined, state)
        done += 1
        if not moved:
            break
    return by_size(placed.to_original(labels))


def _once(
    first: Weighted,
    labels: NDArray[np.int32],
    resolution: float,
    total: float,
    refined: bool,
    state: NDArray[np.uint64],
) -> bool:
    """Go from single nodes up to where nothing can be joined, changing ``labels`` of the first graph in place."""
    graph, of_node = (
        first,
        np.arange(first.n, dtype=np.int32),
    )  # the node of the graph in hand that holds each first node
    own = labels.copy()
    any_moved = False
    while True:
        a = graph.adjacency
        n_moves = kernels.move(
            a.indptr, a.indices, a.data, graph.strengths, graph.sizes, own, resolution, total, 0, state
        )
        any_moved |= n_moves > 0
        n_groups = kernels.renumber(own)
        labels[:] = own[of_node]
        if n_groups == graph.n:
            return any_moved
        finer = own
        if refined:
            finer = kernels.refine(a.indptr, a.indices, a.data, graph.strengths, own, resolution, total, state)
            if kernels.renumber(finer) == graph.n:
                finer = own  # nothing to join: the communities themselves are the nodes of the next graph
        coarse = np.empty(int(finer.max()) + 1, np.int32)
        coarse[finer] = own
        graph, of_node, own = graph.joined(finer), finer[of_node], coarse


def capped_groups(graph: Weighted, max_size: int, *, resolution: float, seed: int) -> NDArray[np.int32]:
    """Return groups of at most ``max_size`` first nodes that belong together: moving of nodes with a bound.

    Parameters
    ----------
    resolution
        Of modularity; higher keeps groups from joining what is only loosely connected.
    """
    labels = np.arange(graph.n, dtype=np.int32)
    state = np.array([np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] | np.uint64(1)], np.uint64)
    a = graph.adjacency
    kernels.move(
        a.indptr, a.indices, a.data, graph.strengths, graph.sizes, labels, resolution,
        float(graph.strengths.sum()), max_size, state,
    )  # fmt: skip
    kernels.renumber(labels)
    return labels


def by_size(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Number labels by falling size; equal ones in order of their first node."""
    names, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(names.size, np.int32)
    rank[np.lexsort((first, -counts))] = np.arange(names.size, dtype=np.int32)
    return rank[inverse].astype(np.int32)
