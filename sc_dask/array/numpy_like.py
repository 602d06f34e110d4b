"""What numpy and scipy users do with X, on a lazy one: sums, extremes, products, and all of it in memory.

Sums and products are Dask arrays of plain ndarrays, made from the sparse blocks; nothing is read until they are
computed. What brings X into memory looks first whether it fits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse as sp

from sc_dask import config
from sc_dask.errors import InputError
from sc_dask.outside.dask import has_sparse_blocks, plain

METHODS: dict[Any, str] = {np.sum: "sum", np.mean: "mean", np.max: "max", np.min: "min"}  # of X, for numpy's functions


# -- in memory -----------------------------------------------------------------------------------


def check_room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse to make an ndarray that does not fit into memory.

    Raises
    ------
    InputError
        It would take more than the budget (the option ``sc-dask.memory``) or 0.8 of the memory that is free.
    """
    wanted = float(np.prod(shape, dtype=np.float64)) * dtype.itemsize
    room = config.room()
    if wanted > room:
        raise InputError(
            f"X as an array in memory takes {wanted / 2**30:.1f} GiB ({shape[0]:,} x {shape[1]:,} {dtype})",
            f"at most {room / 2**30:.1f} GiB",
            "select cells or genes first (adata[:, genes].X), use sd.get.obs_df, or X.to_memory() for a sparse matrix",
        )


def to_sparse(x: Any) -> Any:
    """Return all of X as it is: a csr_matrix, or an ndarray where it is dense. Passes: 1."""
    from sc_dask.array.engine import run  # which is made of what is here

    return run.materialise(x)


def to_ndarray(x: Any, dtype: Any = None) -> np.ndarray:
    """Return all of X as an ndarray, if it fits. Passes: 1."""
    check_room(x.shape, np.dtype(dtype or x.dtype))
    found = to_sparse(x)
    values = found.toarray() if sp.issparse(found) else found
    return values if dtype is None else values.astype(dtype, copy=False)


# -- sums and extremes ---------------------------------------------------------------------------


def _sum(block: Any, axis: tuple[int, ...], keepdims: bool, dtype: np.dtype[Any]) -> np.ndarray:
    wide = np.float64 if dtype.kind == "f" else dtype
    return _shaped(block.sum(axis=axis[0] if len(axis) == 1 else None, dtype=wide), axis, block.shape)


def _extreme(block: Any, axis: tuple[int, ...], keepdims: bool, *, name: str, dtype: np.dtype[Any]) -> np.ndarray:
    if not block.shape[0]:  # no row: what every other value replaces
        limits = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        worst = limits[0] if name == "max" else limits[1]
        kept = tuple(1 if i in axis else n for i, n in enumerate(block.shape))
        return np.full(kept, worst, dtype)
    found = getattr(block, name)(axis=axis[0] if len(axis) == 1 else None)
    return _shaped(found.toarray() if sp.issparse(found) else found, axis, block.shape)


