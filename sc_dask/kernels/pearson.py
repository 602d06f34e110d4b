"""Analytic Pearson residuals of counts (Lause, Berens and Kobak 2021), of one block, and their sums by gene.

With mu = (sum of the cell) (sum of the gene) / (sum of all), the residual of a count x is
``(x - mu) / sqrt(mu + mu^2 / theta)``, cut at plus and minus ``clip``. That of a zero depends on the cell's sum and the
gene's sum alone, so what zeros contribute to a gene is found from the distinct sums of cells and how often each occurs;
blocks give what counts change.
"""

from __future__ import annotations

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, values
from sc_dask.kernels.regress_out import float_of


def check_model(theta: float, clip: float | None) -> None:
    """Refuse an overdispersion and a bound that are none."""
    if not theta > 0:
        raise InputError(f"theta={theta}", "a number above 0")
    if clip is not None and not clip >= 0:
        raise InputError(f"clip={clip}", "a number from 0, or None")


def residuals(
    block: Block, totals: NDArray[np.float64], *, gene_totals: NDArray[np.float64], total: float, theta: float,
    clip: float,
) -> Array:  # fmt: skip
    """Return the residuals of a block, dense; 0 where the cell or the gene has no counts.

    Parameters
    ----------
    block
        n_obs x n_vars, counts.
    totals, gene_totals, total
        Sums of the cells (n_obs), of the genes over all cells (n_vars), and of everything.
    theta, clip
        Overdispersion, above 0, and bound, 0 or above.
    """
    out = np.empty(block.shape, float_of(block.dtype))
    share = np.asarray(gene_totals, np.float64) / total if total > 0 else np.zeros(len(gene_totals))
    totals = np.asarray(totals, np.float64)
    arguments = totals, share, float(theta), float(clip), out
    if sp.issparse(block):
        _residuals_csr(values(block.data), block.indices, block.indptr, *arguments)
    else:
        _residuals_dense(np.ascontiguousarray(values(block)), *arguments)
    return out


def sums_of_zeros(
    totals: NDArray[np.float64], n_cells: NDArray[np.int64], share: NDArray[np.float64], theta: float, clip: float,
    n_genes: int = 1000,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Return each gene's sum of residuals and of their squares if every count were 0.

    Parameters
    ----------
    totals, n_cells
        Distinct sums of cells, and how many cells have each.
    share
        float64 of n_vars: sums of the genes over the sum of everything.
    theta, clip
        As in :func:`residuals`.
    n_genes
        Genes looked at together.
    """
    sums, squares = np.zeros(len(share)), np.zeros(len(share))
    for start in range(0, len(share), n_genes):
        part = slice(start, start + n_genes)
        _zeros(
            np.asarray(totals, np.float64), np.asarray(n_cells, np.float64), share[part], float(theta), float(clip),
            sums[part], squares[part],
        )  # fmt: skip
    return sums, squares


def changes(
    block: Block, totals: NDArray[np.float64], groups: NDArray[np.int32], *, share: NDArray[np.float64], theta: float,
    clip: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Return what the counts of a block add to the sums of :func:`sums_of_zeros`, each n_groups x n_vars.

    Parameters
    ----------
    block
        n_obs x n_vars, counts.
    totals, groups
        Sums of the cells, and the group of each (int32 in ``[0, n_groups)``).
    share, theta, clip
        n_groups x n_vars as there, one number, and one of each group.
    """
    sums, squares = np.zeros(share.shape), np.zeros(share.shape)
    csr = block if sp.issparse(block) else sp.csr_matrix(block)
    _changes_csr(
        values(csr.data), csr.indices, csr.indptr, np.asarray(totals, np.float64), groups, share, float(theta), clip,
        sums, squares,
    )  # fmt: skip
    return sums, squares


def variance(n: int, sums: NDArray[np.float64], squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variance (over ``n``) of residuals from their sums; their mean is near 0, so nothing cancels."""
    mean = sums / max(n, 1)
    return np.maximum(squares / max(n, 1) - mean**2, 0.0)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _of_zero(mu: float, over: float, clip: float) -> float:
    r = np.sqrt(mu / (1.0 + mu * over))
    return -(clip if r > clip else r)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _of_count(x: float, mu: float, over: float, clip: float) -> float:
    if mu <= 0:
        return 0.0
    r = (x - mu) / np.sqrt(mu + mu * mu * over)
    r = clip if r > clip else r
    return -clip if r < -clip else r


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _residuals_csr(
    data: Array, indices: Array, indptr: Array, totals: Array, share: Array, theta: float, clip: float, out: Array
) -> None:
    over = 1.0 / theta
    for i in range(len(out)):
        row, t = out[i], totals[i]
        for j in range(len(row)):
            row[j] = _of_zero(t * share[j], over, clip)
        for k in range(indptr[i], indptr[i + 1]):
            at = np.uint32(indices[k])
            row[at] = _of_count(np.float64(data[k]), t * share[at], over, clip)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _residuals_dense(x: Array, totals: Array, share: Array, theta: float, clip: float, out: Array) -> None:
    over = 1.0 / theta
    for i in range(len(out)):
        row, values_of, t = out[i], x[i], totals[i]
        for j in range(len(row)):
            row[j] = _of_count(np.float64(values_of[j]), t * share[j], over, clip)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _zeros(totals: Array, n_cells: Array, share: Array, theta: float, clip: float, sums: Array, squares: Array) -> None:
    over = 1.0 / theta
    for u in range(len(totals)):
        t, n = totals[u], n_cells[u]
        for j in range(len(share)):
            r = _of_zero(t * share[j], over, clip)
            sums[j] += n * r
            squares[j] += n * r * r


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _changes_csr(
    data: Array, indices: Array, indptr: Array, totals: Array, groups: Array, share: Array, theta: float, clip: Array,
    sums: Array, squares: Array,
) -> None:  # fmt: skip
    over = 1.0 / theta
    for i in range(len(indptr) - 1):
        g, t = groups[i], totals[i]
        of_group, bound = share[g], clip[g]
        for k in range(indptr[i], indptr[i + 1]):
            j = np.uint32(indices[k])
            mu = t * of_group[j]
            zero, r = _of_zero(mu, over, bound), _of_count(np.float64(data[k]), mu, over, bound)
            sums[g, j] += r - zero
            squares[g, j] += r * r - zero * zero
