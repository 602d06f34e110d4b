"""Sums of outer products of the cells, and the projection on components: what PCA needs of one block.

Genes that most cells have and genes that few cells have are multiplied in different ways. The frequent ones are made
dense and multiplied by BLAS; of the others only the non-zeros are touched: each is multiplied with the dense values and
the other non-zeros of its cell. Of 2,000 highly variable genes at 410 non-zeros a cell that is half the work of a dense
product, and less still for shallower cells (`_n_frequent` weighs them).

Frequent genes are taken about a shift near their mean, so float32 tiles lose nothing to large means; the others need
none, because most of their values are zeros. Tiles are added up in float64, and states of different shifts are merged
by Chan, Golub and LeVeque (1983). BLAS runs on as many threads as the caller allows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.csr import Array, Block, gather_rows, values
from sc_dask.kernels.qc import col_totals

TILE_ROWS = 1024
# relative costs of one multiplication: BLAS, a row of dense values, a pair of non-zeros (measured on one core)
_DENSE, _CROSS, _PAIR = 0.085, 0.28, 3.3
_MIN_SPLIT = 64  # so few genes are all made dense


@dataclass(frozen=True)
class GramState:
    """Number, sums and co-moments of cells: what `finish` makes of a state of :func:`gram`."""

    n: int
    sums: NDArray[np.float64]  # p
    gram: NDArray[np.float64]  # p x p, products of deviations from the mean; upper triangle, the rest is 0


@dataclass(frozen=True)
class Frame:
    """Which of p genes are frequent, and about what their values are taken."""

    place: NDArray[np.int32]  # p: frequent genes have 0 to d - 1, the others d to p - 1, each in the order of the genes
    shift: NDArray[np.float64]  # d
    n_rows: int  # of the cells that decided it


@dataclass(frozen=True)
class SplitState:
    """State of :func:`gram`: sums of products by kind of gene. `finish` puts them together."""

    n: int
    sums: NDArray[np.float64]  # p
    frame: Frame
    dense: NDArray[np.float64]  # d x d, of frequent genes, less their shifts
    cross: NDArray[np.float64]  # (p - d) x d
    pairs: NDArray[np.float64]  # (p - d) x (p - d), upper triangle


def empty_gram(p: int) -> SplitState:
    """Return the state of no cells."""
    return _empty(Frame(np.arange(p, dtype=np.int32), np.zeros(0), 0))


def gram(block: Block, dtype: DTypeLike = np.float32, tile_rows: int = TILE_ROWS) -> SplitState:
    """Return the sums and the products of the columns of one block.

    Parameters
    ----------
    block
        n_obs x p; p is the number of chosen genes.
    dtype
        float32 or float64: precision of the products inside a tile. Tiles are added up in float64.
    tile_rows
        Rows multiplied at a time.

    Memory: ``8 p^2`` bytes for the state, ``itemsize tile_rows p`` while it runs.
    """
    return gram_absorb(empty_gram(block.shape[1]), block, dtype, tile_rows)


def gram_update(
    state: SplitState, block: Block, dtype: DTypeLike = np.float32, tile_rows: int = TILE_ROWS
) -> SplitState:
    """Return ``merge_gram(state, gram(block))`` as a new state."""
    return gram_absorb(_copied(state), block, dtype, tile_rows)


def gram_absorb(
    state: SplitState, block: Block, dtype: DTypeLike = np.float32, tile_rows: int = TILE_ROWS
) -> SplitState:
    """Return the same, in the arrays of ``state``, which is lost."""
    wanted = np.dtype(dtype)
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise InputError(f"found dtype {wanted}", "float32 or float64", "choose one of them")
    n_obs, p = block.shape
    if p != len(state.sums):
        raise InputError(f"found a block of {p} columns", f"{len(state.sums)} as in the state", "select the same genes")
    if n_obs == 0 or p == 0:
        return SplitState(state.n + n_obs, state.sums, state.frame, state.dense, state.cross, state.pairs)
    if n_obs > 2 * state.frame.n_rows:  # too few cells had decided
        state = _reframed(state, _frame_of(block))
    if sp.issparse(block):
        _add_sparse(state, block, wanted, tile_rows)
    else:
        _add_dense(state, block, wanted, tile_rows)
    return SplitState(state.n + n_obs, state.sums, state.frame, state.dense, state.cross, state.pairs)


def merge_gram(a: SplitState, b: SplitState) -> SplitState:
    """Return the state of the cells of both; associative."""
    a, b = (b, a) if a.frame.n_rows < b.frame.n_rows else (a, b)
    return merge_gram_inplace(_copied(a), b)


def merge_gram_inplace(a: SplitState, b: SplitState) -> SplitState:
    """Return the same, in the arrays of one of the states, which is lost."""
    a, b = (b, a) if a.frame.n_rows < b.frame.n_rows else (a, b)
    if a.n == 0 or b.n == 0:
        return b if a.n == 0 else a
    if np.array_equal(a.frame.place, b.frame.place) and np.array_equal(a.frame.shift, b.frame.shift):
        for name in ("dense", "cross", "pairs"):
            np.add(getattr(a, name), getattr(b, name), out=getattr(a, name))
    else:
        _refold_into(a, b)
    np.add(a.sums, b.sums, out=a.sums)
    return SplitState(a.n + b.n, a.sums, a.frame, a.dense, a.cross, a.pairs)


def _copied(state: SplitState) -> SplitState:
    return SplitState(
        state.n, state.sums.copy(), state.frame, state.dense.copy(), state.cross.copy(), state.pairs.copy()
    )


def finish(state: SplitState) -> GramState:
    """Return the sums and co-moments of all cells of a state, genes in their own order."""
    p = len(state.sums)
    total = np.zeros((p, p))
    if state.n:
        frame = state.frame
        _unfold(frame.place, state.dense, state.cross, state.pairs, _moved(state.sums, state.n, frame), state.n, total)
    return GramState(state.n, state.sums, total)


def covariance(state: GramState) -> NDArray[np.float64]:
    """Return the covariance of the columns over ``n - 1``, p x p, full and symmetric.

    Raises
    ------
    InputError
        There are fewer than two cells.
    """
    if state.n < 2:
        raise InputError(f"found {state.n} cells", "at least 2", "keep more cells")
    return _full(state.gram, np.zeros_like(state.sums), 1.0 / (state.n - 1))


def second_moment(state: GramState) -> NDArray[np.float64]:
    """Return the mean of ``x x^T`` over the cells (no centring), p x p, full and symmetric.

    Raises
    ------
    InputError
        There are no cells.
    """
    if state.n < 1:
        raise InputError("found no cells", "at least 1", "keep more cells")
    return _full(state.gram, state.sums / np.sqrt(state.n), 1.0 / state.n)


def project(
    block: Block,
    components: NDArray[Any],
    offset: NDArray[np.float64] | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Return ``block @ components - offset``, n_obs x k, summed in float64.

    Parameters
    ----------
    block
        n_obs x p.
    components
        p x k; float32 takes half the time, because half as much has to come from memory.
    offset
        k, for instance ``mean @ components``; None: 0.
    dtype
        Type of the result; None: float64 for float64 and float32 for everything else.
    """
    wanted = np.dtype(dtype if dtype is not None else np.float64 if block.dtype == np.float64 else np.float32)
    components = np.ascontiguousarray(components, np.float32 if components.dtype == np.float32 else np.float64)
    if components.shape[0] != block.shape[1]:
        raise InputError(
            f"found components of {components.shape[0]} genes",
            f"{block.shape[1]} as in the block",
            "select the same genes",
        )
    minus = np.zeros(components.shape[1]) if offset is None else np.asarray(offset, np.float64)
    if not sp.issparse(block):
        return (block.astype(np.float64, copy=False) @ components - minus).astype(wanted, copy=False)
    out = np.tile(-minus, (block.shape[0], 1))
    gather_rows(values(block.data), block.indices, block.indptr, components, out)
    return out.astype(wanted, copy=False)


