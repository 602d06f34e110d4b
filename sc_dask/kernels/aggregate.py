"""Sums, numbers of non-zeros, squares and medians of each gene in each group of cells, for hundreds of groups.

What is added up belongs to the non-zeros alone and is changed in place, so a block costs what it holds and not what
groups times genes come to; the zeros are known by their number. Squares are taken about a whole number near a gene's
mean: nothing cancels, and sums of integers stay integers, exact up to 2**53.

Small counts (nearly all) take one addition to one integer, which holds a group's sum, non-zeros and squares side by
side until its fields could overflow: memory traffic is what several hundred groups cost.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.kernels.csr import Array, Block, values
from sc_dask.kernels.moments import rows_by_group

FUNCTIONS = ("count_nonzero", "mean", "median", "sum", "var")
_SUM, _NONZERO, _SQUARES, _BELOW = range(4)  # places in the last axis of `Sums.of`
_DEPTH = {"sum": 1, "mean": 1, "count_nonzero": 2, "var": 3, "median": 4}


_ROUNDING = 1e-13  # of a sum of squares of fractions: what rounding leaves of equal values about their mean
_SMALL, _MOST_CELLS = 256, 4095  # counts below it, of so many cells, fit the fields: 20, 12 and 32 bits
_COUNTS = np.arange(_SMALL, dtype=np.uint64)
_FIELDS = _COUNTS | (_COUNTS > 0).astype(np.uint64) << np.uint64(20) | (_COUNTS * _COUNTS) << np.uint64(32)


@dataclass(frozen=True)
class Sums:
    """State of :func:`sums`."""

    of: NDArray[np.float64]  # n_groups x n_vars x depth: sum, non-zeros, squares and negative values of the non-zeros
    shift: NDArray[np.float64]  # n_vars, whole numbers: sums and squares are those of the value less it
    small: NDArray[np.uint64]  # n_groups x n_vars: sum, non-zeros and squares of small counts not yet in ``of``
    n_small: NDArray[np.int64]  # n_groups, the cells of ``small``


@dataclass(frozen=True)
class Totals:
    """What :func:`finish` makes of the sums of all cells."""

    of: NDArray[np.float64]  # n_groups x n_vars x depth, as `Sums.of`, but squares about the mean of the non-zeros

    @property
    def sum(self) -> NDArray[np.float64]:
        """Sum of the values, n_groups x n_vars."""
        return self.of[..., _SUM]

    @property
    def nonzero(self) -> NDArray[np.float64]:
        """Number of values that are not zero (from ``depth`` 2 on)."""
        return self.of[..., _NONZERO]

    @property
    def squares(self) -> NDArray[np.float64]:
        """Squared deviations of the non-zeros from their mean (from ``depth`` 3 on)."""
        return self.of[..., _SQUARES]

    @property
    def below(self) -> NDArray[np.float64]:
        """Number of values below zero (``depth`` 4)."""
        return self.of[..., _BELOW]

    def picked(self, cols: NDArray[np.int64]) -> Totals:
        """Return the totals of some genes."""
        return Totals(self.of[:, cols])


def depth_of(wanted: Collection[str]) -> int:
    """Return how many numbers per group and gene the functions ``wanted`` need."""
    return max(_DEPTH[f] for f in wanted)


def sums(block: Block, groups: NDArray[np.int32], *, n_groups: int, depth: int) -> Sums:
    """Return the sums of one block.

    Parameters
    ----------
    block
        n_obs x n_vars.
    groups
        int32 of n_obs in ``[-1, n_groups)``; cells of group -1 are left out.
    n_groups, depth
        Shape of the state; see :func:`depth_of`. Memory: ``8 (depth + 1)`` bytes per group and gene.
    """
    n_vars = block.shape[1]
    shift = _whole_means(block) if depth > _SQUARES else np.zeros(n_vars)
    small = np.zeros((n_groups, n_vars if sp.issparse(block) else 0), np.uint64)
    of = np.zeros((n_groups, n_vars, depth))
    return absorb(Sums(of, shift, small, np.zeros(n_groups, np.int64)), block, groups)


def absorb(state: Sums, block: Block, groups: NDArray[np.int32], **_: int) -> Sums:
    """Add a block to ``state``, which changes."""
    order, starts = rows_by_group(groups, len(state.of), block.shape[0])
    if sp.issparse(block):
        csr = values(block.data), block.indices, block.indptr
        _add_csr(*csr, order, starts, state.shift, _FIELDS, state.of, state.small, state.n_small)
    else:
        _add_dense(values(block), order, starts, state.shift, state.of)
    return state


def update(state: Sums, block: Block, groups: NDArray[np.int32], **_: int) -> Sums:
    """Return ``state`` with a block added to it."""
    own = Sums(state.of.copy(), state.shift, state.small.copy(), state.n_small.copy())
    return absorb(own, block, groups)


def merge(a: Sums, b: Sums) -> Sums:
    """Return the sums of the cells of both."""
    of, by = np.empty_like(a.of), b.shift - a.shift
    for g in range(len(of)):
        of[g], other = _group(a, g), _group(b, g)
        if of.shape[2] > _SQUARES:
            other[:, _SQUARES] += by * (2 * other[:, _SUM] + by * other[:, _NONZERO])
            other[:, _SUM] += by * other[:, _NONZERO]
        of[g] += other
    return Sums(of, a.shift, np.zeros_like(a.small), np.zeros_like(a.n_small))


def _group(state: Sums, g: int) -> NDArray[np.float64]:
    """Return the sums of one group, small counts and all, n_vars x depth (a copy)."""
    of = state.of[g].copy()
    if state.n_small[g] and state.small.shape[1]:
        _flush(state.small[g].copy(), state.shift, of)
    return of


def finish(state: Sums) -> Totals:
    """Return the totals of all groups, free of how the cells were cut; exact for integers, up to 2**53."""
    out = np.empty_like(state.of)
    for g in range(len(out)):  # one at a time stays in cache
        out[g] = of = _group(state, g)
        if of.shape[1] <= _SQUARES:
            continue
        total, there = of[:, _SUM], of[:, _NONZERO]
        with np.errstate(invalid="ignore"):  # infinite values
            some = np.maximum(there, 1)
            near = np.floor(total / some)
            rest = total - near * there
            squares = of[:, _SQUARES] - near * (near * there + 2 * rest) - rest * rest / some
            out[g, :, _SUM] = total + state.shift * there
            fractions = of[:, _SQUARES] != np.rint(of[:, _SQUARES])  # sums of integers are exact
            noise = np.where(fractions, _ROUNDING * of[:, _SQUARES], 0.0)
        out[g, :, _SQUARES] = np.where(squares <= noise, 0.0, squares)
    return Totals(out)


def functions(t: Totals, n: NDArray[np.int64], wanted: Collection[str], dof: int = 1) -> dict[str, Array]:
    """Return what is ``wanted`` of sum, mean, var and count_nonzero, each n_groups x n_vars.

    Parameters
    ----------
    t
        The totals of all cells.
    n
        Cells in each group; a group of none has no mean, one of ``dof`` or fewer no variance (NaN).
    wanted
        Names from `FUNCTIONS`; the median is :func:`medians`'s.
    dof
        The sum of squared deviations is divided by ``n - dof``.
    """
    kinds = {f: np.int64 if f == "count_nonzero" else np.float64 for f in wanted if f != "median"}
    out: dict[str, Array] = {f: np.empty(t.sum.shape, kind) for f, kind in kinds.items()}
    for g in range(len(n)):
        cells = float(n[g]) if n[g] else np.nan
        if "sum" in out:
            out["sum"][g] = t.sum[g]
        if "mean" in out:
            out["mean"][g] = t.sum[g] / cells
        if "count_nonzero" in out:
            out["count_nonzero"][g] = t.nonzero[g]
        if "var" in out:
            zeros = t.sum[g] / np.maximum(t.nonzero[g], 1) * (t.sum[g] / cells) * (cells - t.nonzero[g])
            out["var"][g] = (t.squares[g] + zeros) / (cells - dof if n[g] > dof else np.nan)
    return out


def medians(t: Totals, n: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the medians that need no values, and where the others are, both n_groups x n_vars.

    A median is zero where the zeros reach over the middle; no cells or a NaN among them make it NaN.
    """
    there, below = t.nonzero, t.below
    low, high = (n[:, None] - 1) // 2, n[:, None] // 2
    known = (low >= below) & (high < below + n[:, None] - there)
    out = np.zeros(there.shape)
    out[np.isnan(t.sum)] = np.nan
    out[n == 0] = np.nan
    return out, ~known & ~np.isnan(out)


