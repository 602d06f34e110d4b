"""The shape of a block: checking, cutting and densifying csr rows.

A block is a ``csr_matrix`` with int32 ``indices`` and ``indptr``, sorted and without duplicates, or a
C-ordered ``ndarray``. Nothing here changes its input; results may share memory with it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray

from sc_dask.errors import FormatError, InputError

Block = Any  # csr_matrix or C-ordered ndarray
Array = NDArray[Any]

INT32_MAX = np.iinfo(np.int32).max
_SORT_ROWS = 512  # sorted together: few enough for the cache, enough to share a count of the columns


def values(data: Array) -> Array:
    """Return ``data`` in a type that the compiled kernels read, without a copy where possible.

    Bool becomes uint8, float16 float32, long double float64; foreign byte order becomes native.

    Raises
    ------
    FormatError
        The data are not real numbers.
    """
    if data.dtype == np.bool_:
        return data.view(np.uint8)
    if data.dtype.kind not in "iuf":
        raise FormatError(f"found values of type {data.dtype}", "real numbers", "convert X to a number type")
    if data.dtype.kind == "f" and data.dtype.itemsize not in (4, 8):
        return data.astype(np.float32 if data.dtype.itemsize == 2 else np.float64)
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))


def from_parts(data: Array, indices: Array, indptr: Array, n_vars: int) -> sp.csr_matrix:
    """Return a block of arrays that are canonical already; nothing is checked or copied."""
    out = sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, n_vars), copy=False)
    out.has_sorted_indices = True
    out.has_canonical_format = True
    return out


def canonical(data: Array, indices: Array, indptr: Array, n_vars: int) -> sp.csr_matrix:
    """Return the three arrays of a compressed sparse matrix as a block.

    Parameters
    ----------
    data
        Values, ``nnz``.
    indices
        Columns, ``nnz``, any integer type.
    indptr
        Row starts, ``n_obs + 1``, any integer type, the first 0.
    n_vars
        Number of columns.

    Returns
    -------
    ``csr_matrix`` with int32 ``indices`` and ``indptr``, sorted, without duplicates (duplicates are
    summed, as anndata and scipy do). Shares ``data`` and int32 ``indices`` with the input when
    these are in order already. Explicit zeros are kept.

    Raises
    ------
    FormatError
        The arrays contradict each other, a column is outside ``[0, n_vars)``, or the rows have 2**31
        non-zeros or more.
    """
    indptr, indices = _signed(indptr), _signed(indices)
    nnz = len(data)
    if len(indices) != nnz or len(indptr) == 0 or indptr[0] != 0 or indptr[-1] != nnz:
        ends = f"{indptr[0]} to {indptr[-1]}" if len(indptr) else "nothing"
        raise FormatError(
            f"found {nnz} values, {len(indices)} indices and an indptr from {ends}",
            "as many values as indices and an indptr from 0 to that number",
            "the file is damaged: write it again from its source",
        )
    if nnz > INT32_MAX or n_vars > INT32_MAX:
        raise FormatError(
            f"found a block of {nnz} non-zeros and {n_vars} columns",
            "fewer than 2**31 of each",
            "read fewer rows at a time",
        )
    data = values(data)
    state, row = (0, 0) if _is_canonical(indices, indptr, n_vars) else _check(indices, indptr, n_vars)
    if state < 0:
        what = "starts after it ends" if state == -1 else f"has a column outside [0, {n_vars})"
        raise FormatError(
            f"found that row {row} {what}",
            "a valid sparse matrix",
            "the file is damaged: write it again from its source",
        )
    small = indices.astype(np.int32, copy=False)
    starts = indptr.astype(np.int32, copy=False)
    if state > 0:
        data, small, starts = _sort_and_sum(data, small, starts)
    return from_parts(data, small, starts, n_vars)


def take_rows(block: Block, rows: Array) -> Block:
    """Return the rows ``rows`` (integers, repeats allowed, or a bool mask of n_obs) in that order."""
    n_obs = block.shape[0]
    rows = _positions(rows, n_obs, "rows")
    contiguous = len(rows) > 0 and bool(np.all(rows[1:] - rows[:-1] == 1))
    if contiguous and len(rows) == n_obs:
        return block
    if not sp.issparse(block):
        return block[rows[0] : rows[-1] + 1] if contiguous else block[rows]
    if contiguous:
        lo, hi = block.indptr[rows[0]], block.indptr[rows[-1] + 1]
        indptr = block.indptr[rows[0] : rows[-1] + 2] - lo
        return from_parts(block.data[lo:hi], block.indices[lo:hi], indptr, block.shape[1])
    lengths = np.diff(block.indptr)[rows]
    indptr = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    if indptr[-1] > INT32_MAX:
        raise InputError(f"found rows of {indptr[-1]} non-zeros in all", "fewer than 2**31", "take fewer rows")
    starts = indptr.astype(np.int32)
    data, indices = _take_rows(values(block.data), block.indices, block.indptr, rows, starts)
    return from_parts(data, indices, starts, block.shape[1])


def col_lookup(cols: Array, n_vars: int) -> NDArray[np.int32] | None:
    """Return, for each of ``n_vars`` columns, its place in ``cols`` or -1; None when ``cols`` has repeats.

    ``cols`` are integers (negative ones count from the end) or a bool mask of n_vars. Repeats have no
    lookup: index with scipy or numpy and make the result canonical.
    """
    cols = _positions(cols, n_vars, "columns")
    lookup = np.full(n_vars, -1, np.int32)
    lookup[cols] = np.arange(len(cols), dtype=np.int32)
    return lookup if np.count_nonzero(lookup >= 0) == len(cols) else None


def take_cols(block: Block, lookup: NDArray[np.int32], n_out: int) -> Block:
    """Return ``n_out`` columns of a block: column j goes to place ``lookup[j]``, or away when that is -1.

    Parameters
    ----------
    block
        n_obs x n_vars.
    lookup
        int32 of n_vars, without repeats; see :func:`col_lookup`. Places that it leaves out are zero columns.
    n_out
        Number of columns of the result.
    """
    kept = lookup[lookup >= 0]
    if not sp.issparse(block):
        out = np.zeros((block.shape[0], n_out), block.dtype)
        out[:, kept] = block[:, lookup >= 0]
        return out
    if len(kept) == len(lookup) == n_out and bool(np.all(kept == np.arange(n_out))):
        return block
    in_order = bool(np.all(kept[1:] > kept[:-1]))
    data, indices, indptr = _take_cols(values(block.data), block.indices, block.indptr, lookup, n_out, in_order)
    return from_parts(data, indices, indptr, n_out)


def nnz_per_row(block: Block) -> NDArray[np.int64]:
    """Return the stored values of each row, int64 of n_obs; for an ndarray those that are not 0."""
    if sp.issparse(block):
        return np.diff(block.indptr).astype(np.int64)
    return np.count_nonzero(block, axis=1).astype(np.int64)


def kept_per_row(indices: Array, indptr: Array, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many of the stored values of each row are in columns of the mask ``kept``, int64 of n_obs.

    Column numbers are taken as they are stored; those outside the matrix count as not kept.
    """
    return _kept_per_row(_signed(indices), np.asarray(indptr, np.int64), kept)


