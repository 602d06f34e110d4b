"""Where a run reads and writes, and whether it may: nothing that another run or the user has put there is touched.

Beside OUT stand ``figures/``, ``markers.csv`` and the report, ``run.json``. The report names the output and the files
of its run, so that ``overwrite`` reaches these and no others.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sc_dask import config, work
from sc_dask.errors import InputError, StoreError
from sc_dask.io.blobs.store import Location, exists, inside, same_place
from sc_dask.io.writing import commit
from sc_dask.pipeline import figures
from sc_dask.pipeline.manifest import read_bytes

REPORT, MARKERS, FIGURES = "run.json", "markers.csv", "figures"
BESIDE = (*(f"{FIGURES}/{name}" for name in figures.NAMES), MARKERS)


@dataclass(frozen=True)
class Places:
    """The input, the store to make, and the report."""

    source: Location
    out: Location
    report: Location

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str],
        out: str | os.PathLike[str],
        report: str | os.PathLike[str] | None,
        options: Mapping[str, Any] | None,
        out_options: Mapping[str, Any] | None,
    ) -> Places:
        """Return the places that were named; an output that is a link is what it points to."""
        wanted = out_options if out_options is not None else _options_for(out, options)
        out_at = commit.destination(Location.parse(out, wanted))
        at = _beside(out_at, REPORT) if report is None else Location.parse(report, _options_for(report, wanted))
        return cls(Location.parse(source, options), out_at, commit.destination(at))

    @property
    def work(self) -> Location:
        """The work area: ``OUT.work``."""
        return Location(f"{self.out.url}.work", self.out.storage_options)

    def beside(self, name: str) -> Location:
        """Return the place of a file beside the store."""
        return _beside(self.out, name)

    @property
    def elsewhere(self) -> str:
        """An output in a folder of its own, as it is typed."""
        stem = self.out.name.removesuffix(".zarr")
        return f"--out {posixpath.dirname(self.out.url)}/{stem}/{self.out.name}"


def _options_for(path: str | os.PathLike[str], options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return options if options and not Location.parse(path).is_local else None


def _beside(out: Location, name: str) -> Location:
    return out.sibling(name)


# -- places that exclude each other --------------------------------------------------------------


def check(at: Places) -> None:
    """Refuse places that are one, or lie in each other, and those where nothing can be written.

    Raises
    ------
    InputError
        Naming both.
    """
    source, out = at.source, at.out
    if not out.name.endswith(".zarr") or out.name == ".zarr":
        raise InputError(
            f"output {out}", "a name that ends in .zarr", f"--out {out.name.split('.')[0] or 'result'}.zarr"
        )
    if same_place(source, out):
        raise InputError(f"input and output are both {out}", "another place for the output", "--out OTHER.zarr")
    if inside(source, out) or inside(out, source):
        raise InputError(
            f"one of input {source} and output {out} is inside the other", "two places", "--out OTHER.zarr"
        )
    if _within(source, at.work):
        raise InputError(f"input {source} is in {at.work}, where the run would work", "two places", "--out OTHER.zarr")
    _check_writable(out, "output", "--out OTHER.zarr")
    _check_report(at)
    if config.get("work-dir"):
        _check_work_dir(at, str(config.get("work-dir")))


def _check_work_dir(at: Places, folder: str) -> None:
    there = Location(os.path.abspath(folder))
    taken = [place for place in (at.source, at.out) if place.is_local and _within(there, place)]
    if same_place(there, at.work):
        taken.append(at.work)
    if taken:
        raise InputError(
            f"work-dir {folder} is in {taken[0]}", "a folder of its own", "set DASK_SC_DASK__WORK_DIR to another one"
        )


def _within(place: Location, folder: Location) -> bool:
    return same_place(place, folder) or inside(place, folder)


def _check_report(at: Places) -> None:
    report = at.report
    if report.is_local and report.path.is_dir():
        raise InputError(f"the place of the report, {report}, is a folder", "a file", f"--json {report}/run.json")
    for what, place in (("input", at.source), ("output", at.out), ("work area", at.work)):
        if _within(report, place):
            where = "is" if same_place(report, place) else "is in"
            raise InputError(f"the place of the report, {report}, {where} the {what}", "a file of its own",
                             "--json OTHER.json")  # fmt: skip
    taken = [name for name in BESIDE if same_place(report, at.beside(name))]
    if taken:
        raise InputError(f"the report and {taken[0]} are both {report}", "two files", "--json OTHER.json")
    _check_writable(report, "report", "--json OTHER.json")


def _check_writable(place: Location, what: str, fix: str) -> None:
    if not place.is_local:
        return
    folder = next(p for p in place.path.parents if p.exists())
    if not folder.is_dir():
        raise InputError(f"{what} {place} is under a file", "a folder", fix)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(f"{place} cannot be written: Permission denied", "a folder that you may write in", fix)


def missing_parents(place: Location | Path) -> list[Path]:
    """Return the folders, innermost first, that are made for a place on this machine."""
    if isinstance(place, Location):
        return missing_parents(place.path) if place.is_local else []
    return [p for p in place.parents if not p.exists()]


# -- files beside the store ----------------------------------------------------------------------


@contextlib.contextmanager
def folder_held(at: Places) -> Iterator[None]:
    """Hold the folder of OUT against runs of other stores, which would write the same files beside theirs.

    Raises
    ------
    StoreError
        Another run is at work there.
    """
    if not at.out.is_local:
        yield
        return
    with work.locked(at.beside(".sc-dask-run.lock").path) as holder:
        if holder is not None:
            raise StoreError(
                f"another run ({holder}) will put {FIGURES}/, {MARKERS} and {REPORT} into {at.beside('')}",
                "a folder of its own for every run", at.elsewhere,
            )  # fmt: skip
        yield


def report_at(place: Location) -> dict[str, Any] | None:
    """Return the report of a run that stands at a place; None if there is none or it is something else."""
    try:
        found = json.loads(read_bytes(place))
        whole = isinstance(found["output"], str) and isinstance(found["files"], list) and "stages" in found
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole else None


def is_of(report: dict[str, Any], at: Places, place: Location) -> bool:
    """Tell whether the report at a place is that of a run that made OUT, whose folder may have been moved since."""
    together = posixpath.dirname(place.url) == posixpath.dirname(at.out.url)
    output = str(report["output"])
    return output == str(at.out) or (together and posixpath.basename(output) == at.out.name)


def own_files(at: Places, begun: list[str], overwrite: bool) -> set[str]:
    """Return which of the files beside OUT this run may replace.

    Parameters
    ----------
    begun
        What this run has begun to write before it was interrupted.
    overwrite
        Those of the run that made OUT may be replaced: its report lists them.
    """
    own = set(begun)
    for place in (at.report, at.beside(REPORT)) if overwrite else ():
        found = report_at(place)
        if found is not None and is_of(found, at, place):
            own |= {name for name in found["files"] if name in BESIDE}
            own |= {str(at.report)} if place == at.report else set()
    return own


def check_beside(at: Places, own: set[str]) -> None:
    """Find out whether all files beside OUT may be written.

    Raises
    ------
    StoreError
        One is there, and is not this run's to replace.
    """
    _check_free_report(at, own)
    folder = at.beside(FIGURES)
    if folder.is_local and (folder.path.is_symlink() or (folder.path.exists() and not folder.path.is_dir())):
        what = "a link" if folder.path.is_symlink() else "a file"
        raise StoreError(f"{folder} is {what}", "a folder, or nothing", at.elsewhere)
    for name in BESIDE:
        if name not in own and _is_there(at.beside(name)):
            raise StoreError(
                f"{at.beside(name)} is there already, and no run of {at.out} says that it is its own",
                "a folder of its own for every run", at.elsewhere,
            )  # fmt: skip


def _check_free_report(at: Places, own: set[str]) -> None:
    if str(at.report) in own or not _is_there(at.report):
        return
    found = report_at(at.report)
    named = at.report != at.beside(REPORT)
    fix = "--json OTHER.json" if named else at.elsewhere
    if found is None:
        raise StoreError(f"{at.report} is there already, and is no report of a run", "a free place", fix)
    if is_of(found, at, at.report):
        raise StoreError(f"{at.report} is there already: the report of an earlier run of {at.out}", "a free place",
                         f"add --overwrite, or {fix}")  # fmt: skip
    expected = "another file" if named else "a folder of its own for every run"
    raise StoreError(f"{at.report} is the report of the run that made {found['output']}", expected, fix)


def _is_there(place: Location) -> bool:
    return os.path.lexists(place.path) if place.is_local else exists(place)
