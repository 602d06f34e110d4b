"""The main job: counts to clusters, UMAP and markers, every stage checkpointed."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask

from sc_dask import __version__, config, get, log, malloc, slots, work
from sc_dask.array.engine.run import client
from sc_dask.errors import InputError, StoreError
from sc_dask.io.blobs.store import exists, revision_of
from sc_dask.io.blobs.zchunks import give_back
from sc_dask.io.convert import convert
from sc_dask.io.info import Info, info
from sc_dask.io.write import write
from sc_dask.io.writing import commit, keys
from sc_dask.pipeline import again, inputs, places, planning
from sc_dask.pipeline.figures import make_figures
from sc_dask.pipeline.manifest import Manifest, key_of, write_bytes
from sc_dask.pipeline.places import Places
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
    was_there: bool = False  # the store of this very run was there: nothing was done


class _Run:
    """One run: the places, the settings and the manifest that its stages share."""

    def __init__(self, at: Places, file_info: Info, s: Settings, listener: Listener | None, overwrite: bool) -> None:
        self.at, self.source, self.out, self.work = at, at.source, at.out, at.work
        self.known, self.settings, self.listener, self.overwrite = file_info, s, listener, overwrite
        self.converts = not inputs.is_read_in_place(file_info)
        real = os.path.realpath(self.source.url) if self.source.is_local else str(self.source)
        self.state = key_of(real, inputs.state_of(self.source))
        self.keys = self._keys(self.state)
        self.about = again.about(self.source, inputs.summary_of(self.source), s, self.keys["write"])
        self.manifest = Manifest(self.work, self.state)
        self.index = 0
        self.stages: list[dict[str, Any]] = []
        self.notes: dict[str, Any] = {}  # what the running stage tells beside its figures

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
            self.notes = {}
            with log.warnings_told() as told, log.stage(name, self.listener, **params) as s, slots.journal() as events:
                yield None
            figures = s.as_dict() | self.notes | {"warnings": told}
            self.stages.append(figures)
            self.manifest.add(name, self.keys[name], figures, events)
        self.index += 1

    def is_there(self) -> bool:
        """Tell whether the store at ``out`` is what this very run would write."""
        then = again.read_about(self.out)
        return then is not None and str(then["run"]) == self.keys["write"]

    def is_written(self) -> bool:
        """Tell whether the store at ``out`` was written from this work area."""
        begun = self.manifest.replaces is not None
        return begun and self.manifest.replaces != self.state_of_out() and self.is_there()

    def state_of_out(self) -> str:
        """Return the state of the store at ``out``; "" if there is none."""
        return revision_of(self.out) if commit.is_store(self.out) else ""


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
    other settings it goes on from the first stage that they change. The same call after its end does nothing. The
    result holds log-normalised X, the counts as a layer, and what the stages write.

    Parameters
    ----------
    source
        Path or URL of counts: AnnData zarr or h5ad (read in place; csc is turned into rows first), 10x h5 or mtx, loom,
        csv (converted first).
    out
        Path or URL of the zarr store to make; a link means what it points to. ``figures/``, ``markers.csv`` and
        ``run.json`` are put beside it, so give every run a folder of its own: those of another are not replaced.
    settings
        Options of the stages; see `sc_dask.pipeline.Settings`.
    memory
        Budget of this process in bytes; the plan must fit. None: the option ``sc-dask.memory``.
    storage_options, out_storage_options
        For the URLs; the second defaults to the first.
    overwrite
        Replace a store that stands at ``out``, and the files beside it that the report of its run lists.
    json_path
        Where to put the report; None: ``run.json`` beside ``out``.
    listener
        Is told of stages and blocks (`sc_dask.log.Listener`).

    Returns
    -------
    Result; ``was_there`` if the same run was finished before, and nothing was done.

    Raises
    ------
    InputError, FormatError, StoreError, MemoryBudgetError
        Before X is read for all that metadata tell. What only the values tell (no counts, nothing left by the filters)
        comes from the stage that finds it. If no stage was finished, nothing stays behind.

    Passes: 4 to ``X_pca``, 1 for markers, up to 2 to write X and the counts. Memory: as `sc_dask.pipeline.plan` says.
    """
    malloc.one_arena()
    made = settings if isinstance(settings, Settings) else Settings.of(settings)
    at = Places.of(source, out, json_path, storage_options, out_storage_options)
    places.check(at)
    file_info = info(at.source, layer=made.input.layer, use_raw=made.input.use_raw)
    inputs.check_info(file_info, made)
    start = time.perf_counter()
    with dask.config.set({} if memory is None else {"sc-dask.memory": memory}):
        plan = planning.plan(file_info, made)
        job = _Run(at, file_info, made, listener, overwrite)
        if exists(job.work / "manifest.json"):
            job.manifest = Manifest.open(job.work, job.state)
        if not overwrite and job.manifest.replaces is None and job.is_there():
            return _found(job)
        with _work_area(job, plan), places.folder_held(at):
            _check_out(job)
            report = _report_of(job) if job.manifest.result is not None and job.is_written() else None
            killed_at_last = report is not None  # while the work area was removed
            result = replace(_found(job), was_there=False) if killed_at_last else _stages(job, start)
            job.manifest.discard({f.name: getattr(result, f.name) for f in fields(result) if f.name != "report"})
    return result


