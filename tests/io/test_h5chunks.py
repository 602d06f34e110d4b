from __future__ import annotations

import pickle
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest

from sc_dask.array.source import METER
from sc_dask.errors import FormatError
from sc_dask.io.blobs import h5chunks
from sc_dask.io.blobs.h5chunks import H5Array
from sc_dask.io.blobs.store import Location
from sc_dask.io.formats.h5ad import H5CSRSource, H5DenseSource

RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.poisson(1, 10_003).astype("f4"),
    "2-d int16": RNG.poisson(0.5, (301, 77)).astype("i2"),
    "big-endian": RNG.poisson(1, 2_000).astype(">f8"),
    "bool": RNG.poisson(0.5, (120, 33)) > 0,
}
STORED = {
    "contiguous": {},
    "chunked": {"chunks": True},
    "gzip": {"chunks": True, "compression": "gzip"},
    "lzf": {"chunks": True, "compression": "lzf"},
    "shuffle gzip fletcher32": {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True},
    "shuffle lzf": {"chunks": True, "compression": "lzf", "shuffle": True},
    "szip": {"chunks": True, "compression": "szip"},
}


def chunks_of(x: np.ndarray) -> tuple[int, ...]:
    return (997,) if x.ndim == 1 else (50, 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.h5"


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("stored", STORED)
def test_read__equals_h5py(path: Path, array: str, stored: str) -> None:
    x, options = ARRAYS[array], dict(STORED[stored])
    if "chunks" in options:
        options["chunks"] = chunks_of(x)
    with h5py.File(path, "w") as f:
        f.create_dataset("x", data=x, **options)
    opened, n = H5Array(Location.parse(path), "x"), len(x)
    assert (opened.layout is None) == (stored == "szip")
    for start, stop in [(0, n), (3, 4), (n - 7, n), (49, 51), (0, 0), (10, n // 2)]:
        found = opened.read(start, stop)
        assert np.array_equal(found, x[start:stop])
        assert found.dtype.isnative and found.flags.c_contiguous
    assert opened.absent(0, n) == []


@pytest.mark.parametrize(
    ("code", "encode"),
    [(32001, lambda b: numcodecs.Blosc("lz4").encode(b)), (32015, lambda b: numcodecs.Zstd().encode(b))],
    ids=["blosc", "zstd"],
)
def test_read__filters_that_h5py_does_not_have(path: Path, code: int, encode: Callable[[Any], bytes]) -> None:
    x = np.arange(25, dtype="f4")
    with h5py.File(path, "w") as f:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((10,))
        plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (0,))
        space = h5py.h5s.create_simple((25,))
        dataset = h5py.Dataset(h5py.h5d.create(f.id, b"x", h5py.h5t.IEEE_F32LE, space, plist))
        padded = np.zeros(30, "f4")
        padded[:25] = x
        for i in range(3):
            dataset.id.write_direct_chunk((10 * i,), encode(padded[10 * i : 10 * i + 10].tobytes()))
    assert np.array_equal(H5Array(Location.parse(path), "x").read(5, 25), x[5:])


def test_read__filter_mask_and_unwritten_chunks(path: Path) -> None:
    with h5py.File(path, "w") as f:
        dataset = f.create_dataset("x", (40,), "i4", chunks=(10,), compression="gzip", fillvalue=7)
        dataset.id.write_direct_chunk((10,), np.arange(10, dtype="i4").tobytes(), filter_mask=1)  # stored as it is
        dataset[30:] = 5
    opened = H5Array(Location.parse(path), "x")
    with h5py.File(path) as f:
        assert np.array_equal(opened.read(0, 40), f["x"][:])
    assert opened.absent(5, 35) == [(0, 10, "0"), (20, 30, "2")]


@pytest.mark.parametrize("kind", ["compact", "user block", "external", "shrunk"])
def test_read__unusual_layouts_equal_h5py(path: Path, kind: str) -> None:
    x = np.arange(100, dtype="i4").reshape(20, 5)
    with h5py.File(path, "w", userblock_size=512 if kind == "user block" else 0) as f:
        if kind == "compact":
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_layout(h5py.h5d.COMPACT)
            space = h5py.h5s.create_simple(x.shape)
            h5py.Dataset(h5py.h5d.create(f.id, b"x", h5py.h5t.STD_I32LE, space, plist))[...] = x
        elif kind == "external":
            f.create_dataset("x", data=x, external=[(str(path.with_suffix(".raw")), 0, x.nbytes)])
        else:
            f.create_dataset("x", data=x, chunks=(4, 3), maxshape=(None, None), compression="gzip")
            if kind == "shrunk":
                f["x"].resize((9, 4))
    wanted = x[:9, :4] if kind == "shrunk" else x
    opened = H5Array(Location.parse(path), "x")
    assert np.array_equal(opened.read(0, len(wanted)), wanted)
    assert np.array_equal(opened.read(3, 8), wanted[3:8])


def test_read__damaged_chunk_is_a_format_error(path: Path) -> None:
    with h5py.File(path, "w") as f:
        for name, compression in (("gz", "gzip"), ("lzf", "lzf")):
            f.create_dataset(name, data=np.arange(5000) % 50, chunks=(1000,), compression=compression)
        spans = [f[name].id.get_chunk_info(2) for name in ("gz", "lzf")]
    raw = bytearray(path.read_bytes())
    for span in spans:
        raw[span.byte_offset : span.byte_offset + span.size] = b"\xff" * span.size
    path.write_bytes(raw)
    for name in ("gz", "lzf"):
        opened = H5Array(Location.parse(path), name)
        assert np.array_equal(opened.read(0, 2000), np.arange(2000) % 50)
        with pytest.raises(FormatError, match=r"x\.h5: .* damaged chunk"):
            opened.read(1999, 2001)


def test_source__picklable_metered_and_the_same_from_many_threads(path: Path) -> None:
    import anndata as ad
    import scipy.sparse as sp

    x = sp.random(300, 40, 0.2, format="csr", dtype=np.float32, random_state=0)
    ad.AnnData(x, layers={"dense": x.toarray()}).write_h5ad(path, compression="gzip")
    with h5py.File(path) as f:
        sparse = H5CSRSource.of(Location.parse(path), f["X"], (300, 40))
        dense = H5DenseSource.of(Location.parse(path), f["layers/dense"])
        stored = sum(f[f"X/{k}"].id.get_storage_size() for k in ("data", "indices", "indptr"))
    assert pickle.loads(pickle.dumps(sparse)) == sparse
    assert sparse.token == pickle.loads(pickle.dumps(sparse)).token
    METER.empty()
    sparse.read(0, 300)
    reading = METER.empty()
    assert (reading.rows, reading.n_bytes) == (300, stored)
    with ThreadPoolExecutor(8) as pool:
        starts = list(range(0, 300, 7)) * 3
        for start, block in zip(starts, pool.map(lambda s: sparse.read(s, min(s + 7, 300)), starts), strict=True):
            assert (block != x[start : start + 7]).nnz == 0
            assert block.indices.dtype == block.indptr.dtype == np.int32
        for start, rows in zip(starts, pool.map(lambda s: dense.read(s, min(s + 7, 300)), starts), strict=True):
            assert np.array_equal(rows, x[start : start + 7].toarray())


@pytest.mark.parametrize("name", ["zlib", "isal.isal_zlib"])
def test_inflate__the_same_with_and_without_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    inflater = pytest.importorskip(name, reason="needs the extra `fast`")
    x = RNG.poisson(2, 5_000).astype("i4")
    with h5py.File(path, "w") as f:
        f.create_dataset("x", data=x, chunks=(997,), compression="gzip", shuffle=True)
        span = f["x"].id.get_chunk_info(2)
    monkeypatch.setattr(h5chunks, "INFLATER", inflater)
    assert np.array_equal(H5Array(Location.parse(path), "x").read(3, 4_999), x[3:4_999])
    whole = path.read_bytes()
    middle = span.byte_offset + span.size // 2
    for damaged in (b"\xff" * 40, whole[middle : middle + 39] + bytes([whole[middle + 39] ^ 1])):
        path.write_bytes(whole[:middle] + damaged + whole[middle + 40 :])
        with pytest.raises(FormatError, match=r"x\.h5: .* damaged chunk"):
            H5Array(Location.parse(path), "x").read(0, 5_000)


def test_inflate__falls_back_to_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    assert h5chunks._inflater() is zlib
