"""Draw counts of simulated cells as sparse rows, in time that grows with the molecules and not with the genes.

A count is negative binomial: Poisson with a gamma-distributed rate of mean ``mu`` and shape ``r``. Its
non-zeros are found by thinning. Poisson points of the same ``mu`` fall on genes through an alias table (Vose 1991,
doi:10.1109/32.92917); a gene that is hit stays with probability ``P(NB > 0) / P(Poisson > 0)``, which is below one,
and then draws its count from the zero-truncated negative binomial. That is exact, and only genes that are hit cost
anything.
"""

from __future__ import annotations

import math

import numba
import numpy as np

_INVERSION_BELOW = 50.0  # above, P(0) is small and gamma-Poisson with rejection of zeros is faster than a search


@numba.njit(cache=True, nogil=True)
def alias_table(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the alias table of the probabilities ``p`` (n,): thresholds (n,) float32 and aliases (n,) int32."""
    n = len(p)
    scaled = p * (n / p.sum())
    threshold = np.ones(n, np.float32)
    alias = np.arange(n).astype(np.int32)
    small = np.empty(n, np.int32)
    large = np.empty(n, np.int32)
    n_small = n_large = 0
    for i in range(n):
        if scaled[i] < 1.0:
            small[n_small] = i
            n_small += 1
        else:
            large[n_large] = i
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        low, high = small[n_small], large[n_large - 1]
        threshold[low] = scaled[low]
        alias[low] = high
        scaled[high] -= 1.0 - scaled[low]
        if scaled[high] < 1.0:
            n_large -= 1
            small[n_small] = high
            n_small += 1
    return threshold, alias


@numba.njit(cache=True, nogil=True)
def _positive_count(rng: np.random.Generator, mu: float, r: float) -> int:
    """Return a negative binomial count given that it is not zero."""
    if mu > _INVERSION_BELOW:
        while True:
            count = rng.poisson(rng.standard_gamma(r) * mu / r)
            if count > 0:
                return count
    p0 = math.exp(-r * math.log1p(mu / r))
    q = mu / (r + mu)
    u = rng.random() * (1.0 - p0)
    p = p0 * r * q
    count = 1
    while u > p and (count < mu or p > 1e-18):
        u -= p
        p *= q * (count + r) / (count + 1)
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _kept(rng: np.random.Generator, mu: float, r: float) -> bool:
    """Return whether a gene that Poisson points of mean ``mu`` have hit has a non-zero count."""
    return rng.random() * math.expm1(-mu) >= math.expm1(-r * math.log1p(mu / r))


@numba.njit(cache=True, nogil=True)
def sample_cells(
    rng: np.random.Generator,
    profile_of: np.ndarray,
    depth: np.ndarray,
    mt_depth: np.ndarray,
    p: np.ndarray,
    threshold: np.ndarray,
    alias: np.ndarray,
    mt_p: np.ndarray,
    shape: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the counts of some cells.

    Parameters
    ----------
    rng
        Source of all randomness; the same state gives the same cells.
    profile_of
        (n_cells,) int: each cell's row of ``p``.
    depth, mt_depth
        (n_cells,) float64: expected molecules of nuclear and of mitochondrial genes.
    p, threshold, alias
        (n_profiles, n_nuclear): probabilities that sum to one, and their alias tables.
    mt_p
        (n_mt,): probabilities of the mitochondrial genes, which are the last columns.
    shape
        (n_nuclear + n_mt,): gamma shape of each gene, the inverse of its dispersion.

    Returns
    -------
    ``data`` float32, ``indices`` int32 (sorted) and ``indptr`` int32 of the csr matrix (n_cells, n_nuclear + n_mt).
    """
    n_cells, n_nuclear, n_mt = len(depth), p.shape[1], len(mt_p)
    n_points = np.empty(n_cells, np.int64)
    capacity = n_cells * n_mt
    for i in range(n_cells):
        n_points[i] = rng.poisson(depth[i])
        capacity += min(n_points[i], n_nuclear)
    data = np.empty(capacity, np.float32)
    indices = np.empty(capacity, np.int32)
    indptr = np.zeros(n_cells + 1, np.int32)
    hit = np.zeros(n_nuclear, np.bool_)
    at = 0
    for i in range(n_cells):
        k = profile_of[i]
        for _ in range(n_points[i]):
            u = rng.random() * n_nuclear
            gene = min(int(u), n_nuclear - 1)
            hit[gene if u - gene < threshold[k, gene] else alias[k, gene]] = True
        for gene in range(n_nuclear):
            if hit[gene]:
                hit[gene] = False
                mu = depth[i] * p[k, gene]
                if _kept(rng, mu, shape[gene]):
                    data[at] = _positive_count(rng, mu, shape[gene])
                    indices[at] = gene
                    at += 1
        for j in range(n_mt):
            r = shape[n_nuclear + j]
            count = rng.poisson(rng.standard_gamma(r) * mt_depth[i] * mt_p[j] / r)
            if count > 0:
                data[at] = count
                indices[at] = n_nuclear + j
                at += 1
        indptr[i + 1] = at
    return data[:at].copy(), indices[:at].copy(), indptr
