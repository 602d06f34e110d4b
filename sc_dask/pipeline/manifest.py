"""Checkpoints: what each finished stage changed, beside the output, so that the same command resumes.

``<out>.work/manifest.json`` lists the finished stages; ``<out>.work/<stage>.zarr`` holds a stage's changes. A stage counts only
once the manifest names it, and the manifest is replaced whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

import anndata as ad
import numpy as np

from sc_dask.errors import StoreError
from sc_dask.io.commit import remove
from sc_dask.io.store import Location, exists, open_group, quiet
from sc_dask.slots import Event


def read_bytes(location: Location) -> bytes:
    """Return a small file whole."""
    fs, path = location.fs()
    return fs.cat_file(path)


def write_bytes(location: Location, data: bytes) -> None:
    """Write a small file whole or not at all."""
    fs, path = location.fs()
    if location.is_local:
        location.path.parent.mkdir(parents=True, exist_ok=True)
        partial = location.path.with_name(f".{location.name}.partial-{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(location.path)
        return
    fs.pipe_file(path, data)


@dataclass
class Manifest:
    """The finished stages of a run and their checkpoints."""

    place: Location
    input: str
    stages: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, place: Location, input_token: str) -> Manifest:
        """Return the manifest at a place; an empty one if there is none or it belongs to another input."""
        if not exists(place / "manifest.json"):
            return cls(place, input_token)
        try:
            found = json.loads(read_bytes(place / "manifest.json"))
            stages, of = list(found["stages"]), found["input"]
        except (ValueError, KeyError, TypeError) as err:
            raise StoreError(f"{place} is not a work area of sc-dask run: {err}", "its own", f"remove {place}") from err
        return cls(place, input_token, stages if of == input_token else [])

    def save(self) -> None:
        """Put the manifest."""
        text = json.dumps({"input": self.input, "stages": self.stages}, indent=1)
        write_bytes(self.place / "manifest.json", text.encode())

    def finished(self, index: int, name: str, key: str) -> dict[str, Any] | None:
        """Return the figures of stage ``index`` if it was finished with the same key; else forget it and all later."""
        if index < len(self.stages) and self.stages[index]["name"] == name and self.stages[index]["key"] == key:
            return dict(self.stages[index]["figures"])
        del self.stages[index:]
        return None

    @quiet()
    def add(self, name: str, key: str, figures: dict[str, Any], events: list[Event]) -> None:
        """Write a stage's checkpoint, then name it in the manifest."""
        place = self._of(name)
        remove(place)
        root = open_group(place, mode="w", zarr_format=3)
        index = []
        for i, e in enumerate(e for e in events if e.attr not in ("X", "layers")):
            ad.io.write_elem(root, f"e{i}", np.asarray(e.value) if e.attr == "subset" else e.value)
            index.append([e.attr, e.key])
        root.attrs["events"] = index
        self.stages.append({"name": name, "key": key, "figures": figures})
        self.save()

    @quiet()
    def events(self, name: str) -> list[Event]:
        """Return a finished stage's changes."""
        root = open_group(self._of(name), use_consolidated=False)
        index: Any = root.attrs["events"]
        return [Event(attr, key, ad.io.read_elem(root[f"e{i}"])) for i, (attr, key) in enumerate(index)]

    def _of(self, name: str) -> Location:
        return self.place / f"{name}.zarr"

    def discard(self) -> None:
        """Remove the work area."""
        remove(self.place)


def key_of(*parts: Any) -> str:
    """Return a short name of what a stage depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
