"""``sd.convert``: any file that is known, into a sharded zarr store of ours.

Init - parts - finalise. The draft keeps, in its mark, what it is a draft of and what was counted; its parts
are the shards. A run that was killed is continued by giving the same command again: shards that are there and
pass their checksums stay, the rest is written. At the end the values are read back and their sums compared
with those of the source.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import dask
import numpy as np
from anndata import AnnData
from dask.base import tokenize

from sc_dask.array import run
from sc_dask.array.blocks import RowBlocks, from_array
from sc_dask.array.chunks import default_block_bytes
from sc_dask.errors import FormatError, InputError, StoreError
from sc_dask.io import commit, loom, tenx, text
from sc_dask.io import layout as disk
from sc_dask.io.matrix import Counts, count, narrowest, write_matrix
from sc_dask.io.read import read
from sc_dask.io.spill import Spill
from sc_dask.io.store import Location, fingerprint, open_group, sniff
from sc_dask.io.write import matrices, write_elements

OPTIONS: dict[str, tuple[str, ...]] = {
    "zarr": (),
    "h5ad": (),
    "10x-h5": ("genome", "gex_only"),
    "10x-mtx": ("var_names", "make_unique", "gex_only", "prefix"),
    "mtx": (),
    "csv": ("delimiter", "first_column_names"),
    "tsv": ("delimiter", "first_column_names"),
    "loom": ("obs_names", "var_names", "X_name"),
}
FLOAT32_X = ("mtx", "10x-mtx", "csv", "tsv", "loom")  # anndata's readers make X float32; fractions are stored so


def convert(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    out_storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: bool = True,
    block_bytes: int | None = None,
    shard_bytes: int = disk.SHARD_BYTES,
    **options: Any,
) -> AnnData:
    """Convert a file to a sharded zarr store, in bounded memory, and open it.

    Parameters
    ----------
    src
        A path or fsspec URL of AnnData zarr or h5ad (any layout), 10x h5, a 10x folder (or its ``matrix.mtx``),
        Matrix Market, loom, or a csv or tsv table; texts may be gzipped.
    out
        A path or URL of the store.
    storage_options, out_storage_options
        For the two URLs, as fsspec takes them.
    overwrite
        Replace a store that stands at ``out``; it stays until the new one is whole.
    resume
        Continue what an earlier, killed run of the same conversion left; False starts anew.
    block_bytes
        Bytes of one decoded row block (default: the option ``sc-dask.block-bytes``).
    shard_bytes
        Decoded size of one stored object.
    **options
        Of the format: ``genome``, ``gex_only`` (10x h5); ``var_names``, ``make_unique``, ``gex_only``, ``prefix``
        (10x folder); ``delimiter``, ``first_column_names`` (tables); ``obs_names``, ``var_names``, ``X_name`` (loom).

    Returns
    -------
    The lazily opened result. Names and columns equal those of anndata's or scanpy's reader of the format; so do
    the values, and whole numbers are stored in the smallest exact integer type.

    Passes: 1 to count and 1 to write over each matrix, and 1 over the result to check it. Memory: a shard and a
    block per worker. Disk, for text: the matrix uncompressed, twice, until the end.

    Raises
    ------
    StoreError
        ``src`` is missing, something stands at ``out``, or the result differs from the source.
    FormatError
        ``src`` is damaged or of an unknown kind.
    InputError
        An option that the format does not have.
    """
    source, target = Location.parse(src, storage_options), Location.parse(out, out_storage_options)
    kind = _kind(source)
    unknown = sorted(set(options) - set(OPTIONS[kind]))
    if unknown:
        raise InputError(
            f"found the option {unknown[0]!r} for a {kind} file",
            ", ".join(OPTIONS[kind]) or "no options",
            "leave it out",
        )
    if source.url == target.url:
        raise InputError(f"found {target} as input and output", "another output", "choose another path")
    place = commit.draft(target, overwrite=overwrite)
    budget = default_block_bytes() if block_bytes is None else block_bytes
    spill = Spill(commit.beside(target, "spill"), tokenize(source.url, fingerprint(source), options))
    commit.remove(spill.location)
    with dask.config.set({"sc-dask.block-bytes": budget}):
        try:
            adata = open_any(kind, source, spill, options)
            _write(adata, place, _key(kind, source, adata, options, shard_bytes), kind, resume, shard_bytes)
        finally:
            commit.remove(spill.location)
        return read(target, block_bytes=budget)


def _kind(source: Location) -> str:
    kind = sniff(source)
    return "10x-mtx" if kind == "mtx" and tenx.has_companions(source) else kind


def open_any(kind: str, source: Location, spill: Spill, options: Mapping[str, Any]) -> AnnData:
    """Open a file of a known kind; what can only be read from its beginning is set aside in ``spill``."""
    tables: dict[str, Callable[[], AnnData]] = {
        "zarr": lambda: read(source),
        "h5ad": lambda: read(source),
        "10x-h5": lambda: tenx.read_h5(source, **options),
        "10x-mtx": lambda: tenx.read_mtx(source, spill, **options),
        "mtx": lambda: text.read_mtx(source, spill),
        "csv": lambda: text.read_table(source, spill, **{"delimiter": ",", **options}),
        "tsv": lambda: text.read_table(source, spill, **{"delimiter": None, **options}),
        "loom": lambda: loom.read(source, **options),
    }
    return tables[kind]()


def _key(kind: str, source: Location, adata: AnnData, options: Mapping[str, Any], shard_bytes: int) -> str:
    """Name what a draft is a draft of: the same for the same bytes, options and layout."""
    stamps = [getattr(x.expr.source, "stamp", "") for _, x in matrices(adata) if isinstance(x, RowBlocks)]
    return tokenize(kind, source.url, fingerprint(source), stamps, dict(options), shard_bytes, disk.LAYOUT_VERSION)


def _write(adata: AnnData, place: commit.Draft, key: str, kind: str, resume: bool, shard_bytes: int) -> None:
    """Write the draft and publish it; where it can never be right, nothing stays to be continued."""
    try:
        _write_parts(adata, place, key, kind, resume, shard_bytes)
    except (FormatError, InputError, _DiffersError):
        place.abandon()
        raise
    place.publish()


class _DiffersError(StoreError):
    """What was written is not what was counted."""


def _write_parts(adata: AnnData, place: commit.Draft, key: str, kind: str, resume: bool, shard_bytes: int) -> None:
    found = place.unfinished() if resume else None
    counted: dict[str, Any] = {}
    if found is not None and found.get("key") == key:
        counted = dict(found.get("counted", {}))
    else:
        place.begin(key=key)
    for path, x in matrices(adata):
        rows = from_array(x)
        counts = _counts_of(place.place, path, counted)
        resuming = counts is not None
        if counts is None:
            counts = count(rows)
            counted[path] = counts.as_dict()
            root = open_group(place.place, mode="r+", use_consolidated=False)
            disk.mark(root, committed=False, key=key, counted=counted)
        other = np.dtype(np.float32) if path == "X" and kind in FLOAT32_X and rows.dtype.kind == "f" else rows.dtype
        dtype = narrowest(counts, rows.dtype) if counts.whole else other
        write_matrix(rows, place.place, path, dtype=dtype, counts=counts, resume=resuming, shard_bytes=shard_bytes)
        check_sum(place.place, path, counts)
    write_elements(adata, open_group(place.place, mode="r+", use_consolidated=False))


def _counts_of(location: Location, path: str, counted: Mapping[str, Any]) -> Counts | None:
    """Return what an interrupted run had counted of a matrix, from its mark and its indptr."""
    if path not in counted:
        return None
    row_nnz = disk.row_nnz(open_group(location, mode="r", use_consolidated=False), path)
    return None if row_nnz is None else Counts(row_nnz, **counted[path])


def _sum_task(shard: int, shared: tuple[Location, str]) -> float | int:
    location, path = shared
    return disk.sum_shard(disk.node_at(open_group(location, mode="r", use_consolidated=False), path), shard)


def check_sum(location: Location, path: str, counts: Counts) -> None:
    """Read a written matrix back and compare the sum of its values with what was counted. Passes: 1 over the result.

    Raises
    ------
    StoreError
        They differ.
    """
    data = disk.values_of(disk.node_at(open_group(location, mode="r", use_consolidated=False), path))
    n_shards = 0 if 0 in data.shape else disk.shard_grid(data)[0]
    total = sum(run.map_tasks(_sum_task, range(n_shards), shared=(location, path), label="check"))
    largest = max(abs(counts.lo), abs(counts.hi))
    slack = 0 if counts.whole else 1e-6 * (abs(counts.total) + largest * math.sqrt(data.size))
    if abs(total - counts.total) > slack:
        raise _DiffersError(
            f"the values written to {path} of {location} add up to {total}",
            f"{counts.total}, as in the source",
            "convert again; the source must not change meanwhile",
        )
