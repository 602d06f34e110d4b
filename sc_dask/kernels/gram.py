"""Sums of outer products of the cells, and the projection on components: what PCA needs of one block.

The products are taken about the mean of each tile of rows and merged by Chan, Golub and LeVeque (1983), so float32
tiles lose nothing to large means. BLAS runs on as many threads as the caller allows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, values

TILE_ROWS = 2048


@dataclass(frozen=True)
class GramState:
    """State of :func:`gram`. Read it with :func:`covariance` and :func:`second_moment`."""

    n: int
    sums: NDArray[np.float64]  # p
    gram: NDArray[np.float64]  # p x p, products of deviations from the mean; upper triangle, the rest is 0


def empty_gram(p: int) -> GramState:
    """Return the state of no cells."""
    return GramState(0, np.zeros(p), np.zeros((p, p)))


def gram(block: Block, dtype: DTypeLike = np.float32, tile_rows: int = TILE_ROWS) -> GramState:
    """Return the sums and the co-moments of the columns of one block.

    Parameters
    ----------
    block
        n_obs x p; p is the number of chosen genes.
    dtype
        float32 or float64: precision of the products inside a tile. Tiles are added up in float64.
    tile_rows
        Rows made dense at a time.

    Memory: ``8 p^2`` bytes for the state, ``itemsize (p^2 + tile_rows p)`` while it runs.
    """
    return gram_update(empty_gram(block.shape[1]), block, dtype, tile_rows)


def gram_update(state: GramState, block: Block, dtype: DTypeLike = np.float32, tile_rows: int = TILE_ROWS) -> GramState:
    """Return ``merge_gram(state, gram(block))`` as a new state, with one p x p copy less."""
    wanted = np.dtype(dtype)
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise InputError(f"found dtype {wanted}", "float32 or float64", "choose one of them")
    n_obs, p = block.shape
    if p != len(state.sums):
        raise InputError(f"found a block of {p} columns", f"{len(state.sums)} as in the state", "pick the same genes")
    n, sums, total = state.n, state.sums.copy(), state.gram.copy()
    if n_obs == 0 or p == 0:
        return GramState(n + n_obs, sums, total)
    tile = np.empty((min(tile_rows, n_obs), p), wanted)
    product = np.empty((p, p), wanted)
    for start in range(0, n_obs, tile_rows):
        rows = min(tile_rows, n_obs - start)
        part = tile[:rows]
        if sp.issparse(block):
            tile_sums = _centred_csr(values(block.data), block.indices, block.indptr, start, part)
        else:
            tile_sums = _centred_dense(values(block), start, part)
        # numpy sees x^T x and calls BLAS's syrk, with the GIL released (scipy's wrappers hold it)
        np.matmul(part.T, part, out=product)
        _add_merged(total, product, sums, n, tile_sums, rows)
        sums += tile_sums
        n += rows
    return GramState(n, sums, total)


def merge_gram(a: GramState, b: GramState) -> GramState:
    """Return the state of the cells of both; associative."""
    total = a.gram.copy()
    _add_merged(total, b.gram, a.sums, a.n, b.sums, b.n)
    return GramState(a.n + b.n, a.sums + b.sums, total)


def covariance(state: GramState) -> NDArray[np.float64]:
    """Return the covariance of the columns over ``n - 1``, p x p, full and symmetric.

    Raises
    ------
    InputError
        There are fewer than two cells.
    """
    if state.n < 2:
        raise InputError(f"found {state.n} cells", "at least 2", "keep more cells")
    return _full(state.gram, np.zeros_like(state.sums), 1.0 / (state.n - 1))


def second_moment(state: GramState) -> NDArray[np.float64]:
    """Return the mean of ``x x^T`` over the cells (no centring), p x p, full and symmetric.

    Raises
    ------
    InputError
        There are no cells.
    """
    if state.n < 1:
        raise InputError("found no cells", "at least 1", "keep more cells")
    return _full(state.gram, state.sums / np.sqrt(state.n), 1.0 / state.n)


def project(
    block: Block,
    components: NDArray[np.float64],
    offset: NDArray[np.float64] | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Return ``block @ components - offset``, n_obs x k, summed in float64.

    Parameters
    ----------
    block
        n_obs x p.
    components
        p x k.
    offset
        k, for instance ``mean @ components``; None: 0.
    dtype
        Type of the result; None: float64 for float64 and float32 for everything else.
    """
    wanted = np.dtype(dtype if dtype is not None else np.float64 if block.dtype == np.float64 else np.float32)
    components = np.ascontiguousarray(components, np.float64)
    if components.shape[0] != block.shape[1]:
        raise InputError(
            f"found components of {components.shape[0]} genes",
            f"{block.shape[1]} as in the block",
            "pick the same genes",
        )
    minus = np.zeros(components.shape[1]) if offset is None else np.asarray(offset, np.float64)
    if not sp.issparse(block):
        return (block.astype(np.float64, copy=False) @ components - minus).astype(wanted, copy=False)
    out = np.empty((block.shape[0], components.shape[1]), wanted)
    _project(values(block.data), block.indices, block.indptr, components, minus, out)
    return out


