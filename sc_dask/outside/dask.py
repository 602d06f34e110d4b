"""Dask: tasks of graphs. ``dask._task_spec`` is not public, but what graphs have been made of since 2024.12."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dask
import dask.array as da
import scipy.sparse as sp
from dask._task_spec import Alias, DataNode, GraphNode, Task, convert_legacy_graph
from dask.local import get_sync

_SLICERS = {"getitem", "_getitem", "getter", "getter_nofancy", "getter_inline", "concatenate_arrays"}


def worker_here() -> Any:
    """Return the worker whose task runs in this very thread, or None outside of tasks."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.get_worker()
    except ValueError:
        return None


def plain(x: Any, meta: Any = None) -> Any:
    """Return the same blocks as a Dask array that is nothing else; ``meta`` says of what kind they are."""
    return da.Array(x.dask, x.name, x.chunks, meta=x._meta if meta is None else meta)


def unpin(scheduler: Any, keys: Iterable[Any]) -> None:
    """Let any worker run tasks that wait for a worker which is gone; runs on the scheduler.

    Where all workers are gone for a moment, distributed keeps such tasks until a worker of the same address comes, even
    if others are allowed (``allow_other_workers``).
    """
    tasks = (scheduler.tasks.get(key) for key in keys)
    waiting = [t for t in tasks if t is not None and t.state == "no-worker" and t.worker_restrictions]
    stuck = [t.key for t in waiting if not any(address in scheduler.workers for address in t.worker_restrictions)]
    if stuck and scheduler.workers:
        scheduler.set_restrictions(dict.fromkeys(stuck))
        scheduler.transitions(dict.fromkeys(stuck, "processing"), stimulus_id=f"sc-dask-unpin-{time.time()}")


def has_sparse_blocks(array: Any) -> bool:
    """Tell whether the blocks of a Dask array are scipy sparse."""
    return bool(sp.issparse(array._meta))


def data(value: Any) -> GraphNode:
    """Return the node of a value that Dask passes on as it is."""
    return DataNode(None, value)


def values_in(node: Any) -> Iterator[Any]:
    """Yield the values that a node of a graph holds: its own, its arguments, and those of tasks fused into it."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, DataNode):
            waiting.append(one.value)
        elif isinstance(one, Task):
            waiting += [*one.args, *one.kwargs.values()]
        elif isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, tuple | list):
            waiting += one
        else:
            yield one


def slicing_tasks(graph: Any, names: Iterable[str]) -> dict[Any, Any] | None:
    """Return the tasks of some layers of a graph, or None if any of them does more than Dask's own slicing."""
    tasks: dict[Any, Any] = {}
    for name in names:
        tasks.update(graph.layers[name])
    tasks = convert_legacy_graph(tasks, all_keys=set(graph))
    slicing = all(isinstance(t, DataNode | Alias) or (isinstance(t, Task) and _slices(t)) for t in tasks.values())
    return tasks if slicing else None


def _slices(task: Task) -> bool:
    func = task.func
    module = str(getattr(func, "__module__", ""))
    return getattr(func, "__name__", "") in _SLICERS and module.partition(".")[0] in ("dask", "_operator", "operator")


def run_here(tasks: dict[Any, Any], keys: list[Any]) -> list[Any]:
    """Return the values of keys of a graph, made in this thread."""
    return list(get_sync(tasks, keys))


def fused(array: Any, dsk: dict[Any, Any], steps: Mapping[Any, tuple[Any, ...]]) -> dict[Any, Any]:
    """Return the graph of a pass and of the Dask array that it reads, each block's own task fused with its step.

    So no block waits in memory for its turn.

    Parameters
    ----------
    array
        The Dask array of somebody else.
    dsk
        The tasks of the pass.
    steps
        Those of them that take a block of ``array``, the key of which is their last argument.
    """
    needed = {t[-1] for t in steps.values()}
    (below,) = dask.optimize(array)
    foreign = convert_legacy_graph(dict(below.__dask_graph__()))
    out = convert_legacy_graph(dict(dsk), all_keys=set(dsk) | set(foreign))
    users: dict[Any, int] = {}
    for node in foreign.values():
        for dep in node.dependencies:
            users[dep] = users.get(dep, 0) + 1
    gone = set()
    for key, task in steps.items():
        src = task[-1]
        if not users.get(src) and src in needed and isinstance(foreign[src], Task):
            out[key] = Task.fuse(foreign[src], out[key], key=key)
            gone.add(src)
    out.update({k: v for k, v in foreign.items() if k not in gone})
    return out
