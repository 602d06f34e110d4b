"""The one place where something is computed: passes over X, with progress, metering and deadlines.

A pass deals the blocks of one X to lanes. A task reads a block, runs its steps and merges what each
output wants of it into the lane's carry; the carries merge at the end. So a block is read once
whatever was asked of it, at most one block per lane is in memory, and no task waits with a block in its hand.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dask
import dask.threaded
import numpy as np
import psutil
from dask.base import get_scheduler
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph

from sc_dask import config
from sc_dask.array.blocks import ForeignSource, Lazy, RowBlocks
from sc_dask.array.expr import BlockArgs, Plan, RowVector, evaluate_at
from sc_dask.array.join import Sheet, join
from sc_dask.array.source import METER, MemorySource
from sc_dask.errors import ScDaskWarning, StalledError
from sc_dask.log import Stage, current_stage, peak_rss_bytes, reset_peak_rss

_POLL_S = 0.5
_counter = 0
_counter_lock = threading.Lock()


def _new_name(label: str) -> str:
    global _counter
    with _counter_lock:
        _counter += 1
        return f"sc-dask-{label}-{os.getpid()}-{_counter}"


@dataclass(frozen=True)
class _Item:
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
class _Outputs:
    """What a pass makes of every block; shared by its tasks."""

    items: tuple[tuple[Any, str, dict[str, Any]], ...]  # kernel or Reduction, kind, const
    depths: tuple[int, ...]  # steps that each wants done; before the last one, it wants that one's row vectors too
    in_place: bool  # no task is run twice: a state may be changed instead of copied
    bounds: np.ndarray
    sheets: tuple[Sheet | None, ...]  # one for each that gives rows, where all tasks share memory


def _step(
    carry: Carry | None,
    plan: Plan,
    outputs: _Outputs,
    index: int,
    args: BlockArgs,
    vectors: _Item,
    block: Any = None,
) -> Carry:
    """Read block ``index`` and add it to the carry (a new one: the old may be needed again after a lost worker)."""
    if isinstance(block, _Item):  # a source of just these rows
        plan, args, block = Plan(block.value, plan.kernels), replace(args, start=0, stop=args.stop - args.start), None
    seen, found = evaluate_at(plan, args, frozenset(outputs.depths), block)
    states: list[Any] = []
    part: dict[Any, Any] = {("found", *k): v for k, v in found.items()}
    for i, ((kernel, kind, const), own_rows) in enumerate(zip(outputs.items, vectors.value, strict=True)):
        block, step_rows = seen[outputs.depths[i]]
        rows = (*step_rows, *own_rows)
        state = carry.states[i] if carry else None
        if kind in ("reduce", "fold"):
            update = kernel.absorb if outputs.in_place and kernel.absorb is not None else kernel.update
            if state is not None and update is not None:
                state = update(state, block, *rows, **const)
            else:
                new = kernel.block(block, *rows, **const)
                state = new if state is None else kernel.merge(state, new)
        elif kind == "scan":
            part["out", i], new = kernel.block(block, *rows, **const)
            state = new if state is None else kernel.merge(state, new)
        elif kind == "rows":
            found_rows, sheet = kernel(block, *rows, **const), outputs.sheets[i]
            if sheet is None or not sheet.takes(found_rows, int(outputs.bounds[index])):
                part["out", i] = found_rows
        else:
            part["out", i] = kernel(block, index, *rows, **const)
        states.append(state)
    read = METER.empty()
    rss = psutil.Process().memory_info().rss
    before = carry or Carry(())
    parts = [*before.parts, (index, part)] if part else before.parts
    return Carry(tuple(states), parts, before.rows + read.rows, before.n_bytes + read.n_bytes, max(before.rss, rss))


def _merge_lanes(outputs: _Outputs, *carries: Carry) -> Carry:
    states = []
    for i, (kernel, kind, _) in enumerate(outputs.items):
        state = None
        if kind in ("reduce", "fold", "scan"):
            state = carries[0].states[i]
            for other in carries[1:]:
                state = kernel.merge(state, other.states[i])
        states.append(state)
    parts = sorted((p for c in carries for p in c.parts), key=lambda p: p[0])
    rows, n_bytes = sum(c.rows for c in carries), sum(c.n_bytes for c in carries)
    return Carry(tuple(states), parts, rows, n_bytes, max(c.rss for c in carries))


def compute(*lazies: Lazy[Any], label: str = "pass") -> Any:
    """Make what was described: one pass over each distinct X, in the order given.

    Parameters
    ----------
    *lazies
        Results of the verbs in ``blocks``.
    label
        A word for progress displays.

    Returns
    -------
    The answer, or a tuple of answers in the order of the arguments.
    """
    groups: dict[str, list[int]] = {}
    for i, lazy in enumerate(lazies):
        groups.setdefault(f"{lazy.x.name}{'-fold' if lazy.kind == 'fold' else ''}", []).append(i)
    answers: list[Any] = [None] * len(lazies)
    for members in groups.values():
        for i, answer in zip(members, _one_pass([lazies[i] for i in members], label), strict=True):
            answers[i] = answer
    return answers[0] if len(answers) == 1 else tuple(answers)


def _one_pass(lazies: Sequence[Lazy[Any]], label: str) -> list[Any]:
    x = lazies[0].x
    n_steps, shared = len(x.expr.steps), _shares_memory()
    outputs = _Outputs(
        tuple((z.kernel, z.kind, dict(z.const)) for z in lazies),
        tuple(n_steps - z.ahead for z in lazies),
        in_place=shared,
        bounds=x.expr.bounds,
        sheets=tuple(Sheet(x.shape[0]) if shared and z.kind == "rows" else None for z in lazies),
    )
    n_lanes = 1 if lazies[0].kind == "fold" else max(1, min(x.expr.n_blocks, n_workers()))
    name = _new_name(label)
    dsk = _pass_graph(name, x, outputs, [z.rows for z in lazies], n_lanes)
    carry: Carry = _execute(dsk, name, f"{name}-end", x.expr.n_blocks, label, n_lanes)
    _record(carry.rows, carry.n_bytes, carry.rss, x.expr.source.shape[0])
    _keep_found(x, carry)
    answers = []
    for i, z in enumerate(lazies):
        if z.kind in ("reduce", "fold"):
            answers.append(z.kernel.finalize(carry.states[i]))
            continue
        sheet = outputs.sheets[i]
        if sheet is not None and sheet.array is not None:
            answers.append(sheet.array)
            continue
        parts = [p["out", i] for _, p in carry.parts]
        if z.kind == "scan":
            answers.append((join(parts), z.kernel.finalize(carry.states[i])))
        else:
            answers.append(parts if z.kind == "blocks" else join(parts))
    return answers


def _pass_graph(
    name: str, x: RowBlocks, outputs: _Outputs, rows: list[tuple[np.ndarray, ...]], n_lanes: int
) -> dict[Any, Any]:
    expr = x.expr
    foreign = expr.source if isinstance(expr.source, ForeignSource) else None
    # a matrix in memory need not go to every worker: each task takes its rows along
    sent = isinstance(expr.source, MemorySource) and client() is not None
    plan = Plan(None, expr.plan().kernels) if foreign or sent else expr.plan()
    dsk: dict[Any, Any] = {f"{name}-plan": plan, f"{name}-outputs": outputs}
    last: list[Any] = [None] * n_lanes
    for i in range(expr.n_blocks):
        start, stop = int(expr.bounds[i]), int(expr.bounds[i + 1])
        args = expr.args(start, stop)
        vectors = tuple(tuple(r[start:stop] for r in of_one) for of_one in rows)
        key, lane = (name, i), i % n_lanes
        task: tuple[Any, ...] = (_step, last[lane], f"{name}-plan", f"{name}-outputs", i, args, _Item(vectors))
        if foreign:
            task = (*task, foreign.key(args))
        elif sent:
            task = (*task, _Item(MemorySource(expr.source.read(args.start, args.stop), "")))
        dsk[key] = task
        last[lane] = key
    dsk[f"{name}-end"] = (_merge_lanes, f"{name}-outputs", *last)
    if foreign:
        _fuse_foreign(dsk, foreign, name, expr.n_blocks)
    return dsk


def _fuse_foreign(dsk: dict[Any, Any], source: ForeignSource, name: str, n_blocks: int) -> None:
    """Join each block's own tasks with its step, so that no block waits in memory for its lane."""
    from dask._task_spec import Task, convert_legacy_graph

    steps = {k: dsk[k] for k in [(name, i) for i in range(n_blocks)]}
    needed = {t[7] for t in steps.values()}
    (below,) = dask.optimize(source.array)
    graph = convert_legacy_graph(dict(below.__dask_graph__()))
    converted = convert_legacy_graph(dict(dsk), all_keys=set(dsk) | set(graph))
    users: dict[Any, int] = {}
    for node in graph.values():
        for dep in node.dependencies:
            users[dep] = users.get(dep, 0) + 1
    dsk.clear()
    dsk.update(converted)
    fused = set()
    for key, task in steps.items():
        src = task[7]
        if not users.get(src) and src in needed and isinstance(graph[src], Task):
            dsk[key] = Task.fuse(graph[src], converted[key], key=key)
            fused.add(src)
    dsk.update({k: v for k, v in graph.items() if k not in fused})


