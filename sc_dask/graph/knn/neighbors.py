"""The k nearest neighbours of every cell: exact for small data, an approximate search with a measured recall above.

Approximate search gives no bound on what it misses, and what it misses grows with the number of cells and of
dimensions. So a sample of cells is searched exactly too, and the search goes on with more effort until the share of
true neighbours found is what was asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask import config
from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.graph.knn import exact, ivf, recall

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
# Those that are searched exactly only: scikit-learn has them, and no other search counts them alike.
EXACT_METRICS = (
    *("braycurtis", "dice", "hamming", "jaccard", "mahalanobis", "rogerstanimoto", "russellrao", "seuclidean"),
    *("sokalsneath", "sqeuclidean", "yule"),
)
SAME_METRICS = {"l1": "manhattan", "cityblock": "manhattan", "l2": "euclidean"}
EXACT_ONLY_BELOW = 50_000  # cells: all pairs of more take hours
Metric = str | Callable[..., float]
METHODS = ("auto", "brute", "ivf", "pynndescent")
# scanpy searches exactly below 8,192 cells (4,096 if not euclidean), so "the same numbers" needs it there; exact
# euclidean search of 32,768 x 50 takes 4 s on two cores.
EXACT_BELOW = {"euclidean": 32_768}
EXACT_BELOW_OTHERWISE = 4096
# Those that rank neighbours as Euclidean distance does, once rows are scaled.
IVF_METRICS = ("euclidean", "cosine", "correlation")
# Multiples of scanpy's neighbours while building, trees and rounds; the first of them raises the recall most.
EFFORTS = (1.0, 1.5, 3.0)


@dataclass(frozen=True)
class Attempt:
    """One search and how much it found."""

    effort: str
    recall: float


@dataclass(frozen=True)
class KNN:
    """Neighbours of every cell, nearest first; the first is always the cell itself, at distance 0."""

    indices: NDArray[np.int32]  # n_obs x k
    distances: NDArray[np.float32]  # n_obs x k
    recall: float  # share of the true neighbours of a sample of cells that was found; 1 when exact
    method: str  # "brute", "ivf" or "pynndescent"
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
    metric: Metric = "euclidean",
    metric_kwds: Mapping[str, Any] = exact.NO_KWDS,
    method: str = "auto",
    random_state: int = 0,
    min_recall: float = 0.95,
    n_jobs: int | None = None,
) -> KNN:
    """Return the ``n_neighbors`` nearest neighbours of every row of ``x``, the row itself counted and first.

    ``auto`` is exact (scikit-learn, blocked, products in float64) below 32,768 rows for ``euclidean`` and 4,096 for
    another metric. Above, ``euclidean``, ``cosine`` and ``correlation`` are searched by clusters and by neighbours of
    neighbours (``graph.knn.ivf``), other metrics by pynndescent, which starts with scanpy's settings and compiles for
    some 30 s in every process. The recall is measured on 1,000 rows, and while it is below ``min_recall`` the search
    goes on with more effort. Rows that it could not fill are searched exactly. The same seed gives the same
    neighbours; of pynndescent, with the same number of threads.

    Parameters
    ----------
    x
        ``n_obs x n_dims``, finite; float64 stays so in exact search, everything else is searched as float32.
    n_neighbors
        At least 2. More than ``n_obs`` becomes ``1 + n_obs // 2`` with a warning, as in scanpy.
    metric, metric_kwds
        One of ``METRICS`` and its options (``{"p": 3}`` of ``minkowski``); or one of ``EXACT_METRICS`` or a function
        of two rows, which are searched exactly.
    method
        ``auto``, ``brute``, ``ivf`` or ``pynndescent``.
    min_recall
        Share of true neighbours (0 to 1) that must be found; ties count as found.
    n_jobs
        Threads; None: those of ``sc_dask.config``.

    Memory: ``x`` in float32 twice and about 40 bytes per cell and neighbour.

    Raises
    ------
    InputError
        ``x`` is not a finite matrix with two rows or more, or an option is unknown.
    """
    x = _checked(x)
    n_obs = x.shape[0]
    check_options(n_obs, n_neighbors, metric, metric_kwds, method, min_recall)
    metric = SAME_METRICS.get(metric, metric) if isinstance(metric, str) else metric
    k = int(n_neighbors)
    if k > n_obs:
        k = 1 + n_obs // 2
        warnings.warn(
            f"n_neighbors={n_neighbors} is more than the {n_obs} cells; using n_neighbors={k}",
            ScDaskWarning,
            stacklevel=2,
        )
    threads = config.n_threads() if n_jobs is None else int(n_jobs)
    if not isinstance(metric, str) or metric not in METRICS:
        indices, distances = exact.of_rows(x, k, None, metric=metric, metric_kwds=metric_kwds, n_jobs=threads)
        return KNN(indices, distances, 1.0, "brute")
    ranked = euclidean_rows(x, metric)
    if method == "auto":
        if n_obs < EXACT_BELOW.get(metric, EXACT_BELOW_OTHERWISE):
            method = "brute"
        else:
            method = "pynndescent" if ranked is None else "ivf"
    options: dict[str, Any] = {"metric": metric, "metric_kwds": metric_kwds, "n_jobs": threads}
    if method == "brute":
        indices, distances = exact.of_rows(x, k, None, **options)
        return KNN(indices, distances, 1.0, "brute")
    if method == "pynndescent":
        return _descend(x.astype(np.float32, copy=False), k, int(random_state), min_recall, options)
    if ranked is None:
        raise InputError(
            f"found method='ivf' for metric={metric!r} or with a cell of length 0",
            "euclidean, cosine or correlation, and cells that have a direction",
            'use method="pynndescent"',
        )
    return _by_clusters(x, ranked, k, int(random_state), min_recall, options)


def euclidean_rows(x: NDArray[Any], metric: str) -> NDArray[np.float32] | None:
    """Return float32 rows whose Euclidean distances rank neighbours as ``metric`` does; None if there are none."""
    x = x.astype(np.float32, copy=False)
    if metric == "euclidean":
        return x
    if metric not in IVF_METRICS:
        return None
    if metric == "correlation":
        x = x - x.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x / lengths if lengths.all() else None


def _by_clusters(
    x: NDArray[Any],
    ranked: NDArray[np.float32],
    k: int,
    seed: int,
    min_recall: float,
    options: Mapping[str, Any],
) -> KNN:
    found, efforts = ivf.search(ranked, k, min_recall=min_recall, seed=seed, n_jobs=int(options["n_jobs"]))
    indices, distances = found
    if options["metric"] != "euclidean":
        distances **= 2  # of rows of length 1, half of that is 1 - cosine
        distances /= 2
    unfilled = np.flatnonzero((indices < 0).any(axis=1))
    if unfilled.size:
        indices[unfilled], distances[unfilled] = exact.of_rows(x, k, unfilled, **options)
    attempts = [Attempt(f"{e.n_candidates} candidates, {e.n_rounds} rounds", share) for e, share in efforts]
    _warn_below(min_recall, attempts)
    return KNN(indices, distances, attempts[-1].recall, "ivf", tuple(attempts))


def _warn_below(min_recall: float, attempts: list[Attempt]) -> None:
    recall.warn_below(
        min_recall,
        max(a.recall for a in attempts),
        after=f" in {len(attempts)} searches",
        fix='use fewer dimensions, or search exactly with transformer="sklearn"',
        stacklevel=4,
    )


def _descend(x: NDArray[np.float32], k: int, seed: int, min_recall: float, options: Mapping[str, Any]) -> KNN:
    n_obs = x.shape[0]
    rows = recall.sample(n_obs, seed)
    true = exact.of_rows(x, k, rows, **options)
    attempts: list[Attempt] = []
    best: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None
    for effort in EFFORTS:
        # Effort 1 is what scanpy, and umap-learn before it, ask for.
        n_trees = min(64, round(effort * (5 + round(n_obs**0.5 / 20))))
        n_iters = round(effort * max(5, round(np.log2(n_obs))))
        n_build = min(n_obs, round(effort * (k + 1)))
        found = _nn_descent(x, k, n_trees, n_iters, n_build, effort, seed, options)
        share = recall.of_neighbours((found[0][rows], found[1][rows]), true)
        if best is None or share > max(a.recall for a in attempts):
            best = found
        attempts.append(Attempt(f"{n_trees} trees, {n_iters} rounds, {n_build} neighbours", share))
        if share >= min_recall:
            break
    assert best is not None
    _warn_below(min_recall, attempts)
    return KNN(best[0], best[1], max(a.recall for a in attempts), "pynndescent", tuple(attempts))


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
    indices, distances = exact.self_first(indices, distances, np.arange(x.shape[0]))
    unfilled = np.flatnonzero((indices < 0).any(axis=1))
    if unfilled.size:
        indices[unfilled], distances[unfilled] = exact.of_rows(x, k, unfilled, **options)
    return indices, distances


def _checked(x: NDArray[Any]) -> NDArray[Any]:
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype.kind not in "fiub":
        raise InputError(f"found {type(x).__name__} where neighbours are searched", "a 2-D numeric ndarray")
    if x.shape[0] < 2 or x.shape[1] < 1:
        raise InputError(f"found {x.shape[0]} cells x {x.shape[1]} dimensions", "at least 2 cells and 1 dimension")
    x = np.ascontiguousarray(x, dtype=np.float64 if x.dtype == np.float64 else np.float32)
    check_finite(x)
    return x


def check_finite(x: NDArray[Any], first: int = 0) -> None:
    """Refuse rows that are not finite, by number; ``first`` is that of the first one."""
    # A sum is not finite when one number is not, and needs no temporary array.
    if not np.isfinite(np.sum(x, dtype=np.float64)):
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if bad.size:
            raise InputError(
                f"found NaN or infinity in {bad.size} cells (first: row {first + bad[0]})",
                "finite numbers in the representation",
                "remove or repair these cells, then run pp.pca again",
            )


def _check_exact_only(n_obs: int, metric: Metric, method: str) -> None:
    if method not in ("auto", "brute"):
        raise InputError(f"found metric={metric!r} with a search by {method!r}", "one of " + ", ".join(METRICS))
    if n_obs > EXACT_ONLY_BELOW:
        raise InputError(
            f"found metric={metric!r} and {n_obs:,} cells",
            f"at most {EXACT_ONLY_BELOW:,}: all pairs of them are compared",
            "one of " + ", ".join(METRICS),
        )


def check_options(
    n_obs: int, n_neighbors: int, metric: Metric, metric_kwds: Mapping[str, Any], method: str, min_recall: float
) -> None:
    """Refuse options that `knn` of so many rows does not take; rows are not needed for it."""
    metric = SAME_METRICS.get(metric, metric) if isinstance(metric, str) else metric
    if not isinstance(n_neighbors, int | np.integer) or isinstance(n_neighbors, bool) or n_neighbors < 2:
        raise InputError(f"found n_neighbors={n_neighbors!r}", "an integer of at least 2 (the cell itself counts)")
    if isinstance(metric, str) and metric not in (*METRICS, *EXACT_METRICS):
        known = ", ".join((*METRICS, *EXACT_METRICS, *SAME_METRICS))
        raise InputError(f"found metric={metric!r}", f"a function of two rows, or one of {known}")
    if metric in METRICS and set(metric_kwds) - ({"p"} if metric == "minkowski" else set()):
        raise InputError(f"found metric_kwds={dict(metric_kwds)!r} for metric={metric!r}", "none, or p for minkowski")
    if method not in METHODS:
        raise InputError(f"found method={method!r}", "one of " + ", ".join(METHODS))
    if not 0 <= min_recall <= 1:
        raise InputError(f"found min_recall={min_recall!r}", "a share between 0 and 1")
    if not isinstance(metric, str) or metric not in METRICS:
        _check_exact_only(n_obs, metric, method)
