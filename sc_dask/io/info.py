"""What a file holds, without reading its matrix."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sc_dask.errors import FormatError, MissingKeyError
from sc_dask.io.blobs.sizes import stored_bytes
from sc_dask.io.blobs.store import Location, open_group, open_h5, sniff
from sc_dask.io.formats.elements import encoding_of, is_null
from sc_dask.io.formats.text import open_stream, read_header
from sc_dask.io.writing import commit


@dataclass(frozen=True)
class Info:
    """What is known of a file and of one matrix in it; None: there is none, or it is not known cheaply."""

    url: str
    kind: str
    shape: tuple[int, int] | None = None  # cells, genes
    layout: str | None = None  # csr, csc or dense
    dtype: str | None = None
    n_nonzeros: int | None = None  # stored values
    stored_bytes: int | None = None  # of the matrix on disk
    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    obs: tuple[str, ...] = ()  # columns
    var: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    has_raw: bool = False
    by_columns: tuple[str, ...] = ()  # matrices that are stored as csc


def info(
    path: str | os.PathLike[str] | Location,
    *,
    storage_options: Mapping[str, Any] | None = None,
    layer: str | None = None,
    use_raw: bool = False,
) -> Info:
    """Return what a file holds; only metadata are read.

    Parameters
    ----------
    path
        A path or fsspec URL of anything that ``sd.read`` or ``sd.convert`` takes.
    storage_options
        For the URL, as fsspec takes them.
    layer, use_raw
        Which matrix ``shape`` to ``shards`` speak of; X if neither is given.

    Raises
    ------
    StoreError, FormatError
        Nothing is there, or nothing that is known.
    MissingKeyError
        There is no such layer, or no raw.
    """
    location = Location.parse(path, storage_options)
    kind = commit.whole(location, sniff)
    wanted = "raw/X" if use_raw else "X" if layer is None else f"layers/{layer}"
    if kind == "zarr":
        return _of_anndata(location, kind, open_group(location), wanted)
    if kind == "h5ad":
        with open_h5(location) as root:
            return _of_anndata(location, kind, root, wanted)
    found = {"10x-h5": _of_10x_h5, "loom": _of_loom, "10x-mtx": _of_mtx, "mtx": _of_mtx}.get(kind)
    return Info(str(location), kind) if found is None else found(location, kind)


_KINDS = {
    "zarr": "AnnData zarr",
    "h5ad": "AnnData h5ad",
    "10x-h5": "10x h5",
    "10x-mtx": "10x mtx",
    "mtx": "Matrix Market",
}


def as_text(file_info: Info) -> str:
    """Return it as lines for people."""
    lines = {"file": file_info.url, "kind": _KINDS.get(file_info.kind, file_info.kind)}
    if file_info.shape is not None:
        n_obs, n_vars = file_info.shape
        lines |= {"cells": f"{n_obs:,}", "genes": f"{n_vars:,}", "X": f"{file_info.layout} of {file_info.dtype}"}
        if file_info.n_nonzeros is not None:
            share = f" ({file_info.n_nonzeros / (n_obs * n_vars):.1%} of all)" if n_obs * n_vars else ""
            lines["values"] = f"{file_info.n_nonzeros:,} stored{share}"
    else:
        lines["X"] = "none" if file_info.kind in ("zarr", "h5ad") else "known once it is converted"
    if file_info.stored_bytes is not None:
        a_value = f", {file_info.stored_bytes / file_info.n_nonzeros:.1f} bytes a value" if file_info.n_nonzeros else ""
        lines["on disk"] = f"{file_info.stored_bytes / 2**20:,.1f} MiB{a_value}"
    for name, sizes in (("chunks", file_info.chunks), ("shards", file_info.shards)):
        if sizes:
            lines[name] = " x ".join(f"{n:,}" for n in sizes) + " values"
    for name, names in (("obs", file_info.obs), ("var", file_info.var), ("layers", file_info.layers)):
        if names:
            lines[name] = ", ".join(names)
    if file_info.has_raw:
        lines["raw"] = "yes"
    if file_info.by_columns:
        lines["csc"] = f"{', '.join(file_info.by_columns)} (stored by genes; a run turns it into rows first)"
    return "\n".join(f"{name:<9}{text}" for name, text in lines.items())


# -- AnnData -------------------------------------------------------------------------------------


def _of_anndata(location: Location, kind: str, root: Any, wanted: str) -> Info:
    layers = _keys(root, "layers")
    raw = next((path for path in ("raw/X", "raw.X") if _has(root, path)), None)
    paths = {"X": "X"} if _has(root, "X") else {}
    paths |= {f"layers/{k}": f"layers/{k}" for k in layers} | ({"raw/X": raw} if raw else {})
    encodings = {name: _encoding(location, root[path]) for name, path in paths.items()}
    if wanted != "X" and wanted not in paths:
        if wanted == "raw/X":
            raise MissingKeyError(f"{location} has no raw", "raw with a matrix")
        raise MissingKeyError(f"{location} has no layer {wanted[7:]!r}", f"one of: {', '.join(layers) or 'nothing'}")
    has: dict[str, Any] = {
        "obs": _columns(root, "obs"),
        "var": _columns(root, "var"),
        "layers": layers,
        "has_raw": raw is not None,
        "by_columns": tuple(name for name, e in encodings.items() if e and e.kind == "csc"),
    }
    encoding = encodings.get(wanted)
    if encoding is None:
        return Info(str(location), kind, **has)
    elem = root[paths[wanted]]
    parts = [elem] if encoding.kind == "dense" else [_part(location, elem, k) for k in ("data", "indices", "indptr")]
    values = parts[0]
    return Info(
        str(location),
        kind,
        encoding.shape,
        encoding.kind,
        str(values.dtype),
        int(np.prod(values.shape, dtype=np.int64)),
        stored_bytes(location, kind, parts),
        tuple(values.chunks) if values.chunks else None,
        tuple(s) if (s := getattr(values, "shards", None)) else None,
        **has,
    )


def _has(root: Any, path: str) -> bool:
    """Tell whether there is an element at a path, and not None in its place or that of its group."""
    for key in path.split("/"):
        if not hasattr(root, "keys") or key not in root or is_null(root[key]):
            return False
        root = root[key]
    return True


def _encoding(location: Location, elem: Any) -> Any:
    try:
        return encoding_of(elem)
    except (AttributeError, ValueError, TypeError) as err:
        raise FormatError(f"{location} has damaged metadata: {err}", "an AnnData") from err


def _part(location: Location, group: Any, key: str) -> Any:
    part = group.get(key)
    if part is None or len(getattr(part, "shape", ())) != 1:
        raise FormatError(f"{location}: {group.name} has no array {key}", "data, indices and indptr")
    return part


def _keys(root: Any, slot: str) -> tuple[str, ...]:
    found = root.get(slot)
    if found is None or hasattr(found, "shape") or is_null(found):
        return ()
    try:
        return tuple(key for key in sorted(found.keys()) if not is_null(found[key]))
    except (NotImplementedError, OSError):  # a web server without listing
        return ()


def _columns(root: Any, slot: str) -> tuple[str, ...]:
    table = root.get(slot)
    if table is None:
        return ()
    names = getattr(getattr(table, "dtype", None), "names", None)  # one compound array, before anndata 0.7
    if names:
        return tuple(names[1:])
    return tuple(n.decode() if isinstance(n, bytes) else str(n) for n in table.attrs.get("column-order", ()))


# -- what is converted ---------------------------------------------------------------------------


def _of_10x_h5(location: Location, kind: str) -> Info:
    from sc_dask.io.formats.tenx import shape_of

    with open_h5(location) as root:
        groups = [root["matrix"]] if "matrix" in root else [root[k] for k in sorted(root)]
        if len(groups) > 1 or "shape" not in groups[0]:
            return Info(str(location), kind)  # several genomes, of which one must be chosen
        (group,) = groups
        n_vars, n_obs = shape_of(group, location)
        data, size = group["data"], sum(int(group[k].id.get_storage_size()) for k in ("data", "indices", "indptr"))
        return Info(str(location), kind, (n_obs, n_vars), "csr", str(data.dtype), int(data.shape[0]), size)


def _of_loom(location: Location, kind: str) -> Info:
    with open_h5(location) as root:
        data = root["matrix"]
        n_vars, n_obs = (int(n) for n in data.shape)
        size = int(data.id.get_storage_size())
        obs, var, layers = (_keys(root, k) for k in ("col_attrs", "row_attrs", "layers"))
        chunks = tuple(data.chunks) if data.chunks else None
        return Info(
            str(location), kind, (n_obs, n_vars), "dense", str(data.dtype), None, size, chunks, None, obs, var, layers
        )


def _of_mtx(location: Location, kind: str) -> Info:
    matrix = location
    fs, path = location.fs()
    if fs.isdir(path):
        names = sorted(posixpath.basename(str(p).rstrip("/")) for p in fs.ls(path, detail=False))
        found = [n for n in names if n.endswith(("matrix.mtx", "matrix.mtx.gz"))]
        if len(found) > 1:
            return Info(str(location), kind)  # which one is for the reader to say
        matrix = location / found[0]
    with open_stream(matrix) as f:
        header = read_header(f, matrix)
    # 10x writes genes by cells; a bare Matrix Market file is read as it is
    cells_first = kind == "mtx" and not _has_barcodes(matrix)
    shape = (header.n_rows, header.n_cols) if cells_first else (header.n_cols, header.n_rows)
    dtype = "int64" if "integer" in header.field else "float32"
    fs, path = matrix.fs()
    return Info(str(location), kind, shape, "csr", dtype, header.n_entries, fs.info(path).get("size"))


def _has_barcodes(matrix: Location) -> bool:
    from sc_dask.io.formats.tenx import has_companions

    return has_companions(matrix)
