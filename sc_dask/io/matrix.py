"""Writing one matrix, shard by shard, in parallel on whatever Dask computes with (see ``layout`` for the plan).

The non-zeros per row must be known first. They are free for a matrix in memory, and for an X that is just as it is
stored; otherwise one pass counts them, and finds the smallest exact type on the way when that is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import zarr

from sc_dask.array import run
from sc_dask.array.blocks import ForeignSource, RowBlocks, each_block, evaluate_block, from_source
from sc_dask.array.chunks import cut_dense, cut_rows, default_block_bytes
from sc_dask.array.expr import BlockArgs, Plan
from sc_dask.array.source import Block, MemorySource
from sc_dask.errors import StoreError
from sc_dask.io import layout as disk
from sc_dask.io import spill
from sc_dask.io.commit import beside, remove
from sc_dask.io.layout import DenseLayout, SparseLayout
from sc_dask.io.store import Location, open_group
from sc_dask.kernels.csr import nnz_per_row


@dataclass(frozen=True)
class Counts:
    """What must be known of a matrix before it is written."""

    row_nnz: np.ndarray  # int64 of n_obs: stored values a row; of a dense matrix, those that are not 0
    lo: float | int
    hi: float | int
    whole: bool  # every value is an integer
    total: float | int  # exact for integers

    def as_dict(self) -> dict[str, Any]:
        """Return all but the rows, as JSON holds it."""
        return {"lo": self.lo, "hi": self.hi, "whole": self.whole, "total": self.total}


def _count_block(block: Block, index: int) -> tuple[np.ndarray, Any, Any, bool, Any]:
    values = block.data if sp.issparse(block) else block
    if not values.size:
        return nnz_per_row(block), 0, 0, True, 0
    lo, hi = values.min().item(), values.max().item()
    return nnz_per_row(block), lo, hi, spill.whole_numbers(values), disk.exact_sum(values)


def count(x: RowBlocks) -> Counts:
    """Count stored values per row and look at the values. Passes: 1."""
    parts = run.compute(each_block(_count_block, x), label="count")
    rows, lows, highs, whole, totals = zip(*parts, strict=True)
    return Counts(np.concatenate(rows), min(lows), max(highs), all(whole), sum(totals))


def narrowest(counts: Counts, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the smallest integer type that holds all values exactly (unsigned first), or ``dtype`` when none does."""
    if not counts.whole or dtype.kind not in "iuf":
        return dtype
    kinds = ("uint8", "uint16", "uint32", "uint64") if counts.lo >= 0 else ("int8", "int16", "int32", "int64")
    for kind in kinds:
        limits = np.iinfo(kind)
        if limits.min <= counts.lo and counts.hi <= limits.max:
            return np.dtype(kind)
    return dtype


def stored_row_nnz(x: RowBlocks) -> np.ndarray | None:
    """Return the stored values per row where no pass is needed to know them, else None.

    A matrix whose stored rows hold a column twice has fewer once read; the writer notices and counts.
    """
    source = x.expr.source
    if x.expr.steps or not x.expr.is_sparse:
        return None
    if isinstance(source, MemorySource):
        csr: Any = source.x
        row_nnz = np.diff(csr.indptr).astype(np.int64)
    elif hasattr(source, "opened"):  # a stored csr: its indptr is one small array
        row_nnz = np.diff(source.opened().rows(0, source.shape[0]))
    else:
        return None
    return row_nnz if x.expr.rows is None else row_nnz[x.expr.rows]


# -- one shard is one task -----------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """Where a matrix goes; shared by its tasks."""

    location: Location
    path: str
    layout: SparseLayout | DenseLayout
    resume: bool  # leave shards that are there and whole


@dataclass(frozen=True, eq=False)
class Piece:
    """A range of rows that overlaps a shard: how to make it, and how many values it must have."""

    args: BlockArgs
    block: Block | None  # of a matrix in memory
    nnz: int


@dataclass(frozen=True, eq=False)
class ShardTask:
    """What one task does; ``first`` is the number of the first non-zero (or row) of its pieces."""

    shard: int
    first: int
    pieces: tuple[Piece, ...]


class _Miscounted(Exception):
    """A block has other stored values than its indptr says: duplicates were summed."""


def _open(target: Target) -> Any:
    return open_group(target.location, mode="r+", use_consolidated=False)[target.path]


