"""Positions of new cells in the layout of a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.graph.knn.reference import Search, neighbours
from sc_dask.graph.partition import threaded, threads
from sc_dask.graph.transfer import Labels, voted
from sc_dask.kernels import fuzzy
from sc_dask.kernels import layout as kernels

_ROWS_A_TASK = 4096
# As umap-learn's `transform` has them.
_N_EPOCHS, _N_EPOCHS_OF_MANY, _MANY = 100, 30, 10_000
_ALPHA, _N_NEGATIVE = 0.25, 5


def ingested(
    new: NDArray[Any],
    reference: NDArray[Any],
    columns: Sequence[Labels],
    layout: tuple[NDArray[Any], float, float] | None,
    *,
    n_neighbors: int,
    metric: str,
    seed: int,
    n_jobs: int,
) -> tuple[list[NDArray[np.int32]], NDArray[np.float32] | None, Search]:
    """Return labels by the majority of the neighbours, and positions in the reference's layout (None: there is none).

    Parameters
    ----------
    new, reference
        ``n_new x n_dims`` and ``n_reference x n_dims``.
    layout
        Positions of the reference and the curve they were drawn with.

    Memory: as `neighbours`, and 8 more bytes a new cell and neighbour for positions.
    """
    (indices, distances), how = neighbours(
        new, reference, n_neighbors, metric=metric, seed=seed, n_jobs=n_jobs
    )  # scanpy's words have none for the recall: 0.95
    labels = [np.empty(len(new), np.int32) for _ in columns]

    def vote(a: int) -> None:
        part = slice(a, a + _ROWS_A_TASK)
        for column, out in zip(columns, labels, strict=True):
            out[part] = voted(indices[part], np.ones(indices[part].shape), column)[0]

    threaded(vote, range(0, len(new), _ROWS_A_TASK), n_jobs)
    where = None if layout is None else positions(indices, distances, *layout, seed=seed, n_jobs=n_jobs)
    return labels, where, how


def positions(
    indices: NDArray[np.int32],
    distances: NDArray[np.float32],
    coords: NDArray[Any],
    a: float,
    b: float,
    *,
    seed: int,
    n_jobs: int,
) -> NDArray[np.float32]:
    """Place new cells among those of a layout: at the mean of their neighbours, then by UMAP's forces, the rest fixed.

    Neighbours weigh as in UMAP's graph. Then 100 rounds (30 beyond 10,000 new cells) at a quarter of the learning rate
    move each new cell by the attraction of its neighbours and the repulsion of random reference cells; new cells do not
    see each other, so that they can come in any portions.

    Parameters
    ----------
    indices, distances
        ``n_new x k`` neighbours among the reference.
    coords
        ``n_reference x n_components``.
    a, b
        The curve of the layout.
    """
    (n, k), n_reference = indices.shape, len(coords)
    coords = np.ascontiguousarray(coords, np.float32)
    if not np.isfinite(coords).all():
        raise InputError("found NaN or infinity in the reference's layout", "finite numbers", "tl.umap(adata_ref)")
    where = np.concatenate([coords, np.empty((n, coords.shape[1]), np.float32)])
    rates = np.empty((n, k), np.uint16)
    n_epochs = _N_EPOCHS if n <= _MANY else _N_EPOCHS_OF_MANY
    mean = float(distances.mean(dtype=np.float64)) if n else 0.0

    def begin(first: int) -> None:
        part = slice(first, first + _ROWS_A_TASK)
        weights = _weights(indices[part], distances[part], mean)
        share = weights / weights.sum(axis=1, keepdims=True)
        where[n_reference:][part] = np.einsum("ij,ijk->ik", share, coords[indices[part]].astype(np.float64))
        # an edge too weak to be due once has rate 0; the heaviest weigh 1
        rates[part] = np.where(weights < 1 / n_epochs, 0, np.minimum(weights * 65536 + 0.5, 65535))

    threaded(begin, range(0, n, _ROWS_A_TASK), n_jobs)
    tables = kernels.tables(a, b, 1.0)
    shuffled = coords[np.random.default_rng(seed).permutation(n_reference)]
    move = kernels.epoch_in_plane if coords.shape[1] == 2 else kernels.epoch
    indptr = np.arange(n + 1, dtype=np.int64) * k
    edges = (indptr, np.ascontiguousarray(indices).ravel(), rates.ravel())
    with threads(n_jobs) as run:
        for t in range(n_epochs):
            alpha = _ALPHA * (1 - t / n_epochs)

            def step(first: int, t: int = t, alpha: float = alpha) -> None:
                # nobody reads where another new cell stands, so they can be moved in place
                span = n_reference + first, n_reference + min(first + _ROWS_A_TASK, n)
                move(*edges, where, shuffled, where, *tables, *span, t, alpha, _N_NEGATIVE, seed, n_reference)

            run(step, range(0, n, _ROWS_A_TASK))
    return where[n_reference:].copy()


def _weights(indices: NDArray[np.int32], distances: NDArray[np.float32], mean: float) -> NDArray[np.float64]:
    """Return UMAP's weights of neighbours; the nearest weighs 1."""
    n, k = indices.shape
    own = np.column_stack([np.full(n, -1, np.int32), indices])  # the kernel takes the first one for the cell itself
    out = np.empty((n, k + 1), np.float32)
    first = -2 - n  # no reference cell is numbered as low: a new cell is none of them
    fuzzy.weights(own, np.column_stack([np.zeros(n, np.float32), distances]), first, np.log2(k + 1), mean, out)
    return out[:, 1:].astype(np.float64)
