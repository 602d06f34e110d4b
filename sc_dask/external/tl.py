"""Trajectories, layouts and clusters of other libraries: scanpy's functions (`sc_dask.external.handing`)."""

from __future__ import annotations

from typing import Any

from sc_dask.external.handing import handed_over

_HANDED = (
    "cyclone",
    "harmony_timeseries",
    "palantir",
    "palantir_results",
    "phate",
    "phenograph",
    "sam",
    "sandbag",
    "trimap",
    "wishbone",
)
__all__: list[str] = []
__all__ += _HANDED


def __getattr__(name: str) -> Any:
    if name in _HANDED:
        return handed_over("tl", name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
