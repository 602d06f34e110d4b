"""Exact search: every row is compared with every other.

`of_rows` takes any metric and keeps float64: scikit-learn's search, and so scanpy's numbers. `nearest` searches for
rows of another matrix by Euclidean distance in float32, tile by tile, 1.5 times as fast; the truth of a recall and
small references are searched by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask import blas
from sc_dask.graph.knn.recall import Neighbours
from sc_dask.graph.partition import threaded
from sc_dask.kernels import knn as kernels

NO_KWDS: Mapping[str, Any] = MappingProxyType({})
_ROWS_AT_ONCE = 256  # of other metrics: the same for any number of threads, and so the products that BLAS makes
_WORKING_MEMORY_MIB, _MEMORY_A_THREAD_MIB = 256, 64
_ROWS_A_TILE = 16_384  # of the matrix, in one task
_COLUMNS_AT_ONCE = 512  # a tile of products stays in cache
_SPARE = 8  # neighbours that float32 products may put in the wrong order at the end of a list


def of_rows(
    x: NDArray[Any],
    n_neighbors: int,
    rows: NDArray[np.intp] | None,
    *,
    metric: str | Callable[..., float] = "euclidean",
    metric_kwds: Mapping[str, Any] = NO_KWDS,
    n_jobs: int = 1,
) -> Neighbours:
    """Return indices and distances of the true neighbours of ``rows`` (None: all) among those of ``x``, self first."""
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    together = metric == "euclidean"  # scikit-learn's own threads; others it cuts by their number, which shows in BLAS
    search = NearestNeighbors(
        n_neighbors=n_neighbors,
        algorithm="brute",
        metric=metric,
        p=metric_kwds.get("p", 2),
        metric_params={key: value for key, value in metric_kwds.items() if key != "p"} or None,
        n_jobs=n_jobs if together else 1,
    ).fit(x)
    wanted = x if rows is None else x[rows]

    def search_part(part: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        with config_context(working_memory=_WORKING_MEMORY_MIB if together else _MEMORY_A_THREAD_MIB):
            return search.kneighbors(part)

    if together:
        with blas.one_thread(), threadpool_limits(n_jobs, user_api="openmp"):
            distances, indices = search_part(wanted)
    else:
        parts = [wanted[i : i + _ROWS_AT_ONCE] for i in range(0, len(wanted), _ROWS_AT_ONCE)]
        with blas.one_thread(), threadpool_limits(1, user_api="openmp"), ThreadPoolExecutor(n_jobs) as pool:
            results = list(pool.map(search_part, parts))
        distances, indices = (np.concatenate([r[i] for r in results]) for i in range(2))
    own = np.arange(x.shape[0]) if rows is None else rows
    return self_first(indices.astype(np.int32), distances.astype(np.float32), own)


def nearest(
    x: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    *,
    own: NDArray[np.intp] | None = None,
    n_jobs: int = 1,
) -> Neighbours:
    """Return indices and Euclidean distances of the ``k`` nearest rows of ``x`` of every query, equals by number.

    Parameters
    ----------
    own
        Row of ``x`` that each query is (-1: none), and so not its own neighbour.

    Where ``x`` has too few rows the index is -1 and the distance infinity. Memory: ``_ROWS_A_TILE`` rows a thread, and
    12 bytes for each query, neighbour and tile.
    """
    n_rows = x.shape[0]
    # Seen from the centre distances are short, and so lose few digits in |x|^2 + |y|^2 - 2xy.
    centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = queries - centre
    whole, starts = np.array([0]), np.append(np.arange(0, n_rows, _ROWS_A_TILE), n_rows)

    def compare(tile: int) -> Neighbours:
        n = int(starts[tile + 1] - starts[tile])
        rows, norms, names = np.empty((n, x.shape[1]), np.float32), np.empty(n, np.float32), np.empty(n, np.int32)
        kernels.gather(x, starts[tile : tile + 2], whole, centre, rows, norms, names)
        return by_products(centred, rows, norms, names, k)

    found = threaded(compare, range(starts.size - 1), n_jobs)
    indices, distances = (np.concatenate([f[i] for f in found], axis=1) for i in range(2))
    if own is not None:
        indices = np.where(indices == own[:, None], -1, indices)
    distances = np.where(indices < 0, np.float32(np.inf), distances)
    best = np.argsort(distances, axis=1, kind="stable")[:, : k + _SPARE]
    return by_differences(x, queries, np.take_along_axis(indices, best, axis=1), k)


def by_products(
    queries: NDArray[np.float32],
    rows: NDArray[np.float32],
    norms: NDArray[np.float32],
    names: NDArray[np.int32],
    k: int,
) -> Neighbours:
    """Return the names of the ``k`` nearest rows of every query, and of some more, by products of matrices.

    Distances are squared, and lose digits in the differences of large numbers: `by_differences` mends the order.
    """
    n_kept = k + _SPARE
    indices = np.full((len(queries), n_kept), -1, np.int32)
    distances = np.full((len(queries), n_kept), np.inf, np.float32)
    query_norms = np.einsum("ij,ij->i", queries, queries)
    for first in range(0, len(rows), _COLUMNS_AT_ONCE):
        part = slice(first, first + _COLUMNS_AT_ONCE)
        # No row is numbered as low as -len(queries): queries are none of the rows here.
        kernels.take_nearest(
            queries @ rows[part].T, query_norms, norms[part], -len(queries), names[part], indices, distances
        )
    return indices, distances


def by_differences(
    x: NDArray[np.float32], queries: NDArray[np.float32], indices: NDArray[np.integer], k: int
) -> Neighbours:
    """Return the ``k`` nearest of these rows of ``x`` (-1: none), nearest first, and by number where equally near."""
    difference = x[indices] - queries[:, None]
    distances = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference))
    distances[indices < 0] = np.inf
    order = np.lexsort((indices, distances), axis=1)[:, :k]
    return np.take_along_axis(indices, order, axis=1).astype(np.int32), np.take_along_axis(distances, order, axis=1)


def self_first(indices: NDArray[np.int32], distances: NDArray[np.float32], own: NDArray[np.intp]) -> Neighbours:
    """Move every row's own index to the front, at distance 0; a cell's duplicates can stand before or instead of it."""
    k = indices.shape[1]
    distances[indices == own[:, None]] = 0
    wrong = np.flatnonzero(indices[:, 0] != own)
    if wrong.size:
        both = np.column_stack([own[wrong], indices[wrong]]).astype(np.int32)
        lengths = np.column_stack([np.zeros(wrong.size, np.float32), distances[wrong]])
        again = both == own[wrong, None]
        again[:, 0] = False
        keep = np.argsort(again, axis=1, kind="stable")[:, :k]
        indices[wrong] = np.take_along_axis(both, keep, axis=1)
        distances[wrong] = np.take_along_axis(lengths, keep, axis=1)
    return indices, distances
