"""Rows of an HDF5 dataset, read without HDF5's global lock.

Opening asks h5py once where the chunks are: byte offset, size and skipped filters of each (20 bytes
a chunk are kept). Reading then fetches those bytes with ``os.pread`` (or concurrent range requests) and
undoes the filters outside the lock, so threads inflate side by side.

Done here: contiguous and chunked layouts of plain integers, floats and bools, with the filters
deflate, shuffle, fletcher32, lzf, blosc and zstd. Everything else (compact, virtual and external layouts,
user blocks, szip, nbit, scale-offset, other types) is read by h5py, under its lock.
"""

from __future__ import annotations

import importlib
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numcodecs
import numcodecs.blosc
import numcodecs.zstd
import numpy as np

from sc_dask.array.source import METER
from sc_dask.errors import FormatError, StoreError
from sc_dask.io.blobs.buffers import BUFFERS
from sc_dask.io.blobs.fetch import written_again
from sc_dask.io.blobs.store import Location, open_h5, read_ranges
from sc_dask.kernels import lzf

RUN_BYTES = 8 << 20  # neighbouring chunks are fetched together up to this
GAP_BYTES = 4 << 10  # and across holes up to this
REMOTE_GAP_BYTES = 64 << 10  # a request costs more than this many bytes

Undo = Callable[[Any, tuple[int, ...], int], Any]  # raw bytes, the filter's values, decoded size -> bytes


def _inflater() -> Any:
    """Return what undoes deflate: isal with the extra ``fast``, else zlib; the same bytes, 0.40 or 0.20 GB a second."""
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return zlib


INFLATER = _inflater()


def _unshuffle(raw: Any, values: tuple[int, ...], n_bytes: int) -> Any:
    return numcodecs.Shuffle(elementsize=values[0]).decode(raw) if values[0] > 1 else raw


_FILTERS: dict[int, Undo] = {
    1: lambda raw, values, n_bytes: INFLATER.decompress(raw, bufsize=n_bytes),
    2: _unshuffle,
    3: lambda raw, values, n_bytes: numcodecs.Fletcher32().decode(raw),
    32000: lambda raw, values, n_bytes: lzf.decompress(raw, n_bytes),
    32001: lambda raw, values, n_bytes: numcodecs.blosc.decompress(raw),
    32015: lambda raw, values, n_bytes: numcodecs.zstd.decompress(raw),
}


@dataclass(frozen=True, eq=False)
class ChunkLayout:
    """Where a dataset's bytes are. ``chunks`` None: one run of bytes at ``offsets[0]``."""

    chunks: tuple[int, ...] | None
    grid: tuple[int, ...]  # chunks along each axis
    filters: tuple[tuple[int, tuple[int, ...]], ...]
    offsets: np.ndarray  # int64, one per chunk, C order of the grid
    sizes: np.ndarray  # int64, 0: never written
    masks: np.ndarray  # uint32, bit i: filter i was skipped


