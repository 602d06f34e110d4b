"""How many bytes a stored matrix takes on disk."""

from __future__ import annotations

import os
from typing import Any

from sc_dask.io.blobs.store import Location, open_group, open_h5, sniff


def matrix_bytes(location: Location, path: str) -> int | None:
    """Return the bytes on disk of a matrix in a store or file; None where that is not cheap to know."""
    if not location.is_local or location.is_zip:
        return None
    if sniff(location) == "zarr":
        elem = open_group(location)[path]
        return stored_bytes(location, "zarr", _arrays_of(elem))
    with open_h5(location) as root:
        return stored_bytes(location, "h5ad", _arrays_of(root[path]))


def _arrays_of(elem: Any) -> list[Any]:
    return [elem] if hasattr(elem, "shape") else [elem[k] for k in ("data", "indices", "indptr")]


def stored_bytes(location: Location, kind: str, parts: list[Any]) -> int | None:
    """Return the bytes on disk of arrays of a file; None where that is not cheap to know."""
    if kind == "h5ad":
        return sum(int(p.id.get_storage_size()) for p in parts)
    if not location.is_local or location.is_zip:
        return None  # listing a bucket of many chunks is not cheap
    total = 0
    for part in parts:
        for folder, _, names in os.walk(location.path / part.path):
            total += sum(os.path.getsize(os.path.join(folder, n)) for n in names)
    return total
