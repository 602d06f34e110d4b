"""Principal components of a lazy X: three algorithms with one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from sc_dask import blas
from sc_dask.array.blocks import RowBlocks
from sc_dask.array.pca.components import PCA, finite, ratio, scores_of, signed
from sc_dask.array.pca.gram import comoments
from sc_dask.array.pca.incremental import incremental, incremental_memory
from sc_dask.array.pca.krylov import randomized, randomized_memory
from sc_dask.kernels.gram import TILE_ROWS, covariance, second_moment
from sc_dask.price import Size

# float64 products up to here cost under a second or two; beyond, float32 tiles (added up in float64) take half the time
_FLOAT64_FLOPS = 1e11
# Of 20,000 cells with 5 % non-zeros, seconds of a core for gram and randomized: 2,000 genes 2.6 and 3.5; 4,000: 8.8 and
# 4.8; 6,000: 24.7 and 6.7. The bound is above where they meet: gram is exact, and its pass multiplies once.
GRAM_GENES = 4_000
_SPLIT = 0.8  # of a Gram matrix's bytes is what one takes that is split into frequent and rare genes


def exact(x: RowBlocks, n_comps: int, *, zero_center: bool = True, dtype: Any = np.float32) -> PCA:
    """PCA from the Gram matrix of the genes; residuals and scaled values are never made as a whole (`gram`).

    Passes: 1 over X, which spills the chosen genes for the scores (2 where that is not possible).
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


def exact_memory(size: Size, n_comps: int, chunk_size: int | None = None) -> int:
    """Return the bytes of the states of the Gram matrix, or of its eigenproblem, and of the dense tiles."""
    tiles = size.streams * TILE_ROWS * size.genes * 4
    return int(8 * size.genes**2 * max(_SPLIT * size.states + 1, 4)) + tiles


def cheaper(n_genes: int) -> str:
    """Return the solver that costs less: of few genes the exact one, whose eigenproblem grows as ``n_genes^3``."""
    return "gram" if n_genes <= GRAM_GENES else "randomized"


SOLVERS: dict[str, Callable[..., PCA]] = {"gram": exact, "randomized": randomized, "incremental": incremental}
MEMORY: dict[str, Callable[..., int]] = {
    "gram": exact_memory,
    "randomized": randomized_memory,
    "incremental": incremental_memory,
}
