"""What a pass is made of: tasks that read a block, or some, run their steps and add to their lane's carry.

Several lazy matrices over the same rows of one source (counts, their logarithms, a few genes of them) share a pass: a
block is read once and goes through the steps of each in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil
from dask.base import tokenize

from sc_dask.array.blocks import Lazy, RowBlocks
from sc_dask.array.expr import BlockArgs, Plan, RowVector, read_block, run_steps
from sc_dask.array.join import Sheet, join
from sc_dask.array.layer import ForeignSource
from sc_dask.array.source import METER, MemorySource
from sc_dask.outside.dask import fused


@dataclass(frozen=True)
class Item:
    """A value that Dask passes on without looking into it for tasks."""

    value: Any


@dataclass
class Carry:
    """What a lane has learnt so far."""

    states: tuple[Any, ...]
    parts: list[tuple[int, dict[Any, Any]]] = field(default_factory=list)
    rows: int = 0
    n_bytes: int = 0
    rss: int = 0


@dataclass(frozen=True)
class Output:
    """One thing that a pass makes of every block."""

    kernel: Any  # a Reduction, or a function of a block
    kind: str
    const: dict[str, Any]
    depth: int  # steps that it wants done; before the last one, it wants that one's row vectors too
    sheet: Sheet | None  # of one that gives rows, where all tasks share memory


@dataclass(frozen=True)
class Recipe:
    """What all tasks of a pass share: the steps of each matrix, and what each output wants of which matrix."""

    plans: tuple[Plan, ...]  # the first one holds the source
    outputs: tuple[tuple[Output, ...], ...]  # of each plan
    bounds: np.ndarray
    in_place: bool  # no task is run twice: a state may be changed instead of copied

    @property
    def every(self) -> list[Output]:
        """Return all outputs, matrix after matrix."""
        return [output for of_x in self.outputs for output in of_x]


def sharing(xs: Iterable[RowBlocks]) -> list[list[RowBlocks]]:
    """Put together what one pass can serve: matrices over the same rows of one source, cut at the same places."""
    distinct = list({x.name: x for x in xs}.values())
    if len(distinct) == 1:
        return [distinct]
    groups: dict[str, list[RowBlocks]] = {}
    for x in distinct:
        groups.setdefault(tokenize(x.expression.source.token, x.expression.bounds, x.expression.rows), []).append(x)
    return list(groups.values())


def describe(xs: Sequence[RowBlocks], lazies: Sequence[Lazy[Any]], in_place: bool, sourceless: bool) -> Recipe:
    """Return what all tasks of a pass over ``xs`` share; ``sourceless``: every task is given its rows."""
    plans = [x.expression.plan() for x in xs]
    plans = [Plan(None if sourceless or i else p.source, p.kernels) for i, p in enumerate(plans)]

    def output(z: Lazy[Any]) -> Output:
        sheet = Sheet(z.x.shape[0]) if in_place and z.kind == "rows" else None
        return Output(z.kernel, z.kind, dict(z.const), len(z.x.expression.steps) - z.ahead, sheet)

    outputs = tuple(tuple(output(z) for z in lazies if z.x.name == x.name) for x in xs)
    return Recipe(tuple(plans), outputs, xs[0].expression.bounds, in_place)


def several(carry: Carry | None, recipe: Recipe, blocks: Item) -> Carry:
    """Add blocks one after the other: (index, args, vectors) of each, as `step` takes them.

    The first makes a new state, which the others may change: nobody else has seen it.
    """
    first, *others = blocks.value
    carry = step(carry, recipe, *first)
    own = replace(recipe, in_place=True)
    for block in others:
        carry = step(carry, own, *block)
    return carry


def step(carry: Carry | None, recipe: Recipe, index: int, args: Item, vectors: Item, block: Any = None) -> Carry:
    """Read block ``index`` and add it to the carry (a new one: the old may be needed again after a lost worker).

    ``args``: the arguments of every matrix's steps; ``vectors``: those of every output. ``block``: what a foreign
    source has read, or an `Item` with a source of just these rows.
    """
    many: tuple[BlockArgs, ...] = args.value
    plan, first = recipe.plans[0], many[0]
    if isinstance(block, Item):
        plan, block = Plan(block.value, plan.kernels), None
        first = replace(first, start=0, stop=first.stop - first.start)
    block = read_block(plan, first, block)
    states: list[Any] = []
    part: dict[Any, Any] = {}
    for x, (own_plan, own_args, outputs) in enumerate(zip(recipe.plans, many, recipe.outputs, strict=True)):
        seen, found = run_steps(own_plan, own_args, frozenset(o.depth for o in outputs), block)
        part |= {("found", x, *k): v for k, v in found.items()}
        for output, own_rows in zip(outputs, vectors.value[x], strict=True):
            done, step_rows = seen[output.depth]
            i = len(states)
            before = carry.states[i] if carry else None
            state, given = _add(output, recipe, before, index, done, (*step_rows, *own_rows))
            if given is not None:
                part["out", i] = given[0]
            states.append(state)
    read = METER.empty()
    rss = psutil.Process().memory_info().rss
    old = carry or Carry(())
    parts = [*old.parts, (index, part)] if part else old.parts
    return Carry(tuple(states), parts, old.rows + read.rows, old.n_bytes + read.n_bytes, max(old.rss, rss))


def _add(
    output: Output, recipe: Recipe, state: Any, index: int, block: Any, rows: tuple[Any, ...]
) -> tuple[Any, tuple[Any] | None]:
    """Return an output's new state, and what it gives for this block (in a tuple) unless that is written already."""
    kernel, const = output.kernel, output.const
    if output.kind in ("reduce", "fold"):
        update = kernel.absorb if recipe.in_place and kernel.absorb is not None else kernel.update
        if state is not None and update is not None:
            return update(state, block, *rows, **const), None
        new = kernel.block(block, *rows, **const)
        return (new if state is None else kernel.merge(state, new)), None
    if output.kind == "scan":
        given, new = kernel.block(block, *rows, **const)
        return (new if state is None else kernel.merge(state, new)), (given,)
    if output.kind == "rows":
        given = kernel(block, *rows, **const)
        if output.sheet is not None and output.sheet.takes(given, int(recipe.bounds[index])):
            return None, None
        return None, (given,)
    return None, (kernel(block, index, *rows, **const),)


