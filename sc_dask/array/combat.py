"""ComBat on a lazy X: one pass for the moments of the batches, and a lazy step that adjusts."""

from __future__ import annotations

import numpy as np

from sc_dask.array import hvg
from sc_dask.array.blocks import Reduction, RowBlocks, map_rows, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.source import Block
from sc_dask.errors import InputError
from sc_dask.kernels.combat import Adjustment, adjust, fit, products


def _products(block: Block, covariates: np.ndarray, codes: np.ndarray, *, n_batches: int) -> np.ndarray:
    return products(block, covariates, codes, n_batches)


PRODUCTS: Reduction[np.ndarray, np.ndarray] = Reduction(_products, np.add)


def adjusted(x: RowBlocks, codes: np.ndarray, n_batches: int, covariates: np.ndarray) -> RowBlocks:
    """Describe ``x`` without what batches add and multiply.

    Parameters
    ----------
    x
        Lazy matrix (n_obs, n_vars).
    codes
        Batch of each cell, int32 (n_obs,), at least two cells each.
    covariates
        What is to stay, float64 (n_obs, n_covariates).

    Passes: 1. Memory: 24 bytes (and 8 for each covariate) per gene, batch and thread. The result is dense; it is made
    block by block, and genes are picked before.
    """
    means, squares, centred = _within(codes, n_batches, covariates)
    if covariates.shape[1]:
        lazies = (
            reduce_rows(hvg.MOMENTS, x, codes, n_groups=n_batches),
            reduce_rows(PRODUCTS, x, centred, codes, n_batches=n_batches),
        )
        moments, crossed = run.compute(*lazies, label="batch effects")
    else:
        moments, crossed = hvg.group_moments(x, codes, n_batches), np.empty((n_batches, 0, x.shape[1]))
    found: Adjustment = fit(moments, crossed, means, squares)
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    return map_rows(
        adjust, x, codes, covariates, dtype=dtype, is_sparse=False, columnwise=True,
        by_col=("factor", "offset", "coefficients"),
        factor=found.factor, offset=found.offset, coefficients=found.coefficients,
    )  # fmt: skip


def _within(codes: np.ndarray, n_batches: int, covariates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means of the covariates in each batch, products of their deviations from them, and these deviations."""
    n = np.bincount(codes, minlength=n_batches)
    q = covariates.shape[1]
    means = np.empty((n_batches, q))
    for i in range(q):
        means[:, i] = np.bincount(codes, covariates[:, i], n_batches) / n
    centred = covariates - means[codes]
    squares = np.stack([centred[codes == b].T @ centred[codes == b] for b in range(n_batches)])
    lengths = np.sqrt(np.einsum("bqq->q", squares))
    scale = np.where(lengths > 1e-9 * np.sqrt((covariates**2).sum(axis=0)), lengths, np.inf)
    correlations = squares.sum(axis=0) / np.outer(scale, scale)
    if q and np.linalg.matrix_rank(correlations, tol=1e-9, hermitian=True) < q:
        raise InputError(
            "the covariates follow from the batches or from each other",
            "covariates that vary within batches and are no sums of others",
            "leave some of them out",
        )
    return means, squares, centred
