"""Writing one matrix, shard by shard, in parallel on whatever Dask computes with (see ``layout`` for the plan).

The non-zeros per row and the type on disk must be known first. ``counts`` says them, without a pass where it can; each
task checks them as it goes, and where a block is not as it was said, all is counted and written again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from dask.base import tokenize

from sc_dask.array.blocks import RowBlocks, each_block, from_source
from sc_dask.array.chunks import cut_dense, cut_rows, default_block_bytes
from sc_dask.array.engine import run
from sc_dask.array.expr import BlockArgs, BlockPlan, read_block, run_steps
from sc_dask.array.layer import ForeignSource, evaluate_block
from sc_dask.array.source import Block, MemorySource
from sc_dask.errors import ScDaskError, StoreError
from sc_dask.io.blobs.buffers import BUFFERS
from sc_dask.io.blobs.store import Location, open_group
from sc_dask.io.formats import spill
from sc_dask.io.writing import layout as disk
from sc_dask.io.writing.commit import beside, claim, release
from sc_dask.io.writing.counts import Counts, Forecast, cast_exactly, count_block, counted, forecast, merged
from sc_dask.io.writing.layout import DenseLayout, SparseLayout
from sc_dask.io.writing.shards import Shuffle, decoded, shuffle_for
from sc_dask.price import MIB, Size

# -- one shard is one task -----------------------------------------------------------------------


@dataclass(frozen=True)
class Twin:
    """A matrix of the same pattern that is written from the same blocks: what they are after some steps alone."""

    path: str
    n_steps: int
    dtype: str


@dataclass(frozen=True)
class Target:
    """Where a matrix goes; shared by its tasks."""

    location: Location
    path: str
    layout: SparseLayout | DenseLayout
    resume: bool  # leave shards that are there and whole
    check: bool  # read every shard back
    exact: bool  # the values must fit the type on disk
    attempt: str  # a name that no other attempt has
    twins: tuple[Twin, ...] = ()


@dataclass(frozen=True, eq=False)
class ShardRows:
    """A range of rows that overlaps a shard: how to make it, and how many values it must have."""

    args: BlockArgs
    block: Block | None  # of a matrix in memory
    nnz: int


@dataclass(frozen=True, eq=False)
class ShardTask:
    """What one task does; ``first`` is the number of the first non-zero (or row) of its pieces."""

    shard: int
    first: int
    pieces: tuple[ShardRows, ...]


class _ForecastError(Exception):
    """A block has other stored values than its indptr says, or values that the type on disk does not hold."""


def _open(target: Target, path: str | None = None) -> Any:
    return open_group(target.location, mode="r+", use_consolidated=False)[path or target.path]


_ENDED: deque[str] = deque(maxlen=64)  # attempts that failed in this process: their other tasks need not begin


@dataclass(frozen=True)
class _Failed:
    """An error as a result: it is raised when no task of the attempt runs any more, so that none writes afterwards."""

    error: Exception


def _attempt(item: tuple[Any, ShardTask], shared: tuple[BlockPlan, Target]) -> bool | _Failed | None:
    """Write one shard; None where the attempt has failed already."""
    (put, task), attempt = item, shared[1].attempt
    if attempt in _ENDED:
        return None
    try:
        return bool(put(task, shared))
    except (ScDaskError, _ForecastError) as error:
        _ENDED.append(attempt)
        return _Failed(error)


def put_sparse_shard(task: ShardTask, shared: tuple[BlockPlan, Target]) -> bool:
    """Make and write one shard of a csr matrix; return whether it was there already."""
    plan, target = shared
    layout = target.layout
    assert isinstance(layout, SparseLayout)
    group = _open(target)
    n_minor = layout.shape[1]
    if target.resume and is_stored(group["data"], task.shard) and is_stored(group["indices"], task.shard, n_minor):
        return True
    lo, hi = layout.span(task.shard)
    data, indices = BUFFERS.empty(hi - lo, layout.dtype), BUFFERS.empty(hi - lo, np.int32)
    twins = [BUFFERS.empty(hi - lo, twin.dtype) for twin in target.twins]
    last, at = len(plan.kernels), task.first
    depths = frozenset([last, *(twin.n_steps for twin in target.twins)])
    for piece in task.pieces:
        blocks = run_steps(plan, piece.args, depths, read_block(plan, piece.args, piece.block))[0]
        block = blocks[last][0]
        if block.nnz != piece.nnz:
            raise _ForecastError
        a, z = max(at, lo), min(at + block.nnz, hi)
        _fill(data[a - lo : z - lo], block.data[a - at : z - at], target)
        indices[a - lo : z - lo] = block.indices[a - at : z - at]
        for values, twin in zip(twins, target.twins, strict=True):
            values[a - lo : z - lo] = blocks[twin.n_steps][0].data[a - at : z - at]
        at += block.nnz
    if twins:
        disk.put_alike([group, *(_open(target, t.path) for t in target.twins)], task.shard, [data, *twins], indices)
    else:
        disk.put_sparse(group, layout, task.shard, data, indices, target.check)
    return False


def put_dense_shard(task: ShardTask, shared: tuple[BlockPlan, Target]) -> bool:
    """Make and write one shard of a dense matrix; return whether it was there already."""
    plan, target = shared
    layout = target.layout
    assert isinstance(layout, DenseLayout)
    array = _open(target)
    if target.resume and is_stored(array, task.shard):
        return True
    lo, hi = layout.span(task.shard)
    rows = np.empty((hi - lo, layout.shape[1]), layout.dtype)
    at = 0
    for piece in task.pieces:
        block = evaluate_block(plan, piece.args, piece.block)
        _fill(rows[at : at + len(block)], block, target)
        at += len(block)
    disk.put_dense(array, layout, task.shard, rows, target.check)
    return False


def _fill(out: np.ndarray, values: np.ndarray, target: Target) -> None:
    if not target.exact:
        out[...] = values
    elif not cast_exactly(values, out):
        raise _ForecastError


def is_stored(array: zarr.Array[Any], shard: int, below: int | None = None) -> bool:
    """Return whether a shard is there and whole: all its checksums fit, and its numbers are in ``[0, below)``."""
    try:
        for chunk in decoded(array, shard):
            if below is not None and (chunk.min() < 0 or chunk.max() >= below):
                return False
    except StoreError:
        return False
    return True


# -- a matrix ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What a matrix became on disk."""

    dtype: str
    n_shards: int
    n_skipped: int  # shards that were there already


