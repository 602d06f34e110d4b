"""Depth normalisation and logarithm of one block, as ``scanpy.pp.normalize_total`` and ``log1p`` have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, from_parts, values

TABLE_SIZE = 64  # counts below it (over 99 % of a cell's) have their logarithm taken once a cell


def scale_rows(block: Block, factors: NDArray[np.float64], dtype: DTypeLike | None = None) -> Block:
    """Return ``x * factors[:, None]``.

    Parameters
    ----------
    block
        n_obs x n_vars.
    factors
        float64 of n_obs, for instance ``target_sum / total_counts``.
    dtype
        float32 or float64; None: float64 for float64 and float32 for everything else.
    """
    return _map_rows(block, factors, _float(block, dtype), _scale_csr, _scale_dense)


def log1p(block: Block, base: float | None = None) -> Block:
    """Return ``log(1 + x)``, over ``log(base)`` if given; float64 stays, everything else becomes float32."""
    data = block.data if sp.issparse(block) else block
    out = np.log1p(data, dtype=_float(block, None))
    if base is not None:
        np.divide(out, np.log(base), out=out)
    return from_parts(out, block.indices, block.indptr, block.shape[1]) if sp.issparse(block) else out


def sqrt(block: Block) -> Block:
    """Return the square root, of negative values NaN; float64 stays, everything else becomes float32."""
    with np.errstate(invalid="ignore"):
        out = np.sqrt(block.data if sp.issparse(block) else block, dtype=_float(block, None))
    return from_parts(out, block.indices, block.indptr, block.shape[1]) if sp.issparse(block) else out


def normalize_log1p(
    block: Block, factors: NDArray[np.float64], base: float | None = None, dtype: DTypeLike | None = None
) -> Block:
    """Return ``log1p(scale_rows(block, factors, dtype), base)`` in one go.

    Equal small counts of a cell share one logarithm, which makes this several times faster than the two steps.
    """
    over = 1.0 if base is None else 1.0 / math.log(base)
    return _map_rows(block, factors, _float(block, dtype), _normalize_log1p_csr, _normalize_log1p_dense, over)


def row_totals_where(block: Block, gene_mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each cell's sum over the genes of ``gene_mask`` (bool of n_vars), float64 of n_obs."""
    if not sp.issparse(block):
        return block[:, gene_mask].sum(axis=1, dtype=np.float64)
    return _totals_where_csr(values(block.data), block.indices, block.indptr, gene_mask)


def highly_expressed(block: Block, totals: NDArray[np.float64], max_fraction: float) -> NDArray[np.bool_]:
    """Return the genes, bool of n_vars, with more than ``max_fraction`` of the total of at least one cell.

    Blocks are merged with ``|``.
    """
    limits = np.asarray(totals, np.float64) * max_fraction
    if not sp.issparse(block):
        return np.asarray((block > limits[:, None]).any(axis=0))
    return _above_csr(values(block.data), block.indices, block.indptr, limits, block.shape[1])


def _float(block: Block, dtype: DTypeLike | None) -> np.dtype[Any]:
    wanted = np.dtype(dtype if dtype is not None else np.float64 if block.dtype == np.float64 else np.float32)
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise InputError(f"found dtype {wanted}", "float32 or float64", "choose one of them")
    return wanted


def _map_rows(
    block: Block,
    factors: Array,
    dtype: np.dtype[Any],
    csr: Callable[..., None],
    dense: Callable[..., None],
    *args: float,
) -> Block:
    factors = np.asarray(factors, np.float64)
    if factors.shape != (block.shape[0],):
        raise InputError(
            f"found {factors.shape} factors", f"one for each of {block.shape[0]} rows", "take those of these rows"
        )
    if not sp.issparse(block):
        out = np.empty(block.shape, dtype)
        dense(values(block), factors, *args, out)
        return out
    out = np.empty(len(block.data), dtype)
    csr(values(block.data), block.indptr, factors, *args, out)
    return from_parts(out, block.indices, block.indptr, block.shape[1])


@numba.njit(nogil=True, cache=True)
def _scale_csr(data: Array, indptr: Array, factors: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            out[k] = data[k] * factors[i]


@numba.njit(nogil=True, cache=True)
def _scale_dense(x: Array, factors: Array, out: Array) -> None:
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = x[i, j] * factors[i]


@numba.njit(nogil=True, cache=True)
def log1p_of(count: Any, factor: float, over: float, like: Array) -> float:
    """Return ``log1p(count * factor) * over``, the product rounded to the type of ``like``, as two steps would."""
    return math.log1p(np.float64(like.dtype.type(count * factor))) * over


@numba.njit(nogil=True, cache=True)
def _log1p_row(row: Array, factor: float, over: float, table: Array, out: Array) -> None:
    table[:] = -1.0
    for k in range(len(row)):
        v = row[k]
        i = np.int64(v) if 0 <= v < len(table) else -1
        if i >= 0 and i == v:
            if table[i] < 0:
                table[i] = log1p_of(i, factor, over, out)
            out[k] = table[i]
        else:
            out[k] = log1p_of(v, factor, over, out)


@numba.njit(nogil=True, cache=True)
def _normalize_log1p_csr(data: Array, indptr: Array, factors: Array, over: float, out: Array) -> None:
    table = np.empty(TABLE_SIZE)
    for i in range(len(indptr) - 1):
        lo, hi = indptr[i], indptr[i + 1]
        _log1p_row(data[lo:hi], factors[i], over, table, out[lo:hi])


@numba.njit(nogil=True, cache=True)
def _normalize_log1p_dense(x: Array, factors: Array, over: float, out: Array) -> None:
    table = np.empty(TABLE_SIZE)
    for i in range(x.shape[0]):
        _log1p_row(x[i], factors[i], over, table, out[i])


@numba.njit(nogil=True, cache=True)
def _totals_where_csr(data: Array, indices: Array, indptr: Array, mask: Array) -> Array:
    out = np.zeros(len(indptr) - 1)
    for i in range(len(indptr) - 1):
        total = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            total += data[k] if mask[np.uint32(indices[k])] else 0
        out[i] = total
    return out


@numba.njit(nogil=True, cache=True)
def _above_csr(data: Array, indices: Array, indptr: Array, limits: Array, n_vars: int) -> Array:
    out = np.zeros(n_vars, np.bool_)
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            if data[k] > limits[i]:
                out[indices[k]] = True
    # an implicit zero is above a negative limit only, and totals of counts are not negative
    return out