def _keep_found(x: RowBlocks, carry: Carry) -> None:
    """Keep row vectors that steps had to take from their blocks: the next user of this X knows them."""
    wanted = [(i, j, r) for i, s in enumerate(x.expr.steps) for j, r in enumerate(s.rows) if r.values is None]
    for i, j, vector in wanted:
        pieces = [part["found", i, j] for _, part in carry.parts if ("found", i, j) in part]
        if pieces and sum(len(p) for p in pieces) == x.shape[0]:
            assert isinstance(vector, RowVector)
            vector.found(np.concatenate(pieces))


def _identity(block: Any) -> Any:
    return block


def materialise(x: RowBlocks, label: str = "load") -> Any:
    """Return the whole of X in memory, as a csr_matrix or C-ordered ndarray."""
    return compute(Lazy(x, _identity, "rows"), label=label)


# -- independent tasks ---------------------------------------------------------------------------


def _one_task(func: Callable[..., Any], item: _Item, shared: _Item) -> tuple[Any, int, int, int]:
    value = func(item.value) if shared.value is None else func(item.value, shared.value)
    read = METER.empty()
    return value, read.rows, read.n_bytes, psutil.Process().memory_info().rss


def _gather(*results: tuple[Any, int, int, int]) -> list[tuple[Any, int, int, int]]:
    return list(results)


