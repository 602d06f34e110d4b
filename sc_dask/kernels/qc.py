"""Counts and sums of each cell and each gene of one block, in one loop."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, values

_PACKED_BITS = 21  # of 64, for the number of cells; a block has no more than 2**20, and their uint16 counts need 36
BINS = 256  # counts below it are ranked by a histogram instead of a sort


@dataclass(frozen=True)
class CellMetrics:
    """Figures of each cell; blocks are concatenated along the cells."""

    totals: NDArray[np.float64]  # n_obs
    n_genes: NDArray[np.int64]  # n_obs, values that are not 0 (explicit zeros do not count)
    qc_totals: NDArray[np.float64]  # n_obs x n_qc, sum over the genes of each mask
    top_totals: NDArray[np.float64]  # n_obs x n_top, sum of the k highest values, for each k of percent_top


@dataclass(frozen=True)
class GeneMetrics:
    """Figures of each gene and of the values as a whole; blocks are merged by :func:`merge_gene_metrics`."""

    n_obs: int
    n_cells: NDArray[np.int64]  # n_vars, values that are not 0
    totals: NDArray[np.float64]  # n_vars
    max_value: float  # of all values, zeros included, NaN left out; -inf when there are none
    min_value: float  # likewise; +inf when there are none
    all_integer: bool  # NaN and infinities are not integers
    has_nan: bool


def cell_metrics(block: Block, qc_masks: NDArray[np.bool_], percent_top: tuple[int, ...] = ()) -> CellMetrics:
    """Return the figures of each cell; see :func:`cell_and_gene_metrics`."""
    return cell_and_gene_metrics(block, qc_masks, percent_top)[0]


def gene_metrics(block: Block) -> GeneMetrics:
    """Return the figures of each gene; see :func:`cell_and_gene_metrics`."""
    return cell_and_gene_metrics(block, np.zeros((0, block.shape[1]), np.bool_))[1]


def cell_and_gene_metrics(
    block: Block, qc_masks: NDArray[np.bool_], percent_top: tuple[int, ...] = ()
) -> tuple[CellMetrics, GeneMetrics]:
    """Return the figures of each cell and of each gene of one block.

    Parameters
    ----------
    block
        n_obs x n_vars.
    qc_masks
        bool, n_qc x n_vars: sets of genes whose sums are wanted.
    percent_top
        Numbers of genes, each from 1 to n_vars: the sums of that many highest values of a cell are wanted.

    Raises
    ------
    InputError
        ``qc_masks`` has another number of genes, or ``percent_top`` is not within 1 and n_vars.
    """
    n_obs, n_vars = block.shape
    masks = np.ascontiguousarray(qc_masks, np.bool_)
    if masks.ndim != 2 or masks.shape[1] != n_vars:
        raise InputError(f"found masks of shape {masks.shape}", f"n_qc x {n_vars}", "make one row a set of genes")
    if any(not 1 <= k <= n_vars for k in percent_top):
        raise InputError(
            f"found percent_top {tuple(percent_top)}",
            f"numbers from 1 to {n_vars}",
            "leave the others out or pass None",
        )
    totals, n_genes = np.zeros(n_obs), np.zeros(n_obs, np.int64)
    qc_totals, top_totals = np.zeros((n_obs, len(masks))), np.zeros((n_obs, len(percent_top)))
    genes = np.zeros((n_vars, 2))  # sum beside count: one cache line a gene
    in_any = np.asarray(masks.any(axis=0))
    if sp.issparse(block):
        parts = values(block.data), block.indices, block.indptr
        if _packs(parts[0], n_obs):
            _metrics_counts(*parts, in_any, masks, totals, n_genes, qc_totals, genes)
        else:
            _metrics_csr(*parts, in_any, masks, totals, n_genes, qc_totals, genes)
    else:
        _metrics_dense(values(block), in_any, masks, totals, n_genes, qc_totals, genes)
    if percent_top:
        ks = np.asarray(percent_top, np.int64)
        order = np.argsort(ks, kind="stable")
        _tops(*_rows(block), n_vars, ks[order], order, top_totals)
    cells = CellMetrics(totals, n_genes, qc_totals, top_totals)
    n_cells = genes[:, 1].astype(np.int64)
    sums = np.ascontiguousarray(genes[:, 0])
    return cells, GeneMetrics(n_obs, n_cells, sums, *_of_values(block))


def merge_gene_metrics(a: GeneMetrics, b: GeneMetrics) -> GeneMetrics:
    """Return the figures of the cells of both."""
    return GeneMetrics(
        n_obs=a.n_obs + b.n_obs,
        n_cells=a.n_cells + b.n_cells,
        totals=a.totals + b.totals,
        max_value=max(a.max_value, b.max_value),
        min_value=min(a.min_value, b.min_value),
        all_integer=a.all_integer and b.all_integer,
        has_nan=a.has_nan or b.has_nan,
    )


def row_totals(block: Block) -> NDArray[np.float64]:
    """Return the sum of each row, float64 of n_obs."""
    if not sp.issparse(block):
        return block.sum(axis=1, dtype=np.float64)
    return _row_totals(values(block.data), block.indptr)


def row_counts(block: Block) -> NDArray[np.int64]:
    """Return how many values of each row are not 0, int64 of n_obs; explicit zeros do not count."""
    if not sp.issparse(block):
        return np.count_nonzero(block, axis=1).astype(np.int64)
    return _row_counts(values(block.data), block.indptr)


def as_sums(totals: NDArray[np.float64], dtype: DTypeLike) -> Array:
    """Return sums in the type that summing ``dtype`` gives: of integers int64, unless one does not fit (float64)."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iub":
        fits = len(totals) == 0 or np.abs(totals).max() < 2.0**63
        return totals.astype(np.int64) if fits else totals
    return totals.astype(dtype) if dtype.kind == "f" else totals


