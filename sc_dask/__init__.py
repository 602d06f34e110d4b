"""Single-cell RNA-seq atlases larger than memory, with scanpy's words, slots and numbers.

``import sc_dask as sd`` imports nothing else: every name below is imported when it is first used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sc_dask import cluster, config, datasets, errors, get, io, log, metrics, pipeline, pl, pp, tl
    from sc_dask.batching import batch
    from sc_dask.explaining import explain
    from sc_dask.io.concat import concat
    from sc_dask.io.convert import convert
    from sc_dask.io.model import read_model
    from sc_dask.io.read import read
    from sc_dask.io.write import write
    from sc_dask.versions import print_versions

__version__ = "0.1.0"
__all__ = [
    "batch",
    "cluster",
    "concat",
    "config",
    "convert",
    "datasets",
    "errors",
    "explain",
    "get",
    "io",
    "log",
    "metrics",
    "pipeline",
    "pl",
    "pp",
    "print_versions",
    "read",
    "read_model",
    "tl",
    "write",
]

_FUNCTIONS = {
    "batch": "sc_dask.batching",
    "concat": "sc_dask.io.concat",
    "convert": "sc_dask.io.convert",
    "explain": "sc_dask.explaining",
    "print_versions": "sc_dask.versions",
    "read": "sc_dask.io.read",
    "read_model": "sc_dask.io.model",
    "write": "sc_dask.io.write",
}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        value = getattr(importlib.import_module(_FUNCTIONS[name]), name)
        globals()[name] = value
        return value
    if name in __all__:
        return importlib.import_module(f"sc_dask.{name}")
    raise AttributeError(f"module 'sc_dask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
