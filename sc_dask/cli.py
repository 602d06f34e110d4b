"""The command ``sc-dask``."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from sc_dask import __version__, malloc
from sc_dask.errors import InputError, ScDaskError, ScDaskWarning, StoreError

_DEMO_SETTINGS = {
    "filter": {"min_genes": 200, "min_cells": 3, "max_genes": 2499, "max_pct_mt": 5},
    "neighbors": {"n_neighbors": 10, "n_pcs": 40},
    "leiden": {"resolution": 0.9},
}


class _Commands(click.Group):
    """Turns errors that are the user's to mend into one sentence and exit code 2, and Ctrl-C into 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _our_warnings():
                return super().invoke(ctx)
        except ScDaskError as err:
            _end(ctx, err, str(err), 2)
        except KeyboardInterrupt as err:
            _end(ctx, err, "interrupted", 130)
        except BrokenPipeError:
            raise  # of ``| head``; click ends quietly
        except OSError as err:  # a full disk, a folder that may not be written, a lost connection
            where = f": {err.filename}" if err.filename else ""
            _end(ctx, err, f"{err.strerror or err}{where}", 2)
        except MemoryError as err:
            _end(ctx, err, "memory ran out; next: --memory with less than this machine has, or a larger machine", 2)


@contextlib.contextmanager
def _our_warnings() -> Iterator[None]:
    """Show our own warnings as one line each, and those of libraries only to who asks for them (python -W)."""

    def show(message: Warning | str, *where: Any) -> None:
        click.echo(f"warning: {message}", err=True)

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", ScDaskWarning)
            warnings.showwarning = show  # type: ignore[assignment]
        yield


def _end(ctx: click.Context, err: BaseException, message: str, code: int) -> NoReturn:
    click.echo(f"sc-dask: {message}", err=True)
    for note in getattr(err, "__notes__", ()):
        click.echo(note, err=True)
    ctx.exit(code)


def _storage_options(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any] | None:
    """Return ``k=v`` pairs as a nested dict: ``client_kwargs.endpoint_url=...``; true, false and numbers as such."""
    out: dict[str, Any] = {}
    for pair in values:
        key, sep, value = pair.partition("=")
        if not sep or not all(key.split(".")):
            raise click.BadParameter(f"{pair!r} is not of the form key=value")
        at = out
        *parents, last = key.split(".")
        for p in parents:
            at = at.setdefault(p, {})
            if not isinstance(at, dict):
                raise click.BadParameter(f"{pair!r} needs {p!r} to hold options, and it has a value")
        try:
            at[last] = json.loads(value)
        except json.JSONDecodeError:
            at[last] = value
    return out or None


def _options_for(options: dict[str, Any] | None, *places: str | None) -> list[dict[str, Any] | None]:
    """Return the storage options for each place: those of URLs; a path of this machine takes none."""
    from sc_dask.io.blobs.store import Location

    remote = [p is not None and not Location.parse(p).is_local for p in places]
    if options and not any(remote):
        raise InputError(f"--storage-option {next(iter(options))}=..., and no URL", "a URL such as s3://bucket/atlas.zarr",
                         "leave it out")  # fmt: skip
    return [options if r else None for r in remote]


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from dask.utils import parse_bytes

    try:
        n = int(parse_bytes(value))
    except ValueError as err:
        raise click.BadParameter(f"{value!r} is not a size such as 4GiB") from err
    if n <= 0:
        raise click.BadParameter(f"{value!r} is not a size above 0")
    return n


def _storage_option() -> Callable[..., Any]:
    return click.option(
        "--storage-option", "storage_options", multiple=True, callback=_storage_options, metavar="KEY=VALUE",
        help="For URLs, as fsspec takes them: anon=true, client_kwargs.endpoint_url=... (may be repeated).",
    )  # fmt: skip


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        _storage_option(),
        click.option("--no-counts", is_flag=True, help="Leave raw counts (layers/counts) out of the result."),
        click.option("--config", "config_path", metavar="FILE", help="YAML file with options of the stages."),
        click.option("--memory", callback=_bytes, metavar="SIZE", help="Memory budget, for instance 4GiB."),
    ):  # fmt: skip
        command = option(command)
    return command


