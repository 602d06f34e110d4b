"""The last bytes of an object in a bucket, where its filesystem cannot be asked for them.

The index of a shard is at its end. zarr asks fsspec for it with a negative start, which adlfs (Azure) takes for an
offset, as may others; there the size is asked for first, and then a range from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterable

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.storage import FsspecStore

from sc_dask.outside.fsspec import takes_negative_start


class BucketStore(FsspecStore):
    """zarr's store of an fsspec filesystem, which asks for last bytes as the filesystem understands it."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        try:
            return await super().get(key, prototype, await self._from_start(key, byte_range))
        except self.allowed_exceptions:
            return None

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        asked = [(key, await self._from_start(key, byte_range)) for key, byte_range in key_ranges]
        return await super().get_partial_values(prototype, asked)

    async def _from_start(self, key: str, byte_range: ByteRequest | None) -> ByteRequest | None:
        if not isinstance(byte_range, SuffixByteRequest) or takes_negative_start(self.fs):
            return byte_range
        size = await self.getsize(key)
        return RangeByteRequest(max(0, size - byte_range.suffix), size)
