"""Principal components of a lazy X: three algorithms with one result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from sc_dask import config
from sc_dask.array import run, stage
from sc_dask.array.blocks import Lazy, Reduction, RowBlocks, collect_rows, fold_rows, reduce_rows, scan_rows
from sc_dask.array.source import Block
from sc_dask.errors import InputError
from sc_dask.kernels import incremental as inc
from sc_dask.kernels.gram import (
    GramState,
    SplitState,
    covariance,
    finish,
    gram,
    gram_absorb,
    gram_update,
    merge_gram,
    project,
    second_moment,
)

# float64 products up to here cost under a second or two; beyond, float32 tiles (added up in float64) take half the time
_FLOAT64_FLOPS = 1e11
_ONE_THREAD_GENES = 4000


@dataclass(frozen=True)
class PCA:
    """Scores (n_obs, k), components (k, n_vars), variance (k,) and variance_ratio (k,)."""

    scores: np.ndarray
    components: np.ndarray
    variance: np.ndarray
    variance_ratio: np.ndarray


def _signed(components: np.ndarray) -> np.ndarray:
    """Make the largest loading of each component positive, so that the sign does not hang on the solver."""
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    return components * np.where(signs == 0, 1, signs)[:, None]


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError("X holds NaN or infinite values", "finite numbers", "look at the genes' sums for NaN")
    return values


GRAM: Reduction[SplitState, GramState] = Reduction(gram, merge_gram, finish, update=gram_update, absorb=gram_absorb)


def exact(x: RowBlocks, n_comps: int, *, zero_center: bool = True, dtype: Any = np.float32) -> PCA:
    """PCA from the Gram matrix of the genes.

    Passes: 1 over X, which lays the chosen genes aside for the scores (2 where that is not possible).
    Memory: ``8 n_vars^2`` bytes a thread and for the driver 3 times as much.
    """
    n_obs, p = x.shape
    precision = np.float64 if float(n_obs) * p * p <= _FLOAT64_FLOPS else np.float32
    lazy: Lazy[GramState] = reduce_rows(GRAM, x, dtype=precision)
    staged = x
    if stage.possible(x):
        laid, staged = stage.stage(x)
        state, _ = run.compute(lazy, laid, label="gram")
    else:
        state = run.compute(lazy, label="gram")
    square = _finite(covariance(state) if zero_center else second_moment(state))
    total = float(np.trace(square))
    values, vectors = _largest(square, n_comps)
    components = _signed(np.ascontiguousarray(vectors[:, ::-1].T))
    variance = np.maximum(values[::-1], 0)
    scores = _scores(staged, components, state.sums / max(state.n, 1) if zero_center else None, dtype)
    if not zero_center:  # as TruncatedSVD reports it: the variance of the scores
        variance = scores.astype(np.float64).var(axis=0)
        total = float(np.trace(covariance(state))) * (n_obs - 1) / n_obs
    return PCA(scores, components, variance, _ratio(variance, total))


def _largest(square: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest eigenvalues (increasing) and their vectors.

    On one BLAS thread up to some thousand genes: more only spin there (measured at 2,000 genes on two busy cores: 1.4 s
    against 7 s), and one gives the same digits everywhere.
    """
    p = len(square)
    with run.blas_threads(1 if p <= _ONE_THREAD_GENES else config.n_threads()):
        return scipy.linalg.eigh(square, subset_by_index=[p - k, p - 1], overwrite_a=True)


def _ratio(variance: np.ndarray, total: float) -> np.ndarray:
    return variance / total if total > 0 else np.zeros_like(variance)


def _scores(x: RowBlocks, components: np.ndarray, mean: np.ndarray | None, dtype: Any) -> np.ndarray:
    basis = np.ascontiguousarray(components.T, np.float32 if np.dtype(dtype) == np.float32 else np.float64)
    offset = None if mean is None else mean @ basis.astype(np.float64)
    return run.compute(collect_rows(project, x, components=basis, offset=offset, dtype=dtype), label="scores")


