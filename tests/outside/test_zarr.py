"""What arrays say of themselves, on every zarr."""

from __future__ import annotations

from pathlib import Path

import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from sc_dask.outside.zarr import metadata_of, name_of, options_of, sync


@pytest.mark.parametrize("shuffle", ["bitshuffle", "noshuffle"])
def test_metadata_of__codecs_are_plain_text(tmp_path: Path, shuffle: str) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(8,),
        dtype="int32",
        chunks=(2,),
        shards=(4,),
        compressors=[BloscCodec(cname="lz4", shuffle=shuffle), Crc32cCodec()],
        fill_value=0,
    )
    (shard,) = metadata_of(array)["codecs"]
    assert name_of(shard) == "sharding_indexed" and options_of(shard)["index_location"] == "end"
    first, packed, last = options_of(shard)["codecs"]
    assert [name_of(c) for c in (first, packed, last)] == ["bytes", "blosc", "crc32c"]
    assert options_of(first)["endian"] == "little" and options_of(packed)["shuffle"] == shuffle
    assert options_of(last) == {} == options_of("crc32c") and name_of("crc32c") == "crc32c"


def test_metadata_of__v2(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    found = metadata_of(group.create_array("x", shape=(4,), dtype=">f4", chunks=(2,)))
    assert found["zarr_format"] == 2 and found["order"] == "C" and found["dtype"] == ">f4"


def test_sync__runs_where_zarr_does() -> None:
    async def answer() -> int:
        return 7

    assert sync(answer()) == 7
