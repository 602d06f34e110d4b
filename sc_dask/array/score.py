"""Passes that scores of gene sets need: one for the genes' means, one for the scores of any number of sets."""

from __future__ import annotations

import numpy as np

from sc_dask.array.blocks import Reduction, RowBlocks, before_last_steps, collect_rows, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.normalize import factors, is_log_of_counts, with_dropped_genes
from sc_dask.array.source import Block
from sc_dask.kernels.csr import col_lookup
from sc_dask.kernels.qc import col_totals
from sc_dask.kernels.score import (
    group_sums,
    log_col_totals,
    log_group_sums,
    members,
    nan_col_totals,
    nan_group_sums,
)


def _log_totals(block: Block, totals: np.ndarray, *, target_sum: float, base: float | None) -> np.ndarray:
    return log_col_totals(block, factors(totals, target_sum), base)


def _log_group_sums(
    block: Block,
    totals: np.ndarray,
    *,
    target_sum: float,
    base: float | None,
    lookup: np.ndarray,
    member: np.ndarray,
) -> np.ndarray:
    return log_group_sums(block, factors(totals, target_sum), lookup, member, base)


NAN_TOTALS: Reduction[np.ndarray, np.ndarray] = Reduction(nan_col_totals, np.add)
TOTALS: Reduction[np.ndarray, np.ndarray] = Reduction(col_totals, np.add)
LOG_TOTALS: Reduction[np.ndarray, np.ndarray] = Reduction(_log_totals, np.add)


def gene_means(x: RowBlocks) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of every gene over its values but NaN, float64 (n_vars,), and which genes have NaN.

    Passes: 1, or none when a pass has taught the sums of ``x``; 1 more if there are NaN.
    """
    if "totals" not in x.known.cols:
        x.known.cols["totals"] = _gene_totals(x)
    totals = x.known.cols["totals"]
    has_nan = np.isnan(totals)
    if not has_nan.any():
        return totals / max(x.shape[0], 1), has_nan
    some = np.flatnonzero(has_nan)
    sums, n_nan = run.compute(reduce_rows(NAN_TOTALS, x.select_columns(some)), label="gene means")
    means = totals / max(x.shape[0], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means[some] = sums / (x.shape[0] - n_nan)  # 0 / 0 is NaN: a gene without values has no mean
    return means, has_nan


def _gene_totals(x: RowBlocks) -> np.ndarray:
    if not is_log_of_counts(x):
        return run.compute(reduce_rows(TOTALS, x), label="gene means")
    const = dict(x.expression.steps[-1].const)
    whole, cols = with_dropped_genes(x)
    totals = run.compute(before_last_steps(reduce_rows(LOG_TOTALS, whole, **const)), label="gene means")
    return totals if cols is None else totals[cols]


def scores(
    x: RowBlocks, sets: list[np.ndarray], controls: list[np.ndarray], has_nan: np.ndarray | None = None
) -> np.ndarray:
    """Return the mean of each set of genes less that of its controls, float64 (n_obs, n_sets).

    ``has_nan`` marks the genes with NaN: in their cells means are of the other genes. Passes: 1 for any number of sets,
    and the values of no other gene are made.
    """
    groups = [*sets, *controls]
    genes, member = members(groups)
    if has_nan is not None and has_nan[genes].any():
        found = run.compute(collect_rows(nan_group_sums, x.select_columns(genes), member=member), label="scores")
        with np.errstate(invalid="ignore", divide="ignore"):
            means = found[:, : len(groups)] / found[:, len(groups) :]
        return np.asarray(means[:, : len(sets)] - means[:, len(sets) :])
    if is_log_of_counts(x):
        const = dict(x.expression.steps[-1].const)
        whole, cols = with_dropped_genes(x)
        lookup = col_lookup(genes if cols is None else cols[genes], whole.shape[1])
        lazy = before_last_steps(collect_rows(_log_group_sums, whole, lookup=lookup, member=member, **const))
    elif x.expression.steps:
        lookup = np.arange(len(genes), dtype=np.int32)
        lazy = collect_rows(group_sums, x.select_columns(genes), lookup=lookup, member=member)
    else:
        lazy = collect_rows(group_sums, x, lookup=col_lookup(genes, x.shape[1]), member=member)
    means = run.compute(lazy, label="scores") / [len(g) for g in groups]
    return means[:, : len(sets)] - means[:, len(sets) :]
