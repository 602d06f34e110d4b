"""The command ``sc-dask``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sc_dask.errors import InputError, ScDaskError
from sc_dask.log import Stage

_DEMO_SETTINGS = {
    "filter": {"min_genes": 200, "min_cells": 3, "max_genes": 2499, "max_pct_mt": 5},
    "neighbors": {"n_neighbors": 10, "n_pcs": 40},
    "leiden": {"resolution": 0.9},
}


class _Commands(click.Group):
    """Turns errors that are the user's to mend into one sentence and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ScDaskError as err:
            click.echo(f"sc-dask: {err}", err=True)
            ctx.exit(2)


def _storage_options(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any] | None:
    """Return ``k=v`` pairs as a nested dict: ``client_kwargs.endpoint_url=...``; true, false and numbers as such."""
    out: dict[str, Any] = {}
    for pair in values:
        key, sep, value = pair.partition("=")
        if not sep or not key:
            raise click.BadParameter(f"{pair!r} is not of the form key=value")
        at = out
        *parents, last = key.split(".")
        for p in parents:
            at = at.setdefault(p, {})
        try:
            at[last] = json.loads(value)
        except json.JSONDecodeError:
            at[last] = value
    return out or None


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from dask.utils import parse_bytes

    try:
        return int(parse_bytes(value))
    except ValueError as err:
        raise click.BadParameter(f"{value!r} is not a size such as 4GiB") from err


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--storage-option", "storage_options", multiple=True, callback=_storage_options, metavar="KEY=VALUE",
                     help="For URLs, as fsspec takes them (anon=true, client_kwargs.endpoint_url=...)."),
        click.option("--config", "config_path", type=click.Path(dir_okay=False), help="YAML file with options of the stages."),
        click.option("--memory", callback=_bytes, metavar="SIZE", help="Memory budget, for instance 4GiB."),
    ):  # fmt: skip
        command = option(command)
    return command


def _settings(path: str | None) -> Any:
    from sc_dask.pipeline.settings import Settings

    if path is None:
        return Settings()
    import yaml

    try:
        given = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as err:
        raise InputError(f"no file {path}", "a YAML file with options") from err
    except yaml.YAMLError as err:
        raise InputError(f"{path} is not YAML: {' '.join(str(err).split())}", "sections with options") from err
    if given is not None and not isinstance(given, dict):
        raise InputError(
            f"{path} holds a {type(given).__name__}", "sections with options, for instance 'pca: {n_comps: 30}'"
        )
    return Settings.of(given)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sc-dask")
def main() -> None:
    """Single-cell RNA-seq atlases that do not fit in memory: from counts to clusters."""


@main.command()
@click.argument("source", metavar="INPUT")
@click.option("--out", required=True, metavar="OUT.zarr", help="The store to make; a path or URL.")
@click.option("--json", "json_path", metavar="FILE", help="Where to put the report [beside OUT: run.json].")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Compute on a Dask cluster; 'processes' starts one here.")
@_common
def run(
    source: str,
    out: str,
    json_path: str | None,
    overwrite: bool,
    scheduler: str | None,
    memory: int | None,
    config_path: str | None,
    storage_options: dict[str, Any] | None,
) -> None:
    """Run INPUT from counts to clusters, UMAP and markers.

    The same command after a crash goes on where it was.
    """
    settings = _settings(config_path)
    _run(source, out, settings, memory, storage_options, overwrite, json_path, scheduler)


def _run(
    source: str,
    out: str,
    settings: Any,
    memory: int | None = None,
    storage_options: dict[str, Any] | None = None,
    overwrite: bool = False,
    json_path: str | None = None,
    scheduler: str | None = None,
) -> None:
    from sc_dask import cluster
    from sc_dask.pipeline import run as run_pipeline

    with cluster.client(scheduler), _progress() as listener:
        result = run_pipeline(
            source,
            out,
            settings=settings,
            memory=memory,
            storage_options=storage_options if "://" in source else None,
            out_storage_options=storage_options if "://" in out else None,
            overwrite=overwrite,
            json_path=json_path,
            listener=listener,
        )
    total = result.report["total"]
    click.echo(
        f"done in {total['seconds']:.0f} s, {total['passes']:.1f} passes over X, "
        f"{_size(total['bytes_read'])} read, peak memory {_size(total['peak_rss_bytes'])}"
    )
    click.echo(f"store    {result.store}")
    if result.figures:
        click.echo(f"figures  {result.figures[0].rsplit('/', 1)[0]}/ ({len(result.figures)} PNG files)")
    if result.markers:
        click.echo(f"markers  {result.markers}")
    click.echo(f"report   {result.json}")


