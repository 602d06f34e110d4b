"""One-dimensional zarr arrays on a local disk, decoded chunk by chunk straight into the result.

zarr's own pipeline copies every chunk through buffers and an event loop. The long vectors of a sparse matrix (data,
indices) need none of that: a chunk is read at once, checked, and decompressed where it belongs. A chunk that two blocks
share is decoded once and kept for the neighbour. What is not supported here is left to zarr.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import zarr
from numcodecs.abc import Codec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from sc_dask.array.source import METER
from sc_dask.errors import FormatError

_MISSING = 2**64 - 1
_KEPT_CHUNKS = 8  # decoded chunks at block edges, per array
_KEPT_INDEXES = 256  # shard indexes, per array


@dataclass(frozen=True)
class _Coding:
    """How one chunk's bytes become values."""

    codec: Codec | None
    checksum: bool
    n_values: int
    dtype: np.dtype[Any]
    fill: Any

    def decode(self, raw: bytes, out: np.ndarray, name: str) -> None:
        """Fill ``out`` (n_values, contiguous) from stored bytes."""
        if self.checksum:
            raw = _checked(raw, name)
        try:
            if self.codec is None:
                out[:] = np.frombuffer(raw, self.dtype)
            else:
                self.codec.decode(raw, out)
        except (ValueError, RuntimeError, TypeError, EOFError, OSError) as err:
            raise FormatError(f"{name}: {err}", "whole chunks", "copy it again") from err


def _checked(raw: bytes, name: str) -> bytes:
    body, end = memoryview(raw)[:-4], raw[-4:]
    if google_crc32c.value(bytes(body)) != int.from_bytes(end, "little"):
        raise FormatError(f"{name}: the checksum does not fit", "whole chunks", "copy it again")
    return bytes(body)


def _codec_of(codecs: Any, n_values: int, dtype: np.dtype[Any], fill: Any) -> _Coding | None:
    """Return how to decode v3 codecs, or None for what is not supported."""
    first, *rest = codecs
    if not isinstance(first, BytesCodec) or (first.endian is not None and first.endian.value != "little"):
        return None
    checksum = bool(rest) and isinstance(rest[-1], Crc32cCodec)
    rest = rest[:-1] if checksum else rest
    if len(rest) > 1:
        return None
    codec: Codec | None = None
    if rest:
        if isinstance(rest[0], BloscCodec):
            codec = numcodecs.Blosc()
        elif isinstance(rest[0], ZstdCodec):
            codec = numcodecs.Zstd()
        elif isinstance(rest[0], GzipCodec):
            codec = numcodecs.GZip()
        else:
            return None
    return _Coding(codec, checksum, n_values, dtype, fill)