def _full(upper: Array, added: Array, scale: float) -> Array:
    """Return ``scale * (upper + added added^T)``, mirrored."""
    out = (np.outer(added, added) + upper) * scale
    _mirror(out)
    return out


@numba.njit(nogil=True, cache=True)
def _mirror(x: Array) -> None:
    for i in range(len(x)):
        for j in range(i):
            x[i, j] = x[j, i]


@numba.njit(nogil=True, cache=True)
def _centred_csr(data: Array, indices: Array, indptr: Array, start: int, tile: Array) -> Array:
    rows, p = tile.shape
    sums = np.zeros(p)
    for k in range(indptr[start], indptr[start + rows]):
        sums[indices[k]] += data[k]
    mean = sums / rows
    base = (-mean).astype(tile.dtype)
    for i in range(rows):
        tile[i] = base
        for k in range(indptr[start + i], indptr[start + i + 1]):
            tile[i, indices[k]] = data[k] - mean[indices[k]]
    return sums


@numba.njit(nogil=True, cache=True)
def _centred_dense(x: Array, start: int, tile: Array) -> Array:
    rows, p = tile.shape
    sums = np.zeros(p)
    for i in range(rows):
        for j in range(p):
            sums[j] += x[start + i, j]
    mean = sums / rows
    for i in range(rows):
        for j in range(p):
            tile[i, j] = x[start + i, j] - mean[j]
    return sums


@numba.njit(nogil=True, cache=True)
def _add_merged(total: Array, part: Array, sums: Array, n: int, part_sums: Array, n_part: int) -> None:
    """Add the co-moments ``part`` of ``n_part`` rows to ``total`` of ``n`` rows, upper triangles only."""
    p = len(sums)
    if n_part == 0:
        return
    delta = np.zeros(p)
    weight = 0.0
    if n > 0:
        delta = part_sums / n_part - sums / n
        weight = n * (n_part / (n + n_part))
    for i in range(p):
        w = weight * delta[i]
        for j in range(i, p):
            total[i, j] += part[i, j] + w * delta[j]


@numba.njit(nogil=True, cache=True)
def _project(data: Array, indices: Array, indptr: Array, components: Array, minus: Array, out: Array) -> None:
    k_comps = components.shape[1]
    acc = np.empty(k_comps)
    for i in range(len(indptr) - 1):
        acc[:] = -minus
        for k in range(indptr[i], indptr[i + 1]):
            v = np.float64(data[k])
            j = indices[k]
            for c in range(k_comps):
                acc[c] += v * components[j, c]
        for c in range(k_comps):
            out[i, c] = acc[c]
