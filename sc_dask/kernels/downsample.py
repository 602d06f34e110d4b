"""Draw a given number of the counts of each cell, every count with the same chance.

Each cell has a generator of its own (splitmix64), so neither blocks nor threads change what is drawn.
"""

from __future__ import annotations

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, from_parts, values

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def cell_seeds(seed: int, n_obs: int) -> NDArray[np.uint64]:
    """Return a start for each cell's generator, uint64 of n_obs; ``seed`` is any integer from 0 to 2**64 - 1."""
    x = np.arange(n_obs, dtype=np.uint64) * _GOLDEN + _mixed(np.array([seed], np.uint64))
    return _mixed(x)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def downsample(
    block: Block, targets: NDArray[np.int64], seeds: NDArray[np.uint64], *, replace: bool, out_dtype: DTypeLike
) -> Block:
    """Return a block in which no cell has more counts than its target.

    Parameters
    ----------
    block
        n_obs x n_vars, counts.
    targets
        int64 of n_obs; a cell with no more counts stays as it is.
    seeds
        uint64 of n_obs; see :func:`cell_seeds`.
    replace
        Draw with replacement.
    out_dtype
        Type of the result.

    Raises
    ------
    InputError
        A value is negative or no integer.
    """
    data = values(block.data if sp.issparse(block) else block)
    if len(data) and (data.dtype.kind != "u" and not (data >= 0).all() or data.dtype.kind == "f" and not _whole(data)):
        raise InputError(
            "X has values that are negative, NaN or no integers",
            "counts",
            "call it before normalising, or on raw counts",
        )
    targets, seeds = np.asarray(targets), np.asarray(seeds)
    if not sp.issparse(block):
        out = np.empty(block.shape, out_dtype)
        starts = np.arange(block.shape[0] + 1) * block.shape[1]
        _draw(data.ravel(), starts, targets, seeds, replace, out.reshape(-1))
        return out
    drawn = np.empty(len(data), out_dtype)
    _draw(data, block.indptr, targets, seeds, replace, drawn)
    kept = drawn != 0
    indptr = np.concatenate([[0], np.cumsum(kept)])[block.indptr].astype(np.int32)
    return from_parts(drawn[kept], block.indices[kept], indptr, block.shape[1])


def _whole(data: Array) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((data - np.floor(data) == 0).all())  # infinities are not


def share(totals: NDArray[np.float64], n: int, rng: np.random.Generator, replace: bool) -> NDArray[np.int64]:
    """Return how many of ``n`` counts drawn from all cells together fall on each cell, int64 of n_obs.

    Parameters
    ----------
    totals
        Counts of each cell; without replacement their sum is at least ``n``.
    n
        Counts to draw.
    rng
        What to draw with.
    replace
        Draw with replacement.

    Notes
    -----
    Without replacement every count is first drawn for itself with the chance ``n / sum``, which makes all sets of equal
    size equally likely; as many as there are too many (or too few) are then taken back (or added) at random. That holds
    for any sum, and costs the square root of ``n``.
    """
    cells = np.asarray(totals, np.int64)
    whole = int(cells.sum())
    if replace:
        return rng.multinomial(n, cells / whole) if whole else np.zeros_like(cells)
    drawn = rng.binomial(cells, min(n / whole, 1.0) if whole else 0.0)
    surplus = int(drawn.sum()) - n
    if surplus:
        among = np.cumsum(drawn if surplus > 0 else cells - drawn)
        at = rng.choice(int(among[-1]), size=abs(surplus), replace=False)
        moved = np.bincount(np.searchsorted(among, at, side="right"), minlength=len(cells))
        drawn += -moved if surplus > 0 else moved
    return drawn


@numba.njit(nogil=True, cache=True)
def _next(x: np.uint64) -> float:
    """Return a number in [0, 1) of the state ``x`` of a generator."""
    z = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.float64(z >> np.uint64(11)) / 9007199254740992.0


@numba.njit(nogil=True, cache=True)
def _draw(data: Array, starts: Array, targets: Array, seeds: Array, replace: bool, out: Array) -> None:
    golden = np.uint64(0x9E3779B97F4A7C15)
    for i in range(len(starts) - 1):
        lo, hi = starts[i], starts[i + 1]
        total = np.int64(0)
        for k in range(lo, hi):
            total += np.int64(data[k])
        want, x = targets[i], seeds[i]
        if total <= want:
            for k in range(lo, hi):
                out[k] = data[k]
        elif replace:
            ends = np.empty(hi - lo, np.int64)
            end = np.int64(0)
            for k in range(lo, hi):
                end += np.int64(data[k])
                ends[k - lo] = end
                out[k] = 0
            for _ in range(want):
                x += golden
                out[lo + np.searchsorted(ends, np.int64(_next(x) * total), side="right")] += 1
        else:
            left = total
            for k in range(lo, hi):
                taken = 0
                for _ in range(np.int64(data[k])):
                    if want == 0:
                        break
                    x += golden
                    if _next(x) * left < want:  # Knuth's selection sampling: one number a count
                        taken += 1
                        want -= 1
                    left -= 1
                out[k] = taken
