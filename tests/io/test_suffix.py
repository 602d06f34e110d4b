"""Buckets whose filesystem takes a negative start for an offset, as adlfs does: our sharded stores are read back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anndata as ad
import fsspec
import numpy as np
import pytest
import scipy.sparse as sp
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.buffer import default_buffer_prototype

import sc_dask as sd
from sc_dask.io.blobs.fetch import ByteRange, RemoteObjects
from sc_dask.io.blobs.store import Location, zarr_store
from sc_dask.outside.fsspec import takes_negative_start
from sc_dask.outside.zarr import sync


class Offsets(AsyncFileSystem):
    """The bytes of fsspec's memory; ``start`` is an offset and must not be negative (adlfs' ``download_blob``)."""

    protocol = "offsets"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory = MemoryFileSystem()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(p) for p in path]
        return "/" + str(path).removeprefix("offsets://").strip("/")

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        if start is not None and start < 0:
            raise ValueError("Offset value must not be negative")
        return bytes(self.memory.cat_file(self._strip_protocol(path), start=start, end=end))

    async def _info(self, path: str, **options: Any) -> Any:
        return self.memory.info(self._strip_protocol(path))

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return self.memory.ls(self._strip_protocol(path), detail=detail)

    async def _pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        self.memory.pipe_file(self._strip_protocol(path), value)

    async def _rm_file(self, path: str, **options: Any) -> None:
        with contextlib.suppress(FileNotFoundError):  # a folder goes with its last file
            self.memory.rm(self._strip_protocol(path), recursive=True)

    async def _cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self.memory.cp_file(self._strip_protocol(path1), self._strip_protocol(path2))


@pytest.fixture
def url() -> Iterator[str]:
    fsspec.register_implementation("offsets", Offsets, clobber=True)
    yield "offsets://azure/a.zarr"
    memory = MemoryFileSystem()
    if memory.exists("/azure"):
        memory.rm("/azure", recursive=True)


def cells(dense: bool) -> ad.AnnData:
    m = sp.random(500, 40, 0.2, format="csr", random_state=0, dtype=np.float32)
    adata = ad.AnnData(m.toarray() if dense else m)
    adata.layers["twice"] = m * 2
    adata.obs["name"] = [f"cell {i}" for i in range(500)]
    return adata


@pytest.mark.parametrize("dense", [False, True])
def test_store__written_read_and_updated_without_negative_starts(url: str, dense: bool) -> None:
    wanted = cells(dense)
    sd.write(wanted, url, shard_bytes=4096)
    for _ in range(2):
        found = sd.read(url, block_bytes=4096)
        sd.pp.calculate_qc_metrics(found, percent_top=None, inplace=True)
        x = found.to_memory().X
        np.testing.assert_array_equal(x if dense else x.toarray(), wanted.X if dense else wanted.X.toarray())
        np.testing.assert_array_equal(found.layers["twice"].compute().toarray(), wanted.layers["twice"].toarray())
        sd.write(found, url, update=True)
    again = sd.convert(url, "offsets://azure/b.zarr", shard_bytes=4096)
    assert again.obs["name"].tolist() == wanted.obs["name"].tolist()
    sd.write(cells(dense)[:7].copy(), "offsets://azure/b.zarr", overwrite=True)
    assert sd.read("offsets://azure/b.zarr").n_obs == 7


def test_last_bytes__of_every_size(url: str) -> None:
    location = Location.parse(url)
    fs, path = location.fs()
    fs.pipe_file(f"{path}/part", b"0123456789")
    assert not takes_negative_start(fs) and takes_negative_start(MemoryFileSystem())
    objects = RemoteObjects(location, fs, path)
    answers = objects.ask([ByteRange("part", -4), ByteRange("part", 2, 3), ByteRange("none", -4), ByteRange("part")])
    assert [None if (raw := a()) is None else raw.tobytes() for a in answers] == [b"6789", b"234", None, b"0123456789"]
    store, prototype = zarr_store(location), default_buffer_prototype()
    found = sync(store.get("part", prototype, SuffixByteRequest(4)))
    assert found is not None and found.to_bytes() == b"6789"
    assert sync(store.get("part", prototype, SuffixByteRequest(99))).to_bytes() == b"0123456789"  # type: ignore[union-attr]
    assert sync(store.get("none", prototype, SuffixByteRequest(4))) is None
    asked = [("part", SuffixByteRequest(2)), ("part", RangeByteRequest(0, 2)), ("part", None)]
    both = sync(store.get_partial_values(prototype, asked))
    assert [b.to_bytes() for b in both if b is not None] == [b"89", b"01", b"0123456789"]
