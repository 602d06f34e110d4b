"""How a store becomes whole in one moment: a draft beside its place, or a journal of elements to be replaced.

A new store. On a local disk it is written as ``.<name>.partial`` beside its place, checked, consolidated,
marked as committed and renamed. Object stores cannot rename: there a new store is written in its place
with ``committed: false``, and the mark is the last object written; one that replaces another is written
beside it and copied once whole. Until then the old one stays.

Results into a store. The new elements are written to ``.<name>.update`` beside it. When all are whole, a
journal is put there; from then on the update can only be finished: the store is marked as uncommitted,
elements are moved one by one, the metadata are consolidated and the mark comes back. After a kill, the
next write to the store first finishes (journal there) or forgets (no journal) what was begun.
"""

from __future__ import annotations

import contextlib
import glob
import os
import posixpath
import shutil
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import zarr

from sc_dask import work
from sc_dask.errors import FormatError, InputError, StoreError, TakenOverError
from sc_dask.io import layout as disk
from sc_dask.io.store import ZARR_KEYS, Location, exists, open_group

JOURNAL = "sc_dask_update"  # root attribute of a staging store whose elements are all whole


def beside(location: Location, suffix: str) -> Location:
    """Return the hidden neighbour ``.<name>.<suffix>`` of a store."""
    parent = posixpath.dirname(location.url.rstrip("/"))
    return Location(f"{parent}/.{location.name}.{suffix}", location.storage_options)


def real(location: Location) -> Location:
    """Return the place itself where a location is a link: what it points to is written, and the link stays."""
    return Location(os.path.realpath(location.url)) if location.is_local else location


def remove(location: Location) -> None:
    """Remove a folder or prefix, if it is there."""
    if location.is_local:
        shutil.rmtree(location.path, ignore_errors=True)
        return
    fs, path = location.fs()
    with contextlib.suppress(FileNotFoundError):
        fs.rm(_literal(path), recursive=True)


def _literal(path: str) -> str:
    """Return a path whose ``*``, ``?`` and ``[`` fsspec does not take for a pattern: it would remove what fits it."""
    return glob.escape(path)


def move(source: Location, target: Location, *, keep: bool = False) -> None:
    """Move a folder or prefix to a free place: by one rename on a local disk, else by copying, metadata last.

    With ``keep`` a copy's original stays, so that a move killed halfway can be made again.
    """
    if source.is_local:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        source.path.rename(target.path)
        return
    fs, old = source.fs()
    _, new = target.fs()
    keys = sorted(fs.find(old))
    chunks = [k for k in keys if posixpath.basename(k) not in ZARR_KEYS]
    metadata = [k for k in keys if posixpath.basename(k) in ZARR_KEYS]
    is_pattern = glob.has_magic(old)  # for which fsspec would look in copying lists
    for part in (chunks, metadata):
        for k in part if is_pattern else ():
            fs.cp_file(k, new + k[len(old) :])
        if part and not is_pattern:
            fs.copy(part, [new + k[len(old) :] for k in part])
    if not keep:
        fs.rm(_literal(old), recursive=True)


# -- a new store ---------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(target: Location) -> Iterator[None]:
    """Hold a place on this machine, or on a disk that machines share, against other writers.

    Raises
    ------
    StoreError
        Somebody writes there.
    """
    if not target.is_local:
        yield  # buckets know no locks: see `Draft.check_own`
        return
    made = [p for p in target.path.parents if not p.exists()]
    target.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with work.locked(beside(target, "lock").path) as holder:
            if holder is not None:
                raise StoreError(
                    f"{target} is being written by {holder}",
                    "one writer at a time",
                    "wait for it, or choose another path",
                )
            yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty, as it should be
                folder.rmdir()


@dataclass(frozen=True)
class Draft:
    """A store that is being written at ``place`` and will stand at ``target``."""

    target: Location
    place: Location
    writer: str = field(default_factory=lambda: uuid.uuid4().hex)

    def begin(self, **attributes: Any) -> zarr.Group:
        """Make the empty store, uncommitted, with AnnData's root attributes; an earlier draft goes."""
        remove(self.place)
        root = open_group(self.place, mode="w", zarr_format=3)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        disk.mark(root, committed=False, writer=self.writer, **attributes)
        return root

    def resume(self) -> None:
        """Take over what an interrupted writer has left."""
        root = open_group(self.place, mode="r+", use_consolidated=False)
        mark: Any = root.attrs[disk.MARK]
        root.attrs[disk.MARK] = {**mark, "writer": self.writer}

    def check_own(self) -> None:
        """Find out whether another process has begun to write at the same place since: of a bucket alone.

        Raises
        ------
        TakenOverError
            It has.
        """
        if not self.place.is_local and (_mark_of(self.place) or {}).get("writer") != self.writer:
            raise TakenOverError(
                f"another process writes to {self.target}",
                "one writer at a time",
                "let it finish, or choose another path",
            )

    def unfinished(self) -> dict[str, Any] | None:
        """Return the mark of an interrupted draft that may be continued, or None."""
        return _mark_of(self.place) if _is_unfinished(self.place) else None

    def publish(self) -> None:
        """Consolidate, check that every chunk is stored, mark as committed and move to the target."""
        self.check_own()
        consolidate(open_group(self.place, mode="r+", use_consolidated=False))
        disk.verify_store(open_group(self.place, mode="r"))  # with all metadata at hand it need not ask for them
        if self.place.is_local:
            _set_mark(self.place)
            old = beside(self.target, "old")
            if exists(self.target):
                move(self.target, old)
            move(self.place, self.target)
            remove(old)
            return
        if self.place != self.target:
            remove(self.target)
            move(self.place, self.target)
        _set_mark(self.target)

    def abandon(self) -> None:
        """Remove what was written."""
        remove(self.place)


