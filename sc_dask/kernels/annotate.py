"""Scores of a linear model for one block of cells: genes scaled and clipped, then a weighted sum for each label.

What the model sees of a gene is ``min((x - mean) / scale, 10)``. A zero gives the same for every cell, so a cell's
scores are those of an empty cell and, for its non-zeros alone, what they differ from zeros by, clipped before: exact,
and without a dense matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import expit

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, gather_rows, take_cols, take_rows, to_dense, values

CLIP = 10.0
TARGET = 1e4
_TILE_ROWS = 4096
_N_CHECKED = 20  # cells of each block
_TOLERANCE = 0.01  # genes that were filtered out after normalising
_MOST = 50.0  # beyond any logarithm of counts; keeps expm1 finite


@dataclass(frozen=True)
class Linear:
    """A linear model of some genes, in the order of the block's columns."""

    coef: NDArray[np.float64]  # n_genes x n_labels
    intercept: NDArray[np.float64]  # n_labels
    mean: NDArray[np.float64]  # n_genes
    scale: NDArray[np.float64]  # n_genes


def check_log1p(block: Block) -> None:
    """Refuse a block whose first cells are not counts brought to 10,000 a cell and logarithmised.

    Raises
    ------
    InputError
        Values are negative or not finite, or a cell that is not empty sums up to something else.
    """
    x = to_dense(take_rows(block, np.arange(min(_N_CHECKED, block.shape[0]))), np.float64)
    if not np.isfinite(x).all() or (x < 0).any():
        found = "X holds negative or infinite values"
    else:
        totals = np.expm1(np.minimum(x, _MOST)).sum(axis=1)
        wrong = totals[(totals > 0) & (np.abs(totals - TARGET) > _TOLERANCE * TARGET)]
        if not wrong.size:
            return
        found = f"cells of X sum up to {wrong.min():,.0f} (of expm1) and not to {TARGET:,.0f}"
    raise InputError(
        found,
        "log1p of counts brought to 10,000 a cell, all genes",
        "pp.normalize_total(adata, target_sum=1e4); pp.log1p(adata), or name a layer; "
        "check_expression=False if genes were chosen after normalising",
    )


def decisions(block: Block, model: Linear) -> NDArray[np.float64]:
    """Return the scores of the labels, n_obs x n_labels."""
    mean, scale = model.mean, model.scale
    if not sp.issparse(block):
        return np.asarray(np.minimum((block - mean) / scale, CLIP) @ model.coef + model.intercept)
    zero = np.minimum(-mean / scale, CLIP)
    genes = block.indices
    beyond = np.minimum((values(block.data) - mean[genes]) / scale[genes], CLIP) - zero[genes]
    out = np.tile(model.intercept + zero @ model.coef, (block.shape[0], 1))
    gather_rows(beyond, genes, block.indptr, model.coef, out)
    return out


def assign(
    block: Block,
    *,
    model: Linear,
    lookup: NDArray[np.int32] | None = None,
    check: bool = False,
    threshold: float | None = None,
    keep: tuple[str, ...] = (),
) -> dict[str, Array]:
    """Return for each cell the best label (``best``), its probability (``confidence``) and what else is wanted.

    Parameters
    ----------
    block
        n_obs x n_genes; with ``lookup`` n_obs x n_vars, of which it names the genes (`csr.col_lookup`).
    check
        Refuse what is not logarithmised (`check_log1p`); needs all genes.
    threshold
        Also ``flags``: the labels whose probability is above, 8 to a byte.
    keep
        ``decisions`` and ``probabilities``: n_obs x n_labels, float32.
    """
    if check:
        check_log1p(block)
    if lookup is not None:
        block = take_cols(block, lookup, len(model.mean))
    tiles = [
        _assigned(take_rows(block, np.arange(a, min(a + _TILE_ROWS, block.shape[0]))), model, threshold, keep)
        for a in range(0, max(block.shape[0], 1), _TILE_ROWS)
    ]
    return {k: np.concatenate([t[k] for t in tiles]) for k in tiles[0]}


def _assigned(block: Block, model: Linear, threshold: float | None, keep: tuple[str, ...]) -> dict[str, Array]:
    scores = decisions(block, model)
    out: dict[str, Any] = {
        "best": scores.argmax(axis=1).astype(np.int32),
        "confidence": expit(scores.max(axis=1)),
    }
    if threshold is not None:
        out["flags"] = np.packbits(expit(scores) > threshold, axis=1)
    if "decisions" in keep:
        out["decisions"] = scores.astype(np.float32)
    if "probabilities" in keep:
        out["probabilities"] = expit(scores).astype(np.float32)
    return out


def scaled(block: Block, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a block as the model sees it: dense, scaled and clipped, n_obs x n_genes."""
    x = to_dense(block, np.float32)
    x = x.copy() if x is block else x
    x -= mean.astype(np.float32)
    x /= scale.astype(np.float32)
    return np.asarray(np.minimum(x, np.float32(CLIP), out=x))


def sampled(
    block: Block, *, lookup: NDArray[np.int32] | None = None, n_genes: int = 0, check: bool = False
) -> sp.csr_matrix:
    """Return the chosen genes of a block as csr, for cells that are kept in memory; `check_log1p` on demand."""
    if check:
        check_log1p(block)
    if lookup is not None:
        block = take_cols(block, lookup, n_genes)
    return block if sp.issparse(block) else sp.csr_matrix(block)
