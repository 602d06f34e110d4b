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


def by_gene(block: Block, place: NDArray[np.int32]) -> tuple[Array, Array, Array]:
    """Return the values of a block that are not 0, gene after gene.

    Parameters
    ----------
    block
        n_obs x n_vars.
    place
        int32 of n_vars: which gene comes when.

    Returns
    -------
    counts
        int32 of n_vars, values of each gene, in the new order.
    steps
        The rows, each less the one before it in the same gene (the first less 0); uint16, or uint32 where the block
        has more than 65,536 rows.
    data
        The values.
    """
    if not sp.issparse(block):
        block = sp.csr_matrix(block)
    data = values(block.data)
    counts = np.zeros(block.shape[1], np.int32)
    _count(data, block.indices, place, counts)
    steps = np.empty(counts.sum(), np.uint16 if block.shape[0] <= 2**16 else np.uint32)
    out = np.empty(len(steps), data.dtype)
    starts = np.zeros((len(counts), 2), np.int32)  # where a gene's next value goes, beside its last row
    np.cumsum(counts[:-1], out=starts[1:, 0])
    _deal(data, block.indices, block.indptr, place, starts, steps, out)
    return counts, steps, out


@numba.njit(nogil=True, cache=True)
def _count(data: Array, indices: Array, place: Array, counts: Array) -> None:
    for k in range(len(data)):
        counts[place[np.uint32(indices[k])]] += data[k] != 0


@numba.njit(nogil=True, cache=True)
def _deal(
    data: Array, indices: Array, indptr: Array, place: Array, starts: Array, steps: Array, out: Array
) -> None:  # fmt: skip
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            if data[k] != 0:
                p = np.uint32(place[np.uint32(indices[k])])
                at = np.uint32(starts[p, 0])
                steps[at] = i - starts[p, 1]
                out[at] = data[k]
                starts[p, 0] = at + 1
                starts[p, 1] = i


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