def _full(upper: Array, added: Array, scale: float) -> Array:
    """Return ``scale * (upper + added added^T)``, mirrored."""
    out = (np.outer(added, added) + upper) * scale
    _mirror(out)
    return out


@numba.njit(nogil=True, cache=True)
def _mirror(x: Array) -> None:
    for i in range(len(x)):
        for j in range(i):
            x[i, j] = x[j, i]


def _empty(frame: Frame) -> SplitState:
    p, d = len(frame.place), len(frame.shift)
    return SplitState(0, np.zeros(p), frame, np.zeros((d, d)), np.zeros((p - d, d)), np.zeros((p - d, p - d)))


def _frame_of(block: Block) -> Frame:
    """Decide by one block which genes are frequent."""
    n_obs, p = block.shape
    if sp.issparse(block):
        per_gene = np.bincount(block.indices, minlength=p) / n_obs
        order = np.argsort(-per_gene, kind="stable")
        frequent = np.zeros(p, np.bool_)
        frequent[order[: _n_frequent(per_gene[order])]] = True
    else:
        frequent = np.ones(p, np.bool_)
    place = np.empty(p, np.int32)
    place[np.argsort(~frequent, kind="stable")] = np.arange(p, dtype=np.int32)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = (col_totals(block)[frequent] / n_obs).astype(np.float32)  # exact in a tile of either type
    return Frame(place, np.where(np.isfinite(mean), mean, 0.0).astype(np.float64), n_obs)


