"""The one place where something is computed: passes over X, with progress, metering and deadlines.

A pass deals the blocks of one X to lanes. A task reads a block (on a cluster up to eight, one after the other), runs
its steps and merges what each output wants of it into the lane's carry; the carries merge at the end. So a block is
read once whatever was asked of it, at most one block per lane is in memory, and no task waits with a block in its hand.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import dask
import dask.threaded
import numpy as np
import psutil
from dask.base import get_scheduler
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph

from sc_dask import config
from sc_dask.array import meeting, passes
from sc_dask.array.blocks import Lazy, RowBlocks
from sc_dask.array.layer import ForeignSource
from sc_dask.array.passes import Item
from sc_dask.array.source import METER, MemorySource
from sc_dask.errors import ScDaskWarning, StalledError
from sc_dask.log import Stage, current_stage, peak_rss_bytes, reset_peak_rss
from sc_dask.outside.dask import worker_here

_POLL_S = 0.5
_MOST_BLOCKS, _TASKS = 8, 24  # of a task, and at least so many tasks in a lane before they take several blocks
_counter = 0
_counter_lock = threading.Lock()


def _new_name(label: str) -> str:
    global _counter
    with _counter_lock:
        _counter += 1
        return f"sc-dask-{label}-{os.getpid()}-{_counter}"


def compute(*lazies: Lazy[Any], label: str = "pass") -> Any:
    """Make what was described: one pass over each distinct source and choice of rows, in the order given.

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
    seat = meeting.seat()
    found = compute_all(lazies, label) if seat is None else seat.ask(lazies)
    return found[0] if len(found) == 1 else tuple(found)


def compute_all(lazies: Sequence[Lazy[Any]], label: str = "pass") -> list[Any]:
    """Make what was described, now, and return the answers in the order of the arguments."""
    found: list[Any] = [None] * len(lazies)
    for ordered in (False, True):
        chosen = [(i, z) for i, z in enumerate(lazies) if (z.kind == "fold") == ordered]
        for xs in passes.sharing(z.x for _, z in chosen) if chosen else ():
            members = [[i for i, z in chosen if z.x.name == x.name] for x in xs]
            at = [i for of_x in members for i in of_x]
            for i, answer in zip(
                at, _one_pass(xs, [[lazies[i] for i in of_x] for of_x in members], label), strict=True
            ):
                found[i] = answer
    return found


