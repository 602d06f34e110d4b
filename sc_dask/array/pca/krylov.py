"""Randomized PCA of a lazy X: a block Krylov space of the Gram matrix, which is never formed."""

from __future__ import annotations

from typing import Any

import numpy as np

from sc_dask import blas
from sc_dask.array import hvg, spill
from sc_dask.array.blocks import Lazy, Reduction, RowBlocks, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.pca.components import PCA, finite, rotated
from sc_dask.kernels.times_gram import (
    TILE_ROWS,
    TimesGramState,
    merge_times_gram,
    times_comoments,
    times_gram,
    times_gram_absorb,
    times_gram_update,
)
from sc_dask.price import Size

# Directions per component in the three passes. Falling: what a pass adds is chosen from what the one before has found.
# For 50 components of 100,000 cells (flat tail), columns in all: largest error of a variance: 3 x 70: 5e-2,
# 3 x 200: 1.8e-3, 3 x 300: 1.2e-4, 450 + 300 + 150: 4.6e-5.
_DIRECTIONS = (9, 6, 3)
_FEW = 50  # fewer components are sought as widely as so many: in a flat tail they need it (20 of Kang: 0.97 without)
_SPARE = 20  # directions beyond the rank, so that a space that holds all of X is well conditioned
_INSIDE = 1e-10  # a direction that is so near to a space is in it
_ROWS = 4096  # of p at a time in products with p x k

TIMES_GRAM: Reduction[TimesGramState, TimesGramState] = Reduction(
    times_gram, merge_times_gram, updated_copy=times_gram_update, update_inplace=times_gram_absorb
)


def randomized(
    x: RowBlocks, n_comps: int, *, zero_center: bool = True, random_state: int = 0, dtype: Any = np.float32
) -> PCA:
    """PCA by block Krylov iteration (Musco & Musco 2015), centred implicitly. Any number of genes.

    Three products of the Gram matrix A with ever fewer directions span a space V; ``AV (V^T A V)^-1 (AV)^T`` (Nystroem)
    gives the components from them without a further pass, half a power of A better than Rayleigh-Ritz in V. The scores'
    own covariance turns the components at last, so that variances are those of the scores.

    An approximation, close where variances fall and still close where they hardly do. Smallest |cosine| of the first 20
    of 50 components with those of ``exact``, of all 50, and largest error of the 50 variances: PBMC3k (1,872 genes)
    0.999998, 0.99998, 2e-5; 100,000 simulated cells of 2,000 genes 0.999996, 0.99996, 5e-5; 6,000 cells of Kang (1,287
    genes, the flattest tail) 0.9999, 0.999, 4e-4. Exact up to ``9 max(n_comps, 50)`` genes or so many cells.

    Passes: 4; 1 where blocks can be spilled.
    Memory: ``144 n_vars max(n_comps, 50)`` bytes a thread, six times as much for the driver.
    """
    with blas.one_thread():
        staged, leading, mean, squares = _leading(x, n_comps, zero_center, random_state)
        return rotated(staged, leading, mean, squares, zero_center, np.dtype(dtype))


def randomized_memory(size: Size, n_comps: int, chunk_size: int | None = None) -> int:
    """Return the bytes of the products with all directions, and of tiles: two of each state, twelve of the driver."""
    width = min(_DIRECTIONS[0] * max(n_comps, _FEW), size.genes)
    return 8 * width * (size.genes * (2 * size.states + 12) + 2 * TILE_ROWS * size.streams)


def _leading(
    x: RowBlocks, n_comps: int, zero_center: bool, random_state: int
) -> tuple[RowBlocks, np.ndarray, np.ndarray, float]:
    """Return the X to read next, the leading directions (p, k), means and squared deviations of the genes: 3 passes."""
    n_obs, p = x.shape
    widths = _widths(n_comps, n_obs, p)
    basis = _orthonormal(np.random.default_rng(random_state).standard_normal((p, widths[0])))
    wanted: list[Lazy[Any]] = [reduce_rows(TIMES_GRAM, x, basis=basis), reduce_rows(hvg.MOMENTS, x)]
    staged = x
    if spill.possible(x):
        laid, staged = spill.spill(x)
        wanted.append(laid)
    state, moments, *_ = run.compute(*wanted, label="krylov")
    squares = float(finite(moments.m2).sum())
    space, product = np.empty((p, sum(widths))), np.empty((p, sum(widths)))
    done = 0
    for width in widths:
        if done:
            basis = _further(space[:, :done], product[:, :done], width)
            if not basis.size:  # A leads nowhere else
                break
            state = run.compute(reduce_rows(TIMES_GRAM, staged, basis=basis), label="krylov")
        to = done + basis.shape[1]
        space[:, done:to], product[:, done:to] = basis, times_comoments(state, zero_center)
        done = to
    leading = _nystroem(space[:, :done], product[:, :done], n_comps)
    return staged, np.linalg.qr(leading)[0], moments.mean[0], squares


def _widths(n_comps: int, n_obs: int, p: int) -> list[int]:
    """Return how many directions each pass multiplies; no more than X can have, so small ones need fewer passes."""
    unit, left, out = max(n_comps, _FEW), min(p, n_obs + _SPARE), []
    for n in _DIRECTIONS:
        out.append(min(n * unit, left))
        left -= out[-1]
    return [width for width in out if width]


def _nystroem(space: np.ndarray, product: np.ndarray, k: int) -> np.ndarray:
    """Return the k leading eigenvectors, p x k, of ``A V (V^T A V)^-1 (A V)^T``: orthogonal, of any length.

    Directions that A takes to rounding are left out of the inverse; zeros stand in where fewer than k stay.
    """
    small = space.T @ product
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
    half = vectors[:, kept] / np.sqrt(values[kept])
    inner = np.zeros((half.shape[1],) * 2)
    for start in range(0, len(product), _ROWS):
        part = product[start : start + _ROWS] @ half
        inner += part.T @ part
    turn = half @ np.linalg.eigh(inner)[1][:, ::-1][:, :k]
    out = np.zeros((len(product), k))
    out[:, : turn.shape[1]] = product @ turn
    return out


def _further(space: np.ndarray, product: np.ndarray, width: int) -> np.ndarray:
    """Return up to ``width`` orthonormal directions outside the space: what A makes of its leading ones."""
    found = _nystroem(space, product, width)
    found /= np.maximum(np.linalg.norm(found, axis=0), np.finfo(np.float64).tiny)
    for _ in range(2):  # the second time for what rounding has left
        found -= space @ (space.T @ found)
        found = _orthonormal(found[:, np.linalg.norm(found, axis=0) > _INSIDE])
    return found


def _orthonormal(x: np.ndarray) -> np.ndarray:
    """Return orthonormal columns, C-ordered, that span what those of x do; fewer where these depend on each other.

    By products alone: of 60,000 x 450, LAPACK's QR took 22 s.
    """
    for _ in range(2):  # the second time the columns are nearly so, and their products exact
        values, vectors = np.linalg.eigh(x.T @ x)
        kept = values > max(values.max(initial=0), 0) * len(values) * np.finfo(np.float64).eps
        x = x @ (vectors[:, kept] / np.sqrt(values[kept]))
    return np.ascontiguousarray(x)
