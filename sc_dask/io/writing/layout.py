"""How our own stores lie on disk: AnnData's zarr spec, zarr v3, cut into shards that one task writes whole.

A sparse matrix is a group with ``data``, ``indices`` and ``indptr``, both int32 where the number of non-zeros and the
columns fit, else both int64: scipy refuses many operations on a matrix with two widths. Shard k of ``data`` and of
``indices`` holds the non-zeros ``k * shard_nnz : (k + 1) * shard_nnz``, wherever rows begin and end. Because the
non-zeros per row are known before anything is written, the task of shard k makes the rows that overlap its range,
trims them, and writes shard k of both arrays: every shard is written once, whole, by one task, so no two tasks ever
touch one object and a part of a shard is never read back to be completed (zarr lets concurrent writers of one shard
overwrite each other silently). The price is that a row at a border is made twice, and the rows at the
ends of a shard may decode an inner chunk of the source twice.

A dense matrix is cut into shards of whole rows. Chunks and shards are always set here, never ``"auto"``.

Shards hold 64 MiB decoded (8 bytes a non-zero), smaller for a small matrix; inner chunks hold 512 Ki non-zeros
(2 MiB of float32), compressed by blosc (lz4; bitshuffle, or none for floats that a sample shows to come again as they
are), with a crc32c of every chunk and of every shard's index.

A finished store says so in its root attribute ``sc_dask``: ``{"committed": true, "complete_chunks": true,
"version": 1}``. ``complete_chunks`` promises that every chunk is stored, also one that is all zeros, so that a
lost object is seen (zarr reads a missing chunk as zeros).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from sc_dask.errors import StoreError
from sc_dask.io.writing.shards import Shuffle, inner_codecs, put, put_in_all
from sc_dask.outside.zarr import sync

LAYOUT_VERSION = 1
MARK = "sc_dask"
SHARD_BYTES = 64 << 20
NNZ_BYTES = 8  # of a non-zero in memory: an index and a 4-byte value
CHUNK_NNZ = 512 << 10
CHUNK_BYTES = 2 << 20
MOST_INT32 = 2**31 - 1
KEEP_EMPTY: Any = {"write_empty_chunks": True}  # a chunk that is left out could not be told from a lost one


@dataclass(frozen=True)
class SparseLayout:
    """Where the non-zeros of a csr matrix go."""

    shape: tuple[int, int]
    nnz: int
    dtype: str
    shard_nnz: int
    chunk_nnz: int

    @property
    def n_shards(self) -> int:
        return -(-self.nnz // self.shard_nnz)

    def span(self, shard: int) -> tuple[int, int]:
        """Return the range of non-zeros of a shard."""
        return shard * self.shard_nnz, min(self.nnz, (shard + 1) * self.shard_nnz)

    def rows(self, shard: int, indptr: np.ndarray) -> tuple[int, int]:
        """Return the range of rows that overlap a shard."""
        lo, hi = self.span(shard)
        return int(np.searchsorted(indptr, lo, side="right")) - 1, int(np.searchsorted(indptr, hi, side="left"))


@dataclass(frozen=True)
class DenseLayout:
    """Where the rows of a dense matrix go."""

    shape: tuple[int, int]
    dtype: str
    shard_rows: int
    chunk_rows: int

    @property
    def n_shards(self) -> int:
        return -(-self.shape[0] // self.shard_rows)

    def span(self, shard: int) -> tuple[int, int]:
        """Return the range of rows of a shard."""
        return shard * self.shard_rows, min(self.shape[0], (shard + 1) * self.shard_rows)


def sparse_layout(shape: tuple[int, int], nnz: int, dtype: Any, shard_bytes: int = SHARD_BYTES) -> SparseLayout:
    """Choose shards of ``shard_bytes`` (decoded, 8 bytes a non-zero) for a csr matrix; one inner chunk at least."""
    wanted = max(1, shard_bytes // NNZ_BYTES)
    chunk = max(1, min(CHUNK_NNZ, wanted, nnz))
    shard = chunk * max(1, min(wanted // chunk, -(-nnz // chunk)))
    return SparseLayout(_pair(shape), int(nnz), np.dtype(dtype).name, shard, chunk)


def dense_layout(shape: tuple[int, int], dtype: Any, shard_bytes: int = SHARD_BYTES) -> DenseLayout:
    """Choose shards of ``shard_bytes`` of whole rows for a dense matrix; at least one row each."""
    n_obs, n_vars = _pair(shape)
    row_bytes = max(1, n_vars * np.dtype(dtype).itemsize)
    chunk = max(1, min(min(CHUNK_BYTES, shard_bytes) // row_bytes, n_obs))
    shard = chunk * max(1, min(shard_bytes // (chunk * row_bytes), -(-n_obs // chunk)))
    return DenseLayout((n_obs, n_vars), np.dtype(dtype).name, shard, chunk)


def _pair(shape: tuple[int, int]) -> tuple[int, int]:
    return int(shape[0]), int(shape[1])


# -- making arrays -------------------------------------------------------------------------------


def create_sparse(
    parent: zarr.Group,
    path: str,
    layout: SparseLayout,
    indptr: np.ndarray,
    encoding: str = "csr_matrix",
    shuffle: Shuffle = "bitshuffle",
) -> zarr.Group:
    """Make the group of a sparse matrix: attributes, ``indptr`` whole, ``data`` and ``indices`` still without chunks.

    With ``encoding="csc_matrix"`` the "rows" of the layout are the columns of the matrix. ``shuffle``: of ``data``.
    """
    group = parent.create_group(path, overwrite=True)
    shape = layout.shape if encoding == "csr_matrix" else layout.shape[::-1]
    group.attrs.update({"encoding-type": encoding, "encoding-version": "0.1.0", "shape": list(shape)})
    where = (layout.nnz,), (layout.chunk_nnz,), (layout.shard_nnz,)
    _create(group, "data", layout.dtype, *where, shuffle)
    width = index_dtype(layout)
    _create(group, "indices", width, *where)
    chunk = max(1, min(CHUNK_BYTES // 8, len(indptr)))
    shard = chunk * max(1, min(32, -(-len(indptr) // chunk)))
    out = _create(group, "indptr", width, (len(indptr),), (chunk,), (shard,))
    out[:] = np.asarray(indptr, width)
    return group


def create_dense(
    parent: zarr.Group, path: str, layout: DenseLayout, shuffle: Shuffle = "bitshuffle"
) -> zarr.Array[Any]:
    """Make the array of a dense matrix, still without chunks."""
    width = max(1, layout.shape[1])
    chunk, shard = (layout.chunk_rows, width), (layout.shard_rows, width)
    array = _create(parent, path, layout.dtype, layout.shape, chunk, shard, shuffle)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array


def _create(
    parent: zarr.Group,
    path: str,
    dtype: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...],
    shuffle: Shuffle = "bitshuffle",
) -> zarr.Array[Any]:
    array = parent.create_array(
        path,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        compressors=inner_codecs(shuffle),
        fill_value=0,
        overwrite=True,
    )
    return array.with_config(KEEP_EMPTY)


def index_dtype(layout: SparseLayout) -> str:
    """Return the type of ``indices`` and ``indptr`` of a sparse matrix: one for both."""
    return "int32" if max(layout.nnz, layout.shape[1]) <= MOST_INT32 else "int64"


def node_at(root: zarr.Group, path: str) -> zarr.Group | zarr.Array[Any]:
    """Return what stands at a path of a store."""
    node: Any = root[path]
    return node  # type: ignore[no-any-return]


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return an array of a group."""
    array: Any = group[name]
    return array  # type: ignore[no-any-return]


