"""Analytic Pearson residuals as a lazy step, and the variance of each gene's residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sc_dask.array import hvg, qc
from sc_dask.array.blocks import Lazy, Reduction, RowBlocks, collect_rows, map_rows, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.source import Block
from sc_dask.kernels import pearson as kernels
from sc_dask.kernels.moments import Moments, of_integers
from sc_dask.kernels.qc import row_totals
from sc_dask.kernels.regress_out import float_of

_ROUNDING = 1e-12  # of the squares: what is left of cells that are all as expected


def normalized(x: RowBlocks, theta: float, clip: float) -> RowBlocks:
    """Describe the residuals of counts; 1 pass for the sums of cells and genes, or none when both are known."""
    if "totals" not in x.known.rows or "totals" not in x.known.cols:
        totals, genes = run.compute(collect_rows(row_totals, x), reduce_rows(qc.GENES, x), label="sums")
        x.known.rows["totals"] = totals
        qc.keep(x, genes)
    totals, gene_totals = x.known.rows["totals"], x.known.cols["totals"]
    return map_rows(
        kernels.residuals, x, totals, dtype=float_of(x.dtype), is_sparse=False, columnwise=True,
        by_col=("gene_totals",), gene_totals=gene_totals, total=float(gene_totals.sum()), theta=theta, clip=clip,
    )  # fmt: skip


@dataclass(frozen=True)
class Variances:
    """Of all genes: ``moments`` of the counts in each group, and ``residual`` variances, n_groups x n_vars."""

    moments: Moments
    residual: np.ndarray


def _changes(
    block: Block, totals: np.ndarray, groups: np.ndarray, *, share: np.ndarray, theta: float, clip: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return kernels.changes(block, totals, groups, share=share, theta=theta, clip=clip)


def _add(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return a[0] + b[0], a[1] + b[1]


CHANGES: Reduction[Any, tuple[np.ndarray, np.ndarray]] = Reduction(_changes, _add)


def residual_variances(
    x: RowBlocks, groups: np.ndarray | None, n_groups: int, theta: float, clip: float | None, n_genes: int
) -> Variances:
    """Return the variance of every gene's residuals in every group of cells, each with a model of its own.

    ``groups`` holds a code per cell; ``clip`` of None is the root of a group's number of cells. ``n_genes`` are
    looked at together. Passes: 2, whatever the number of groups. Memory: 40 bytes per gene, group and thread.
    """
    wanted: list[Lazy[Any]] = [
        reduce_rows(hvg.MOMENTS, x, *(() if groups is None else (groups,)), n_groups=n_groups),
        collect_rows(row_totals, x),
    ]
    if not x.known.values:
        wanted.append(reduce_rows(qc.GENES, x))
    moments, totals, *genes = run.compute(*wanted, label="sums")
    x.known.rows["totals"] = totals
    if genes:
        qc.keep(x, genes[0])
    moments = moments if qc.not_counts(x) else of_integers(moments)
    codes = np.zeros(x.shape[0], np.int32) if groups is None else groups
    sums = moments.mean * moments.n[:, None]
    share = sums / np.maximum(sums.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    bounds = np.sqrt(moments.n.astype(np.float64)) if clip is None else np.full(n_groups, float(clip))
    changed = run.compute(
        reduce_rows(CHANGES, x, totals, codes, share=share, theta=theta, clip=bounds), label="residuals"
    )
    residual = np.zeros(share.shape)
    for g in range(n_groups):
        distinct, n_cells = np.unique(totals[codes == g], return_counts=True)
        zeros = kernels.sums_of_zeros(distinct, n_cells, share[g], theta, float(bounds[g]), n_genes)
        of_group = [z + c[g] for z, c in zip(zeros, changed, strict=True)]
        found = kernels.variance(int(moments.n[g]), of_group[0], of_group[1])
        noise = _ROUNDING * zeros[1] / max(int(moments.n[g]), 1)  # the squares of zeros cancel
        residual[g] = np.where(found > noise, found, 0)
    residual[sums == 0] = 0
    return Variances(moments, residual)