def to_dense(block: Block, dtype: DTypeLike | None = None) -> Array:
    """Return a block as a C-ordered ndarray of ``dtype`` (default: its own); shares memory where it can."""
    wanted = block.dtype if dtype is None else np.dtype(dtype)
    if not sp.issparse(block):
        return np.ascontiguousarray(block, wanted)
    out = np.zeros(block.shape, wanted)
    _fill(values(block.data), block.indices, block.indptr, out.view(np.uint8) if wanted == np.bool_ else out)
    return out


def _signed(a: Array) -> Array:
    """Return integers as native int32 or int64: the only two types that the loops are compiled for."""
    a = np.asarray(a)
    if a.dtype.kind not in "iu":
        raise FormatError(f"found indices of type {a.dtype}", "integers", "write the matrix again from its source")
    if a.dtype == np.uint64:
        return a.astype(a.dtype.newbyteorder("="), copy=False).view(
            np.int64
        )  # 2**63 and more turn negative: refused later
    return a.astype(np.int32 if np.can_cast(a.dtype, np.int32) else np.int64, copy=False)


def _positions(positions: Array, n: int, what: str) -> Array:
    """Return a mask or signed positions as int64 positions in ``[0, n)``."""
    positions = np.asarray(positions)
    if positions.dtype == np.bool_:
        if positions.shape != (n,):
            raise InputError(
                f"found a mask of shape {positions.shape} for {n} {what}", f"shape ({n},)", "make the mask as long"
            )
        return np.flatnonzero(positions)
    positions = positions.astype(np.int64)
    if len(positions) and (positions.min() < -n or positions.max() >= n):
        raise InputError(
            f"found {what} from {positions.min()} to {positions.max()}", f"positions in [0, {n})", "check the positions"
        )
    return np.where(positions < 0, positions + n, positions)


