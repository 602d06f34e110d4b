"""Moments of the genes after normalisation and logarithm, straight from the counts.

The same numbers as ``moments(normalize_log1p(block))``, without the block of floats in between: small counts of a cell
share one logarithm (and, for ``seurat``, one exponential), which a table of the cell holds. Deviations are taken about
a mean that is known beforehand, that of the cells before, so one loop over the counts is enough.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.kernels.csr import Array, values
from sc_dask.kernels.moments import Moments, merge_moments, rows_by_group
from sc_dask.kernels.normalize import TABLE_SIZE, log1p_of


def log_moments(
    block: sp.csr_matrix,
    factors: NDArray[np.float64],
    groups: NDArray[np.int32] | None = None,
    n_groups: int = 1,
    *,
    base: float | None = None,
    expm1: bool = False,
    expm1_base: float | None = None,
    near: NDArray[np.float64] | None = None,
) -> Moments:
    """Return the moments of ``log1p(counts * factors)`` of one block.

    Parameters
    ----------
    block
        csr, n_obs x n_vars, counts.
    factors
        float64 of n_obs: what cells are multiplied by.
    groups, n_groups
        As in :func:`sc_dask.kernels.moments.moments`.
    base
        Base of the logarithm; None: e.
    expm1, expm1_base
        Moments of ``expm1(x * log(expm1_base))`` instead, taken in X's own float type as scanpy does.
    near
        n_groups x n_vars: a mean to take deviations about; None: the block's own, for one loop more. It changes the
        result by rounding only.

    Memory: ``32 n_vars`` bytes.
    """
    order, starts = rows_by_group(groups, n_groups, block.shape[0])
    over = 1.0 if base is None else 1.0 / math.log(base)
    power = 0.0 if not expm1 else 1.0 if expm1_base is None else math.log(expm1_base)
    one = np.ones(1, np.float64 if block.dtype == np.float64 else np.float32)
    shape = (n_groups, block.shape[1])

    def about(shift: Array) -> Moments:
        mean, m2, nnz = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
        parts = values(block.data), block.indices, block.indptr
        _log_moments(*parts, factors, over, power, one, order, starts, shift, mean, m2, nnz)
        return Moments(np.diff(starts), mean, m2, nnz)

    return about(about(np.zeros(shape)).mean if near is None else near)


def log_moments_update(
    state: Moments, block: sp.csr_matrix, factors: NDArray[np.float64], **options: object
) -> Moments:
    """Return ``merge_moments(state, log_moments(block, ...))``, in one loop where every group has been seen before."""
    near = None if (state.n == 0).any() else state.mean
    return merge_moments(state, log_moments(block, factors, near=near, **options))  # type: ignore[arg-type]


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
def _log_moments(
    data: Array, indices: Array, indptr: Array, factors: Array, over: float, power: float, one: Array,
    order: Array, starts: Array, shift: Array, mean: Array, m2: Array, nnz: Array,
) -> None:  # fmt: skip
    n_vars = shift.shape[1]
    table = np.empty(TABLE_SIZE)
    acc = np.empty((n_vars, 4))  # sum, sum of squares, non-zeros and shift: half a cache line a gene
    for g in range(len(starts) - 1):
        n = starts[g + 1] - starts[g]
        if n == 0:
            continue
        for m in range(n_vars):
            acc[m, 0] = acc[m, 1] = acc[m, 2] = 0
            acc[m, 3] = shift[g, m]
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
        for m in range(n_vars):
            zeros = n - acc[m, 2]
            total = acc[m, 0] - zeros * acc[m, 3]
            mean[g, m] = acc[m, 3] + total / n
            m2[g, m] = max(acc[m, 1] + zeros * acc[m, 3] ** 2 - total * (total / n), 0.0)
            nnz[g, m] = np.int64(acc[m, 2])
