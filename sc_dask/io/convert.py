"""``sd.convert``: any file that is known, into a sharded zarr store of ours.

Init - parts - finalise. The draft keeps, in its mark, what it is a draft of; its parts are the shards. Every shard is
read back as soon as it is written and compared, bit for bit, with what came from the source. A run that was killed
is continued by giving the same command again: shards that are there and pass their checksums stay, the rest is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dask
import numpy as np
from anndata import AnnData
from dask.base import tokenize

from sc_dask.array.blocks import RowBlocks, from_array
from sc_dask.array.chunks import default_block_bytes
from sc_dask.errors import FormatError, InputError, StoreError
from sc_dask.io.blobs.store import Location, Place, fingerprint, inside, same_place, sniff
from sc_dask.io.formats import loom, tenx, text
from sc_dask.io.formats.spill import Spill
from sc_dask.io.read import read
from sc_dask.io.write import matrices, write_elements
from sc_dask.io.writing import commit, graphs, keys
from sc_dask.io.writing import layout as disk
from sc_dask.io.writing.matrix import shard_memory, write_matrix
from sc_dask.io.writing.shards import DiffersError
from sc_dask.price import MIB, Price, Size, priced

OPTIONS: dict[str, tuple[str, ...]] = {
    "zarr": (),
    "h5ad": (),
    "10x-h5": ("genome", "gex_only"),
    "10x-mtx": ("var_names", "make_unique", "gex_only", "prefix"),
    "mtx": (),
    "csv": ("delimiter", "first_column_names", "first_row_names"),
    "tsv": ("delimiter", "first_column_names", "first_row_names"),
    "loom": ("obs_names", "var_names", "X_name"),
}
FOLDERS = ("zarr", "10x-mtx")  # their times change when something is written beside their files
FLOAT32_X = ("mtx", "10x-mtx", "csv", "tsv", "loom")  # anndata's readers make X float32; fractions are stored so


_LIBRARIES = 60 * MIB  # readers of other formats
_CELL_BYTES = 235  # obs and its names


def _price(size: Size, *, by_columns: bool = False, **_: Any) -> Price:
    memory = _CELL_BYTES * size.n_obs + min(2 * size.blocks, size.float_blocks) + shard_memory(size)
    return Price(4 if by_columns else 3, _LIBRARIES + memory)


@priced(_price)
def convert(
    src: Place,
    out: Place,
    *,
    storage_options: Mapping[str, Any] | None = None,
    out_storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: bool = True,
    block_bytes: int | None = None,
    shard_bytes: int = disk.SHARD_BYTES,
    kind: str | None = None,
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
    kind
        What the file is, where neither content nor name tells: ``"csv"``, ``"tsv"``, ``"mtx"``, ...
    **options
        Of the format: ``genome``, ``gex_only`` (10x h5); ``var_names``, ``make_unique``, ``gex_only``, ``prefix``
        (10x folder); ``delimiter``, ``first_column_names``, ``first_row_names`` (tables: what is in the first column
        and line where these are numbers); ``obs_names``, ``var_names``, ``X_name`` (loom).

    Returns
    -------
    The lazily opened result. Names and columns equal those of anndata's or scanpy's reader of the format; so do
    the values, and whole numbers are stored in the smallest exact integer type.

    Passes: 1 over each matrix, and 1 more to count where rows are not known (columns were picked) or whole numbers
    come close to a type's limits; the result is read back as it is written. Memory: a shard and a block per
    worker. Disk: text twice, loom once uncompressed, until the end.

    Raises
    ------
    StoreError
        ``src`` is missing or was changed meanwhile, something stands at ``out``, or the result differs from the source.
    FormatError
        ``src`` is damaged or of an unknown kind.
    InputError
        An option that the format does not have.

    Examples
    --------
    >>> import sc_dask as sd, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> sd.datasets.simulate(200, 300, seed=1).to_memory().write_h5ad(f"{folder}/cells.h5ad")
    >>> _ = sd.convert(f"{folder}/cells.h5ad", f"{folder}/cells.zarr")
    >>> sd.read(f"{folder}/cells.zarr").shape
    (200, 300)
    """
    source = Location.parse(src, storage_options)
    target = commit.destination(Location.parse(out, out_storage_options))
    kind = kind_of(source) if kind is None else kind
    if kind not in OPTIONS:
        raise InputError(f"found kind={kind!r}", f"one of {', '.join(OPTIONS)}", "leave it out")
    unknown = sorted(set(options) - set(OPTIONS[kind]))
    if unknown:
        raise InputError(
            f"found the option {unknown[0]!r} for a {kind} file",
            ", ".join(OPTIONS[kind]) or "no options",
            "leave it out",
        )
    if same_place(source, target):
        raise InputError(f"found {target} as input and output", "another output", "choose another path")
    if inside(source, target) or inside(target, source):
        raise InputError(f"one of input {source} and output {target} is inside the other", "two places")
    budget = default_block_bytes() if block_bytes is None else block_bytes
    with dask.config.set({"sc-dask.block-bytes": budget}), commit.writing(target):
        commit.recover(target)
        place, stamp = commit.draft(target, overwrite=overwrite), fingerprint(source)
        spill = Spill(commit.beside(target, "spill"), tokenize(source.url, stamp, options))
        commit.release(spill.location)
        commit.claim(spill.location)
        try:
            adata = open_any(kind, source, spill, options)
            keys.check(adata, target)
            _write(adata, place, _key(kind, source, adata, options, shard_bytes), kind, resume, shard_bytes)
            if kind not in FOLDERS and fingerprint(source) != stamp:
                place.abandon()
                raise StoreError(
                    f"{source} was changed while it was read", "a file that stays as it is", "convert again"
                )
            place.publish()
        finally:
            commit.release(spill.location)
        return read(target, block_bytes=budget)


