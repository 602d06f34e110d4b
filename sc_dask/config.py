"""Resources, read from Dask's configuration under the namespace ``sc-dask``.

Set them like any Dask option: ``dask.config.set({"sc-dask.memory": "4GiB"})``, a YAML file in
``~/.config/dask``, or ``DASK_SC_DASK__MEMORY=4GiB``. Options of the analysis are function
arguments and never stand here.
"""

from __future__ import annotations

import os
from typing import Any

import dask.config
from dask.utils import parse_bytes

DEFAULTS: dict[str, Any] = {
    "memory": None,  # budget of one process, for instance "4GiB"; None: no limit is enforced
    "block-bytes": "48MiB",  # one decoded row block (csr: 8 bytes a non-zero)
    "work-dir": None,  # for temporary folders; None: Dask's temporary-directory, or the system's, on a disk
    "cache-dir": None,  # for copies of files that cannot be read in place; None: the user's cache directory
    "cache-bytes": "50GiB",  # of all these copies; the oldest go first
    "dataset-dir": None,  # for downloaded data sets; None: the user's cache directory
    "stall-timeout-s": 900,  # a cluster job without one finished block for so long is given up
}
_SHARE = 0.8  # of the memory that is free, where there is no budget
dask.config.update_defaults({"sc-dask": DEFAULTS})


def get(key: str) -> Any:
    """Return the option ``sc-dask.<key>``; an unknown key raises ``KeyError``."""
    if key not in DEFAULTS:
        raise KeyError(key)
    return dask.config.get(f"sc-dask.{key}", DEFAULTS[key])


def n_bytes(key: str) -> int | None:
    """Return an option that is a size, in bytes (``"4GiB"`` or an integer), or None when unset."""
    value = get(key)
    return None if value is None else int(parse_bytes(value))


def room() -> int:
    """Return the bytes that one call may take: the option ``memory``, or 0.8 of what is free."""
    budget = n_bytes("memory")
    if budget is not None:
        return budget
    import psutil  # costs 10 ms

    return int(_SHARE * psutil.virtual_memory().available)


def n_threads() -> int:
    """Return how many threads of this process work on blocks (Dask's ``num_workers``, else usable CPUs)."""
    configured = dask.config.get("num_workers", None)
    if configured:
        return int(configured)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
