"""Incremental PCA (Ross et al. 2008): components of all rows so far, from those before and one tile more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.kernels.csr import Block, to_dense


@dataclass(frozen=True)
class IncrementalState:
    """Components of ``n`` rows: ``scaled`` are the components times their singular values.

    ``held`` are the latest rows, too few for a tile: tiles are the same however the rows come in blocks.
    """

    n: int
    mean: NDArray[np.float64]  # p
    m2: NDArray[np.float64]  # p, sums of squared deviations
    scaled: NDArray[np.float64]  # k x p
    held: tuple[Block, ...] = ()


def start(p: int) -> IncrementalState:
    """Return the state of no rows."""
    return IncrementalState(0, np.zeros(p), np.zeros(p), np.zeros((0, p)))


def update(state: IncrementalState, block: Block, n_comps: int, tile_rows: int) -> IncrementalState:
    """Return the state with the rows of a block added, ``tile_rows`` at a time; the mean is updated exactly.

    Memory: ``8 (tile_rows + n_comps) (p + tile_rows)`` bytes.
    """
    at = 0
    while block.shape[0] - at >= (missing := tile_rows - sum(h.shape[0] for h in state.held)):
        state = _add(state, _tile([*state.held, block[at : at + missing]]), n_comps)
        at += missing
    return replace(state, held=(*state.held, block[at:].copy())) if at < block.shape[0] else state


def finish(state: IncrementalState, n_comps: int) -> IncrementalState:
    """Return the state with the rows added that were too few for a tile."""
    return _add(state, _tile(state.held), n_comps) if state.held else state


def _tile(parts: Sequence[Block]) -> NDArray[np.float64]:
    return np.concatenate([to_dense(b, np.float64) if sp.issparse(b) else np.array(b, np.float64) for b in parts])


def _add(state: IncrementalState, tile: NDArray[np.float64], n_comps: int) -> IncrementalState:
    b, n = len(tile), state.n
    tile_mean = tile.mean(axis=0)
    tile -= tile_mean
    delta = tile_mean - state.mean
    total = n + b
    m2 = state.m2 + (tile**2).sum(axis=0) + delta**2 * (n * b / total)
    mean = state.mean + delta * (b / total)
    if not np.isfinite(m2).all():  # no eigenvectors: the caller sees it at the end
        return IncrementalState(total, mean, m2, np.full((1, len(mean)), np.nan))
    rows = [state.scaled, tile]
    if n:
        rows.append((np.sqrt(n * b / total) * delta)[None, :])
    stacked = np.concatenate(rows)
    # the left singular vectors from the small Gram matrix: many times faster than an SVD of the wide one
    values, left = scipy.linalg.eigh(stacked @ stacked.T)
    top = np.argsort(values)[::-1][:n_comps]
    return IncrementalState(total, mean, m2, left[:, top].T @ stacked)


def components(state: IncrementalState) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return components (k x p, unit length), their variances (k) and the total variance, over ``n - 1``."""
    lengths = np.linalg.norm(state.scaled, axis=1)
    unit = np.divide(state.scaled, lengths[:, None], out=np.zeros_like(state.scaled), where=lengths[:, None] > 0)
    return unit, lengths**2 / (state.n - 1), float(state.m2.sum() / (state.n - 1))
