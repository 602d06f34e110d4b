"""Passes that doublet scores need, for all batches at once: genes, sums, variable genes, their counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from sc_dask.array import qc, spill
from sc_dask.array.blocks import RowBlocks, collect_rows
from sc_dask.array.engine import run
from sc_dask.array.hvg import count_moments, group_moments
from sc_dask.array.normalize import log1p, normalize
from sc_dask.errors import InputError
from sc_dask.kernels.hvg import dispersion_table
from sc_dask.kernels.moments import variance
from sc_dask.kernels.scrublet import sums_where

_MIN_CELLS, _MIN_GENES = 3, 3  # scanpy's


@dataclass(frozen=True, eq=False)
class Chosen:
    """Cells and variable genes of every batch, and where their counts can be read."""

    codes: np.ndarray  # n_obs: batch of each cell, -1 of those with too few genes
    factors: np.ndarray  # n_obs: median sum of the batch over the sum of the cell
    genes: list[np.ndarray]  # of each batch: positions in counts
    counts: RowBlocks

    def read(self, batch: int) -> sp.csr_matrix:
        """Return the counts of a batch's cells and variable genes."""
        x = self.counts.select_rows(np.flatnonzero(self.codes == batch)).select_columns(self.genes[batch])
        return sp.csr_matrix(run.materialise(x, label="counts"))


def chosen(x: RowBlocks, codes: np.ndarray, n_batches: int) -> Chosen:
    """Choose in each batch the genes of at least 3 cells, the cells of at least 3 genes, and variable genes (seurat).

    Passes: 4, of which the last spills the counts of variable genes when there are several batches (else it is left
    to `Chosen.read`). Memory: 24 bytes per gene, batch and thread, 40 per cell.
    """
    masks = count_moments(x, codes, n_batches).nnz >= _MIN_CELLS
    wrong = qc.not_counts(x)
    if wrong not in (None, "fractions"):
        raise InputError(f"X holds {wrong}", "counts", "score doublets before normalising")
    sums = run.compute(collect_rows(sums_where, x, codes, masks=masks), label="cells")
    totals = sums["totals"]
    kept = np.where(sums["n_genes"] >= _MIN_GENES, codes, -1).astype(np.int32)
    medians = np.array([np.median(totals[kept == b]) if (kept == b).any() else 1.0 for b in range(n_batches)])
    relative = np.where(kept >= 0, totals / medians[codes], 1.0)
    m = group_moments(log1p(normalize(x, relative, 1.0), None), kept, n_batches, expm1=True)
    var, genes = variance(m), []
    for b in range(n_batches):
        of = np.flatnonzero(masks[b])
        variable = np.zeros(len(of), bool)
        if len(of):
            variable = dispersion_table(m.mean[b, of], var[b, of])["highly_variable"].to_numpy(bool)
        genes.append(of[variable])
    union = np.unique(np.concatenate(genes))
    counts = x.select_columns(union)
    if n_batches > 1 and spill.possible(counts):
        laid, counts = spill.spill(counts)
        run.compute(laid, label="counts")
    places = [np.searchsorted(union, g) for g in genes]
    return Chosen(kept, np.divide(1, relative), places, counts)