def row_positives(block: Block) -> NDArray[np.int64]:
    """Return how many values of each row are above 0, int64 of n_obs; NaN is not."""
    if not sp.issparse(block):
        return np.count_nonzero(block > 0, axis=1).astype(np.int64)
    return _row_positives(values(block.data), block.indptr)


def col_positives(block: Block) -> NDArray[np.int64]:
    """Return how many values of each column are above 0, int64 of n_vars; NaN is not."""
    if not sp.issparse(block):
        return np.count_nonzero(block > 0, axis=0).astype(np.int64)
    return np.bincount(block.indices[values(block.data) > 0], minlength=block.shape[1]).astype(np.int64)


def col_totals(block: Block) -> NDArray[np.float64]:
    """Return the sum of each column, float64 of n_vars."""
    if not sp.issparse(block):
        return block.sum(axis=0, dtype=np.float64)
    return _col_totals(values(block.data), block.indices, block.shape[1])


def col_counts(block: Block) -> NDArray[np.int64]:
    """Return how many values of each column are not 0, int64 of n_vars; explicit zeros do not count."""
    if not sp.issparse(block):
        return np.count_nonzero(block, axis=0).astype(np.int64)
    return _col_counts(values(block.data), block.indices, block.shape[1])


def _rows(block: Block) -> tuple[Array, Array]:
    if sp.issparse(block):
        return values(block.data), block.indptr
    return values(block).ravel(), np.arange(block.shape[0] + 1, dtype=np.int64) * block.shape[1]


def _of_values(block: Block) -> tuple[float, float, bool, bool]:
    """Return max, min, whether all are integers, whether there is NaN; numpy's own max is several times faster."""
    data = values(block.data if sp.issparse(block) else block).ravel()
    top, low = (data.max(), data.min()) if len(data) else (-np.inf, np.inf)
    has_nan = bool(np.isnan(top))
    if has_nan:
        known = data[~np.isnan(data)]
        top, low = (known.max(), known.min()) if len(known) else (-np.inf, np.inf)
    if len(data) < block.shape[0] * block.shape[1]:
        top, low = max(top, 0), min(low, 0)
    return float(top), float(low), data.dtype.kind != "f" or bool(_all_integer(data)), has_nan


@numba.njit(nogil=True, cache=True)
def _all_integer(data: Array) -> bool:
    broken = 0
    for k in range(len(data)):
        broken += data[k] - np.floor(data[k]) != 0  # NaN and infinities too
    return broken == 0


def _packs(data: Array, n_obs: int) -> bool:
    """Tell whether a gene's sum and its number of cells in a block fit into one integer."""
    return data.dtype.kind == "u" and data.dtype.itemsize <= 2 and n_obs < 2**_PACKED_BITS


@numba.njit(nogil=True, cache=True)
def _metrics_counts(
    data: Array,
    indices: Array,
    indptr: Array,
    in_any: Array,
    masks: Array,
    totals: Array,
    n_genes: Array,
    qc_totals: Array,
    genes: Array,
) -> None:
    """The same as `_metrics_csr` for small counts, a third faster: one addition to one integer a value."""
    packed = np.zeros(len(genes), np.uint64)
    one = np.uint64(1) << np.uint64(64 - _PACKED_BITS)
    for i in range(len(indptr) - 1):
        lo, hi = np.uint64(indptr[i]), np.uint64(indptr[i + 1])
        total, seen = np.uint64(0), np.uint64(0)
        for k in range(lo, hi):  # no scatter: SIMD
            total += data[k]
            seen += data[k] != 0
        for k in range(lo, hi):
            v = np.uint64(data[k])
            j = np.uint32(indices[k])
            packed[j] += v | (one if v != 0 else np.uint64(0))
            if in_any[j]:
                for q in range(len(masks)):
                    if masks[q, j]:
                        qc_totals[i, q] += v
        totals[i] = total
        n_genes[i] = seen
    for g in range(len(genes)):
        genes[g, 0] = packed[g] & (one - np.uint64(1))
        genes[g, 1] = packed[g] >> np.uint64(64 - _PACKED_BITS)


