"""Jobs on the workers of a Dask cluster, with deadlines: a lost worker costs its unfinished tasks and nothing hangs."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
from dask.highlevelgraph import HighLevelGraph

from sc_dask import config
from sc_dask.array.engine.executors import Executor, Job
from sc_dask.array.engine.passes import Opaque
from sc_dask.errors import ScDaskWarning, StalledError
from sc_dask.log import Stage, peak_rss_bytes, reset_peak_rss
from sc_dask.outside.dask import unpin

_POLL_S = 0.5


@dataclass(frozen=True)
class Cluster(Executor):
    """The workers of a ``distributed.Client``."""

    client: Any

    @property
    def n_workers(self) -> int:
        return max(1, sum(self.client.nthreads().values()))

    @property
    def n_processes(self) -> int:
        return max(1, len(self.client.nthreads()))

    def run(self, job: Job, stage: Stage | None) -> tuple[Any, list[Callable[[], Any]]]:
        c = self.client
        future, *others = _submit(c, job.graph, [job.end, *job.apart], places(list(job.units), c.nthreads()))
        value = _wait(c, future, job, stage)
        if stage and stage.listener:
            stage.listener.on_block(stage.name, job.n_units, job.n_units, stage.bytes_read)
        return value, [partial(_wait, c, other, job, None) for other in others]

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], stage: Stage | None) -> Any:
        key = f"sc-dask-call-{func.__name__.strip('_')}-{time.monotonic_ns()}-{threading.get_ident()}"
        job = Job("call", {key: (_called, func, Opaque((args, kwargs)))}, key, {key: 1})
        (value, said, rss), _ = self.run(job, None)
        for warning in said:
            warnings.warn(warning, stacklevel=4)
        if stage is not None:
            stage.peak_rss_bytes = max(stage.peak_rss_bytes, rss)
        return value


def _called(func: Callable[..., Any], payload: Opaque) -> tuple[Any, list[ScDaskWarning], int]:
    """Call a function on a worker; return its value, what it warned of and the worker's peak memory."""
    args, kwargs = payload.value
    reset_peak_rss()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = func(*args, **kwargs)
    return value, [w.message for w in caught if isinstance(w.message, ScDaskWarning)], peak_rss_bytes()


def places(keys: Sequence[Any], nthreads: dict[str, int]) -> dict[Any, str]:
    """Return a worker for every task: consecutive tasks for each, as many as its threads' share.

    A chunk that neighbouring blocks share is then decoded in one process, and most states that are merged lie in one.
    The scheduler may still give tasks to others: a worker that comes late, or one whose neighbour is slow or lost.
    """
    if len(keys) == 1:
        return {}
    slots = [worker for worker, n in nthreads.items() for _ in range(n)]
    return {key: slots[i * len(slots) // len(keys)] for i, key in enumerate(keys)} if slots else {}


def _submit(c: Any, graph: dict[Any, Any], keys: Sequence[Any], where: dict[Any, str]) -> list[Any]:
    """Return the futures of ``keys``; ``where``: the worker that should run a task, as long as it lives.

    Of a plain dict, distributed would hash all values first: 2.5 s for 10,000 blocks, and an error for a value that
    does not pickle twice to the same bytes. Its advice against large graphs is for those that repeat their data:
    here each task carries its own slice of every row vector.
    """
    with dask.annotate(workers=where.get, allow_other_workers=True) if where else contextlib.nullcontext():
        layers = HighLevelGraph.from_collections(str(keys[0]), graph, dependencies=())
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        futures: list[Any] = c.get(layers, list(keys), sync=False, optimize_graph=False)
        return futures


def _units_waiting(end: Any, units: dict[Any, int], dask_scheduler: Any = None) -> int:
    """Count the units of tasks that are not finished, and free those that wait for a lost worker; on the scheduler."""
    unpin(dask_scheduler, units)
    if end not in dask_scheduler.tasks:  # the graph is still on its way
        return sum(units.values())
    waiting = {"waiting", "processing", "no-worker", "queued", "erred"}
    found = ((dask_scheduler.tasks.get(key), n) for key, n in units.items())
    return sum(n for task, n in found if task is not None and task.state in waiting)


def _wait(c: Any, future: Any, job: Job, stage: Stage | None) -> Any:
    """Wait for a future; a job without progress for the deadline is given up, never waited for."""
    deadline_s = float(config.get("stall-timeout-s"))
    done, since, finished = 0, time.monotonic(), threading.Event()
    future.add_done_callback(lambda _: finished.set())
    while not finished.wait(_POLL_S) and not future.done():
        now = done
        with contextlib.suppress(OSError, TimeoutError):  # the scheduler does not answer
            now = job.n_units - int(c.run_on_scheduler(_units_waiting, job.end, dict(job.units)))
        if now != done:  # fewer than before where a worker was lost and its tasks begin again
            done, since = now, time.monotonic()
            if stage and stage.listener:
                stage.listener.on_block(stage.name, done, job.n_units, stage.bytes_read)
        elif time.monotonic() - since > deadline_s:
            raise _stalled(c, future, f"no block was finished for {deadline_s:.0f} s ({done} of {job.n_units} done)")
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