@dataclass(frozen=True)
class _Wanted:
    """How a matrix is to be written."""

    path: str
    shard_bytes: int
    encoding: str
    resume: bool
    check: bool
    twins: tuple[tuple[str, RowBlocks], ...] = ()


def are_twins(x: RowBlocks, below: RowBlocks) -> bool:
    """Tell whether two sparse matrices have the same pattern, and x is ``below`` after steps that change its values."""
    one, other = x.expression, below.expression
    n = len(other.steps)
    if not (one.is_sparse and other.is_sparse) or isinstance(one.source, ForeignSource) or one.source.read_once:
        return False
    if one.source.token != other.source.token or [s.name for s in one.steps[:n]] != [s.name for s in other.steps]:
        return False
    same_rows = one.rows is other.rows or (
        one.rows is not None and other.rows is not None and np.array_equal(one.rows, other.rows)
    )
    return same_rows and all(step.keeps_pattern for step in one.steps[n:])


def write_twins(
    x: RowBlocks,
    twins: Sequence[tuple[str, RowBlocks]],
    location: Location,
    path: str,
    *,
    shard_bytes: int = disk.SHARD_BYTES,
) -> bool:
    """Write a matrix and its twins (`are_twins`), each in its own type, with one read and their column numbers once.

    Returns False where blocks were not as they were forecast: then each is to be written by itself.

    Passes: as `write_matrix` of x alone. Memory: a worker holds a shard, the values of one for each twin, and a block.
    """
    wanted = _Wanted(path, shard_bytes, "csr_matrix", resume=False, check=False, twins=tuple(twins))
    try:
        _write(x, location, forecast(x, narrow=False, fractions=np.dtype(x.dtype)), wanted)
    except _ForecastError:
        return False
    return True


