"""From nearest neighbours to the weighted graph that Leiden and UMAP work on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.graph.neighbors import KNN

# Constants of umap-learn: tolerance of the sum of weights, steps of the bisection, and the least width as a share
# of the mean distance.
_TOLERANCE = 1e-5
_N_STEPS = 64
_MIN_SCALE = 1e-3
_FLOAT_MAX = float(np.finfo(np.float32).max)


def umap(knn: KNN) -> sp.csr_matrix:
    """Return UMAP's fuzzy graph (McInnes, Healy & Melville 2018), symmetric, float32, equal to umap-learn's.

    A cell's weight to a neighbour is ``exp(-(d - rho) / sigma)``, ``rho`` its nearest distance above 0, ``sigma`` such
    that the weights add up to ``log2(k)``; the two directions of a pair are joined as ``a + b - ab``. The kernel is
    umap-learn's ``smooth_knn_dist`` and ``compute_membership_strengths`` with the same roundings, kept here because
    importing umap-learn compiles for 10 s and more in every process.

    Parameters
    ----------
    knn
        ``n_obs x k`` neighbours, self first.

    Memory: 40 bytes per cell and neighbour.
    """
    n_obs, k = knn.indices.shape
    weights = _fuzzy_weights(knn.indices, knn.distances, np.log2(float(k)))
    directed = _from_rows(weights, knn.indices)
    directed.eliminate_zeros()
    reverse = directed.T.tocsr()
    union = (directed + reverse - directed.multiply(reverse)).tocsr()
    union.eliminate_zeros()
    union.sort_indices()
    return _int32(union)


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
    directed = _from_rows(weights.astype(np.float32), knn.indices[:, 1:])
    union = directed.maximum(directed.T.tocsr()).tocsr()
    union.eliminate_zeros()
    union.sort_indices()
    return _int32(union)


METHODS: dict[str, Callable[[KNN], sp.csr_matrix]] = {"umap": umap, "gauss": gauss}


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


@nb.njit(
    "float32[:, ::1](int32[:, ::1], float32[:, ::1], float64)",
    locals={"weight": nb.float32},  # umap-learn's other float32 declarations do not reach into its parallel loop
    nogil=True,
    cache=True,
)
def _fuzzy_weights(indices, distances, target):  # type: ignore[no-untyped-def]
    n_obs, k = distances.shape
    weights = np.zeros((n_obs, k), np.float32)
    mean_of_all = np.mean(distances)
    for i in range(n_obs):
        row = distances[i]
        rho = np.float32(0)
        for j in range(k):
            if row[j] > 0:
                rho = row[j]
                break
        lo, hi, mid = 0.0, _FLOAT_MAX, 1.0
        for _ in range(_N_STEPS):
            psum = 0.0
            for j in range(1, k):
                d = row[j] - rho
                if d > 0:
                    psum += np.exp(-(d / mid))
                else:
                    psum += 1.0
            if np.fabs(psum - target) < _TOLERANCE:
                break
            if psum > target:
                hi = mid
                mid = (lo + hi) / 2.0
            else:
                lo = mid
                if hi >= _FLOAT_MAX:
                    mid *= 2
                else:
                    mid = (lo + hi) / 2.0
        sigma = np.float32(max(mid, _MIN_SCALE * (np.mean(row) if rho > 0 else mean_of_all)))
        for j in range(k):
            weight = 1.0
            if indices[i, j] == i:
                weight = 0.0
            elif row[j] - rho > 0 and sigma > 0:
                weight = np.exp(-((row[j] - rho) / sigma))
            weights[i, j] = weight
    return weights
