"""Pass A: what quality control wants of every cell and every gene, in one read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sc_dask.array.blocks import Reduction, RowBlocks, collect_rows, reduce_rows, scan_rows
from sc_dask.array.engine import run
from sc_dask.kernels.qc import (
    CellMetrics,
    GeneMetrics,
    cell_and_gene_metrics,
    col_positives,
    gene_metrics,
    merge_gene_metrics,
    row_counts,
    row_positives,
    row_totals,
)


@dataclass(frozen=True)
class QC:
    """Metrics of all cells and all genes."""

    cells: CellMetrics
    genes: GeneMetrics


GENES: Reduction[GeneMetrics, GeneMetrics] = Reduction(gene_metrics, merge_gene_metrics)
POSITIVE_CELLS: Reduction[np.ndarray, np.ndarray] = Reduction(col_positives, np.add)
CELLS_AND_GENES: Reduction[Any, GeneMetrics] = Reduction(cell_and_gene_metrics, merge_gene_metrics)


def metrics(x: RowBlocks, qc_masks: np.ndarray, percent_top: tuple[int, ...]) -> QC:
    """Return the QC metrics of all cells and genes; 1 pass. What was learnt is kept with ``x``."""
    lazy = scan_rows(CELLS_AND_GENES, x, qc_masks=qc_masks, percent_top=percent_top)
    cells, genes = run.compute(lazy, label="qc")
    x.known.rows["totals"] = cells.totals
    if _no_negatives(genes):
        x.known.rows["n_genes"] = cells.n_genes
    keep(x, genes)
    return QC(cells, genes)


def _no_negatives(genes: GeneMetrics) -> bool:
    """Tell whether all values that are not 0 are above 0."""
    return genes.min_value >= 0 and not genes.has_nan


def keep(x: RowBlocks, genes: GeneMetrics) -> None:
    """Keep what a pass taught of the genes and values of ``x``."""
    x.known.cols["totals"] = genes.totals
    if _no_negatives(genes):
        x.known.cols["n_cells"] = genes.n_cells
    x.known.values.update(
        min_value=genes.min_value, max_value=genes.max_value, all_integer=genes.all_integer, has_nan=genes.has_nan
    )


def cell_statistics(x: RowBlocks) -> tuple[np.ndarray, np.ndarray]:
    """Return sums (float64) and numbers of genes (int64) of all cells, the caller's own; 1 pass, or none when known.

    A gene is counted where its value is above 0, as scanpy's filters have it.
    """
    rows = x.known.rows
    if "totals" not in rows or "n_genes" not in rows:
        lazies = (collect_rows(kernel, x) for kernel in (row_totals, row_counts, row_positives))
        totals, counts, positives = run.compute(*lazies, label="cells")
        rows.update(totals=totals, n_genes=counts)
        if not np.array_equal(counts, positives):
            rows["n_positive"] = positives
    return rows["totals"].copy(), rows.get("n_positive", rows["n_genes"]).copy()


def gene_statistics(x: RowBlocks) -> tuple[np.ndarray, np.ndarray]:
    """Return sums (float64) and numbers of cells (int64) of all genes, the caller's own; 1 pass, or none when known.

    A cell is counted where its value is above 0, as scanpy's filters have it: 1 pass more if X has negative values or
    NaN.
    """
    if "totals" not in x.known.cols or "n_cells" not in x.known.cols:
        keep(x, run.compute(reduce_rows(GENES, x), label="genes"))
    if "n_cells" not in x.known.cols:
        x.known.cols["n_cells"] = run.compute(reduce_rows(POSITIVE_CELLS, x), label="genes")
    return x.known.cols["totals"].copy(), x.known.cols["n_cells"].copy()


def not_counts(x: RowBlocks) -> str | None:
    """Return what keeps X from being counts (``"NaN"``, ``"negative values (-2.1)"``, ``"fractions"``), or None.

    Judged by all of X if a pass has seen it, else by its first block.
    """
    v = x.known.values
    if not v:
        first = x.select_rows(np.arange(int(x.expression.bounds[1])))
        keep(first, run.compute(reduce_rows(GENES, first), label="check"))
        v = first.known.values
    if v["has_nan"]:
        return "NaN"
    if np.isinf(v["min_value"]) or np.isinf(v["max_value"]):
        return "infinite values" if x.shape[0] and x.shape[1] else None
    if v["min_value"] < 0:
        return f"negative values ({v['min_value']:g})"
    return None if v["all_integer"] else "fractions"
