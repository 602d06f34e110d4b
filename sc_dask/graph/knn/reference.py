"""Neighbours of new cells among the cells of a reference.

The search is exact for small references. Above, new cells are assigned to the clusters of the reference (an inverted
file, Jegou, Douze & Schmid 2011) and compared with the nearest of these; how many is measured on 1,000 of the new
cells, whose true neighbours are known. Blocks of new cells are searched and used one by one, so that nothing of the
size of cells times neighbours need be in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.graph.knn import exact, ivf, recall
from sc_dask.graph.knn.neighbors import EXACT_BELOW, IVF_METRICS, check_finite, euclidean_rows
from sc_dask.graph.knn.recall import Neighbours
from sc_dask.graph.partition import Partition, near_clusters, nearest_centroid, partition, threaded
from sc_dask.kernels import knn as kernels

_ROWS_A_TASK = 2048  # new cells; the same for any number of threads, and so the products that BLAS makes
_TILE_NUMBERS = 1 << 22  # distances to centroids in memory of one task
_MAX_CANDIDATES = 65_536

Rows = NDArray[np.int64]
Use = Callable[[Rows, NDArray[np.int32], NDArray[np.float32]], None]


@dataclass(frozen=True)
class Search:
    """How neighbours were searched."""

    method: str  # "brute" or "ivf"
    recall: float  # share of the true neighbours of 1,000 new cells that was found; 1 when exact


def neighbours(
    new: NDArray[Any], reference: NDArray[Any], n_neighbors: int, **options: Any
) -> tuple[Neighbours, Search]:
    """Return indices and distances, ``n_new x n_neighbors`` each, of the nearest reference cells; options of `search`.

    Memory: as `search`, and 8 bytes a new cell and neighbour.
    """
    shape = (len(new), n_neighbors)
    found = np.empty(shape, np.int32), np.empty(shape, np.float32)

    def use(rows: Rows, indices: NDArray[np.int32], distances: NDArray[np.float32]) -> None:
        found[0][rows], found[1][rows] = indices, distances

    how = search(new, reference, n_neighbors, use, **options)
    return found, how


def search(
    new: NDArray[Any],
    reference: NDArray[Any],
    n_neighbors: int,
    use: Use,
    *,
    metric: str = "euclidean",
    min_recall: float = 0.95,
    exact_search: bool = False,
    seed: int = 0,
    n_jobs: int = 1,
) -> Search:
    """Find the nearest reference cells of every new cell, and hand them over block by block.

    Exact for references up to 32,768 cells; above with a recall that is measured on 1,000 new cells and raised until
    it is ``min_recall``. The same seed gives the same neighbours on any number of threads.

    Parameters
    ----------
    new, reference
        ``n_new x n_dims`` and ``n_reference x n_dims``, finite.
    use
        ``use(rows, indices, distances)`` with some new cells and their neighbours, nearest first; called from several
        threads, each new cell once.
    metric
        ``euclidean``, ``cosine`` or ``correlation``.
    exact_search
        Compare all, however many.

    Memory: the reference twice and 12 bytes a new cell.
    """
    new, reference = _checked(new, reference, n_neighbors, metric)

    def used(rows: Rows, found: Neighbours) -> None:
        indices, distances = found
        # of rows of length 1, half the squared distance is 1 - cosine
        use(rows, indices, distances if metric == "euclidean" else distances**2 / np.float32(2))

    if exact_search or len(reference) < EXACT_BELOW["euclidean"]:
        begins = range(0, len(new), _ROWS_A_TASK)
        blocks = [np.arange(a, min(a + _ROWS_A_TASK, len(new))) for a in begins]
        threaded(lambda rows: used(rows, exact.nearest(reference, new[rows], n_neighbors)), blocks, n_jobs)
        return Search("brute", 1.0)
    clusters = _Clusters.of(reference, seed, n_jobs)
    share = clusters.widen(new, n_neighbors, min_recall, seed, n_jobs)
    recall.warn_below(min_recall, share, stacklevel=4)
    parts = clusters.split(new, n_jobs)
    threaded(lambda p: used(p[1], clusters.nearest(p[0], new[p[1]], n_neighbors)), parts, n_jobs)
    return Search("ivf", share)


@dataclass
class _Clusters:
    """A reference in clusters, each with the nearest others."""

    x: NDArray[np.float32]
    clusters: Partition
    ordered: NDArray[np.float32]  # x, cluster by cluster
    near: list[NDArray[np.int64]]

    @classmethod
    def of(cls, x: NDArray[np.float32], seed: int, n_jobs: int) -> _Clusters:
        clusters = partition(x, ivf.CLUSTER_SIZE, seed=seed, n_jobs=n_jobs)
        return cls(x, clusters, np.ascontiguousarray(x[clusters.rows]), [])

    def widen(self, new: NDArray[np.float32], k: int, min_recall: float, seed: int, n_jobs: int) -> float:
        """Choose the clusters that are compared, until enough true neighbours of a sample are found; the recall."""
        n = len(self.x)
        if not len(new):
            return 1.0
        sample = new[recall.sample(len(new), seed)]
        true = exact.nearest(self.x, sample, k, n_jobs=n_jobs)[1]
        parts = self.split(sample, n_jobs)
        n_candidates = ivf.first_candidates(n, k + 1)
        while True:
            self.near = near_clusters(self.clusters, n_candidates, n_jobs=n_jobs)
            found = threaded(lambda p: recall.hits(self.nearest(p[0], sample[p[1]], k)[1], true[p[1]]), parts, n_jobs)
            share = float(np.concatenate(found).mean())
            if share >= min_recall or n_candidates >= min(_MAX_CANDIDATES, n):
                return share
            n_candidates *= 2

    def split(self, new: NDArray[np.float32], n_jobs: int) -> list[tuple[int, Rows]]:
        """Return new cells by their nearest cluster, at most `_ROWS_A_TASK` together."""
        step = max(1, _TILE_NUMBERS // self.clusters.n_clusters)
        begins = range(0, len(new), step)
        labels = threaded(lambda a: nearest_centroid(new[a : a + step], self.clusters.centroids), begins, n_jobs)
        label = np.concatenate([*labels, np.empty(0, np.int32)])
        rows = np.argsort(label, kind="stable")
        cuts = np.flatnonzero(np.diff(label[rows])) + 1
        return [
            (int(label[group[0]]), group[a : a + _ROWS_A_TASK])
            for group in np.split(rows, cuts)
            for a in range(0, len(group), _ROWS_A_TASK)
        ]

    def nearest(self, cluster: int, new: NDArray[np.float32], k: int) -> Neighbours:
        starts, near, centre = self.clusters.starts, self.near[cluster], self.clusters.centroids[cluster]
        n = int((starts[near + 1] - starts[near]).sum())
        others, norms, names = np.empty((n, new.shape[1]), np.float32), np.empty(n, np.float32), np.empty(n, np.int32)
        kernels.gather(self.ordered, starts, near, centre, others, norms, names)
        indices = exact.by_products(new - centre, others, norms, names, k)[0]
        return exact.by_differences(self.x, new, np.where(indices < 0, -1, self.clusters.rows[indices]), k)


def _checked(
    new: NDArray[Any], reference: NDArray[Any], n_neighbors: int, metric: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if new.ndim != 2 or reference.ndim != 2 or new.shape[1] != reference.shape[1]:
        raise InputError(
            f"found new cells of shape {new.shape} and a reference of shape {reference.shape}",
            "the same number of dimensions",
            "bring both into one representation",
        )
    if not isinstance(n_neighbors, int | np.integer) or not 1 <= n_neighbors <= len(reference):
        raise InputError(
            f"found n_neighbors={n_neighbors!r} for a reference of {len(reference)} cells",
            f"an integer from 1 to {len(reference)}",
        )
    check_finite(new)
    check_finite(reference)
    rows = [euclidean_rows(np.ascontiguousarray(x, np.float32), metric) for x in (new, reference)]
    if rows[0] is None or rows[1] is None:
        raise InputError(
            f"found metric={metric!r}, or a cell of length 0",
            f"one of {', '.join(IVF_METRICS)}, and cells that have a direction",
            'use metric="euclidean"',
        )
    return rows[0], rows[1]
