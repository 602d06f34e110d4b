"""Cells in clusters of some hundred neighbours: k-means in two levels, so that a search looks at few cells only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sc_dask import blas

T = TypeVar("T")

_ROWS_AT_ONCE = 8192  # the same for any number of threads, and so the products that BLAS makes
_SAMPLE_A_CLUSTER = 256
_N_ROUNDS = 6
# A cluster beyond this many times the wanted size is cut: equal cells cannot be told apart by distance.
_MAX_TIMES = 4


@dataclass(frozen=True)
class Partition:
    """Rows sorted into clusters. Neighbouring clusters stand near each other, and so do their rows in memory."""

    rows: NDArray[np.int64]  # n_obs: the rows, cluster by cluster
    starts: NDArray[np.int64]  # n_clusters + 1: where the rows of a cluster begin
    centroids: NDArray[np.float32]  # n_clusters x n_dims

    @property
    def n_clusters(self) -> int:
        return int(self.starts.size - 1)


@contextlib.contextmanager
def threads(n_jobs: int) -> Iterator[Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]]:
    """Open ``n_jobs`` threads, each with one thread of BLAS: what is yielded maps like ``map`` and returns a list."""
    with blas.one_thread():
        if n_jobs == 1:
            yield lambda function, items: [function(item) for item in items]
            return
        with ThreadPoolExecutor(n_jobs) as pool:
            yield lambda function, items: list(pool.map(function, items))


def threaded(function: Callable[[Any], T], items: Iterable[Any], n_jobs: int) -> list[T]:
    """Call ``function`` of every item on ``n_jobs`` threads, each with one thread of BLAS; results in order."""
    with threads(n_jobs) as run:
        return run(function, items)


def partition(x: NDArray[np.float32], size: int, *, seed: int, n_jobs: int) -> Partition:
    """Sort the rows of ``x`` into clusters of about ``size`` by k-means (Lloyd 1982).

    First a number of coarse clusters is found on a sample of rows, then each is divided on its own; so the work grows
    with ``n_obs ** 1.5``. The same seed gives the same clusters on any number of threads.

    Parameters
    ----------
    x
        ``n_obs x n_dims``, finite.
    size
        Wanted rows in a cluster; at most four times as many.

    Memory: 8 bytes a row, and the largest coarse cluster once more.
    """
    n_obs = x.shape[0]
    n_clusters = max(1, round(n_obs / size))
    rng = np.random.default_rng(seed)
    n_coarse = max(1, round(n_clusters**0.5))
    n_sampled = min(n_obs, _SAMPLE_A_CLUSTER * n_coarse)
    sample = x[np.sort(rng.choice(n_obs, n_sampled, replace=False))] if n_sampled < n_obs else x
    coarse = coarse_centroids(sample, n_coarse, rng)
    begins = range(0, n_obs, _ROWS_AT_ONCE)
    parts = threaded(lambda a: nearest_centroid(x[a : a + _ROWS_AT_ONCE], coarse), begins, n_jobs)
    rows, starts = _sorted(np.concatenate(parts), n_coarse)
    seeds = rng.integers(2**63, size=n_coarse)

    def divide(c: int) -> tuple[NDArray[np.int64], list[int], NDArray[np.float32]]:
        own = rows[starts[c] : starts[c + 1]]
        return divided(x[own], own, size, np.random.default_rng(seeds[c]))

    parts_of = threaded(divide, range(n_coarse), n_jobs)
    sizes = np.concatenate([np.asarray(d[1], np.int64) for d in parts_of])
    return Partition(
        np.concatenate([d[0] for d in parts_of]),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate([d[2] for d in parts_of]),
    )


def coarse_centroids(sample: NDArray[np.float32], n_clusters: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return centroids of a sample of rows, near ones near each other."""
    return _in_order(_k_means(sample, n_clusters, rng))


def nearest_centroid(x: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return for every row of ``x`` the number of the nearest of the ``centroids``."""
    score = x @ centroids.T
    score *= -2
    score += np.einsum("ij,ij->i", centroids, centroids)
    return np.asarray(score.argmin(axis=1), dtype=np.int32)


def near_clusters(
    p: Partition, n_rows: int, *, n_jobs: int, of: NDArray[np.int64] | None = None
) -> list[NDArray[np.int64]]:
    """Return for every cluster (or those ``of``) itself and the nearest others, until they hold ``n_rows`` rows."""
    of = np.arange(p.n_clusters) if of is None else of
    sizes = np.diff(p.starts)
    norms = np.einsum("ij,ij->i", p.centroids, p.centroids)
    least = max(1, int(np.sort(sizes)[: max(1, sizes.size // 8)].mean()))
    n_near = min(p.n_clusters, max(8, 2 * n_rows // least))

    def near(a: int) -> list[NDArray[np.int64]]:
        own = of[a : a + 256]
        score = norms - 2 * (p.centroids[own] @ p.centroids.T)
        score[np.arange(own.size), own] = -np.inf
        nearest = np.argpartition(score, n_near - 1, axis=1)[:, :n_near]
        order = np.argsort(np.take_along_axis(score, nearest, axis=1), axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)
        enough = np.cumsum(sizes[nearest], axis=1) >= n_rows
        return [row[: int(e.argmax()) + 1 if e.any() else n_near] for row, e in zip(nearest, enough, strict=True)]

    return [row for part in threaded(near, range(0, of.size, 256), n_jobs) for row in part]


def _k_means(x: NDArray[np.float32], n_clusters: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return ``n_clusters`` centroids, fewer where rows are equal."""
    centroids = x[np.sort(rng.choice(x.shape[0], min(n_clusters, x.shape[0]), replace=False))]
    for _ in range(_N_ROUNDS if centroids.shape[0] > 1 else 0):
        label = np.concatenate(
            [nearest_centroid(x[a : a + _ROWS_AT_ONCE], centroids) for a in range(0, x.shape[0], _ROWS_AT_ONCE)]
        )
        rows, starts = _sorted(label, centroids.shape[0])
        used = np.diff(starts) > 0
        sums = np.add.reduceat(x[rows], starts[:-1][used], axis=0, dtype=np.float64)
        centroids = (sums / np.diff(starts)[used, None]).astype(np.float32)
    return centroids


def _in_order(centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sort centroids along the direction in which they differ most."""
    centred = centroids - centroids.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return centroids[np.argsort(centred @ axes[0], kind="stable")]


def _sorted(label: NDArray[np.int32], n_clusters: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows = np.argsort(label, kind="stable").astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=n_clusters))]).astype(np.int64)
    return rows, starts


def divided(
    x: NDArray[np.float32], own: NDArray[np.int64], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], list[int], NDArray[np.float32]]:
    """Divide one coarse cluster; return ``own`` sorted by cluster, and sizes and centroids of the clusters."""
    n_clusters = max(1, round(own.size / size))
    if own.size == 0:
        return own, [], np.empty((0, x.shape[1]), np.float32)
    centroids = _in_order(_k_means(x, n_clusters, rng))
    label = nearest_centroid(x, centroids)
    rows, starts = _sorted(label, centroids.shape[0])
    sizes, kept = [], []
    for c in range(centroids.shape[0]):
        n = int(starts[c + 1] - starts[c])
        n_pieces = -(-n // (_MAX_TIMES * size))
        for piece in range(n_pieces):
            sizes.append(n * (piece + 1) // n_pieces - n * piece // n_pieces)
            kept.append(c)
    return own[rows], sizes, centroids[kept]
