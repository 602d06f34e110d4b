"""Genes brought to unit variance, lazily: (mean, standard deviation) per gene and a step that uses them."""

from __future__ import annotations

import numpy as np

from sc_dask.array.blocks import RowBlocks, map_rows
from sc_dask.array.hvg import group_moments
from sc_dask.array.regress_out import corrected, shift
from sc_dask.errors import InputError
from sc_dask.kernels.moments import variance
from sc_dask.kernels.regress_out import float_of
from sc_dask.kernels.scale import scale_cols, scale_some


def mean_and_std(x: RowBlocks, of_cells: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (over ``n - 1``; 0 for a gene that does not vary) of every gene.

    Passes: 1, or none where they are known (after `regress_out.regressed`). ``of_cells`` (bool) picks the cells.
    """
    if of_cells is None and "m2" in x.known.cols:
        mean, m2, n = x.known.cols["mean"], x.known.cols["m2"], x.shape[0]
        std = np.sqrt(m2 / max(n - 1, 1))
    else:
        m = group_moments(x, None if of_cells is None else np.where(of_cells, 0, -1))
        mean, std = m.mean[0], np.sqrt(variance(m)[0])
    if not np.isfinite(std).all():
        raise InputError("X holds NaN or infinite values", "finite numbers", "look at the genes' sums for NaN")
    return mean, std


def scaled(
    x: RowBlocks,
    mean: np.ndarray,
    std: np.ndarray,
    *,
    zero_center: bool = True,
    max_value: float | None = None,
    of_cells: np.ndarray | None = None,
) -> RowBlocks:
    """Describe ``(x - mean) / std``, cut at ``max_value``; without ``zero_center`` ``x / std``, sparse if x is.

    A gene that does not vary (``std`` 0) becomes 0, without ``zero_center`` it stays. Nothing is read.
    """
    high = np.inf if max_value is None else float(max_value)
    factor = np.divide(1, std, out=np.full(len(std), 0.0 if zero_center else 1.0), where=std > 0)
    rows = () if of_cells is None else (of_cells,)
    if not zero_center:
        return map_rows(
            scale_cols, x, *rows, dtype=float_of(x.dtype), columnwise=True, keeps_pattern=True, by_col=("factor",),
            factor=factor, high=high,
        )  # fmt: skip
    if of_cells is None:
        return corrected(x, shift(x.shape[0], mean, factor, low=-high, high=high))
    return map_rows(
        scale_some, x, *rows, dtype=float_of(x.dtype), is_sparse=False, columnwise=True, by_col=("mean", "factor"),
        mean=mean, factor=factor, low=-high, high=high,
    )  # fmt: skip
