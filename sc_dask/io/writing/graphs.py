"""Landmark graphs beside the results that name them: files in a folder of the store, which goes where the store goes.

``uns[key]["compact"]["folder"]`` is where the graph is: on this machine while an AnnData is in memory, relative to the
store in a store. zarr and anndata pass over the folder, whose name begins with a dot.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sc_dask.errors import StoreError
from sc_dask.io.blobs.store import Location, exists
from sc_dask.io.writing.commit import remove
from sc_dask.work import WorkFolder

PLACE = ".sc_dask"


def _folder_of(value: Any) -> str | None:
    """Return the folder that an element of uns names; None if it is not about a landmark graph."""
    entry = value.get("compact") if isinstance(value, Mapping) else None
    folder = entry.get("folder") if isinstance(entry, Mapping) else None
    return None if folder is None else str(folder)


def _with_folder(value: Mapping[str, Any], folder: str) -> dict[str, Any]:
    return {**value, "compact": {**value["compact"], "folder": folder}}


def stored(key: str, value: Any, place: Location) -> Any:
    """Put the graph that an element of uns names into a store, under a new name; return the element as stored there.

    Files are linked where the disk allows it, else copied.

    Raises
    ------
    StoreError
        The graph is gone.
    """
    folder = _folder_of(value)
    if folder is None:
        return value
    if not os.path.isdir(folder):
        raise StoreError(
            f"the landmark graph of uns[{key!r}] is gone from {folder}",
            "a folder that this machine sees",
            f"run pp.neighbors again, or del adata.uns[{key!r}]",
        )
    name = f"{PLACE}/{key.replace('/', '-')[:40]}-{uuid.uuid4().hex[:8]}"
    files = [p for p in Path(folder).iterdir() if p.is_file() and not p.name.startswith(".")]
    if place.is_local:
        at = place.path / name
        at.mkdir(parents=True)
        for file in files:
            _link(file, at / file.name)
    else:
        fs, path = place.fs()
        fs.put([str(f) for f in files], [f"{path}/{name}/{f.name}" for f in files])
    return _with_folder(value, name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def found(value: Any, place: Location) -> Any:
    """Return an element of uns as it is in memory: with the place of its graph, a path or URL."""
    folder = _folder_of(value)
    if folder is None or os.path.isabs(folder) or "://" in folder:
        return value
    here = os.path.abspath(place.path / folder) if place.is_local else str(place / folder)
    return _with_folder(value, here)


def fetched(value: Any, place: Location) -> Any:
    """Return an element of uns whose graph is on this machine: of a bucket it is brought into a work folder."""
    folder = _folder_of(value)
    if folder is None or os.path.isabs(folder):
        return value
    if place.is_local:
        return found(value, place)
    fs, path = place.fs()
    area = WorkFolder.make("graph")
    fs.get(f"{path}/{folder}/", f"{area}/", recursive=True)
    area.keep()
    return _with_folder(value, str(area))


def drop_others(elements: Mapping[str, Any], place: Location) -> None:
    """Remove graphs from a store that none of the elements of its uns names."""
    if not exists(place / PLACE):
        return
    named = {posixpath.basename(f) for v in elements.values() if (f := _folder_of(v)) is not None}
    for name in _names(place / PLACE):
        if name not in named:
            remove(place / PLACE / name)


def _names(place: Location) -> Iterator[str]:
    if place.is_local:
        yield from os.listdir(place.path)
        return
    fs, path = place.fs()
    yield from {posixpath.basename(str(p).rstrip("/")) for p in fs.ls(path, detail=False)}