def draft(target: Location, *, overwrite: bool) -> Draft:
    """Return where a new store is to be written.

    Raises
    ------
    StoreError
        Something stands at the target and ``overwrite`` is False.
    InputError
        The target is no place for a zarr store, or holds something else than one.
    """
    if target.name.lower().endswith((".h5ad", ".h5", ".zip", ".loom", ".csv")):
        raise InputError(
            f"found {target} as the output", "a path or URL that ends with .zarr", "AnnData.write_h5ad writes h5ad"
        )
    old = beside(target, "old")
    if target.is_local and old.path.exists():  # killed between two renames
        if target.path.exists():
            remove(old)
        else:
            move(old, target)
    if target.is_local and target.path.is_dir() and not any(target.path.iterdir()):
        target.path.rmdir()
    taken = exists(target) and not _is_unfinished(target)
    if taken and not overwrite:
        raise StoreError(
            f"there is something at {target} already", "a new path", "choose another path, or overwrite=True"
        )
    if taken and not any(exists(target / key) for key in ZARR_KEYS):
        raise InputError(f"{target} is no zarr store, so it is not overwritten", "a zarr store or a free path")
    if target.is_local or taken:
        return Draft(target, beside(target, "partial"))
    return Draft(target, target)


def _mark_of(location: Location) -> dict[str, Any] | None:
    try:
        mark = open_group(location, mode="r", use_consolidated=False).attrs.get(disk.MARK)
    except (StoreError, FormatError):  # no store, or one that is damaged
        return None
    return mark if isinstance(mark, dict) else None


def _is_unfinished(location: Location) -> bool:
    mark = _mark_of(location)
    return mark is not None and not mark.get("committed", False)


def _set_mark(location: Location) -> None:
    disk.mark(open_group(location, mode="r+"), committed=True)


def consolidate(root: zarr.Group) -> None:
    """Write the metadata of all nodes into the root, so that a reader opens a store with one request."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"Object at \.sc_dask is not recognized", category=UserWarning)
        zarr.consolidate_metadata(root.store, path=root.path or None, zarr_format=root.metadata.zarr_format)


# -- results into a store ------------------------------------------------------------------------


def stage(target: Location) -> zarr.Group:
    """Return an empty store, of the target's zarr format, for new elements; finishes an earlier update first."""
    finish_update(target)
    root = open_group(target, mode="r", use_consolidated=False)
    return open_group(beside(target, "update"), mode="w", zarr_format=root.metadata.zarr_format)


def apply(target: Location, staged: zarr.Group, paths: list[str], *, owner: str | None = None) -> None:
    """Replace the elements ``paths`` (``obs``, ``obsm/X_pca``) of a store by the staged ones, for an owner."""
    disk.verify_store(staged)
    root = open_group(target, mode="r")
    journal = {
        "paths": paths,
        "owner": owner,
        "mark": root.attrs.get(disk.MARK),
        "consolidated": root.metadata.consolidated_metadata is not None,
    }
    staged.attrs[JOURNAL] = journal
    finish_update(target)


def finish_update(target: Location) -> str | None:
    """Finish an update whose journal is there, and return its owner; forget one that has none."""
    staging = beside(target, "update")
    if not exists(staging):
        return None
    journal: Any = None
    with contextlib.suppress(StoreError, FormatError):  # killed while it was being made
        staged = open_group(staging, mode="r", use_consolidated=False)
        journal = staged.attrs.get(JOURNAL)
    if not isinstance(journal, dict):
        remove(staging)
        return None
    root = open_group(target, mode="r+", use_consolidated=False)
    disk.mark(root, committed=False)
    for path in journal["paths"]:
        if path in staged:
            _make_parents(root, path)
            remove(target / path)
            move(staging / path, target / path, keep=True)
    root = open_group(target, mode="r+", use_consolidated=False)
    if journal["mark"] is None:
        del root.attrs[disk.MARK]
    else:
        root.attrs[disk.MARK] = journal["mark"]
    if journal["consolidated"]:
        consolidate(root)
    remove(staging)
    return journal.get("owner")


def _make_parents(root: zarr.Group, path: str) -> None:
    parent = posixpath.dirname(path)
    if parent and parent not in root:
        root.create_group(parent).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
