"""Whole shards, encoded here and stored as one object each.

The bytes are those of zarr's own pipeline, which copies a shard several times on its way: 8.4 ns of CPU a non-zero
against 14 (data and indices, one thread). Only the layout of our own stores (``layout``) is written so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import google_crc32c
import numcodecs.blosc
import numpy as np
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.buffer.cpu import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec

from sc_dask.errors import StoreError
from sc_dask.io.blobs.buffers import BUFFERS
from sc_dask.outside.zarr import metadata_of, options_of, sync

CLEVEL = 5
Shuffle = Literal["bitshuffle", "noshuffle"]
_SHUFFLES = {"bitshuffle": numcodecs.blosc.BITSHUFFLE, "noshuffle": numcodecs.blosc.NOSHUFFLE}
_ABSENT = 2**64 - 1


def inner_codecs(shuffle: Shuffle = "bitshuffle") -> list[Any]:
    """Return the codecs of an inner chunk, for the metadata of an array whose shards are written here."""
    return [BloscCodec(cname="lz4", clevel=CLEVEL, shuffle=shuffle), Crc32cCodec()]


def shuffle_for(values: np.ndarray) -> Shuffle:
    """Return how numbers like these are best stored.

    Counts are small numbers, whose bits of one rank are much alike. Of logarithms of counts the bits are not, but the
    few values of a cell come again and again as they are: 1.5 bytes each instead of 3.2.
    """
    sizes = {name: len(_compressed(values, name)) for name in _SHUFFLES}
    return "noshuffle" if sizes["noshuffle"] < sizes["bitshuffle"] else "bitshuffle"


def _compressed(values: np.ndarray, shuffle: str) -> bytes:
    body: bytes = numcodecs.blosc.compress(np.ascontiguousarray(values), b"lz4", CLEVEL, _SHUFFLES[shuffle], 0)
    return body


def key_of(array: zarr.Array[Any], shard: int) -> str:
    """Return the key in its store of a shard of an array that is cut along its first axis."""
    return f"{array.path}/{array.metadata.encode_chunk_key((shard, *([0] * (array.ndim - 1))))}"


class DiffersError(StoreError):
    """What was stored is not what was written."""


def put(array: zarr.Array[Any], shard: int, values: np.ndarray, *, check: bool = False) -> None:
    """Encode and store one whole shard; with ``check`` it is read back and compared, bit for bit.

    Memory: its encoded bytes, twice.

    Raises
    ------
    DiffersError
        What is stored is something else.
    """
    sync(array.store.set(key_of(array, shard), Buffer.from_array_like(encode(array, values))))
    if check and not holds(array, shard, values):
        raise DiffersError(
            f"shard {shard} of {array.store_path} does not hold what was written to it",
            "the values of the source",
            "check disk and memory, and convert again",
        )


def put_in_all(arrays: Sequence[zarr.Array[Any]], shard: int, values: np.ndarray) -> None:
    """Encode one whole shard once and store it in several arrays of one type and layout."""
    body = Buffer.from_array_like(encode(arrays[0], values))
    for array in arrays:
        sync(array.store.set(key_of(array, shard), body))


def encode(array: zarr.Array[Any], values: np.ndarray) -> np.ndarray:
    """Return the bytes of a shard: chunks, each with its checksum, and the index of their places."""
    rows, n_chunks = _chunks(array)
    values = np.ascontiguousarray(values, array.dtype)
    shuffle = _shuffle_of(array)
    index = np.full((n_chunks, 2), _ABSENT, "<u8")
    parts: list[bytes] = []
    end = 0
    for i, lo in enumerate(range(0, len(values), rows)):
        chunk = values[lo : lo + rows]
        if len(chunk) < rows:  # the edge of the array: zarr stores whole chunks
            chunk = np.concatenate([chunk, np.zeros((rows - len(chunk), *chunk.shape[1:]), chunk.dtype)])
        body = _compressed(chunk, shuffle)
        parts += [body, _checksum(body)]
        index[i] = end, len(body) + 4
        end += len(body) + 4
    table = index.tobytes()
    out = BUFFERS.empty(end + len(table) + 4, np.uint8)
    at = 0
    for part in (*parts, table, _checksum(table)):
        out[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    return out


def decoded(array: zarr.Array[Any], shard: int) -> Iterator[np.ndarray]:
    """Read a shard back and yield its chunks, cut at the edge of the array; each is gone when the next one comes.

    Memory: its encoded bytes and a chunk.

    Raises
    ------
    StoreError
        If it is not there or torn, or a checksum does not fit.
    """
    name = f"shard {shard} of {array.store_path}"
    buffer = sync(array.store.get(key_of(array, shard), default_buffer_prototype()))
    if buffer is None:
        raise StoreError(f"{name} is not there", "every shard", "convert or write again")
    raw = np.asarray(buffer.as_numpy_array()).view(np.uint8)
    raw.flags.writeable = False  # as google_crc32c wants it
    rows, n_chunks = _chunks(array)
    left = min(n_chunks * rows, array.shape[0] - shard * n_chunks * rows)
    index = _checked(raw[-(16 * n_chunks + 4) :], name)
    if len(index) != 16 * n_chunks:  # what is left of a torn one may end with a whole chunk
        raise _torn(name)
    shape = (rows, *array.shape[1:])
    chunk = BUFFERS.empty(math.prod(shape), array.dtype).reshape(shape)
    places = index.view("<u8").reshape(-1, 2).tolist()
    for lo, (offset, size) in zip(range(0, left, rows), places, strict=False):  # none beyond the edge
        numcodecs.blosc.decompress(_checked(raw[offset : offset + size], name), chunk)
        yield chunk[: left - lo]


def holds(array: zarr.Array[Any], shard: int, values: np.ndarray) -> bool:
    """Read a shard back and return whether it holds just these values, bit for bit."""
    at = 0
    for chunk in decoded(array, shard):
        wanted = np.ascontiguousarray(values[at : at + len(chunk)], array.dtype)
        if not np.array_equal(_bits(chunk), _bits(wanted)):
            return False
        at += len(chunk)
    return at == len(values)


def _bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.dtype.itemsize}")  # NaN is equal to itself


def _chunks(array: zarr.Array[Any]) -> tuple[int, int]:
    """Return the rows of an inner chunk, and the chunks of a shard."""
    shards: Any = array.shards
    return int(array.chunks[0]), int(shards[0]) // int(array.chunks[0])


def _shuffle_of(array: zarr.Array[Any]) -> str:
    """Return how an array says that its chunks are stored."""
    (shard,) = metadata_of(array)["codecs"]
    return str(options_of(options_of(shard)["codecs"][1])["shuffle"])


def _checksum(body: bytes | np.ndarray) -> bytes:
    return int(google_crc32c.value(body)).to_bytes(4, "little")


def _checked(part: np.ndarray, name: str) -> np.ndarray:
    body, end = part[:-4], part[-4:]
    if _checksum(body) != end.tobytes():
        raise _torn(name)
    return body


def _torn(name: str) -> StoreError:
    return StoreError(f"{name} is torn: a checksum does not fit", "a whole shard", "convert or write again")