def values_of(node: zarr.Group | zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array that holds the values of a sparse or dense matrix."""
    return array_of(node, "data") if isinstance(node, zarr.Group) else node


def has_sparse(parent: zarr.Group, path: str, layout: SparseLayout) -> bool:
    """Return whether an interrupted run has made the arrays of just this matrix."""
    found = row_nnz(parent, path)
    if found is None or len(found) != layout.shape[0] or int(found.sum()) != layout.nnz:
        return False
    data, *numbers = (array_of(parent[path], name) for name in ("data", "indices", "indptr"))  # type: ignore[arg-type]
    if {n.dtype.name for n in numbers} != {index_dtype(layout)}:
        return False
    wanted = ((layout.nnz,), layout.dtype, (layout.shard_nnz,), (layout.chunk_nnz,))
    return (data.shape, data.dtype.name, data.shards, data.chunks) == wanted


def row_nnz(parent: zarr.Group, path: str) -> np.ndarray | None:
    """Return the non-zeros per row of a matrix that may be unfinished; empty for a dense one, None if not there."""
    node: Any = parent.get(path)
    if isinstance(node, zarr.Array):
        return np.zeros(0, np.int64)
    if not isinstance(node, zarr.Group) or not {"data", "indices", "indptr"} <= set(node.array_keys()):
        return None
    indptr = array_of(node, "indptr")
    return None if missing_chunks(indptr) else np.diff(np.asarray(indptr[:], np.int64))


def has_dense(parent: zarr.Group, path: str, layout: DenseLayout) -> bool:
    """Return whether an interrupted run has made the array of just this matrix."""
    array, width = parent.get(path), max(1, layout.shape[1])
    if not isinstance(array, zarr.Array):
        return False
    found = (array.shape, array.dtype.name, array.shards, array.chunks)
    return found == (layout.shape, layout.dtype, (layout.shard_rows, width), (layout.chunk_rows, width))


def put_sparse(
    group: zarr.Group, layout: SparseLayout, shard: int, data: np.ndarray, indices: np.ndarray, check: bool = False
) -> None:
    """Write shard ``shard`` of ``layout``, of ``data`` and ``indices``; with ``check`` each is read back and compared.

    ``indices`` are written once ``data`` were found right, so that a run that is killed leaves no pair that was not.
    """
    for name, values in (("data", data), ("indices", indices)):
        put(array_of(group, name), shard, values, check=check)


def put_alike(groups: Sequence[zarr.Group], shard: int, data: Sequence[np.ndarray], indices: np.ndarray) -> None:
    """Write one shard of sparse matrices of one pattern and layout, whose values alone differ."""
    for group, values in zip(groups, data, strict=True):
        put(array_of(group, "data"), shard, values)
    put_in_all([array_of(group, "indices") for group in groups], shard, indices)


def put_dense(array: zarr.Array[Any], layout: DenseLayout, shard: int, rows: np.ndarray, check: bool = False) -> None:
    """Write shard ``shard`` of ``layout``; with ``check`` it is read back and compared."""
    put(array, shard, rows, check=check)


def element_options(shape: tuple[int, ...], itemsize: int, zarr_format: int) -> dict[str, Any]:
    """Return chunks and codecs for a small array that is written whole by one process (obs columns, embeddings)."""
    row = max(1, math.prod(shape[1:]) * max(1, itemsize))
    chunks = (max(1, min(shape[0], CHUNK_BYTES // row)), *(max(1, n) for n in shape[1:]))
    if zarr_format == 2:
        return {"chunks": chunks, "shards": None}
    return {"chunks": chunks, "shards": None, "compressors": [ZstdCodec(level=3), Crc32cCodec()]}


# -- the commit mark and the check ---------------------------------------------------------------


def mark(group: zarr.Group, *, committed: bool, **more: Any) -> None:
    """Set the root attribute that says whether the store is whole; ``more`` is kept beside it until the next mark."""
    group.attrs[MARK] = mark_of(committed=committed, **more)


def mark_of(*, committed: bool, **more: Any) -> dict[str, Any]:
    """Return that attribute."""
    return {"committed": committed, "complete_chunks": True, "version": LAYOUT_VERSION, **more}


@dataclass(frozen=True)
class StoreCheck:
    """What `verify_store` found right."""

    n_arrays: int
    n_chunks: int
    sums: dict[str, float | int]  # of each sparse or dense matrix, by path; only when the values were read


def verify_store(group: zarr.Group, *, deep: bool = False) -> StoreCheck:
    """Check that a store is whole.

    Every expected chunk (or shard) of every array exists; each sparse matrix has an ``indptr`` that starts at 0,
    never falls, and ends at the length of ``data`` and ``indices``; X, layers, obs and var agree on their lengths.
    With ``deep`` the values are read too: checksums hold, column numbers are inside the matrix, and sums are returned.

    Passes: none, or one over everything stored with ``deep``. Memory: one shard.

    Raises
    ------
    StoreError
        Naming the array and what is wrong with it.
    """
    n_arrays = n_chunks = 0
    sums: dict[str, float | int] = {}
    for path, node in _walk(group):
        if isinstance(node, zarr.Array):
            lost = missing_chunks(node)
            if lost:
                raise StoreError(
                    f"{group.store_path}: array {path!r} lacks {len(lost)} chunk(s), the first is {lost[0]!r}",
                    "every chunk stored",
                    "write or convert the store again",
                )
            n_arrays, n_chunks = n_arrays + 1, n_chunks + math.prod(shard_grid(node))
        elif str(node.attrs.get("encoding-type", "")) in ("csr_matrix", "csc_matrix"):
            check_indptr(node, path)
            if deep:
                sums[path] = sum(sum_shard(node, i) for i in range(shard_grid(values_of(node))[0]))
        if deep and isinstance(node, zarr.Array) and path in ("X", "raw/X"):
            sums[path] = sum(sum_shard(node, i) for i in range(shard_grid(node)[0]))
    _check_lengths(group)
    return StoreCheck(n_arrays, n_chunks, sums)


def _walk(group: zarr.Group, prefix: str = "") -> Iterator[tuple[str, zarr.Group | zarr.Array[Any]]]:
    for name, node in sorted(group.members()):
        yield prefix + name, node
        if isinstance(node, zarr.Group):
            yield from _walk(node, f"{prefix}{name}/")


def shard_grid(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return how many stored objects an array has along each axis."""
    sizes = array.shards or array.chunks
    return tuple(-(-n // size) for n, size in zip(array.shape, sizes, strict=True))


def missing_chunks(array: zarr.Array[Any]) -> list[str]:
    """Return the keys of stored objects (shards, or chunks of an unsharded array) that should exist and do not."""
    if 0 in array.shape or array.attrs.get("encoding-type") == "null":
        return []

    async def found() -> set[str]:
        return {key async for key in array.store.list_prefix(f"{array.path}/" if array.path else "")}

    stored = sync(found())
    prefix = f"{array.path}/" if array.path else ""
    keys = (chunk_key(array, at) for at in itertools.product(*(range(n) for n in shard_grid(array))))
    return [key for key in keys if prefix + key not in stored]


def chunk_key(array: zarr.Array[Any], at: tuple[int, ...]) -> str:
    """Return the key of a stored object relative to its array."""
    return str(array.metadata.encode_chunk_key(at))


def check_indptr(group: zarr.Group, path: str) -> None:
    """Raise `StoreError` unless the ``indptr`` of a sparse group fits its shape and its arrays."""
    shape = shape_of(group)
    n_major = shape[0] if group.attrs["encoding-type"] == "csr_matrix" else shape[1]
    indptr = np.asarray(array_of(group, "indptr")[:])
    nnz = int(array_of(group, "data").shape[0])
    right = (
        len(indptr) == n_major + 1
        and indptr[0] == 0
        and indptr[-1] == nnz == array_of(group, "indices").shape[0]
        and bool((np.diff(indptr) >= 0).all())
    )
    if not right:
        raise StoreError(
            f"{group.store_path}: indptr of {path!r} does not fit shape {shape} and {nnz} stored values",
            "a rising indptr from 0 to the number of stored values",
            "write or convert the store again",
        )


def shape_of(node: zarr.Group | zarr.Array[Any]) -> tuple[int, int]:
    """Return the shape of a sparse or dense matrix."""
    shape: Any = node.attrs["shape"] if isinstance(node, zarr.Group) else node.shape
    return int(shape[0]), int(shape[1])


def sum_shard(node: zarr.Group | zarr.Array[Any], shard: int) -> float | int:
    """Read one shard of a matrix, check its column numbers, and return the sum of its values (exact for integers)."""
    data = values_of(node)
    size = (data.shards or data.chunks)[0]
    where = slice(shard * size, min(data.shape[0], (shard + 1) * size))
    if isinstance(node, zarr.Group):
        n_minor = shape_of(node)[1 if node.attrs["encoding-type"] == "csr_matrix" else 0]
        indices = np.asarray(array_of(node, "indices")[where])
        if len(indices) and (indices.min() < 0 or indices.max() >= n_minor):
            raise StoreError(f"{node.store_path}: shard {shard} of 'indices' points outside {n_minor} columns")
    return exact_sum(np.asarray(data[where]))


def exact_sum(values: np.ndarray) -> float | int:
    """Return the sum of values: a Python integer for integers, else in float64."""
    if values.dtype.kind in "iub":
        return int(values.sum(dtype=np.uint64 if values.dtype.kind == "u" else np.int64))
    return float(values.sum(dtype=np.float64))


def _check_lengths(group: zarr.Group) -> None:
    for axis, name in enumerate(("obs", "var")):
        frame: Any = group.get(name)
        if "X" not in group or not isinstance(frame, zarr.Group):
            continue
        index: Any = frame[str(frame.attrs.get("_index", "_index"))]
        values: Any = index["values"] if isinstance(index, zarr.Group) else index
        n = int(values.shape[0])
        shape = shape_of(node_at(group, "X"))
        if n != shape[axis]:
            raise StoreError(
                f"{group.store_path}: {name} has {n} rows and X has shape {shape}",
                "equal lengths",
                "write or convert the store again",
            )