def _found(job: _Run) -> Result:
    """Return the result of this very run, which was finished before, and touch nothing."""
    at = job.at
    report = _report_of(job)
    if report is None:
        if at.report != at.beside(places.REPORT):
            raise StoreError(
                f"{at.out} is there already, finished by this very run, and its report is not at {at.report}",
                "the report where it was put",
                "leave --json out, or add --overwrite",
            )
        report = {}
    files = [name for name in report.get("files", ()) if name in places.BESIDE and exists(at.beside(name))]
    drawn = tuple(str(at.beside(name)) for name in files if name != places.MARKERS)
    markers = str(at.beside(places.MARKERS)) if places.MARKERS in files else None
    return Result(str(at.out), drawn, markers, str(at.report), report, was_there=True)


def _report_of(job: _Run) -> dict[str, Any] | None:
    """Return the report of this very run, if it is there."""
    found = places.report_at(job.at.report)
    return found if found is not None and found.get("run") == job.keys["write"] else None


def _stages(job: _Run, start: float) -> Result:
    adata = _open(job)
    keys.check(adata)
    for step in STEPS:
        options = {}
        if step.name == "pca":  # the memory of a Gram matrix hangs on a number that was guessed before
            made = planning.plan(job.known, job.settings, n_genes=int(adata.var["highly_variable"].sum()))
            options = planning.threads_of(made)
        with dask.config.set(options), job.stage(step.name) as before:
            if before is not None and not step.lazy:
                slots.replay(adata, before)
            else:
                kept = step.run(adata, job.settings)
                job.notes = {"n_obs": adata.n_obs, "n_vars": adata.n_vars} | ({"kept": kept} if kept else {})
    with job.stage("write") as before:
        finish(adata, job.settings)
        if before is None and not job.is_written():
            _write(job, adata)
        job.notes = {"n_obs": adata.n_obs, "n_vars": adata.n_vars}
    names, markers = _report(job, adata)
    files = [name for name in places.BESIDE if name in job.manifest.files]
    report = {
        "version": __version__,
        "versions": installed(),
        "input": str(job.source),
        "input_state": job.about["input_state"],
        "output": str(job.out),
        "run": job.keys["write"],
        "files": files,
        "n_obs": adata.n_obs,
        "n_vars": adata.n_vars,
        "n_clusters": len(adata.obs["leiden"].cat.categories),
        "recall": float(adata.uns["neighbors"]["params"]["recall"]),
        "warnings": [f"{s['name']}: {text}" for s in job.stages for text in s["warnings"]],
        "stages": job.stages,
        "total": _total(job.stages, time.perf_counter() - start),
    }
    write_bytes(job.at.report, json.dumps(report, indent=1, allow_nan=False).encode())
    return Result(str(job.out), names, markers, str(job.at.report), report)


# -- places ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _work_area(job: _Run, plan: planning.RunPlan) -> Iterator[None]:
    """Hold the work area and a folder for scratch; after an error nothing stays but finished stages."""
    scratch = _scratch(job)
    made_folders = [*places.missing_parents(job.work), *(places.missing_parents(scratch) if scratch else ())]
    resources: dict[str, Any] = {"sc-dask.block-bytes": plan.block_bytes} | planning.threads_of(plan)
    resources |= {"sc-dask.work-dir": str(scratch)} if scratch else {}
    try:
        with job.manifest.locked(), dask.config.set(resources):
            try:
                if scratch is not None:
                    work.release(scratch)  # of a run that was killed
                    work.claim(scratch)
                yield
            except BaseException as err:
                if job.manifest.stages:
                    err.add_note(f"Finished stages are kept in {job.work}: the same command goes on from there.")
                elif isinstance(err, KeyboardInterrupt) and exists(job.work / ".input.zarr.partial"):
                    err.add_note(f"What was converted is kept in {job.work}: the same command goes on from there.")
                elif not exists(job.work / "manifest.json"):  # which may be that of a run of another input
                    job.manifest.clear()
                raise
            finally:
                if scratch is not None:
                    work.release(scratch)
    finally:
        for folder in made_folders:
            with contextlib.suppress(OSError):  # not empty, as it should be
                folder.rmdir()


