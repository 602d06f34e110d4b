"""The Gram matrix of the genes times a narrow matrix, without the Gram matrix: what randomized PCA needs of one block.

Products are taken about the block's own mean and blocks merged by Chan, Golub and LeVeque (1983), as in ``gram``, so
large means cost no digits. Rows are turned to columns a tile at a time: both products then gather rows of a dense
matrix into one short sum, and each row of the p x k state is written once a tile instead of once a non-zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, gather_rows, values
from sc_dask.kernels.qc import col_totals

TILE_ROWS = 1024


@dataclass(frozen=True)
class TimesGramState:
    """State of :func:`times_gram` for a basis of k columns. Read it with :func:`times_comoments`."""

    n: int
    sums: NDArray[np.float64]  # p
    along: NDArray[np.float64]  # k, sums @ basis
    product: NDArray[np.float64]  # p x k, co-moments (sums of products of deviations from the mean) @ basis


def times_gram(block: Block, basis: NDArray[np.float64]) -> TimesGramState:
    """Return the co-moments of the columns of one block times ``basis``, summed in float64.

    Parameters
    ----------
    block
        n_obs x p.
    basis
        p x k, C-ordered.

    Memory: ``8 p k`` bytes for the state (twice that for a dense block), ``8 k`` and a copy for TILE_ROWS rows.
    """
    p, k = basis.shape
    return times_gram_absorb(TimesGramState(0, np.zeros(p), np.zeros(k), np.zeros((p, k))), block, basis)


def times_gram_update(state: TimesGramState, block: Block, basis: NDArray[np.float64]) -> TimesGramState:
    """Return ``merge_times_gram(state, times_gram(block, basis))`` with one p x k matrix less."""
    return times_gram_absorb(replace(state, product=state.product.copy()), block, basis)


def times_gram_absorb(state: TimesGramState, block: Block, basis: NDArray[np.float64]) -> TimesGramState:
    """Return the same, in the memory of ``state``, which is of no use afterwards."""
    n_obs, p = block.shape
    if p != len(basis):
        raise InputError(f"found a block of {p} columns", f"{len(basis)} as in the basis", "select the same genes")
    if n_obs == 0:
        return state
    data, sums = values(block.data if sp.issparse(block) else block), col_totals(block)
    mean, along = sums / n_obs, sums @ basis
    if sp.issparse(block):
        rest = _add_csr(data, block.indices, block.indptr, basis, -(mean @ basis), state.product)
        # the projections about the mean sum to their rounding, which a large mean would multiply
        _add_outer(state.product, -mean, rest)
    else:
        _add_dense(data, mean, basis, state.product)
    _add_between(state.product, state, n_obs, sums, along)
    return TimesGramState(state.n + n_obs, state.sums + sums, state.along + along, state.product)


def merge_times_gram(a: TimesGramState, b: TimesGramState) -> TimesGramState:
    """Return the state of the cells of both; associative."""
    if a.n == 0 or b.n == 0:
        return b if a.n == 0 else a
    product = a.product + b.product
    _add_between(product, a, b.n, b.sums, b.along)
    return TimesGramState(a.n + b.n, a.sums + b.sums, a.along + b.along, product)


def times_comoments(state: TimesGramState, center: bool = True) -> NDArray[np.float64]:
    """Return the co-moments times the basis, p x k; not centred: ``x^T x`` times the basis."""
    if center or state.n == 0:
        return state.product
    return state.product + np.outer(state.sums / state.n, state.along)


def _add_between(product: Array, state: TimesGramState, n: int, sums: Array, along: Array) -> None:
    """Add what the distance between the means of a state and of ``n`` more cells adds to their co-moments."""
    if state.n > 0:
        weight = state.n * (n / (state.n + n))
        _add_outer(product, weight * (sums / n - state.sums / state.n), along / n - state.along / state.n)


def _add_dense(x: Array, mean: Array, basis: Array, product: Array) -> None:
    added = np.empty_like(product)
    for start in range(0, len(x), TILE_ROWS):
        tile = x[start : start + TILE_ROWS] - mean
        product += np.matmul(tile.T, tile @ basis, out=added)


@numba.njit(nogil=True, cache=True)
def _add_csr(data: Array, indices: Array, indptr: Array, basis: Array, base: Array, product: Array) -> Array:
    """Add ``x^T (x basis + base)`` to ``product``; return the column sums of ``x basis + base``."""
    n_obs, (p, k) = len(indptr) - 1, basis.shape
    rest = np.zeros(k)
    along = np.empty((min(TILE_ROWS, n_obs), k))
    for start in range(0, n_obs, TILE_ROWS):
        stop = min(start + TILE_ROWS, n_obs)
        for i in range(stop - start):
            along[i] = base
        gather_rows(data, indices, indptr[start : stop + 1], basis, along)
        for i in range(stop - start):
            rest += along[i]
        by_gene, cells, starts = _by_columns(data, indices, indptr, start, stop, p)
        gather_rows(by_gene, cells, starts, along, product)
    return rest


@numba.njit(nogil=True, cache=True)
def _by_columns(
    data: Array, indices: Array, indptr: Array, start: int, stop: int, p: int
) -> tuple[Array, Array, Array]:
    """Return rows ``start:stop`` as the three arrays of a csc matrix."""
    first, last = indptr[start], indptr[stop]
    starts = np.zeros(p + 1, np.int32)
    for at in range(first, last):
        starts[indices[at] + 1] += 1
    for j in range(p):
        starts[j + 1] += starts[j]
    free = starts.copy()
    new_data, rows = np.empty(last - first, data.dtype), np.empty(last - first, np.int32)
    for i in range(start, stop):
        for at in range(indptr[i], indptr[i + 1]):
            to = free[indices[at]]
            new_data[to], rows[to] = data[at], i - start
            free[indices[at]] = to + 1
    return new_data, rows, starts


@numba.njit(nogil=True, cache=True)
def _add_outer(out: Array, a: Array, b: Array) -> None:
    for i in range(len(out)):
        row, u = out[i], a[i]
        for c in range(len(row)):
            row[c] += u * b[c]
