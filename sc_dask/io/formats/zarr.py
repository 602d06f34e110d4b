"""AnnData's matrices in zarr v2 and v3, read in place: any range of rows, from any number of threads and processes.

Bytes are counted as they come from storage, compressed. Sources hold a location and a path; what
they open is kept per process and found again by all threads.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import zarr
from dask.base import tokenize
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import WrapperStore

from sc_dask.array.source import METER, Block
from sc_dask.errors import FormatError, StoreError
from sc_dask.io.blobs.fetch import Steps, objects_at, together, written_again
from sc_dask.io.blobs.store import Location, Revision, fingerprint, zarr_store
from sc_dask.io.blobs.zchunks import Chunks
from sc_dask.io.formats.csr import StoredCSR, block_dtype
from sc_dask.io.formats.stored import StoredCSRSource, StoredSource

MARK = "sc_dask"  # root attribute of the stores that we write
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_OPENING = threading.RLock()  # one thread opens, the others find it open


class ChunkStore(WrapperStore[Store]):
    """Counts the bytes of chunks that are fetched, and remembers the chunks that were asked for and are not there.

    This needs no listing, which web servers do not have and buckets are slow at.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.missing: set[str] = set()

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        value = await self._store.get(key, prototype, byte_range)
        if key.rsplit("/", 1)[-1] in _METADATA:
            return value
        if value is None:
            self.missing.add(key)
        else:
            METER.add(n_bytes=len(value))
        return value


def is_complete(root: zarr.Group, location: Location) -> bool:
    """Return whether a store is finished and promises that every chunk is stored; False for a foreign store.

    Raises
    ------
    StoreError
        If it is a store of ours without its commit mark.
    """
    mark = root.attrs.get(MARK)
    if not isinstance(mark, dict):
        return False
    if not mark.get("committed", False):
        raise StoreError(
            f"{location} is unfinished: it has no commit mark",
            "a store whose writing ended",
            "run the same command again",
        )
    return bool(mark.get("complete_chunks", False))


