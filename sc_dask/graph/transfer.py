"""Labels and numbers that new cells get from their nearest cells of a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask.graph.knn.reference import Rows, Search, search

WEIGHTS = ("gaussian", "uniform", "distance")


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
class Transferred:
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
) -> tuple[list[Transferred], Search]:
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
    transferred = [
        Transferred(np.empty(len(new), np.int32 if isinstance(c, Labels) else np.float64), np.empty(len(new)))
        for c in columns
    ]

    def use(rows: Rows, indices: NDArray[np.int32], distances: NDArray[np.float32]) -> None:
        w = weights_of(distances, weights)
        for column, out in zip(columns, transferred, strict=True):
            out.values[rows], out.uncertainty[rows] = (
                voted(indices, w, column) if isinstance(column, Labels) else averaged(indices, w, column)
            )

    how = search(new, reference, n_neighbors, use, metric=metric, min_recall=min_recall, seed=seed, n_jobs=n_jobs)
    return transferred, how


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
