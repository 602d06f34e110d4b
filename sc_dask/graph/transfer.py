"""Neighbours of new cells among the cells of a reference, and the labels and numbers that these lend them.

The search is exact for small references. Above, new cells are dealt to the clusters of the reference (an inverted
file, Jegou, Douze & Schmid 2011) and compared with the nearest of these; how many is found out on 1,000 of the new
cells, whose true neighbours are known. Blocks of new cells are searched and used one by one, so that nothing of the
size of cells times neighbours need be held.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask.errors import InputError, RecallWarning
from sc_dask.graph import ivf
from sc_dask.graph.neighbors import EXACT_BELOW, IVF_METRICS, N_SAMPLE, check_finite, euclidean_rows
from sc_dask.graph.partition import near_clusters, nearest_centroid, partition, threaded
from sc_dask.kernels import knn as kernels

WEIGHTS = ("gaussian", "uniform", "distance")
_ROWS_A_TASK = 2048  # new cells; the same for any number of threads, and so the products that BLAS makes
_COLUMNS_AT_ONCE = 512  # a tile of products stays in cache
_TILE_NUMBERS = 1 << 22  # distances to centroids held by one task
_MAX_CANDIDATES = 65_536
_SPARE = 8  # neighbours that float32 products may put in the wrong order at the end of a list

Rows = NDArray[np.int64]
Found = tuple[NDArray[np.int32], NDArray[np.float32]]
Use = Callable[[Rows, NDArray[np.int32], NDArray[np.float32]], None]


@dataclass(frozen=True)
class Search:
    """How neighbours were searched."""

    method: str  # "brute" or "ivf"
    recall: float  # share of the true neighbours of 1,000 new cells that was found; 1 when exact


@dataclass(frozen=True)
class Labels:
    """Labels of the cells of a reference; code -1: none."""

    codes: NDArray[np.int32]
    n: int


@dataclass(frozen=True)
class Numbers:
    """Numbers of the cells of a reference; NaN: none."""

    values: NDArray[np.float64]


@dataclass(frozen=True)
class Lent:
    """What new cells get: codes of labels with 1 - their share of the weight, or means with standard deviations."""

    values: NDArray[Any]
    uncertainty: NDArray[np.float64]


def transfer(
    new: NDArray[Any],
    reference: NDArray[Any],
    columns: Sequence[Labels | Numbers],
    *,
    n_neighbors: int,
    weights: str,
    metric: str = "euclidean",
    min_recall: float = 0.95,
    seed: int = 0,
    n_jobs: int = 1,
) -> tuple[list[Lent], Search]:
    """Return what the nearest reference cells say of each new cell, for all columns from one search.

    Parameters
    ----------
    new, reference
        ``n_new x n_dims`` and ``n_reference x n_dims``, finite.
    columns
        What is known of the reference cells.
    weights
        As `weights_of` takes it.

    Memory: the reference twice, 12 bytes a new cell and 16 more for each column.
    """
    lent = [
        Lent(np.empty(len(new), np.int32 if isinstance(c, Labels) else np.float64), np.empty(len(new))) for c in columns
    ]

    def use(rows: Rows, indices: NDArray[np.int32], distances: NDArray[np.float32]) -> None:
        w = weights_of(distances, weights)
        for column, out in zip(columns, lent, strict=True):
            out.values[rows], out.uncertainty[rows] = (
                voted(indices, w, column) if isinstance(column, Labels) else averaged(indices, w, column)
            )

    how = search(new, reference, n_neighbors, use, metric=metric, min_recall=min_recall, seed=seed, n_jobs=n_jobs)
    return lent, how


def weights_of(distances: NDArray[np.float32], kind: str) -> NDArray[np.float64]:
    """Return the weights of neighbours, ``n x k``, from their distances.

    ``uniform``: 1. ``distance``: ``1 / d``, and where some are 0, those alone. ``gaussian``: ``exp(-d^2 / (2 s^2))``
    with the median distance of the cell's neighbours as ``s``, so that the scale of the representation does not matter
    (scArches takes ``exp(-d s^2 / 4)`` with their standard deviation, which depends on it).
    """
    d = distances.astype(np.float64)
    if kind == "uniform":
        return np.ones_like(d)
    if kind == "distance":
        equal = d == 0
        with np.errstate(divide="ignore"):
            return np.where(equal.any(axis=1, keepdims=True), equal, 1 / d)
    width = np.broadcast_to(np.median(d, axis=1, keepdims=True), d.shape)
    ratio = np.where(d > 0, np.inf, 0.0)
    np.divide(d, width, out=ratio, where=width > 0)
    return np.asarray(np.exp(-(ratio**2) / 2))


def voted(
    indices: NDArray[np.int32], weights: NDArray[np.float64], labels: Labels
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the label with most weight (of equals the first; -1 where no neighbour has one), and 1 - its share.

    Neighbours without a label count for none, so they add to the uncertainty.
    """
    n, k = indices.shape
    codes = labels.codes[indices].astype(np.int64)
    place = np.arange(n)[:, None] * (labels.n + 1) + np.where(codes < 0, labels.n, codes)
    sums = np.bincount(place.ravel(), weights.ravel(), n * (labels.n + 1)).reshape(n, labels.n + 1)
    best = sums[:, : labels.n].argmax(axis=1) if labels.n else np.zeros(n, np.int64)
    most = sums[np.arange(n), best] if labels.n else np.zeros(n)
    uncertainty = np.clip(1 - most / sums.sum(axis=1), 0, 1)
    return np.where(most > 0, best, -1).astype(np.int32), uncertainty