class LocalChunks:
    """Reads ranges of a 1-D array on a local disk; make it with `of`. Safe from many threads."""

    def __init__(self, root: Path, array: Any, coding: _Coding, per_object: int, sharded: bool) -> None:
        self._root, self._array, self._coding, self._sharded = root, array, coding, sharded
        self._folder = root / array.path
        self._per_chunk, self._per_object = coding.n_values, per_object
        self._n = int(array.shape[0])
        self._lock = threading.Lock()
        self._indexes: OrderedDict[int, np.ndarray | None] = OrderedDict()
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._busy: dict[int, threading.Lock] = {}
        self.missing: set[str] = set()

    @classmethod
    def of(cls, root: Path, array: zarr.Array[Any]) -> LocalChunks | None:
        """Return the reader of an array of a store at ``root``, or None where zarr has to read it."""
        dtype = np.dtype(array.dtype)
        if array.ndim != 1 or dtype.kind not in "iuf" or dtype.byteorder == ">" or not array.shape[0]:
            return None
        per_chunk = int(array.chunks[0])
        meta: Any = array.metadata
        if meta.zarr_format == 2:
            if meta.filters:
                return None
            codec = numcodecs.get_codec(meta.compressor.get_config()) if meta.compressor is not None else None
            coding = _Coding(codec, False, per_chunk, dtype, array.fill_value)
            return cls(root, array, coding, per_chunk, False)
        if len(meta.codecs) == 1 and isinstance(meta.codecs[0], ShardingCodec):
            shard = meta.codecs[0]
            plain = [type(c) for c in shard.index_codecs] == [BytesCodec, Crc32cCodec]
            inner = _codec_of(shard.codecs, per_chunk, dtype, array.fill_value)
            if inner is None or not plain or shard.index_location.value != "end":
                return None
            return cls(root, array, inner, int(array.shards[0]), True)  # type: ignore[index]
        outer = _codec_of(meta.codecs, per_chunk, dtype, array.fill_value)
        return None if outer is None else cls(root, array, outer, per_chunk, False)

    @property
    def values_per_chunk(self) -> int:
        """Return the number of values that are decoded together."""
        return self._per_chunk

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return values ``start:stop``."""
        out = np.empty(max(stop - start, 0), self._coding.dtype)
        if stop <= start:
            return out
        step = self._per_chunk
        for i in range(start // step, (stop - 1) // step + 1):
            lo, hi = i * step, (i + 1) * step
            if lo >= start and hi <= stop:
                self._decode(i, out[lo - start : hi - start])
            else:
                chunk = self._shared(i)
                a, b = max(lo, start), min(hi, stop)
                out[a - start : b - start] = chunk[a - lo : b - lo]
        return out

    def _shared(self, i: int) -> np.ndarray:
        """Return a chunk that a block uses in part; its neighbour wants the rest."""
        with self._lock:
            busy = self._busy.setdefault(i, threading.Lock())
        with busy:
            with self._lock:
                if i in self._kept:
                    self._kept.move_to_end(i)
                    return self._kept[i]
            chunk = np.empty(self._per_chunk, self._coding.dtype)
            self._decode(i, chunk)
            with self._lock:
                self._kept[i] = chunk
                while len(self._kept) > _KEPT_CHUNKS:
                    self._kept.popitem(last=False)
                self._busy.pop(i, None)
        return chunk

    def _name(self, i: int) -> str:
        return f"{self._root}: {self._array.path} has a damaged chunk ({i})"

    def _decode(self, i: int, out: np.ndarray) -> None:
        raw = self._fetch(i)
        if raw is None:
            out[:] = self._coding.fill if self._coding.fill is not None else 0
        else:
            METER.add(n_bytes=len(raw))
            self._coding.decode(raw, out, self._name(i))

    def _key(self, obj: int) -> str:
        return str(self._array.metadata.encode_chunk_key((obj,)))

    def _fetch(self, i: int) -> bytes | None:
        obj = i * self._per_chunk // self._per_object
        path = self._folder / self._key(obj)
        if not self._sharded:
            try:
                return path.read_bytes()
            except FileNotFoundError:
                self._miss(obj)
                return None
        index = self._index(obj, path)
        if index is None:
            return None
        offset, size = (int(v) for v in index[i - obj * (self._per_object // self._per_chunk)])
        if offset == _MISSING:
            self._miss(obj)
            return None
        with path.open("rb", buffering=0) as f:
            raw = os.pread(f.fileno(), size, offset)
        if len(raw) != size:
            raise FormatError(f"{path} ends early", "a whole shard", "copy it again")
        return raw

    def _miss(self, obj: int) -> None:
        self.missing.add(f"{self._array.path}/{self._key(obj)}".lstrip("/"))

    def _index(self, obj: int, path: Path) -> np.ndarray | None:
        with self._lock:
            if obj in self._indexes:
                return self._indexes[obj]
        n = self._per_object // self._per_chunk
        size = 16 * n + 4
        try:
            with path.open("rb", buffering=0) as f:
                end = os.fstat(f.fileno()).st_size
                raw = os.pread(f.fileno(), size, max(end - size, 0))
        except FileNotFoundError:
            self._miss(obj)
            return None
        if len(raw) != size:
            raise FormatError(f"{path} ends early", "a whole shard", "copy it again")
        METER.add(n_bytes=size)
        index = np.frombuffer(
            _checked(raw, f"{self._root}: {self._array.path} has a damaged shard index ({obj})"), "<u8"
        ).reshape(n, 2)
        with self._lock:
            self._indexes[obj] = index
            while len(self._indexes) > _KEPT_INDEXES:
                self._indexes.popitem(last=False)
        return index
