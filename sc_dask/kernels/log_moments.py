"""Moments of the genes after normalisation and logarithm, straight from the counts.

The same numbers as ``moments(normalize_log1p(block))``, without the block of floats in between: small counts of a cell
share one logarithm (and, for ``seurat``, one exponential), which a table of the cell holds. Deviations are taken about
a mean that is known beforehand, that of the first cells of a group, so one loop over the counts is enough; and sums of
many groups are added to where they are, since making and merging them costs as much as a block with few cells of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.kernels.csr import Array, values
from sc_dask.kernels.moments import Moments, rows_by_group
from sc_dask.kernels.normalize import TABLE_SIZE, log1p_of

_FIRST_CELLS = 512  # of a group, whose mean deviations are taken about: near enough, at a fraction of a block's time


@dataclass(frozen=True)
class LogSums:
    """State of :func:`absorb`; `finish` makes it moments."""

    n: NDArray[np.int64]  # n_groups, cells
    # n_groups x n_vars x 4: sum and sum of squares of the deviations of values that are not 0, their number, and what
    # they deviate from: half a cache line a gene
    sums: NDArray[np.float64]


def empty(n_groups: int, n_vars: int) -> LogSums:
    """Return the state before any block. Memory: ``32 n_groups n_vars`` bytes."""
    return LogSums(np.zeros(n_groups, np.int64), np.zeros((n_groups, n_vars, 4)))


def copied(state: LogSums) -> LogSums:
    """Return another state with the same numbers, for `absorb` to change."""
    return LogSums(state.n.copy(), state.sums.copy())


def absorb(
    state: LogSums,
    block: sp.csr_matrix,
    factors: NDArray[np.float64],
    groups: NDArray[np.int32] | None = None,
    *,
    base: float | None = None,
    expm1: bool = False,
    expm1_base: float | None = None,
) -> LogSums:
    """Add ``log1p(counts * factors)`` of a block to the state itself, and return it.

    Parameters
    ----------
    state
        Of as many groups as ``groups`` has.
    block
        csr, n_obs x n_vars, counts.
    factors
        float64 of n_obs: what cells are multiplied by.
    groups
        As in :func:`sc_dask.kernels.moments.moments`.
    base
        Base of the logarithm; None: e.
    expm1, expm1_base
        Sums of ``expm1(x * log(expm1_base))`` instead, taken in X's own float type as scanpy does.
    """
    order, starts = rows_by_group(groups, len(state.n), block.shape[0])
    over = 1.0 if base is None else 1.0 / math.log(base)
    power = 0.0 if not expm1 else 1.0 if expm1_base is None else math.log(expm1_base)
    one = np.ones(1, np.float64 if block.dtype == np.float64 else np.float32)
    parts = values(block.data), block.indices, block.indptr, factors, over, power, one, order
    n = np.diff(starts)
    for g in np.flatnonzero((n > 0) & (state.n == 0)):
        first, few = np.zeros((1, *state.sums.shape[1:])), min(int(n[g]), _FIRST_CELLS)
        _add_log_values(*parts, starts[g] + np.array([0, few]), first)
        state.sums[g, :, 3] = first[0, :, 0] / few
    _add_log_values(*parts, starts, state.sums)
    np.add(state.n, n, out=state.n)
    return state


def merge(a: LogSums, b: LogSums) -> LogSums:
    """Return the sums of the cells of both; exact when one of them is empty."""
    known = (a.n > 0)[:, None]
    out = np.empty_like(a.sums)
    out[..., 3] = np.where(known, a.sums[..., 3], b.sums[..., 3])
    out[..., 2] = a.sums[..., 2] + b.sums[..., 2]
    with np.errstate(invalid="ignore"):  # infinite values
        by = np.where(known, b.sums[..., 3] - a.sums[..., 3], 0.0)
        by = np.where((b.n > 0)[:, None], by, 0.0)
        out[..., 0] = a.sums[..., 0] + b.sums[..., 0] + b.sums[..., 2] * by
        out[..., 1] = a.sums[..., 1] + b.sums[..., 1] + 2 * by * b.sums[..., 0] + b.sums[..., 2] * by**2
    return LogSums(a.n + b.n, out)


def finish(state: LogSums) -> Moments:
    """Return the moments of all cells, zeros included."""
    total, squares, nnz, shift = (state.sums[..., i] for i in range(4))
    n = state.n[:, None]
    with np.errstate(invalid="ignore"):
        total = total - (n - nnz) * shift
        over_n = total / np.maximum(n, 1)
        m2 = np.maximum(squares + (n - nnz) * shift**2 - total * over_n, 0.0)
        return Moments(state.n, shift + over_n, m2, nnz.astype(np.int64))


@numba.njit(nogil=True, cache=True)
def _value(count: float, factor: float, over: float, power: float, one: Array) -> float:
    """Return a count's value, rounded wherever the steps in a row would round it."""
    x = one.dtype.type(log1p_of(count, factor, over, one))
    if power == 0:
        return np.float64(x)
    if power != 1:
        x = one.dtype.type(x * power)
    return np.float64(math.expm1(x))


@numba.njit(nogil=True, cache=True)
def _add_log_values(
    data: Array, indices: Array, indptr: Array, factors: Array, over: float, power: float, one: Array,
    order: Array, starts: Array, sums: Array,
) -> None:  # fmt: skip
    table = np.empty(TABLE_SIZE)
    for g in range(len(starts) - 1):
        acc = sums[g]
        for r in range(starts[g], starts[g + 1]):
            i = order[r]
            factor = factors[i]
            table[:] = -1.0
            for k in range(indptr[i], indptr[i + 1]):
                c = data[k]
                t = np.int64(c) if 0 <= c < TABLE_SIZE else -1
                if t >= 0 and t == c:
                    if table[t] < 0:
                        table[t] = _value(np.float64(c), factor, over, power, one)
                    v = table[t]
                else:
                    v = _value(np.float64(c), factor, over, power, one)
                j = np.uint32(indices[k])  # unsigned: spares numba's test for places counted from the end
                there = np.float64(v != 0)
                d = (v - acc[j, 3]) * there
                acc[j, 0] += d
                acc[j, 1] += d * d
                acc[j, 2] += there
