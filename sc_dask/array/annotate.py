"""Training of linear models on cells that do not fit in memory: means in one pass, then samples of cells.

Stochastic gradient descent needs its cells in random order, a pass gives them in the order of the file. So every
epoch draws its own cells, one pass brings their chosen genes into memory as csr, and there they are shuffled and cut
into batches. Where all cells fit into one such sample they are read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import blas, config
from sc_dask.array.blocks import RowBlocks, collect_rows
from sc_dask.array.engine import run
from sc_dask.array.hvg import group_moments
from sc_dask.errors import InputError
from sc_dask.kernels.annotate import sampled, scaled
from sc_dask.kernels.csr import col_lookup, take_cols, take_rows
from sc_dask.kernels.moments import Moments, moments

DENSE_BYTES = 512 * 2**20  # cells times genes times 4: beyond, logistic regression is fitted by batches
_N_FIRST = 20  # cells that are looked at before a pass
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Schedule:
    """How cells are drawn: ``epochs`` times ``n_batches`` of ``batch_size``."""

    epochs: int
    n_batches: int
    batch_size: int
    balanced: bool
    seed: int

    @property
    def n_drawn(self) -> int:
        """Cells of one epoch."""
        return self.n_batches * self.batch_size


@dataclass(frozen=True)
class Penalty:
    """Regularisation of either method, and most iterations of ``logreg``."""

    C: float
    alpha: float
    max_iter: int


@dataclass(frozen=True)
class Fit:
    """A model of the genes at ``genes`` (columns of X)."""

    coef: NDArray[np.float64]  # n_classes x n_genes
    intercept: NDArray[np.float64]
    genes: NDArray[np.int64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    method: str


@dataclass(frozen=True)
class _Cells:
    """Labelled cells: all of them in memory (``held``), or drawn from X for every epoch."""

    x: RowBlocks
    genes: NDArray[np.int64]  # columns of x, all that vary or are chosen
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    codes: NDArray[np.int32]  # of every row of x; -1: no label
    n_classes: int
    held: sp.csr_matrix | None

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of x that have a label."""
        return np.flatnonzero(self.codes >= 0)

    def chosen(self, which: NDArray[np.int64]) -> _Cells:
        """Keep some of the genes."""
        held = self.held
        if held is not None:
            held = take_cols(held, _lookup(which, held.shape[1]), len(which))
        return replace(self, genes=self.genes[which], mean=self.mean[which], scale=self.scale[which], held=held)


def train(
    x: RowBlocks,
    codes: NDArray[np.int32],
    n_classes: int,
    genes: NDArray[np.int64],
    *,
    method: str | None,
    n_top_genes: int | None,
    check: bool,
    schedule: Schedule,
    penalty: Penalty,
) -> Fit:
    """Fit one label against the rest, for each label.

    Parameters
    ----------
    x
        All genes.
    codes
        n_obs, -1: no label.
    genes
        Columns to learn from; those that no cell has are left out.
    method
        ``logreg``, ``sgd``, or None: ``logreg`` for cells that are held and fit `DENSE_BYTES`.
    n_top_genes
        Keep the genes that are among so many of the largest weights of a label in a first round of ``sgd``.

    Passes: 1 where the labelled cells are no more than one epoch draws. Else 1 for the means and 1 an epoch, twice with
    ``n_top_genes``.
    """
    cells = _opened(x, codes, n_classes, genes, check, schedule)
    with blas.one_thread():
        return _trained(cells, method, n_top_genes, schedule, penalty)


def _trained(cells: _Cells, method: str | None, n_top_genes: int | None, schedule: Schedule, penalty: Penalty) -> Fit:
    if n_top_genes is not None:
        if n_top_genes >= len(cells.genes):
            raise InputError(f"found n_top_genes={n_top_genes} of {len(cells.genes)} genes", "fewer than there are")
        weights = np.abs(_sgd(cells, schedule, penalty.alpha)[0])
        top = np.argsort(-weights, axis=1, kind="stable")[:, :n_top_genes]
        cells = cells.chosen(np.unique(top))
    n_bytes = len(cells.rows) * len(cells.genes) * 4
    fits = cells.held is not None and n_bytes <= DENSE_BYTES
    method = method or ("logreg" if fits else "sgd")
    if method == "logreg" and not fits:
        raise InputError(
            f"found method='logreg' for {len(cells.rows)} cells and {len(cells.genes)} genes",
            f"at most {schedule.n_drawn} cells and {DENSE_BYTES / 2**20:.0f} MiB as dense float32",
            "use method='sgd', fewer genes (mask_var, n_top_genes) or fewer cells",
        )
    found = _sgd(cells, schedule, penalty.alpha) if method == "sgd" else _logreg(cells, schedule, penalty)
    return Fit(*found, cells.genes, cells.mean, cells.scale, method)


