"""Zarr arrays whose chunks follow one another in a line, decoded chunk by chunk straight into the result.

zarr's own pipeline copies every chunk through buffers and an event loop. The long vectors of a sparse matrix (data,
indices) and dense matrices of whole-row chunks need none of that: a chunk is fetched at once, from a local disk or from
afar, checked, and decompressed where it belongs. A chunk that two blocks share is decoded once and kept for the
neighbour. What is not supported here is left to zarr.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import google_crc32c
import numcodecs
import numpy as np
import zarr
from numcodecs.abc import Codec

from sc_dask import config, malloc
from sc_dask.array.source import METER
from sc_dask.errors import FormatError
from sc_dask.io.blobs.buffers import BUFFERS
from sc_dask.io.blobs.fetch import Answer, ByteRange, Objects, Raw, Steps, together
from sc_dask.outside.zarr import JSON, metadata_of, name_of, options_of

T = TypeVar("T")

EDGE_BYTES = 16 << 20  # decoded chunks at block edges that wait for the neighbour, per thread of this process
_MISSING = 2**64 - 1
_KEPT_INDEXES = 256  # shard indexes, per array
_V2_CODECS = {"blosc", "zstd", "gzip", "zlib", "lz4", "lzma", "bz2"}
_V3_CODECS: dict[str, Callable[[], Codec]] = {
    "blosc": numcodecs.Blosc,
    "zstd": numcodecs.Zstd,
    "gzip": numcodecs.GZip,
}


# -- one chunk -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Coding:
    """How one chunk's bytes become values."""

    codec: Codec | None
    checksum: bool
    dtype: np.dtype[Any]
    fill: Any

    def decode(self, raw: Raw, out: np.ndarray, name: str) -> None:
        """Fill ``out`` (contiguous) from the stored bytes of as many values."""
        if self.checksum:
            raw = _checked(raw, name)
        try:
            if self.codec is not None and _decoded_bytes(self.codec.codec_id, raw) == out.nbytes:
                self.codec.decode(raw, out)
                return
            plain: Any = raw if self.codec is None else self.codec.decode(raw)
            found = np.frombuffer(memoryview(plain).cast("B"), self.dtype)
            if len(found) != len(out):  # one value would be put everywhere
                raise ValueError(f"{len(found)} values instead of {len(out)}")
            out[:] = found
        except (ValueError, RuntimeError, TypeError, EOFError, OSError) as err:
            raise FormatError(f"{name}: {err}", "whole chunks", "copy it again") from err


def _decoded_bytes(codec: str, raw: Raw) -> int | None:
    """Return the decoded size that a chunk's header declares, None where there is none.

    numcodecs fills a part of ``out`` and says nothing when a chunk holds less than that.
    """
    head = raw[:18].tobytes()
    if codec == "blosc" and len(head) >= 16 and int.from_bytes(head[12:16], "little") == len(raw):
        return int.from_bytes(head[4:8], "little")
    if codec != "zstd" or len(head) < 18 or head[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flag, single = head[4] >> 6, head[4] >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[head[4] & 3]
    size = (single, 2, 4, 8)[flag]
    return int.from_bytes(head[at : at + size], "little") + (256 if flag == 1 else 0) if size else None


def _checked(raw: Raw, name: str) -> Raw:
    if len(raw) < 4 or google_crc32c.value(raw[:-4]) != int.from_bytes(raw[-4:].tobytes(), "little"):
        raise FormatError(f"{name}: the checksum does not fit", "whole chunks", "copy it again")
    return raw[:-4]


def _coding_of(codecs: Sequence[JSON], dtype: np.dtype[Any], fill: Any) -> _Coding | None:
    """Return how to decode v3 codecs (as ``zarr.json`` lists them), or None for what is not supported."""
    names = [name_of(c) for c in codecs]
    if names[:1] != ["bytes"] or options_of(codecs[0]).get("endian", "little") != "little":
        return None
    checksum = names[-1] == "crc32c"
    packed = names[1:-1] if checksum else names[1:]
    if len(packed) > 1 or not all(name in _V3_CODECS for name in packed):
        return None
    codec = _V3_CODECS[packed[0]]() if packed else None
    return _Coding(codec, checksum, dtype, fill)


# -- what several threads want -------------------------------------------------------------------


class _Once(Generic[T]):
    """A value made once, by whoever needs it first; the others wait. What fails is tried again by the next."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make: Callable[[], T] | None = make
        self._lock = threading.Lock()
        self._value: Any = None

    def __call__(self) -> T:
        with self._lock:
            if self._make is not None:
                self._value = self._make()
                self._make = None
        value: T = self._value
        return value


class _Edge:
    """A chunk that blocks use in part."""

    def __init__(self, values: _Once[np.ndarray], n_bytes: int) -> None:
        self.values, self.n_bytes = values, n_bytes
        self.n_used = 0


class Edges:
    """Chunks at block edges, of all arrays of this process: decoded once, kept until every value was handed out.

    Memory: `EDGE_BYTES` a thread, or two chunks a thread and two more if these are larger; the oldest go first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], _Edge] = OrderedDict()

    def get(self, key: tuple[int, int], n_bytes: int, make: Callable[[], _Once[np.ndarray]]) -> _Edge:
        """Return an edge; ``make`` gives its values when it is new, and must not wait."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _Edge(make(), n_bytes)
            self._kept.move_to_end(key)
            threads, total = config.n_threads(), sum(e.n_bytes for e in self._kept.values())
            while total > EDGE_BYTES * threads and len(self._kept) > 2 * threads + 2:
                total -= self._kept.popitem(last=False)[1].n_bytes
            return self._kept[key]

    def use(self, key: tuple[int, int], edge: _Edge, n: int, n_values: int) -> None:
        """Note that ``n`` of the ``n_values`` of an edge were handed out."""
        with self._lock:
            edge.n_used += n
            if edge.n_used >= n_values and self._kept.get(key) is edge:
                del self._kept[key]

    def drop(self, key: tuple[int, int]) -> None:
        """Forget an edge that cannot be read."""
        with self._lock:
            self._kept.pop(key, None)

    def clear(self) -> None:
        """Forget all edges; who wants one again decodes it again."""
        with self._lock:
            self._kept.clear()

    @property
    def n_bytes(self) -> int:
        """Bytes of the decoded chunks that wait for a neighbour."""
        with self._lock:
            return sum(edge.n_bytes for edge in self._kept.values())


EDGES = Edges()
_NUMBERS = itertools.count()  # of the readers: names of their edges


def give_back() -> None:
    """Give the system back what this process keeps for later: edges, free buffers, and malloc's free memory."""
    EDGES.clear()
    BUFFERS.clear()
    malloc.trim()


