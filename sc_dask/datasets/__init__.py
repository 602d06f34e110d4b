"""Cells to work on: simulated, made from real ones, and published ones under scanpy's names."""

from __future__ import annotations

from typing import Any

from sc_dask.datasets.published import (
    blobs,
    burczynski06,
    ebi_expression_atlas,
    krumsiek11,
    moignard15,
    paul15,
    pbmc3k,
    pbmc3k_processed,
    pbmc68k_reduced,
    toggleswitch,
)
from sc_dask.datasets.real import demo_source, pbmc3k_folder
from sc_dask.datasets.simulated import SimulatedSource, simulate
from sc_dask.datasets.upscaled import UpscaledSource, upscale

__all__ = [
    "SimulatedSource",
    "UpscaledSource",
    "blobs",
    "burczynski06",
    "demo_source",
    "ebi_expression_atlas",
    "krumsiek11",
    "moignard15",
    "paul15",
    "pbmc3k",
    "pbmc3k_folder",
    "pbmc3k_processed",
    "pbmc68k_reduced",
    "simulate",
    "toggleswitch",
    "upscale",
]


def __getattr__(name: str) -> Any:
    if name == "visium_sge":
        from sc_dask.errors import UnavailableError

        raise UnavailableError(
            "sc_dask.datasets has no 'visium_sge'", fix="squidpy.datasets.visium, as scanpy says too"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