@main.command()
@click.argument("source", metavar="INPUT")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_common
def plan(
    source: str, as_json: bool, memory: int | None, config_path: str | None, storage_options: dict[str, Any] | None
) -> None:
    """Print what a run of INPUT will cost, before anything runs."""
    from sc_dask.io.info import info as read_info
    from sc_dask.pipeline import plan as make_plan
    from sc_dask.pipeline.planning import as_table

    settings = _settings(config_path)
    facts = read_info(source, storage_options=storage_options)
    if facts.shape is None:
        raise InputError(
            f"{facts.url} is a {facts.kind} file, which a run converts first", "AnnData zarr or h5ad",
            f"sc-dask convert {source} OUT.zarr",
        )  # fmt: skip
    made = make_plan(facts, settings, memory)
    if as_json:
        click.echo(
            json.dumps({"stages": as_table(made), "block_bytes": made.block_bytes, "peak_bytes": made.peak_bytes})
        )
        return
    click.echo(f"{facts.url}: {facts.shape[0]:,} cells x {facts.shape[1]:,} genes, {facts.n_nonzeros:,} stored values")
    click.echo(
        f"{made.n_threads} threads, blocks of {_size(made.block_bytes)}"
        + (f", budget {_size(memory)}" if memory else "")
    )
    click.echo(f"{'stage':<11}{'passes':>7}{'read':>11}{'tasks':>8}{'peak memory':>13}")
    for st in made.stages:
        click.echo(f"{st.name:<11}{st.passes:>7}{_size(st.bytes_read):>11}{st.tasks:>8}{_size(st.peak_bytes):>13}")
    passes = sum(st.passes for st in made.stages)
    tasks = sum(st.tasks for st in made.stages)
    click.echo(f"{'total':<11}{passes:>7}{_size(made.total_bytes):>11}{tasks:>8}{_size(made.peak_bytes):>13}")


@main.command()
@click.argument("source", metavar="INPUT")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--storage-option", "storage_options", multiple=True, callback=_storage_options, metavar="KEY=VALUE")
def info(source: str, as_json: bool, storage_options: dict[str, Any] | None) -> None:
    """Print what INPUT holds; its matrix is not read."""
    from dataclasses import asdict

    from sc_dask.io.info import info as read_info

    facts = asdict(read_info(source, storage_options=storage_options))
    if as_json:
        click.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        if value is not None:
            shown = (
                f"{value:,}"
                if isinstance(value, int)
                else " x ".join(f"{v:,}" for v in value)
                if isinstance(value, tuple)
                else value
            )
            click.echo(f"{key:<13}{shown}")


@main.command()
@click.argument("source", metavar="INPUT")
@click.argument("out", metavar="OUT.zarr")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
@click.option("--option", "options", multiple=True, callback=_storage_options, metavar="KEY=VALUE",
              help="Options of the format, for instance genome=hg19.")  # fmt: skip
@click.option("--storage-option", "storage_options", multiple=True, callback=_storage_options, metavar="KEY=VALUE")
def convert(
    source: str, out: str, overwrite: bool, options: dict[str, Any] | None, storage_options: dict[str, Any] | None
) -> None:
    """Convert INPUT (h5ad, 10x h5 or mtx, loom, csv...) to a sharded zarr store."""
    from sc_dask import log
    from sc_dask.io.convert import convert as run_convert

    with _progress() as listener, log.stage("convert", listener):
        made = run_convert(
            source,
            out,
            storage_options=storage_options if "://" in source else None,
            out_storage_options=storage_options if "://" in out else None,
            overwrite=overwrite,
            **(options or {}),
        )
    click.echo(f"{out}: {made.n_obs:,} cells x {made.n_vars:,} genes")


@main.command()
@click.option("--out", default="demo/pbmc3k.zarr", show_default=True, metavar="OUT.zarr")
@click.option("--memory", callback=_bytes, metavar="SIZE", help="Memory budget, for instance 4GiB.")
def demo(out: str, memory: int | None) -> None:
    """Run the pipeline on PBMC3k: 2,700 blood cells of 10x Genomics, or on simulated cells without a network."""
    from sc_dask import datasets
    from sc_dask.pipeline import Settings

    source, what = datasets.demo_source(Path(out).parent)
    click.echo(what)
    settings = (
        Settings.of(_DEMO_SETTINGS) if what.startswith("input: PBMC3k") else Settings.of({"neighbors": {"n_pcs": 30}})
    )
    _run(str(source), out, settings, memory, overwrite=True)


# -- progress ------------------------------------------------------------------------------------


def _size(n: int | None) -> str:
    if n is None:
        return "?"
    value = float(n)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


class _Lines:
    """Plain lines for pipes and logs: one when a stage starts to read, one when it has read."""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def on_stage(self, stage: Stage) -> None:
        pass

    def on_end(self, stage: Stage) -> None:
        click.echo(_told(stage))

    def on_pass(self, stage: str, label: str, n_blocks: int) -> None:
        pass

    def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None:
        pass


def _told(stage: Stage) -> str:
    read = f", {stage.passes:.1f} passes, {_size(stage.bytes_read)} read" if stage.passes else ""
    return f"{stage.name:<11}{stage.seconds:7.1f} s{read}, peak memory {_size(stage.peak_rss_bytes)}"


class _Bars:
    """Progress bars for a terminal: stage, blocks, rate and time left; a finished stage leaves its line."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} blocks  {task.fields[rate]}"),
            TimeRemainingColumn(),
            transient=True,
        )
        self._task: Any = None
        self._pass = 0
        self._since = 0.0

    def __enter__(self) -> _Bars:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def on_stage(self, stage: Stage) -> None:
        self._clear()
        self._pass = 0
        self._task = self._bar.add_task(stage.name, total=None, rate="")

    def on_end(self, stage: Stage) -> None:
        self._clear()
        self._bar.console.print(_told(stage), highlight=False)

    def on_pass(self, stage: str, label: str, n_blocks: int) -> None:
        self._clear()
        self._pass += 1
        self._since = time.perf_counter()
        self._task = self._bar.add_task(f"{stage}: {label} (pass {self._pass})", total=n_blocks, rate="")

    def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None:
        rate = done / max(time.perf_counter() - self._since, 1e-9)
        if self._task is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:.1f} blocks/s")

    def _clear(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def _progress() -> _Bars | _Lines:
    return _Bars() if sys.stdout.isatty() else _Lines()


if __name__ == "__main__":
    main()