@numba.njit(nogil=True, cache=True)
def _is_canonical(indices: Array, indptr: Array, n_vars: int) -> bool:
    """Return whether nothing needs mending, in loops without branches (0.5 ns a value against 1.9 of `_check`).

    Neighbours that do not increase are counted over all values and at the starts of rows: equal counts mean that
    they occur nowhere else.
    """
    nnz = len(indices)
    for i in range(len(indptr) - 1):
        if indptr[i + 1] < indptr[i] or indptr[i + 1] > nnz:
            return False
    if nnz == 0:
        return True
    low, high, falls = indices[0], indices[0], 0
    for k in range(1, nnz):
        low, high = min(low, indices[k]), max(high, indices[k])
        falls += indices[k] <= indices[k - 1]
    if low < 0 or high >= n_vars:
        return False
    for i in range(len(indptr) - 1):
        lo = indptr[i]
        if 0 < lo < indptr[i + 1]:
            falls -= indices[lo] <= indices[lo - 1]
    return falls == 0


@numba.njit(nogil=True, cache=True)
def _check(indices: Array, indptr: Array, n_vars: int) -> tuple[int, int]:
    """Return (state, row): 0 canonical, 1 rows to sort or sum, -1 indptr falls, -2 column out of range."""
    state = 0
    nnz = len(indices)
    for i in range(len(indptr) - 1):
        lo, hi = indptr[i], indptr[i + 1]
        if hi < lo or hi > nnz:
            return -1, i
        last = -1
        for k in range(lo, hi):
            j = indices[k]
            if j < 0 or j >= n_vars:
                return -2, i
            if j <= last:
                state = 1
            last = j
    return state, 0


@numba.njit(nogil=True, cache=True)
def _sort_and_sum(data: Array, indices: Array, indptr: Array) -> tuple[Array, Array, Array]:
    new_data, new_indices, new_indptr = np.empty_like(data), np.empty_like(indices), np.zeros_like(indptr)
    at = 0
    for i in range(len(indptr) - 1):
        lo, hi = indptr[i], indptr[i + 1]
        order = np.argsort(indices[lo:hi], kind="mergesort")
        first = at
        for k in order:
            j = indices[lo + k]
            if at > first and new_indices[at - 1] == j:
                new_data[at - 1] += data[lo + k]
            else:
                new_indices[at] = j
                new_data[at] = data[lo + k]
                at += 1
        new_indptr[i + 1] = at
    return new_data[:at].copy(), new_indices[:at].copy(), new_indptr


@numba.njit(nogil=True, cache=True)
def _take_rows(data: Array, indices: Array, indptr: Array, rows: Array, starts: Array) -> tuple[Array, Array]:
    new_data, new_indices = np.empty(starts[-1], data.dtype), np.empty(starts[-1], np.int32)
    for r in range(len(rows)):
        lo = indptr[rows[r]]
        at = starts[r]
        for k in range(starts[r + 1] - at):
            new_data[at + k] = data[lo + k]
            new_indices[at + k] = indices[lo + k]
    return new_data, new_indices