def map_tasks(
    func: Callable[..., Any],
    items: Sequence[Any],
    *,
    shared: Any = None,
    label: str = "tasks",
    n_rows: int | None = None,
) -> list[Any]:
    """Run ``func(item)`` or ``func(item, shared)`` for every item, in parallel, on whatever Dask computes with.

    Parameters
    ----------
    func, items, shared
        A picklable function, its picklable arguments, and one that all share (sent to a worker once).
    label
        A word for progress displays.
    n_rows
        Rows of the X that the tasks read, to count passes.

    Returns
    -------
    The results in the order of the items.
    """
    if not items:
        return []
    name = _new_name(label)
    shared_key = f"{name}-shared"
    dsk: dict[Any, Any] = {shared_key: _Item(shared)}
    for i, item in enumerate(items):
        dsk[(name, i)] = (_one_task, func, _Item(item), shared_key)
    dsk[f"{name}-end"] = (_gather, *((name, i) for i in range(len(items))))
    results = _execute(dsk, name, f"{name}-end", len(items), label, n_workers())
    _record(sum(r[1] for r in results), sum(r[2] for r in results), max(r[3] for r in results), n_rows)
    return [r[0] for r in results]


def _called(func: Callable[..., Any], given: _Item) -> tuple[Any, list[ScDaskWarning], int]:
    args, kwargs = given.value
    reset_peak_rss()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = func(*args, **kwargs)
    return value, [w.message for w in caught if isinstance(w.message, ScDaskWarning)], peak_rss_bytes()


def call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run one function of things in memory: here, or on a worker of the cluster that computes by default.

    What the function warns of is warned of here, and the worker's memory is the stage's too.
    """
    c = client()
    if c is None:
        return func(*args, **kwargs)
    name = _new_name(func.__name__.strip("_"))
    future = _submit(c, {name: (_called, func, _Item((args, kwargs)))}, name)
    value, said, rss = _wait(c, future, lambda: 0, 1, current_stage())
    for warning in said:
        warnings.warn(warning, stacklevel=3)
    _record(0, 0, rss, None)
    return value


# -- where it runs -------------------------------------------------------------------------------


def _scheduler() -> Any:
    """Return Dask's scheduler, or None for the threads of this process."""
    # Dask imports distributed to ask for a client: a third of a second, and nobody who did not import it has one.
    if "distributed" not in sys.modules and not dask.config.get("scheduler", None):
        return None
    return get_scheduler()


def client() -> Any:
    """Return the ``distributed.Client`` that computes by default, or None."""
    get = _scheduler()
    owner = getattr(get, "__self__", None)
    return owner if owner is not None and hasattr(owner, "run_on_scheduler") else None


def n_processes() -> int:
    """Return the number of worker processes: 1 without a cluster."""
    c = client()
    return 1 if c is None else max(1, len(c.nthreads()))


def _shares_memory() -> bool:
    """Tell whether all tasks run in this process, each of them once."""
    return client() is None and _scheduler() in (None, dask.threaded.get, dask.local.get_sync)


def n_workers() -> int:
    """Return how many blocks are worked on at once: threads here, or all threads of the cluster."""
    c = client()
    if c is not None:
        return max(1, sum(c.nthreads().values()))
    if _scheduler() is dask.local.get_sync:
        return 1
    return config.n_threads()