def merge_lanes(recipe: Recipe, *carries: Carry) -> Carry:
    """Return what all lanes have learnt."""
    states = []
    for i, output in enumerate(recipe.every):
        state = None
        if output.kind in ("reduce", "fold", "scan"):
            state = carries[0].states[i]
            for other in carries[1:]:
                state = output.kernel.merge(state, other.states[i])
        states.append(state)
    parts = sorted((p for c in carries for p in c.parts), key=lambda p: p[0])
    rows, n_bytes = sum(c.rows for c in carries), sum(c.n_bytes for c in carries)
    return Carry(tuple(states), parts, rows, n_bytes, max(c.rss for c in carries))


def without_parts(carry: Carry) -> Carry:
    """Return what a lane has learnt, less what it has for single blocks."""
    return replace(carry, parts=[])


def parts_of(carry: Carry) -> list[tuple[int, dict[Any, Any]]]:
    """Return what a lane has for single blocks."""
    return carry.parts


def part_keys(name: str, lanes: np.ndarray) -> list[Any]:
    """Return the keys of what lanes have for single blocks, where a graph keeps that apart."""
    return [(f"{name}-part", lane) for lane in range(int(lanes.max()) + 1)]


def settle(recipe: Recipe, carry: Carry, lanes: Iterable[list[tuple[int, dict[Any, Any]]]]) -> None:
    """Write what lanes have for single blocks into the sheets as it comes, and keep the rest with the carry."""
    sheets = [(("out", i), o.sheet) for i, o in enumerate(recipe.every) if o.sheet]
    for parts in lanes:
        for index, part in parts:
            for key, sheet in sheets:
                if sheet.takes(part.get(key), int(recipe.bounds[index])):
                    del part[key]
            if part:
                carry.parts.append((index, part))
    carry.parts.sort(key=lambda p: p[0])


def answers(recipe: Recipe, carry: Carry) -> list[Any]:
    """Return the answer of each output, matrix after matrix."""
    found = []
    for i, output in enumerate(recipe.every):
        if output.kind in ("reduce", "fold"):
            found.append(output.kernel.finalize(carry.states[i]))
        elif output.sheet is not None and output.sheet.array is not None:
            found.append(output.sheet.array)
        else:
            parts = [p["out", i] for _, p in carry.parts]
            if output.kind == "scan":
                found.append((join(parts), output.kernel.finalize(carry.states[i])))
            else:
                found.append(parts if output.kind == "blocks" else join(parts))
    return found