def _settings(path: str | None, no_counts: bool) -> Any:
    from dataclasses import replace

    made = _settings_of(path)
    return replace(made, write=replace(made.write, counts=False)) if no_counts else made


def _settings_of(path: str | None) -> Any:
    from sc_dask.pipeline.settings import Settings

    if path is None:
        return Settings()
    import yaml

    try:
        given = yaml.safe_load(Path(path).read_text())
    except OSError as err:
        raise InputError(f"{path} cannot be read ({err.strerror})", "a YAML file with options") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise InputError(f"{path} is not YAML: {' '.join(str(err).split())}", "sections with options") from err
    if given is not None and not isinstance(given, dict):
        raise InputError(f"{path} holds no sections", "sections with options, for instance 'pca: {n_comps: 30}'")
    try:
        return Settings.of(given)
    except InputError as err:
        raise InputError(f"{path}: {err.found}", err.expected, err.fix) from err


def _say_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from sc_dask.versions import as_text

    click.echo(as_text() if ctx.params.get("verbose") else f"sc-dask, version {__version__}")
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--verbose", is_flag=True, is_eager=True, help="With --version: also what it needs and finds installed.")
@click.option("--version", is_flag=True, expose_value=False, callback=_say_version, help="Show the version and exit.")
def main(verbose: bool) -> None:
    """Single-cell RNA-seq atlases that do not fit in memory: from counts to clusters."""
    if verbose:
        raise click.UsageError("--verbose goes with --version")
    malloc.one_arena()


@main.command()
@click.argument("source", metavar="INPUT")
@click.option("--out", required=True, metavar="OUT.zarr", help="The store to make; a path or URL.")
@click.option("--json", "json_path", metavar="FILE", help="Where to put the report [beside OUT: run.json].")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there, and the files beside it of its run.")
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
    no_counts: bool,
    storage_options: dict[str, Any] | None,
) -> None:
    """Run INPUT from counts to clusters, UMAP and markers.

    Beside OUT stand figures/, markers.csv and run.json: give every run a folder of its own. The same command after a
    crash goes on where it was, and after its end does nothing.
    """
    settings = _settings(config_path, no_counts)
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
    from sc_dask.pipeline import progress
    from sc_dask.pipeline import run as run_pipeline

    for_source, for_out, _ = _options_for(storage_options, source, out, json_path)
    with cluster.client(scheduler), progress.display() as listener:
        result = run_pipeline(
            source,
            out,
            settings=settings,
            memory=memory,
            storage_options=for_source,
            out_storage_options=for_out,
            overwrite=overwrite,
            json_path=json_path,
            listener=listener,
        )
    if result.was_there:
        click.echo(f"nothing to do: {result.store} is the result of this very run (same input, options and version)")
        return
    total = result.report["total"]
    click.echo(
        f"done in {progress.duration(total['seconds'])}: {total['passes']:.0f} passes over X, "
        f"{progress.size(total['bytes_read'])} read, peak memory {progress.size(total['peak_rss_bytes'])}"
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
    source: str,
    as_json: bool,
    memory: int | None,
    config_path: str | None,
    no_counts: bool,
    storage_options: dict[str, Any] | None,
) -> None:
    """Print what a run of INPUT will cost, before anything runs."""
    from sc_dask.io.info import info as read_info
    from sc_dask.pipeline import inputs
    from sc_dask.pipeline import plan as make_plan
    from sc_dask.pipeline.planning import as_dict, as_text

    settings = _settings(config_path, no_counts)
    (options,) = _options_for(storage_options, source)
    file_info = read_info(source, storage_options=options, layer=settings.input.layer, use_raw=settings.input.use_raw)
    inputs.check_info(file_info, settings)
    made = make_plan(file_info, settings, memory)
    click.echo(json.dumps(as_dict(made)) if as_json else as_text(made, file_info))


@main.command()
@click.argument("source", metavar="INPUT")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_storage_option()
def info(source: str, as_json: bool, storage_options: dict[str, Any] | None) -> None:
    """Print what INPUT holds; its matrix is not read."""
    from dataclasses import asdict

    from sc_dask.io.info import as_text
    from sc_dask.io.info import info as read_info

    (options,) = _options_for(storage_options, source)
    file_info = read_info(source, storage_options=options)
    click.echo(json.dumps(asdict(file_info)) if as_json else as_text(file_info))