def _times_gram(block: Block, *, basis: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Return number of rows, column sums and ``block.T @ (block @ basis)``."""
    b = block.astype(np.float64) if sp.issparse(block) else np.asarray(block, np.float64)
    sums = np.asarray(b.sum(axis=0)).ravel()
    return block.shape[0], sums, np.asarray(b.T @ (b @ basis))


def _add(a: tuple[int, np.ndarray, np.ndarray], b: tuple[int, np.ndarray, np.ndarray]) -> Any:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


TIMES_GRAM: Reduction[Any, Any] = Reduction(_times_gram, _add)


def _scores_and_squares(block: Block, *, basis: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, Any]:
    scores = project(block, basis, offset, np.float64)
    squares = np.square(block.data if sp.issparse(block) else block, dtype=np.float64).sum()
    return scores, (scores.T @ scores, float(squares))


SCORES: Reduction[Any, Any] = Reduction(_scores_and_squares, lambda a, b: (a[0] + b[0], a[1] + b[1]))


def randomized(
    x: RowBlocks, n_comps: int, *, zero_center: bool = True, random_state: int = 0, dtype: Any = np.float32
) -> PCA:
    """PCA by subspace iteration on the Gram matrix, which is never formed (Halko 2011), centred implicitly.

    Any number of genes. Passes: 4. Memory: ``8 n_vars (n_comps + 20)`` bytes a thread, ``8 (n_comps + 20)`` per cell.
    """
    n_obs, p = x.shape
    size = min(n_comps + 20, p, n_obs)
    basis = np.linalg.qr(np.random.default_rng(random_state).standard_normal((p, size)))[0]
    mean = np.zeros(p)
    for _ in range(3):
        n, sums, product = run.compute(reduce_rows(TIMES_GRAM, x, basis=basis), label="power iteration")
        if zero_center:
            mean = sums / n
            product = product - n * np.outer(mean, mean @ basis)
        basis = np.linalg.qr(_finite(product))[0]
    lazy = scan_rows(SCORES, x, basis=basis, offset=mean @ basis)
    scores, (small, squares) = run.compute(lazy, label="scores")
    values, turn = np.linalg.eigh(small)
    turn = turn[:, ::-1][:, :n_comps]
    components = (basis @ turn).T
    signed = _signed(components)
    turn = turn * np.where((signed == components).all(axis=1), 1, -1)
    degrees = n_obs - 1 if zero_center else n_obs
    variance = np.maximum(values[::-1][:n_comps], 0) / degrees
    total = (squares - n_obs * float(mean @ mean)) / degrees
    out = scores @ turn
    if not zero_center:
        variance = out.var(axis=0)
        total = squares / n_obs - float((sums / n) @ (sums / n))
    return PCA(out.astype(dtype), signed, variance, _ratio(variance, total))


def _increment(state: Any, block: Block, *, n_comps: int, tile_rows: int) -> inc.IncrementalState:
    return inc.update(state, block, n_comps, tile_rows)


def _first(block: Block, *, n_comps: int, tile_rows: int) -> inc.IncrementalState:
    return inc.update(inc.start(block.shape[1]), block, n_comps, tile_rows)


def _never(a: Any, b: Any) -> Any:
    raise AssertionError("a fold has one lane")


FOLD: Reduction[inc.IncrementalState, inc.IncrementalState] = Reduction(_first, _never, update=_increment)


def incremental(x: RowBlocks, n_comps: int, *, chunk_size: int = 1000, dtype: Any = np.float32) -> PCA:
    """Incremental PCA (Ross 2008): tiles of ``chunk_size`` cells one after the other, exact mean.

    An approximation: directions of small variance that a tile does not see are lost. Any number of genes.
    Passes: 2 (1 where the chosen genes can be laid aside). Memory: ``8 (chunk_size + n_comps) n_vars`` bytes.
    """
    if chunk_size < n_comps:
        raise InputError(f"chunk_size={chunk_size}", f"at least n_comps={n_comps}")
    lazy = fold_rows(FOLD, x, n_comps=n_comps, tile_rows=chunk_size)
    staged = x
    if stage.possible(x):
        laid, staged = stage.stage(x)
        run.compute(laid, label="stage")
        lazy = fold_rows(FOLD, staged, n_comps=n_comps, tile_rows=chunk_size)
    state = inc.finish(run.compute(lazy, label="fold"), n_comps)
    _finite(state.m2)
    components, variance, total = inc.components(state)
    components = _signed(components)
    return PCA(_scores(staged, components, state.mean, dtype), components, variance, _ratio(variance, total))


SOLVERS: dict[str, Callable[..., PCA]] = {"gram": exact, "randomized": randomized, "incremental": incremental}
