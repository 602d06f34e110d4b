"""Principal components as every solver reports them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sc_dask.array.blocks import Reduction, RowBlocks, before_last_steps, collect_rows, scan_rows
from sc_dask.array.engine import run
from sc_dask.array.pca.gram import becomes_dense, in_tiles, tiles_of
from sc_dask.array.regress_out import correction_of
from sc_dask.array.source import Block
from sc_dask.errors import InputError
from sc_dask.kernels.gram import project
from sc_dask.kernels.regress_out import corrected_scores

_ROWS = 4096  # of the scores at a time


@dataclass(frozen=True)
class PCA:
    """Scores (n_obs, k), components (k, n_vars), variance (k,) and variance_ratio (k,)."""

    scores: np.ndarray
    components: np.ndarray
    variance: np.ndarray
    variance_ratio: np.ndarray


def signed(components: np.ndarray) -> np.ndarray:
    """Make the largest loading of each component positive, so that the sign does not hang on the solver."""
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    return components * np.where(signs == 0, 1, signs)[:, None]


def finite(values: np.ndarray) -> np.ndarray:
    """Return the values, which tell whether X is finite."""
    if not np.isfinite(values).all():
        raise InputError("X holds NaN or infinite values", "finite numbers", "look at the genes' sums for NaN")
    return values


def ratio(variance: np.ndarray, total: float) -> np.ndarray:
    """Return the share of each variance in the total; 0 where nothing varies."""
    return variance / total if total > 0 else np.zeros_like(variance)


def scores_of(x: RowBlocks, components: np.ndarray, mean: np.ndarray | None, dtype: Any) -> np.ndarray:
    """Return the cells (less the mean) along the components: one pass; blocks are not made dense as a whole."""
    kind = np.float32 if np.dtype(dtype) == np.float32 else np.float64
    basis = np.ascontiguousarray(components.T, kind)
    offset = None if mean is None else mean @ basis.astype(np.float64)
    c = correction_of(x)
    if c is not None and c.is_linear:
        below, along = RowBlocks(x.expression.before(1)), c.factor[:, None] * components.T
        lazy = collect_rows(
            corrected_scores,
            below,
            c.design,
            c.codes,
            basis=np.ascontiguousarray(along, kind),
            of_levels=c.levels @ along + (0 if offset is None else offset),
            of_design=c.coefficients @ along,
            dtype=dtype,
        )
    elif becomes_dense(x):
        whole, how = in_tiles(x)
        lazy = before_last_steps(collect_rows(_tile_scores, whole, basis=basis, offset=offset, dtype=dtype, **how))
    else:
        lazy = collect_rows(project, x, components=basis, offset=offset, dtype=dtype)
    return run.compute(lazy, label="scores")


def _tile_scores(
    block: Block, *vectors: np.ndarray, step: Any, options: dict[str, Any], basis: np.ndarray, offset: Any, dtype: Any
) -> np.ndarray:
    found = [project(tile, basis, offset, dtype) for tile in tiles_of(block, vectors, step, options)]
    return np.concatenate(found) if found else np.empty((0, basis.shape[1]), dtype)


def _centred_scores(
    block: Block, *, basis: np.ndarray, offset: np.ndarray, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the centred scores and the sum of their outer products."""
    found = project(block, basis, offset, np.float64)
    return found.astype(dtype, copy=False), found.T @ found


SCORES: Reduction[Any, Any] = Reduction(_centred_scores, np.add)


def rotated(
    x: RowBlocks, leading: np.ndarray, mean: np.ndarray, squares: float, zero_center: bool, dtype: np.dtype[Any]
) -> PCA:
    """Return the components in the space of ``leading`` (p, k; orthonormal) whose scores are uncorrelated: one pass.

    No other components in that space are closer to those of X. ``mean`` and ``squares`` are the genes' means and the
    sum of all squared deviations from them.
    """
    n_obs, centre = x.shape[0], mean @ leading
    kind = np.dtype(np.float32) if dtype == np.float32 else np.dtype(np.float64)
    lazy = scan_rows(SCORES, x, basis=leading, offset=centre, dtype=kind)
    found, outer = run.compute(lazy, label="scores")
    turn = np.linalg.eigh(outer if zero_center else outer + n_obs * np.outer(centre, centre))[1][:, ::-1]
    unsigned = (leading @ turn).T
    components = signed(unsigned)
    turn = turn * np.sign((components * unsigned).sum(axis=1))
    scores = np.require(found, dtype, "W")
    for start in range(0, n_obs, _ROWS):
        part = scores[start : start + _ROWS]
        part[:] = (part if zero_center else part + centre) @ turn
    degrees = n_obs - 1 if zero_center else n_obs  # not centred: as TruncatedSVD reports it
    variance = np.maximum(np.einsum("ik,ij,jk->k", turn, outer, turn, optimize=True), 0) / degrees
    return PCA(scores, components, variance, ratio(variance, squares / degrees))