def _execute(dsk: dict[Any, Any], name: str, end: str, n_tasks: int, label: str, n_lanes: int) -> Any:
    stage = current_stage()
    listener = stage.listener if stage else None
    if listener and stage:
        listener.on_pass(stage.name, label, n_tasks)
    c = client()
    if c is not None:
        return _execute_on_cluster(c, dsk, name, end, n_tasks, stage)
    METER.empty()  # what a plain Dask compute read before is not part of this pass
    get = _scheduler() or dask.threaded.get
    with blas_threads(max(1, config.n_threads() // max(1, n_lanes))), _Progress(name, n_tasks, stage):
        return get(dsk, end, num_workers=config.n_threads())


@contextlib.contextmanager
def blas_threads(n: int) -> Iterator[None]:
    """Keep BLAS from starting threads of its own under ours."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=n, user_api="blas"):
        yield


class _Progress(Callback):  # type: ignore[misc]
    """Tells the stage's listener of every finished block under Dask's local schedulers."""

    def __init__(self, name: str, n_tasks: int, stage: Stage | None) -> None:
        super().__init__()
        self._name, self._n, self._stage, self._done, self._bytes = name, n_tasks, stage, 0, 0

    def _posttask(self, key: Any, value: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        if not (isinstance(key, tuple) and key[0] == self._name):
            return
        self._done += 1
        if self._stage and self._stage.listener:
            self._stage.listener.on_block(self._stage.name, self._done, self._n, self._stage.bytes_read)


def _n_waiting(name: str, end: str, n_tasks: int, dask_scheduler: Any = None) -> int:
    """Count tasks of a pass that are not finished; runs on the scheduler."""
    if end not in dask_scheduler.tasks:  # the graph is still on its way
        return n_tasks
    waiting = {"waiting", "processing", "no-worker", "queued", "erred"}
    return sum(
        1
        for key, task in dask_scheduler.tasks.items()
        if isinstance(key, tuple) and key[0] == name and task.state in waiting
    )


def _submit(c: Any, dsk: dict[Any, Any], end: str) -> Any:
    """Return the future of ``end``.

    Of a plain dict, distributed would hash all values first: 2.5 s for 10,000 blocks, and an error for a value that
    does not pickle twice to the same bytes. Its advice against large graphs is for those that repeat their data:
    here each task carries its own slice of every row vector.
    """
    graph = HighLevelGraph.from_collections(end, dsk, dependencies=())
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        return c.get(graph, end, sync=False, optimize_graph=False)


def _execute_on_cluster(c: Any, dsk: dict[Any, Any], name: str, end: str, n_tasks: int, stage: Stage | None) -> Any:
    future = _submit(c, dsk, end)
    out = _wait(c, future, lambda: n_tasks - c.run_on_scheduler(_n_waiting, name, end, n_tasks), n_tasks, stage)
    if stage and stage.listener:
        stage.listener.on_block(stage.name, n_tasks, n_tasks, stage.bytes_read)
    return out


def _wait(c: Any, future: Any, n_done: Callable[[], int], n_tasks: int, stage: Stage | None) -> Any:
    """Wait for a future; a job without progress for the deadline is given up, never waited for."""
    deadline_s = float(config.get("stall-timeout-s"))
    done, since, wait_s = 0, time.monotonic(), 0.02
    while not future.done():
        time.sleep(wait_s)
        wait_s = min(_POLL_S, wait_s * 1.5)
        if future.done() or wait_s < _POLL_S:
            continue
        now = done
        with contextlib.suppress(OSError, TimeoutError):  # the scheduler does not answer
            now = n_done()
        if now != done:  # fewer than before where a worker was lost and its lane begins again
            done, since = now, time.monotonic()
            if stage and stage.listener:
                stage.listener.on_block(stage.name, done, n_tasks, stage.bytes_read)
        elif time.monotonic() - since > deadline_s:
            raise _stalled(c, future, f"no block was finished for {deadline_s:.0f} s ({done} of {n_tasks} done)")
    return _result(c, future)


def _result(c: Any, future: Any) -> Any:
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as err:
        raise _stalled(c, future, f"{err.allowed_failures + 1} workers died at the same task") from err
    except CancelledError as err:
        raise _stalled(c, future, "the scheduler is gone or has dropped the job") from err


def _stalled(c: Any, future: Any, found: str) -> StalledError:
    n = "no answer from the scheduler"
    with contextlib.suppress(Exception):  # whatever a dead cluster says to a question or a wish
        n = f"{len(c.nthreads())} workers are there"
        future.cancel(force=True)
    return StalledError(
        f"{found}; {n}",
        "workers that make progress",
        "look at the workers' logs and memory, then run the same command again; "
        "sc-dask.stall-timeout-s sets the deadline",
    )


def _record(rows: int, n_bytes: int, rss: int, n_rows: int | None) -> None:
    stage = current_stage()
    if stage is None:
        return
    stage.bytes_read += n_bytes
    stage.peak_rss_bytes = max(stage.peak_rss_bytes, rss)
    if n_rows:
        stage.passes += rows / n_rows