def _shaped(found: Any, axis: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(found).reshape(tuple(1 if i in axis else n for i, n in enumerate(shape)))


def _reduced(
    x: da.Array, chunk: Callable[..., np.ndarray], combine: Callable[..., Any], axis: Any, keepdims: bool, dtype: Any
) -> da.Array:
    meta = np.empty((0,) * (2 if keepdims else 0 if axis is None else 1), dtype)
    return da.reduction(
        plain(x, np.empty((0, 0), x.dtype)),
        chunk,
        lambda parts, axis, keepdims: combine(parts, axis=axis, keepdims=keepdims).astype(dtype),
        combine=combine,
        axis=axis,
        keepdims=keepdims,
        dtype=dtype,
        meta=meta,
    )


def total(x: da.Array, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> da.Array:
    """Return sums as numpy has them, added up in float64."""
    kind = np.dtype(dtype) if dtype is not None else np.sum(np.empty(0, x.dtype)).dtype
    return _reduced(x, partial(_sum, dtype=kind), np.sum, axis, keepdims, kind)


def mean(x: da.Array, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> da.Array:
    """Return means as numpy has them, of sums in float64."""
    kind = np.dtype(dtype) if dtype is not None else np.mean(np.empty(1, x.dtype)).dtype
    n = np.prod([x.shape[i] for i in ((0, 1) if axis is None else np.atleast_1d(axis))], dtype=np.float64)
    return (total(x, axis, keepdims, np.float64) / n).astype(kind)


def extreme(x: da.Array, name: str, axis: Any = None, keepdims: bool = False) -> da.Array:
    """Return the largest (``"max"``) or smallest (``"min"``) values; zeros that are not stored count."""
    chunk = partial(_extreme, name=name, dtype=np.dtype(x.dtype))
    return _reduced(x, chunk, getattr(np, name), axis, keepdims, x.dtype)


# -- products ------------------------------------------------------------------------------------


def _times(block: Any, *, other: Any) -> Any:
    found = block @ other
    return found.tocsr() if sp.issparse(found) else np.asarray(found)


def _one_row(n: int) -> int:
    return 1


def _times_left(block: Any, left: np.ndarray) -> np.ndarray:
    return np.asarray(block.T @ left).T[None]


def _operand(other: Any) -> Any:
    if isinstance(other, da.Array):
        from sc_dask.array.blocks import from_array  # which is made of what is here

        return to_sparse(from_array(other)) if other.ndim == 2 else np.asarray(other)
    return other if sp.issparse(other) else np.asarray(other)


def matmul(x: da.Array, other: Any) -> da.Array:
    """Return ``x @ other`` for an array or sparse matrix of n_vars rows that is in memory."""
    other = _operand(other)
    if other.shape[0] != x.shape[1]:
        raise ValueError(f"X has {x.shape[1]} columns, what it is multiplied with {other.shape[0]} rows")
    dtype = np.result_type(x.dtype, other.dtype)
    if other.ndim == 1:
        return da.map_blocks(_times, plain(x), other=other, drop_axis=1, dtype=dtype, meta=np.empty(0, dtype))
    both = sp.issparse(other) and has_sparse_blocks(x)
    meta = sp.csr_matrix((0, 0), dtype=dtype) if both else np.empty((0, 0), dtype)
    return da.map_blocks(_times, plain(x), other=other, chunks=(x.chunks[0], (other.shape[1],)), dtype=dtype, meta=meta)


def matmul_left(x: da.Array, other: Any) -> da.Array:
    """Return ``other @ x`` for an ndarray of n_obs columns that is in memory."""
    left = np.atleast_2d(np.asarray(_operand(other).T if sp.issparse(other) else np.asarray(other)))
    if left.shape[1] != x.shape[0]:
        raise ValueError(f"X has {x.shape[0]} rows, what it is multiplied with {left.shape[1]} columns")
    dtype = np.result_type(x.dtype, left.dtype)
    rows = da.from_array(np.ascontiguousarray(left.T), chunks=(x.chunks[0], (left.shape[0],)))
    parts = da.blockwise(
        _times_left, "ikj", plain(x, np.empty((0, 0), x.dtype)), "ij", rows, "ik",
        dtype=dtype, adjust_chunks={"i": _one_row}, meta=np.empty((0, 0, 0), dtype),
    )  # fmt: skip
    found = parts.sum(axis=0, dtype=dtype)
    return found[0] if np.ndim(other) == 1 else found


# -- one row or column ---------------------------------------------------------------------------


def dense(x: da.Array) -> da.Array:
    """Return the same values in ndarray blocks."""
    if not has_sparse_blocks(x):
        return plain(x)
    return da.map_blocks(_dense_block, plain(x), dtype=x.dtype, meta=np.empty((0, 0), x.dtype))


def _dense_block(block: Any) -> np.ndarray:
    values: np.ndarray = block.toarray()
    return values
