"""How a store becomes whole in one moment: a draft beside its place, or a journal of elements to be replaced.

A new store. On a local disk it is written as ``.<name>.partial`` beside its place, checked, consolidated,
marked as committed and renamed. Object stores cannot rename: there a new store is written in its place
with ``committed: false``, and the mark is the last object written; one that replaces another is written
beside it and copied once whole. Until then the old one stays.

Results into a store. The new elements are written to ``.<name>.update`` beside it. When all are whole, a
journal is put there; from then on the update can only be finished: the store is marked as uncommitted,
elements are moved one by one, the metadata are consolidated and the mark comes back. After a kill, the
next reader or writer of the store first finishes (journal there) or forgets (no journal) what was begun.
"""

from __future__ import annotations

import contextlib
import glob
import os
import posixpath
import re
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import zarr

from sc_dask import work
from sc_dask.errors import FormatError, InputError, StoreError, TakenOverError
from sc_dask.io.blobs.store import ZARR_KEYS, Location, exists, open_group
from sc_dask.io.writing import layout as disk

T = TypeVar("T")
_FIRST = r"\.zgroup|(zarr|\.zgroup|\.zattrs)\..*partial"  # what zarr writes first, and calls it until it is whole
JOURNAL = "sc_dask_update"  # root attribute of a staging store whose elements are all whole


def beside(location: Location, suffix: str) -> Location:
    """Return the hidden neighbour ``.<name>.<suffix>`` of a store."""
    return location.sibling(f".{location.name}.{suffix}")


def destination(location: Location) -> Location:
    """Return where an output really goes: a link means what it points to, and stays a link.

    Raises
    ------
    InputError
        The location is a whole bucket, beside which nothing can be written.
    """
    bucket = re.fullmatch(r"(s3a?|gs|gcs|az|abfss?|adl|r2|oss|oci)://[^/]+", location.url, re.IGNORECASE)
    if bucket is not None:
        raise InputError(f"found the bucket {location} as a place to write", "a name in it", f"{location}/atlas.zarr")
    if location.is_local and location.path.is_symlink():
        return Location(os.path.realpath(location.path))
    return location


def claim(location: Location) -> None:
    """Make a folder of this machine ours to remove; in a bucket folders need not be made.

    Raises
    ------
    StoreError
        Something that is not ours stands there.
    """
    if location.is_local:
        work.claim(location.path)


def release(location: Location) -> None:
    """Remove a claimed folder, or a prefix."""
    if location.is_local:
        work.release(location.path)
    else:
        remove(location)


def remove(location: Location) -> None:
    """Remove a folder or prefix, if it is there; never what a link points to."""
    if location.is_local:
        shutil.rmtree(location.path, ignore_errors=True)
        return
    fs, path = location.fs()
    with contextlib.suppress(FileNotFoundError):
        _remove_prefix(fs, path)


def _remove_prefix(fs: Any, path: str) -> None:
    """Remove a prefix; where fsspec would take its name for a pattern, and remove what fits it, object by object."""
    if not glob.has_magic(path):
        fs.rm(path, recursive=True)
        return
    for key in fs.find(path):
        fs.rm_file(key)


def remove_file(location: Location) -> None:
    """Remove one file, if it is there."""
    if location.is_local:
        location.path.unlink(missing_ok=True)
        return
    fs, path = location.fs()
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


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
        _remove_prefix(fs, old)


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
        _check_own(self.place)
        remove(self.place)
        about = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        mark = disk.mark_of(committed=False, writer=self.writer, **attributes)
        return _begun(self.place, 3, about | {disk.MARK: mark})

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
        return _mark_of(self.place) if is_unfinished(self.place) else None

    def publish(self) -> None:
        """Consolidate, check that every chunk is stored, mark as committed and move to the target."""
        self.check_own()
        consolidate(open_group(self.place, mode="r+", use_consolidated=False))
        disk.verify_store(open_group(self.place, mode="r"))  # with all metadata at hand it need not ask for them
        if self.place.is_local:
            _set_mark(self.place)
            old = beside(self.target, "old")
            kept = old / self.target.name
            if exists(self.target):
                claim(old)
                move(self.target, kept)
            try:
                move(self.place, self.target)
            except BaseException:
                if exists(kept) and not exists(self.target):
                    move(kept, self.target)
                raise
            release(old)
        elif self.place != self.target:
            _set_mark(self.place)  # from here on the new store is whole, and takes the place of the old one
            _copied(self.place, self.target)
        else:
            _set_mark(self.target)
        _forget_update(self.target)

    def abandon(self) -> None:
        """Remove what was written, unless it is whole and on its way to a bucket's place."""
        if self.place.is_local or self.place == self.target or is_unfinished(self.place):
            remove(self.place)


