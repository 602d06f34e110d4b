"""Passes that highly variable genes need: moments of all genes, by batch, in one read."""

from __future__ import annotations

from typing import Any

import numpy as np

from sc_dask.array import qc
from sc_dask.array.blocks import Reduction, RowBlocks, before_last_steps, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.normalize import factors, is_log_of_counts, with_dropped_genes
from sc_dask.array.source import Block
from sc_dask.kernels import log_moments
from sc_dask.kernels.log_moments import LogSums
from sc_dask.kernels.moments import Moments, clipped_sums, merge_moments, moments, of_integers


def _moments(
    block: Block, groups: np.ndarray | None = None, *, n_groups: int = 1, expm1: bool = False, base: float | None = None
) -> Moments:
    return moments(block, groups, n_groups, "expm1" if expm1 else "identity", base)


MOMENTS: Reduction[Moments, Moments] = Reduction(_moments, merge_moments)


def _log_absorb(
    state: LogSums, block: Block, totals: np.ndarray, *groups: np.ndarray, target_sum: float, n_groups: int, **how: Any
) -> LogSums:
    return log_moments.absorb(state, block, factors(totals, target_sum), *groups, **how)


def _log_sums(block: Block, *rows: np.ndarray, n_groups: int, **how: Any) -> LogSums:
    return _log_absorb(log_moments.empty(n_groups, block.shape[1]), block, *rows, n_groups=n_groups, **how)


def _log_update(state: LogSums, block: Block, *rows: np.ndarray, **how: Any) -> LogSums:
    return _log_absorb(log_moments.copied(state), block, *rows, **how)


LOG_MOMENTS: Reduction[LogSums, Moments] = Reduction(
    _log_sums, log_moments.merge, log_moments.finish, updated_copy=_log_update, update_inplace=_log_absorb
)


def group_moments(
    x: RowBlocks, groups: np.ndarray | None = None, n_groups: int = 1, *, expm1: bool = False, base: float | None = None
) -> Moments:
    """Return count, mean, M2 and non-zeros of every gene in every group; 1 pass for any number of groups.

    ``groups`` holds a code per cell (int32, -1: in no group). ``expm1`` takes the moments of the values
    before their logarithm to ``base``. Memory: 32 bytes per gene, group and thread.
    """
    rows = () if groups is None else (groups.astype(np.int32),)
    if is_log_of_counts(x):
        options = {**x.expression.steps[-1].const, "n_groups": n_groups, "expm1": expm1, "expm1_base": base}
        x, cols = with_dropped_genes(x)
        m = run.compute(before_last_steps(reduce_rows(LOG_MOMENTS, x, *rows, **options)), label="moments")
        return m if cols is None else Moments(m.n, m.mean[:, cols], m.m2[:, cols], m.nnz[:, cols])
    lazy = reduce_rows(MOMENTS, x, *rows, n_groups=n_groups, expm1=expm1, base=base)
    return run.compute(lazy, label="moments")


def count_moments(x: RowBlocks, groups: np.ndarray | None, n_groups: int) -> Moments:
    """Return the same of counts, and learn in the same pass whether they are counts (`qc.not_counts`)."""
    rows = () if groups is None else (groups.astype(np.int32),)
    lazy = reduce_rows(MOMENTS, x, *rows, n_groups=n_groups)
    if x.known.values:
        m = run.compute(lazy, label="moments")
    else:
        m, genes = run.compute(lazy, reduce_rows(qc.GENES, x), label="moments")
        qc.keep(x, genes)
    return m if qc.not_counts(x) else of_integers(m)


def whole(m: Moments) -> Moments:
    """Return the moments of all groups together, (1, n_vars)."""
    out = Moments(m.n[:1], m.mean[:1], m.m2[:1], m.nnz[:1])
    for g in range(1, len(m.n)):
        out = merge_moments(out, Moments(m.n[g : g + 1], m.mean[g : g + 1], m.m2[g : g + 1], m.nnz[g : g + 1]))
    return out


def _clipped(block: Block, groups: np.ndarray | None = None, *, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return clipped_sums(block, clip, groups)


def _add(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return a[0] + b[0], a[1] + b[1]


CLIPPED: Reduction[Any, tuple[np.ndarray, np.ndarray]] = Reduction(_clipped, _add)


def clipped(x: RowBlocks, clip: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and sums of squares of ``min(x, clip)`` by group, each (n_groups, n_vars); 1 pass."""
    rows = () if groups is None else (groups.astype(np.int32),)
    return run.compute(reduce_rows(CLIPPED, x, *rows, clip=clip), label="clipped variances")
