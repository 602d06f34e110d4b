"""Long vectors of local zarr stores: equal to zarr's own reading for every layout; errors, never wrong values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from sc_dask.array.source import METER
from sc_dask.errors import FormatError
from sc_dask.io.zchunks import LocalChunks

N = 10_007
VALUES = np.random.default_rng(0).integers(0, 900, N)
RANGES = [(0, N), (0, 1), (N - 1, N), (999, 1001), (1000, 2000), (1500, 7777), (5, 5)]
V3 = {
    "blosc": {"compressors": BloscCodec(cname="lz4", shuffle="bitshuffle")},
    "zstd": {"compressors": ZstdCodec()},
    "gzip": {"compressors": GzipCodec()},
    "none": {"compressors": None},
    "sharded": {"shards": (4000,), "compressors": BloscCodec(cname="lz4")},
    "sharded, one chunk a shard": {"shards": (1000,), "compressors": None},
    "checksummed": {"shards": (2000,), "compressors": [ZstdCodec(), zarr.codecs.Crc32cCodec()]},
}


def stored(root: Path, dtype: str = "uint16", **options: object) -> zarr.Array:
    group = zarr.open_group(root, mode="w", zarr_format=3)
    array = group.create_array("x", shape=(N,), chunks=(1000,), dtype=dtype, **options)
    array[:] = VALUES.astype(dtype)
    return array


def direct(root: Path, array: zarr.Array) -> LocalChunks:
    found = LocalChunks.of(root, array)
    assert found is not None
    return found


@pytest.mark.parametrize("layout", V3)
@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_read__equals_zarr(tmp_path: Path, layout: str, dtype: str) -> None:
    chunks = direct(tmp_path, stored(tmp_path, dtype, **V3[layout]))
    for start, stop in RANGES:
        got = chunks.read(start, stop)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, VALUES[start:stop].astype(dtype))
    assert not chunks.missing


@pytest.mark.parametrize("compressor", [numcodecs.Blosc(), numcodecs.Zlib(), numcodecs.LZ4(), None])
def test_read__version_2(tmp_path: Path, compressor: object) -> None:
    group = zarr.open_group(tmp_path, mode="w", zarr_format=2)
    array = group.create_array("x", shape=(N,), chunks=(1000,), dtype="int64", compressors=compressor)
    array[:] = VALUES
    chunks = direct(tmp_path, array)
    for start, stop in RANGES:
        np.testing.assert_array_equal(chunks.read(start, stop), VALUES[start:stop])


def test_of__leaves_the_rest_to_zarr(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    big = group.create_array("big", shape=(10,), chunks=(5,), dtype=">i4")
    flat = group.create_array("flat", shape=(4, 4), chunks=(2, 2), dtype="int32")
    text = group.create_array("text", shape=(4,), chunks=(2,), dtype=str)
    several = group.create_array("two", shape=(10,), chunks=(5,), dtype="i4", compressors=[ZstdCodec(), GzipCodec()])
    for array in (big, flat, text, several):
        if array is big and array.metadata.codecs[0].endian.value == "little":
            continue
        assert LocalChunks.of(tmp_path, array) is None


def test_read__chunks_that_blocks_share_are_fetched_once(tmp_path: Path) -> None:
    array = stored(tmp_path, compressors=None)
    chunks = direct(tmp_path, array)
    METER.empty()
    for lo in range(0, N, 500):
        chunks.read(lo, min(lo + 500, N))
    assert METER.empty().n_bytes == 2 * 1000 * (N // 1000 + 1)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda lo: chunks.read(lo, min(lo + 500, N)), range(0, N, 500)))
    np.testing.assert_array_equal(np.concatenate(parts), VALUES)


@pytest.mark.parametrize("layout", ["sharded", "checksummed", "zstd"])
def test_read__missing_and_damaged_objects(tmp_path: Path, layout: str) -> None:
    array = stored(tmp_path, **V3[layout])
    file = tmp_path / "x" / "c" / "0"
    raw = file.read_bytes()
    file.unlink()
    chunks = direct(tmp_path, array)
    np.testing.assert_array_equal(chunks.read(0, 10), np.zeros(10))
    assert chunks.missing == {"x/c/0"}
    file.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(FormatError, match=r"x"):
        direct(tmp_path, array).read(0, 10)


@pytest.mark.parametrize("at", ["first chunk", "index"])
def test_read__checksums_are_checked(tmp_path: Path, at: str) -> None:
    array = stored(tmp_path, **V3["checksummed"])
    file = tmp_path / "x" / "c" / "0"
    raw = bytearray(file.read_bytes())
    raw[10 if at == "first chunk" else -10] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(FormatError, match="checksum"):
        direct(tmp_path, array).read(0, 10)


def test_read__an_inner_chunk_left_out_counts_as_missing(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    array = group.create_array("x", shape=(4000,), chunks=(1000,), shards=(4000,), dtype="int32")
    array[0:1000] = 7
    chunks = direct(tmp_path, array)
    np.testing.assert_array_equal(chunks.read(0, 4000), array[:])
    assert chunks.missing == {"x/c/0"}
