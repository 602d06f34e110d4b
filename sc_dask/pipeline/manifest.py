"""Checkpoints: what each finished stage changed, beside the output, so that the same command resumes.

``<out>.work/manifest.json`` lists the finished stages; ``<out>.work/<stage>.zarr`` holds a stage's changes. A stage
counts only once the manifest names it, and the manifest is replaced whole. Only what is named here is ever removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anndata as ad
import numpy as np

from sc_dask import work
from sc_dask.errors import StoreError
from sc_dask.io.blobs.store import Location, exists, open_group, quiet
from sc_dask.io.write import write_element
from sc_dask.io.writing import graphs
from sc_dask.io.writing.commit import claim, remove
from sc_dask.log import logger
from sc_dask.pipeline.steps import STEPS
from sc_dask.slots import Event

_CHECKPOINTS = "|".join(("convert", *(s.name for s in STEPS), "write"))
# what a run puts into its work area, with the hidden neighbours of the converted input
_OURS = rf"(manifest\.json|lock)(\.partial-\w+)?|scratch|({_CHECKPOINTS}|input)\.zarr|\.+input\.zarr\..+"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of some network disks


def read_bytes(location: Location) -> bytes:
    """Return a small file whole."""
    fs, path = location.fs()
    data: bytes = fs.cat_file(path)
    return data


def write_bytes(location: Location, data: bytes) -> None:
    """Write a small file whole or not at all."""
    if location.is_local:
        location.path.parent.mkdir(parents=True, exist_ok=True)
        partial = work.partial(location.path)
        partial.write_bytes(data)
        partial.replace(location.path)
        return
    fs, path = location.fs()
    fs.pipe_file(path, data)


@dataclass
class Manifest:
    """The finished stages of a run and their checkpoints; ``result`` is set once nothing is left to do.

    ``files`` names what the run has begun to write beside its store, under whatever input and settings; ``replaces`` is
    the state of what stood at its place when the store began to be written ("": nothing), None before.
    """

    place: Location
    input: str
    stages: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    files: list[str] = field(default_factory=list)
    replaces: str | None = None

    @classmethod
    def open(cls, place: Location, input_token: str) -> Manifest:
        """Return the manifest at a place; an empty one if there is none or it belongs to another input.

        Raises
        ------
        StoreError
            What stands there is no manifest, or no work area.
        """
        _check_own(place)
        if not exists(place / "manifest.json"):
            return cls(place, input_token)
        try:
            found = json.loads(read_bytes(place / "manifest.json"))
            stages, of, result = list(found["stages"]), found["input"], found.get("result")
            files, replaces = list(found.get("files", [])), found.get("replaces")
        except (ValueError, KeyError, TypeError) as err:
            raise StoreError(f"{place} is not a work area of sc-dask run", "its own", f"rm -r {place}") from err
        if of != input_token:
            return cls(place, input_token, files=files)
        return cls(place, input_token, stages, result, files, replaces)

    def save(self) -> None:
        """Put the manifest."""
        held = {"input": self.input, "stages": self.stages, "result": self.result, "files": self.files}
        held |= {"replaces": self.replaces}
        write_bytes(self.place / "manifest.json", json.dumps(held, indent=1).encode())

    def holds(self, name: str, key: str) -> bool:
        """Tell whether a stage was finished with this key."""
        return any(s["name"] == name and s["key"] == key for s in self.stages)

    def finished(self, index: int, name: str, key: str) -> dict[str, Any] | None:
        """Return the figures of stage ``index`` if it was finished with the same key; else forget it and all later."""
        if index < len(self.stages) and self.stages[index]["name"] == name and self.stages[index]["key"] == key:
            return dict(self.stages[index]["figures"])
        del self.stages[index:]
        return None

    @quiet()
    def add(self, name: str, key: str, figures: dict[str, Any], events: list[Event]) -> None:
        """Write a stage's checkpoint, then name it in the manifest."""
        claim(self.place)
        place = self._of(name)
        remove(place)
        root = open_group(place, mode="w", zarr_format=3)
        index = []
        for i, e in enumerate(e for e in events if e.attr not in ("X", "layers")):  # those are lazy, and made again
            value = np.asarray(e.value) if e.attr == "subset" else e.value
            write_element(root, f"e{i}", graphs.stored(e.key, value, place) if e.attr == "uns" else value)
            index.append([e.attr, e.key])
        root.attrs["events"] = index
        self.stages.append({"name": name, "key": key, "figures": figures})
        self.save()

    @quiet()
    def events(self, name: str) -> list[Event] | None:
        """Return a finished stage's changes; None if its checkpoint is not whole, so that the stage runs again."""
        try:
            root = open_group(self._of(name), use_consolidated=False)
            index: Any = root.attrs["events"]
            values = (graphs.fetched(ad.io.read_elem(root[f"e{i}"]), self._of(name)) for i in range(len(index)))
            return [Event(attr, key, value) for (attr, key), value in zip(index, values, strict=True)]
        except Exception as err:  # zarr, its codecs and anndata raise many kinds
            reason = str(err).splitlines()[0] if str(err) else type(err).__name__
            logger.warning("the checkpoint of stage %s is damaged, so it runs again: %s", name, reason)
            return None

    def _of(self, name: str) -> Location:
        return self.place / f"{name}.zarr"

    def discard(self, result: dict[str, Any]) -> None:
        """Remove the work area of a run that is finished; killed meanwhile, the next run removes what is left."""
        self.result = result
        self.save()
        self.clear()

    def clear(self) -> None:
        """Remove what runs put into the work area, the manifest last; what is not ours stays there."""
        names = os.listdir(self.place.path) if self.place.is_local else _names(self.place)
        for name in names:
            if re.fullmatch(_OURS, name) and name != "manifest.json":
                remove(self.place / name)
        if self.place.is_local:
            work.release(self.place.path, only=_OURS)
        else:
            remove(self.place / "manifest.json")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the work area against other runs; makes it, and so finds out whether anything can be written there.

        Raises
        ------
        StoreError
            Another run holds it, something else stands there, or nothing can be written there.
        """
        lock, held = self.place / "lock", None
        _check_own(self.place)
        try:
            claim(self.place)
            if lock.is_local:
                held = os.open(lock.path, os.O_CREAT | os.O_RDWR)  # never replaced: the lock is the file's
            else:
                write_bytes(lock, b"")
        except Exception as err:  # each filesystem has its own
            reason = getattr(err, "strerror", None) or (str(err).splitlines() or [type(err).__name__])[0]
            raise StoreError(f"{self.place} cannot be written: {reason}", "a folder that you may write in") from err
        try:
            if held is not None:
                _lock(held, self.place)
            yield
        finally:
            if held is not None:
                os.close(held)


def _check_own(place: Location) -> None:
    """Refuse a place that is neither free nor the work area of a run; in a bucket its lock tells."""
    if place.is_local:
        work.check_own(place.path)
    elif exists(place) and not exists(place / "lock") and not exists(place / "manifest.json"):
        raise work.not_ours(place)


def _names(place: Location) -> set[str]:
    fs, path = place.fs()
    try:
        return {posixpath.basename(str(p).rstrip("/")) for p in fs.ls(path, detail=False)}
    except FileNotFoundError:
        return set()


def _lock(file: int, place: Location) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise StoreError(
            f"another run works in {place}", "one at a time", "wait for it, or name another --out"
        ) from err
    except OSError as err:
        if err.errno not in _NO_LOCKS:
            raise


def key_of(*parts: Any) -> str:
    """Return a short name of what a stage depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
