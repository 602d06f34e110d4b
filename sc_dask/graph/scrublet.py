"""Doublet scores of one batch from the counts of its variable genes: Scrublet (Wolock, Lopez & Klein 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import blas
from sc_dask.errors import InputError
from sc_dask.graph.knn import neighbors
from sc_dask.kernels import scrublet as kernels
from sc_dask.kernels.csr import from_parts
from sc_dask.kernels.gram import covariance, finish, gram, project, second_moment
from sc_dask.kernels.moments import moments, variance

Doubles = NDArray[np.float64]
_DOUBLETS_AT_ONCE = 4096


@dataclass(frozen=True)
class ScrubletOptions:
    """scanpy's options of a score."""

    expected_doublet_rate: float
    knn_dist_metric: str
    normalize_variance: bool
    mean_center: bool
    n_prin_comps: int
    use_approx_neighbors: bool | None
    get_doublet_neighbor_parents: bool
    n_neighbors: int | None
    threshold: float | None
    random_state: int | None


@dataclass(frozen=True)
class Simulation:
    """How doublets are made."""

    ratio: float
    rate: float  # of counts that are kept
    log_transform: bool


@dataclass(frozen=True)
class Scores:
    """Doublet scores of one batch."""

    cells: Doubles
    simulated: Doubles
    parents: NDArray[np.int64]  # n_doublets x 2, rows of the batch
    n_neighbors: int
    threshold: float | None
    neighbor_parents: list[NDArray[np.int64]] | None


def of_counts(
    counts: sp.csr_matrix, factors: Doubles, how: Simulation, options: ScrubletOptions, *, n_jobs: int
) -> Scores:
    """Return the scores of cells from their counts.

    Parameters
    ----------
    counts
        ``n_obs x n_genes``.
    factors
        ``n_obs``: what normalises the cells; used with ``log_transform`` only.

    Doublets are made and projected 4,096 at a time. A transcriptome is not its own neighbour, as in Scrublet; in scanpy
    1.11 it is, unless two doublets have the same parents (mostly the case), one of which then hides the other.
    """
    n_obs = counts.shape[0]
    rng = _random(options.random_state)
    pairs = _pairs(n_obs, int(n_obs * how.ratio), rng)
    observed = counts
    if how.log_transform:
        data = np.log1p(counts.data * np.repeat(factors, np.diff(counts.indptr)))
        observed = from_parts(data, counts.indices, counts.indptr, counts.shape[1])
    seed = int(rng.randint(2**31 - 1)) if how.rate < 1 else None
    return _scored(kernels.to_target(observed), _simulated(counts, pairs, how, seed), pairs, options, n_jobs)


def doublets(
    counts: sp.csr_matrix, how: Simulation, random_state: int | None
) -> tuple[sp.csr_matrix, NDArray[np.int64]]:
    """Return the counts of doublets, all of them at once, and the two cells that each is made of."""
    rng = _random(random_state)
    pairs = _pairs(counts.shape[0], int(counts.shape[0] * how.ratio), rng)
    seed = int(rng.randint(2**31 - 1)) if how.rate < 1 else None
    blocks = []
    for i in range(0, len(pairs), _DOUBLETS_AT_ONCE):
        of_block = None if seed is None else np.random.default_rng((seed, i))
        blocks.append(kernels.doublets(counts, pairs[i : i + _DOUBLETS_AT_ONCE], how.rate, of_block))
    return sp.vstack(blocks, format="csr"), pairs


def of_matrices(
    observed: sp.csr_matrix,
    simulated: sp.csr_matrix,
    parents: NDArray[np.int64],
    options: ScrubletOptions,
    *,
    n_jobs: int,
) -> Scores:
    """Return the scores of cells from doublets that are there already; both matrices normalised alike."""
    return _scored(observed, iter([simulated]), parents, options, n_jobs)


def _random(seed: int | None) -> np.random.RandomState:
    return np.random.RandomState(seed)


def _pairs(n_obs: int, n_pairs: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Return different pairs of cells, drawn as scanpy draws them."""
    from sklearn.utils.random import sample_without_replacement

    drawn = sample_without_replacement(n_obs * n_obs, n_pairs, random_state=rng)
    return np.stack(np.divmod(drawn.astype(np.int64), n_obs), axis=1)


def _simulated(
    counts: sp.csr_matrix, pairs: NDArray[np.int64], how: Simulation, seed: int | None
) -> Iterator[sp.csr_matrix]:
    for i in range(0, len(pairs), _DOUBLETS_AT_ONCE):
        rng = None if seed is None else np.random.default_rng((seed, i))
        block = kernels.doublets(counts, pairs[i : i + _DOUBLETS_AT_ONCE], how.rate, rng)
        if how.log_transform:
            block.data = np.log1p(block.data.astype(np.float64))
        yield kernels.to_target(block)


def _scored(
    observed: sp.csr_matrix,
    simulated: Iterator[sp.csr_matrix],
    parents: NDArray[np.int64],
    options: ScrubletOptions,
    n_jobs: int,
) -> Scores:
    n_obs = observed.shape[0]
    basis, offset = _basis(observed, options)
    places = [project(observed, basis, offset, np.float64)]
    places += [project(block, basis, offset, np.float64) for block in simulated]
    x = np.concatenate(places)
    ratio = (len(x) - n_obs) / n_obs
    k = round(0.5 * np.sqrt(n_obs)) if options.n_neighbors is None else options.n_neighbors
    k_adjusted = round(k * (1 + ratio))
    approximate = "ivf" if options.knn_dist_metric in neighbors.IVF_METRICS else "pynndescent"
    found = neighbors.knn(
        x,
        max(2, k_adjusted),
        metric=options.knn_dist_metric,
        method={None: "auto", False: "brute", True: approximate}[options.use_approx_neighbors],
        random_state=options.random_state or 0,
        n_jobs=n_jobs,
    ).indices[:, 1:]
    scores = kernels.likelihoods((found >= n_obs).sum(axis=1), k_adjusted, ratio, options.expected_doublet_rate)
    threshold = kernels.valley(scores[n_obs:]) if options.threshold is None else options.threshold
    own = None
    if options.get_doublet_neighbor_parents:
        own = [np.unique(parents[row[row >= n_obs] - n_obs]) for row in found[:n_obs]]
    return Scores(scores[:n_obs], scores[n_obs:], parents, k, threshold, own)


def _basis(observed: sp.csr_matrix, options: ScrubletOptions) -> tuple[Doubles, Doubles | None]:
    """Return principal axes of the cells in units of the genes (``n_genes x n_comps``), and the mean along them."""
    n_obs, n_genes = observed.shape
    k = options.n_prin_comps
    if not 1 <= k < min(n_obs, n_genes):
        raise InputError(
            f"found n_prin_comps={k} for {n_obs} cells and {n_genes} variable genes",
            "at least 1 and fewer than either",
            "choose fewer components, or larger batches",
        )
    with blas.one_thread():
        state = finish(gram(observed, np.float64))
        square = covariance(state)
        spread = variance(moments(observed))[0]  # not of the products, which leave 1e-16 of a gene that does not vary
        unit = np.ones(n_genes)
        if options.normalize_variance:
            unit = np.divide(1, np.sqrt(spread), out=np.zeros(n_genes), where=spread > 0)
        if not options.mean_center:
            square = second_moment(state)
        axes = scipy.linalg.eigh(square * np.outer(unit, unit), subset_by_index=[n_genes - k, n_genes - 1])[1]
    basis = np.ascontiguousarray(axes[:, ::-1] * unit[:, None])
    return basis, state.sums / n_obs @ basis if options.mean_center else None