def averaged(
    indices: NDArray[np.int32], weights: NDArray[np.float64], numbers: Numbers
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weighted mean and standard deviation of the neighbours that have a number; NaN where none has."""
    values = numbers.values[indices]
    known = np.isfinite(values)
    values, weights = np.where(known, values, 0), np.where(known, weights, 0)
    total = weights.sum(axis=1)
    share = np.divide(weights, total[:, None], out=np.full(weights.shape, np.nan), where=total[:, None] > 0)
    mean = (share * values).sum(axis=1)
    return mean, np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))


def neighbours(new: NDArray[Any], reference: NDArray[Any], n_neighbors: int, **options: Any) -> tuple[Found, Search]:
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
    exact: bool = False,
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
    exact
        Compare all, however many.

    Memory: the reference twice and 12 bytes a new cell.
    """
    new, reference = _checked(new, reference, n_neighbors, metric)

    def used(rows: Rows, found: Found) -> None:
        indices, distances = found
        # of rows of length 1, half the squared distance is 1 - cosine
        use(rows, indices, distances if metric == "euclidean" else distances**2 / np.float32(2))

    if exact or len(reference) < EXACT_BELOW["euclidean"]:
        whole = _Whole.of(reference)
        begins = range(0, len(new), _ROWS_A_TASK)
        blocks = [np.arange(a, min(a + _ROWS_A_TASK, len(new))) for a in begins]
        threaded(lambda rows: used(rows, whole.nearest(new[rows], n_neighbors)), blocks, n_jobs)
        return Search("brute", 1.0)
    clusters = _Clusters.of(reference, seed, n_jobs)
    recall = clusters.widen(new, n_neighbors, min_recall, seed, n_jobs)
    if recall < min_recall:
        warnings.warn(
            f"found {recall:.3f} of the true neighbours of 1,000 cells; expected at least {min_recall}; "
            "next: lower min_recall or use fewer dimensions",
            RecallWarning,
            stacklevel=4,
        )
    pieces = clusters.dealt(new, n_jobs)
    threaded(lambda p: used(p[1], clusters.nearest(p[0], new[p[1]], n_neighbors)), pieces, n_jobs)
    return Search("ivf", recall)


@dataclass(frozen=True)
class _Whole:
    """A reference of which every row is compared."""

    x: NDArray[np.float32]
    centre: NDArray[np.float32]
    centred: NDArray[np.float32]
    norms: NDArray[np.float32]
    names: NDArray[np.int32]

    @classmethod
    def of(cls, x: NDArray[np.float32]) -> _Whole:
        # Seen from the centre distances are short, and so lose few digits in |x|^2 + |y|^2 - 2xy.
        centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = x - centre
        return cls(x, centre, centred, np.einsum("ij,ij->i", centred, centred), np.arange(len(x), dtype=np.int32))

    def nearest(self, new: NDArray[np.float32], k: int) -> Found:
        return _refined(self.x, new, _compared(new - self.centre, self.centred, self.norms, self.names, k), k)


@dataclass
class _Clusters:
    """A reference in clusters, each with the nearest others."""

    x: NDArray[np.float32]
    parts: Any  # Partition
    ordered: NDArray[np.float32]  # x, cluster by cluster
    near: list[NDArray[np.int64]]

    @classmethod
    def of(cls, x: NDArray[np.float32], seed: int, n_jobs: int) -> _Clusters:
        parts = partition(x, ivf.CLUSTER_SIZE, seed=seed, n_jobs=n_jobs)
        return cls(x, parts, np.ascontiguousarray(x[parts.rows]), [])

    def widen(self, new: NDArray[np.float32], k: int, min_recall: float, seed: int, n_jobs: int) -> float:
        """Choose the clusters that are compared, until enough true neighbours of a sample are found; the recall."""
        n = len(self.x)
        rows = np.sort(np.random.default_rng(seed).choice(len(new), min(N_SAMPLE, len(new)), replace=False))
        sample = new[rows]
        if not len(sample):
            return 1.0
        true = ivf.nearest_distances(self.x, sample, np.full(len(sample), -1), k, n_jobs)
        pieces = self.dealt(sample, n_jobs)
        n_candidates = ivf.first_candidates(n, k + 1)
        while True:
            self.near = near_clusters(self.parts, n_candidates, n_jobs=n_jobs)
            found = threaded(lambda p: self.nearest(p[0], sample[p[1]], k)[1] <= _radius(true[p[1]]), pieces, n_jobs)
            recall = float(np.concatenate(found).mean())
            if recall >= min_recall or n_candidates >= min(_MAX_CANDIDATES, n):
                return recall
            n_candidates *= 2

    def dealt(self, new: NDArray[np.float32], n_jobs: int) -> list[tuple[int, Rows]]:
        """Return new cells by their nearest cluster, at most `_ROWS_A_TASK` together."""
        step = max(1, _TILE_NUMBERS // self.parts.n_clusters)
        begins = range(0, len(new), step)
        labels = threaded(lambda a: nearest_centroid(new[a : a + step], self.parts.centroids), begins, n_jobs)
        label = np.concatenate([*labels, np.empty(0, np.int32)])
        rows = np.argsort(label, kind="stable")
        cuts = np.flatnonzero(np.diff(label[rows])) + 1
        return [
            (int(label[group[0]]), group[a : a + _ROWS_A_TASK])
            for group in np.split(rows, cuts)
            for a in range(0, len(group), _ROWS_A_TASK)
        ]

    def nearest(self, cluster: int, new: NDArray[np.float32], k: int) -> Found:
        starts, near, centre = self.parts.starts, self.near[cluster], self.parts.centroids[cluster]
        n = int((starts[near + 1] - starts[near]).sum())
        others, norms, names = np.empty((n, new.shape[1]), np.float32), np.empty(n, np.float32), np.empty(n, np.int32)
        kernels.gather(self.ordered, starts, near, centre, others, norms, names)
        indices, distances = _compared(new - centre, others, norms, names, k)
        return _refined(self.x, new, (np.where(indices < 0, -1, self.parts.rows[indices]), distances), k)


def _radius(true: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(true[:, -1:] * np.float32(1 + 1e-5))


def _compared(
    own: NDArray[np.float32],
    others: NDArray[np.float32],
    norms: NDArray[np.float32],
    names: NDArray[np.int32],
    k: int,
) -> Found:
    """Return the nearest of ``others`` of each row of ``own``, and some more, by products of matrices."""
    held = k + _SPARE
    indices, distances = np.full((len(own), held), -1, np.int32), np.full((len(own), held), np.inf, np.float32)
    own_norms = np.einsum("ij,ij->i", own, own)
    for first in range(0, len(others), _COLUMNS_AT_ONCE):
        part = slice(first, first + _COLUMNS_AT_ONCE)
        # No row is numbered as low as this: a new cell is nobody's equal.
        kernels.take_nearest(own @ others[part].T, own_norms, norms[part], -len(own), names[part], indices, distances)
    return indices, distances


def _refined(x: NDArray[np.float32], new: NDArray[np.float32], found: tuple[NDArray[Any], Any], k: int) -> Found:
    """Return the ``k`` nearest of those held, by differences, and by number where they are as near."""
    indices = found[0]
    difference = x[indices] - new[:, None]
    distances = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference))
    distances[indices < 0] = np.inf
    order = np.lexsort((indices, distances), axis=1)[:, :k]
    return np.take_along_axis(indices, order, axis=1).astype(np.int32), np.take_along_axis(distances, order, axis=1)


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
