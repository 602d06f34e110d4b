"""The main job: counts to clusters, UMAP and markers, every stage checkpointed."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import dask

from sc_dask import __version__, config, get, log, malloc, slots, work
from sc_dask.array.engine.run import client
from sc_dask.errors import FormatError, InputError, StoreError
from sc_dask.io import commit, keys
from sc_dask.io.convert import convert
from sc_dask.io.info import Info, info
from sc_dask.io.store import Location, exists, open_group
from sc_dask.io.write import write
from sc_dask.io.zarr import is_complete
from sc_dask.io.zchunks import give_back
from sc_dask.pipeline import inputs, planning
from sc_dask.pipeline.figures import make_figures
from sc_dask.pipeline.manifest import Manifest, key_of, read_bytes, write_bytes
from sc_dask.pipeline.settings import Settings
from sc_dask.pipeline.steps import STEPS, finish
from sc_dask.versions import installed

if TYPE_CHECKING:
    from anndata import AnnData

    from sc_dask.log import Listener

STAGES = ("convert", *(s.name for s in STEPS), "write", "figures")
_SECTIONS = {s.name: s.sections for s in STEPS} | {"write": ("write",)}


@dataclass(frozen=True)
class Result:
    """Where everything is, and the figures of the run as ``run.json`` has them."""

    store: str
    figures: tuple[str, ...]
    markers: str | None
    json: str
    report: dict[str, Any]


class _Run:
    """One run: the places, the settings and the manifest that its stages share."""

    def __init__(
        self, source: Location, out: Location, facts: Info, s: Settings, listener: Listener | None, overwrite: bool
    ) -> None:
        self.source, self.out, self.facts, self.settings = source, out, facts, s
        self.listener, self.overwrite = listener, overwrite
        self.work = Location(f"{out.url}.work", out.storage_options)
        self.converts = not inputs.is_read_in_place(facts)
        state = key_of(str(source), inputs.state_of(source))
        self.keys = self._keys(state)
        self.manifest = Manifest.open(self.work, state)
        self.index = 0
        self.stages: list[dict[str, Any]] = []

    def _keys(self, state: str) -> dict[str, str]:
        """Return what every stage depends on: the input, and the options of this stage and of all before it."""
        key, out = key_of(state, __version__), {}
        for name in STAGES[:-1] if self.converts else STAGES[1:-1]:
            key = out[name] = key_of(key, name, self.settings.sections(_SECTIONS.get(name, ())))
        return out

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[list[slots.Event] | None]:
        """Run a stage, or tell that it is finished: yields the changes that it made before, None if it is to run."""
        figures = self.manifest.finished(self.index, name, self.keys[name])
        before = None if figures is None else self.manifest.events(name)
        if figures is not None and before is not None:
            with log.stage(name, self.listener, resumed=True):
                yield before
            self.stages.append(figures | {"resumed": True})
        else:
            del self.manifest.stages[self.index :]
            params = self.settings.sections(_SECTIONS.get(name, ()))
            give_back()  # what an earlier stage needed is no part of this one's memory
            with log.stage(name, self.listener, **params) as s, slots.journal() as events:
                yield None
            self.stages.append(s.as_dict())
            self.manifest.add(name, self.keys[name], s.as_dict(), events)
        self.index += 1

    def is_written(self) -> bool:
        """Tell whether the store at ``out`` is what this very run would write."""
        try:
            root = open_group(self.out)
            whole = is_complete(root, self.out)  # of an unfinished store: StoreError
            return whole and str(ad.io.read_elem(root["uns/sc_dask/run"])) == self.keys["write"]
        except (StoreError, FormatError, KeyError, ValueError):
            return False


def run(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    settings: Settings | Mapping[str, Any] | None = None,
    memory: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    out_storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    json_path: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> Result:
    """Take counts to clusters, UMAP and markers, with X never in memory.

    QC, filter, normalise, log1p, highly variable genes, PCA, neighbours, Leiden, UMAP, markers. Each stage is
    checkpointed in ``<out>.work``: the same call after a crash goes on where it was and ends with the same result. With
    other settings it goes on from the first stage that they change.

    Parameters
    ----------
    source
        Path or URL of counts: AnnData zarr or h5ad (read in place; csc is turned into rows first), 10x h5 or mtx, loom,
        csv (converted first).
    out
        Path or URL of the zarr store to make. ``figures/``, ``markers.csv`` and ``run.json`` are put beside it, so give
        every run a folder of its own.
    settings
        Options of the stages; see `sc_dask.pipeline.Settings`.
    memory
        Budget of this process in bytes; the plan must fit. None: the option ``sc-dask.memory``.
    storage_options, out_storage_options
        For the URLs; the second defaults to the first.
    overwrite
        Replace a store that stands at ``out``.
    json_path
        Where to put the report; None: ``run.json`` beside ``out``.
    listener
        Is told of stages and blocks (`sc_dask.log.Listener`).

    Returns
    -------
    Result

    Raises
    ------
    InputError, FormatError, StoreError, MemoryBudgetError
        Before X is read for all that metadata tell. What only the values tell (no counts, nothing left by the filters)
        comes from the stage that finds it. If no stage was finished, nothing stays behind.

    Passes: 4 to ``X_pca``, 1 for markers, up to 2 to write X. Memory: as `sc_dask.pipeline.plan` says.
    """
    malloc.one_arena()
    made = settings if isinstance(settings, Settings) else Settings.of(settings)
    source_at = Location.parse(source, storage_options)
    wanted = out_storage_options if out_storage_options is not None else _options_for(out, storage_options)
    out_at = Location.parse(out, wanted)
    json_at = (
        _beside(out_at, "run.json") if json_path is None else Location.parse(json_path, _options_for(json_path, wanted))
    )
    _check_places(source_at, out_at, json_at)
    facts = info(source_at, layer=made.input.layer, use_raw=made.input.use_raw)
    inputs.check_facts(facts, made)
    start = time.perf_counter()
    with dask.config.set({} if memory is None else {"sc-dask.memory": memory}):
        plan = planning.plan(facts, made)
        job = _Run(source_at, out_at, facts, made, listener, overwrite)
        with _work_area(job, plan.block_bytes):
            _check_out(job)
            if job.manifest.result is not None and job.is_written():  # killed while the work area was removed
                result = Result(**job.manifest.result, report=json.loads(read_bytes(json_at)))
            else:
                result = _stages(job, json_at, start)
            job.manifest.discard({f.name: getattr(result, f.name) for f in fields(result) if f.name != "report"})
    return result


def _stages(job: _Run, json_at: Location, start: float) -> Result:
    adata = _open(job)
    keys.check(adata)
    for step in STEPS:
        if step.name == "pca":  # the memory of a Gram matrix hangs on a number that was guessed before
            planning.plan(job.facts, job.settings, n_genes=int(adata.var["highly_variable"].sum()))
        with job.stage(step.name) as before:
            if before is not None and not step.lazy:
                slots.replay(adata, before)
            else:
                step.run(adata, job.settings)
    with job.stage("write") as before:
        finish(adata, job.settings)
        if before is None and not job.is_written():
            _write(job, adata)
    names, markers = _report(job, adata)
    report = {
        "version": __version__,
        "versions": installed(),
        "input": str(job.source),
        "output": str(job.out),
        "stages": job.stages,
        "total": _total(job.stages, time.perf_counter() - start),
    }
    write_bytes(json_at, json.dumps(report, indent=1, allow_nan=False).encode())
    return Result(str(job.out), names, markers, str(json_at), report)


# -- places --------------------------------------------------------------------------------------


def _options_for(path: str | os.PathLike[str], options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return options if options and not Location.parse(path).is_local else None


def _beside(out: Location, name: str) -> Location:
    return Location(f"{posixpath.dirname(out.url)}/{name}", out.storage_options)


def _check_places(source: Location, out: Location, json_at: Location) -> None:
    if not out.name.endswith(".zarr") or out.name == ".zarr":
        raise InputError(
            f"output {out}", "a name that ends in .zarr", f"--out {out.name.split('.')[0] or 'result'}.zarr"
        )
    here, there = (os.path.realpath(p.url) if p.is_local else p.url for p in (source, out))
    if here == there:
        raise InputError(f"input and output are both {out}", "another place for the output", "--out OTHER.zarr")
    if f"{there}/".startswith(f"{here}/") or f"{here}/".startswith(f"{there}/"):
        raise InputError(
            f"one of input {source} and output {out} is inside the other", "two places", "--out OTHER.zarr"
        )
    if out.is_local and not next(p for p in out.path.parents if p.exists()).is_dir():
        raise InputError(f"output {out} is under a file", "a folder", "--out OTHER.zarr")
    if json_at.is_local and json_at.path.is_dir():
        raise InputError(f"the place of the report, {json_at}, is a folder", "a file", f"--json {json_at}/run.json")


@contextlib.contextmanager
def _work_area(job: _Run, block_bytes: int) -> Iterator[None]:
    """Hold the work area and a folder for scratch; after an error nothing stays but finished stages."""
    made_folders = _missing_parents(job.work)
    scratch = _scratch(job)
    resources: dict[str, Any] = {"sc-dask.block-bytes": block_bytes} | (
        {"sc-dask.work-dir": scratch} if scratch else {}
    )
    try:
        with job.manifest.locked(), dask.config.set(resources):
            try:
                _clear(scratch)
                yield
            except BaseException as err:
                if job.manifest.stages:
                    err.add_note(f"Finished stages are kept in {job.work}: the same command goes on from there.")
                elif isinstance(err, KeyboardInterrupt) and exists(job.work / ".input.zarr.partial"):
                    err.add_note(f"What was converted is kept in {job.work}: the same command goes on from there.")
                elif not exists(job.work / "manifest.json"):  # which may be that of a run of another input
                    commit.remove(job.work)
                raise
            finally:
                _clear(scratch)
    finally:
        for folder in made_folders:
            with contextlib.suppress(OSError):  # not empty, as it should be
                folder.rmdir()


def _missing_parents(place: Location) -> list[Path]:
    """Return the folders, innermost first, that are made for a place on this machine."""
    return [p for p in place.path.parents if not p.exists()] if place.is_local else []


def _scratch(job: _Run) -> str | None:
    """Return the folder where passes lay blocks aside: the same for the same run, so that a killed one leaves none."""
    configured = config.get("work-dir")
    if configured is None and job.out.is_local:
        return str((job.work / "scratch").path)  # on the disk that was chosen for the result
    if configured is None and client() is not None:
        return None  # no folder is known that every worker sees
    return os.path.join(configured or work.scratch(), f"sc-dask-{key_of(job.out.url, os.getuid())}")


def _clear(folder: str | None) -> None:
    if folder is not None:
        commit.remove(Location(os.path.abspath(folder)))


def _check_out(job: _Run) -> None:
    """Find out now, not after hours, whether the store may be written.

    Raises
    ------
    StoreError, InputError
        Something stands at ``out``, and may not be replaced.
    """
    if job.manifest.holds("markers", job.keys["markers"]) and job.is_written():
        return  # killed between the store and the end
    job.manifest.stages = [s for s in job.manifest.stages if s["name"] != "write"]
    job.manifest.result = None
    try:
        commit.draft(job.out, overwrite=job.overwrite)
    except StoreError as err:
        raise StoreError(
            f"{job.out} is there already", "a free place", "add --overwrite, or name another --out"
        ) from err


# -- the first and the last stages ---------------------------------------------------------------


def _open(job: _Run) -> AnnData:
    """Return the lazy input, converted first where it cannot be read in place."""
    if not job.converts:
        block_bytes = config.n_bytes("block-bytes")
        assert block_bytes is not None
        return inputs.open_input(job.source, job.settings, name=str(job.source), block_bytes=block_bytes)
    source = job.work / "input.zarr"
    with job.stage("convert") as before, inputs.repeated_names():
        if before is None or not exists(source):
            options: dict[str, Any] = {
                "overwrite": exists(source),
                "out_storage_options": dict(source.storage_options) or None,
            }
            try:
                convert(job.source.url, source.url, storage_options=dict(job.source.storage_options) or None, **options)
            except InputError as err:  # an option of the format is missing
                by_hand = f"sc-dask convert {job.source} NEW.zarr --option KEY=VALUE, and run NEW.zarr"
                raise InputError(err.found, err.expected, f"{err.fix}: {by_hand}" if err.fix else by_hand) from err
    s = job.settings
    facts = info(source, layer=s.input.layer, use_raw=s.input.use_raw)
    inputs.check_facts(facts, s)
    block_bytes = planning.plan(facts, s).block_bytes
    unique = job.facts.kind == "10x-h5"
    return inputs.open_input(source, s, name=str(job.source), block_bytes=block_bytes, make_unique=unique)


def _write(job: _Run, adata: AnnData) -> None:
    about = {
        "version": __version__,
        "run": job.keys["write"],
        "input": str(job.source),
        "settings": json.dumps(
            {f.name: job.settings.sections([f.name]) for f in fields(job.settings)}, allow_nan=False
        ),
    }
    slots.write(adata, {("uns", "sc_dask"): about}, writer="pipeline")
    write(adata, job.out.url, storage_options=dict(job.out.storage_options) or None, overwrite=job.overwrite)


def _report(job: _Run, adata: AnnData) -> tuple[tuple[str, ...], str | None]:
    """Put figures and the table of markers beside the store."""
    names = []
    give_back()
    with log.stage("figures", job.listener) as s:
        for name, png in make_figures(adata).items():
            at = _beside(job.out, f"figures/{name}")
            write_bytes(at, png)
            names.append(str(at))
        at, markers = _beside(job.out, "markers.csv"), None
        if "rank_genes_groups" in adata.uns:
            table = get.rank_genes_groups_df(adata)
            if "group" not in table:  # one group only
                table.insert(0, "group", adata.uns["rank_genes_groups"]["names"].dtype.names[0])
            write_bytes(at, table.to_csv(index=False, float_format="%.6g").encode())
            markers = str(at)
        elif at.is_local:
            at.path.unlink(missing_ok=True)  # of an earlier run: not this one's markers
    job.stages.append(s.as_dict())
    return tuple(names), markers


def _total(stages: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Add up the stages; seconds are those of this call and, of a resumed run, of the stages before."""
    return {
        "seconds": round(seconds + sum(s["seconds"] for s in stages if s.get("resumed")), 4),
        "passes": round(sum(s["passes"] for s in stages), 4),
        "bytes_read": sum(s["bytes_read"] for s in stages),
        "peak_rss_bytes": max(s["peak_rss_bytes"] for s in stages),
    }