def collect(
    block: Block, index: int, groups: NDArray[np.int32], *, places: NDArray[np.int32]
) -> tuple[NDArray[np.int32], Array]:
    """Return the non-zeros of some groups and genes and the place of each, in any order.

    Parameters
    ----------
    block, groups
        As in :func:`sums`.
    index
        Number of the block, without meaning here.
    places
        int32, n_groups x n_vars: where a group's values of a gene belong, or -1.
    """
    csr = block if sp.issparse(block) else sp.csr_matrix(block)
    data, indices, indptr = values(csr.data), csr.indices, csr.indptr
    # small integers as float32: exact, and one type less to compile the sorting for
    at, found = np.empty(len(data), np.int32), np.empty(len(data), np.result_type(data.dtype, np.float32))
    order, starts = rows_by_group(groups, len(places), csr.shape[0])  # what is sorted by it later lies together
    n = _collect(data, indices, indptr, order[starts[0] :], np.asarray(groups), places, at, found)
    return at[:n].copy(), found[:n].copy()


def select(
    parts: list[tuple[NDArray[np.int32], Array]],
    n: NDArray[np.int64],
    n_nonzero: NDArray[np.int64],
    n_below: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the medians of the values that :func:`collect` found.

    Parameters
    ----------
    parts
        What it returned; emptied as the values are sorted by their places.
    n, n_nonzero, n_below
        For each place: cells, values that are not zero, values below zero.
    """
    starts = np.zeros(len(n) + 1, np.int64)
    np.cumsum(n_nonzero, out=starts[1:])
    at = starts[:-1].copy()
    gathered = np.empty(starts[-1], parts[0][1].dtype)
    while parts:
        _scatter(*parts.pop(), at, gathered)
    return _select(gathered, starts, np.asarray(n), np.asarray(n_below))


def of_block(
    block: Block, groups: NDArray[np.int32], n_groups: int, wanted: Collection[str], dof: int = 1
) -> dict[str, Array]:
    """Return all functions ``wanted`` of one block that holds every cell, each n_groups x n_vars."""
    t = finish(sums(block, groups, n_groups=n_groups, depth=depth_of(wanted)))
    n = np.bincount(groups[groups >= 0], minlength=n_groups)
    out = functions(t, n, wanted, dof)
    if "median" in wanted:
        out["median"], open_ = medians(t, n)
        places, cells, there, below = needed(t, n, open_)
        if len(cells):
            out["median"][open_] = select([collect(block, 0, groups, places=places)], cells, there, below)
    return out


def needed(
    t: Totals, n: NDArray[np.int64], open_: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of medians that are still open (-1 elsewhere) and what :func:`select` wants of each."""
    places = np.full(open_.shape, -1, np.int32)
    places[open_] = np.arange(np.count_nonzero(open_))
    cells = np.broadcast_to(n[:, None], open_.shape)[open_]
    return places, cells, t.nonzero[open_].astype(np.int64), t.below[open_].astype(np.int64)


def _whole_means(block: Block) -> NDArray[np.float64]:
    """Return a whole number near the mean of each gene's non-zeros; 0 where there is none."""
    csr = block if sp.issparse(block) else sp.csr_matrix(block)
    total, there = np.zeros(csr.shape[1]), np.zeros(csr.shape[1])
    _means(values(csr.data), csr.indices, total, there)
    near = np.rint(total / np.maximum(there, 1))
    return np.where(np.isfinite(near), near, 0.0)


@numba.njit(nogil=True, cache=True)
def _means(data: Array, indices: Array, total: Array, there: Array) -> None:
    for k in range(len(data)):
        j = np.uint32(indices[k])
        total[j] += data[k]
        there[j] += data[k] != 0


@numba.njit(nogil=True, cache=True)
def _flush(small: Array, shift: Array, of: Array) -> None:
    """Add one group's small counts to its sums."""
    for j in range(len(small)):
        total, there = (
            np.float64(small[j] & np.uint64(0xFFFFF)),
            np.float64((small[j] >> np.uint64(20)) & np.uint64(0xFFF)),
        )
        squares = np.float64(small[j] >> np.uint64(32))
        small[j] = 0
        of[j, 0] += total - there * shift[j]
        if of.shape[1] > 1:
            of[j, 1] += there
        if of.shape[1] > 2:
            of[j, 2] += squares - shift[j] * (2 * total - there * shift[j])


@numba.njit(nogil=True, cache=True)
def _add_csr(
    data: Array, indices: Array, indptr: Array, order: Array, starts: Array, shift: Array, fields: Array,
    acc: Array, small: Array, n_small: Array,
) -> None:  # fmt: skip
    depth = acc.shape[2]
    for g in range(len(starts) - 1):
        own, packed = acc[g], small[g]
        for r in range(starts[g], starts[g + 1]):
            if n_small[g] == _MOST_CELLS:
                _flush(packed, shift, own)
                n_small[g] = 0
            n_small[g] += 1
            for k in range(indptr[order[r]], indptr[order[r] + 1]):
                c = data[k]
                at = np.uint32(indices[k])  # unsigned: spares numba's test for places counted from the end
                t = np.uint32(c) if 0 <= c < _SMALL else np.uint32(0)
                if t == c:
                    packed[at] += fields[t]
                    continue
                v = np.float64(c)
                d = v - shift[at]
                own[at, 0] += d
                if depth > 1:
                    own[at, 1] += 1
                if depth > 2:
                    own[at, 2] += d * d
                if depth > 3:
                    own[at, 3] += v < 0


@numba.njit(nogil=True, cache=True)
def _add_dense(x: Array, order: Array, starts: Array, shift: Array, acc: Array) -> None:
    depth = acc.shape[2]
    for g in range(len(starts) - 1):
        for r in range(starts[g], starts[g + 1]):
            for j in range(x.shape[1]):
                v = np.float64(x[order[r], j])
                if v == 0:
                    continue
                d = v - shift[j]
                acc[g, j, 0] += d
                if depth > 1:
                    acc[g, j, 1] += 1
                if depth > 2:
                    acc[g, j, 2] += d * d
                if depth > 3:
                    acc[g, j, 3] += v < 0


@numba.njit(nogil=True, cache=True)
def _collect(
    data: Array, indices: Array, indptr: Array, order: Array, groups: Array, places: Array, at: Array, found: Array
) -> int:
    n = 0
    for i in order:
        own = places[groups[i]]
        for k in range(indptr[i], indptr[i + 1]):
            place = own[np.uint32(indices[k])]
            at[n] = place  # written over when it is not kept
            found[n] = data[k]
            n += place >= 0 and data[k] != 0
    return n


@numba.njit(nogil=True, cache=True)
def _scatter(places: Array, found: Array, at: Array, out: Array) -> None:
    for k in range(len(places)):
        out[at[places[k]]] = found[k]
        at[places[k]] += 1


@numba.njit(nogil=True, cache=True)
def _select(gathered: Array, starts: Array, n: Array, n_below: Array) -> Array:
    out = np.empty(len(n))
    for p in range(len(n)):
        own = gathered[starts[p] : starts[p + 1]]
        zeros, total, at = n[p] - len(own), 0.0, -1
        for rank in (n[p] // 2, (n[p] - 1) // 2):
            if n_below[p] <= rank < n_below[p] + zeros:
                continue
            before, at = at, rank if rank < n_below[p] else rank - zeros
            if before == at + 1:  # the largest of those before the upper middle, which are all there
                total += own[:before].max()
            elif before != at:
                own = np.partition(own, at)
                total += own[at]
            else:
                total += own[at]
        out[p] = total / 2
    return out
