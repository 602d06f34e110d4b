"""What a pass is made of: tasks that reduce one segment of blocks each, and tasks that merge what segments gave.

Several lazy matrices over the same rows of one source (counts, their logarithms, a few genes of them) share a pass: a
block is read once and goes through the steps of each in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
from dask.base import tokenize

from sc_dask import blas
from sc_dask.array.blocks import Lazy, RowBlocks
from sc_dask.array.engine import segments
from sc_dask.array.engine.join import RowOutput, join
from sc_dask.array.expr import BlockArgs, BlockPlan, RowVector, read_block, run_steps
from sc_dask.array.layer import ForeignSource
from sc_dask.array.source import METER, MemorySource
from sc_dask.outside.dask import fused

BlockResults = list[tuple[int, dict[Any, Any]]]  # block number, and what the block gave that is not merged


@dataclass(frozen=True)
class Opaque:
    """A value that Dask passes on without looking into it for tasks."""

    value: Any


@dataclass
class Accumulator:
    """What some blocks gave: a reduction state for each output, results of single blocks, and counters.

    ``rows`` and ``n_bytes`` were read, ``rss`` is the largest resident memory of the process that was seen.
    """

    states: tuple[Any, ...]
    by_block: BlockResults = field(default_factory=list)
    rows: int = 0
    n_bytes: int = 0
    rss: int = 0


@dataclass(frozen=True)
class Output:
    """One thing that a pass computes from every block."""

    kernel: Any  # a Reduction, or a function of a block
    kind: str
    const: dict[str, Any]
    depth: int  # the number of steps done before the kernel sees the block; it gets the next step's row vectors too
    rows: RowOutput | None  # of one result per row, where all tasks share memory


@dataclass(frozen=True)
class PassSpec:
    """What all tasks of a pass share: the steps of each matrix, and the outputs of each matrix."""

    plans: tuple[BlockPlan, ...]  # the first one holds the source
    outputs: tuple[tuple[Output, ...], ...]  # of each plan
    bounds: Any  # row bounds of the blocks
    in_place: bool  # no task is run twice: a state may be changed instead of copied

    @property
    def every(self) -> list[Output]:
        """Return all outputs, matrix after matrix."""
        return [output for of_x in self.outputs for output in of_x]


@dataclass(frozen=True)
class Tasks:
    """The graph of a pass.

    ``blocks`` says how many blocks each task reads, in the order of the blocks; ``end`` is the key of the merged
    accumulator. ``apart`` are keys of results of single blocks that stay on their worker until they are fetched.
    """

    graph: dict[Any, Any]
    end: Any
    blocks: dict[Any, int]
    apart: list[Any]


def sharing(xs: Iterable[RowBlocks]) -> list[list[RowBlocks]]:
    """Group the matrices that one pass can serve: those over the same rows of one source, with the same blocks."""
    distinct = list({x.name: x for x in xs}.values())
    if len(distinct) == 1:
        return [distinct]
    groups: dict[str, list[RowBlocks]] = {}
    for x in distinct:
        groups.setdefault(tokenize(x.expression.source.token, x.expression.bounds, x.expression.rows), []).append(x)
    return list(groups.values())


def describe(xs: Sequence[RowBlocks], lazies: Sequence[Lazy[Any]], in_place: bool, sourceless: bool) -> PassSpec:
    """Return what all tasks of a pass over ``xs`` share; ``sourceless``: every task is given its rows."""
    plans = [x.expression.plan() for x in xs]
    plans = [BlockPlan(None if sourceless or i else p.source, p.kernels) for i, p in enumerate(plans)]

    def output(z: Lazy[Any]) -> Output:
        rows = RowOutput(z.x.shape[0]) if in_place and z.kind == "rows" else None
        return Output(z.kernel, z.kind, dict(z.const), len(z.x.expression.steps) - z.before_last, rows)

    outputs = tuple(tuple(output(z) for z in lazies if z.x.name == x.name) for x in xs)
    return PassSpec(tuple(plans), outputs, xs[0].expression.bounds, in_place)


# -- inside the tasks ----------------------------------------------------------------------------


def add_blocks(acc: Accumulator | None, spec: PassSpec, blocks: Opaque, block: Any = None) -> Accumulator:
    """Add blocks, one after the other, to what is accumulated: (index, args, vectors) of each, as `_add_block` has it.

    What was accumulated before stays as it is, unless the spec allows to change it: after a lost worker it may be
    needed again. ``block``: what a Dask array of somebody else gave, or an `Opaque` with a source of just these rows.
    """
    with blas.one_thread():
        for index, args, vectors in blocks.value:
            acc = _add_block(acc, spec, index, args, vectors, block)
            spec = spec if spec.in_place else replace(spec, in_place=True)  # nobody else has seen the new states
    assert acc is not None
    return acc


def _add_block(
    acc: Accumulator | None, spec: PassSpec, index: int, args: tuple[BlockArgs, ...], vectors: Any, block: Any
) -> Accumulator:
    """Read block ``index``, run the steps of every matrix, and return a new accumulator.

    ``args``: the arguments of every matrix's steps; ``vectors``: the row vectors of every output of every matrix.
    """
    plan, first = spec.plans[0], args[0]
    if isinstance(block, Opaque):
        plan, block = BlockPlan(block.value, plan.kernels), None
        first = replace(first, start=0, stop=first.stop - first.start)
    block = read_block(plan, first, block)
    states: list[Any] = []
    results: dict[Any, Any] = {}
    for x, (own_plan, own_args, outputs) in enumerate(zip(spec.plans, args, spec.outputs, strict=True)):
        seen, found = run_steps(own_plan, own_args, frozenset(o.depth for o in outputs), block)
        results |= {("found", x, *k): v for k, v in found.items()}
        for output, own_rows in zip(outputs, vectors[x], strict=True):
            done, step_rows = seen[output.depth]
            i = len(states)
            before = acc.states[i] if acc else None
            state, result = _add(output, spec, before, index, done, (*step_rows, *own_rows))
            if result is not None:
                results["out", i] = result[0]
            states.append(state)
    read = METER.empty()
    rss = psutil.Process().memory_info().rss
    old = acc or Accumulator(())
    by_block = [*old.by_block, (index, results)] if results else old.by_block
    return Accumulator(tuple(states), by_block, old.rows + read.rows, old.n_bytes + read.n_bytes, max(old.rss, rss))


def _add(
    output: Output, spec: PassSpec, state: Any, index: int, block: Any, rows: tuple[Any, ...]
) -> tuple[Any, tuple[Any] | None]:
    """Return an output's new state, and its result for this block (in a tuple) unless that is written already."""
    kernel, const = output.kernel, output.const
    if output.kind in ("reduce", "fold"):
        in_place = spec.in_place and kernel.update_inplace is not None
        update = kernel.update_inplace if in_place else kernel.updated_copy
        if state is not None and update is not None:
            return update(state, block, *rows, **const), None
        new = kernel.block(block, *rows, **const)
        return (new if state is None else kernel.merge(state, new)), None
    if output.kind == "scan":
        result, new = kernel.block(block, *rows, **const)
        return (new if state is None else kernel.merge(state, new)), (result,)
    if output.kind == "rows":
        result = kernel(block, *rows, **const)
        if output.rows is not None and output.rows.takes(result, int(spec.bounds[index])):
            return None, None
        return None, (result,)
    return None, (kernel(block, index, *rows, **const),)