def read_layout(dataset: Any) -> ChunkLayout | None:
    """Return where an open h5py dataset's bytes are, or None when it must be read by h5py."""
    import h5py

    dtype, plain = dataset.dtype, dataset.id.get_type()
    if dtype.kind not in "biuf" or plain != h5py.h5t.py_create(dtype, logical=True):
        return None
    if dataset.is_virtual or dataset.external or dataset.file.userblock_size:
        return None
    plist = dataset.id.get_create_plist()
    empty = np.zeros(0, np.int64)
    if plist.get_layout() == h5py.h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        if offset is None:
            return None
        return ChunkLayout(None, (), (), np.array([offset], np.int64), empty, empty)
    if plist.get_layout() != h5py.h5d.CHUNKED:
        return None
    filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    if any(f[0] not in _FILTERS for f in filters):
        return None
    chunks = tuple(int(c) for c in dataset.chunks)
    grid = tuple(-(-int(n) // c) for n, c in zip(dataset.shape, chunks, strict=True))
    n = int(np.prod(grid, dtype=np.int64))
    offsets, sizes, masks = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.uint32)

    def keep(info: Any) -> None:
        where = [o // c for o, c in zip(info.chunk_offset, chunks, strict=True)]
        if all(w < g for w, g in zip(where, grid, strict=True)):  # a shrunk dataset keeps chunks outside
            i = int(np.ravel_multi_index(where, grid))
            offsets[i], sizes[i], masks[i] = info.byte_offset, info.size, info.filter_mask

    if n:
        dataset.id.chunk_iter(keep)
    return ChunkLayout(chunks, grid, tuple((int(f[0]), tuple(f[2])) for f in filters), offsets, sizes, masks)


class H5Array:
    """One HDF5 dataset, opened; any number of threads may read from it."""

    def __init__(self, location: Location, path: str) -> None:
        self.name = f"{location}: {path.lstrip('/')}"
        self._location, self._path = location, path
        with open_h5(location) as f:
            dataset = f.get(path)
            if not hasattr(dataset, "dtype"):
                raise FormatError(f"{location} has no array {path}", "an HDF5 dataset")
            self.shape: tuple[int, ...] = tuple(int(n) for n in dataset.shape)
            self._dtype: np.dtype[Any] = np.dtype(dataset.dtype)
            self._fill = dataset.fillvalue
            self.layout = read_layout(dataset)
        self._fallback: Any = None
        self._lock = threading.Lock()
        self._fd = -1
        if location.is_local:
            self._fd = os.open(location.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._fd)
            self._state = _state(self._fd)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def row_chunk(self) -> int:
        """Rows of one chunk; 1 when rows are stored one after the other."""
        return self.layout.chunks[0] if self.layout is not None and self.layout.chunks else 1

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start:stop`` in native byte order, C-ordered.

        Raises
        ------
        StoreError
            The file was written to since it was opened, before or while it was read.
        """
        error: Exception | None = None
        out = np.empty(0)
        try:
            out = self._read(start, stop)
        except (FormatError, StoreError) as err:  # perhaps because of that
            error = err
        if self._fd >= 0 and _state(self._fd) != self._state:
            raise written_again(str(self._location)) from error
        if error is not None:
            raise error
        return out

    def _read(self, start: int, stop: int) -> np.ndarray:
        if self.layout is None:
            return self._read_with_h5py(start, stop)
        shape = (max(stop - start, 0), *self.shape[1:])
        out = BUFFERS.empty(int(np.prod(shape, dtype=np.int64)), self._dtype).reshape(shape)
        if out.size and self.layout.chunks is None:
            row_bytes = out.nbytes // len(out)
            first = int(self.layout.offsets[0]) + start * row_bytes
            for _, raw in self._fetch(np.array([first]), np.array([out.nbytes])):
                if len(raw) != out.nbytes:
                    raise StoreError(f"{self._location} ends early", "a whole file", "fetch it again")
                out.reshape(-1).view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
        elif out.size:
            self._read_chunks(self.layout, out, start, stop)
        return out if out.dtype.isnative else out.astype(out.dtype.newbyteorder("="))

    def absent(self, start: int, stop: int) -> list[tuple[int, int, str]]:
        """Return first row, last row + 1 and number of the chunks of ``start:stop`` that were never written."""
        if self.layout is None or self.layout.chunks is None or stop <= start:
            return []
        ids, step = self._ids(self.layout, start, stop), self.layout.chunks[0]
        rows = np.unravel_index(ids[self.layout.sizes[ids] == 0], self.layout.grid)
        return [
            (int(w[0]) * step, min((int(w[0]) + 1) * step, len(self)), ".".join(map(str, w)))
            for w in zip(*rows, strict=True)
        ]

    @staticmethod
    def _ids(layout: ChunkLayout, start: int, stop: int) -> np.ndarray:
        assert layout.chunks is not None
        step, per_row = layout.chunks[0], int(np.prod(layout.grid[1:], dtype=np.int64))
        return np.arange(start // step * per_row, ((stop - 1) // step + 1) * per_row)

    def _read_chunks(self, layout: ChunkLayout, out: np.ndarray, start: int, stop: int) -> None:
        assert layout.chunks is not None
        ids = self._ids(layout, start, stop)
        stored = ids[layout.sizes[ids] > 0]
        if len(stored) < len(ids):
            out[...] = self._fill
        n_bytes = int(np.prod(layout.chunks, dtype=np.int64)) * self._dtype.itemsize
        for k, raw in self._fetch(layout.offsets[stored], layout.sizes[stored]):
            i = int(stored[k])
            chunk = self._decode(layout, raw, int(layout.masks[i]), n_bytes)
            into, where = [], np.unravel_index(i, layout.grid)
            taken = []
            for axis, (w, size) in enumerate(zip(where, layout.chunks, strict=True)):
                lo, hi = (start, stop) if axis == 0 else (0, self.shape[axis])
                a, b = max(int(w) * size, lo), min((int(w) + 1) * size, hi)
                into.append(slice(a - lo, b - lo))
                taken.append(slice(a - int(w) * size, b - int(w) * size))
            out[tuple(into)] = chunk[tuple(taken)]

    def _decode(self, layout: ChunkLayout, raw: Any, mask: int, n_bytes: int) -> np.ndarray:
        try:
            for i in range(len(layout.filters) - 1, -1, -1):
                if not mask >> i & 1:
                    code, values = layout.filters[i]
                    raw = _FILTERS[code](raw, values, n_bytes)
            return np.frombuffer(raw, self._dtype).reshape(layout.chunks)
        except (INFLATER.error, ValueError, RuntimeError, FormatError) as err:
            raise FormatError(
                f"{self.name} has a damaged chunk: {err}", "whole chunks", "fetch the file again"
            ) from err

    def _fetch(self, offsets: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Yield the position and the bytes of every range, neighbours fetched together."""
        METER.add(n_bytes=int(sizes.sum()))
        order = np.argsort(offsets, kind="stable")
        gap = GAP_BYTES if self._fd >= 0 else REMOTE_GAP_BYTES
        runs: list[list[int]] = []
        for k in order.tolist():
            end = int(offsets[k] + sizes[k])
            if runs and offsets[k] - _end(runs[-1], offsets, sizes) <= gap and end - offsets[runs[-1][0]] <= RUN_BYTES:
                runs[-1].append(k)
            else:
                runs.append([k])
        starts = [int(offsets[run[0]]) for run in runs]
        stops = [_end(run, offsets, sizes) for run in runs]
        parts = self._parts(starts, stops)
        for run, first, part in zip(runs, starts, parts, strict=True):
            view = memoryview(part)
            for k in run:
                lo = int(offsets[k]) - first
                yield k, view[lo : lo + int(sizes[k])]

    def _parts(self, starts: list[int], stops: list[int]) -> Iterator[Any]:
        if self._fd < 0:
            yield from read_ranges(self._location, starts, stops)
            return
        for start, stop in zip(starts, stops, strict=True):
            part: Any = BUFFERS.empty(stop - start, np.uint8)
            view, done = memoryview(part), 0
            while done < len(part):
                n = os.preadv(self._fd, [view[done:]], start + done)
                if n <= 0:
                    raise StoreError(f"{self._location} ends before byte {stop}", "a whole file", "fetch it again")
                done += n
            yield part

    def _read_with_h5py(self, start: int, stop: int) -> np.ndarray:
        with self._lock:
            if self._fallback is None:
                self._fallback = open_h5(self._location)
            try:
                out = np.asarray(self._fallback[self._path][start:stop])
            except OSError as err:
                raise FormatError(
                    f"{self.name} cannot be read: {err}", "a known HDF5 filter", "write the file again with gzip or lzf"
                ) from err
        METER.add(n_bytes=out.nbytes)
        return out if out.dtype.isnative else out.astype(out.dtype.newbyteorder("="))


def _state(fd: int) -> tuple[int, int]:
    """Return modification time and size of an open file: they change when it is written."""
    info = os.fstat(fd)
    return info.st_mtime_ns, info.st_size


def _end(run: list[int], offsets: np.ndarray, sizes: np.ndarray) -> int:
    return int(offsets[run[-1]] + sizes[run[-1]])
