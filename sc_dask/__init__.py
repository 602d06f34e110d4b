"""Single-cell RNA-seq atlases larger than memory, with scanpy's words, slots and numbers.

``import sc_dask as sc`` imports nothing else: every name below is imported when it is first used (PEP 562). It has the
names of scanpy that a script uses; docs/scanpy.md lists them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

    from sc_dask import (
        cluster,
        config,
        datasets,
        errors,
        experimental,
        external,
        get,
        io,
        log,
        logging,
        metrics,
        neighbors,
        pipeline,
        pl,
        pp,
        queries,
        tl,
    )
    from sc_dask.batching import batch
    from sc_dask.explaining import explain
    from sc_dask.io.concat import concat
    from sc_dask.io.convert import convert
    from sc_dask.io.files import (
        read,
        read_10x_h5,
        read_10x_mtx,
        read_csv,
        read_excel,
        read_h5ad,
        read_hdf,
        read_loom,
        read_mtx,
        read_text,
        read_umi_tools,
        read_zarr,
    )
    from sc_dask.io.model import read_model
    from sc_dask.io.write import write
    from sc_dask.logging import print_header
    from sc_dask.neighbors import Neighbors
    from sc_dask.preferences import Verbosity, set_figure_params, settings
    from sc_dask.progressing import progress
    from sc_dask.versions import print_versions

__version__ = "0.1.0"
__all__ = [
    "AnnData",
    "Neighbors",
    "Verbosity",
    "batch",
    "cluster",
    "concat",
    "config",
    "convert",
    "datasets",
    "errors",
    "experimental",
    "explain",
    "external",
    "get",
    "io",
    "log",
    "logging",
    "metrics",
    "neighbors",
    "pipeline",
    "pl",
    "pp",
    "print_header",
    "print_versions",
    "progress",
    "queries",
    "read",
    "read_10x_h5",
    "read_10x_mtx",
    "read_csv",
    "read_excel",
    "read_h5ad",
    "read_hdf",
    "read_loom",
    "read_model",
    "read_mtx",
    "read_text",
    "read_umi_tools",
    "read_zarr",
    "set_figure_params",
    "settings",
    "tl",
    "write",
]

_FUNCTIONS = {
    "AnnData": "anndata",
    "Neighbors": "sc_dask.neighbors",
    "Verbosity": "sc_dask.preferences",
    "batch": "sc_dask.batching",
    "concat": "sc_dask.io.concat",
    "convert": "sc_dask.io.convert",
    "explain": "sc_dask.explaining",
    "print_header": "sc_dask.logging",
    "print_versions": "sc_dask.versions",
    "progress": "sc_dask.progressing",
    "read_model": "sc_dask.io.model",
    "set_figure_params": "sc_dask.preferences",
    "settings": "sc_dask.preferences",
    "write": "sc_dask.io.write",
}
_FUNCTIONS |= {name: "sc_dask.io.files" for name in __all__ if name.startswith("read") and name not in _FUNCTIONS}
_MODULES = {"preprocessing": "pp", "tools": "tl", "plotting": "pl"}  # scanpy's long names
_LEFT_OUT = {
    "read_visium": "squidpy.read.visium reads images too; sc.read_10x_h5 opens the counts alone",
    "readwrite": "use sc.read, sc.write and sc.read_10x_h5, ... themselves",
}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        value = getattr(importlib.import_module(_FUNCTIONS[name]), name)
        globals()[name] = value
        return value
    if name in __all__ or name in _MODULES:
        return importlib.import_module(f"sc_dask.{_MODULES.get(name, name)}")
    if name in _LEFT_OUT:
        from sc_dask.errors import UnavailableError

        raise UnavailableError(f"sc_dask has no {name!r}", fix=_LEFT_OUT[name])
    raise AttributeError(f"module 'sc_dask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
