"""The graph with its nodes in another order: with neighbours near in memory, walks over its edges are faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import config
from sc_dask.graph.partition import threaded
from sc_dask.kernels import order as kernels

# Smaller graphs are in cache as they are.
WORTH_IT = 50_000
_PART = 1024  # nodes of one breadth-first search
_TASKS_A_THREAD = 8


@dataclass(frozen=True)
class Ordered:
    """A graph, and the node of the original that each of its nodes is."""

    graph: sp.csr_matrix
    order: NDArray[np.int32] | None  # None: as it was

    def to_original(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of the nodes (one row each) in the order of the original graph."""
        if self.order is None:
            return values
        out = np.empty_like(values)
        out[self.order] = values
        return out

    def from_original(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of the original's nodes (one row each) in the order of this graph."""
        return values if self.order is None else values[self.order]


def ordered(graph: sp.csr_matrix) -> Ordered:
    """Return a symmetric graph with its nodes in breadth-first order; a small one as it is.

    Memory: the graph once more.
    """
    if graph.shape[0] < WORTH_IT:
        return Ordered(graph, None)
    order = kernels.breadth_first(graph.indptr, graph.indices, _PART)
    return Ordered(permuted(graph, order), order)


def permuted(graph: sp.csr_matrix, order: NDArray[np.int32]) -> sp.csr_matrix:
    """Return ``graph[order][:, order]``; columns of a row are in no order."""
    n, n_jobs = graph.shape[0], config.n_threads()
    rank = np.empty(n, np.int32)
    rank[order] = np.arange(n, dtype=np.int32)
    step = max(1024, -(-n // (n_jobs * _TASKS_A_THREAD)))
    begins = range(0, n, step)
    sizes = np.empty(n, graph.indptr.dtype)
    threaded(lambda a: kernels.row_sizes(graph.indptr, order, a, min(a + step, n), sizes), begins, n_jobs)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(graph.indptr.dtype)
    indices, weights = np.empty(graph.nnz, np.int32), np.empty(graph.nnz, graph.dtype)
    source = (graph.indptr, graph.indices, graph.data, order, rank)
    threaded(lambda a: kernels.copy_rows(*source, a, min(a + step, n), indptr, indices, weights), begins, n_jobs)
    out = sp.csr_matrix((weights, indices, indptr), shape=graph.shape)
    out.has_sorted_indices = False
    return out