@main.command()
@click.argument("source", metavar="INPUT")
@click.argument("out", metavar="OUT.zarr")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
@click.option("--option", "options", multiple=True, callback=_storage_options, metavar="KEY=VALUE",
              help="Options of the format, for instance genome=hg19.")  # fmt: skip
@_storage_option()
def convert(
    source: str, out: str, overwrite: bool, options: dict[str, Any] | None, storage_options: dict[str, Any] | None
) -> None:
    """Convert INPUT (h5ad, 10x h5 or mtx, loom, csv...) to a sharded zarr store.

    The same command after a crash goes on where it was.
    """
    from sc_dask import log
    from sc_dask.io.convert import convert as run_convert
    from sc_dask.pipeline import progress

    for_source, for_out = _options_for(storage_options, source, out)
    reserved = {"storage_options", "out_storage_options", "overwrite", "resume", "block_bytes", "shard_bytes"}
    if reserved & set(options or {}):
        raise InputError(
            f"--option {min(reserved & set(options or {}))}", "an option of the format", "sc-dask convert --help"
        )
    with _overwrite_as_option(), progress.display() as listener, log.stage("convert", listener):
        made = run_convert(
            source, out, storage_options=for_source, out_storage_options=for_out, overwrite=overwrite, **(options or {})
        )
    click.echo(f"{out}: {made.n_obs:,} cells x {made.n_vars:,} genes")


@contextlib.contextmanager
def _overwrite_as_option() -> Iterator[None]:
    """Name the option of the command line where an error names that of Python."""
    try:
        yield
    except StoreError as err:
        if err.fix and "overwrite=True" in err.fix:
            raise StoreError(err.found, err.expected, err.fix.replace("overwrite=True", "--overwrite")) from err
        raise


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="INPUT...")
@click.option("--out", required=True, metavar="OUT.zarr", help="The store to make; a path or URL.")
@click.option("--join", type=click.Choice(["inner", "outer"]), default="inner", show_default=True,
              help="Genes that all have, or that any has.")  # fmt: skip
@click.option("--label", metavar="NAME", help="Column of obs that tells where a cell comes from.")
@click.option("--keys", metavar="A,B,...", help="A name for each INPUT [0,1,...].")
@click.option("--index-unique", metavar="SEP", help="Join cell names and keys by SEP: AAAC-A.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there.")
@_storage_option()
def concat(
    sources: tuple[str, ...],
    out: str,
    join: Literal["inner", "outer"],
    label: str | None,
    keys: str | None,
    index_unique: str | None,
    overwrite: bool,
    storage_options: dict[str, Any] | None,
) -> None:
    """Write the cells of all INPUTs (AnnData zarr, h5ad) below each other to a sharded zarr store."""
    from sc_dask import log
    from sc_dask.io.concat import concat as joined
    from sc_dask.io.write import write
    from sc_dask.pipeline import progress

    *for_sources, for_out = _options_for(storage_options, *sources, out)
    adata = joined(
        sources,
        join=join,
        label=label,
        keys=keys.split(",") if keys else None,
        index_unique=index_unique,
        storage_options=next((o for o in for_sources if o), None),
    )
    with _overwrite_as_option(), progress.display() as listener, log.stage("concat", listener):
        write(adata, out, storage_options=for_out, overwrite=overwrite, narrow=True)
    click.echo(f"{out}: {adata.n_obs:,} cells x {adata.n_vars:,} genes")


@main.command()
@click.option("--out", default="demo/pbmc3k.zarr", show_default=True, metavar="OUT.zarr")
@click.option("--memory", callback=_bytes, metavar="SIZE", help="Memory budget, for instance 4GiB.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there, and the files beside it of its run.")
def demo(out: str, memory: int | None, overwrite: bool) -> None:
    """Run the pipeline on PBMC3k: 2,700 blood cells of 10x Genomics, or on simulated cells without a network."""
    from sc_dask import datasets
    from sc_dask.pipeline import Settings

    source, what = datasets.demo_source(Path(out).parent)
    click.echo(what)
    real = what.startswith("input: PBMC3k")
    settings = Settings.of(_DEMO_SETTINGS if real else {"neighbors": {"n_pcs": 30}})
    _run(str(source), out, settings, memory, overwrite=overwrite)


if __name__ == "__main__":
    main()