# -- an array ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """Chunks and objects along the one axis, in values."""

    n: int
    width: int  # values of a row
    per_chunk: int
    per_object: int
    sharded: bool


class Chunks:
    """Reads rows of an array whose chunks hold whole rows; make it with `of`. Safe from many threads."""

    def __init__(self, objects: Objects, array: zarr.Array[Any], coding: _Coding, sharded: bool) -> None:
        shape, chunks, outer = array.shape, array.chunks, array.shards or array.chunks
        width = int(np.prod(shape[1:], dtype=np.int64))
        self._objects, self._array, self._coding = objects, array, coding
        self._grid = _Grid(int(shape[0]) * width, width, int(chunks[0]) * width, int(outer[0]) * width, sharded)
        self._number = next(_NUMBERS)
        self._lock = threading.Lock()
        self._indexes: OrderedDict[int, _Once[np.ndarray | None]] = OrderedDict()
        self.missing: set[str] = set()  # objects that are not there
        self.left_out: set[str] = set()  # objects there, whose index says that a chunk holds nothing but the fill value

    @classmethod
    def of(cls, objects: Objects, array: zarr.Array[Any]) -> Chunks | None:
        """Return the reader of an array among ``objects``, or None where zarr has to read it."""
        dtype = np.dtype(array.dtype)
        if array.ndim not in (1, 2) or dtype.kind not in "iuf" or dtype.byteorder == ">" or not all(array.shape):
            return None
        if array.chunks[1:] != array.shape[1:] or (array.shards or array.chunks)[1:] != array.shape[1:]:
            return None
        meta = metadata_of(array)
        if meta["zarr_format"] == 2:
            codec = numcodecs.get_codec(meta["compressor"]) if meta.get("compressor") is not None else None
            if meta.get("filters") or meta["order"] != "C" or (codec is not None and codec.codec_id not in _V2_CODECS):
                return None
            return cls(objects, array, _Coding(codec, False, dtype, array.fill_value), False)
        codecs = meta["codecs"]
        sharded = len(codecs) == 1 and name_of(codecs[0]) == "sharding_indexed"
        if sharded:
            shard = options_of(codecs[0])
            plain = [name_of(c) for c in shard["index_codecs"]] == ["bytes", "crc32c"]
            little = options_of(shard["index_codecs"][0]).get("endian", "little") == "little"
            if not (plain and little) or shard.get("index_location", "end") != "end":
                return None
            codecs = shard["codecs"]
        coding = _coding_of(codecs, dtype, array.fill_value)
        return None if coding is None else cls(objects, array, coding, sharded)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start:stop``."""
        return together([self.steps(start, stop)])[0]

    def steps(self, start: int, stop: int) -> Steps:
        """Read rows ``start:stop``, step by step: the shard indexes are under way, then the chunks, then decode."""
        width = self._grid.width
        rows = (max(stop - start, 0), *self._array.shape[1:])
        return (yield from self._values(start * width, stop * width)).reshape(rows)

    def _values(self, start: int, stop: int) -> Steps:
        out = BUFFERS.empty(max(stop - start, 0), self._coding.dtype)
        if stop <= start:
            return out
        step = self._grid.per_chunk
        ids = range(start // step, (stop - 1) // step + 1)
        if self._grid.sharded:
            for obj in {self._object(i) for i in ids}:
                self._index(obj)
        yield
        inner = [i for i in ids if i * step >= start and (i + 1) * step <= stop]
        edges = {i: self._edge(i) for i in (ids[0], ids[-1]) if i not in inner[:1] + inner[-1:]}
        coming = dict(zip(inner, self._ask(inner), strict=True))
        yield
        for i in ids:
            lo, hi = max(i * step, start), min((i + 1) * step, stop)
            into = out[lo - start : hi - start]
            if i in coming:
                self._decode(i, coming.pop(i), into)
            else:
                into[:] = self._part(i, edges[i], lo - i * step, hi - i * step)
        return out

    # -- chunks that blocks share

    def _edge(self, i: int) -> _Edge:
        where = self._where(i)

        def make() -> _Once[np.ndarray]:
            return _Once(partial(self._chunk, i, self._ask_at([where])[0]))

        return EDGES.get((self._number, i), self._grid.per_chunk * self._coding.dtype.itemsize, make)

    def _chunk(self, i: int, answer: Answer) -> np.ndarray:
        chunk = BUFFERS.empty(self._grid.per_chunk, self._coding.dtype)
        self._decode(i, answer, chunk)
        return chunk

    def _part(self, i: int, edge: _Edge, start: int, stop: int) -> np.ndarray:
        key = (self._number, i)
        try:
            chunk = edge.values()
        except BaseException:
            EDGES.drop(key)
            raise
        n_values = min(self._grid.per_chunk, self._grid.n - i * self._grid.per_chunk)
        EDGES.use(key, edge, stop - start, n_values)
        return chunk[start:stop]

    # -- where chunks are

    def _ask(self, ids: list[int]) -> list[Answer]:
        return self._ask_at([self._where(i) for i in ids])

    def _ask_at(self, parts: list[ByteRange | None]) -> list[Answer]:
        answers = iter(self._objects.ask([part for part in parts if part is not None]))
        return [_nothing if part is None else next(answers) for part in parts]

    def _object(self, i: int) -> int:
        return i * self._grid.per_chunk // self._grid.per_object

    def _key(self, obj: int) -> str:
        rest = (0,) * (self._array.ndim - 1)
        return f"{self._array.path}/{self._array.metadata.encode_chunk_key((obj, *rest))}".lstrip("/")

    def _where(self, i: int) -> ByteRange | None:
        """Return where a chunk is, or None for one that a shard leaves out or whose shard is not there."""
        obj = self._object(i)
        if not self._grid.sharded:
            return ByteRange(self._key(obj))
        try:
            table = self._index(obj)()
        except BaseException:
            self._forget(obj)
            raise
        if table is None:
            self._forget(obj)
            self.missing.add(self._key(obj))
            return None
        offset, size = (int(v) for v in table[i - obj * (self._grid.per_object // self._grid.per_chunk)])
        if offset != _MISSING:
            return ByteRange(self._key(obj), offset, size)
        self.left_out.add(self._key(obj))
        return None

    def _index(self, obj: int) -> _Once[np.ndarray | None]:
        """Return the index of a shard, asked for when it is not known."""
        n = self._grid.per_object // self._grid.per_chunk
        with self._lock:
            if obj not in self._indexes:
                answer = self._objects.ask([ByteRange(self._key(obj), -(16 * n + 4))])[0]
                self._indexes[obj] = _Once(partial(self._table, obj, answer))
            self._indexes.move_to_end(obj)
            while len(self._indexes) > _KEPT_INDEXES:
                self._indexes.popitem(last=False)
            return self._indexes[obj]

    def _forget(self, obj: int) -> None:
        with self._lock:
            self._indexes.pop(obj, None)

    def _table(self, obj: int, answer: Answer) -> np.ndarray | None:
        raw = answer()
        if raw is None:
            return None
        METER.add(n_bytes=len(raw))
        name = f"{self._objects.name}: {self._array.path} has a damaged shard index ({obj})"
        return _checked(raw, name).view("<u8").reshape(-1, 2)

    def _decode(self, i: int, answer: Answer, out: np.ndarray) -> None:
        raw = answer()
        if raw is None:
            out[:] = self._coding.fill if self._coding.fill is not None else 0
            if answer is not _nothing:  # `_where` has noted that one
                self.missing.add(self._key(self._object(i)))
        else:
            METER.add(n_bytes=len(raw))
            self._coding.decode(raw, out, f"{self._objects.name}: {self._array.path} has a damaged chunk ({i})")


def _nothing() -> None:
    return None
