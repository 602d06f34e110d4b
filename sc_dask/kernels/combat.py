"""ComBat (Johnson, Li & Rabinovic 2007): batch effects of every gene, shrunk towards those of the others.

Everything that it estimates follows from moments of each batch: number of cells, mean, squared deviations and, with
covariates, the sums of their products with the genes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, values
from sc_dask.kernels.moments import Moments

Doubles = NDArray[np.float64]
_SETTLED = 1e-4  # scanpy's: no estimate changes by more, relatively
_NOTHING = 1e-14  # of a gene's mean square: what rounding leaves of the variance of equal values


@dataclass(frozen=True)
class Adjustment:
    """``x * factor + offset + (covariates @ coefficients) * (1 - factor)``, by batch and gene."""

    factor: Doubles  # n_batches x n_vars
    offset: Doubles  # n_batches x n_vars
    coefficients: Doubles  # n_covariates x n_vars


def products(block: Block, covariates: Doubles, codes: NDArray[np.int32], n_batches: int) -> Doubles:
    """Return the sums of ``covariate * x`` over the cells of each batch, ``n_batches x n_covariates x n_vars``."""
    sums = np.zeros((n_batches, block.shape[1], covariates.shape[1]))  # a gene's covariates beside each other
    if sp.issparse(block):
        _products_csr(values(block.data), block.indices, block.indptr, covariates, codes, sums)
    else:
        _products_dense(values(block), covariates, codes, sums)
    return sums.transpose(0, 2, 1)


def fit(m: Moments, crossed: Doubles, means: Doubles, squares: Doubles) -> Adjustment:
    """Return the adjustment of each batch and gene.

    Parameters
    ----------
    m
        Of each batch, at least two cells each.
    crossed
        ``n_batches x n_covariates x n_vars``: `products` with covariates less their means in the batch.
    means
        ``n_batches x n_covariates``.
    squares
        ``n_batches x n_covariates x n_covariates``: products of the covariates less their means; their sum over
        batches has full rank.

    A gene that does not vary within batches stays as it is and has no say about the others.
    """
    coefficients = np.linalg.solve(squares.sum(axis=0), crossed.sum(axis=0))
    by_batch = m.mean - means @ coefficients
    share = m.n / m.n.sum()
    grand = share @ by_batch
    explained = np.einsum("qg,bqg->bg", coefficients, crossed)
    quadratic = np.einsum("qg,bqr,rg->bg", coefficients, squares, coefficients)
    rest = np.maximum(m.m2 - 2 * explained + quadratic, 0)  # squared residuals of each batch
    variance = rest.sum(axis=0) / m.n.sum()
    if not np.isfinite(variance).all():
        raise InputError("X holds NaN or infinite values", "finite numbers", "look at the genes' sums for NaN")
    varies = variance > _NOTHING * (share @ m.mean**2 + m.m2.sum(axis=0) / m.n.sum())
    if varies.sum() < 2:
        raise InputError(f"{varies.sum()} genes vary within batches", "at least two, to learn from each other")
    deviation = np.sqrt(variance[varies])
    gamma = (by_batch[:, varies] - grand[varies]) / deviation
    squared = rest[:, varies] / variance[varies]
    factor, offset = np.ones(m.mean.shape), np.zeros(m.mean.shape)
    for b, n in enumerate(m.n):
        added, times = _shrunk(float(n), gamma[b], squared[b])
        factor[b, varies] = 1 / np.sqrt(times)
        offset[b, varies] = grand[varies] * (1 - factor[b, varies]) - added * deviation * factor[b, varies]
    return Adjustment(factor, offset, coefficients)


def _shrunk(n: float, mean: Doubles, squared: Doubles) -> tuple[Doubles, Doubles]:
    """Return what a batch adds to and multiplies the genes' variances by: posterior means, by turns until settled.

    Parameters
    ----------
    n
        Cells of the batch.
    mean, squared
        Mean and squared deviations of its standardised genes.
    """
    delta = squared / (n - 1)
    centre, spread = mean.mean(), mean.var()
    m, s2 = delta.mean(), delta.var(ddof=1)
    if not s2 > 0:
        raise InputError("all genes have the same variance in a batch", "genes that differ", "keep more genes")
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    added, times = mean, delta
    while True:
        new = (spread * n * mean + times * centre) / (spread * n + times)
        new_times = (0.5 * (squared + n * (mean - new) ** 2) + b) / (n / 2 + a - 1)
        changed = (abs(new - added) > _SETTLED * abs(added)).any() or (abs(new_times - times) > _SETTLED * times).any()
        added, times = new, new_times
        if not changed:
            return added, times


def adjust(
    block: Block,
    codes: NDArray[np.int32],
    covariates: Doubles,
    *,
    factor: Doubles,
    offset: Doubles,
    coefficients: Doubles,
) -> Array:
    """Return the adjusted block, dense, float32 (float64 stays).

    ``codes`` (n_obs) name the batches, ``covariates`` is n_obs x n_covariates.
    """
    dtype = np.float64 if block.dtype == np.float64 else np.float32
    out = np.zeros(block.shape, dtype)
    if len(coefficients):
        np.matmul(covariates, coefficients, out=out, casting="same_kind")
    if sp.issparse(block):
        _adjust_csr(values(block.data), block.indices, block.indptr, codes, factor, offset, out)
    else:
        _adjust_dense(values(block), codes, factor, offset, out)
    return out


@nb.njit(nogil=True, cache=True)
def _adjust_csr(
    data: Array, indices: Array, indptr: Array, codes: Array, factor: Array, offset: Array, out: Array
) -> None:
    total = np.empty(out.shape[1])
    for i in range(out.shape[0]):
        row, times, plus = out[i], factor[codes[i]], offset[codes[i]]
        for j in range(len(row)):
            total[j] = plus[j] + row[j] * (1 - times[j])
        for k in range(indptr[i], indptr[i + 1]):
            at = np.uint32(indices[k])
            total[at] += data[k] * times[at]
        for j in range(len(row)):
            row[j] = total[j]


@nb.njit(nogil=True, cache=True)
def _adjust_dense(x: Array, codes: Array, factor: Array, offset: Array, out: Array) -> None:
    for i in range(out.shape[0]):
        row, source, times, plus = out[i], x[i], factor[codes[i]], offset[codes[i]]
        for j in range(len(row)):
            row[j] = plus[j] + row[j] * (1 - times[j]) + source[j] * times[j]


@nb.njit(nogil=True, cache=True)
def _products_csr(data: Array, indices: Array, indptr: Array, covariates: Array, codes: Array, sums: Array) -> None:
    for i in range(len(indptr) - 1):
        into, row = sums[codes[i]], covariates[i]
        for k in range(indptr[i], indptr[i + 1]):
            of_gene, v = into[np.uint32(indices[k])], np.float64(data[k])
            for q in range(len(row)):
                of_gene[q] += v * row[q]


@nb.njit(nogil=True, cache=True)
def _products_dense(x: Array, covariates: Array, codes: Array, sums: Array) -> None:
    for i in range(x.shape[0]):
        into, row = sums[codes[i]], covariates[i]
        for j in range(x.shape[1]):
            of_gene, v = into[j], np.float64(x[i, j])
            for q in range(len(row)):
                of_gene[q] += v * row[q]
