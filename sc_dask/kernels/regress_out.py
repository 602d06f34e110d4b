"""Linear corrections of one block: what cells' covariates and groups explain of each gene is taken away.

A correction is ``(x - levels[code] - design @ coefficients) * factor``, cut to ``low`` and ``high``: residuals of a
regression, centring and scaling, or both at once. Its result is dense, whatever the block is.
"""

from __future__ import annotations

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, gather_rows, values

_SAME = 1e-7  # of its length: what is left of a covariate that others explain
_ROWS = 1024  # of a dense block at a time


def float_of(dtype: DTypeLike) -> np.dtype[np.floating]:
    """Return the type of residuals: float64 for float64 and integers of 8 bytes, else float32, as scanpy has it."""
    dtype = np.dtype(dtype)
    wide = dtype.itemsize >= 8 and dtype.kind in "iuf"
    return np.dtype(np.float64 if wide else np.float32)


def orthonormal(covariates: NDArray[np.float64], names: list[str]) -> NDArray[np.float64]:
    """Return an orthonormal basis, n_obs x q, of the covariates less their means.

    Parameters
    ----------
    covariates
        float64, n_obs x q, finite.
    names
        What to call them in an error.

    Raises
    ------
    InputError
        A covariate is constant, or is explained by those before it.
    """
    out = np.empty_like(covariates, order="F")
    for k in range(covariates.shape[1]):
        v = covariates[:, k] - covariates[:, k].mean()
        length = np.linalg.norm(v)
        if length <= 1e-12 * np.linalg.norm(covariates[:, k]):
            raise InputError(
                f"obs[{names[k]!r}] is the same in all cells", "covariates that vary", f"leave {names[k]!r} out of keys"
            )
        v /= length
        for _ in range(2):  # the second time for what rounding has left
            v -= out[:, :k] @ (out[:, :k].T @ v)
        left = np.linalg.norm(v)
        if left < _SAME:
            raise InputError(
                f"obs[{names[k]!r}] is collinear with {', '.join(repr(n) for n in names[:k])}",
                "covariates of which none follows from the others",
                f"leave {names[k]!r} out of keys",
            )
        out[:, k] = (v - v.mean()) / left
    return np.ascontiguousarray(out)


def cross(
    block: Block, design: NDArray[np.float64], codes: NDArray[np.int32], n_levels: int = 1
) -> NDArray[np.float64]:
    """Return each gene's sum in each group, then its products with each column of the design: (n_levels + q) x n_vars.

    Parameters
    ----------
    block
        n_obs x n_vars.
    design
        float64, n_obs x q.
    codes
        int32 of n_obs in ``[0, n_levels)``.
    """
    n_obs, p = block.shape
    q = design.shape[1]
    sums, products = np.zeros((n_levels, p)), np.zeros((p, q))
    if sp.issparse(block):
        _cross_csr(values(block.data), block.indices, block.indptr, design, codes, sums, products)
        return np.vstack([sums, products.T])
    for start in range(0, n_obs, _ROWS):
        part = values(block[start : start + _ROWS]).astype(np.float64)
        np.add.at(sums, codes[start : start + _ROWS], part)
        products += part.T @ design[start : start + _ROWS]
    return np.vstack([sums, products.T])


def correct(
    block: Block,
    design: NDArray[np.float64],
    codes: NDArray[np.int32],
    *,
    levels: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    factor: NDArray[np.float64],
    low: float = -np.inf,
    high: float = np.inf,
) -> Array:
    """Return ``(x - levels[codes] - design @ coefficients) * factor`` from ``low`` to ``high``, dense; NaN stays NaN.

    Parameters
    ----------
    block
        n_obs x n_vars.
    design, codes
        float64 of n_obs x q and int32 of n_obs.
    levels, coefficients, factor
        float64 of n_levels x n_vars, q x n_vars and n_vars.
    low, high
        Bounds of the result.
    """
    out = np.empty(block.shape, float_of(block.dtype))
    base = np.ascontiguousarray(levels * factor), np.ascontiguousarray(coefficients * factor)
    arguments = (np.ascontiguousarray(design), codes, *base, np.asarray(factor, np.float64), float(low), float(high))
    if sp.issparse(block):
        _correct_csr(values(block.data), block.indices, block.indptr, *arguments, out)
    else:
        _correct_dense(np.ascontiguousarray(values(block)), *arguments, out)
    return out


def corrected_scores(
    block: Block,
    design: NDArray[np.float64],
    codes: NDArray[np.int32],
    *,
    basis: NDArray[np.floating],
    of_levels: NDArray[np.float64],
    of_design: NDArray[np.float64],
    dtype: DTypeLike,
) -> Array:
    """Return ``block @ basis - of_levels[codes] - design @ of_design``, n_obs x k, summed in float64.

    With ``basis = factor * components`` and the levels and coefficients times it, these are the scores of a corrected
    block that is never made.
    """
    out = -(of_levels[codes] + design @ of_design)
    if sp.issparse(block):
        gather_rows(values(block.data), block.indices, block.indptr, basis, out)
    else:
        for start in range(0, len(block), _ROWS):
            out[start : start + _ROWS] += block[start : start + _ROWS].astype(np.float64) @ basis
    return out.astype(dtype, copy=False)


@numba.njit(nogil=True, cache=True)
def _cross_csr(
    data: Array, indices: Array, indptr: Array, design: Array, codes: Array, sums: Array, products: Array
) -> None:
    q = design.shape[1]
    for i in range(len(indptr) - 1):
        row, weights = sums[codes[i]], design[i]
        for k in range(indptr[i], indptr[i + 1]):
            j = np.uint32(indices[k])
            v = np.float64(data[k])
            row[j] += v
            of_gene = products[j]
            for m in range(q):
                of_gene[m] += v * weights[m]


@numba.njit(nogil=True, cache=True)
def _explained(level: Array, weights: Array, coefficients: Array, out: Array) -> None:
    for j in range(len(out)):
        out[j] = -level[j]
    for m in range(len(weights)):
        w, of_covariate = weights[m], coefficients[m]
        for j in range(len(out)):
            out[j] -= w * of_covariate[j]


@numba.njit(nogil=True, cache=True)
def _cut(row: Array, low: float, high: float, out: Array) -> None:
    for j in range(len(out)):
        v = row[j]
        v = low if v < low else v
        out[j] = high if v > high else v


@numba.njit(nogil=True, cache=True)
def _correct_csr(
    data: Array, indices: Array, indptr: Array, design: Array, codes: Array, levels: Array, coefficients: Array,
    factor: Array, low: float, high: float, out: Array,
) -> None:  # fmt: skip
    row = np.empty(out.shape[1])
    for i in range(len(out)):
        _explained(levels[codes[i]], design[i], coefficients, row)
        for k in range(indptr[i], indptr[i + 1]):
            j = np.uint32(indices[k])
            row[j] += data[k] * factor[j]
        _cut(row, low, high, out[i])


@numba.njit(nogil=True, cache=True)
def _correct_dense(
    x: Array, design: Array, codes: Array, levels: Array, coefficients: Array, factor: Array, low: float, high: float,
    out: Array,
) -> None:  # fmt: skip
    row = np.empty(out.shape[1])
    for i in range(len(out)):
        _explained(levels[codes[i]], design[i], coefficients, row)
        values_of = x[i]
        for j in range(len(row)):
            row[j] += values_of[j] * factor[j]
        _cut(row, low, high, out[i])
