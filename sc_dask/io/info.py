"""What a file holds, without reading its matrix."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sc_dask.io.store import Location, open_group, open_h5, sniff


@dataclass(frozen=True)
class Info:
    """Facts of a file; ``n_nonzeros`` counts stored values, ``stored_bytes`` is X on disk (None: not known cheaply)."""

    url: str
    kind: str
    shape: tuple[int, int] | None = None
    layout: str | None = None
    dtype: str | None = None
    n_nonzeros: int | None = None
    stored_bytes: int | None = None
    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None


def info(path: str | os.PathLike[str] | Location, *, storage_options: Mapping[str, Any] | None = None) -> Info:
    """Return what a file holds; only metadata are read.

    Raises
    ------
    StoreError, FormatError
        Nothing is there, or nothing that is known.
    """
    location = Location.parse(path, storage_options)
    kind = sniff(location)
    if kind == "zarr":
        x = open_group(location).get("X")
        return Info(str(location), kind) if x is None else _of(location, kind, x)
    if kind == "h5ad":
        with open_h5(location) as root:
            return _of(location, kind, root["X"]) if "X" in root else Info(str(location), kind)
    return Info(str(location), kind)


def _of(location: Location, kind: str, x: Any) -> Info:
    if hasattr(x, "shape"):
        shape, layout, values, parts = tuple(x.shape), "dense", x, [x]
    else:
        attrs = dict(x.attrs)
        given = attrs.get("shape", attrs.get("h5sparse_shape"))
        shape = tuple(int(n) for n in np.asarray(given))
        name = attrs.get("encoding-type", attrs.get("h5sparse_format", "csr"))
        name = name.decode() if isinstance(name, bytes) else str(name)
        layout, values, parts = name.split("_")[0], x["data"], [x["data"], x["indices"], x["indptr"]]
    return Info(
        str(location),
        kind,
        (int(shape[0]), int(shape[1])),
        layout,
        str(values.dtype),
        int(np.prod(values.shape, dtype=np.int64)),
        _stored(location, kind, parts),
        tuple(values.chunks) if values.chunks else None,
        tuple(s) if (s := getattr(values, "shards", None)) else None,
    )


def _stored(location: Location, kind: str, parts: list[Any]) -> int | None:
    if kind == "h5ad":
        return sum(int(p.id.get_storage_size()) for p in parts)
    if not location.is_local or location.is_zip:
        return None  # listing a bucket of many chunks is not cheap
    total = 0
    for part in parts:
        for folder, _, names in os.walk(location.path / part.path):
            total += sum(os.path.getsize(os.path.join(folder, n)) for n in names)
    return total
