"""Where tasks are computed: threads of this process, one thread, Dask's processes, a cluster, or inside its tasks.

Dask's configuration decides, as for any Dask collection: the ``scheduler`` option and the current client.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.multiprocessing
import dask.threaded
from dask.base import get_scheduler
from dask.callbacks import Callback

from sc_dask import blas, config
from sc_dask.log import Stage
from sc_dask.outside.dask import worker_here


@dataclass(frozen=True)
class Job:
    """A graph to compute.

    Parameters
    ----------
    label
        A word for progress displays.
    graph, end
        Tasks, and the key of the one whose value is wanted.
    units
        What each task of the work itself counts for in progress displays (blocks, for instance), in the order in
        which tasks should be spread over workers: neighbours share chunks of a file.
    apart
        Keys whose values stay where they are until they are fetched.
    """

    label: str
    graph: dict[Any, Any]
    end: Any
    units: Mapping[Any, int]
    apart: Sequence[Any] = field(default=())

    @property
    def n_units(self) -> int:
        """Return what all tasks count for."""
        return sum(self.units.values())


class Executor(ABC):
    """Computes jobs. `current` returns the one that Dask's configuration asks for."""

    shares_memory = False
    """Whether all tasks run in this process, each of them once."""

    client: Any = None
    """The ``distributed.Client``, of a cluster."""

    @property
    @abstractmethod
    def n_workers(self) -> int:
        """Number of tasks that are worked on at once."""

    @property
    def n_processes(self) -> int:
        """Number of worker processes that have memory of their own."""
        return 1

    @abstractmethod
    def run(self, job: Job, stage: Stage | None) -> tuple[Any, list[Callable[[], Any]]]:
        """Return the value of the job's end, and functions that fetch the values that stayed apart."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], stage: Stage | None) -> Any:
        """Return what the function returns, called where computations of this executor have their memory."""
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Local(Executor):
    """A scheduler of Dask that is a function of a graph: ``get(graph, keys, num_workers=...)``."""

    get: Callable[..., Any]

    @property
    def n_workers(self) -> int:
        return config.n_threads()

    def run(self, job: Job, stage: Stage | None) -> tuple[Any, list[Callable[[], Any]]]:
        with blas.one_thread(), _Progress(job, stage):
            value, *others = self.get(job.graph, [job.end, *job.apart], num_workers=self.n_workers)
        return value, [lambda other=other: other for other in others]  # type: ignore[misc]


class Threads(Local):
    """Threads of this process."""

    shares_memory = True

    def __init__(self) -> None:
        super().__init__(dask.threaded.get)


class Synchronous(Local):
    """The calling thread alone."""

    shares_memory = True

    def __init__(self) -> None:
        super().__init__(dask.local.get_sync)

    @property
    def n_workers(self) -> int:
        return 1


class InsideWorker(Threads):
    """Threads of a worker whose task calls us: its share of the machine, since its other tasks want theirs.

    The cluster itself would wait for the task that asks it.
    """

    @property
    def n_workers(self) -> int:
        worker = worker_here()
        return max(1, config.n_threads() // (1 if worker is None else max(1, worker.state.nthreads)))


def current() -> Executor:
    """Return the executor that Dask's configuration asks for."""
    # Dask imports distributed to ask for a client: a third of a second, and nobody who did not import it has one.
    if "distributed" not in sys.modules and not dask.config.get("scheduler", None):
        return Threads()
    get = get_scheduler()
    client = getattr(get, "__self__", None)
    is_cluster = client is not None and hasattr(client, "run_on_scheduler")
    if worker_here() is not None and (is_cluster or get is None):
        return InsideWorker()
    if is_cluster:
        from sc_dask.array.engine.cluster import Cluster

        return Cluster(client)
    if get in (None, dask.threaded.get):
        return Threads()
    return Synchronous() if get is dask.local.get_sync else Local(get)


class _Progress(Callback):  # type: ignore[misc]
    """Tells the stage's listener of every finished task under Dask's local schedulers."""

    def __init__(self, job: Job, stage: Stage | None) -> None:
        super().__init__()
        self._job, self._stage, self._done = job, stage, 0

    def _posttask(self, key: Any, value: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        units = self._job.units.get(key)
        if units is None:
            return
        self._done += units
        if self._stage and self._stage.listener:
            self._stage.listener.on_block(self._stage.name, self._done, self._job.n_units, self._stage.bytes_read)
