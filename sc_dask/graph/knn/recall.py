"""Recall of a neighbour search: the share of true neighbours of a sample of cells that it returned."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from sc_dask.errors import RecallWarning

N_SAMPLE = 1000
_TIE = np.float32(1 + 1e-5)  # rounding of float32 distances, which are computed in different orders

Neighbours = tuple[NDArray[np.int32], NDArray[np.float32]]  # indices and distances, nearest first


def sample(n_rows: int, seed: int) -> NDArray[np.intp]:
    """Return the rows that a recall is measured on: 1,000 at random, or all of fewer, in ascending order."""
    return np.sort(np.random.default_rng(seed).choice(n_rows, min(N_SAMPLE, n_rows), replace=False))


def hits(found: NDArray[np.float32], true: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which neighbours are no farther than the farthest true one, which counts ties as true neighbours.

    ``found``, ``true``: distances (n_rows, k), the cell itself left out.
    """
    return np.asarray(found <= true[:, -1:] * _TIE)


def of_distances(found: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    """Return the recall from distances (n_rows, k) that are computed alike, the cell itself left out."""
    return float(hits(found, true).mean())


def of_neighbours(found: Neighbours, true: Neighbours) -> float:
    """Return the recall from indices and distances, the cell itself first.

    The same index counts too, whatever its distance: another library may compute that with other rounding.
    """
    hit = hits(found[1][:, 1:], true[1][:, 1:])
    hit |= (found[0][:, 1:, None] == true[0][:, None, 1:]).any(axis=2)
    return float(hit.mean())


def warn_below(
    min_recall: float, recall: float, *, after: str = "", fix: str = "use fewer dimensions", stacklevel: int
) -> None:
    """Warn if a search stayed below ``min_recall``; ``after`` says how long it was tried."""
    if recall < min_recall:
        warnings.warn(
            f"found {recall:.3f} of the true neighbours of {N_SAMPLE:,} cells{after}; expected at least {min_recall}; "
            f"next: lower min_recall, or {fix}",
            RecallWarning,
            stacklevel=stacklevel + 1,
        )
