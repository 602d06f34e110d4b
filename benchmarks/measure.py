"""Run a job in a fresh process and report its wall time and the peak memory that the operating system saw."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


# Starts the command and waits for it. A process begins with the memory high-water mark of the one that starts it, so
# this is a small one, not a test run of gigabytes.
_LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ, file_actions=[(os.POSIX_SPAWN_CLOSE, int(sys.argv[1]))])
_, status, usage = os.wait4(pid, 0)
figures = {"seconds": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime, "maxrss": usage.ru_maxrss}
os.write(int(sys.argv[1]), json.dumps(figures).encode())
code = os.waitstatus_to_exitcode(status)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@dataclass(frozen=True)
class Measured:
    """One run: whole-process seconds and peak memory, and what the job printed as JSON on its last line."""

    job: str
    seconds: float
    cpu_s: float
    peak_rss_bytes: int
    report: dict[str, Any]


class JobError(RuntimeError):
    """A job that ended with an error; ``code`` is what the process returned, ``output`` all that it printed."""

    def __init__(self, job: str, code: int, output: str) -> None:
        super().__init__(f"{job} ended with {code}\n{output}")
        self.code, self.output = code, output


def run_job(
    job: str, *args: str, n_threads: int = 2, timeout_s: float = 3600, options: Mapping[str, str] | None = None
) -> Measured:
    """Run ``python -m benchmarks.JOB ARGS`` and wait for it; ``options`` are environment variables more."""
    return run_command(
        job, [sys.executable, "-m", f"benchmarks.{job}", *args], n_threads=n_threads, timeout_s=timeout_s,
        options=options,
    )  # fmt: skip


def run_command(
    name: str,
    command: Sequence[str],
    *,
    n_threads: int = 2,
    timeout_s: float = 3600,
    options: Mapping[str, str] | None = None,
) -> Measured:
    """Run any command on so many threads and wait for it; after ``timeout_s`` it is killed, which is an error."""
    told, tell = os.pipe()
    launched = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(tell), *command]
    with (
        os.fdopen(told) as figures,
        subprocess.Popen(
            launched,
            env=_environment(n_threads) | dict(options or {}),
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[tell],
            start_new_session=True,
        ) as process,
    ):
        os.close(tell)
        assert process.stdout is not None
        deadline = threading.Timer(timeout_s, os.killpg, (process.pid, signal.SIGKILL))
        deadline.start()
        try:
            out = process.stdout.read()
            process.wait()
        except BaseException:  # interrupted: what was started ends too
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            deadline.cancel()
        usage = json.loads(figures.read() or "{}")
    if process.returncode:
        raise JobError(name, process.returncode, out)
    unit = 1 if sys.platform == "darwin" else 1024
    report = _last_line(out)
    # a job that starts its high-water mark anew for every stage tells the highest of them itself
    peak = max(usage["maxrss"] * unit, int(report.get("peak_rss_bytes", 0)))
    return Measured(name, usage["seconds"], usage["cpu_s"], peak, report)


def _environment(n_threads: int) -> dict[str, str]:
    threads = ("DASK_NUM_WORKERS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "PYTHONWARNINGS": "ignore",
        **dict.fromkeys(threads, str(n_threads)),
    }


def _last_line(out: str) -> dict[str, Any]:
    lines = out.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else {}
    except json.JSONDecodeError:  # a command for people
        return {}
    return found if isinstance(found, dict) else {}


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
    return {
        "cpu": model,
        "n_cpus": os.cpu_count(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "load_1min": round(load, 2),
        "python": platform.python_version(),
    }


def memory_bytes() -> int:
    """Return the memory that a process of this machine can have (of the container, where one has less)."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)
