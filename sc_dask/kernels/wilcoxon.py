"""Wilcoxon's rank-sum test of every group at once, gene by gene, as ``scanpy.tl.rank_genes_groups`` has it.

The values of a gene that are not 0 are sorted once; its zeros are one block of ties, of which only the number per group
matters. One walk over the sorted values then gives Mann and Whitney's U (1947) of every group, against all other
cells or against one group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.kernels.csr import Array
from sc_dask.kernels.rank import CorrMethod, RankResult, adjusted, fold_changes

_DIGIT_BITS = 11  # 2,048 counters: they stay in the first cache beside the streams
_FEW = 24  # values up to here are sorted by insertion
_SIGN = np.uint32(1 << 31)


@dataclass(frozen=True)
class GeneRanks:
    """What one pass over genes tells of every group; joined along the genes."""

    u: NDArray[np.float64]  # n_genes x n_groups, U of the group against the rest, or against the reference
    ties: NDArray[np.float64]  # the same or n_genes x 1, sum of t^3 - t over the ties of all that were ranked
    sums: NDArray[np.float64]  # n_genes x n_groups, sum of the values
    nnz: NDArray[np.int64]  # n_genes x n_groups, values that are not 0


def gene_ranks(tile: sp.csc_matrix, codes: NDArray[np.int32], n_groups: int, reference: int | None = None) -> GeneRanks:
    """Return U, ties, sums and non-zeros of some genes in every group.

    Parameters
    ----------
    tile
        csc, n_obs x n_genes, any number type; explicit zeros and negative values are allowed.
    codes
        int32 of n_obs, the group of each cell in ``[-1, n_groups)``; -1: not ranked.
    n_groups
        Number of groups.
    reference
        Rank each group together with this one; None: rank all cells.

    Memory: 16 bytes a value of the longest gene.
    """
    n_genes = tile.shape[1]
    data = np.ascontiguousarray(tile.data)
    if data.dtype not in (np.float32, np.float64):
        data = data.astype(np.float32 if data.dtype.itemsize <= 2 else np.float64)
    rows, indptr = tile.indices, tile.indptr.astype(np.int64)
    sums, nnz = np.zeros((n_genes, n_groups)), np.zeros((n_genes, n_groups), np.int64)
    _group_sums(data, rows, indptr, codes, sums, nnz)
    is_float32 = data.dtype == np.float32
    keys, zeros = (data.view(np.uint32), np.full(n_genes, _SIGN)) if is_float32 else _order_numbers(data, indptr)
    u = np.zeros((n_genes, n_groups))
    ties = np.zeros((n_genes, 1 if reference is None else n_groups))
    sizes = np.bincount(codes[codes >= 0], minlength=n_groups)
    longest = int(np.diff(indptr).max(initial=0))
    scratch = np.empty((2, longest), np.uint64)
    against = -1 if reference is None else reference
    _walk_genes(keys, is_float32, zeros, rows, indptr, codes, sizes, nnz, against, scratch, u, ties)
    return GeneRanks(u, ties, sums, nnz)


def wilcoxon(
    ranks: GeneRanks,
    n: NDArray[np.int64],
    tested: list[int],
    reference: int | None = None,
    corr_method: CorrMethod = "benjamini-hochberg",
    *,
    tie_correct: bool = False,
    base: float | None = None,
) -> RankResult:
    """Return the normal approximation of the test of each group.

    Parameters
    ----------
    ranks
        Of all genes, taken with the same ``reference``.
    n
        Cells of each group.
    tested
        Codes of the groups to test.
    reference, corr_method, base
        As in :func:`sc_dask.kernels.rank.t_test`.
    tie_correct
        Make the variance smaller by what ties take away from it.
    """
    from scipy.stats import norm

    mine = n[tested][:, None].astype(np.float64)
    others = float(n.sum()) - mine if reference is None else np.full_like(mine, n[reference])
    both = mine + others
    left = np.ones((len(tested), 1))
    if tie_correct:
        left = 1.0 - (ranks.ties.T if reference is None else ranks.ties.T[tested]) / (both**3 - both)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = (ranks.u.T[tested] - mine * others / 2) / np.sqrt(left * mine * others * (both + 1) / 12)
    scores = np.where(np.isfinite(scores), scores, 0.0)  # a gene that is the same in all cells
    pvals = 2 * norm.sf(np.abs(scores))
    sums, nnz = ranks.sums.T, ranks.nnz.T
    rest_sums, rest_nnz = (_rest(a, tested) if reference is None else a[[reference]] for a in (sums, nnz))
    return RankResult(
        groups=np.asarray(tested, np.int64),
        scores=scores,
        pvals=pvals,
        pvals_adj=adjusted(pvals, corr_method),
        logfoldchanges=fold_changes(sums[tested] / mine, rest_sums / others, base),
        pts=nnz[tested] / mine,
        pts_rest=rest_nnz / others,
    )


def _rest(a: Array, tested: list[int]) -> Array:
    """Return the sums over all other groups: added, as a subtraction would cancel."""
    none = np.zeros_like(a[:1])
    before = np.concatenate([none, np.cumsum(a, axis=0)[:-1]])
    after = np.concatenate([np.cumsum(a[::-1], axis=0)[::-1][1:], none])
    return (before + after)[tested]


def _order_numbers(data: Array, indptr: Array) -> tuple[Array, Array]:
    """Return numbers (uint32) that are in the order of the values within each gene, and the one that stands for 0."""
    keys, zeros = np.empty(len(data), np.uint32), np.zeros(len(indptr) - 1, np.uint32)
    for j in range(len(zeros)):
        gene = slice(int(indptr[j]), int(indptr[j + 1]))
        distinct, place = np.unique(data[gene], return_inverse=True)
        zero = int(np.searchsorted(distinct, 0))
        there = zero < len(distinct) and distinct[zero] == 0
        keys[gene] = place + (0 if there else place >= zero)
        zeros[j] = zero
    return keys, zeros


@numba.njit(nogil=True, cache=True)
def _ordered_bits(bits: Any) -> Any:
    """Return the bits of a float32 as a number in the order of its values; minus zero is zero."""
    b = np.uint32(0) if bits == _SIGN else bits
    return b ^ (np.uint32(np.int32(b) >> 31) | _SIGN)


@numba.njit(nogil=True, cache=True)
def _group_sums(data: Array, rows: Array, indptr: Array, codes: Array, sums: Array, nnz: Array) -> None:
    for j in range(len(indptr) - 1):
        total, count = sums[j], nnz[j]
        for k in range(indptr[j], indptr[j + 1]):
            g = codes[np.uint32(rows[k])]
            if g >= 0:
                total[np.uint32(g)] += data[k]
                count[np.uint32(g)] += data[k] != 0


@numba.njit(nogil=True, cache=True)
def _walk_genes(
    keys: Array, is_float32: bool, zeros: Array, rows: Array, indptr: Array, codes: Array, sizes: Array, nnz: Array,
    reference: int, scratch: Array, u: Array, ties: Array,
) -> None:  # fmt: skip
    counters = np.empty(1 << _DIGIT_BITS, np.int64)
    in_run = np.zeros(len(sizes), np.int64)
    for j in range(len(indptr) - 1):
        n, low, high = 0, np.uint64(0xFFFFFFFF), np.uint64(0)
        one, zero = scratch[0], np.uint64(zeros[j])
        for k in range(indptr[j], indptr[j + 1]):
            key, g = np.uint64(_ordered_bits(keys[k]) if is_float32 else keys[k]), codes[np.uint32(rows[k])]
            one[n] = key << np.uint64(32) | np.uint64(np.uint32(g))
            if key != zero and g >= 0:
                n += 1
                low, high = min(low, key), max(high, key)
        ranked = _sort(one[:n], scratch[1, :n], low, high, counters) if n else one[:0]
        if reference < 0:
            ties[j, 0] = _walk_all(ranked, zero, sizes, nnz[j], u[j])
        else:
            _walk_pairs(ranked, zero, sizes, nnz[j], reference, in_run, u[j], ties[j])


@numba.njit(nogil=True, cache=True)
def _sort(a: Array, b: Array, low: Any, high: Any, counters: Array) -> Array:
    """Sort by the upper half of each number, which is between ``low`` and ``high``, in either of two arrays."""
    n = len(a)
    if n <= _FEW:
        for i in range(1, n):
            x, k = a[i], i
            while k > 0 and a[k - 1] > x:
                a[k] = a[k - 1]
                k -= 1
            a[k] = x
        return a
    bits = 0
    while (high - low) >> np.uint64(bits):
        bits += 1
    n_digits = (bits + _DIGIT_BITS - 1) // _DIGIT_BITS
    width = (bits + n_digits - 1) // n_digits if n_digits else 0
    mask = np.uint64((1 << width) - 1)
    for d in range(n_digits):
        shift = np.uint64(d * width)
        counters[: 1 << width] = 0
        for k in range(n):
            counters[((a[k] >> np.uint64(32)) - low >> shift) & mask] += 1
        start = 0
        for c in range(1 << width):
            start, counters[c] = start + counters[c], start
        for k in range(n):
            c = ((a[k] >> np.uint64(32)) - low >> shift) & mask
            b[np.uint64(counters[c])] = a[k]
            counters[c] += 1
        a, b = b, a
    return a


@numba.njit(nogil=True, cache=True)
def _run_end(a: Array, t: int) -> int:
    key, end = a[t] >> np.uint64(32), t + 1
    while end < len(a) and a[end] >> np.uint64(32) == key:
        end += 1
    return end


@numba.njit(nogil=True, cache=True)
def _walk_all(a: Array, zero: Any, sizes: Array, nnz: Array, u: Array) -> float:
    """Add up the ranks among all cells, less ``n (n + 1) / 2``; returns the ties' sum of ``t^3 - t``."""
    n, ties, before, t = len(a), 0.0, 0.0, 0
    n_zero = np.float64(sizes.sum() - n)
    zeros_due = True
    while t < n or zeros_due:
        if zeros_due and (t == n or a[t] >> np.uint64(32) > zero):
            for g in range(len(sizes)):
                u[g] += (before + (n_zero + 1) / 2) * (sizes[g] - nnz[g])
            ties += n_zero * (n_zero * n_zero - 1)
            before += n_zero
            zeros_due = False
            continue
        end = _run_end(a, t)
        m = np.float64(end - t)
        rank = before + (m + 1) / 2
        for k in range(t, end):
            u[np.uint32(a[k])] += rank
        ties += m * (m * m - 1)
        before += m
        t = end
    for g in range(len(sizes)):
        u[g] -= sizes[g] * (sizes[g] + 1.0) / 2
    return ties


