"""The main job: counts to clusters, UMAP and markers, every stage checkpointed."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
import pandas as pd

from sc_dask import __version__, config, get, log, slots
from sc_dask.errors import InputError, StoreError
from sc_dask.io.convert import convert
from sc_dask.io.info import Info, info
from sc_dask.io.read import read
from sc_dask.io.store import Location, exists, fingerprint
from sc_dask.io.write import write
from sc_dask.pipeline import planning
from sc_dask.pipeline.figures import make_figures
from sc_dask.pipeline.manifest import Manifest, key_of, write_bytes
from sc_dask.pipeline.settings import Settings
from sc_dask.pipeline.steps import STEPS, finish

if TYPE_CHECKING:
    from anndata import AnnData

    from sc_dask.log import Listener

IN_PLACE = ("zarr", "h5ad")
STAGES = ("convert", *(s.name for s in STEPS), "write", "figures")


@dataclass(frozen=True)
class Result:
    """Where everything is, and the figures of the run as ``run.json`` has them."""

    store: str
    figures: tuple[str, ...]
    markers: str | None
    json: str
    report: dict[str, Any]


class _Run:
    """One run: the paths and the manifest that its stages share."""

    def __init__(
        self, source: Location, out: Location, settings: Settings, listener: Listener | None, overwrite: bool
    ) -> None:
        self.source, self.out, self.settings, self.listener, self.overwrite = source, out, settings, listener, overwrite
        self.work = Location(f"{out.url.rstrip('/')}.work", out.storage_options)
        self.token = key_of(str(source), fingerprint(source))
        self.manifest = Manifest.open(self.work, self.token)
        self.key = self.token
        self.index = 0
        self.stages: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def stage(self, name: str, sections: tuple[str, ...] = ()) -> Iterator[tuple[bool, list[slots.Event]]]:
        """Run a stage, or tell that it is finished; yields (finished before, its changes)."""
        params = {k: v for s in sections for k, v in self.settings.section(s).items()}
        self.key = key_of(self.key, name, params, __version__)
        figures = self.manifest.finished(self.index, name, self.key)
        self.index += 1
        if figures is not None:
            with log.stage(name, self.listener):
                yield True, self.manifest.events(name)
            self.stages.append(figures | {"resumed": True})
            return
        with log.stage(name, self.listener, **params) as s, slots.journal() as events:
            yield False, events
        self.stages.append(s.as_dict())
        self.manifest.add(name, self.key, s.as_dict(), events)


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

    QC, filter, normalise, log1p, highly variable genes, PCA, neighbours, Leiden, UMAP, markers. Each stage is checkpointed in
    ``<out>.work``: the same call after a crash goes on where it was and ends with the same result.

    Parameters
    ----------
    source
        Path or URL of counts: AnnData zarr or h5ad (read in place), 10x h5 or mtx, loom, csv (converted first).
    out
        Path or URL of the zarr store to make. ``figures/``, ``markers.csv`` and ``run.json`` are put beside it.
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
        Before anything is read or written.

    Passes: 4 to ``X_pca``, 1 for markers, 2 to write X. Memory: as `sc_dask.pipeline.plan` says.
    """
    made = settings if isinstance(settings, Settings) else Settings.of(settings)
    source_at = Location.parse(source, storage_options)
    wanted = out_storage_options if out_storage_options is not None else _shared_options(out, storage_options)
    out_at = Location.parse(out, wanted)
    if out_at.url.rstrip("/") == source_at.url.rstrip("/"):
        raise InputError(f"input and output are both {out_at}", "another place for the output", "--out OTHER.zarr")
    if not out_at.name.endswith(".zarr"):
        raise InputError(f"output {out_at}", "a name that ends in .zarr", f"--out {out_at.name.split('.')[0]}.zarr")
    facts = info(source_at)
    job = _Run(source_at, out_at, made, listener, overwrite)
    json_at = _beside(out_at, "run.json") if json_path is None else Location.parse(json_path)
    start = time.perf_counter()
    _check_out(job)
    resources: dict[str, Any] = {} if memory is None else {"sc-dask.memory": memory}
    if out_at.is_local and config.get("work-dir") is None:  # on the disk that was chosen for the result
        resources["sc-dask.work-dir"] = str((job.work / "stage").path)
    with dask.config.set(resources):
        if facts.kind in IN_PLACE:
            planning.plan(facts, made)
        adata = _open(job, facts)
        for step in STEPS:
            with job.stage(step.name, step.sections) as (finished, events):
                if finished and not step.lazy:
                    slots.replay(adata, events)
                else:
                    step.run(adata, made)
        with job.stage("write", ("write",)) as (finished, _):
            finish(adata, made)
            if not finished:
                _write(job, adata)
        names, markers = _report(job, adata)
    report = {"stages": job.stages, "total": _total(job.stages, time.perf_counter() - start)}
    write_bytes(json_at, json.dumps(report, indent=1, default=str).encode())
    job.manifest.discard()
    return Result(str(out_at), names, markers, str(json_at), report)


