"""Pieces of Scrublet (Wolock, Lopez & Klein 2019) on counts of one block: sums, doublets, scores and where to cut."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from sc_dask.kernels.csr import Array, Block, from_parts, take_rows
from sc_dask.kernels.normalize import row_totals_where
from sc_dask.kernels.qc import row_counts

Doubles = NDArray[np.float64]
_TARGET = 1e6
_N_BINS, _MOST_ROUNDS = 256, 10_000


def sums_where(block: Block, codes: NDArray[np.int32], masks: NDArray[np.bool_]) -> dict[str, Array]:
    """Return each cell's sum and number of genes, over the genes that its batch keeps (``n_batches x n_vars``).

    Cells of no batch (-1) have zeros.
    """
    totals, n_genes = np.zeros(block.shape[0]), np.zeros(block.shape[0], np.int64)
    for b in np.unique(codes[codes >= 0]):
        rows = np.flatnonzero(codes == b)
        own = take_rows(block, rows)
        totals[rows] = row_totals_where(own, masks[b])
        n_genes[rows] = row_counts(own[:, masks[b]])
    return {"totals": totals, "n_genes": n_genes}


def to_target(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Return cells brought to the sum 1e6, float64; cells without counts stay."""
    data = counts.data.astype(np.float64)
    totals = np.asarray(from_parts(data, counts.indices, counts.indptr, counts.shape[1]).sum(axis=1)).ravel()
    factors = np.divide(_TARGET, totals, out=np.ones_like(totals), where=totals != 0)
    data *= np.repeat(factors, np.diff(counts.indptr))
    return from_parts(data, counts.indices, counts.indptr, counts.shape[1])


def doublets(
    counts: sp.csr_matrix, pairs: NDArray[np.int64], rate: float = 1.0, rng: np.random.Generator | None = None
) -> sp.csr_matrix:
    """Return the sums of pairs of cells (``n_pairs x 2``); with a generator, a count is kept with chance ``rate``."""
    added = (counts[pairs[:, 0]] + counts[pairs[:, 1]]).tocsr()
    if rng is not None:
        added.data = rng.binomial(np.round(added.data).astype(np.int64), rate).astype(np.float64)
    return added


def likelihoods(n_simulated: NDArray[np.int64], n_neighbors: int, ratio: float, expected_rate: float) -> Doubles:
    """Return how likely each transcriptome is a doublet.

    Parameters
    ----------
    n_simulated
        Simulated doublets among its neighbours.
    n_neighbors
        Number of its neighbours.
    ratio
        Simulated doublets for each cell.
    expected_rate
        Share of doublets among cells before anything is seen.
    """
    q = (n_simulated + 1) / (n_neighbors + 2)
    scaled = expected_rate / ratio
    return np.asarray(q * scaled / (1 - expected_rate - q * (1 - expected_rate - scaled)))


def valley(scores: Doubles) -> float | None:
    """Return the lowest point between the two peaks of a histogram (Prewitt & Mendelsohn 1966); None if it has none.

    256 bins are smoothed by running means of three until at most two peaks are left, as scikit-image does.
    """
    counts, edges = np.histogram(scores, _N_BINS)
    smooth = counts.astype(np.float32)
    for _ in range(_MOST_ROUNDS):
        smooth = uniform_filter1d(smooth, 3)
        peaks = _peaks(smooth)
        if len(peaks) < 3:
            break
    if len(peaks) != 2:
        return None
    at = peaks[0] + int(smooth[peaks[0] : peaks[1] + 1].argmin())
    return float((edges[at] + edges[at + 1]) / 2)


def _peaks(heights: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return where the heights begin to fall after they have risen (the last of equal heights)."""
    steps = np.sign(np.diff(heights))
    moves = np.flatnonzero(steps)
    falls = steps[moves] < 0
    return moves[falls & ~np.concatenate([[False], falls[:-1]])]
