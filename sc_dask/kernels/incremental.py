"""Incremental PCA (Ross et al. 2008): components of all rows so far, from those of the rows before and one more tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.kernels.csr import Block, to_dense


@dataclass(frozen=True)
class IncrementalState:
    """Components of ``n`` rows: ``scaled`` are the components times their singular values."""

    n: int
    mean: NDArray[np.float64]  # p
    m2: NDArray[np.float64]  # p, sums of squared deviations
    scaled: NDArray[np.float64]  # k x p


def start(p: int) -> IncrementalState:
    """Return the state of no rows."""
    return IncrementalState(0, np.zeros(p), np.zeros(p), np.zeros((0, p)))


def update(state: IncrementalState, block: Block, n_comps: int, tile_rows: int) -> IncrementalState:
    """Return the state with the rows of a block added, ``tile_rows`` at a time; the mean is updated exactly.

    Memory: ``8 (tile_rows + n_comps) (p + tile_rows)`` bytes.
    """
    for at in range(0, block.shape[0], tile_rows):
        rows = block[at : at + tile_rows]
        tile = to_dense(rows, np.float64) if sp.issparse(rows) else np.array(rows, np.float64)
        state = _add(state, tile, n_comps)
    return state


def _add(state: IncrementalState, tile: NDArray[np.float64], n_comps: int) -> IncrementalState:
    b, n = len(tile), state.n
    tile_mean = tile.mean(axis=0)
    tile -= tile_mean
    delta = tile_mean - state.mean
    total = n + b
    m2 = state.m2 + (tile**2).sum(axis=0) + delta**2 * (n * b / total)
    rows = [state.scaled, tile]
    if n:
        rows.append((np.sqrt(n * b / total) * delta)[None, :])
    stacked = np.concatenate(rows)
    # the left singular vectors from the small Gram matrix: many times faster than an SVD of the wide one
    values, left = scipy.linalg.eigh(stacked @ stacked.T)
    top = np.argsort(values)[::-1][:n_comps]
    return IncrementalState(total, state.mean + delta * (b / total), m2, left[:, top].T @ stacked)


def components(state: IncrementalState) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return components (k x p, unit length), their variances (k) and the total variance, over ``n - 1``."""
    lengths = np.linalg.norm(state.scaled, axis=1)
    unit = np.divide(state.scaled, lengths[:, None], out=np.zeros_like(state.scaled), where=lengths[:, None] > 0)
    return unit, lengths**2 / (state.n - 1), float(state.m2.sum() / (state.n - 1))
