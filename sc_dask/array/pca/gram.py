"""The Gram matrix of the genes of a lazy X, whatever its last step is, without ever making dense blocks.

- A linear correction (`regress_out`, `scale` without ``max_value``) is left out: the co-moments of what is before it,
  and the genes' products with the covariates, give those of the result by algebra on small matrices.
- Another step that makes sparse blocks dense (cut values, Pearson residuals) is done on tiles that live in cache.
- Anything else is multiplied as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sc_dask.array import regress_out, spill
from sc_dask.array.blocks import Lazy, Reduction, RowBlocks, before_last_steps, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.regress_out import Correction, corrected, correction_of
from sc_dask.array.source import Block
from sc_dask.kernels.csr import take_rows
from sc_dask.kernels.gram import (
    TILE_ROWS,
    GramState,
    SplitState,
    empty_gram,
    finish,
    gram,
    gram_absorb,
    gram_update,
    merge_gram,
    merge_gram_inplace,
)

GRAM: Reduction[SplitState, GramState] = Reduction(
    gram, merge_gram, finish, updated_copy=gram_update, update_inplace=gram_absorb, merge_inplace=merge_gram_inplace
)


def tiles_of(
    block: Block, vectors: tuple[np.ndarray, ...], step: Callable[..., np.ndarray], options: dict[str, Any]
) -> Iterator[np.ndarray]:
    """Yield what ``step`` makes of a block, some rows at a time."""
    for start in range(0, block.shape[0], TILE_ROWS):
        rows = np.arange(start, min(start + TILE_ROWS, block.shape[0]))
        yield step(take_rows(block, rows), *(v[start : start + TILE_ROWS] for v in vectors), **options)


def _tiles_absorb(
    state: SplitState, block: Block, *vectors: np.ndarray, step: Any, options: dict[str, Any], dtype: Any
) -> SplitState:
    for tile in tiles_of(block, vectors, step, options):
        state = gram_absorb(state, tile, dtype)
    return state


def _tiles(block: Block, *vectors: np.ndarray, **how: Any) -> SplitState:
    return _tiles_absorb(empty_gram(block.shape[1]), block, *vectors, **how)


def _tiles_update(state: SplitState, block: Block, *vectors: np.ndarray, **how: Any) -> SplitState:
    copied = gram_update(state, np.empty((0, len(state.sums)), np.float32), how["dtype"])
    return _tiles_absorb(copied, block, *vectors, **how)


TILED_GRAM: Reduction[SplitState, GramState] = Reduction(
    _tiles,
    merge_gram,
    finish,
    updated_copy=_tiles_update,
    update_inplace=_tiles_absorb,
    merge_inplace=merge_gram_inplace,
)


def becomes_dense(x: RowBlocks) -> bool:
    """Tell whether the last step of ``x`` makes sparse blocks dense, given what it needs of the rows."""
    steps = x.expression.steps
    return (
        len(steps) > 0
        and not x.expression.is_sparse
        and x.expression.before(1).is_sparse
        and all(r.values is not None for r in steps[-1].rows)
    )


def in_tiles(x: RowBlocks) -> tuple[RowBlocks, dict[str, Any]]:
    """Return an X whose last step goes tile by tile, so that its blocks need not be cut finer, and that step."""
    last = x.expression.steps[-1]
    return RowBlocks(x.expression.uncut()), {"step": last.kernel, "options": dict(last.const)}


def comoments(x: RowBlocks, dtype: Any) -> tuple[GramState, RowBlocks]:
    """Return number, sums and co-moments of the columns of ``x``, and the X to read next: spilled, if possible.

    ``dtype`` is the precision of the products in a tile. Passes: 1.
    Memory: ``8 n_vars^2`` bytes a thread; 16 for each gene and covariate or group.
    """
    c = correction_of(x)
    c = c if c is not None and c.is_linear else None
    below = x if c is None else RowBlocks(x.expression.before(1))
    wanted: list[Lazy[Any]] = []
    if becomes_dense(below):
        below, how = in_tiles(below)
        wanted.append(before_last_steps(reduce_rows(TILED_GRAM, below, dtype=dtype, **how)))
    else:
        wanted.append(reduce_rows(GRAM, below, dtype=dtype))
    staged = below
    design = np.empty((x.shape[0], 0)) if c is None else c.design - c.design.mean(axis=0)
    if c is not None:
        wanted.append(reduce_rows(regress_out.CROSS, below, design, c.codes, n_levels=len(c.levels)))
    if spill.possible(below):
        laid, staged = spill.spill(below)
        wanted.append(laid)
    found = run.compute(*wanted, label="gram")
    state: GramState = found[0] if len(wanted) > 1 else found
    if c is None:
        return state, staged
    return _without(state, c, design, found[1]), corrected(staged, c)


def _without(state: GramState, c: Correction, design: np.ndarray, products: np.ndarray) -> GramState:
    """Return the moments of corrected values from those of ``x`` and its products with groups and centred design.

    With w the indicators of a cell's group and its design, and t the levels and coefficients, the deviations of the
    result are ``x - mean - (w - mean(w)) t``; all sums are of deviations, so large means cancel nowhere.
    """
    n, n_levels = state.n, len(c.levels)
    sizes = np.bincount(c.codes, minlength=n_levels).astype(np.float64)
    mean = state.sums / max(n, 1)
    across = products.copy()  # (n_levels + q) x p, of deviations of w and of x
    across[:n_levels] -= np.outer(sizes, mean)
    within = np.zeros((len(across),) * 2)
    within[:n_levels, :n_levels] = np.diag(sizes) - np.outer(sizes, sizes) / max(n, 1)
    within[n_levels:, n_levels:] = design.T @ design
    for k in range(design.shape[1]):
        within[:n_levels, n_levels + k] = np.bincount(c.codes, design[:, k], minlength=n_levels)
    within[n_levels:, :n_levels] = within[:n_levels, n_levels:].T
    t = np.vstack([c.levels, c.coefficients])
    half = (within / 2) @ t - across
    added = t.T @ half  # and its transpose
    square = np.triu(state.gram + added + added.T) * np.outer(c.factor, c.factor)
    explained = sizes @ c.levels + n * (c.design.mean(axis=0) @ c.coefficients)
    return GramState(n, (state.sums - explained) * c.factor, square)
