"""Harmony (Korsunsky et al. 2019): principal components without what tells batches apart.

Cells are softly assigned to clusters that prefer to hold all batches alike; in each cluster a ridge regression finds
what a batch adds to the components, and that is taken off. Then the cells are clustered again.

Cells with the same values of all keys form a *combination*. Whatever the algorithm needs of a batch is a sum over
combinations, so one code per cell is enough for any number of keys. Chunks of cells are always the same and their sums
are added in order, so the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask import blas
from sc_dask.graph.partition import threads
from sc_dask.kernels import harmony as kernels
from sc_dask.log import logger

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Run = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]

_CHUNK = 2048  # 100 clusters of so many cells stay in cache
_WINDOW = 3  # rounds whose objectives are added before they are compared, as in harmonypy
# Up to here the first centroids are those of harmonypy; beyond, of so many cells (scikit-learn's k-means, ten starts).
N_START = 20_000


@dataclass(frozen=True)
class HarmonyOptions:
    """Numbers of Harmony, each batch and each cluster having its own."""

    theta: Doubles  # n_batches: how much batches avoid each other's clusters
    lamb: Doubles  # n_batches: ridge
    sigma: Doubles  # n_clusters: width of the soft assignment
    block_size: float
    max_iter_harmony: int
    max_iter_kmeans: int
    epsilon_cluster: float
    epsilon_harmony: float
    random_state: int | None


@dataclass(frozen=True)
class Batches:
    """The keys of all cells: combinations, and the batches (of all keys, one after the other) that each stands for."""

    of: NDArray[np.int32]  # n_obs: combination of each cell
    design: Doubles  # n_combinations x n_batches, 0 or 1
    share: Doubles  # n_batches: of all cells


@dataclass(frozen=True)
class Integrated:
    """Corrected components, and how the search went."""

    x: Floats  # n_obs x n_dims
    rounds: tuple[int, ...]  # of clustering, in each iteration
    objectives: tuple[float, ...]  # at the start and after each iteration
    converged: bool


@dataclass
class _State:
    """What changes from round to round."""

    x: Floats  # n_obs x n_dims, corrected
    scale: Floats  # n_obs: one over the length of a row of x
    r: Floats  # n_obs x n_clusters: soft assignment
    sums: Doubles  # n_combinations x n_clusters: r added up
    centres: Doubles  # n_clusters x n_dims: sums of cells of length 1, weighted by r


def batches(codes: list[NDArray[Any]]) -> Batches:
    """Return the combinations of several keys, each a code per cell (0, 1, ... all used)."""
    sizes = [int(c.max()) + 1 for c in codes]
    found, of = np.unique(np.ravel_multi_index(codes, sizes), return_inverse=True)
    levels = np.unravel_index(found, sizes)
    design = np.concatenate([np.eye(n)[level] for n, level in zip(sizes, levels, strict=True)], axis=1)
    return Batches(of.astype(np.int32), design, np.bincount(of) @ design / len(of))


def harmony(x: NDArray[Any], keys: Batches, options: HarmonyOptions, *, n_jobs: int) -> Integrated:
    """Return ``x`` (``n_obs x n_dims``, finite) without what tells batches apart.

    The updates are those of harmonypy 0.0.10, in float32 with float64 sums, with its random draws: blocks of cells in a
    new random order each round; and up to 20,000 cells its first centroids.

    Memory: 4 bytes per cell and dimension, and per cell and cluster.
    """
    n_obs, n_dims = x.shape
    k = len(options.sigma)
    rng = np.random.RandomState(options.random_state)
    corrected = np.ascontiguousarray(x, np.float32)
    corrected = corrected.copy() if corrected is x else corrected
    lengths = np.sqrt(np.einsum("ij,ij->i", corrected, corrected))
    state = _State(
        corrected,
        np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0),
        np.empty((n_obs, k), np.float32),
        np.zeros((len(keys.design), k)),
        np.zeros((k, n_dims)),
    )
    centroids = _first_centroids(x, k, options.random_state)
    by_batch = list(_by_batch(keys.of))
    several = n_obs * options.block_size > _CHUNK  # chunks that are worth a thread
    with threads(n_jobs if several else 1) as run:
        kmeans = [_start(state, keys, centroids, options, run)]
        objectives, rounds, converged = [kmeans[-1]], [], False
        for i in range(options.max_iter_harmony):
            rounds.append(_cluster(state, keys, options, rng, kmeans, run))
            objectives.append(kmeans[-1])
            _correct(state, x, keys, by_batch, options.lamb, run)
            logger.info("harmony: iteration %d, %d rounds, objective %.6g", i + 1, rounds[-1], objectives[-1])
            old, new = objectives[-2:]
            converged = (old - new) / abs(old) < options.epsilon_harmony
            if converged:
                break
    return Integrated(state.x, tuple(rounds), tuple(objectives), converged)


def _first_centroids(x: NDArray[Any], k: int, seed: int | None) -> Doubles:
    """Return k-means centroids of cells of length 1 (``k x n_dims``)."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if len(x) > N_START:
        x = x[np.sort(np.random.default_rng(seed).choice(len(x), N_START, replace=False))]
    z = np.asarray(x, np.float64)
    lengths = np.linalg.norm(z, axis=1, keepdims=True)
    z = np.divide(z, lengths, out=np.zeros_like(z), where=lengths > 0)
    with blas.one_thread(), threadpool_limits(1, user_api="openmp"):  # its threads add up in any order
        model = KMeans(n_clusters=k, init="k-means++", n_init=10, max_iter=25, random_state=seed).fit(z)
    return np.asarray(model.cluster_centers_, np.float64)


