"""Mean, sum of squared deviations and non-zeros of each gene in each group of cells.

Inside a block the deviations are taken about the block's own mean (two passes over values that are in memory),
and blocks are merged by Chan, Golub and LeVeque (1983), so nothing cancels, however large the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, values

Transform = Literal["identity", "expm1"]

# of a mean: a smaller standard deviation is what rounding leaves of equal values in float64. Real ones are larger: one
# count more in one of 1e8 cells, at a mean of 1e5, is 1e-9 of it
ROUNDING = 1e-12


@dataclass(frozen=True)
class Moments:
    """State of :func:`moments`; a group without cells has zeros."""

    n: NDArray[np.int64]  # n_groups
    mean: NDArray[np.float64]  # n_groups x n_vars
    m2: NDArray[np.float64]  # n_groups x n_vars, sum of squared deviations from the mean
    nnz: NDArray[np.int64]  # n_groups x n_vars, values that are not 0


def moments(
    block: Block,
    groups: NDArray[np.int32] | None = None,
    n_groups: int = 1,
    transform: Transform = "identity",
    base: float | None = None,
) -> Moments:
    """Return the moments of one block.

    Parameters
    ----------
    block
        n_obs x n_vars.
    groups
        int32 of n_obs in ``[-1, n_groups)``; cells of group -1 are left out. None: all cells are group 0.
    n_groups
        Number of groups.
    transform
        ``"expm1"``: moments of ``expm1(x)``, taken in X's own float type as scanpy does (integers in float64).
    base
        Base of the logarithm that made X: ``expm1(x * log(base))``. Only with ``transform="expm1"``.

    Raises
    ------
    InputError
        ``groups`` does not fit the block, or ``transform`` and ``base`` do not fit each other.
    """
    data = _transformed(values(block.data if sp.issparse(block) else block), transform, base)
    order, starts = rows_by_group(groups, n_groups, block.shape[0])
    shape = (n_groups, block.shape[1])
    mean, m2, nnz = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
    if sp.issparse(block):
        _moments_csr(data, block.indices, block.indptr, order, starts, mean, m2, nnz)
    else:
        _moments_dense(data, order, starts, mean, m2, nnz)
    return Moments(np.diff(starts), mean, m2, nnz)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Return the moments of the cells of both; associative, and exact when one of them is empty."""
    n = a.n + b.n
    share = (b.n / np.maximum(n, 1))[:, None]
    with np.errstate(invalid="ignore"):  # infinite values
        delta = b.mean - a.mean
        m2 = a.m2 + b.m2 + delta**2 * (a.n[:, None] * share)
        return Moments(n, a.mean + delta * share, m2, a.nnz + b.nnz)


def variance(m: Moments, ddof: int = 1) -> NDArray[np.float64]:
    """Return the variances, n_groups x n_vars; 0 where a group has no more cells than ``ddof`` (as scanpy has it).

    Values that are equal but for rounding have a variance of 0, whatever their type: what divides by it, or looks for
    the most variable genes, would take rounding errors for a signal.
    """
    return without_rounding(m.m2 / np.maximum(m.n - ddof, 1)[:, None], m.mean)


