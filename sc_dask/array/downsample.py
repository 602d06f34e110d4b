"""Counts drawn from those of each cell, lazily."""

from __future__ import annotations

import numpy as np

from sc_dask.array.blocks import RowBlocks, map_rows
from sc_dask.kernels.downsample import cell_seeds, downsample


def per_cell(x: RowBlocks, targets: np.ndarray, seed: int, replace: bool) -> RowBlocks:
    """Describe X with at most ``targets`` (int64, n_obs) counts a cell; nothing is read, and re-reading draws alike."""
    dtype = x.dtype
    if replace and dtype.kind in "iu" and len(targets):
        dtype = np.promote_types(dtype, np.min_scalar_type(int(targets.max())))
    seeds = cell_seeds(seed, x.shape[0])
    return map_rows(downsample, x, targets, seeds, dtype=dtype, replace=replace, out_dtype=dtype.str)
