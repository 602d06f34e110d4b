"""The small store and its finished run."""

from __future__ import annotations

from tests.pipeline.runs import finished, store

__all__ = ["finished", "store"]
