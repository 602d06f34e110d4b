"""From nearest neighbours to the weighted graph that Leiden and UMAP work on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import config
from sc_dask.graph.knn.neighbors import KNN
from sc_dask.graph.partition import threaded
from sc_dask.kernels import fuzzy

_ROWS_A_TASK = 8192


def umap(knn: KNN, *, n_sure: float = 1.0, mix: float = 1.0) -> sp.csr_matrix:
    """Return UMAP's fuzzy graph (McInnes, Healy & Melville 2018), symmetric, float32, equal to umap-learn's.

    A cell's weight to a neighbour is ``exp(-(d - rho) / sigma)``, ``rho`` its nearest distance above 0, ``sigma`` such
    that the weights add up to ``log2(k)``; the two directions of a pair are joined as ``a + b - ab``. The kernel is
    umap-learn's ``smooth_knn_dist`` and ``compute_membership_strengths`` with the same roundings, kept here because
    importing umap-learn compiles for 10 s and more in every process.

    Parameters
    ----------
    knn
        ``n_obs x k`` neighbours, self first.
    n_sure
        Neighbours of each cell that weigh 1 (umap-learn's ``local_connectivity``).
    mix
        1: pairs of which either has the other; 0: of which each has the other, weight ``ab``; or between
        (``set_op_mix_ratio``).

    Memory: 45 bytes per cell and neighbour.
    """
    n_obs, k = knn.indices.shape
    weights = np.empty((n_obs, k), np.float32)
    target, mean = float(np.log2(float(k))), float(knn.distances.mean(dtype=np.float64))

    def weigh(a: int) -> None:
        part = slice(a, a + _ROWS_A_TASK)
        fuzzy.weights(knn.indices[part], knn.distances[part], a, target, mean, weights[part], n_sure)

    threaded(weigh, range(0, n_obs, _ROWS_A_TASK), config.n_threads())
    either = _joined(knn.indices, weights, fuzzy.UNION)
    if mix == 1:
        return either
    own = _from_rows(weights, knn.indices)
    mixed = (either * np.float32(mix) + own.multiply(own.T) * np.float32(1 - mix)).tocsr()
    mixed.eliminate_zeros()
    return _int32(mixed)


def trimmed(graph: sp.csr_matrix, n_best: int) -> sp.csr_matrix:
    """Return a symmetric graph with the pairs only that are among the ``n_best`` weights of both cells, or as high."""
    least = np.zeros(graph.shape[0], graph.dtype)
    fuzzy.least_of_best(graph.data, graph.indptr, n_best, least)
    out = graph.copy()
    rows = np.repeat(np.arange(len(least)), np.diff(graph.indptr))
    out.data[graph.data < np.maximum(least[rows], least[graph.indices])] = 0
    out.eliminate_zeros()
    return out


def _joined(indices: NDArray[np.int32], weights: NDArray[np.float32], how: int) -> sp.csr_matrix:
    """Join both directions of each pair; columns sorted, self and zeros left out."""
    n_obs, k = indices.shape
    indices, weights = np.ascontiguousarray(indices), np.ascontiguousarray(weights)
    into = np.zeros(n_obs + 1, np.int64)
    sources, back = np.empty(n_obs * k, np.int32), np.empty(n_obs * k, np.float32)
    fuzzy.transpose(indices, weights, into, sources, back)
    sizes = np.zeros(n_obs, np.int64)
    begins = range(0, n_obs, _ROWS_A_TASK)

    def count(a: int) -> None:
        fuzzy.join_sizes(indices, weights, into, sources, a, min(a + _ROWS_A_TASK, n_obs), sizes)

    threaded(count, begins, config.n_threads())
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    columns, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)

    def fill(a: int) -> None:
        fuzzy.join(indices, weights, into, sources, back, a, min(a + _ROWS_A_TASK, n_obs), how, indptr, columns, data)

    threaded(fill, begins, config.n_threads())
    joined = sp.csr_matrix((data, columns, indptr), shape=(n_obs, n_obs))
    joined.eliminate_zeros()
    return _int32(joined)


def gauss(knn: KNN) -> sp.csr_matrix:
    """Return Gaussian weights of adaptive width (Coifman 2005; Haghverdi 2016), symmetric, float32, as in scanpy.

    The squared width of a cell is the median of its squared distances; a pair weighs
    ``sqrt(2 s_i s_j / (s_i^2 + s_j^2)) * exp(-d^2 / (s_i^2 + s_j^2))``. Two cells of width 0 (most of their neighbours
    are their equals) weigh 1, where scanpy stores NaN.
    """
    squared = knn.distances[:, 1:].astype(np.float64) ** 2
    width2 = np.median(squared, axis=1)
    others = width2[knn.indices[:, 1:]]
    total = width2[:, None] + others
    product = 2 * np.sqrt(width2[:, None] * others)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.sqrt(product / total) * np.exp(-squared / total)
    weights[total == 0] = 1
    return _joined(knn.indices[:, 1:], weights.astype(np.float32), fuzzy.MAX)


def jaccard(knn: KNN) -> sp.csr_matrix:
    """Return the share of common neighbours of each pair (Levine 2015), symmetric, float32, as in scanpy 1.12.

    Two cells' weight is the number of neighbours that both have, by that of those that either has; where only one has
    the other as a neighbour it counts half. A cell does not count as its own neighbour.
    """
    n_obs, k = knn.indices.shape
    weights = np.empty((n_obs, k), np.float32)
    threads = config.n_threads()
    step = max(_ROWS_A_TASK, -(-n_obs // (4 * threads)))  # each task has marks for all cells

    def weigh(a: int) -> None:
        fuzzy.jaccard(knn.indices, a, min(a + step, n_obs), np.full(n_obs, -1, np.int32), weights)

    threaded(weigh, range(0, n_obs, step), threads)
    return _joined(knn.indices, weights, fuzzy.MEAN)


METHODS: dict[str, Callable[[KNN], sp.csr_matrix]] = {"umap": umap, "gauss": gauss, "jaccard": jaccard}


def distances_matrix(knn: KNN) -> sp.csr_matrix:
    """Return the distances as ``obsp["distances"]`` holds them: ``k - 1`` a row, nearest first, self left out, float32.

    Zeros between equal cells are stored, so that every row has the same length; indices are therefore not sorted.
    """
    return _from_rows(knn.distances[:, 1:], knn.indices[:, 1:])


def _from_rows(data: NDArray[Any], indices: NDArray[np.int32]) -> sp.csr_matrix:
    n_obs, k = indices.shape
    indptr = np.arange(n_obs + 1, dtype=np.int64) * k
    m = sp.csr_matrix((data.flatten(), indices.flatten(), indptr), shape=(n_obs, n_obs))
    return _int32(m)


def _int32(m: sp.csr_matrix) -> sp.csr_matrix:
    if m.nnz < np.iinfo(np.int32).max:
        m.indices, m.indptr = m.indices.astype(np.int32, copy=False), m.indptr.astype(np.int32, copy=False)
    return m
