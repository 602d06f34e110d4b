"""Neighbours that somebody else has found: of a matrix of distances, or of a search object of scikit-learn's kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.graph.knn.neighbors import KNN


def of_distances(distances: NDArray[Any] | sp.spmatrix, n_neighbors: int) -> KNN:
    """Return the ``n_neighbors`` nearest cells (the cell itself first) of a matrix of distances, dense or sparse.

    What a sparse matrix stores are neighbours, zeros too; a cell's distance to itself does not matter.
    """
    n_obs = distances.shape[0]
    if distances.shape != (n_obs, n_obs):
        raise InputError(f"found distances of shape {distances.shape}", "cells x cells")
    if not 2 <= n_neighbors <= n_obs:
        raise InputError(f"found n_neighbors={n_neighbors} of {n_obs} cells", f"a number from 2 to {n_obs}")
    find = _of_sparse if sp.issparse(distances) else _of_dense
    indices, lengths = find(distances, n_neighbors)
    if not (lengths >= 0).all():
        raise InputError("found distances that are negative or NaN", "distances from 0 on")
    own = np.arange(n_obs, dtype=np.int32)[:, None]
    own_lengths = np.zeros((n_obs, 1), np.float32)
    return KNN(
        np.hstack([own, indices.astype(np.int32)]),
        np.hstack([own_lengths, lengths.astype(np.float32)]),
        float("nan"),  # nobody has measured it
        "given",
    )


def _of_sparse(distances: sp.spmatrix, k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    d = distances.tocsr()
    rows = np.repeat(np.arange(d.shape[0]), np.diff(d.indptr))
    others = rows != d.indices
    rows, columns, lengths = rows[others], d.indices[others], d.data[others]
    counts = np.bincount(rows, minlength=d.shape[0])
    if counts.min() < k - 1:
        raise InputError(
            f"found {counts.min()} neighbours of cell {int(counts.argmin())} in the matrix of distances",
            f"at least n_neighbors - 1 = {k - 1} of every cell",
            f"use n_neighbors={int(counts.min()) + 1}, or leave out cells without neighbours",
        )
    order = np.lexsort((lengths, rows))
    first = np.cumsum(counts) - counts
    nearest = order[first[:, None] + np.arange(k - 1)]
    return columns[nearest], lengths[nearest]


def _of_dense(d: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    d = np.array(d, dtype=np.float64)
    np.fill_diagonal(d, np.inf)
    nearest = np.argpartition(d, k - 2, axis=1)[:, : k - 1]
    lengths = np.take_along_axis(d, nearest, axis=1)
    order = np.argsort(lengths, axis=1, kind="stable")
    return np.take_along_axis(nearest, order, axis=1), np.take_along_axis(lengths, order, axis=1)


def of_transformer(transformer: Any, x: NDArray[Any]) -> tuple[KNN, sp.csr_matrix]:
    """Let a search object (``KNeighborsTransformer`` and the like) find neighbours; return them and its own matrix."""
    n_neighbors = int(transformer.get_params()["n_neighbors"])
    matrix = sp.csr_matrix(transformer.fit_transform(x))
    return of_distances(matrix, n_neighbors), matrix