@numba.njit(nogil=True, cache=True)
def _metrics_csr(
    data: Array,
    indices: Array,
    indptr: Array,
    in_any: Array,
    masks: Array,
    totals: Array,
    n_genes: Array,
    qc_totals: Array,
    genes: Array,
) -> None:
    for i in range(len(indptr) - 1):
        lo, hi = indptr[i], indptr[i + 1]
        total, seen = 0.0, 0
        for k in range(lo, hi):
            v = np.float64(data[k])
            j = np.uint32(indices[k])  # unsigned: spares numba's test for places counted from the end
            total += v
            seen += v != 0
            genes[j, 0] += v
            genes[j, 1] += v != 0
            if in_any[j]:
                for q in range(len(masks)):
                    if masks[q, j]:
                        qc_totals[i, q] += v
        totals[i] = total
        n_genes[i] = seen


@numba.njit(nogil=True, cache=True)
def _metrics_dense(
    x: Array,
    in_any: Array,
    masks: Array,
    totals: Array,
    n_genes: Array,
    qc_totals: Array,
    genes: Array,
) -> None:
    for i in range(x.shape[0]):
        total, seen = 0.0, 0
        for j in range(x.shape[1]):
            v = np.float64(x[i, j])
            total += v
            seen += v != 0
            genes[j, 0] += v
            genes[j, 1] += v != 0
            if in_any[j]:
                for q in range(len(masks)):
                    if masks[q, j]:
                        qc_totals[i, q] += v
        totals[i] = total
        n_genes[i] = seen


@numba.njit(nogil=True, cache=True)
def _tops(data: Array, indptr: Array, n_vars: int, ks: Array, places: Array, out: Array) -> None:
    bins = np.zeros(BINS, np.int64)
    large = np.empty(n_vars)
    for i in range(len(indptr) - 1):
        row = data[indptr[i] : indptr[i + 1]]
        bins[:] = 0
        n_large = 0
        countable = True
        for k in range(len(row)):
            v = np.float64(row[k])
            if v >= BINS:
                large[n_large] = v
                n_large += 1
            elif v >= 0 and v == np.floor(v):
                bins[np.int64(v)] += 1
            else:
                countable = False
                break
        if countable:
            _top_counts(bins, np.sort(large[:n_large]), ks, places, out[i])
        else:
            _top_sorted(np.sort(row), n_vars, ks, places, out[i])


@numba.njit(nogil=True, cache=True)
def _top_counts(bins: Array, large: Array, ks: Array, places: Array, out: Array) -> None:
    total, taken = 0.0, 0
    n_large, b, left = len(large), BINS - 1, bins[BINS - 1]
    for t in range(len(ks)):
        while taken < ks[t]:
            if taken < n_large:
                total += large[n_large - 1 - taken]
                taken += 1
                continue
            while left == 0 and b > 0:
                b -= 1
                left = bins[b]
            if b == 0:
                break  # nothing but zeros is left
            step = min(left, ks[t] - taken)
            total += step * b
            taken += step
            left -= step
        out[places[t]] = total


@numba.njit(nogil=True, cache=True)
def _top_sorted(row: Array, n_vars: int, ks: Array, places: Array, out: Array) -> None:
    zeros = n_vars - len(row)  # the implicit ones outrank negative values
    total, taken, at = 0.0, 0, len(row) - 1
    for t in range(len(ks)):
        while taken < ks[t]:
            if at >= 0 and (row[at] >= 0 or zeros == 0 or np.isnan(row[at])):
                total += row[at]
                at -= 1
            else:
                zeros -= 1
            taken += 1
        out[places[t]] = total


@numba.njit(nogil=True, cache=True)
def _row_totals(data: Array, indptr: Array) -> Array:
    out = np.zeros(len(indptr) - 1)
    for i in range(len(indptr) - 1):
        total = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            total += data[k]
        out[i] = total
    return out


@numba.njit(nogil=True, cache=True)
def _row_counts(data: Array, indptr: Array) -> Array:
    out = np.zeros(len(indptr) - 1, np.int64)
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            out[i] += data[k] != 0
    return out


@numba.njit(nogil=True, cache=True)
def _row_positives(data: Array, indptr: Array) -> Array:
    out = np.zeros(len(indptr) - 1, np.int64)
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            out[i] += data[k] > 0
    return out


@numba.njit(nogil=True, cache=True)
def _col_totals(data: Array, indices: Array, n_vars: int) -> Array:
    out = np.zeros(n_vars)
    for k in range(len(data)):
        out[np.uint32(indices[k])] += data[k]
    return out


@numba.njit(nogil=True, cache=True)
def _col_counts(data: Array, indices: Array, n_vars: int) -> Array:
    out = np.zeros(n_vars, np.int64)
    for k in range(len(data)):
        out[np.uint32(indices[k])] += data[k] != 0
    return out
