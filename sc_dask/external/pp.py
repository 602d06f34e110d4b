"""``bbknn``, ``harmony_integrate`` and ``scrublet`` are ours; the rest is scanpy's (`sc_dask.external.handing`)."""

from __future__ import annotations

from typing import Any

from sc_dask import pp
from sc_dask.external.handing import handed_over
from sc_dask.pp import bbknn, harmony_integrate, scrublet

_HANDED = ("dca", "hashsolo", "magic", "mnn_correct", "scanorama_integrate")
__all__ = ["bbknn", "harmony_integrate", "scrublet"]
__all__ += _HANDED


def __getattr__(name: str) -> Any:
    if name in _HANDED:
        return handed_over("pp", name)
    if name == "scrublet_simulate_doublets":
        return getattr(pp, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