def _opened(
    x: RowBlocks, codes: NDArray[np.int32], n_classes: int, genes: NDArray[np.int64], check: bool, schedule: Schedule
) -> _Cells:
    """Return the cells with the means of their genes; the first cells that are read are checked."""
    rows = np.flatnonzero(codes >= 0)
    if len(rows) <= schedule.n_drawn:
        held = _drawn(x, rows, genes, check)
        m = moments(held)
    else:
        held = None
        if check:
            _drawn(x, rows[:_N_FIRST], genes, check)
        m = group_moments(x.select_columns(genes), np.where(codes >= 0, 0, -1).astype(np.int32))
    kept = np.flatnonzero(m.nnz[0] > 0)
    if not kept.size:
        raise InputError("no labelled cell has any of the genes", "cells that express genes")
    cells = _Cells(x, genes, m.mean[0], _scale(m), codes, n_classes, held)
    return cells.chosen(kept)


def _scale(m: Moments) -> NDArray[np.float64]:
    """Return standard deviations as scikit-learn's scaler has them: over n, and 1 where a gene does not vary."""
    n, mean = float(m.n[0]), m.mean[0]
    variance = m.m2[0] / max(n, 1)
    constant = variance <= n * _EPSILON * variance + (n * mean * _EPSILON) ** 2
    return np.where(constant, 1.0, np.sqrt(variance))


def _lookup(which: NDArray[np.int64], n: int) -> NDArray[np.int32]:
    lookup = col_lookup(which, n)
    assert lookup is not None
    return lookup


def _drawn(x: RowBlocks, rows: NDArray[np.int64], genes: NDArray[np.int64], check: bool = False) -> sp.csr_matrix:
    """Read some genes of some cells into memory: one pass."""
    x = x.select_rows(rows)
    options: dict[str, Any] = {}
    if check:  # all genes are needed
        options = {"lookup": _lookup(genes, x.shape[1]), "n_genes": len(genes), "check": True}
    else:
        x = x.select_columns(genes)
    return run.compute(collect_rows(sampled, x, **options), label="sample")


def _epochs(cells: _Cells, schedule: Schedule) -> Iterator[tuple[sp.csr_matrix, NDArray[np.int64], NDArray[np.int32]]]:
    """Yield for every epoch some cells, the order in which they come (repeats allowed) and their codes."""
    rng = np.random.default_rng(schedule.seed)
    rows = cells.rows
    codes = cells.codes[rows]
    for _ in range(schedule.epochs):
        order = _order(codes, cells.n_classes, schedule, rng)
        if cells.held is not None:
            yield cells.held, order, codes
            continue
        unique, place = np.unique(order, return_inverse=True)
        yield _drawn(cells.x, rows[unique], cells.genes), place, codes[unique]


def _order(codes: NDArray[np.int32], n_classes: int, schedule: Schedule, rng: np.random.Generator) -> NDArray[np.int64]:
    n = min(schedule.n_drawn, len(codes))
    if not schedule.balanced:
        return rng.permutation(len(codes))[:n].astype(np.int64)
    each = max(1, n // n_classes)
    parts = []
    for c in range(n_classes):
        members = np.flatnonzero(codes == c)
        parts.append(rng.choice(members, each, replace=len(members) < each))  # rare ones come more than once
    return rng.permutation(np.concatenate(parts))


def _sgd(cells: _Cells, schedule: Schedule, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.linear_model import SGDClassifier

    # Scaled genes make rows of about n_genes in squared length, and steps of its inverse are stable; the mean of the
    # second half of the steps is then near the optimum (Bach & Moulines 2013). With scikit-learn's own
    # steps, which begin large, the median probability was 1 after 12,000 cells of Kang's.
    n_steps = schedule.epochs * min(schedule.n_drawn, len(cells.rows))
    model = SGDClassifier(
        loss="log_loss",
        alpha=alpha,
        learning_rate="constant",
        eta0=1 / len(cells.genes),
        average=max(1, n_steps // 2),
        random_state=schedule.seed,
        n_jobs=config.n_threads(),
    )
    classes = np.arange(cells.n_classes)
    for part, order, codes in _epochs(cells, schedule):
        for a in range(0, len(order), schedule.batch_size):
            batch = order[a : a + schedule.batch_size]
            model.partial_fit(scaled(take_rows(part, batch), cells.mean, cells.scale), codes[batch], classes=classes)
    return _both(model.coef_, model.intercept_)


def _logreg(cells: _Cells, schedule: Schedule, penalty: Penalty) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.linear_model import LogisticRegression

    assert cells.held is not None
    x, codes = scaled(cells.held, cells.mean, cells.scale), cells.codes[cells.rows]
    sizes = np.bincount(codes, minlength=cells.n_classes)
    weights = (len(codes) / (cells.n_classes * sizes))[codes] if schedule.balanced else None

    def one(c: int) -> Any:
        model = LogisticRegression(C=penalty.C, max_iter=penalty.max_iter, random_state=schedule.seed)
        return model.fit(x, codes == c, sample_weight=weights)

    of = [1] if cells.n_classes == 2 else range(cells.n_classes)
    with ThreadPoolExecutor(config.n_threads()) as pool:
        models = list(pool.map(one, of))
    return _both(np.concatenate([m.coef_ for m in models]), np.concatenate([m.intercept_ for m in models]))


def _both(coef: NDArray[Any], intercept: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a row for each label, where scikit-learn has one for two of them."""
    coef, intercept = np.asarray(coef, np.float64), np.asarray(intercept, np.float64)
    if len(coef) > 1:
        return coef, intercept
    return np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
