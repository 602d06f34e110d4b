"""The main job as a pipeline: settings, plan, checkpoints and the runner."""

from __future__ import annotations

from sc_dask.pipeline.planning import RunPlan, plan
from sc_dask.pipeline.runner import Result, run
from sc_dask.pipeline.settings import Settings

__all__ = ["Result", "RunPlan", "Settings", "plan", "run"]
