"""The neighbour graph without a cut-off: every pair of cells has a weight. For thousands of cells, not for millions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask import config
from sc_dask.errors import InputError, MemoryBudgetError
from sc_dask.price import readable

_LEAST = 1e-14  # a weight below is none
_MATRICES = 5  # of all pairs, in float64, at the peak


def check(n_obs: int, n_neighbors: int) -> None:
    """Refuse so many cells that all pairs of them do not fit into memory, and more neighbours than cells."""
    _check_number(n_obs, n_neighbors)
    needed, room = _MATRICES * 8 * n_obs**2, config.room()
    if needed > room:
        raise MemoryBudgetError(
            f"all pairs of {n_obs:,} cells need {readable(needed)}",
            f"at most {readable(room)} (the option sc-dask.memory, or what is free)",
            "knn=True, and raise n_neighbors",
        )


def _check_number(n_obs: int, n_neighbors: int) -> None:
    if not 2 <= n_neighbors <= n_obs:
        raise InputError(f"found n_neighbors={n_neighbors} of {n_obs} cells", f"a number from 2 to {n_obs}")


def distances(x: NDArray[Any], metric: str | Callable[..., float], metric_kwds: Mapping[str, Any]) -> NDArray[Any]:
    """Return the distances of all pairs of rows."""
    from sklearn.metrics import pairwise_distances

    found: NDArray[Any] = pairwise_distances(x, metric=metric, **metric_kwds)
    np.fill_diagonal(found, 0)
    return found


def gauss(d: NDArray[Any], n_neighbors: int, *, neighbours: NDArray[np.integer] | None = None) -> NDArray[Any]:
    """Return Gaussian weights of all pairs, or of pairs of ``neighbours`` only (n_obs, k), as scanpy has them.

    The width of a cell is half the distance of its ``n_neighbors``-th cell, itself counted (Haghverdi et al. 2016).
    """
    _check_number(len(d), n_neighbors)
    squared = np.asarray(d, np.float64) ** 2
    width2 = np.partition(squared, n_neighbors - 1, axis=1)[:, n_neighbors - 1] / 4
    total = np.add.outer(width2, width2)
    product = 2 * np.sqrt(np.multiply.outer(width2, width2))
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.sqrt(product / total) * np.exp(-squared / total)
    weights[total == 0] = 1  # equals of equals
    if neighbours is None:
        weights[weights <= _LEAST] = 0
    else:
        kept = np.zeros(weights.shape, bool)
        np.put_along_axis(kept, neighbours, True, axis=1)
        weights[~(kept | kept.T)] = 0
    return weights
