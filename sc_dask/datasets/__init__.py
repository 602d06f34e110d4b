"""Cells to work on: simulated, made from real ones, and PBMC3k."""

from __future__ import annotations

from sc_dask.datasets.real import demo_source, pbmc3k
from sc_dask.datasets.simulated import SimulatedSource, simulate
from sc_dask.datasets.upscaled import UpscaledSource, upscale

__all__ = ["SimulatedSource", "UpscaledSource", "demo_source", "pbmc3k", "simulate", "upscale"]