def draft(target: Location, *, overwrite: bool) -> Draft:
    """Return where a new store is to be written.

    Raises
    ------
    StoreError
        Something stands at the target and ``overwrite`` is False, or where the draft is written.
    InputError
        The target is no place for a zarr store, or holds something else than one.
    """
    if target.name.lower().endswith((".h5ad", ".h5", ".zip", ".loom", ".csv")):
        raise InputError(
            f"found {target} as the output", "a path or URL that ends with .zarr", "AnnData.write_h5ad writes h5ad"
        )
    old = beside(target, "old")
    if target.is_local:
        work.check_lock(beside(target, "lock").path)
    if target.is_local and work.is_own(old.path):  # killed between two renames
        if not exists(target) and exists(old / target.name):
            move(old / target.name, target)
        release(old)
    if target.is_local and target.path.is_dir() and not any(target.path.iterdir()):
        target.path.rmdir()
    taken = is_taken(target)
    if taken and not overwrite:
        raise StoreError(
            f"there is something at {target} already", "a new path", "choose another path, or overwrite=True"
        )
    if taken and not is_store(target):
        raise InputError(f"{target} is no zarr store, so it is not overwritten", "a zarr store or a free path")
    if target.is_local and taken:
        work.check_own(old.path)
    place = beside(target, "partial") if target.is_local or taken else target
    _check_own(place)
    return Draft(target, place)


def _copied(place: Location, target: Location) -> None:
    """Put a whole store of a bucket in the place of another; killed meanwhile, `recover` does it again."""
    remove(target)
    move(place, target, keep=True)
    remove(place)


def _forget_update(target: Location) -> None:
    """Remove an update of the store that stood here before."""
    staging = beside(target, "update")
    if exists(staging) and _mark_of(staging) is not None:
        remove(staging)


def recover(target: Location) -> None:
    """Finish what was whole when its writer was killed: an update, or a store on its way to a bucket's place.

    Called by who holds the place (`writing`).
    """
    if _is_on_its_way(target):
        _copied(beside(target, "partial"), target)
    if _journal_of(target) is not None:
        finish_update(target)


def whole(location: Location, look: Callable[[Location], T]) -> T:
    """Return what ``look`` finds at a place; where a killed writer left a store half way, it is finished first."""
    try:
        return look(location)
    except (StoreError, FormatError):
        if not is_half_way(location):
            raise
        with contextlib.suppress(OSError), writing(location):  # OSError: nothing can be written there
            recover(location)
        return look(location)


def is_half_way(target: Location) -> bool:
    """Tell whether `recover` would find something to finish."""
    return _is_on_its_way(target) or _journal_of(target) is not None


def _is_on_its_way(target: Location) -> bool:
    return not target.is_local and bool((_mark_of(beside(target, "partial")) or {}).get("committed", False))


def is_taken(target: Location) -> bool:
    """Tell whether a store, or something else that no interrupted writer has left, stands at a place."""
    return exists(target) and (not is_unfinished(target) or _journal_of(target) is not None)


def is_store(target: Location) -> bool:
    """Tell whether what stands at a place may be replaced by a store: it is one."""
    return any(exists(target / key) for key in ZARR_KEYS)


def _check_own(place: Location) -> None:
    """Refuse a place for a store unless it is free, an empty folder, or has our mark."""
    if place.is_local and os.path.lexists(place.path):
        entries = os.listdir(place.path) if place.path.is_dir() else []
        begun = all(re.fullmatch(_FIRST, name) for name in entries)  # killed before its first file was whole
        if place.path.is_symlink() or not place.path.is_dir() or not (begun or _mark_of(place)):
            raise work.not_ours(place)
    elif not place.is_local and exists(place) and _mark_of(place) is None:
        raise work.not_ours(place)


def _begun(place: Location, zarr_format: Any, attributes: dict[str, Any]) -> zarr.Group:
    """Make an empty store, ours from its first file on."""
    return open_group(place, mode="w", zarr_format=zarr_format, attributes=attributes)


def _mark_of(location: Location) -> dict[str, Any] | None:
    try:
        mark = open_group(location, mode="r", use_consolidated=False).attrs.get(disk.MARK)
    except (StoreError, FormatError):  # no store, or one that is damaged
        return None
    return mark if isinstance(mark, dict) else None


def is_unfinished(location: Location) -> bool:
    """Tell whether a store that an interrupted writer has left stands at a place."""
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
    mark = disk.mark_of(committed=False)
    return _begun(beside(target, "update"), root.metadata.zarr_format, {disk.MARK: mark})


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
    """Finish an update whose journal is there, and return its owner; forget one that has none.

    Raises
    ------
    StoreError
        What stands there is no update of ours.
    """
    staging = beside(target, "update")
    if not exists(staging):
        return None
    _check_own(staging)
    journal = _journal_of(target)
    if journal is None or not exists(target):
        remove(staging)  # killed while it was being made, or of a store that is gone
        return None
    staged = open_group(staging, mode="r", use_consolidated=False)
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


def _journal_of(target: Location) -> dict[str, Any] | None:
    """Return the journal of an update whose elements are all whole, or None."""
    staging = beside(target, "update")
    if not exists(staging):
        return None
    try:
        journal = open_group(staging, mode="r", use_consolidated=False).attrs.get(JOURNAL)
    except (StoreError, FormatError):
        return None
    return journal if isinstance(journal, dict) else None


def _make_parents(root: zarr.Group, path: str) -> None:
    parent = posixpath.dirname(path)
    if parent and parent not in root:
        root.create_group(parent).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
