"""What a run says while it runs: bars on a terminal, plain lines in pipes and logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from sc_dask.log import Stage
from sc_dask.price import readable as size

_LINE_EVERY_S = 60.0


def duration(seconds: float) -> str:
    """Return seconds as ``12 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    n = round(seconds)
    if n < 60:
        return f"{n} s"
    return f"{n // 60} min {n % 60} s" if n < 3600 else f"{n // 3600} h {n % 3600 // 60} min"


def told(stage: Stage) -> str:
    """Return the line of a finished stage."""
    if stage.params.get("resumed"):
        return f"{stage.name:<10} {'done before':>11}"
    line = f"{stage.name:<10} {stage.seconds:9.1f} s"
    if stage.passes:
        n = f"{round(stage.passes, 1):g} pass{'es' * (round(stage.passes, 1) != 1)}"
        line += f"{n:>10}{size(stage.bytes_read):>10} read"
    else:
        line += " " * 25
    return f"{line}{size(stage.peak_rss_bytes):>10} memory"


class Lines:
    """A line for every finished stage, and one a minute inside a long pass."""

    def __init__(self, say: Callable[[str], Any] = click.echo) -> None:
        self._say, self._pass, self._since, self._last = say, "", 0.0, 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def on_stage(self, stage: Stage) -> None:
        """Say nothing: the line comes at the end."""

    def on_end(self, stage: Stage) -> None:
        """Say what the stage took."""
        self._say(told(stage))

    def on_pass(self, stage: str, label: str, n_blocks: int) -> None:
        """Note when the pass began."""
        self._pass = f"{stage}: {label}"
        self._since = self._last = time.perf_counter()

    def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None:
        """Say how far the pass is, at most once a minute."""
        now = time.perf_counter()
        if now - self._last < _LINE_EVERY_S or done in (0, n_blocks):
            return
        self._last = now
        rate = done / (now - self._since)
        left = duration((n_blocks - done) / rate)
        self._say(f"  {self._pass}: {done} of {n_blocks} blocks, {rate:.1f} blocks/s, {left} left")


class Bars:
    """Progress bars for a terminal: stage, pass, blocks, rate and time left; a finished stage leaves its line."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description:<26}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            transient=True,
        )
        self._task: Any = None
        self._pass = 0
        self._since = 0.0

    def __enter__(self) -> Bars:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def on_stage(self, stage: Stage) -> None:
        """Show a bar without an end: not every stage reads blocks."""
        self._pass = 0
        self._show(stage.name, None)

    def on_end(self, stage: Stage) -> None:
        """Leave the stage's line."""
        self._clear()
        self._bar.console.print(told(stage), highlight=False, markup=False, soft_wrap=True)

    def on_pass(self, stage: str, label: str, n_blocks: int) -> None:
        """Show a bar of this pass's blocks."""
        self._pass += 1
        self._show(f"{stage}: {label} (pass {self._pass})", n_blocks)

    def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None:
        """Move the bar."""
        if self._task is None:
            return
        rate = done / max(time.perf_counter() - self._since, 1e-9)
        left = f"{duration((n_blocks - done) / rate)} left" if done else ""
        self._bar.update(self._task, completed=done, state=f"{done}/{n_blocks} blocks  {rate:.1f}/s  {left}")

    def _show(self, name: str, total: int | None) -> None:
        self._clear()
        self._since = time.perf_counter()
        self._task = self._bar.add_task(name, total=total, state="" if total is None else f"0/{total} blocks")

    def _clear(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def display() -> Bars | Lines:
    """Return bars if standard output is a terminal or a notebook, else lines."""
    notebook = "ipykernel" in sys.modules  # rich draws there too
    return Bars() if notebook or sys.stdout.isatty() else Lines()