def _one_pass(xs: Sequence[RowBlocks], lazies: list[list[Lazy[Any]]], label: str) -> list[Any]:
    """Return the answers of all lazies of all matrices."""
    source, in_place = xs[0].expression.source, _shares_memory()
    # a matrix in memory need not go to every worker: each task takes its rows along
    sourceless = isinstance(source, ForeignSource) or (isinstance(source, MemorySource) and client() is not None)
    every = [z for of_x in lazies for z in of_x]
    recipe = passes.describe(xs, every, in_place, sourceless)
    slots = _slots(1 if lazies[0][0].kind == "fold" else xs[0].expression.n_blocks)
    lanes = passes.deal(xs[0].expression.n_blocks, slots)
    # Every task copies its lane's state once (32 MiB of a Gram matrix): not for every block of a long pass.
    per_task = 1 if in_place or sourceless else max(1, min(_MOST_BLOCKS, len(lanes) // (_TASKS * len(slots))))
    name, apart = _new_name(label), client() is not None
    rows = [[z.rows for z in of_x] for of_x in lazies]
    dsk = passes.graph(name, xs, recipe, rows, lanes, per_task=per_task, apart=apart)
    carry: passes.Carry
    if apart:
        carry, *parts = _execute(dsk, name, label, lanes, slots, passes.part_keys(name, lanes))
        recipe = passes.describe(xs, every, True, sourceless)  # the driver has sheets to write rows into
        passes.settle(recipe, carry, (fetch() for fetch in parts))
    else:
        carry = _execute(dsk, name, label, lanes, slots)
    _record(carry.rows, carry.n_bytes, carry.rss, xs[0].expression.n_source_rows)
    passes.keep_found(xs, carry)
    return passes.answers(recipe, carry)


def _identity(block: Any) -> Any:
    return block


def materialise(x: RowBlocks, label: str = "load") -> Any:
    """Return the whole of X in memory, as a csr_matrix or C-ordered ndarray."""
    return compute(Lazy(x, _identity, "rows"), label=label)


# -- independent tasks ---------------------------------------------------------------------------


def _one_task(func: Callable[..., Any], item: Item, shared: Item) -> tuple[Any, int, int, int]:
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
    dsk: dict[Any, Any] = {shared_key: Item(shared)}
    for i, item in enumerate(items):
        dsk[(name, i)] = (_one_task, func, Item(item), shared_key)
    dsk[f"{name}-end"] = (_gather, *((name, i) for i in range(len(items))))
    slots = _slots()
    results = _execute(dsk, name, label, np.arange(len(items)) % len(slots), slots)
    _record(sum(r[1] for r in results), sum(r[2] for r in results), max(r[3] for r in results), n_rows)
    return [r[0] for r in results]


def _called(func: Callable[..., Any], given: Item) -> tuple[Any, list[ScDaskWarning], int]:
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
    (future,) = _submit(c, {name: (_called, func, Item((args, kwargs)))}, [name], {})
    value, said, rss = _wait(c, future, lambda: 0, 1, current_stage())
    for warning in said:
        warnings.warn(warning, stacklevel=3)
    _record(0, 0, rss, None)
    return value


# -- where it runs -------------------------------------------------------------------------------


def _scheduler() -> Any:
    """Return Dask's scheduler, or None for the threads of this process (also inside a task of a cluster)."""
    # Dask imports distributed to ask for a client: a third of a second, and nobody who did not import it has one.
    if "distributed" not in sys.modules and not dask.config.get("scheduler", None):
        return None
    get = get_scheduler()
    if worker_here() is not None and hasattr(getattr(get, "__self__", None), "run_on_scheduler"):
        return None  # inside a task: the worker's own client would wait for this very thread
    return get


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
    return _threads_at_hand()


def _threads_at_hand() -> int:
    """Return the threads of this process; inside a task of a cluster its share of them."""
    worker = worker_here()
    return config.n_threads() if worker is None else max(1, config.n_threads() // max(1, worker.state.nthreads))


def _slots(most: int | None = None) -> list[str]:
    """Return the worker of every lane, at most ``most`` of them: over all workers, then over their threads.

    Lanes of one worker are side by side. Without a cluster a worker has no name.
    """
    c = client()
    if c is None:
        return ([""] * n_workers())[:most]
    nthreads: dict[str, int] = c.nthreads()
    slots = [at for i in range(max(nthreads.values(), default=0)) for at, n in nthreads.items() if i < n][:most]
    return [at for at in nthreads for _ in range(slots.count(at))] or [""]


def _execute(
    dsk: dict[Any, Any], name: str, label: str, lanes: np.ndarray, slots: Sequence[str], apart: Sequence[Any] = ()
) -> Any:
    """Return what ``<name>-end`` is; ``lanes``: of each task ``(name, i)``, ``slots``: the worker of each lane.

    ``apart``: keys whose values a cluster keeps until they are asked for; they follow as functions that fetch them.
    """
    stage = current_stage()
    listener = stage.listener if stage else None
    if listener and stage:
        listener.on_pass(stage.name, label, len(lanes))
    c = client()
    if c is not None:
        found = _execute_on_cluster(c, dsk, name, lanes, slots, stage, apart)
        return found if apart else found[0]
    METER.empty()  # what a plain Dask compute read before is not part of this pass
    get = _scheduler() or dask.threaded.get
    with blas_threads(max(1, _threads_at_hand() // len(slots))), _Progress(name, len(lanes), stage):
        return get(dsk, f"{name}-end", num_workers=_threads_at_hand())


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


def _places(name: str, lanes: np.ndarray, slots: Sequence[str]) -> dict[Any, str]:
    """Return the workers where the first task of every lane begins; of a short job, all tasks.

    Left alone, the scheduler starts every lane where the recipe happens to lie, on one worker, and the others wait
    until they steal. A lane stays where it began, since its carry is there.
    """
    first = np.unique(lanes, return_index=True)[1]
    placed = range(len(lanes)) if len(lanes) <= 2 * len(slots) else first.tolist()
    return {(name, i): slots[lanes[i]] for i in placed if slots[lanes[i]]}


def _submit(c: Any, dsk: dict[Any, Any], keys: Sequence[Any], places: dict[Any, str]) -> list[Any]:
    """Return the futures of ``keys``; ``places`` says where tasks run, as long as that worker lives.

    Of a plain dict, distributed would hash all values first: 2.5 s for 10,000 blocks, and an error for a value that
    does not pickle twice to the same bytes. Its advice against large graphs is for those that repeat their data:
    here each task carries its own slice of every row vector.
    """
    with dask.annotate(workers=places.get, allow_other_workers=True) if places else contextlib.nullcontext():
        graph = HighLevelGraph.from_collections(str(keys[0]), dsk, dependencies=())
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        futures: list[Any] = c.get(graph, list(keys), sync=False, optimize_graph=False)
        return futures


def _execute_on_cluster(
    c: Any,
    dsk: dict[Any, Any],
    name: str,
    lanes: np.ndarray,
    slots: Sequence[str],
    stage: Stage | None,
    apart: Sequence[Any],
) -> list[Any]:
    end, n_blocks = f"{name}-end", len(lanes)
    n_tasks = sum(1 for key in dsk if isinstance(key, tuple) and key[0] == name)

    def n_done() -> int:
        waiting = c.run_on_scheduler(_n_waiting, name, end, n_tasks)
        return int(n_blocks * (n_tasks - waiting) / n_tasks)

    future, *others = _submit(c, dsk, [end, *apart], _places(name, lanes, slots))
    out = _wait(c, future, n_done, n_blocks, stage)
    if stage and stage.listener:
        stage.listener.on_block(stage.name, n_blocks, n_blocks, stage.bytes_read)
    return [out, *(partial(_wait, c, other, n_done, n_blocks, stage) for other in others)]


def _wait(c: Any, future: Any, n_done: Callable[[], int], n_tasks: int, stage: Stage | None) -> Any:
    """Wait for a future; a job without progress for the deadline is given up, never waited for."""
    deadline_s = float(config.get("stall-timeout-s"))
    done, since, finished = 0, time.monotonic(), threading.Event()
    future.add_done_callback(lambda _: finished.set())
    while not finished.wait(_POLL_S) and not future.done():
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
