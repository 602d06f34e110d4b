"""Where passes are computed: threads of this process, or a Dask cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import dask.config

from sc_dask import config, malloc
from sc_dask.errors import InputError

# Of our own workers. Their profiler looks at their threads a hundred times a second, a tenth of their time. The trim
# threshold that Dask gives them makes every large array fresh memory, page by page: a fifth of PCA. These sizes are
# what malloc itself comes to in a process that is left alone. A nanny starts a killed worker again; on a busy machine
# that takes longer than the 15 s after which Dask closes the nanny for good.
_WORKER_SETTINGS = {
    "distributed.deploy.lost-worker-timeout": "5m",
    "distributed.worker.profile.enabled": False,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 << 20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 << 20,
    **{f"distributed.nanny.pre-spawn-environ.{name}": n for name, n in malloc.ENVIRONMENT.items()},
}


@contextlib.contextmanager
def client(kind: str | None = None, *, timeout_s: float = 30) -> Iterator[Any]:
    """Compute on a cluster inside the block: every pass and graph stage runs on its workers.

    Parameters
    ----------
    kind
        ``tcp://host:port`` (or ``tls://``) of a scheduler; ``"processes"``: workers of this machine, one a core,
        started and stopped here; ``"threads"`` or None: this process, nothing is started.
    timeout_s
        How long to wait for the scheduler, and for its first worker.

    Yields
    ------
    distributed.Client or None

    Raises
    ------
    InputError
        The scheduler does not answer, has no worker, or the kind is unknown.
    """
    if kind in (None, "threads"):
        yield None
        return
    from distributed import Client, LocalCluster

    if kind == "processes":
        with (
            dask.config.set(_WORKER_SETTINGS),
            LocalCluster(
                n_workers=config.n_threads(), threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
            ) as local,
            Client(local) as c,
        ):
            yield c
        return
    if kind is None or "://" not in kind:
        raise InputError(f"scheduler {kind!r}", "tcp://host:port, 'processes' or 'threads'")
    try:
        c = Client(kind, timeout=timeout_s, set_as_default=False)  # one that fails would stay the default
    except ValueError as err:  # no port, or no such protocol
        raise InputError(f"scheduler {kind!r}: {err}", "tcp://host:port, 'processes' or 'threads'") from err
    except (OSError, TimeoutError) as err:
        raise InputError(
            f"no scheduler answers at {kind} ({type(err).__name__})", "a running one", "dask scheduler --port 8786"
        ) from err
    with c:
        try:
            c.wait_for_workers(1, timeout=timeout_s)
        except TimeoutError as err:
            raise InputError(f"the scheduler at {kind} has no worker", "at least one", f"dask worker {kind}") from err
        with c.as_current(), dask.config.set(scheduler="dask.distributed"):
            yield c
