"""Approximate neighbours: exact within neighbouring clusters, then neighbours of neighbours, with a measured recall.

The first part is an inverted file (Jegou, Douze & Schmid 2011) whose queries are whole clusters, so that distances
are products of matrices; the second is nearest-neighbour descent (Dong, Moses & Li 2011), which mends what lies
across the borders. Both work on rows sorted by cluster, so that what is compared is near in memory, and both give the
same result on any number of threads.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sc_dask.graph.knn import exact, recall
from sc_dask.graph.partition import Partition, near_clusters, partition, threaded
from sc_dask.kernels import knn as kernels

CLUSTER_SIZE = 128
_ROWS_A_TASK = 4096
_COLUMNS_AT_ONCE = 512  # a tile of products stays in cache
# Rows that a cluster's cells are compared with at first: a constant times n_obs ** 0.3, as recall falls with the
# number of cells. 100,000 x 50 cells made from PBMC3k: 4,110, 0.90 of the neighbours, one round of descent 0.96.
_CANDIDATES, _POWER = 130, 0.3
_MAX_CANDIDATES = 65_536  # more would cost more than searching exactly is worth
_CONVERGED = 0.002  # replaced neighbours, as a share: one more round would find next to nothing


@dataclass(frozen=True)
class Effort:
    """What was done so far: rows compared with each cluster, rounds of descent."""

    n_candidates: int
    n_rounds: int


@dataclass
class Lists:
    """Neighbours so far, nearest first."""

    indices: NDArray[np.int32]  # n_obs x k, positions in the sorted rows, the cell itself left out
    distances: NDArray[np.float32]  # squared
    fresh: NDArray[np.uint8]


def search(
    x: NDArray[np.float32],
    n_neighbors: int,
    *,
    min_recall: float,
    seed: int,
    n_jobs: int,
) -> tuple[recall.Neighbours, list[tuple[Effort, float]]]:
    """Return neighbours (self first), and what each attempt found of those of a sample of cells; the last is the best.

    Parameters
    ----------
    x
        ``n_obs x n_dims``, finite, float32.
    n_neighbors
        Of a cell, itself counted.
    min_recall
        Share of the true neighbours of 1,000 cells at which the search ends.

    Memory: ``x`` once more and about 35 bytes per cell and neighbour.
    """
    p = partition(x, CLUSTER_SIZE, seed=seed, n_jobs=n_jobs)
    x = np.ascontiguousarray(x[p.rows])
    sample = recall.sample(p.rows.size, seed)
    true = exact.nearest(x, x[sample], n_neighbors - 1, own=sample, n_jobs=n_jobs)[1]
    attempts: list[tuple[Effort, float]] = []
    n_candidates = first_candidates(x.shape[0], n_neighbors)
    while True:
        near = near_clusters(p, n_candidates, n_jobs=n_jobs)
        lists = within_clusters(x, p, near, n_neighbors - 1, n_jobs)
        n_rounds = 0
        while True:
            changed = descended(x, lists, n_jobs)
            n_rounds += 1
            found = _finalized(x, lists, p, n_jobs)
            at = p.rows[sample]
            attempts.append((Effort(n_candidates, n_rounds), recall.of_distances(found[1][at, 1:], true)))
            if attempts[-1][1] >= min_recall:
                return found, attempts
            if changed < _CONVERGED:
                break
        if n_candidates >= min(_MAX_CANDIDATES, x.shape[0]):
            return found, attempts
        n_candidates *= 4


def first_candidates(n_obs: int, n_neighbors: int) -> int:
    """Return the number of rows that the cells of a cluster are compared with at first."""
    return max(round(_CANDIDATES * n_obs**_POWER), 8 * n_neighbors)


def within_clusters(x: NDArray[np.float32], p: Partition, near: list[NDArray[np.int64]], k: int, n_jobs: int) -> Lists:
    """Compare every row of ``x``, sorted by cluster, with the rows of its cluster and of those near (itself first)."""
    n_obs = x.shape[0]
    indices = np.full((n_obs, k), -1, np.int32)
    distances = np.full((n_obs, k), np.inf, np.float32)

    def compare(c: int) -> None:
        a, b = p.starts[c], p.starts[c + 1]
        n_rows = int((p.starts[near[c] + 1] - p.starts[near[c]]).sum())
        rows, norms = np.empty((n_rows, x.shape[1]), np.float32), np.empty(n_rows, np.float32)
        names = np.empty(n_rows, np.int32)
        # Seen from the cluster's centre distances are short, and so lose few digits in |x|^2 + |y|^2 - 2xy.
        kernels.gather(x, p.starts, near[c], p.centroids[c], rows, norms, names)
        own, own_norms = rows[: b - a], norms[: b - a]  # a cluster is the first of those near it
        for first in range(0, n_rows, _COLUMNS_AT_ONCE):
            part = slice(first, first + _COLUMNS_AT_ONCE)
            kernels.take_nearest(
                own @ rows[part].T, own_norms, norms[part], a, names[part], indices[a:b], distances[a:b]
            )

    threaded(compare, range(p.n_clusters), n_jobs)
    return Lists(indices, distances, np.ones((n_obs, k), np.uint8))


def descended(x: NDArray[np.float32], lists: Lists, n_jobs: int) -> float:
    """Offer every cell its neighbours' neighbours, in place; return the share of neighbours that were replaced."""
    n_obs, k = lists.indices.shape
    back, back_fresh = np.empty((n_obs, k), np.int32), np.zeros((n_obs, k), np.uint8)
    kernels.reverse(lists.indices, lists.fresh, back, back_fresh)
    new = Lists(lists.indices.copy(), lists.distances, np.zeros((n_obs, k), np.uint8))
    marks: queue.SimpleQueue[NDArray[np.int32]] = queue.SimpleQueue()
    for _ in range(n_jobs):
        marks.put(np.full(n_obs, -1, np.int32))

    def offer(a: int) -> int:
        seen = marks.get()
        n = kernels.descend(
            x, lists.indices, lists.fresh, back, back_fresh, a, min(a + _ROWS_A_TASK, n_obs),
            new.indices, new.distances, new.fresh, seen,
        )  # fmt: skip
        marks.put(seen)
        return int(n)

    changed = sum(threaded(offer, range(0, n_obs, _ROWS_A_TASK), n_jobs))
    lists.indices, lists.distances, lists.fresh = new.indices, new.distances, new.fresh
    return changed / max(1, n_obs * k)


def _finalized(x: NDArray[np.float32], lists: Lists, p: Partition, n_jobs: int) -> recall.Neighbours:
    n_obs, k = lists.indices.shape
    indices, distances = np.empty((n_obs, k + 1), np.int32), np.empty((n_obs, k + 1), np.float32)

    def finalize(a: int) -> None:
        kernels.finalize(x, lists.indices, p.rows, a, min(a + _ROWS_A_TASK, n_obs), indices, distances)

    threaded(finalize, range(0, n_obs, _ROWS_A_TASK), n_jobs)
    return indices, distances