def _n_frequent(per_gene: NDArray[np.float64]) -> int:
    """Return how many genes to make dense, given the share of cells that have each, highest first."""
    p = len(per_gene)
    if p <= _MIN_SPLIT:
        return p
    rest = np.append(per_gene[::-1].cumsum()[::-1], 0.0)  # non-zeros a cell beyond the first d genes
    d = np.arange(p + 1)
    cost = _DENSE * d**2 / 2 + _CROSS * d * rest + _PAIR * rest**2 / 2
    return int(cost.argmin())


def _moved(sums: Array, n: int, frame: Frame) -> Array:
    """Return the sums of the values less their shifts, by place."""
    by_place = np.empty_like(sums)
    by_place[frame.place] = sums
    by_place[: len(frame.shift)] -= n * frame.shift
    return by_place


def _reframed(state: SplitState, frame: Frame) -> SplitState:
    out = _empty(frame)
    if not state.n:
        return out
    _refold_into(out, state)
    return SplitState(state.n, state.sums, frame, out.dense, out.cross, out.pairs)


def _refold_into(a: SplitState, b: SplitState) -> None:
    """Add the products of ``b`` to those of ``a``, in the frame of ``a``."""
    _refold(
        b.frame.place, b.dense, b.cross, b.pairs, _moved(b.sums, b.n, b.frame),
        a.frame.place, a.dense, a.cross, a.pairs, _moved(b.sums, b.n, a.frame), b.n,
    )  # fmt: skip


def _add_sparse(state: SplitState, block: sp.csr_matrix, dtype: np.dtype[Any], tile_rows: int) -> None:
    n_obs, p = block.shape
    data, d = values(block.data), len(state.frame.shift)
    starts = block.indptr[np.minimum(np.arange(0, n_obs + tile_rows, tile_rows), n_obs)]
    room, rows = int(np.diff(starts).max()), min(tile_rows, n_obs)
    tile, product = np.empty((rows, d), dtype), np.empty((d, d), dtype)
    small = np.uint16 if p <= 2**16 else np.uint32
    rest = np.empty(room, dtype), np.empty(room, small), np.empty(rows, np.int64)  # value, gene, end of row
    by_gene = np.empty(p - d + 1, np.int64), np.empty(room, np.int32), np.empty(room, np.int32)  # start, where, row
    for start in range(0, n_obs, tile_rows):
        part = tile[: min(tile_rows, n_obs - start)]
        _split(data, block.indices, block.indptr, start, state.frame.place, state.frame.shift, part, *rest, *by_gene,
               state.sums)  # fmt: skip
        # numpy sees x^T x and calls BLAS's syrk, with the GIL released (scipy's wrappers hold it)
        np.matmul(part.T, part, out=product)
        np.add(state.dense, product, out=state.dense)
        _multiply(part, *rest, *by_gene, state.cross, state.pairs)


def _add_dense(state: SplitState, block: Array, dtype: np.dtype[Any], tile_rows: int) -> None:
    n_obs, p = block.shape
    d = len(state.frame.shift)
    if d < p:  # a sparse X whose blocks are dense: not ours, but right all the same
        _add_sparse(state, sp.csr_matrix(block), dtype, tile_rows)
        return
    product = np.empty((p, p), dtype)
    for start in range(0, n_obs, tile_rows):
        rows = block[start : start + tile_rows]
        np.add(state.sums, rows.sum(axis=0, dtype=np.float64), out=state.sums)
        part = np.subtract(rows, state.frame.shift, dtype=np.float64).astype(dtype, copy=False)
        np.matmul(part.T, part, out=product)
        np.add(state.dense, product, out=state.dense)


