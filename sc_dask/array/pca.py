"""Principal components of a lazy X: three algorithms with one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from sc_dask import blas
from sc_dask.array.blocks import RowBlocks
from sc_dask.array.components import PCA, finite, ratio, scores_of, signed
from sc_dask.array.gram import comoments
from sc_dask.array.incremental import incremental
from sc_dask.array.krylov import randomized
from sc_dask.kernels.gram import covariance, second_moment

# float64 products up to here cost under a second or two; beyond, float32 tiles (added up in float64) take half the time
_FLOAT64_FLOPS = 1e11


def exact(x: RowBlocks, n_comps: int, *, zero_center: bool = True, dtype: Any = np.float32) -> PCA:
    """PCA from the Gram matrix of the genes; residuals and scaled values are never made as a whole (`gram`).

    Passes: 1 over X, which lays the chosen genes aside for the scores (2 where that is not possible).
    Memory: ``8 n_vars^2`` bytes a thread and for the driver 3 times as much.
    """
    n_obs, p = x.shape
    precision = np.float64 if float(n_obs) * p * p <= _FLOAT64_FLOPS else np.float32
    state, staged = comoments(x, precision)
    square = finite(covariance(state) if zero_center else second_moment(state))
    total = float(np.trace(square))
    values, vectors = _largest(square, n_comps)
    components = signed(np.ascontiguousarray(vectors[:, ::-1].T))
    variance = np.maximum(values[::-1], 0)
    scores = scores_of(staged, components, state.sums / max(state.n, 1) if zero_center else None, dtype)
    if not zero_center:  # as TruncatedSVD reports it: the variance of the scores
        variance = scores.astype(np.float64).var(axis=0)
        total = float(np.trace(covariance(state))) * (n_obs - 1) / n_obs
    return PCA(scores, components, variance, ratio(variance, total))


def _largest(square: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest eigenvalues (increasing) and their vectors."""
    p = len(square)
    with blas.one_thread():
        return scipy.linalg.eigh(square, subset_by_index=[p - k, p - 1], overwrite_a=True)


SOLVERS: dict[str, Callable[..., PCA]] = {"gram": exact, "randomized": randomized, "incremental": incremental}