def _unit(centres: Doubles) -> Floats:
    lengths = np.linalg.norm(centres, axis=1, keepdims=True)
    return np.divide(centres, lengths, out=np.zeros_like(centres), where=lengths > 0).astype(np.float32)


def _chunks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[a : a + _CHUNK] for a in range(0, len(rows), _CHUNK)]


def _by_batch(of: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield chunks of cells of one combination each."""
    order = np.argsort(of, kind="stable").astype(np.int64)
    starts = np.searchsorted(of[order], np.arange(int(of.max()) + 2))
    for c in range(len(starts) - 1):
        for rows in _chunks(order[starts[c] : starts[c + 1]]):
            yield c, rows


def _assigned(
    state: _State,
    keys: Batches,
    unit: Floats,
    width: Floats,
    penalty: Floats,
    chunks: list[NDArray[np.int64]],
    run: Run,
) -> tuple[Doubles, Doubles, float]:
    """Assign some cells anew; return their sums by combination, their part of the centres, and their energy."""

    def assign(rows: NDArray[np.int64]) -> tuple[Doubles, Floats, float]:
        z, highest = np.empty((len(rows), unit.shape[1]), np.float32), np.empty(len(rows), np.float32)
        kernels.gather(state.x, state.scale, rows, z)
        weights = z @ unit.T
        kernels.exponents(weights, width, highest)
        np.exp(weights, out=weights)
        sums = np.zeros(state.sums.shape)
        energy = kernels.assign(weights, highest, rows, keys.of, penalty, width, state.r, sums)
        return sums, np.asarray(weights.T @ z), float(energy)

    sums, centres, energy = np.zeros(state.sums.shape), np.zeros(state.centres.shape), 0.0
    for part in run(assign, chunks):
        sums += part[0]
        centres += part[1]
        energy += part[2]
    return sums, centres, energy


def _start(state: _State, keys: Batches, centroids: Doubles, options: HarmonyOptions, run: Run) -> float:
    """Assign all cells without a penalty; return the objective."""
    chunks = _chunks(np.arange(len(keys.of), dtype=np.int64))
    free = np.ones(state.sums.shape, np.float32)
    width = options.sigma.astype(np.float32)
    state.sums, state.centres, energy = _assigned(state, keys, _unit(centroids), width, free, chunks, run)
    return _crowding(state.sums, keys, options) - energy


def _counts(sums: Doubles, keys: Batches) -> tuple[Doubles, Doubles]:
    """Return how much of each batch is in each cluster, and how much would be if batches were mixed."""
    return keys.design.T @ sums, np.outer(keys.share, sums.sum(axis=0))


def _crowding(sums: Doubles, keys: Batches, options: HarmonyOptions) -> float:
    """Return the part of the objective that grows where a batch is more frequent than elsewhere."""
    observed, expected = _counts(sums, keys)
    logs = np.log((observed + 1) / (expected + 1))
    return float((observed * options.sigma * options.theta[:, None] * logs).sum())


def _cluster(
    state: _State, keys: Batches, options: HarmonyOptions, rng: np.random.RandomState, objectives: list[float], run: Run
) -> int:
    """Assign cells and move centroids until the objective converges; return the number of rounds."""
    for i in range(options.max_iter_kmeans):
        objectives.append(_round(state, keys, options, rng, run))
        if i > _WINDOW:
            old, new = sum(objectives[-1 - _WINDOW : -1]), sum(objectives[-_WINDOW:])
            if abs(old - new) / abs(old) < options.epsilon_cluster:
                break
    return i + 1


def _round(state: _State, keys: Batches, options: HarmonyOptions, rng: np.random.RandomState, run: Run) -> float:
    """Assign all cells anew, block by block in random order, each under the penalty that the others leave.

    The objective (distances, entropy and crowding) needs no distances: since a row of r is made of exponents of
    distances, distances and entropy together are the logs of penalties less the rows' log sums.
    """
    unit, width = _unit(state.centres), options.sigma.astype(np.float32)
    order = np.arange(len(keys.of), dtype=np.int64)
    rng.shuffle(order)
    blocks = [_chunks(np.sort(b)) for b in np.array_split(order, int(np.ceil(1 / options.block_size)))]

    def before(rows: NDArray[np.int64]) -> Doubles:
        sums = np.zeros(state.sums.shape)
        kernels.batch_sums(state.r, rows, keys.of, sums)
        return sums

    old = iter(run(before, [rows for block in blocks for rows in block]))
    centres, energy = np.zeros(state.centres.shape), 0.0
    for block in blocks:
        for _ in block:
            state.sums -= next(old)
        observed, expected = _counts(np.maximum(state.sums, 0), keys)
        penalty = keys.design @ ((expected + 1) / (observed + 1)) ** options.theta[:, None]
        sums, part, own = _assigned(state, keys, unit, width, penalty.astype(np.float32), block, run)
        state.sums += sums
        centres += part
        energy += own - float((sums * options.sigma * np.log(penalty)).sum())
    state.centres = centres
    return _crowding(state.sums, keys, options) - energy


def _correct(
    state: _State,
    x: NDArray[Any],
    keys: Batches,
    by_batch: list[tuple[int, NDArray[np.int64]]],
    lamb: Doubles,
    run: Run,
) -> None:
    """Take off what a ridge regression in each cluster says that batches add, from the original components."""

    def weighted(item: tuple[int, NDArray[np.int64]]) -> Floats:
        return np.asarray(state.r[item[1]].T @ x[item[1]].astype(np.float32, copy=False))

    n_combinations, k = state.sums.shape
    totals = np.zeros((n_combinations, k, x.shape[1]))
    for (c, _), part in zip(by_batch, run(weighted, by_batch), strict=True):
        totals[c] += part
    added = _added(state.sums, totals, keys.design, lamb)

    def correct(item: tuple[int, NDArray[np.int64]]) -> Floats:
        c, rows = item
        r = state.r[rows]
        z = x[rows].astype(np.float32, copy=False) - r @ added[c]
        state.x[rows] = z
        lengths = np.sqrt(np.einsum("ij,ij->i", z, z))
        state.scale[rows] = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return np.asarray(r.T @ (z * state.scale[rows, None]))

    state.centres = np.zeros(state.centres.shape)
    for part in run(correct, by_batch):
        state.centres += part


def _added(sums: Doubles, totals: Doubles, design: Doubles, lamb: Doubles) -> Floats:
    """Return what each combination adds in each cluster (``n_combinations x n_clusters x n_dims``).

    Per cluster: weighted ridge of the components on an intercept, which stays, and the batches.
    """
    whole = np.column_stack([np.ones(len(design)), design])  # n_combinations x (1 + n_batches)
    ridge = np.diag(np.concatenate([[0.0], lamb]))
    out = np.zeros(totals.shape, np.float32)
    for k in np.flatnonzero(sums.sum(axis=0) > 0):
        square = whole.T @ (sums[:, k, None] * whole) + ridge
        effect = np.linalg.solve(square, whole.T @ totals[:, k])
        effect[0] = 0
        out[:, k] = whole @ effect
    return out
