"""Depth normalisation and logarithm as lazy steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sc_dask.array.blocks import Reduction, RowBlocks, collect_rows, map_rows, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.expr import ColumnSelection, Expr, RowVector
from sc_dask.array.source import Block
from sc_dask.kernels import normalize as kernels
from sc_dask.kernels.qc import row_totals


def factors(totals: np.ndarray, target_sum: float) -> np.ndarray:
    """Return what to multiply cells by; a cell without counts stays as it is."""
    totals = np.asarray(totals, np.float64)
    return np.divide(target_sum, totals, out=np.ones_like(totals), where=totals != 0)


def scale_to(block: Block, totals: np.ndarray, *, target_sum: float) -> Block:
    """Bring every cell of a block to the same sum."""
    return kernels.scale_rows(block, factors(totals, target_sum))


def scale_log1p(block: Block, totals: np.ndarray, *, target_sum: float, base: float | None) -> Block:
    """Bring every cell of a block to the same sum and take log(1 + x), in one loop."""
    return kernels.normalize_log1p(block, factors(totals, target_sum), base)


def _float_of(x: RowBlocks) -> np.dtype[Any]:
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)


def totals_of(x: RowBlocks) -> RowVector:
    """Return the cells' sums: known ones, or to be taken from the blocks as they pass (no pass of its own)."""
    return RowVector(x.known.rows.get("totals"), row_totals)


def computed_totals(x: RowBlocks) -> np.ndarray:
    """Return the cells' sums, float64 (n_obs,); 1 pass, or none when known."""
    if "totals" not in x.known.rows:
        x.known.rows["totals"] = run.compute(collect_rows(row_totals, x), label="totals")
    return x.known.rows["totals"]


ANY_CELL: Reduction[np.ndarray, np.ndarray] = Reduction(kernels.highly_expressed, np.logical_or)


def totals_without(x: RowBlocks, max_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells' sums without highly expressed genes, and the mask of those genes.

    A gene is highly expressed if it has more than ``max_fraction`` of the sum of any one cell.
    Passes: 2, and 1 more when the sums are not known.
    """
    dominant = run.compute(
        reduce_rows(ANY_CELL, x, computed_totals(x), max_fraction=max_fraction), label="highly expressed"
    )
    totals = run.compute(collect_rows(kernels.row_totals_where, x, gene_mask=~dominant), label="totals")
    return totals, dominant


def normalize(x: RowBlocks, totals: RowVector | np.ndarray, target_sum: float) -> RowBlocks:
    """Describe X with every cell brought to ``target_sum``; nothing is read."""
    dtype, target_sum = _float_of(x), float(target_sum)
    return map_rows(
        scale_to, x, totals, dtype=dtype, columnwise=True, keeps_pattern=True, role="scaling", target_sum=target_sum
    )


def log1p(x: RowBlocks, base: float | None) -> RowBlocks:
    """Describe log(1 + X); after `normalize` both become one loop over a block."""
    last = x.expression.last
    how: dict[str, Any] = {"dtype": _float_of(x), "columnwise": True, "keeps_pattern": True}
    if last is None or last.role != "scaling":
        return map_rows(kernels.log1p, x, **how, role="logarithm", base=base)
    before = Expr(x.expression.source, x.expression.bounds, x.expression.rows, x.expression.steps[:-1])
    below = RowBlocks(before)
    const = {"base": base, **last.const}
    return map_rows(scale_log1p, below, *last.rows, **how, role="logarithm of scaled", **const)


def sqrt(x: RowBlocks) -> RowBlocks:
    """Describe the square root of X; nothing is read."""
    return map_rows(kernels.sqrt, x, dtype=_float_of(x), columnwise=True, keeps_pattern=True)


def is_log_of_counts(x: RowBlocks) -> bool:
    """Tell whether X is sparse and its last step brings cells to one sum and takes the logarithm."""
    return x.expression.ends_with("logarithm of scaled") and x.expression.is_sparse


def with_dropped_genes(x: RowBlocks) -> tuple[RowBlocks, np.ndarray | None]:
    """Return an `is_log_of_counts` X for kernels that do its last step themselves (`blocks.before_last`).

    Genes that were dropped before take part where they are few: that costs less than to make blocks without them.

    Returns
    -------
    X with those genes, whose sums of cells are still those without; and which of its genes are those of ``x`` (None:
    all of them). Sums that a pass over it finds are known to ``x`` too.
    """
    *before, last = x.expression.steps
    pick = before.pop() if before else None
    lookup = pick.const["lookup"] if isinstance(pick, ColumnSelection) else None
    if not isinstance(pick, ColumnSelection) or lookup is None or len(pick.cols) < 0.5 * len(lookup):
        return x, None
    (totals,) = last.rows
    inside = totals.moved([s.name for s in (*before, pick)])
    if totals.values is None:
        inside = RowVector(None, kernels.row_totals_where, {"gene_mask": lookup >= 0})
        totals.follow(inside)
    steps = (*before, replace(last, n_vars=len(lookup), rows=(inside,)))
    return RowBlocks(replace(x.expression, steps=steps)), pick.cols
