"""The k nearest neighbours of every cell: exact for small data, pynndescent with a measured recall above.

pynndescent (Dong, Moses & Li 2011) gives no bound on what it misses, and what it misses grows with the number of cells
and of dimensions. So a sample of cells is searched exactly too, and the search is repeated with more effort until the
share of true neighbours found is what was asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask import config
from sc_dask.errors import InputError, RecallWarning, ScDaskWarning

# Those that scikit-learn and pynndescent define alike (braycurtis differs where values are negative).
METRICS = (
    "euclidean",
    "manhattan",
    "chebyshev",
    "minkowski",
    "canberra",
    "cosine",
    "correlation",
)
METHODS = ("auto", "brute", "pynndescent")
# scanpy searches exactly below 8,192 cells (4,096 if not euclidean), so "the same numbers" needs it there. Above,
# pynndescent first compiles for 30 s in every process; exact euclidean search of 32,768 x 50 takes 4 s on two cores.
EXACT_BELOW = {"euclidean": 32_768}
EXACT_BELOW_OTHERWISE = 4096
N_SAMPLE = 1000
# Multiples of scanpy's neighbours held while building, trees and rounds; the first of them raises the recall most.
EFFORTS = (1.0, 1.5, 3.0)
_ROWS_AT_ONCE = 256  # of other metrics: the same for any number of threads, and so the products that BLAS makes
_WORKING_MEMORY_MIB, _MEMORY_A_THREAD_MIB = 256, 64
_NO_KWDS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Attempt:
    """One search and how much it found."""

    n_trees: int
    n_iters: int
    n_build: int  # neighbours held while building
    recall: float


@dataclass(frozen=True)
class KNN:
    """Neighbours of every cell, nearest first; the first is always the cell itself, at distance 0."""

    indices: NDArray[np.int32]  # n_obs x k
    distances: NDArray[np.float32]  # n_obs x k
    recall: float  # share of the true neighbours of a sample of cells that was found; 1 when exact
    method: str  # "brute" or "pynndescent"
    attempts: tuple[Attempt, ...] = ()

    @property
    def n_obs(self) -> int:
        return int(self.indices.shape[0])

    @property
    def n_neighbors(self) -> int:
        """Neighbours of a cell, itself included."""
        return int(self.indices.shape[1])


def knn(
    x: NDArray[Any],
    n_neighbors: int,
    *,
    metric: str = "euclidean",
    metric_kwds: Mapping[str, Any] = _NO_KWDS,
    method: str = "auto",
    random_state: int = 0,
    min_recall: float = 0.95,
    n_jobs: int | None = None,
) -> KNN:
    """Return the ``n_neighbors`` nearest neighbours of every row of ``x``, the row itself counted and first.

    ``auto`` is exact (scikit-learn, blocked, products in float64) below 32,768 rows for ``euclidean`` and 4,096 for
    another metric. Above, pynndescent starts with scanpy's settings; the recall is measured on 1,000 rows and, while it
    is below ``min_recall``, up to two more searches hold more neighbours, trees and candidates. Rows that the search
    could not fill are searched exactly. The same seed gives the same neighbours; of pynndescent, with the same number
    of threads.

    Parameters
    ----------
    x
        ``n_obs x n_dims``, finite; float64 stays so in exact search, everything else is searched as float32.
    n_neighbors
        At least 2. More than ``n_obs`` becomes ``1 + n_obs // 2`` with a warning, as in scanpy.
    metric, metric_kwds
        One of ``METRICS`` and its options (``{"p": 3}`` of ``minkowski``).
    method
        ``auto``, ``brute`` or ``pynndescent``.
    min_recall
        Share of true neighbours (0 to 1) that must be found; ties count as found.
    n_jobs
        Threads; None: those of ``sc_dask.config``.

    Memory: ``x`` in float32 and about 40 bytes per cell and neighbour.

    Raises
    ------
    InputError
        ``x`` is not a finite matrix with two rows or more, or an option is unknown.
    """
    x = _checked(x)
    _check_options(n_neighbors, metric, metric_kwds, method, min_recall)
    n_obs = x.shape[0]
    k = int(n_neighbors)
    if k > n_obs:
        k = 1 + n_obs // 2
        warnings.warn(
            f"n_neighbors={n_neighbors} is more than the {n_obs} cells; using n_neighbors={k}",
            ScDaskWarning,
            stacklevel=2,
        )
    threads = config.n_threads() if n_jobs is None else int(n_jobs)
    if method == "auto":
        method = "brute" if n_obs < EXACT_BELOW.get(metric, EXACT_BELOW_OTHERWISE) else "pynndescent"
    if method == "brute":
        indices, distances = exact(x, k, None, metric=metric, metric_kwds=metric_kwds, n_jobs=threads)
        return KNN(indices, distances, 1.0, "brute")
    return _descend(x.astype(np.float32, copy=False), k, metric, metric_kwds, int(random_state), min_recall, threads)


def exact(
    x: NDArray[Any],
    n_neighbors: int,
    rows: NDArray[np.intp] | None,
    *,
    metric: str = "euclidean",
    metric_kwds: Mapping[str, Any] = _NO_KWDS,
    n_jobs: int = 1,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
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
        n_jobs=n_jobs if together else 1,
    ).fit(x)
    wanted = x if rows is None else x[rows]

    def nearest(part: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        with config_context(working_memory=_WORKING_MEMORY_MIB if together else _MEMORY_A_THREAD_MIB):
            return search.kneighbors(part)

    if together:
        with threadpool_limits(n_jobs):
            distances, indices = nearest(wanted)
    else:
        parts = [wanted[i : i + _ROWS_AT_ONCE] for i in range(0, len(wanted), _ROWS_AT_ONCE)]
        with threadpool_limits(1), ThreadPoolExecutor(n_jobs) as pool:
            found = list(pool.map(nearest, parts))
        distances, indices = (np.concatenate([f[i] for f in found]) for i in range(2))
    own = np.arange(x.shape[0]) if rows is None else rows
    return _self_first(indices.astype(np.int32), distances.astype(np.float32), own)


def measured_recall(
    found: tuple[NDArray[np.int32], NDArray[np.float32]], true: tuple[NDArray[np.int32], NDArray[np.float32]]
) -> float:
    """Return the share of found neighbours that are true ones, or as near as the farthest true one (a tie)."""
    radius = true[1][:, -1:] * np.float32(1 + 1e-5)
    hit = found[1][:, 1:] <= radius
    hit |= (found[0][:, 1:, None] == true[0][:, None, 1:]).any(axis=2)
    return float(hit.mean())


def _descend(
    x: NDArray[np.float32],
    k: int,
    metric: str,
    metric_kwds: Mapping[str, Any],
    seed: int,
    min_recall: float,
    n_jobs: int,
) -> KNN:
    n_obs = x.shape[0]
    options: dict[str, Any] = {"metric": metric, "metric_kwds": metric_kwds, "n_jobs": n_jobs}
    sample = np.sort(np.random.default_rng(seed).choice(n_obs, min(N_SAMPLE, n_obs), replace=False))
    true = exact(x, k, sample, **options)
    attempts: list[Attempt] = []
    best: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None
    for effort in EFFORTS:
        # Effort 1 is what scanpy, and umap-learn before it, ask for.
        n_trees = min(64, round(effort * (5 + round(n_obs**0.5 / 20))))
        n_iters = round(effort * max(5, round(np.log2(n_obs))))
        n_build = min(n_obs, round(effort * (k + 1)))
        found = _nn_descent(x, k, n_trees, n_iters, n_build, effort, seed, options)
        recall = measured_recall((found[0][sample], found[1][sample]), true)
        if best is None or recall > max(a.recall for a in attempts):
            best = found
        attempts.append(Attempt(n_trees, n_iters, n_build, recall))
        if recall >= min_recall:
            break
    assert best is not None
    recall = max(a.recall for a in attempts)
    if recall < min_recall:
        warnings.warn(
            f"found {recall:.3f} of the true neighbours in {len(attempts)} searches; expected at least {min_recall}; "
            'next: lower min_recall, use fewer dimensions, or search exactly with transformer="sklearn"',
            RecallWarning,
            stacklevel=3,
        )
    return KNN(best[0], best[1], recall, "pynndescent", tuple(attempts))


def _nn_descent(
    x: NDArray[np.float32],
    k: int,
    n_trees: int,
    n_iters: int,
    n_build: int,
    effort: float,
    seed: int,
    options: Mapping[str, Any],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    import numba
    from pynndescent import NNDescent

    threads = min(int(options["n_jobs"]), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    index = NNDescent(
        x,
        metric=options["metric"],
        metric_kwds=dict(options["metric_kwds"]),
        n_neighbors=n_build,
        n_trees=n_trees,
        n_iters=n_iters,
        max_candidates=None if effort == 1 else 60,
        delta=0.001 / effort**2,
        random_state=seed,
        n_jobs=threads,
    )
    indices = np.array(index.neighbor_graph[0][:, :k], dtype=np.int32)
    distances = np.array(index.neighbor_graph[1][:, :k], dtype=np.float32)
    indices, distances = _self_first(indices, distances, np.arange(x.shape[0]))
    unfilled = np.flatnonzero((indices < 0).any(axis=1))
    if unfilled.size:
        indices[unfilled], distances[unfilled] = exact(x, k, unfilled, **options)
    return indices, distances


def _self_first(
    indices: NDArray[np.int32], distances: NDArray[np.float32], own: NDArray[np.intp]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
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


def _checked(x: NDArray[Any]) -> NDArray[Any]:
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype.kind not in "fiub":
        raise InputError(f"found {type(x).__name__} where neighbours are searched", "a 2-D numeric ndarray")
    if x.shape[0] < 2 or x.shape[1] < 1:
        raise InputError(f"found {x.shape[0]} cells x {x.shape[1]} dimensions", "at least 2 cells and 1 dimension")
    x = np.ascontiguousarray(x, dtype=np.float64 if x.dtype == np.float64 else np.float32)
    # A sum is not finite when one number is not, and needs no temporary array.
    if not np.isfinite(np.sum(x, dtype=np.float64)):
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if bad.size:
            raise InputError(
                f"found NaN or infinity in {bad.size} cells (first: row {bad[0]})",
                "finite numbers in the representation",
                "remove or repair these cells, then run pp.pca again",
            )
    return x


def _check_options(
    n_neighbors: int, metric: str, metric_kwds: Mapping[str, Any], method: str, min_recall: float
) -> None:
    if not isinstance(n_neighbors, int | np.integer) or isinstance(n_neighbors, bool) or n_neighbors < 2:
        raise InputError(f"found n_neighbors={n_neighbors!r}", "an integer of at least 2 (the cell itself counts)")
    if metric not in METRICS:
        raise InputError(f"found metric={metric!r}", "one of " + ", ".join(METRICS))
    if set(metric_kwds) - ({"p"} if metric == "minkowski" else set()):
        raise InputError(f"found metric_kwds={dict(metric_kwds)!r} for metric={metric!r}", "none, or p for minkowski")
    if method not in METHODS:
        raise InputError(f"found method={method!r}", "one of " + ", ".join(METHODS))
    if not 0 <= min_recall <= 1:
        raise InputError(f"found min_recall={min_recall!r}", "a share between 0 and 1")