def put_sparse_shard(task: ShardTask, shared: tuple[Plan, Target]) -> float | int | None:
    """Make and write one shard of a csr matrix; return the sum of its values, or None if it was there already."""
    plan, target = shared
    layout = target.layout
    assert isinstance(layout, SparseLayout)
    group = _open(target)
    if target.resume:
        arrays = [group[name] for name in ("data", "indices")]
        if all(is_stored(array, task.shard) for array in arrays):
            return None
        for array in arrays:
            forget(array, task.shard)
    lo, hi = layout.span(task.shard)
    data, indices = np.empty(hi - lo, layout.dtype), np.empty(hi - lo, np.int32)
    at = task.first
    for piece in task.pieces:
        block = evaluate_block(plan, piece.args, piece.block)
        if block.nnz != piece.nnz:
            raise _Miscounted
        a, z = max(at, lo), min(at + block.nnz, hi)
        data[a - lo : z - lo] = block.data[a - at : z - at]
        indices[a - lo : z - lo] = block.indices[a - at : z - at]
        at += block.nnz
    disk.put_sparse(group, layout, task.shard, data, indices)
    return disk.exact_sum(data)


def put_dense_shard(task: ShardTask, shared: tuple[Plan, Target]) -> float | int | None:
    """Make and write one shard of a dense matrix; return the sum of its values, or None if it was there already."""
    plan, target = shared
    layout = target.layout
    assert isinstance(layout, DenseLayout)
    array = _open(target)
    if target.resume:
        if is_stored(array, task.shard):
            return None
        forget(array, task.shard)
    lo, hi = layout.span(task.shard)
    rows = np.empty((hi - lo, layout.shape[1]), layout.dtype)
    at = 0
    for piece in task.pieces:
        block = evaluate_block(plan, piece.args, piece.block)
        rows[at : at + len(block)] = block
        at += len(block)
    disk.put_dense(array, layout, task.shard, rows)
    return disk.exact_sum(rows)


def is_stored(array: zarr.Array[Any], shard: int) -> bool:
    """Return whether a shard is there and whole: it exists, and its index and last chunk pass their checksums."""
    from zarr.core.sync import sync

    if not sync(array.store.exists(_key(array, shard))):
        return False
    last = min(array.shape[0], (shard + 1) * (array.shards or array.chunks)[0]) - 1
    try:
        array[last]
    except (ValueError, RuntimeError, OSError, EOFError):
        return False
    return True


def forget(array: zarr.Array[Any], shard: int) -> None:
    """Remove a shard that may be torn: zarr reads what is there before it writes, and would stumble over it."""
    from zarr.core.sync import sync

    if sync(array.store.exists(_key(array, shard))):
        sync(array.store.delete(_key(array, shard)))


def _key(array: zarr.Array[Any], shard: int) -> str:
    return f"{array.path}/{disk.chunk_key(array, (shard, *([0] * (array.ndim - 1))))}"


# -- a matrix ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What a matrix became on disk."""

    dtype: str
    n_shards: int
    n_skipped: int  # shards that were there already
    total: float | int | None  # sum of what was written; None if shards were skipped


def write_matrix(
    x: RowBlocks,
    location: Location,
    path: str,
    *,
    dtype: Any = None,
    counts: Counts | None = None,
    resume: bool = False,
    shard_bytes: int = disk.SHARD_BYTES,
    encoding: str = "csr_matrix",
) -> Written:
    """Write a lazy matrix as ``path`` of the zarr v3 store at ``location``.

    Parameters
    ----------
    x
        n_obs x n_vars.
    location, path
        The store, which exists, and where in it.
    dtype
        Type on disk, which must hold the values exactly; default ``x.dtype``.
    counts
        What `count` found; without it a sparse x is counted here where its rows are not known for free.
    resume
        Keep the shards of an interrupted run with the same x, layout and type.
    shard_bytes
        Decoded size of a shard.
    encoding
        ``"csc_matrix"`` when ``x`` is the transpose of the matrix that is meant.

    Passes: 1, and 1 more to count. Memory: a worker holds a shard and a block.
    """
    if isinstance(x.expr.source, ForeignSource):
        aside = beside(location, f"spill-{path.replace('/', '-')}")
        try:
            options = {"dtype": dtype, "counts": counts, "shard_bytes": shard_bytes, "encoding": encoding}
            return write_matrix(spilled(x, aside), location, path, **options)
        finally:
            remove(aside)
    dtype = np.dtype(dtype or x.dtype)
    if not x.expr.is_sparse:
        return _write_dense(x, location, path, dtype, resume, shard_bytes)
    free = None if counts is not None else stored_row_nnz(x)
    row_nnz = free if free is not None else (counts or count(x)).row_nnz
    try:
        return _write_sparse(x, location, path, dtype, row_nnz, resume, shard_bytes, encoding)
    except _Miscounted as e:
        if free is None:
            raise StoreError(f"{path} had other values when it was read again", "a source that stays as it is") from e
    return _write_sparse(x, location, path, dtype, count(x).row_nnz, False, shard_bytes, encoding)