@numba.njit(nogil=True, cache=True)
def _sort_rows(data: Array, indices: Array, indptr: Array, n_vars: int) -> None:
    """Sort some rows by column, in place: all their values by column first, then from there back to the rows."""
    first, n_obs = indptr[0], len(indptr) - 1
    nnz = indptr[n_obs] - first
    place = np.zeros(n_vars + 1, np.int32)
    for k in range(first, first + nnz):
        place[indices[k] + 1] += 1
    for j in range(n_vars):
        place[j + 1] += place[j]
    row, column, value = np.empty(nnz, np.int32), np.empty(nnz, np.int32), np.empty(nnz, data.dtype)
    for i in range(n_obs):
        for k in range(indptr[i], indptr[i + 1]):
            at = place[indices[k]]
            place[indices[k]] = at + 1
            row[at], column[at], value[at] = i, indices[k], data[k]
    filled = indptr[:-1].copy()
    for k in range(nnz):
        at = filled[row[k]]
        filled[row[k]] = at + 1
        indices[at], data[at] = column[k], value[k]


@numba.njit(nogil=True, cache=True)
def _take_cols(
    data: Array, indices: Array, indptr: Array, lookup: Array, n_out: int, in_order: bool
) -> tuple[Array, Array, Array]:
    """One loop into room for everything (of which only what is written takes memory), then a copy of what is kept."""
    n_obs = len(indptr) - 1
    new_indptr = np.zeros(n_obs + 1, np.int32)
    room = indptr[n_obs] - indptr[0] + 1
    new_data, new_indices = np.empty(room, data.dtype), np.empty(room, np.int32)
    at = np.uint64(0)
    for i in range(n_obs):
        for k in range(indptr[i], indptr[i + 1]):
            j = lookup[np.uint32(indices[k])]
            new_data[at] = data[k]  # written over when it is not kept: a branch is mispredicted too often
            new_indices[at] = j
            at += np.uint64(j >= 0)
        new_indptr[i + 1] = at
    if not in_order:
        for start in range(0, n_obs, _SORT_ROWS):
            _sort_rows(new_data, new_indices, new_indptr[start : start + _SORT_ROWS + 1], n_out)
    if 2 * at > room:
        return new_data[:at], new_indices[:at], new_indptr
    return new_data[:at].copy(), new_indices[:at].copy(), new_indptr


@numba.njit(nogil=True, cache=True)
def _fill(data: Array, indices: Array, indptr: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            out[i, indices[k]] = data[k]


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def gather_rows(data: Array, indices: Array, indptr: Array, source: Array, out: Array) -> None:
    """Add to each row of ``out`` the rows of ``source`` that a compressed row names, times its values.

    Four at a time, so that the sum is loaded and stored once for them; views of rows, because numba would guard
    two-dimensional indices against negative ones inside the loop and vectorise nothing.
    """
    total = np.empty(source.shape[1])
    for i in range(len(indptr) - 1):
        lo, hi = indptr[i], indptr[i + 1]
        if lo == hi:
            continue
        total[:] = 0.0
        fours = lo + (hi - lo) // 4 * 4
        for at in range(lo, fours, 4):
            v0, v1 = np.float64(data[at]), np.float64(data[at + 1])
            v2, v3 = np.float64(data[at + 2]), np.float64(data[at + 3])
            r0, r1 = source[np.uint32(indices[at])], source[np.uint32(indices[at + 1])]
            r2, r3 = source[np.uint32(indices[at + 2])], source[np.uint32(indices[at + 3])]
            for c in range(len(total)):
                total[c] += (v0 * r0[c] + v1 * r1[c]) + (v2 * r2[c] + v3 * r3[c])
        for at in range(fours, hi):
            v, r = np.float64(data[at]), source[np.uint32(indices[at])]
            for c in range(len(total)):
                total[c] += v * r[c]
        row = out[i]
        for c in range(len(total)):
            row[c] += total[c]


@numba.njit(nogil=True, cache=True)
def _kept_per_row(indices: Array, indptr: Array, kept: Array) -> Array:
    out = np.zeros(len(indptr) - 1, np.int64)
    n = np.uint64(len(kept))
    for i in range(len(out)):
        found = 0
        for k in range(indptr[i], indptr[i + 1]):
            j = np.uint64(indices[k])
            if j < n and kept[j]:
                found += 1
        out[i] = found
    return out
