"""The logger ``sc_dask`` and the running stage: what it read, how long it took, its peak memory.

``with stage("pca") as s: ...`` opens a stage; passes over X made inside are added to it by
``sc_dask.array.engine.run``. A front end (the pipeline, a notebook) listens by giving ``stage`` a
``listener``.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from sc_dask.errors import ScDaskWarning

logger = logging.getLogger("sc_dask")
HINT = (logging.INFO + logging.DEBUG) // 2  # scanpy's level of advice
logging.addLevelName(HINT, "HINT")


class Listener(Protocol):
    """What a front end implements to show progress."""

    def on_stage(self, stage: Stage) -> None: ...
    def on_end(self, stage: Stage) -> None: ...
    def on_pass(self, stage: str, label: str, n_blocks: int) -> None: ...
    def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None: ...


@dataclass
class Stage:
    """Figures of one stage; ``passes`` counts how often all of X was read (a part of X counts as a part)."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    passes: float = 0.0
    bytes_read: int = 0
    peak_rss_bytes: int = 0
    listener: Listener | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as ``run.json`` holds them."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 4),
            "passes": round(self.passes, 4),
            "bytes_read": int(self.bytes_read),
            "peak_rss_bytes": int(self.peak_rss_bytes),
            "params": self.params,
        }


_current: ContextVar[Stage | None] = ContextVar("sc_dask_stage", default=None)


def current_stage() -> Stage | None:
    """Return the stage that is running here, or None."""
    return _current.get()


def reset_peak_rss() -> bool:
    """Start a new high-water mark of this process's memory; False where the system cannot (not Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_rss_bytes() -> int:
    """Return this process's memory high-water mark in bytes, as the operating system has it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(rss if sys.platform == "darwin" else rss * 1024)


def rounds(label: str) -> Callable[[int, int], None] | None:
    """Return a function of the rounds done and in all that tells the stage's listener; None if nobody listens."""
    s = current_stage()
    if s is None or s.listener is None:
        return None
    name, listener = s.name, s.listener

    def tell(done: int, of: int) -> None:
        if done == 1:
            listener.on_pass(name, label, of)
        listener.on_block(name, done, of, 0)

    return tell


@contextlib.contextmanager
def warnings_told() -> Iterator[list[str]]:
    """Note what is warned of inside, by the logger or as a `ScDaskWarning`; it is shown as ever."""
    told: list[str] = []
    shown = warnings.showwarning

    def note(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            told.append(record.getMessage())
        return True

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, ScDaskWarning):
            told.append(str(message))
        shown(message, category, *where, **more)

    logger.addFilter(note)
    warnings.showwarning = show
    try:
        yield told
    finally:
        warnings.showwarning = shown
        logger.removeFilter(note)


@contextlib.contextmanager
def stage(name: str, listener: Listener | None = None, **params: Any) -> Iterator[Stage]:
    """Open a stage; its figures are complete when the block ends."""
    s = Stage(name, dict(params), listener=listener)
    reset_peak_rss()
    start = time.perf_counter()
    token = _current.set(s)
    if listener:
        listener.on_stage(s)
    try:
        yield s
    finally:
        _current.reset(token)
        s.seconds = time.perf_counter() - start
        s.peak_rss_bytes = max(s.peak_rss_bytes, peak_rss_bytes())
    if listener:
        listener.on_end(s)
    logger.info("%s: %.2f s, %.2f passes, %.1f MB read", name, s.seconds, s.passes, s.bytes_read / 1e6)


def begin(what: str) -> float:
    """Say that a step begins, and return the time; `finished` says that it ended."""
    logger.info(what)
    return time.perf_counter()


def finished(since: float, added: Iterable[str] = ()) -> None:
    """Say that a step ended and how long it took; and, as a hint, what it ``added``."""
    logger.info("    finished (%s)", timedelta(seconds=int(time.perf_counter() - since)))
    lines = [f"    {what}" for what in added]
    if lines:
        logger.log(HINT, "added\n%s", "\n".join(lines))