def _write_sparse(
    x: RowBlocks,
    location: Location,
    path: str,
    dtype: np.dtype[Any],
    row_nnz: np.ndarray,
    resume: bool,
    shard_bytes: int,
    encoding: str,
) -> Written:
    indptr = np.concatenate([[0], np.cumsum(row_nnz, dtype=np.int64)])
    layout = disk.sparse_layout(x.shape, int(indptr[-1]), dtype, shard_bytes)
    root = open_group(location, mode="r+", use_consolidated=False)
    resume = resume and disk.has_sparse(root, path, layout)
    if not resume:
        disk.create_sparse(root, path, layout, indptr, encoding)
    tasks = []
    for shard in range(layout.n_shards):
        start, stop = layout.rows(shard, indptr)
        bounds = start + cut_rows(indptr[start : stop + 1], default_block_bytes())
        pieces = _pieces(x, bounds, indptr)
        tasks.append(ShardTask(shard, int(indptr[start]), pieces))
    return _run(put_sparse_shard, tasks, x, Target(location, path, layout, resume))


def _write_dense(
    x: RowBlocks, location: Location, path: str, dtype: np.dtype[Any], resume: bool, shard_bytes: int
) -> Written:
    layout = disk.dense_layout(x.shape, dtype, shard_bytes)
    root = open_group(location, mode="r+", use_consolidated=False)
    resume = resume and disk.has_dense(root, path, layout)
    if not resume:
        disk.create_dense(root, path, layout)
    tasks = []
    if x.shape[1]:
        for shard in range(layout.n_shards):
            start, stop = layout.span(shard)
            bounds = start + cut_dense(stop - start, x.shape[1], x.dtype.itemsize, default_block_bytes())
            tasks.append(ShardTask(shard, start, _pieces(x, bounds, None)))
    return _run(put_dense_shard, tasks, x, Target(location, path, layout, resume))


def _pieces(x: RowBlocks, bounds: np.ndarray, indptr: np.ndarray | None) -> tuple[Piece, ...]:
    source, out = x.expr.source, []
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        args = x.expr.args(start, stop)
        block = source.read(args.start, args.stop) if isinstance(source, MemorySource) else None
        out.append(Piece(args, block, -1 if indptr is None else int(indptr[stop] - indptr[start])))
    return tuple(out)


def _run(func: Any, tasks: Sequence[ShardTask], x: RowBlocks, target: Target) -> Written:
    plan = x.expr.plan()
    if isinstance(x.expr.source, MemorySource):
        plan = Plan(None, plan.kernels)  # each task has its own rows; the whole matrix need not travel
    sums = run.map_tasks(func, tasks, shared=(plan, target), label="write", n_rows=x.expr.source.shape[0])
    n_skipped = sum(s is None for s in sums)
    return Written(target.layout.dtype, len(tasks), n_skipped, None if n_skipped else sum(sums))


def _save_block(block: Block, index: int, *, location: Location) -> tuple[int, bool]:
    spill.save_block(location, index, block)
    return int(block.shape[0]), sp.issparse(block)


def spilled(x: RowBlocks, location: Location) -> RowBlocks:
    """Set the blocks of an X aside, so that its rows can be read in any ranges. Passes: 1."""
    remove(location)
    found = run.compute(each_block(_save_block, x, location=location), label="spill")
    bounds = np.concatenate([[0], np.cumsum([n for n, _ in found])]).astype(np.int64)
    source = spill.SpillSource(location, bounds, x.shape, np.dtype(x.dtype), x.expr.is_sparse, f"spill-{x.name}")
    return from_source(source, bounds)
