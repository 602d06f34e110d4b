"""Scores of sets of genes: control genes of a like mean (Satija 2015), and the mean of a set less that of its controls.

Also the sums of the genes after normalisation and logarithm, straight from the counts: one loop, and small counts of a
cell share one logarithm.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.kernels.csr import Array, Block, values
from sc_dask.kernels.normalize import TABLE_SIZE, log1p_of

_DIGITS = 10  # means that differ beyond are equal: how rows are cut changes the last ones


def control_genes(
    means: NDArray[np.float64],
    listed: NDArray[np.int64],
    rng: np.random.RandomState,
    *,
    ctrl_size: int,
    n_bins: int,
    ctrl_as_ref: bool,
) -> tuple[NDArray[np.int64], list[float]]:
    """Return the control genes of one set, drawn as scanpy draws them.

    Parameters
    ----------
    means
        Mean of each gene of the pool, in the pool's order; genes without a finite mean are in no bin.
    listed
        Places of the set's genes in the pool; each has a finite mean.
    rng
        What to draw with.
    ctrl_size
        Genes to draw from each bin that holds a gene of the set.
    n_bins
        Genes are cut into about so many bins by the rank of their mean.
    ctrl_as_ref
        Draw from all genes of a bin and leave the set's own away afterwards; else draw from the others.

    Returns
    -------
    Places of the controls in the pool, increasing; the bins that had no gene to draw from.
    """
    from scipy.stats import rankdata  # slow to import

    finite = np.flatnonzero(np.isfinite(means))
    per_bin = int(np.round(len(finite) / (n_bins - 1)))
    ranks = rankdata(_rounded(means[finite]), method="min")
    bins = np.full(len(means), np.nan)
    bins[finite] = ranks // per_bin if per_bin else 0
    in_list = np.zeros(len(means), np.bool_)
    in_list[listed] = True
    chosen, empty = np.zeros(len(means), np.bool_), []
    for cut in np.unique(bins[listed]):
        genes = np.flatnonzero((bins == cut) & (ctrl_as_ref | ~in_list))
        if not len(genes):
            empty.append(float(cut))
        if ctrl_size < len(genes):
            genes = genes[rng.choice(len(genes), size=ctrl_size, replace=False)]
        chosen[genes] = True
    return np.flatnonzero(chosen & ~in_list), empty


def _rounded(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means with so many digits that rounding of sums cannot tell equal ones apart."""
    with np.errstate(divide="ignore"):
        power = np.where(means == 0, 0, np.floor(np.log10(np.abs(means))))
    unit = 10.0 ** (_DIGITS - 1 - power)
    return np.rint(means * unit) / unit


