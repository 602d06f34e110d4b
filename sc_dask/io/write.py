"""Writing an AnnData: a new store, or results into the store that X is read from.

Matrices (X, layers, raw, and whatever is lazy in obsm and obsp) are written shard by shard in parallel (``matrix``,
``layout``); the small elements by AnnData's own writer on the driver. ``commit`` makes it whole in one moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr
from anndata import AnnData
from anndata.experimental import write_dispatched
from anndata.experimental.backed import Dataset2D
from dask.array import Array as DaskArray

from sc_dask import work
from sc_dask.array.blocks import RowBlocks, from_array
from sc_dask.array.concat import sources
from sc_dask.array.expr import Expr
from sc_dask.array.layer import ForeignSource
from sc_dask.errors import InputError, StoreError, TakenOverError
from sc_dask.io.blobs.store import Location, exists, inside, open_group, quiet, revision_of, same_place
from sc_dask.io.writing import commit, graphs, keys
from sc_dask.io.writing import layout as disk
from sc_dask.io.writing.columns import storable, storable_column, storable_table
from sc_dask.io.writing.matrix import Written, are_twins, shard_memory, twin_memory, write_matrix, write_twins
from sc_dask.outside.anndata import named_layers
from sc_dask.outside.zarr import sync
from sc_dask.preferences import settings
from sc_dask.price import MIB, Price, Size, priced
from sc_dask.slots import columns, in_memory, is_lazy, lazy_columns, load, names

MAPPINGS = ("obsm", "varm", "obsp", "varp")


_LIBRARIES = 40 * MIB  # encoders


def _price(size: Size, *, n_twins: int = 0, **_: Any) -> Price:
    return Price(2, _LIBRARIES + int(1.3 * shard_memory(size)) + n_twins * twin_memory(size))


@priced(_price)
@quiet()
def write(
    adata: AnnData,
    path: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    update: bool = False,
    narrow: bool = False,
    shard_bytes: int = disk.SHARD_BYTES,
) -> None:
    """Write an AnnData to a zarr store, or to an h5ad file, that anndata and ``sd.read`` open.

    Parameters
    ----------
    adata
        X and layers lazy (``sd.read``, or any Dask array of row blocks) or in memory (csr, csc, ndarray); obs and var
        too may be lazy (``lazy_obs``), and are then written column by column.
    path
        A path or fsspec URL of a zarr store; or a path that ends in ``.h5ad``, which anndata's own writer writes block
        by block in one thread. In scanpy's order, ``write(path, adata)``, what stands there is replaced, as in scanpy,
        and a name without an extension stands for a file in ``settings.writedir``.
    storage_options
        For the URL, as fsspec takes them.
    overwrite
        Replace a store that stands there; it stays until the new one is whole.
    update
        Write results into the store that X was read from: obs, var and every element of obsm, varm, obsp, varp and
        uns; X, layers and raw stay untouched, and elements that only the store has stay too.
    narrow
        Store X and layers that hold whole numbers in the smallest exact integer type. Otherwise types are kept.
    shard_bytes
        Decoded size of one stored object; a worker holds one, and a block.

    Passes: 1 over each lazy matrix (1 over both where one is the other with other values, as logarithms are of the
    counts in a layer), and to count its non-zeros none where it is as it was stored, a half where genes were picked,
    else 1 more; ``update``: none.
    Memory: a shard and a block per worker; per-row counts, and one column of a lazy obs, on the driver.

    Raises
    ------
    StoreError
        Something stands at ``path`` and neither ``overwrite`` nor ``update`` is given; another process writes there;
        with ``update``, somebody else has written into the store since it was read.
    InputError
        ``path`` is what X or a lazy obs is read from (without ``update``), or with ``update`` it is not, or X was
        changed.

    Examples
    --------
    >>> import anndata as ad, numpy as np, sc_dask as sd
    >>> folder = getfixture("tmp_path")
    >>> sd.write(ad.AnnData(np.eye(3, dtype=np.float32)), folder / "small.zarr")
    >>> ad.read_zarr(folder / "small.zarr").shape
    (3, 3)
    """
    if isinstance(path, AnnData):
        adata, path, overwrite = path, _keyed(adata), not update
    target = commit.destination(Location.parse(path, storage_options))
    keys.check(adata, target)
    if keys.is_h5ad(target):
        if update or narrow or shard_bytes != disk.SHARD_BYTES:
            raise InputError("found update, narrow or shard_bytes for an h5ad file", "a zarr store", "leave them out")
        _write_h5ad(adata, target, overwrite)
        return
    if update:
        if overwrite or narrow:
            raise InputError("found update=True with overwrite or narrow", "update alone", "leave the other out")
        _update(adata, target)
        return
    _refuse_own_store(adata, target)
    with commit.writing(target):
        commit.recover(target)
        place = commit.draft(target, overwrite=overwrite)
        place.begin()
        try:
            write_elements(adata, place.place)  # first: what cannot be stored is found before X is read
            _write_matrices(adata, place, narrow, shard_bytes)
            place.publish()
        except TakenOverError:
            raise  # what stands there is another writer's
        except BaseException:
            place.abandon()
            raise


def _keyed(path: Any) -> Any:
    """Return where a name without an extension stands for; a path as it is."""
    if not isinstance(path, str) or os.path.splitext(path)[1] or "/" in path:
        return path
    return settings.keyed(path)


def _write_matrices(adata: AnnData, place: commit.Draft, narrow: bool, shard_bytes: int) -> None:
    """Write all matrices; where one differs from another in its values alone, both with one read."""
    left = dict(matrices(adata))
    while left:
        where, twins = _deepest(left) if not narrow else (next(iter(left)), [])
        x = left.pop(where)
        pairs = [(path, from_array(left[path])) for path in twins]
        if pairs and write_twins(from_array(x), pairs, place.place, where, shard_bytes=shard_bytes):
            left = {path: value for path, value in left.items() if path not in twins}
        else:
            write_one(x, place.place, where, narrow=narrow, shard_bytes=shard_bytes)
        place.check_own()


def _deepest(left: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the matrix that has twins and most steps of all such, and its twins; else the first alone."""
    lazy = {path: from_array(x) for path, x in left.items() if isinstance(x, DaskArray)}
    for path in sorted(lazy, key=lambda p: -len(lazy[p].expression.steps)):
        twins = [p for p, below in lazy.items() if p != path and are_twins(lazy[path], below)]
        if twins:
            return path, twins
    return next(iter(left)), []


