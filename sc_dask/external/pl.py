"""Pictures of what other libraries found: scanpy's functions (`sc_dask.external.handing`)."""

from __future__ import annotations

from typing import Any

from sc_dask.external.handing import handed_over

_HANDED = ("harmony_timeseries", "phate", "sam", "scrublet_score_distribution", "trimap", "wishbone_marker_trajectory")
__all__: list[str] = []
__all__ += _HANDED


def __getattr__(name: str) -> Any:
    if name in _HANDED:
        return handed_over("pl", name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