def members(groups: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the genes of all groups (positions, increasing), and 1 where a gene is in a group, n_genes x n_groups."""
    genes = np.unique(np.concatenate(groups))
    return genes, np.stack([np.isin(genes, own) for own in groups], axis=1).astype(np.float64)


def group_sums(block: Block, lookup: NDArray[np.int32], member: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of groups of genes in each cell of a block, float64, n_obs x n_groups.

    Parameters
    ----------
    block
        n_obs x n_vars.
    lookup
        int32 of n_vars: the row of ``member`` that a gene has, or -1.
    member
        1 where a gene is in a group, n_genes x n_groups.
    """
    out = np.zeros((block.shape[0], member.shape[1]))
    if sp.issparse(block):
        _group_sums(values(block.data), block.indices, block.indptr, lookup, member, out)
    else:
        _group_sums_dense(values(block), lookup, member, out)
    return out


def nan_group_sums(block: Block, member: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of groups of genes in each cell without NaN, and how many values they are of.

    ``member`` has a row for each gene of the block, which holds these genes only; float64, n_obs x (2 n_groups).
    """
    x = (block.toarray() if sp.issparse(block) else np.asarray(block)).astype(np.float64)
    there = ~np.isnan(x)
    return np.hstack([np.where(there, x, 0) @ member, there.astype(np.float64) @ member])


def nan_col_totals(block: Block) -> NDArray[np.float64]:
    """Return the sums of each gene without NaN, and the number of its NaN: float64, 2 x n_vars."""
    n = block.shape[1]
    if sp.issparse(block):
        missing, genes = np.isnan(block.data), block.indices
        sums = np.bincount(genes[~missing], weights=block.data[~missing].astype(np.float64), minlength=n)
        return np.stack([sums, np.bincount(genes[missing], minlength=n).astype(np.float64)])
    missing = np.isnan(block)
    return np.stack([np.nansum(block, axis=0, dtype=np.float64), missing.sum(axis=0)])


def log_group_sums(
    block: sp.csr_matrix,
    factors: NDArray[np.float64],
    lookup: NDArray[np.int32],
    member: NDArray[np.float64],
    base: float | None = None,
) -> NDArray[np.float64]:
    """Return ``group_sums(log1p(counts * factors), ...)`` of a block of counts; no other gene's logarithm is taken."""
    over = 1.0 if base is None else 1.0 / math.log(base)
    one = np.ones(1, np.float64 if block.dtype == np.float64 else np.float32)
    out = np.zeros((block.shape[0], member.shape[1]))
    _log_group_sums(values(block.data), block.indices, block.indptr, factors, over, one, lookup, member, out)
    return out


def log_col_totals(
    block: sp.csr_matrix, factors: NDArray[np.float64], base: float | None = None
) -> NDArray[np.float64]:
    """Return the sums of ``log1p(counts * factors)`` of each gene, float64 of n_vars.

    Parameters
    ----------
    block
        csr, n_obs x n_vars, counts.
    factors
        float64 of n_obs: what cells are multiplied by.
    base
        Base of the logarithm; None: e.
    """
    over = 1.0 if base is None else 1.0 / math.log(base)
    one = np.ones(1, np.float64 if block.dtype == np.float64 else np.float32)
    out = np.zeros(block.shape[1])
    _log_col_totals(values(block.data), block.indices, block.indptr, factors, over, one, out)
    return out


@numba.njit(nogil=True, cache=True)
def _group_sums(data: Array, indices: Array, indptr: Array, lookup: Array, member: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            at = lookup[np.uint32(indices[k])]
            if at >= 0:
                for s in range(out.shape[1]):
                    out[i, s] += data[k] * member[at, s]


@numba.njit(nogil=True, cache=True)
def _group_sums_dense(x: Array, lookup: Array, member: Array, out: Array) -> None:
    """The same in the same order, so that a cell's phase does not depend on how X is stored."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            if lookup[j] >= 0 and x[i, j] != 0:
                for s in range(out.shape[1]):
                    out[i, s] += x[i, j] * member[lookup[j], s]


@numba.njit(nogil=True, cache=True)
def _log_group_sums(
    data: Array, indices: Array, indptr: Array, factors: Array, over: float, one: Array,
    lookup: Array, member: Array, out: Array,
) -> None:  # fmt: skip
    table = np.empty(TABLE_SIZE)
    for i in range(len(indptr) - 1):
        factor = factors[i]
        table[:] = -1.0
        for k in range(indptr[i], indptr[i + 1]):
            at = lookup[np.uint32(indices[k])]
            if at < 0:
                continue
            c = data[k]
            t = np.uint32(c) if 0 <= c < TABLE_SIZE else np.uint32(0)
            if t == c:
                if table[t] < 0:
                    table[t] = one.dtype.type(log1p_of(np.float64(c), factor, over, one))
                v = table[t]
            else:
                v = np.float64(one.dtype.type(log1p_of(np.float64(c), factor, over, one)))
            for s in range(out.shape[1]):
                out[i, s] += v * member[at, s]


@numba.njit(nogil=True, cache=True)
def _log_col_totals(
    data: Array, indices: Array, indptr: Array, factors: Array, over: float, one: Array, out: Array
) -> None:
    table, seen = np.zeros(TABLE_SIZE), np.zeros(TABLE_SIZE, np.bool_)
    for i in range(len(indptr) - 1):
        factor = factors[i]
        # logarithms first: a test for each value inside the loop below would cost more
        for k in range(indptr[i], indptr[i + 1]):
            c = data[k]
            seen[np.uint32(c) if 0 <= c < TABLE_SIZE else np.uint32(0)] = True
        for count in range(TABLE_SIZE):
            if seen[count]:
                table[count] = one.dtype.type(log1p_of(np.float64(count), factor, over, one))
                seen[count] = False
        for k in range(indptr[i], indptr[i + 1]):
            c = data[k]
            t = np.uint32(c) if 0 <= c < TABLE_SIZE else np.uint32(0)
            if t == c:
                out[np.uint32(indices[k])] += table[t]
            else:
                out[np.uint32(indices[k])] += one.dtype.type(log1p_of(np.float64(c), factor, over, one))