@numba.njit(nogil=True, cache=True)
def _split(
    data: Array, indices: Array, indptr: Array, start: int, place: Array, shift: Array,
    tile: Array, value: Array, gene: Array, ends: Array, starts: Array, where: Array, row_of: Array, sums: Array,
) -> None:  # fmt: skip
    """Fill the dense tile of frequent genes, and list the other non-zeros by row (value, gene) and by gene (where)."""
    rows, d = tile.shape
    n_rest = len(starts) - 1
    base = (-shift).astype(tile.dtype)
    starts[:] = 0
    at = np.uint64(0)
    for i in range(rows):
        tile[i] = base
        for k in range(indptr[start + i], indptr[start + i + 1]):
            j = np.uint32(indices[k])
            r, v = place[j], data[k]
            sums[j] += v
            if r < d:
                tile[i, np.uint32(r)] = v - shift[np.uint32(r)]
            else:
                value[at], gene[at] = v, r - d
                starts[r - d + 1] += 1
                at += np.uint64(1)
        ends[i] = at
    for g in range(n_rest):
        starts[g + 1] += starts[g]
    m = 0
    for i in range(rows):
        while m < ends[i]:
            to = starts[gene[m]]
            where[to], row_of[to] = m, i
            starts[gene[m]] += 1
            m += 1
    for g in range(n_rest, 0, -1):
        starts[g] = starts[g - 1]
    starts[0] = 0


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _multiply(
    tile: Array, value: Array, gene: Array, ends: Array, starts: Array, where: Array, row_of: Array,
    cross: Array, pairs: Array,
) -> None:  # fmt: skip
    """Add the products of each infrequent gene's non-zeros with the dense values and the later genes of their cells.

    Gene by gene, so that what is added to stays in the innermost cache; four cells at a time, because loads are
    what it waits for. Unsigned places spare numba's test for places counted from the end, which keeps loops from SIMD.
    """
    n_rest = len(starts) - 1
    d = np.uint64(tile.shape[1])
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    flat = tile.reshape(-1)
    of_dense, of_pairs = np.zeros(max(tile.shape[1], 1), tile.dtype), np.zeros(max(n_rest, 1), tile.dtype)
    for j in range(n_rest):
        t, stop = np.uint64(starts[j]), np.uint64(starts[j + 1])
        if t == stop:
            continue
        for k in range(d):
            of_dense[k] = 0
        of_pairs[j:] = 0
        while t + four <= stop:
            u, v, w, x = value[where[t]], value[where[t + one]], value[where[t + two]], value[where[t + three]]
            a, b = np.uint64(row_of[t]) * d, np.uint64(row_of[t + one]) * d
            c, e = np.uint64(row_of[t + two]) * d, np.uint64(row_of[t + three]) * d
            for k in range(d):
                of_dense[k] += u * flat[a + k] + v * flat[b + k] + w * flat[c + k] + x * flat[e + k]
            t += four
        while t < stop:
            u, a = value[where[t]], np.uint64(row_of[t]) * d
            for k in range(d):
                of_dense[k] += u * flat[a + k]
            t += one
        for m in range(np.uint64(starts[j]), stop):
            first = np.uint64(where[m])
            u = value[first]
            for q in range(first, np.uint64(ends[np.uint64(row_of[m])])):
                of_pairs[gene[q]] += u * value[q]
        for k in range(d):
            cross[j, k] += of_dense[k]
        for k in range(j, n_rest):
            pairs[j, k] += of_pairs[k]


@numba.njit(nogil=True, cache=True)
def _unfold(place: Array, dense: Array, cross: Array, pairs: Array, moved: Array, n: int, out: Array) -> None:
    p, d = len(place), len(dense)
    for i in range(p):
        a = place[i]
        for j in range(i, p):
            b = place[j]  # of two genes of a kind, the later one has the later place
            if b < d:
                v = dense[a, b] if a < d else cross[a - d, b]
            else:
                v = cross[b - d, a] if a < d else pairs[a - d, b - d]
            out[i, j] = v - moved[a] * (moved[b] / n)


@numba.njit(nogil=True, cache=True)
def _refold(
    place: Array, dense: Array, cross: Array, pairs: Array, moved: Array,
    new_place: Array, new_dense: Array, new_cross: Array, new_pairs: Array, new_moved: Array, n: int,
) -> None:  # fmt: skip
    """Add products of deviations from one set of shifts to those from another set, in their order of the genes."""
    p, d, e = len(place), len(dense), len(new_dense)
    for i in range(p):
        a, s = place[i], new_place[i]
        old, new = moved[a] / n, new_moved[s] / n
        for j in range(i, p):
            b, t = place[j], new_place[j]  # of two genes of a kind, the later one has the later place
            if b < d:
                v = dense[a, b] if a < d else cross[a - d, b]
            else:
                v = cross[b - d, a] if a < d else pairs[a - d, b - d]
            v += new * new_moved[t] - old * moved[b]
            if t < e:
                if s < e:
                    new_dense[s, t] += v
                    if s != t:
                        new_dense[t, s] += v
                else:
                    new_cross[s - e, t] += v
            elif s < e:
                new_cross[t - e, s] += v
            else:
                new_pairs[s - e, t - e] += v
