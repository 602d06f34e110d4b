"""UMAP's optimisation of coordinates: rounds over the edges of a graph, the same on any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.graph.partition import threaded, threads
from sc_dask.kernels import layout as kernels

_TASKS_A_THREAD = 8


@dataclass(frozen=True)
class Force:
    """The curve, and how strongly nodes move."""

    a: float
    b: float
    gamma: float
    n_negative: int
    alpha: float


@dataclass(frozen=True)
class How:
    """Seed, threads, and whom to tell of the rounds."""

    seed: int
    n_jobs: int
    on_epoch: Callable[[int, int], None] | None = None


def optimise(
    graph: sp.csr_matrix,
    start: NDArray[np.float32],
    force: Force,
    n_epochs: int,
    how: How,
    *,
    order: NDArray[np.int64] | None = None,
    done: int = 0,
    of: int | None = None,
) -> NDArray[np.float32]:
    """Return coordinates after ``n_epochs`` rounds from ``start``.

    Parameters
    ----------
    graph
        ``n x n``, symmetric; edges too weak to be met once are left out.
    start
        ``n x n_components``.
    order
        ``n`` nodes, such that neighbours are near; the work goes in this order. None: as they are.
    done, of
        Rounds before this call and in all, for ``how.on_epoch``.

    Memory: 6 bytes an edge (both directions count) and ``28 + 4 x n_components`` a node.
    """
    n = graph.shape[0]
    edges = _edges(graph, order, n_epochs, how.n_jobs)
    old = np.ascontiguousarray(start if order is None else start[order], dtype=np.float32)
    new = np.empty_like(old)
    tables = kernels.tables(force.a, force.b, force.gamma)
    rank = np.random.default_rng(how.seed).permutation(n).astype(np.int32)
    shuffled = np.empty_like(old)
    shuffled[rank] = old
    new_shuffled = np.empty_like(old)
    move = kernels.epoch_in_plane if old.shape[1] == 2 else kernels.epoch
    step = max(256, -(-n // (how.n_jobs * _TASKS_A_THREAD)))
    with threads(how.n_jobs) as run:
        for t in range(n_epochs):
            arrays = (*edges, old, shuffled, new, *tables)
            last = (t, force.alpha * (1 - t / n_epochs), force.n_negative, how.seed, 0)
            run(partial(_moved, move, arrays, last, step, rank, new_shuffled), range(0, n, step))
            old, new, shuffled, new_shuffled = new, old, new_shuffled, shuffled
            if how.on_epoch is not None:
                how.on_epoch(done + t + 1, of or n_epochs)
    if order is None:
        return old
    new[order] = old
    return new


Edges = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint16]]


def _moved(
    move: Any,
    arrays: tuple[Any, ...],
    last: tuple[Any, ...],
    step: int,
    rank: NDArray[np.int32],
    new_shuffled: NDArray[np.float32],
    a: int,
) -> None:
    end = min(a + step, rank.size)
    move(*arrays, a, end, *last)
    kernels.scatter(arrays[5], rank, a, end, new_shuffled)


def _edges(graph: sp.csr_matrix, order: NDArray[np.int64] | None, n_epochs: int, n_jobs: int) -> Edges:
    """Return indptr, indices and rates of the graph in this order, without edges that are never due."""
    n = graph.shape[0]
    order = np.arange(n, dtype=np.int64) if order is None else order
    rank = np.empty(n, np.int32)
    rank[order] = np.arange(n, dtype=np.int32)
    heaviest = float(graph.data.max()) if graph.nnz else 1.0
    least = heaviest / max(1, n_epochs)  # as umap-learn has it
    sizes = np.zeros(n, np.int64)
    step = max(256, -(-n // (n_jobs * _TASKS_A_THREAD)))
    begins = range(0, n, step)
    threaded(
        lambda a: kernels.count_edges(graph.indptr, graph.data, order, least, a, min(a + step, n), sizes),
        begins,
        n_jobs,
    )
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    indices, rates = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.uint16)
    threaded(
        lambda a: kernels.copy_edges(
            graph.indptr,
            graph.indices,
            graph.data,
            order,
            rank,
            least,
            heaviest,
            a,
            min(a + step, n),
            indptr,
            indices,
            rates,
        ),
        begins,
        n_jobs,
    )
    return indptr, indices, rates