class ZarrArray:
    """One zarr array, opened: rows by slice, errors with the file's name, and chunks that were found missing."""

    def __init__(self, location: Location, array: zarr.Array[Any], store: ChunkStore, source: _Opened) -> None:
        self.name = f"{location}: {array.path}"
        self._location, self._array = location, array
        self._newest_ns = source.newest_ns
        self._missing = [store.missing]
        self._rows_per_object = (array.shards or array.chunks)[0] if array.ndim else 1
        objects = objects_at(location, source.newest_ns)
        self._direct = None if objects is None else Chunks.of(objects, array)
        self._zarrs = _with_zarrs(location, array.path) if self._direct is None else None
        if self._direct is not None:
            # in a store that promises all chunks even one of zeros should be there
            self._missing = [self._direct.missing, *([self._direct.left_out] if source.complete else [])]

    def __len__(self) -> int:
        return int(self._array.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._array.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start:stop``, C-ordered."""
        return together([self.steps(start, stop)])[0]

    def steps(self, start: int, stop: int) -> Steps:
        """Read rows ``start:stop``, C-ordered, step by step."""
        try:
            if self._direct is not None:
                return (yield from self._direct.steps(start, stop))
            if self._zarrs is not None:
                rows = self._read_with_zarrs(self._zarrs, start, stop)
                if rows is not None:
                    return rows
            rows = np.ascontiguousarray(np.asarray(self._array[start:stop]))
            self._check_unchanged(start, stop)
            return rows
        except StoreError:
            raise
        except (OSError, TimeoutError) as err:
            raise StoreError(f"{self.name} cannot be read: {err}", "a readable store", "try again") from err
        except (ValueError, RuntimeError, TypeError, EOFError) as err:
            raise FormatError(
                f"{self.name} has a damaged chunk in rows {start} to {stop}: {err}", "whole chunks", "copy it again"
            ) from err

    def _check_unchanged(self, start: int, stop: int) -> None:
        """Look at the files of rows that zarr has read itself."""
        if self._newest_ns is None:
            return
        for _, key in self._objects(start, stop):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._location.path / key).st_mtime_ns > self._newest_ns:
                    raise written_again(f"{self._location}/{key}")

    def absent(self, start: int, stop: int) -> list[tuple[int, int, str]]:
        """Return first row, last + 1 and key of the stored objects of ``start:stop`` found missing while reading."""
        if not any(self._missing):
            return []
        step = self._rows_per_object
        return [
            (i * step, min((i + 1) * step, len(self)), key)
            for i, key in self._objects(start, stop)
            if any(key in keys for keys in self._missing)
        ]

    def _objects(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        """Yield the place along the rows and the key of every stored object of rows ``start:stop``."""
        sizes, step = self._array.shards or self._array.chunks, self._rows_per_object
        grid = [-(-n // size) for n, size in zip(self._array.shape[1:], sizes[1:], strict=True)]
        for i in range(start // step, (stop - 1) // step + 1 if stop > start else 0):
            for rest in np.ndindex(*grid):
                yield i, f"{self._array.path}/{self._array.metadata.encode_chunk_key((i, *rest))}".lstrip("/")

    def _read_with_zarrs(self, array: zarr.Array[Any], start: int, stop: int) -> np.ndarray | None:
        """Return rows read by zarrs, None where it fails: zarr then reads them, or says what is wrong.

        zarrs opens files itself, past `ChunkStore`: what is missing and how large it is are looked up here. Of a shard,
        the rows' share of its bytes is counted.
        """
        try:
            rows = np.ascontiguousarray(np.asarray(array[start:stop]))
        except Exception:  # of many kinds, and none is lost: zarr meets it again and says what it is
            return None
        for i, key in self._objects(start, stop):
            try:
                info = os.stat(self._location.path / key)
            except FileNotFoundError:
                self._missing[0].add(key)
                continue
            if self._newest_ns is not None and info.st_mtime_ns > self._newest_ns:
                raise written_again(f"{self._location}/{key}")
            size = info.st_size
            if array.shards is not None:
                first, rows_here = i * self._rows_per_object, self._rows_per_object
                step = int(array.chunks[0])
                lo = max(start - first, 0) // step * step
                hi = min(-(-(stop - first) // step) * step, rows_here)
                size = size * (hi - lo) // rows_here
            METER.add(n_bytes=size)
        return rows


def _with_zarrs(location: Location, path: str) -> zarr.Array[Any] | None:
    """Return a local array opened with the codecs of zarrs (compiled, several chunks at once), where that is possible.

    None when zarrs is not installed or does not know the array's codecs: zarr's own then read it.
    """
    if not location.is_local or location.is_zip:
        return None
    try:
        import zarrs  # noqa: F401
    except ImportError:
        return None
    wanted = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}
    try:
        with zarr.config.set(wanted):
            found = zarr.open_array(zarr_store(location), path=path, mode="r")
    except Exception:  # not one type: it depends on what is not supported
        return None
    return found


def _open(location: Location, path: str) -> zarr.Group | zarr.Array[Any]:
    store = ChunkStore(zarr_store(location))
    try:
        return zarr.open(store, path=path, mode="r")
    except (FileNotFoundError, KeyError, ValueError) as err:
        raise StoreError(f"{location}: {path} cannot be opened: {err}", "an array", "copy the store again") from err


class _Opened(Protocol):
    """What a source knows of its store."""

    @property
    def location(self) -> Location: ...
    @property
    def complete(self) -> bool:
        """Whether the store promises that every chunk is stored."""
        ...

    @property
    def newest_ns(self) -> int | None:
        """The latest modification time of a file of the matrix when it was opened; None where it is not local."""
        ...


def _array(source: _Opened, path: str) -> ZarrArray:
    location = source.location
    found = _open(location, path)
    if not isinstance(found, zarr.Array):
        raise FormatError(f"{location}: {path} is a group", "an array")
    store = found.store
    assert isinstance(store, ChunkStore)
    return ZarrArray(location, found, store, source)


def stamp(location: Location, path: str, array: zarr.Array[Any]) -> tuple[str, int | None]:
    """Return a text that changes when an array is written again, and the latest modification time of its files.

    Of a folder on this machine every file is looked at, chunks too: they may be changed in place. Elsewhere it is the
    metadata, which every writer renews.
    """
    key = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
    known = [str(array.metadata.to_dict()), fingerprint(location, f"{path}/{key}")]
    if not location.is_local or location.is_zip:
        return tokenize(*known), None
    digest, newest = blake2b(digest_size=16), 0
    for name, info in sorted(_files(f"{location.url}/{path}")):
        digest.update(f"{name}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
        newest = max(newest, info.st_mtime_ns)
    return tokenize(*known, digest.hexdigest()), newest


def _files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and status of every file under a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path)
            else:
                yield entry.path, entry.stat()


def _latest(times: Sequence[int | None]) -> int | None:
    known = [t for t in times if t is not None]
    return max(known) if known else None


@dataclass(frozen=True)
class ZarrCSRSource(StoredCSRSource):
    """Rows of a sparse matrix in a zarr store (or columns of a csc one, as the csr of the transpose)."""

    location: Location
    path: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    stamp: str
    complete: bool = False
    newest_ns: int | None = None
    revision: Revision | None = field(default=None, compare=False)  # shared by all matrices that were read at once

    @classmethod
    def of(
        cls,
        location: Location,
        group: zarr.Group,
        shape: tuple[int, int],
        complete: bool,
        revision: Revision | None = None,
    ) -> ZarrCSRSource:
        """Make the source of a group with ``data``, ``indices`` and ``indptr``; checks their lengths.

        Raises
        ------
        FormatError
            If an array is not there, or they contradict the shape.
        """
        stamps, dtype = [], np.dtype(np.float32)
        for key in ("indptr", "indices", "data"):
            array = group.get(key)
            if not isinstance(array, zarr.Array) or array.ndim != 1:
                raise FormatError(f"{location}: {group.path} has no array {key}", "data, indices and indptr")
            stamps.append(stamp(location, array.path, array))
            dtype = block_dtype(array.dtype, f"{location}: {array.path}")
        mark, newest = tokenize(*(text for text, _ in stamps)), _latest([time for _, time in stamps])
        source = cls(location, group.path, shape, dtype, mark, complete, newest, revision)
        source.opened().check()
        return source

    def opened(self) -> StoredCSR:
        """Return the open matrix, opened once per process."""
        with _OPENING:
            return _opened_csr(self)


@functools.lru_cache(maxsize=64)
def _opened_csr(source: ZarrCSRSource) -> StoredCSR:
    data, indices, indptr = (_array(source, f"{source.path}/{k}") for k in ("data", "indices", "indptr"))
    return StoredCSR(data, indices, indptr, source.shape, source.complete)


@dataclass(frozen=True)
class ZarrDenseSource(StoredSource):
    """Rows of a dense matrix in a zarr store."""

    location: Location
    path: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    stamp: str
    complete: bool = False
    newest_ns: int | None = None
    revision: Revision | None = field(default=None, compare=False)  # shared by all matrices that were read at once

    @classmethod
    def of(
        cls, location: Location, array: zarr.Array[Any], complete: bool, revision: Revision | None = None
    ) -> ZarrDenseSource:
        """Make the source of a 2-D array."""
        shape = (int(array.shape[0]), int(array.shape[1]))
        dtype = block_dtype(array.dtype, f"{location}: {array.path}")
        mark, newest = stamp(location, array.path, array)
        return cls(location, array.path, shape, dtype, mark, complete, newest, revision)

    def read(self, start: int, stop: int) -> Block:
        with _OPENING:
            array = _opened_dense(self)
        block = array.read(start, stop).astype(self.dtype, copy=False)
        if self.complete:
            for _, _, chunk in array.absent(start, stop):
                raise StoreError(
                    f"chunk {chunk} of {array.name} is missing",
                    "every chunk to be stored (a missing one would read as zeros)",
                    "copy the store again, or write it again from its source",
                )
        METER.add(rows=stop - start)
        return block


@functools.lru_cache(maxsize=64)
def _opened_dense(source: ZarrDenseSource) -> ZarrArray:
    return _array(source, source.path)
