"""Run a job in a fresh process and report its wall time and the peak memory that the operating system saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measured:
    """One run: whole-process seconds and peak memory, and what the job printed as JSON on its last line."""

    job: str
    seconds: float
    cpu_s: float
    peak_rss_bytes: int
    report: dict[str, Any]


def run_job(job: str, *args: str, n_threads: int = 2, timeout_s: float = 3600) -> Measured:
    """Run ``python -m benchmarks.JOB ARGS`` and wait for it."""
    env = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "PYTHONWARNINGS": "ignore",
        "DASK_NUM_WORKERS": str(n_threads),
        "NUMBA_NUM_THREADS": str(n_threads),
    }
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{job}", *args], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{job} {' '.join(args)} ended with {process.returncode}\n{out}")
    unit = 1 if sys.platform == "darwin" else 1024
    report = json.loads(out.strip().splitlines()[-1]) if out.strip() else {}
    return Measured(job, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, report)


def machine() -> dict[str, Any]:
    """Return what a figure has to be read with."""
    import platform

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {"cpu": model, "n_cpus": os.cpu_count(), "load_1min": round(load, 2), "python": platform.python_version()}