def _scratch(job: _Run) -> Path | None:
    """Return the folder where passes spill blocks: the same for the same run, so that a killed one leaves none."""
    configured = config.get("work-dir")
    if configured is None and job.out.is_local:
        return (job.work / "scratch").path  # on the disk that was chosen for the result
    if configured is None and client() is not None:
        return None  # no folder is known that every worker sees
    return Path(os.path.abspath(configured or work.scratch()), f"sc-dask-{key_of(job.out.url, os.getuid())}")


def _check_out(job: _Run) -> None:
    """Find out now, not after hours, whether the store and the files beside it may be written.

    Raises
    ------
    StoreError, InputError
        Something stands at ``out`` or beside it, and may not be replaced.
    """
    if job.manifest.holds("markers", job.keys["markers"]) and job.is_written():
        return  # killed between the store and the end
    job.manifest.stages = [s for s in job.manifest.stages if s["name"] != "write"]
    job.manifest.result = None
    try:
        commit.draft(job.out, overwrite=job.overwrite)
    except StoreError as err:
        if job.overwrite or not commit.is_taken(job.out):
            raise
        reason = again.difference(job.out, job.about)
        fix = "add --overwrite, or name another --out" if commit.is_store(job.out) else "--out OTHER.zarr"
        raise StoreError(f"{job.out} ({reason}) is there already", "a free place", fix) from err
    places.check_beside(job.at, places.own_files(job.at, job.manifest.files, job.overwrite))


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
    file_info = info(source, layer=s.input.layer, use_raw=s.input.use_raw)
    inputs.check_info(file_info, s)
    block_bytes = planning.plan(file_info, s).block_bytes
    unique = job.known.kind == "10x-h5"
    return inputs.open_input(source, s, name=str(job.source), block_bytes=block_bytes, make_unique=unique)


def _write(job: _Run, adata: AnnData) -> None:
    job.manifest.replaces = job.state_of_out()
    job.manifest.save()
    slots.write(adata, {("uns", "sc_dask"): job.about}, writer="pipeline")
    write(adata, job.out.url, storage_options=dict(job.out.storage_options) or None, overwrite=job.overwrite)


def _report(job: _Run, adata: AnnData) -> tuple[tuple[str, ...], str | None]:
    """Put figures and the table of markers beside the store; what an earlier run of it had more is removed."""
    give_back()
    with log.warnings_told() as told, log.stage("figures", job.listener) as s:
        made = {f"{places.FIGURES}/{name}": png for name, png in make_figures(adata).items()}
        if "rank_genes_groups" in adata.uns:
            table = get.rank_genes_groups_df(adata)
            if "group" not in table:  # one group only
                table.insert(0, "group", adata.uns["rank_genes_groups"]["names"].dtype.names[0])
            made[places.MARKERS] = table.to_csv(index=False, float_format="%.6g").encode()
        own = places.own_files(job.at, job.manifest.files, job.overwrite)
        places.check_beside(job.at, own)  # again: hours may have passed
        job.manifest.files = sorted(own | set(made) | {str(job.at.report)})
        job.manifest.save()
        for name, data in made.items():
            write_bytes(job.at.beside(name), data)
        for name in own.intersection(places.BESIDE).difference(made):
            commit.remove_file(job.at.beside(name))
        job.manifest.files = [*made, str(job.at.report)]
    job.stages.append(s.as_dict() | {"warnings": told})
    drawn = tuple(str(job.at.beside(name)) for name in made if name != places.MARKERS)
    return drawn, str(job.at.beside(places.MARKERS)) if places.MARKERS in made else None


def _total(stages: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Add up the stages; seconds are those of this call and, of a resumed run, of the stages before."""
    return {
        "seconds": round(seconds + sum(s["seconds"] for s in stages if s.get("resumed")), 4),
        "passes": round(sum(s["passes"] for s in stages), 4),
        "bytes_read": sum(s["bytes_read"] for s in stages),
        "peak_rss_bytes": max(s["peak_rss_bytes"] for s in stages),
    }
