"""Shards that are encoded here are zarr's own, byte for byte, and any damage to one is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from sc_dask.errors import StoreError
from sc_dask.io.writing import shards
from sc_dask.io.writing.shards import DiffersError, decoded, encode, holds, key_of, put


def array_of(
    folder: Path, shape: tuple[int, ...], dtype: str, chunk: int, per_shard: int, shuffle: shards.Shuffle = "bitshuffle"
) -> zarr.Array[Any]:
    root = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=3)
    options: dict[str, Any] = {"compressors": shards.inner_codecs(shuffle), "fill_value": 0}
    chunks = (chunk, *shape[1:])
    out = root.create_array(
        "x", shape=shape, dtype=dtype, chunks=chunks, shards=(chunk * per_shard, *shape[1:]), **options
    )
    return out.with_config({"write_empty_chunks": True})


@pytest.mark.parametrize("shuffle", ["bitshuffle", "noshuffle"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "chunk", "per_shard"), [((1000,), 100, 3), ((1037,), 100, 3), ((5,), 1, 2), ((37, 11), 4, 2)]
)
def test_encode__the_bytes_of_zarr(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], chunk: int, per_shard: int, shuffle: shards.Shuffle
) -> None:
    array = array_of(tmp_path, shape, dtype, chunk, per_shard, shuffle)
    x = np.random.default_rng(0).poisson(0.7, shape).astype(dtype)
    x[chunk : 2 * chunk] = 0  # a chunk of zeros is stored too
    step = chunk * per_shard
    for shard in range(-(-shape[0] // step)):
        part = x[shard * step : (shard + 1) * step]
        array[shard * step : (shard + 1) * step] = part
        stored = (tmp_path / "a.zarr" / key_of(array, shard)).read_bytes()
        assert encode(array, part).tobytes() == stored
        put(array, shard, part, check=True)
        assert np.array_equal(np.concatenate([c.copy() for c in decoded(array, shard)]), part)
    assert np.array_equal(zarr.open_array(tmp_path / "a.zarr", path="x", mode="r")[:], x)


def test_shuffle_for__takes_the_smaller() -> None:
    counts = np.random.default_rng(0).poisson(0.7, 50_000) + 1
    assert shards.shuffle_for(counts.astype(np.uint8)) == "bitshuffle"
    few = np.log1p(counts * np.float32(3.7)).astype(np.float32)  # as in one cell, or some
    assert shards.shuffle_for(few) == "noshuffle"
    smooth = np.linspace(1, 2, 50_000, dtype=np.float32)
    assert shards.shuffle_for(smooth) == "bitshuffle"


def test_decoded__every_byte_that_changes_is_seen(tmp_path: Path) -> None:
    array = array_of(tmp_path, (60,), "uint16", 10, 3)
    put(array, 1, np.arange(30, dtype=np.uint16))
    path = tmp_path / "a.zarr" / key_of(array, 1)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(StoreError, match="shard 1 of .* is torn"):
            list(decoded(array, 1))
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(StoreError, match="shard 1 of .* is torn"):
            list(decoded(array, 1))
    with pytest.raises(StoreError, match="shard 0 of .* is not there"):
        list(decoded(array, 0))


def test_holds__bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = array_of(tmp_path, (25,), "float32", 10, 3)
    x = np.linspace(0, 1, 25, dtype=np.float32)
    x[3] = np.nan
    put(array, 0, x, check=True)
    assert holds(array, 0, x)
    other = x.copy()
    other[24] = np.nextafter(other[24], 2)
    assert not holds(array, 0, other)
    assert not holds(array, 0, x[:20])
    monkeypatch.setattr(shards, "encode", lambda array, values: encode(array, other))
    with pytest.raises(DiffersError, match="shard 0 of .*x does not hold"):
        put(array, 0, x, check=True)
