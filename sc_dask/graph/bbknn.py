"""Neighbours from every batch alike (BBKNN; Polanski et al. 2020), each batch searched on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.graph import connectivities
from sc_dask.graph.knn.exact import self_first
from sc_dask.graph.knn.neighbors import KNN
from sc_dask.graph.knn.reference import neighbours


def balanced(
    x: NDArray[Any],
    codes: NDArray[np.int32],
    n_each: int,
    *,
    metric: str = "euclidean",
    exact: bool = False,
    n_jobs: int = 1,
) -> KNN:
    """Return the ``n_each`` nearest neighbours of every cell in every batch, nearest first, the cell itself before all.

    Parameters
    ----------
    x
        ``n_obs x n_dims``, finite.
    codes
        Batch of each cell (0, 1, ...), each of at least ``n_each`` cells.
    metric
        ``euclidean``, ``cosine`` or ``correlation``.
    exact
        Compare all, however large the batch; else batches above 32,768 cells are searched by clusters.

    Memory: one batch twice, 16 bytes per cell and neighbour.
    """
    n_batches = int(codes.max()) + 1
    indices = np.empty((len(x), n_batches * n_each), np.int32)
    distances = np.empty(indices.shape, np.float32)
    recalls, methods = [], []
    for b in range(n_batches):
        rows = np.flatnonzero(codes == b).astype(np.int32)
        part = slice(b * n_each, (b + 1) * n_each)
        (found, distances[:, part]), how = neighbours(
            x, x[rows], n_each, metric=metric, exact_search=exact, n_jobs=n_jobs
        )
        indices[:, part] = rows[found]
        recalls.append(how.recall)
        methods.append(how.method)
    order = np.argsort(distances, axis=1, kind="stable")
    indices, distances = np.take_along_axis(indices, order, axis=1), np.take_along_axis(distances, order, axis=1)
    indices, distances = self_first(indices, distances, np.arange(len(x)))
    return KNN(indices, distances, min(recalls), "ivf" if "ivf" in methods else "brute")


def graph(
    x: NDArray[Any], codes: NDArray[np.int32], n_each: int, trim: int, mix: float, n_sure: float, **options: Any
) -> tuple[KNN, sp.csr_matrix]:
    """Search, weigh and trim in one place, so that the neighbours travel once; ``trim=0``: all pairs stay."""
    found = balanced(x, codes, n_each, **options)
    weights = connectivities.umap(found, n_sure=n_sure, mix=mix)
    return found, connectivities.trimmed(weights, trim) if trim else weights