def shard_memory(size: Size) -> int:
    """Return the bytes of the shards that are made at once."""
    return min(140 * MIB + 90 * MIB * size.streams, int(2.2 * size.decoded))


def twin_memory(size: Size) -> int:
    """Return the bytes of values of a second matrix whose shards are made with them; column numbers are made once."""
    return size.streams * min(disk.SHARD_BYTES // disk.NNZ_BYTES * size.value_bytes, size.decoded)


def write_matrix(
    x: RowBlocks,
    location: Location,
    path: str,
    *,
    narrow: bool = False,
    fractions: Any = None,
    resume: bool = False,
    check: bool = False,
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
    narrow
        Store whole numbers in the smallest exact integer type.
    fractions
        With ``narrow``, the type of all others; default ``x.dtype``.
    resume
        Keep the shards of an interrupted run with the same x and layout.
    check
        Read every shard back and compare it with what was written.
    shard_bytes
        Decoded size of a shard.
    encoding
        ``"csc_matrix"`` when ``x`` is the transpose of the matrix that is meant.

    Passes: 1, and 1 more where `writing.counts` has to count; a source that says ``read_once``, and a Dask graph made
    elsewhere, are read once and spilled. Memory: a worker holds a shard and a block.
    """
    wanted = _Wanted(path, shard_bytes, encoding, resume, check)
    how: dict[str, Any] = {"narrow": narrow, "fractions": np.dtype(fractions or x.dtype)}
    foreign = isinstance(x.expression.source, ForeignSource)
    once = foreign or x.expression.source.read_once
    begun = _begun(x, location, path) if resume and not foreign else None
    aside = beside(location, f"spill-{tokenize(path)}")  # a name as long as a key could be would be too long
    try:
        if once and begun is None:
            x = spilled(x, aside)
        return _write_twice(x, location, begun, how, wanted)
    finally:
        if once:
            release(aside)


def _write_twice(
    x: RowBlocks, location: Location, begun: Forecast | None, how: dict[str, Any], wanted: _Wanted
) -> Written:
    """Write a matrix as it is forecast, and where that was wrong, as it was counted."""
    try:
        return _write(x, location, begun or forecast(x, **how), replace(wanted, resume=begun is not None))
    except _ForecastError:
        told = counted(x, **how)
    try:
        return _write(x, location, told, replace(wanted, resume=False))
    except _ForecastError as e:
        found = f"{wanted.path} had other values when it was read again"
        raise StoreError(found, "a source that stays as it is") from e


def _begun(x: RowBlocks, location: Location, path: str) -> Forecast | None:
    """Return as what an interrupted run was writing a matrix, from its metadata and its indptr."""
    root = open_group(location, mode="r", use_consolidated=False)
    row_nnz = disk.row_nnz(root, path)
    if row_nnz is None:
        return None
    return Forecast(disk.values_of(disk.node_at(root, path)).dtype, row_nnz if x.expression.is_sparse else None)


def _write(x: RowBlocks, location: Location, told: Forecast, wanted: _Wanted) -> Written:
    root = open_group(location, mode="r+", use_consolidated=False)
    func, layout, tasks, resume = (_sparse_tasks if x.expression.is_sparse else _dense_tasks)(x, root, told, wanted)
    exact = told.dtype != x.dtype and told.dtype.kind in "iu"
    twins = tuple(Twin(path, len(y.expression.steps), y.dtype.name) for path, y in wanted.twins)
    target = Target(location, wanted.path, layout, resume, wanted.check, exact, uuid4().hex, twins)
    return _run(func, tasks, x, target)


def _sparse_tasks(x: RowBlocks, root: zarr.Group, told: Forecast, wanted: _Wanted) -> tuple[Any, Any, Any, bool]:
    assert told.row_nnz is not None
    indptr = np.concatenate([[0], np.cumsum(told.row_nnz, dtype=np.int64)])
    layout = disk.sparse_layout(x.shape, int(indptr[-1]), told.dtype, wanted.shard_bytes)
    resume = wanted.resume and disk.has_sparse(root, wanted.path, layout)
    if not resume:
        n_rows = int(np.searchsorted(indptr, layout.chunk_nnz, side="left"))
        disk.create_sparse(root, wanted.path, layout, indptr, wanted.encoding, _shuffle(x, n_rows, told))
        for path, y in wanted.twins:
            own, shuffle = replace(layout, dtype=y.dtype.name), _shuffle(y, n_rows, Forecast(y.dtype, None))
            disk.create_sparse(root, path, own, indptr, wanted.encoding, shuffle)
    tasks = []
    for shard in range(layout.n_shards):
        start, stop = layout.rows(shard, indptr)
        bounds = start + cut_rows(indptr[start : stop + 1], default_block_bytes())
        tasks.append(ShardTask(shard, int(indptr[start]), _pieces(x, bounds, indptr)))
    return put_sparse_shard, layout, tasks, resume


def _dense_tasks(x: RowBlocks, root: zarr.Group, told: Forecast, wanted: _Wanted) -> tuple[Any, Any, Any, bool]:
    layout = disk.dense_layout(x.shape, told.dtype, wanted.shard_bytes)
    resume = wanted.resume and disk.has_dense(root, wanted.path, layout)
    if not resume:
        disk.create_dense(root, wanted.path, layout, _shuffle(x, layout.chunk_rows, told))
    tasks = []
    if x.shape[1]:
        for shard in range(layout.n_shards):
            start, stop = layout.span(shard)
            bounds = start + cut_dense(stop - start, x.shape[1], x.dtype.itemsize, default_block_bytes())
            tasks.append(ShardTask(shard, start, _pieces(x, bounds, None)))
    return put_dense_shard, layout, tasks, resume


def _shuffle(x: RowBlocks, n_rows: int, told: Forecast) -> Shuffle:
    """Return how the values of a matrix are best stored, judged by its first rows; whole numbers are not looked at."""
    if told.dtype.kind != "f":
        return "bitshuffle"
    block = x.evaluator().evaluate(0, min(n_rows, x.shape[0]))
    return shuffle_for((block.data if x.expression.is_sparse else block).astype(told.dtype, copy=False))


def _pieces(x: RowBlocks, bounds: np.ndarray, indptr: np.ndarray | None) -> tuple[ShardRows, ...]:
    source, out = x.expression.source, []
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        args = x.expression.args(start, stop)
        block = source.read(args.start, args.stop) if isinstance(source, MemorySource) else None
        out.append(ShardRows(args, block, -1 if indptr is None else int(indptr[stop] - indptr[start])))
    return tuple(out)


def _run(func: Any, tasks: Sequence[ShardTask], x: RowBlocks, target: Target) -> Written:
    plan = x.expression.plan()
    if isinstance(x.expression.source, MemorySource):
        plan = BlockPlan(None, plan.kernels)  # each task has its own rows; the whole matrix need not travel
    items = [(func, task) for task in tasks]
    found = run.map_tasks(_attempt, items, shared=(plan, target), label="write", n_rows=x.expression.n_source_rows)
    for result in found:
        if isinstance(result, _Failed):
            raise result.error
    return Written(target.layout.dtype, len(tasks), sum(found))


def _save_block(block: Block, index: int, *, location: Location) -> tuple[int, Counts]:
    spill.save_block(location, index, block)
    return int(block.shape[0]), count_block(block)


def spilled(x: RowBlocks, location: Location) -> RowBlocks:
    """Spill the blocks of an X, so that its rows can be read in any ranges. Passes: 1."""
    release(location)
    claim(location)
    found = run.compute(each_block(_save_block, x, location=location), label="spill")
    bounds = np.concatenate([[0], np.cumsum([n for n, _ in found])]).astype(np.int64)
    counts, dtype = merged([c for _, c in found]), np.dtype(x.dtype)
    source = spill.SpillSource(location, bounds, x.shape, dtype, x.expression.is_sparse, f"spill-{x.name}", counts)
    return from_source(source, bounds)
