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

from sc_dask.graph.partition import Partition, near_clusters, partition, threaded
from sc_dask.kernels import knn as kernels

CLUSTER_SIZE = 128
_ROWS_A_TASK = 4096
_COLUMNS_AT_ONCE = 512  # a tile of products stays in cache
# Rows that a cluster's cells are compared with at first: a constant times n_obs ** 0.3, as recall falls with the
# number of cells. 100,000 x 50 cells made from PBMC3k: 4,110, 0.90 of the neighbours, one round of descent 0.96.
_CANDIDATES, _POWER = 130, 0.3
_MAX_CANDIDATES = 65_536  # more would cost more than searching exactly is worth
_N_SAMPLE = 1000
_TRUTH_ROWS = 16_384  # compared with the sample in one task
_SPARE = 8  # neighbours that float32 products may put in the wrong order at the end of a list
_SETTLED = 0.002  # replaced neighbours, as a share: one more round would find next to nothing


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


Found = tuple[NDArray[np.int32], NDArray[np.float32]]


def search(
    x: NDArray[np.float32],
    n_neighbors: int,
    *,
    min_recall: float,
    seed: int,
    n_jobs: int,
) -> tuple[Found, list[tuple[Effort, float]]]:
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
    sample = np.sort(np.random.default_rng(seed).choice(p.rows.size, min(_N_SAMPLE, p.rows.size), replace=False))
    true = _true_distances(x, sample, n_neighbors - 1, n_jobs)
    attempts: list[tuple[Effort, float]] = []
    n_candidates = first_candidates(x.shape[0], n_neighbors)
    while True:
        near = near_clusters(p, n_candidates, n_jobs=n_jobs)
        lists = within_clusters(x, p, near, n_neighbors - 1, n_jobs)
        n_rounds = 0
        while True:
            changed = descended(x, lists, n_jobs)
            n_rounds += 1
            found = _settled(x, lists, p, n_jobs)
            at = p.rows[sample]
            attempts.append((Effort(n_candidates, n_rounds), recall_of(found[1][at], true)))
            if attempts[-1][1] >= min_recall:
                return found, attempts
            if changed < _SETTLED:
                break
        if n_candidates >= min(_MAX_CANDIDATES, x.shape[0]):
            return found, attempts
        n_candidates *= 4


def first_candidates(n_obs: int, n_neighbors: int) -> int:
    """Return the number of rows that the cells of a cluster are compared with at first."""
    return max(round(_CANDIDATES * n_obs**_POWER), 8 * n_neighbors)


def recall_of(found: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    """Return the share of found neighbours that are not farther than the farthest true one."""
    return float((found[:, 1:] <= true[:, -1:] * np.float32(1 + 1e-5)).mean())


def _true_distances(x: NDArray[np.float32], rows: NDArray[np.intp], k: int, n_jobs: int) -> NDArray[np.float32]:
    """Return the distances of ``rows`` to their ``k`` nearest of all others, ascending."""
    return nearest_distances(x, x[rows], rows, k, n_jobs)


def nearest_distances(
    x: NDArray[np.float32], queries: NDArray[np.float32], rows: NDArray[np.intp], k: int, n_jobs: int
) -> NDArray[np.float32]:
    """Return the distances of ``queries`` to the ``k`` nearest rows of ``x``, ascending; infinity where too few.

    ``rows`` says which row of ``x`` each query is, and so not its own neighbour; -1: none.
    """
    n_obs = x.shape[0]
    held = min(k + _SPARE, n_obs)
    centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    own = queries - centre
    own_norms = np.einsum("ij,ij->i", own, own)
    whole, starts = np.array([0]), np.append(np.arange(0, n_obs, _TRUTH_ROWS), n_obs)

    def compare(b: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        n = int(starts[b + 1] - starts[b])
        others, norms, names = np.empty((n, x.shape[1]), np.float32), np.empty(n, np.float32), np.empty(n, np.int32)
        kernels.gather(x, starts[b : b + 2], whole, centre, others, norms, names)
        indices, distances = np.full((rows.size, held), -1, np.int32), np.full((rows.size, held), np.inf, np.float32)
        for first in range(0, n, _COLUMNS_AT_ONCE):
            part = slice(first, first + _COLUMNS_AT_ONCE)
            # No row is numbered as low as this: queries do not stand in a row, and are left out below.
            kernels.take_nearest(
                own @ others[part].T, own_norms, norms[part], -rows.size, names[part], indices, distances
            )
        return indices, distances

    found = threaded(compare, range(starts.size - 1), n_jobs)
    indices, distances = (np.concatenate([f[i] for f in found], axis=1) for i in range(2))
    distances[(indices == rows[:, None]) | (indices < 0)] = np.inf
    nearest = np.take_along_axis(indices, np.argsort(distances, axis=1, kind="stable")[:, :held], axis=1)
    exact = np.linalg.norm(x[nearest].astype(np.float64) - queries.astype(np.float64)[:, None], axis=2)
    exact[(nearest == rows[:, None]) | (nearest < 0)] = np.inf
    out = np.full((rows.size, k), np.inf, np.float32)
    out[:, : min(k, held)] = np.sort(exact, axis=1)[:, :k]
    return out


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


def _settled(x: NDArray[np.float32], lists: Lists, p: Partition, n_jobs: int) -> Found:
    n_obs, k = lists.indices.shape
    indices, distances = np.empty((n_obs, k + 1), np.int32), np.empty((n_obs, k + 1), np.float32)

    def settle(a: int) -> None:
        kernels.settle(x, lists.indices, p.rows, a, min(a + _ROWS_A_TASK, n_obs), indices, distances)

    threaded(settle, range(0, n_obs, _ROWS_A_TASK), n_jobs)
    return indices, distances