def merge(spec: PassSpec, a: Accumulator, b: Accumulator) -> Accumulator:
    """Return what the blocks of both gave; those of ``a`` come first."""
    kinds = ("reduce", "fold", "scan")
    with blas.one_thread():
        states = tuple(
            _merge_of(output.kernel, spec.in_place)(s, t) if output.kind in kinds else None
            for output, s, t in zip(spec.every, a.states, b.states, strict=True)
        )
    by_block = a.by_block + b.by_block
    return Accumulator(states, by_block, a.rows + b.rows, a.n_bytes + b.n_bytes, max(a.rss, b.rss))


def _merge_of(kernel: Any, in_place: bool) -> Any:
    return kernel.merge_inplace if in_place and kernel.merge_inplace is not None else kernel.merge


def without_blocks(acc: Accumulator) -> Accumulator:
    """Return the accumulator without results of single blocks."""
    return replace(acc, by_block=[])


def of_blocks(acc: Accumulator) -> BlockResults:
    """Return the results of single blocks."""
    return acc.by_block


# -- the graph -----------------------------------------------------------------------------------


def tasks(
    name: str,
    xs: Sequence[RowBlocks],
    spec: PassSpec,
    rows: list[list[tuple[Any, ...]]],
    *,
    ordered: bool = False,
    apart: bool = False,
) -> Tasks:
    """Return the tasks of a pass: each reduces one segment; the accumulators of segments are merged as a fixed tree.

    Parameters
    ----------
    name
        First part of all keys.
    xs, spec
        The matrices, and what `describe` says of them.
    rows
        The row vectors of every output, for every matrix.
    ordered
        A fold: every segment goes on from the accumulator of the one before.
    apart
        Results of single blocks stay with their segment, so that no worker ever holds those of all rows.

    Where the spec has no source, a task is given its rows, from a Dask graph of somebody else's or from a matrix in
    memory that not every worker needs whole; then it reads one block, and a segment is a chain of tasks.
    """
    expr = xs[0].expression
    bounds = segments.cut(expr.n_blocks)
    graph: dict[Any, Any] = {f"{name}-spec": spec}
    n_blocks: dict[Any, int] = {}
    last: list[Any] = []
    for segment in range(len(bounds) - 1):
        key = last[-1] if ordered and last else None
        blocks = [_block(xs, rows, i) for i in range(int(bounds[segment]), int(bounds[segment + 1]))]
        if spec.plans[0].source is not None:
            graph[name, segment] = (add_blocks, key, f"{name}-spec", Opaque(blocks))
            n_blocks[name, segment] = len(blocks)
            last.append((name, segment))
            continue
        for block in blocks:
            before, key = key, (name, segment, block[0])
            graph[key] = (add_blocks, before, f"{name}-spec", Opaque([block]), _rows_given(expr.source, block[1][0]))
            n_blocks[key] = 1
        last.append(key)
    kept: list[Any] = []
    last = last[-1:] if ordered else last
    if apart:
        for i, key in enumerate(last):
            kept.append((f"{name}-blocks", i))
            graph[kept[-1]] = (of_blocks, key)
            graph[f"{name}-states", i] = (without_blocks, key)
        last = [(f"{name}-states", i) for i in range(len(last))]
    end = _merge_tasks(graph, name, last)
    if isinstance(expr.source, ForeignSource):
        graph = fused(expr.source.array, graph, {key: graph[key] for key in n_blocks})
    return Tasks(graph, end, n_blocks, kept)


