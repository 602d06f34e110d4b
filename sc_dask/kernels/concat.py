"""Blocks of several matrices made alike and stacked: columns at new places, one type, one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import INT32_MAX, Block, canonical, from_parts, take_cols


def place_lookup(cols: NDArray[np.int64], n_vars: int) -> NDArray[np.int32] | None:
    """Return, for each of ``n_vars`` columns, its place in ``cols`` or -1; None when ``cols`` names one twice.

    Unlike in `sc_dask.kernels.csr.col_lookup`, -1 among ``cols`` stands for a column that is not there.
    """
    lookup = np.full(n_vars, -1, np.int32)
    there = cols >= 0
    lookup[cols[there]] = np.flatnonzero(there)
    return lookup if np.count_nonzero(lookup >= 0) == np.count_nonzero(there) else None


def place_cols(
    block: Block, *, lookup: NDArray[np.int32] | None, cols: NDArray[np.int64], fill: float, dtype: np.dtype[Any]
) -> Block:
    """Return the columns ``cols`` of a block, -1 being a column of ``fill``, as values of ``dtype``.

    In a csr block a ``fill`` other than 0 is stored in every row, as anndata stores it.
    """
    there = cols >= 0
    if not sp.issparse(block):
        out = np.full((block.shape[0], len(cols)), fill, dtype)
        out[:, there] = block[:, cols[there]]
        return out
    if lookup is not None and (fill == 0 or there.all()):
        return cast(take_cols(block, lookup, len(cols)), dtype=dtype)
    filled = sp.csr_matrix(np.full((block.shape[0], 1), fill, dtype))
    wide = sp.hstack([cast(block, dtype=dtype), filled], format="csr")
    out = wide[:, np.where(there, cols, block.shape[1])]
    return canonical(out.data, out.indices, out.indptr, len(cols))


def cast(block: Block, *, dtype: np.dtype[Any]) -> Block:
    """Return a block with values of ``dtype``; the block itself if it has them already."""
    if block.dtype == dtype:
        return block
    if not sp.issparse(block):
        return block.astype(dtype)
    return from_parts(block.data.astype(dtype), block.indices, block.indptr, block.shape[1])


def as_csr(block: Block) -> Block:
    """Return a dense block as csr; its zeros are not stored."""
    out = sp.csr_matrix(block)
    return from_parts(out.data, out.indices.astype(np.int32), out.indptr.astype(np.int32), block.shape[1])


def stack(blocks: Sequence[Block], n_vars: int, dtype: np.dtype[Any], *, is_sparse: bool) -> Block:
    """Return blocks of equal columns, type and form below each other; one alone is returned as it is.

    Raises
    ------
    InputError
        The rows have 2**31 non-zeros or more.
    """
    if len(blocks) == 1:
        return blocks[0]
    if not is_sparse:
        return np.concatenate(blocks) if blocks else np.empty((0, n_vars), dtype)
    sizes = [np.zeros(1, np.int64), *(np.diff(b.indptr) for b in blocks)]
    indptr = np.cumsum(np.concatenate(sizes), dtype=np.int64)
    if indptr[-1] > INT32_MAX:
        raise InputError(f"found rows of {indptr[-1]} non-zeros in all", "fewer than 2**31", "take fewer rows")
    data = np.concatenate([np.empty(0, dtype), *(b.data for b in blocks)])
    indices = np.concatenate([np.empty(0, np.int32), *(b.indices for b in blocks)])
    return from_parts(data, indices, indptr.astype(np.int32), n_vars)


def spread(
    block: Block | None,
    at: NDArray[np.intp] | None,
    n_rows: int,
    n_vars: int,
    fill: float,
    dtype: np.dtype[Any],
    *,
    is_sparse: bool,
) -> Block:
    """Return ``n_rows`` rows with those of ``block`` at places ``at``, and ``fill`` in the others."""
    if not is_sparse:
        out = np.full((n_rows, n_vars), fill, dtype)
        if block is not None:
            out[at] = block
        return out
    sizes = np.full(n_rows, 0 if fill == 0 else n_vars, np.int64)
    sizes[at if at is not None else slice(0)] = 0 if block is None else np.diff(block.indptr)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    if fill == 0:
        data = np.empty(0, dtype) if block is None else block.data
        indices = np.empty(0, np.int32) if block is None else block.indices
        return from_parts(data, indices, indptr.astype(np.int32), n_vars)
    dense = np.full((n_rows, n_vars), fill, dtype)
    if block is not None:
        dense[at] = block.toarray()
    return as_csr(dense)


def beside(blocks: Sequence[Block], dtype: np.dtype[Any], *, is_sparse: bool) -> Block:
    """Return blocks of equal rows, type and form beside each other.

    Raises
    ------
    InputError
        The rows have 2**31 non-zeros or more.
    """
    if len(blocks) == 1:
        return blocks[0]
    if not is_sparse:
        return np.ascontiguousarray(np.concatenate(blocks, axis=1))
    n_stored = sum(int(b.nnz) for b in blocks)
    if n_stored > INT32_MAX:
        raise InputError(f"found rows of {n_stored} non-zeros in all", "fewer than 2**31", "take fewer rows")
    out = sp.hstack(blocks, format="csr", dtype=dtype)
    return canonical(out.data, out.indices, out.indptr, out.shape[1])