def without_rounding(var: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return variances, 0 where they are no more than rounding errors of equal values with this mean; NaN stays."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(var < (ROUNDING * mean) ** 2, 0.0, var)


def of_integers(m: Moments) -> Moments:
    """Return the moments of values that are all integers and not negative, free of the rounding of merges.

    Sums and sums of squares are then integers too; restored as such, the moments are the same bit for bit however the
    cells were cut. That matters to ``seurat_v3``: genes of equal mean must stay equal, or its loess jumps by per cents.
    """
    n = m.n[:, None]
    sums = np.rint(m.mean * n)
    squares = np.rint(m.m2 + n * m.mean**2)
    sure = squares < 2.0**46  # beyond, rounding is no longer certain to find the integer
    whole, rest = np.divmod(np.where(sure, sums, 0).astype(np.int64), np.maximum(n, 1))
    integer = np.where(sure, squares, 0).astype(np.int64) - whole * whole * n - 2 * whole * rest
    m2 = np.where(sure, integer - rest * rest / np.maximum(n, 1), m.m2)
    return Moments(m.n, sums / np.maximum(n, 1), m2, m.nnz)


def clipped_sums(
    block: Block, clip: NDArray[np.float64], groups: NDArray[np.int32] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each group and gene, the sum and the sum of squares of ``min(x, clip)``.

    Parameters
    ----------
    block
        n_obs x n_vars, counts.
    clip
        n_groups x n_vars, not negative.
    groups
        int32 of n_obs in ``[-1, n_groups)``; -1 is left out. None: all cells are group 0.
    """
    order, starts = rows_by_group(groups, len(clip), block.shape[0])
    sums, squares = np.zeros(clip.shape), np.zeros(clip.shape)
    if sp.issparse(block):
        _clipped_csr(values(block.data), block.indices, block.indptr, order, starts, clip, sums, squares)
    else:
        _clipped_dense(values(block), order, starts, clip, sums, squares)
    return sums, squares


def _transformed(data: Array, transform: Transform, base: float | None) -> Array:
    if transform == "identity" and base is None:
        return data
    if transform != "expm1":
        raise InputError(
            f"found transform {transform!r} with base {base}", "'expm1', or 'identity' without base", "drop it"
        )
    if data.dtype.kind != "f":
        data = data.astype(np.float64)
    with np.errstate(over="ignore"):  # counts not logarithmised: infinite moments, refused by their reader
        return _expm1(data, base)


def _expm1(data: Array, base: float | None) -> Array:
    if base is None:
        return np.expm1(data)
    # the product is rounded once, from float64: so scanpy's in-place product does
    scaled = np.multiply(data, np.log(base), out=np.empty_like(data), casting="same_kind")
    return np.expm1(scaled, out=scaled)


def rows_by_group(groups: NDArray[np.int32] | None, n_groups: int, n_obs: int) -> tuple[Array, NDArray[np.int64]]:
    """Return the rows sorted by group (so that one group's sums stay in cache) and where each group starts."""
    if groups is None:
        if n_groups != 1:
            raise InputError(f"found no groups for n_groups={n_groups}", "one group", "give groups")
        return np.arange(n_obs), np.array([0, n_obs])
    groups = np.asarray(groups)
    if groups.shape != (n_obs,) or (n_obs and (groups.min() < -1 or groups.max() >= n_groups)):
        raise InputError(
            f"found groups of shape {groups.shape}",
            f"{n_obs} codes from -1 to {n_groups - 1}",
            "take the codes of these rows",
        )
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(n_groups + 1))
    return order, starts.astype(np.int64)


@numba.njit(nogil=True, cache=True)
def _moments_csr(
    data: Array,
    indices: Array,
    indptr: Array,
    order: Array,
    starts: Array,
    mean: Array,
    m2: Array,
    nnz: Array,
) -> None:
    n_vars = mean.shape[1]
    acc = np.zeros((n_vars, 2))  # sum beside count: one cache line a gene
    for g in range(len(starts) - 1):
        lo, hi = starts[g], starts[g + 1]
        if hi == lo:
            continue
        acc[:] = 0
        for r in range(lo, hi):
            for k in range(indptr[order[r]], indptr[order[r] + 1]):
                v = np.float64(data[k])
                at = np.uint32(indices[k])  # unsigned: spares numba's test for places counted from the end
                acc[at, 0] += v
                acc[at, 1] += v != 0
        for j in range(n_vars):
            mean[g, j] = acc[j, 0] / (hi - lo)
            nnz[g, j] = np.int64(acc[j, 1])
            acc[j, 0] = mean[g, j]
            acc[j, 1] = (hi - lo - nnz[g, j]) * mean[g, j] ** 2  # the zeros
        for r in range(lo, hi):
            for k in range(indptr[order[r]], indptr[order[r] + 1]):
                v = np.float64(data[k])
                at = np.uint32(indices[k])
                d = v - acc[at, 0] if v != 0 else 0.0
                acc[at, 1] += d * d
        for j in range(n_vars):
            m2[g, j] = acc[j, 1]


@numba.njit(nogil=True, cache=True)
def _moments_dense(x: Array, order: Array, starts: Array, mean: Array, m2: Array, nnz: Array) -> None:
    n_vars = mean.shape[1]
    for g in range(len(starts) - 1):
        lo, hi = starts[g], starts[g + 1]
        if hi == lo:
            continue
        for r in range(lo, hi):
            for j in range(n_vars):
                v = np.float64(x[order[r], j])
                mean[g, j] += v
                nnz[g, j] += v != 0
        for j in range(n_vars):
            mean[g, j] /= hi - lo
        for r in range(lo, hi):
            for j in range(n_vars):
                d = np.float64(x[order[r], j]) - mean[g, j]
                m2[g, j] += d * d


@numba.njit(nogil=True, cache=True)
def _clipped_csr(
    data: Array,
    indices: Array,
    indptr: Array,
    order: Array,
    starts: Array,
    clip: Array,
    sums: Array,
    squares: Array,
) -> None:
    for g in range(len(starts) - 1):
        for r in range(starts[g], starts[g + 1]):
            for k in range(indptr[order[r]], indptr[order[r] + 1]):
                j = np.uint32(indices[k])
                v = min(np.float64(data[k]), clip[g, j])
                sums[g, j] += v
                squares[g, j] += v * v


@numba.njit(nogil=True, cache=True)
def _clipped_dense(x: Array, order: Array, starts: Array, clip: Array, sums: Array, squares: Array) -> None:
    for g in range(len(starts) - 1):
        for r in range(starts[g], starts[g + 1]):
            for j in range(x.shape[1]):
                v = min(np.float64(x[order[r], j]), clip[g, j])
                sums[g, j] += v
                squares[g, j] += v * v