def kind_of(source: Location) -> str:
    """Return what kind of file stands at a place, by its content: a key of `OPTIONS`."""
    kind = commit.whole(source, sniff)
    return "10x-mtx" if kind == "mtx" and tenx.has_companions(source) else kind


def open_any(kind: str, source: Location, spill: Spill, options: Mapping[str, Any]) -> AnnData:
    """Open a file of a known kind; what can only be read from its beginning is spilled to ``spill``."""
    tables: dict[str, Callable[[], AnnData]] = {
        "zarr": lambda: read(source),
        "h5ad": lambda: read(source),
        "10x-h5": lambda: tenx.read_h5(source, **options),
        "10x-mtx": lambda: tenx.read_mtx(source, spill, **options),
        "mtx": lambda: text.read_mtx(source, spill),
        "csv": lambda: text.read_table(source, spill, **{"delimiter": ",", **options}),
        "tsv": lambda: text.read_table(source, spill, **{"delimiter": _delimiter_of(source), **options}),
        "loom": lambda: loom.read(source, **options),
    }
    return tables[kind]()


def _delimiter_of(location: Location) -> str | None:
    """Return what parts the columns of a ``.tsv``: tabs where its first line has one, else white space."""
    with text.open_stream(location) as f:
        return "\t" if b"\t" in f.readline() else None


def _key(kind: str, source: Location, adata: AnnData, options: Mapping[str, Any], shard_bytes: int) -> str:
    """Name what a draft is a draft of: the same for the same bytes, options and layout."""
    stamps = [x.expression.source.state for _, x in matrices(adata) if isinstance(x, RowBlocks)]
    layout = (shard_bytes, disk.LAYOUT_VERSION, "checked")
    return tokenize(kind, source.url, fingerprint(source), stamps, dict(options), layout)


def _sweep(draft: Location) -> None:
    """Remove what a killed run left of objects that it was writing: zarr renames them from ``*.partial`` when whole."""
    if draft.is_local:
        for path in draft.path.rglob("*.partial"):
            if path.is_file():
                path.unlink()


def _write(adata: AnnData, place: commit.Draft, key: str, kind: str, resume: bool, shard_bytes: int) -> None:
    """Write the draft; where it can never be right, nothing stays to be continued."""
    found = place.unfinished() if resume else None
    resuming = found is not None and found.get("key") == key
    if resuming:
        _sweep(place.place)
        place.resume()
        commit.remove(place.place / graphs.PLACE)
    else:
        place.begin(key=key)
    try:
        write_elements(adata, place.place)
        for path, x in matrices(adata):
            rows = from_array(x)
            narrowed = path == "X" and kind in FLOAT32_X and rows.dtype.kind == "f"
            write_matrix(
                rows,
                place.place,
                path,
                narrow=True,
                fractions=np.float32 if narrowed else rows.dtype,
                resume=resuming,
                check=True,
                shard_bytes=shard_bytes,
            )
            place.check_own()
    except (FormatError, InputError, DiffersError):
        place.abandon()
        raise