def _write_h5ad(adata: AnnData, target: Location, overwrite: bool) -> None:
    if not target.is_local:
        raise InputError(f"found {target} as the output", "a path of this machine for h5ad", "write zarr to a URL")
    if not overwrite and exists(target):
        raise StoreError(
            f"there is something at {target} already", "a new path", "choose another path, or overwrite=True"
        )
    if target.path.is_dir():
        raise InputError(f"{target} is a folder, so it is not overwritten", "an h5ad file or a free path")
    with commit.writing(target), work.replacing("h5ad", target.path) as place:
        import h5py

        with h5py.File(place, "w") as root:
            root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            _write_small(adata, root, None)
            for path, x in matrices(adata):
                write_element(root, path, x)


def matrices(adata: AnnData) -> Iterator[tuple[str, Any]]:
    """Yield path and value of every matrix that is written shard by shard."""
    if adata.X is not None:
        yield "X", _checked(adata.X, "X")
    for key, value in named_layers(adata):
        yield f"layers/{key}", _checked(value, f"layers[{key!r}]")
    for slot in MAPPINGS:
        for key, value in getattr(adata, slot).items():
            if _is_lazy_matrix(value):
                yield f"{slot}/{key}", value
    if adata.raw is not None and adata.raw.X is not None:
        yield "raw/X", _checked(adata.raw.X, "raw.X")


def _checked(x: Any, name: str) -> Any:
    if isinstance(x, np.ndarray | DaskArray) or sp.issparse(x):
        return x
    raise InputError(
        f"found {name} of type {type(x).__name__}", "an array in memory or a lazy one", "read the file with sd.read"
    )


def _is_lazy_matrix(x: Any) -> bool:
    return isinstance(x, DaskArray) and x.ndim == 2


def write_one(
    x: Any, location: Location, path: str, *, narrow: bool = False, shard_bytes: int = disk.SHARD_BYTES
) -> Written:
    """Write one matrix of any kind, in its own form: csr, csc (in memory) or dense."""
    encoding = "csr_matrix"
    if sp.issparse(x) and x.format == "csc":
        x, encoding = x.T.tocsr(), "csc_matrix"
    rows = from_array(x)
    return write_matrix(rows, location, path, narrow=narrow, shard_bytes=shard_bytes, encoding=encoding)


