"""The one place where something is computed: passes over X, independent tasks, and functions of things in memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from sc_dask.array.blocks import Lazy, RowBlocks
from sc_dask.array.engine import batch, executors, passes
from sc_dask.array.engine.executors import Executor, Job
from sc_dask.array.engine.passes import Opaque
from sc_dask.array.layer import ForeignSource
from sc_dask.array.source import METER, MemorySource
from sc_dask.log import current_stage

_numbers = itertools.count(1)


def _new_name(label: str) -> str:
    return f"sc-dask-{label}-{os.getpid()}-{next(_numbers)}"


def compute(*lazies: Lazy[Any], label: str = "pass") -> Any:
    """Compute what was described: one pass over each distinct source and selection of rows, in the order given.

    Results have the same digits for any number of threads, processes and workers (`segments`).

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
    participant = batch.participant()
    found = compute_all(lazies, label) if participant is None else participant.submit_and_wait(lazies)
    return found[0] if len(found) == 1 else tuple(found)


def compute_all(lazies: Sequence[Lazy[Any]], label: str = "pass") -> list[Any]:
    """Compute what was described, now, and return the answers in the order of the arguments."""
    found: list[Any] = [None] * len(lazies)
    for ordered in (False, True):
        chosen = [(i, z) for i, z in enumerate(lazies) if (z.kind == "fold") == ordered]
        for xs in passes.sharing(z.x for _, z in chosen) if chosen else ():
            members = [[i for i, z in chosen if z.x.name == x.name] for x in xs]
            at = [i for of_x in members for i in of_x]
            values = _one_pass(executors.current(), xs, [[lazies[i] for i in of_x] for of_x in members], label)
            for i, answer in zip(at, values, strict=True):
                found[i] = answer
    return found


def _one_pass(executor: Executor, xs: Sequence[RowBlocks], lazies: list[list[Lazy[Any]]], label: str) -> list[Any]:
    """Return the answers of all lazies of all matrices."""
    source, in_place = xs[0].expression.source, executor.shares_memory
    apart = executor.client is not None
    # a matrix in memory need not go to every worker: each task takes its rows along
    sourceless = isinstance(source, ForeignSource) or (isinstance(source, MemorySource) and apart)
    every = [z for of_x in lazies for z in of_x]
    spec = passes.describe(xs, every, in_place, sourceless)
    rows = [[z.rows for z in of_x] for of_x in lazies]
    tasks = passes.tasks(_new_name(label), xs, spec, rows, ordered=lazies[0][0].kind == "fold", apart=apart)
    acc, fetchers = _run(executor, Job(label, tasks.graph, tasks.end, tasks.blocks, tasks.apart))
    if not in_place:
        spec = passes.describe(xs, every, True, sourceless)  # with row outputs, on the driver
    passes.collect_rows(spec, acc, (fetch() for fetch in fetchers))
    _record(acc.rows, acc.n_bytes, acc.rss, xs[0].expression.n_source_rows)
    passes.keep_row_vectors(xs, acc)
    return passes.answers(spec, acc)


def _run(executor: Executor, job: Job) -> tuple[Any, list[Callable[[], Any]]]:
    stage = current_stage()
    if stage and stage.listener:
        stage.listener.on_pass(stage.name, job.label, job.n_units)
    METER.empty()  # what a plain Dask compute read before is not part of this job
    return executor.run(job, stage)


def _identity(block: Any) -> Any:
    return block


def materialise(x: RowBlocks, label: str = "load") -> Any:
    """Return the whole of X in memory, as a csr_matrix or C-ordered ndarray."""
    return compute(Lazy(x, _identity, "rows"), label=label)


# -- independent tasks ---------------------------------------------------------------------------


def _one_task(func: Callable[..., Any], item: Opaque, shared: Opaque) -> tuple[Any, int, int, int]:
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
    keys = [(name, i) for i in range(len(items))]
    graph: dict[Any, Any] = {f"{name}-shared": Opaque(shared), f"{name}-end": (_gather, *keys)}
    for key, item in zip(keys, items, strict=True):
        graph[key] = (_one_task, func, Opaque(item), f"{name}-shared")
    results, _ = _run(executors.current(), Job(label, graph, f"{name}-end", dict.fromkeys(keys, 1)))
    _record(sum(r[1] for r in results), sum(r[2] for r in results), max(r[3] for r in results), n_rows)
    return [r[0] for r in results]


def call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call one function of things in memory: here, or on a worker of the cluster that computes by default.

    What the function warns of is warned of here, and the worker's memory is the stage's too.
    """
    return executors.current().call(func, args, kwargs, current_stage())


# -- where it runs -------------------------------------------------------------------------------


def client() -> Any:
    """Return the ``distributed.Client`` that computes by default, or None."""
    return executors.current().client


def n_processes() -> int:
    """Return the number of worker processes: 1 without a cluster."""
    return executors.current().n_processes


def n_workers() -> int:
    """Return how many blocks are worked on at once: threads here, or all threads of the cluster."""
    return executors.current().n_workers


def _record(rows: int, n_bytes: int, rss: int, n_rows: int | None) -> None:
    stage = current_stage()
    if stage is None:
        return
    stage.bytes_read += n_bytes
    stage.peak_rss_bytes = max(stage.peak_rss_bytes, rss)
    if n_rows:
        stage.passes += rows / n_rows
