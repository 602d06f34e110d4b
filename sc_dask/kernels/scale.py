"""Scaling of one block where zeros stay zeros, and of some of its cells only."""

from __future__ import annotations

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.kernels.csr import Array, Block, from_parts, take_rows, to_dense, values
from sc_dask.kernels.regress_out import correct, float_of


def scale_cols(
    block: Block, of_cells: NDArray[np.bool_] | None = None, *, factor: NDArray[np.float64], high: float = np.inf
) -> Block:
    """Return ``min(x * factor, high)``, a csr block in the same pattern.

    Parameters
    ----------
    block
        n_obs x n_vars.
    of_cells
        bool of n_obs: cells to scale; the others stay as they are. None: all.
    factor
        float64 of n_vars.
    high
        Highest value of the result.
    """
    mask = np.ones(block.shape[0], np.bool_) if of_cells is None else np.asarray(of_cells, np.bool_)
    wanted, factor = float_of(block.dtype), np.ascontiguousarray(factor, np.float64)
    if not sp.issparse(block):
        out = block.astype(wanted)
        out[mask] = np.minimum(block[mask] * factor, high)
        return out
    data = np.empty(len(block.data), wanted)
    _scale_csr(values(block.data), block.indices, block.indptr, mask, factor, float(high), data)
    return from_parts(data, block.indices, block.indptr, block.shape[1])


def scale_some(
    block: Block,
    of_cells: NDArray[np.bool_],
    *,
    mean: NDArray[np.float64],
    factor: NDArray[np.float64],
    low: float = -np.inf,
    high: float = np.inf,
) -> Array:
    """Return a dense block in which some cells are ``(x - mean) * factor`` from ``low`` to ``high``, others as is."""
    out = to_dense(block, float_of(block.dtype))
    if out is block:
        out = block.copy()
    rows = np.flatnonzero(of_cells)
    if len(rows):
        none, zeros = np.empty((len(rows), 0)), np.zeros(len(rows), np.int32)
        options = {"levels": mean[None, :], "coefficients": np.empty((0, len(mean))), "factor": factor}
        out[rows] = correct(take_rows(block, rows), none, zeros, low=low, high=high, **options)
    return out


@numba.njit(nogil=True, cache=True)
def _scale_csr(data: Array, indices: Array, indptr: Array, mask: Array, factor: Array, high: float, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            if mask[i]:
                v = data[k] * factor[np.uint32(indices[k])]
                out[k] = high if v > high else v
            else:
                out[k] = data[k]