# -- small elements ------------------------------------------------------------------------------


def elements(adata: AnnData, place: Location | None) -> Iterator[tuple[str, Any]]:
    """Yield path and value of every element that AnnData's own writer writes.

    Landmark graphs are put to ``place``, the store; None: an HDF5 file, which names them where they are.
    """
    h5 = place is None
    for axis in ("obs", "var"):
        yield axis, _table(getattr(adata, axis), axis, h5)
    for slot in MAPPINGS:
        for key, value in getattr(adata, slot).items():
            if not _is_lazy_matrix(value):
                yield f"{slot}/{key}", storable(value, f"{slot}[{key!r}]", h5=h5)
    for key, value in adata.uns.items():
        named = keys.with_safe_names(f"uns[{key!r}]", storable(value, f"uns[{key!r}]", h5=h5))
        yield f"uns/{key}", named if place is None else graphs.stored(key, named, place)


def _table(table: Any, name: str, h5: bool) -> Any:
    """Return a table as a file holds it; a lazy one as it is for zarr, whose columns are written one by one."""
    return table if is_lazy(table) and not h5 else storable_table(in_memory(table), name, h5=h5)


def write_elements(adata: AnnData, place: Location) -> None:
    """Write all but the matrices of a new store."""
    _write_small(adata, open_group(place, mode="r+", use_consolidated=False), place)


def _write_small(adata: AnnData, root: Any, place: Location | None) -> None:
    """Write all but the matrices to an empty group of zarr or, without a place, of HDF5."""
    for slot in ("layers", "uns", *MAPPINGS):
        root.require_group(slot).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    for path, value in elements(adata, place):
        write_element(root, path, value)
    if adata.raw is not None:
        root.require_group("raw").attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
        write_element(root, "raw/var", _table(adata.raw.var, "raw.var", place is None))
        write_element(root, "raw/varm", storable(dict(adata.raw.varm), "raw.varm", h5=place is None))


@contextlib.contextmanager
def _batched(root: zarr.Group) -> Iterator[zarr.Group]:
    """Yield an empty group to write small elements into; when the block ends, they are in ``root``.

    zarr writes one object after the other, with about ten requests an array. For a bucket they are made in memory and
    sent together; on a local disk the group is ``root`` itself. Memory: the encoded elements.
    """
    if isinstance(root.store, zarr.storage.LocalStore):
        yield root
        return
    objects: dict[str, Any] = {}
    yield zarr.open_group(zarr.storage.MemoryStore(objects), mode="w", zarr_format=root.metadata.zarr_format)
    prefix = f"{root.path}/" if root.path else ""

    async def send() -> None:
        await asyncio.gather(*(root.store.set(prefix + key, value) for key, value in objects.items() if "/" in key))

    sync(send())


def write_element(root: Any, path: str, value: Any) -> None:
    """Write one element with AnnData's writer, chunks and checksums set by us, no chunk left out."""
    parent, _, key = path.rpartition("/")
    group = root.require_group(parent) if parent else root
    if isinstance(value, Dataset2D):
        _write_lazy_table(group, key, value, path)
    else:
        _write_into(group, key, value, path)


def _write_lazy_table(parent: zarr.Group, name: str, table: Dataset2D, path: str) -> None:
    """Write a table in AnnData's layout, one column in memory at a time."""
    _write_into(parent, name, storable_table(pd.DataFrame(index=names(table)), path), path)
    group, keys = parent.require_group(name), columns(table)
    for key in keys:
        column = _lazy_column(table, key, path.replace("/", "."))
        values = column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array
        _write_into(group, key, values, f"{path}/{key}")
    group.attrs["column-order"] = keys


def _lazy_column(table: Dataset2D, key: str, name: str) -> pd.Series:
    at = f"adata.{name}"
    try:
        return storable_column(load(table, key), f"the column {key!r} of {name}", f"{at}[{key!r}]")
    except InputError as e:
        raise InputError(e.found, e.expected, f"{at} = {at}.to_memory(); {e.fix}") from None


def _write_into(group: Any, key: str, value: Any, path: str) -> None:
    in_zarr = isinstance(group, zarr.Group)
    with (
        _batched(group) if in_zarr else contextlib.nullcontext(group) as part,
        zarr.config.set({"array.write_empty_chunks": True}),
        anndata.settings.override(allow_write_nullable_strings=True),
    ):
        try:
            write_dispatched(part, key, value, callback=_with_chunks if in_zarr else _as_it_is)
        except OSError:
            raise
        except Exception as e:  # anndata raises many kinds
            reason = str(e).splitlines()[0] if str(e) else type(e).__name__
            raise InputError(
                f"{path} cannot be stored: {reason}", "something that AnnData's spec can hold", "change or remove it"
            ) from e


