"""Shares of counts, lazily."""

from __future__ import annotations

import numpy as np

from sc_dask.array.aggregate import of_rows
from sc_dask.array.blocks import RowBlocks, collect_rows, map_rows
from sc_dask.array.engine import run
from sc_dask.kernels.csr import to_dense
from sc_dask.kernels.shares import percent_of_cell


def highest(x: RowBlocks, n_top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the genes with the highest mean share of a cell's counts, and their shares in per cent (n_obs, n_top).

    Passes: 2, the first for the means of all genes. Memory: 4 bytes per cell and gene that is returned.
    """
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    shares = map_rows(percent_of_cell, x, dtype=dtype, keeps_pattern=True)
    means = of_rows(shares, np.zeros(x.shape[0], np.int32), 1, ["mean"])["mean"][0]
    top = np.argsort(means)[::-1][:n_top]
    return top, run.compute(collect_rows(to_dense, shares.select_columns(top), dtype=None), label="highest genes")