def deal(n_blocks: int, slots: Sequence[str]) -> np.ndarray:
    """Return the lane of every block: each worker takes a run of blocks, and its lanes take turns.

    A chunk that neighbouring blocks share is then decoded once, in the process of both. ``slots``: the worker of
    each lane, those of one worker side by side, not more than blocks.
    """
    cuts = [i for i in range(1, len(slots)) if slots[i] != slots[i - 1]]
    edges = np.array([0, *cuts, len(slots)])
    bounds = edges * n_blocks // len(slots)
    runs = zip(edges[:-1], np.diff(edges), np.diff(bounds), strict=True)
    return np.concatenate([first + np.arange(n) % n_lanes for first, n_lanes, n in runs])


def graph(
    name: str,
    xs: Sequence[RowBlocks],
    recipe: Recipe,
    rows: list[list[tuple[np.ndarray, ...]]],
    lanes: np.ndarray,
    *,
    per_task: int = 1,
    apart: bool = False,
) -> dict[Any, Any]:
    """Return the tasks of a pass: blocks go to their lanes, ``<name>-end`` merges them.

    ``rows``: the row vectors of every output, for every matrix. Where the recipe has no source, a task takes its
    rows along: from a Dask graph of somebody else's, or from a matrix in memory that not every worker needs whole.
    Otherwise a task may take several blocks of its lane, and is called after the first. ``apart``: what lanes have
    for single blocks stays with them, for `part_keys`, so that no worker ever holds all rows.
    """
    expr = xs[0].expression
    dsk: dict[Any, Any] = {f"{name}-recipe": recipe}
    last: list[Any] = [None] * (int(lanes.max()) + 1)
    waiting: list[list[Any]] = [[] for _ in last]
    for i in range(expr.n_blocks):
        start, stop = int(expr.bounds[i]), int(expr.bounds[i + 1])
        first, *others = (x.expression.args(start, stop) for x in xs)
        args = (first, *(replace(a, given=None) for a in others))  # rows are made once
        vectors = tuple(tuple(tuple(r[start:stop] for r in of_one) for of_one in of_x) for of_x in rows)
        key, lane = (name, i), int(lanes[i])
        if per_task > 1:
            waiting[lane].append((i, Item(args), Item(vectors)))
            if len(waiting[lane]) == per_task:
                _add_several(dsk, name, last, waiting, lane)
            continue
        task: tuple[Any, ...] = (step, last[lane], f"{name}-recipe", i, Item(args), Item(vectors))
        if isinstance(expr.source, ForeignSource):
            task = (*task, expr.source.key(args[0]))
        elif recipe.plans[0].source is None:
            task = (*task, Item(MemorySource(expr.source.read(args[0].start, args[0].stop), "")))
        dsk[key] = task
        last[lane] = key
    for lane in range(len(last)):
        _add_several(dsk, name, last, waiting, lane)
    if apart:
        for lane, key in enumerate(part_keys(name, lanes)):
            dsk[key] = (parts_of, last[lane])
            dsk[f"{name}-state", lane] = (without_parts, last[lane])
            last[lane] = (f"{name}-state", lane)
    dsk[f"{name}-end"] = (merge_lanes, f"{name}-recipe", *last)
    if isinstance(expr.source, ForeignSource):
        dsk = fused(expr.source.array, dsk, {(name, i): dsk[name, i] for i in range(expr.n_blocks)})
    return dsk


def _add_several(dsk: dict[Any, Any], name: str, last: list[Any], waiting: list[list[Any]], lane: int) -> None:
    """Make a task of the blocks that wait in a lane."""
    if waiting[lane]:
        key = (name, waiting[lane][0][0])
        dsk[key] = (several, last[lane], f"{name}-recipe", Item(waiting[lane]))
        last[lane], waiting[lane] = key, []


def keep_found(xs: Sequence[RowBlocks], carry: Carry) -> None:
    """Keep row vectors that steps had to take from their blocks: the next user of this X knows them."""
    for at, x in enumerate(xs):
        wanted = [(i, j, r) for i, s in enumerate(x.expression.steps) for j, r in enumerate(s.rows) if r.values is None]
        for i, j, vector in wanted:
            key = ("found", at, i, j)
            pieces = [part[key] for _, part in carry.parts if key in part]
            if pieces and sum(len(p) for p in pieces) == x.shape[0]:
                assert isinstance(vector, RowVector)
                vector.found(np.concatenate(pieces))
