"""The non-zeros of a block sorted by gene instead of by cell, and genes put together again from many blocks.

The rows of a gene are kept as differences, which are small numbers: they compress well.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.kernels.csr import Array, Block, values
from sc_dask.kernels.normalize import log1p_of

SMALL_COUNTS = 4  # counts up to it (19 of 20) have their logarithms taken once a cell


def by_unit(block: Block, n_units: int) -> tuple[NDArray[np.int64], Array, Array]:
    """Return the values of a block that are not 0, split by units of genes: column j goes to unit ``j % n_units``.

    Genes are reached in two moves, because one would write to more places at once than caches hold (27 ns a value
    against 9).

    Parameters
    ----------
    block
        n_obs x n_vars.
    n_units
        Number of units.

    Returns
    -------
    bounds
        Where each unit starts, n_units + 1.
    cells
        Place of the gene in its unit and row, in the upper and the lower half of a uint32; of a uint64 where one of
        them is 65,536 or more. In the order of the rows.
    data
        The values.
    """
    if not sp.issparse(block):
        block = sp.csr_matrix(block)
    data = values(block.data)
    n_obs, n_vars = block.shape
    unit = (np.arange(n_vars) % n_units).astype(np.int32)
    starts = np.zeros(n_units + 1, np.int64)
    _count(data, block.indices, unit, starts[1:])
    bounds = np.cumsum(starts)
    wide = n_obs > 2**16 or -(-n_vars // n_units) > 2**16
    cells = np.empty(bounds[-1], np.uint64 if wide else np.uint32)
    out = np.empty(len(cells), data.dtype)
    gene = (np.arange(n_vars) // n_units).astype(cells.dtype) << cells.dtype.type(cells.itemsize * 4)
    _deal(data, block.indices, block.indptr, unit, gene, bounds[:-1].copy(), cells, out)
    return bounds, cells, out


def by_gene(cells: Array, data: Array, n_genes: int) -> tuple[NDArray[np.int32], Array, Array]:
    """Return the values of one unit, gene after gene.

    Parameters
    ----------
    cells, data
        Of this unit, from `by_unit`.
    n_genes
        Number of genes of the unit.

    Returns
    -------
    counts
        int32 of n_genes, values of each gene.
    steps
        The rows, each less the one before it in the same gene (the first less 0); half the size of ``cells``.
    data
        The values.
    """
    starts = np.zeros((n_genes + 1, 2), np.int64)  # where a gene's next value goes, beside its last row
    half = np.dtype(np.uint16 if cells.itemsize == 4 else np.uint32)
    steps, out = np.empty(len(cells), half), np.empty(len(data), data.dtype)
    _sort(cells, data, half.type(-1 % 2 ** (8 * half.itemsize)), 8 * half.itemsize, starts, steps, out)
    ends = starts[:-1, 0]
    return np.diff(ends, prepend=0).astype(np.int32), steps, out


@numba.njit(nogil=True, cache=True)
def _count(data: Array, indices: Array, unit: Array, counts: Array) -> None:
    for k in range(len(data)):
        counts[np.uint32(unit[np.uint32(indices[k])])] += data[k] != 0


@numba.njit(nogil=True, cache=True)
def _deal(
    data: Array, indices: Array, indptr: Array, unit: Array, gene: Array, at: Array, cells: Array, out: Array
) -> None:
    for i in range(len(indptr) - 1):
        row = cells.dtype.type(i)
        for k in range(indptr[i], indptr[i + 1]):
            if data[k] != 0:
                j = np.uint32(indices[k])
                u = np.uint32(unit[j])
                to = np.uint64(at[u])
                cells[to] = gene[j] | row
                out[to] = data[k]
                at[u] += 1


@numba.njit(nogil=True, cache=True)
def _sort(cells: Array, data: Array, low: int, bits: int, starts: Array, steps: Array, out: Array) -> None:
    for k in range(len(cells)):
        starts[np.uint32(cells[k] >> bits) + 1, 0] += 1
    for g in range(1, len(starts)):
        starts[g, 0] += starts[g - 1, 0]
    for k in range(len(cells)):
        j, row = np.uint32(cells[k] >> bits), np.int64(cells[k] & low)
        to = np.uint64(starts[j, 0])
        steps[to] = row - starts[j, 1]
        out[to] = data[k]
        starts[j, 0] += 1
        starts[j, 1] = row


@numba.njit(nogil=True, cache=True)
def append(counts: Array, steps: Array, data: Array, first_row: int, at: Array, rows: Array, out: Array) -> None:
    """Add the values that one block has of some genes, as `by_gene` gave them, to those of the blocks before.

    ``at`` says where each gene's next value goes in ``rows`` and ``out``, and moves on.
    """
    k = 0
    for j in range(len(counts)):
        row, to = first_row, at[j]
        for _ in range(counts[j]):
            row += steps[k]
            rows[to] = row
            out[to] = data[k]
            to += 1
            k += 1
        at[j] = to


@numba.njit(nogil=True, cache=True)
def scaled(data: Array, rows: Array, factors: Array, out: Array) -> None:
    """Write ``data * factors[rows]``, the numbers of ``kernels.normalize.scale_rows``."""
    for k in range(len(data)):
        out[k] = data[k] * factors[rows[k]]


def small_logs(factors: NDArray[np.float64], base: float | None, like: Array) -> Array:
    """Return ``log1p(count * factor)`` of the counts 1 to `SMALL_COUNTS` (n_obs, SMALL_COUNTS), for `scaled_log1p`."""
    out = np.empty((len(factors), SMALL_COUNTS), like.dtype)
    _small_logs(factors, 1.0 if base is None else 1.0 / math.log(base), out)
    return out


@numba.njit(nogil=True, cache=True)
def _small_logs(factors: Array, over: float, out: Array) -> None:
    for i in range(len(factors)):
        for c in range(out.shape[1]):
            out[i, c] = log1p_of(c + 1, factors[i], over, out)


@numba.njit(nogil=True, cache=True)
def scaled_log1p(data: Array, rows: Array, factors: Array, over: float, known: Array, out: Array) -> None:
    """Write ``log1p(data * factors[rows]) * over``, the numbers of ``kernels.normalize.normalize_log1p``.

    ``known`` is what `small_logs` gave.
    """
    for k in range(len(data)):
        v = data[k]
        row = np.uint32(rows[k])
        c = np.int64(v) if 0 < v <= known.shape[1] else 0
        if c > 0 and c == v:
            out[k] = known[row, np.uint32(c - 1)]
        else:
            out[k] = log1p_of(v, factors[row], over, out)