@numba.njit(nogil=True, cache=True)
def _walk_pairs(
    a: Array, zero: Any, sizes: Array, nnz: Array, reference: int, in_run: Array, u: Array, ties: Array
) -> None:  # fmt: skip
    """Count, for each group, the cells of the reference below each of its own, ties half."""
    n, before, of_reference, t = len(a), 0.0, 0.0, 0
    zeros_due = True
    while t < n or zeros_due:
        if zeros_due and (t == n or a[t] >> np.uint64(32) > zero):
            r = np.float64(sizes[reference] - nnz[reference])
            for g in range(len(sizes)):
                m = np.float64(sizes[g] - nnz[g])
                u[g] += m * (before + r / 2)
                ties[g] += (m + r) * ((m + r) ** 2 - 1) - r * (r * r - 1)
            of_reference += r * (r * r - 1)
            before += r
            zeros_due = False
            continue
        end = _run_end(a, t)
        for k in range(t, end):
            in_run[np.uint32(a[k])] += 1
        r = np.float64(in_run[reference])
        for k in range(t, end):
            mine = np.uint32(a[k])
            m = np.float64(in_run[mine])
            if m:
                u[mine] += m * (before + r / 2)
                ties[mine] += (m + r) * ((m + r) ** 2 - 1) - r * (r * r - 1)
                in_run[mine] = 0
        of_reference += r * (r * r - 1)
        before += r
        t = end
    for g in range(len(sizes)):
        ties[g] += of_reference