def _block(xs: Sequence[RowBlocks], rows: list[list[tuple[Any, ...]]], i: int) -> tuple[int, Any, Any]:
    """Return what a task needs for block ``i``: its number, the arguments of the steps and the outputs' row vectors."""
    bounds = xs[0].expression.bounds
    start, stop = int(bounds[i]), int(bounds[i + 1])
    first, *others = (x.expression.args(start, stop) for x in xs)
    args = (first, *(replace(a, payload=None) for a in others))  # rows are made once
    return i, args, tuple(tuple(tuple(r[start:stop] for r in of_one) for of_one in of_x) for of_x in rows)


def _rows_given(source: Any, args: BlockArgs) -> Any:
    """Return what gives a task its rows: a key of somebody else's graph, or a source of just these rows."""
    if isinstance(source, ForeignSource):
        return source.key(args)
    return Opaque(MemorySource(source.read(args.start, args.stop), ""))


def _merge_tasks(graph: dict[Any, Any], name: str, keys: list[Any]) -> Any:
    """Add the tasks that merge accumulators; return the key of the last."""

    def merge_of(a: Any, b: Any) -> Any:
        key = (f"{name}-merge", len(graph))
        graph[key] = (merge, f"{name}-spec", a, b)
        return key

    return segments.merged(keys, merge_of)


# -- on the driver -------------------------------------------------------------------------------


def collect_rows(spec: PassSpec, acc: Accumulator, of_segments: Iterable[BlockResults]) -> None:
    """Write results of single blocks into the row outputs as they come, and keep the others with the accumulator."""
    outputs = [(("out", i), o.rows) for i, o in enumerate(spec.every) if o.rows]
    own, acc.by_block = acc.by_block, []
    for by_block in itertools.chain([own], of_segments):
        for index, results in by_block:
            for key, rows in outputs:
                if rows.takes(results.get(key), int(spec.bounds[index])):
                    del results[key]
            if results:
                acc.by_block.append((index, results))
    acc.by_block.sort(key=lambda b: b[0])


def answers(spec: PassSpec, acc: Accumulator) -> list[Any]:
    """Return the answer of each output, matrix after matrix."""
    found = []
    for i, output in enumerate(spec.every):
        if output.kind in ("reduce", "fold"):
            found.append(output.kernel.finalize(acc.states[i]))
        elif output.rows is not None and output.rows.array is not None:
            found.append(output.rows.array)
        else:
            results = [r["out", i] for _, r in acc.by_block]
            if output.kind == "scan":
                found.append((join(results), output.kernel.finalize(acc.states[i])))
            else:
                found.append(results if output.kind == "blocks" else join(results))
    return found


def keep_row_vectors(xs: Sequence[RowBlocks], acc: Accumulator) -> None:
    """Keep row vectors that steps had to take from their blocks: the next user of this X knows them."""
    for at, x in enumerate(xs):
        wanted = [(i, j, r) for i, s in enumerate(x.expression.steps) for j, r in enumerate(s.rows) if r.values is None]
        for i, j, vector in wanted:
            key = ("found", at, i, j)
            pieces = [results[key] for _, results in acc.by_block if key in results]
            if pieces and sum(len(p) for p in pieces) == x.shape[0]:
                assert isinstance(vector, RowVector)
                vector.found(join(pieces))