def _shared_options(out: Any, options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return options if options and "://" in os.fspath(out) else None


def _beside(out: Location, name: str) -> Location:
    return Location(f"{posixpath.dirname(out.url.rstrip('/'))}/{name}", out.storage_options)


def _check_out(job: _Run) -> None:
    if not exists(job.out) or job.overwrite:
        return
    written = [s["name"] for s in job.manifest.stages]
    if "write" in written:  # killed between the store and its figures
        return
    raise StoreError(f"{job.out} is there already", "a free place", "add --overwrite, or name another --out")


def _open(job: _Run, facts: Info) -> AnnData:
    """Return the lazy input, converted first where it cannot be read in place."""
    source = job.source
    if facts.kind not in IN_PLACE:
        source = job.work / "input.zarr"
        with job.stage("convert") as (finished, _):
            if not finished:
                options = {"overwrite": exists(source), "out_storage_options": dict(source.storage_options) or None}
                convert(job.source.url, source.url, storage_options=dict(job.source.storage_options) or None, **options)
        facts = info(source)
    adata = read(source, block_bytes=planning.plan(facts, job.settings).block_bytes)
    _check_input(adata, job)
    return adata


def _check_input(adata: AnnData, job: _Run) -> None:
    chosen = job.settings.input
    if chosen.layer is not None or chosen.use_raw:
        x = get.matrix(adata, chosen.layer, use_raw=chosen.use_raw)
        if x.shape != adata.shape:
            raise InputError(
                f"raw X has {x.shape[1]} genes and X {adata.n_vars}", "equal numbers", "write raw as its own file"
            )
        slots.write(adata, {("X", ""): x})
    if adata.X is None:
        raise InputError(f"{job.source} has no X", "a count matrix in X", "input.layer or input.use_raw")
    for axis, names in (("cells", adata.obs_names), ("genes", adata.var_names)):
        if len(names) == 0:
            raise InputError(f"{job.source} has no {axis}", "at least one", "check the file with sc-dask info")
        if not names.is_unique:
            twice = names[names.duplicated()][0]
            raise InputError(
                f"names of {axis} in {job.source} are not unique ({twice!r} occurs more than once)",
                "unique names",
                f"adata.{'obs' if axis == 'cells' else 'var'}_names_make_unique() and write the file again",
            )
    if job.settings.hvg.batch_key is not None:
        get.batches(adata, job.settings.hvg.batch_key)
    if adata.raw is not None:
        slots.drop(adata, "raw", "")  # its genes are those of another X; X holds the counts that are analysed


def _write(job: _Run, adata: AnnData) -> None:
    about = {
        "version": __version__,
        "input": str(job.source),
        "settings": json.dumps({s: job.settings.section(s) for s in job.settings.__dataclass_fields__}, default=str),
    }
    slots.write(adata, {("uns", "sc_dask"): about}, writer="pipeline")
    write(adata, job.out.url, storage_options=dict(job.out.storage_options) or None, overwrite=job.overwrite)


def _report(job: _Run, adata: AnnData) -> tuple[tuple[str, ...], str | None]:
    """Put figures and the table of markers beside the store."""
    names = []
    with log.stage("figures", job.listener) as s:
        for name, png in make_figures(adata).items():
            at = _beside(job.out, f"figures/{name}")
            write_bytes(at, png)
            names.append(str(at))
        markers = None
        if "rank_genes_groups" in adata.uns:
            table = get.rank_genes_groups_df(adata)
            if "group" not in table:  # one group only
                table.insert(0, "group", adata.uns["rank_genes_groups"]["names"].dtype.names[0])
            at = _beside(job.out, "markers.csv")
            write_bytes(at, _csv(table))
            markers = str(at)
    job.stages.append(s.as_dict())
    return tuple(names), markers


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, float_format="%.6g").encode()


def _total(stages: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 4),
        "passes": round(sum(s["passes"] for s in stages), 4),
        "bytes_read": sum(s["bytes_read"] for s in stages),
        "peak_rss_bytes": max(s["peak_rss_bytes"] for s in stages),
    }
