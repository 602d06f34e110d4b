"""Incremental PCA (Ross et al. 2008): components of all rows so far, from those before and one tile more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.kernels.csr import Block, to_dense

_ROWS = 256


@dataclass(frozen=True)
class IncrementalState:
    """Components of ``n`` rows: ``scaled`` are the components times their singular values.

    ``remainder`` are the latest rows, too few for a tile: tiles are the same however the rows come in blocks.
    """

    n: int
    mean: NDArray[np.float64]  # p
    m2: NDArray[np.float64]  # p, sums of squared deviations
    scaled: NDArray[np.float64]  # k x p
    remainder: tuple[Block, ...] = ()


def start(p: int) -> IncrementalState:
    """Return the state of no rows."""
    return IncrementalState(0, np.zeros(p), np.zeros(p), np.zeros((0, p)))


def update(state: IncrementalState, block: Block, n_kept: int, tile_rows: int) -> IncrementalState:
    """Return the state with the rows of a block added, ``tile_rows`` at a time; the mean is updated exactly.

    Parameters
    ----------
    state, block
        Rows so far, and those that follow (n_obs x p).
    n_kept
        Components carried from tile to tile: the more, the less is lost.
    tile_rows
        Rows of a tile.

    Memory: ``8 (tile_rows + 3 n_kept) p`` bytes and ``16 min(tile_rows + n_kept, p)^2``.
    """
    at = 0
    while block.shape[0] - at >= (missing := tile_rows - sum(h.shape[0] for h in state.remainder)):
        state = _add(state, [*state.remainder, block[at : at + missing]], n_kept)
        at += missing
    return replace(state, remainder=(*state.remainder, block[at:].copy())) if at < block.shape[0] else state


def finish(state: IncrementalState, n_kept: int) -> IncrementalState:
    """Return the state with the rows added that were too few for a tile."""
    return _add(state, state.remainder, n_kept) if state.remainder else state


def _fill(tile: NDArray[np.float64], parts: Sequence[Block]) -> None:
    """Copy rows into a tile, some at a time: no second tile is made."""
    at = 0
    for part in parts:
        for start in range(0, part.shape[0], _ROWS):
            piece = part[start : start + _ROWS]
            tile[at : at + piece.shape[0]] = to_dense(piece) if sp.issparse(piece) else piece
            at += piece.shape[0]


def _add(state: IncrementalState, parts: Sequence[Block], n_kept: int) -> IncrementalState:
    n, b, (k, p) = state.n, sum(part.shape[0] for part in parts), state.scaled.shape
    total = n + b
    stacked = np.empty((k + b + bool(n), p))
    stacked[:k], tile = state.scaled, stacked[k : k + b]
    _fill(tile, parts)
    tile_mean = tile.mean(axis=0)
    tile -= tile_mean
    delta = tile_mean - state.mean
    if n:
        stacked[-1] = np.sqrt(n * b / total) * delta
    m2 = state.m2 + np.einsum("ij,ij->j", tile, tile) + delta**2 * (n * b / total)
    mean = state.mean + delta * (b / total)
    if not np.isfinite(m2).all():  # no eigenvectors: the caller sees it at the end
        return IncrementalState(total, mean, m2, np.full((1, p), np.nan))
    return IncrementalState(total, mean, m2, _compressed(stacked, n_kept))


def _compressed(x: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the k leading right singular vectors of x times their singular values.

    From the smaller Gram matrix: many times faster than an SVD of x itself.
    """
    rows, p = x.shape
    size = min(rows, p)
    top = [max(size - k, 0), size - 1]
    if rows <= p:
        return scipy.linalg.eigh(x @ x.T, subset_by_index=top, overwrite_a=True)[1][:, ::-1].T @ x
    values, vectors = scipy.linalg.eigh(x.T @ x, subset_by_index=top, overwrite_a=True)
    return np.sqrt(np.maximum(values, 0))[::-1, None] * vectors[:, ::-1].T