def _with_chunks(
    func: Any, store: zarr.Group, name: str, value: Any, *, dataset_kwargs: Mapping[str, Any], iospec: Any
) -> None:
    options: dict[str, Any] = {}
    if sp.issparse(value):
        options = disk.element_options((max(1, value.nnz),), value.dtype.itemsize, store.metadata.zarr_format)
    elif getattr(value, "ndim", 0) > 0 and hasattr(value, "dtype") and not isinstance(value, pd.DataFrame):
        itemsize = getattr(value.dtype, "itemsize", 8)
        options = disk.element_options(value.shape, itemsize, store.metadata.zarr_format)
    func(store, name, value, dataset_kwargs=options)


def _as_it_is(func: Any, store: Any, name: str, value: Any, *, dataset_kwargs: Mapping[str, Any], iospec: Any) -> None:
    func(store, name, value, dataset_kwargs=dataset_kwargs)


# -- where X comes from --------------------------------------------------------------------------


def _exprs(adata: AnnData) -> Iterator[tuple[str, Expr]]:
    for path, x in matrices(adata):
        if isinstance(x, DaskArray):
            found = from_array(x)
            if isinstance(found, RowBlocks) and not isinstance(found.expression.source, ForeignSource):
                yield path, found.expression


def _refuse_own_store(adata: AnnData, target: Location) -> None:
    read_from = [(path, s.place) for path, expr in _exprs(adata) for s in sources(expr)]
    for table in (adata.obs, adata.var):
        read_from += [(str(getattr(c, "path", "")), getattr(c, "location", None)) for c in lazy_columns(table)]
    for path, location in read_from:
        if not isinstance(location, Location):
            continue
        if same_place(location, target):
            raise InputError(
                f"{path} is read lazily from {location}, the store that would be written at {target}",
                "another path",
                "choose another path, or update=True to write results only",
            )
        if inside(location, target) or inside(target, location):
            raise InputError(
                f"{path} is read lazily from {location}; one of it and {target} is inside the other",
                "a place of its own",
                "choose another path",
            )


def _update(adata: AnnData, target: Location) -> None:
    x = dict(_exprs(adata)).get("X")
    location = x.source.place if x else None
    if x is None or not isinstance(location, Location) or not same_place(location, target):
        raise InputError(
            f"X is not read from {target}", "update=True with the store that X was read from", "leave update out"
        )
    if not x.is_as_stored:
        raise InputError(
            f"X is no longer what {target} holds: rows or columns were picked, or values changed",
            "update=True with X as it was read",
            "write to a new path",
        )
    if keys.is_h5ad(target) or not _is_anndata(target):
        raise InputError(f"{target} is no AnnData zarr store", "update=True with a zarr store", "write to a new path")
    with commit.writing(target):
        revision, finished = getattr(x.source, "revision", None), commit.finish_update(target)
        if revision is not None and finished == revision.owner:
            revision.text = revision_of(target)
        if revision is not None and revision.text != revision_of(target):
            raise StoreError(
                f"results were written into {target} by somebody else since it was read, which this would undo",
                "a store as it was read",
                "read it again with sd.read, then compute and write what is missing",
            )
        staged = commit.stage(target)
        written = {}
        for path, value in elements(adata, target):
            write_element(staged, path, value)
            written[path] = value
        commit.apply(target, staged, list(written), owner=None if revision is None else revision.owner)
        graphs.drop_others(_uns_of(target), target)
        if revision is not None:
            revision.text = revision_of(target)


def _uns_of(target: Location) -> dict[str, Any]:
    """Return the elements of a store's uns that name landmark graphs."""
    uns: Any = open_group(target, mode="r").get("uns", {})
    about = {key: uns[key] for key in uns if "compact" in getattr(uns[key], "keys", tuple)()}
    return {key: anndata.io.read_elem(value) for key, value in about.items()}


def _is_anndata(target: Location) -> bool:
    from sc_dask.io.blobs.store import sniff

    if sniff(target) != "zarr" or target.is_zip:
        return False
    attributes = open_group(target, mode="r").attrs
    return attributes.get("encoding-type") == "anndata"
