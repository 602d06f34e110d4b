"""Long vectors of zarr stores, local or not: as zarr reads them for every layout; errors, never wrong values."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dask
import fsspec
import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from sc_dask.array.source import METER
from sc_dask.errors import FormatError, StoreError
from sc_dask.io.blobs import fetch, zchunks
from sc_dask.io.blobs.fetch import LocalObjects, RemoteObjects, objects_at, together
from sc_dask.io.blobs.store import Location
from sc_dask.io.blobs.zchunks import Chunks

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


def direct(root: Path, array: zarr.Array) -> Chunks:
    found = Chunks.of(LocalObjects(root), array)
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
        if array is big and array.metadata.to_dict()["codecs"][0]["configuration"]["endian"] == "little":
            continue
        assert Chunks.of(LocalObjects(tmp_path), array) is None


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


def test_read__an_inner_chunk_left_out_is_told_apart_from_a_missing_shard(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    array = group.create_array("x", shape=(4000,), chunks=(1000,), shards=(4000,), dtype="int32")
    array[0:1000] = 7
    chunks = direct(tmp_path, array)
    np.testing.assert_array_equal(chunks.read(0, 4000), array[:])
    assert chunks.left_out == {"x/c/0"} and not chunks.missing


@pytest.mark.parametrize("layout", ["blosc", "zstd", "gzip", "none", "checksummed"])
@pytest.mark.parametrize("n", [999, 1001])
def test_read__a_chunk_of_another_size_is_refused(tmp_path: Path, layout: str, n: int) -> None:
    """Decoders fill a part of the result and say nothing: the rest would be whatever stood there before."""
    options = V3[layout]
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    other = group.create_array("other", shape=(n,), chunks=(n,), dtype="int32", compressors=options["compressors"])
    other[:] = 5
    array = group.create_array("x", shape=(3000,), chunks=(1000,), dtype="int32", compressors=options["compressors"])
    array[:] = 1
    (tmp_path / "x" / "c" / "1").write_bytes((tmp_path / "other" / "c" / "0").read_bytes())
    with pytest.raises(FormatError, match="damaged chunk"):
        direct(tmp_path, array).read(0, 3000)
    with pytest.raises(FormatError, match="damaged chunk"):
        direct(tmp_path, array).read(1500, 1700)


@pytest.mark.parametrize("value", [b"", b"x", bytes(20), b"\x28\xb5\x2f\xfd"])
@pytest.mark.parametrize("layout", ["blosc", "zstd", "gzip", "none", "checksummed", "sharded"])
def test_read__an_object_of_nonsense_is_refused(tmp_path: Path, layout: str, value: bytes) -> None:
    array = stored(tmp_path, **V3[layout])
    (tmp_path / "x" / "c" / "0").write_bytes(value)
    with pytest.raises(FormatError):
        direct(tmp_path, array).read(0, 1000)


@pytest.mark.parametrize("size", [1, 200, 300, 70_000])
@pytest.mark.parametrize("level", [1, 19])
def test_decoded_bytes__zstd_headers_of_every_length(size: int, level: int) -> None:
    raw = np.frombuffer(numcodecs.Zstd(level).encode(np.random.default_rng(0).bytes(size)), np.uint8)
    assert zchunks._decoded_bytes("zstd", raw) in (size, None if len(raw) < 18 else size)


@pytest.mark.parametrize("options", [{}, {"shards": (40, 7)}, {"compressors": None}])
def test_read__dense_rows(tmp_path: Path, options: dict[str, object]) -> None:
    values = np.arange(103 * 7, dtype="float32").reshape(103, 7)
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    array = group.create_array("x", shape=values.shape, chunks=(10, 7), dtype="float32", **options)
    array[:] = values
    chunks = direct(tmp_path, array)
    for start, stop in [(0, 103), (0, 1), (102, 103), (9, 11), (10, 20), (15, 77), (5, 5)]:
        rows = chunks.read(start, stop)
        np.testing.assert_array_equal(rows, values[start:stop])
        assert rows.shape == (stop - start, 7) and rows.flags.c_contiguous
    assert not chunks.missing
    for file in (tmp_path / "x" / "c" / "0").iterdir():
        file.unlink()
    np.testing.assert_array_equal(direct(tmp_path, array).read(0, 2), np.zeros((2, 7)))
    turned = zarr.open_group(tmp_path / "f", mode="w", zarr_format=2)
    fortran = turned.create_array("x", shape=(4, 4), chunks=(2, 4), dtype="int32", order="F")
    assert Chunks.of(LocalObjects(tmp_path / "f"), fortran) is None


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Values of every chunk that is decoded from now on."""
    sizes, decode = [], zchunks._Coding.decode

    def counted(self: object, raw: np.ndarray, out: np.ndarray, name: str) -> None:
        sizes.append(out.size)
        decode(self, raw, out, name)  # type: ignore[arg-type]

    monkeypatch.setattr(zchunks._Coding, "decode", counted)
    return sizes


@pytest.mark.parametrize("lanes", [1, 2, 8])
@pytest.mark.parametrize("span", [300, 1000, 1370, 2500])
def test_read__a_pass_decodes_every_chunk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lanes: int, span: int
) -> None:
    """One thread is far before the others, so neighbouring blocks are read far apart in time."""
    chunks = direct(tmp_path, stored(tmp_path, **V3["sharded"]))
    spans = [(lo, min(lo + span, N)) for lo in range(0, N, span)]
    order = [s for lane in range(lanes) for s in spans[lane::lanes]]
    before, sizes = zchunks.EDGES.n_bytes, decoded(monkeypatch)
    for start, stop in order:
        np.testing.assert_array_equal(chunks.read(start, stop), VALUES[start:stop])
    assert sum(sizes) == 1000 * (N // 1000 + 1)
    assert zchunks.EDGES.n_bytes == before  # nothing is kept once all was handed out
    sizes.clear()
    start_together = threading.Barrier(lanes)

    def lane(k: int) -> list[np.ndarray]:
        start_together.wait()
        return [chunks.read(*s) for s in spans[k::lanes]]

    with ThreadPoolExecutor(lanes) as pool:
        parts = list(pool.map(lane, range(lanes)))
    for k in range(lanes):
        for (start, stop), part in zip(spans[k::lanes], parts[k], strict=True):
            np.testing.assert_array_equal(part, VALUES[start:stop])
    assert sum(sizes) == 1000 * (N // 1000 + 1)


def test_edges__are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zchunks, "EDGES", zchunks.Edges())
    monkeypatch.setattr(zchunks, "EDGE_BYTES", 10_000)
    chunks = direct(tmp_path, stored(tmp_path, "int32", compressors=None))
    with dask.config.set(num_workers=1):
        for i in range(10):
            chunks.read(i * 1000 + 10, i * 1000 + 20)
        assert zchunks.EDGES.n_bytes == 4 * 4000  # two a thread and two more
        monkeypatch.setattr(zchunks, "EDGE_BYTES", 24_000)
        for i in range(10):
            chunks.read(i * 1000 + 10, i * 1000 + 20)
        assert zchunks.EDGES.n_bytes == 24_000


def test_give_back__nothing_is_kept_and_all_can_be_read_again(tmp_path: Path) -> None:
    chunks = direct(tmp_path, stored(tmp_path, "int32", compressors=None))
    part = chunks.read(10, 20)
    assert zchunks.EDGES.n_bytes > 0
    zchunks.give_back()
    assert zchunks.EDGES.n_bytes == 0 and zchunks.BUFFERS.free_bytes == 0
    np.testing.assert_array_equal(chunks.read(10, 20), part)


def test_read__an_edge_that_failed_is_read_again(tmp_path: Path) -> None:
    array = stored(tmp_path, compressors=None)
    file, chunks = tmp_path / "x" / "c" / "0", direct(tmp_path, array)
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    for _ in range(2):
        with pytest.raises(FormatError, match="damaged chunk"):
            chunks.read(0, 10)
    file.write_bytes(whole)
    np.testing.assert_array_equal(chunks.read(0, 10), VALUES[:10])


def test_read__what_was_read_stays_while_more_is_read(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    values = np.random.default_rng(1).integers(0, 1000, 3_000_000).astype("int32")
    array = group.create_array("x", data=values, chunks=(250_000,), compressors=BloscCodec(cname="lz4"))
    chunks = direct(tmp_path, array)
    spans = [(lo, min(lo + 333_333, len(values))) for lo in range(0, len(values), 333_333)]
    for _ in range(3):
        kept = [chunks.read(*s)[5:] for s in spans]
        for (start, stop), part in zip(spans, kept, strict=True):
            np.testing.assert_array_equal(part, values[start:stop][5:])


@dataclass
class Served:
    """What a slow web server was asked for."""

    url: str
    at_once: int = 0
    most: int = 0
    ranges: list[tuple[str, str]] = field(default_factory=list)
    ignore_ranges: bool = False
    broken: bool = False


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A web server of ``tmp_path`` on this machine that takes 50 ms for an answer."""
    lock, seen = threading.Lock(), Served("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                seen.at_once += 1
                seen.most = max(seen.most, seen.at_once)
            time.sleep(0.05)
            with lock:
                seen.at_once -= 1
            self.answer()

        def answer(self) -> None:
            file, asked = tmp_path / self.path.lstrip("/"), self.headers.get("Range", "")
            seen.ranges.append((self.path.lstrip("/"), asked))
            if seen.broken or not file.is_file():
                self.send_response(500 if seen.broken else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = file.read_bytes()
            if asked and not seen.ignore_ranges:
                first, last = asked.removeprefix("bytes=").split("-")
                body = body[-int(last) :] if not first else body[int(first) : int(last) + 1 if last else None]
            self.send_response(206 if asked and not seen.ignore_ranges else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    seen.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def remote(url: str, array: zarr.Array) -> Chunks:
    objects = objects_at(Location.parse(url))
    assert isinstance(objects, RemoteObjects)
    found = Chunks.of(objects, array)
    assert found is not None
    return found


@pytest.mark.parametrize("layout", V3)
def test_remote__equals_local_with_many_requests_at_once(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr(fetch, "RUN_BYTES", 1)  # these chunks are small
    array = stored(tmp_path, **V3[layout])
    chunks = remote(served.url, array)
    METER.empty()
    np.testing.assert_array_equal(chunks.read(0, N), VALUES)
    assert served.most > 4
    n_bytes = METER.empty().n_bytes
    direct(tmp_path, array).read(0, N)
    assert n_bytes == METER.empty().n_bytes
    served.ranges.clear()
    for start, stop in RANGES:
        np.testing.assert_array_equal(chunks.read(start, stop), VALUES[start:stop])
    assert not [asked for _, asked in served.ranges if asked.startswith("bytes=-")]  # indexes are known
    assert not chunks.missing


def test_remote__neighbours_of_a_shard_come_in_one_request(tmp_path: Path, served: Served) -> None:
    chunks = remote(served.url, stored(tmp_path, **V3["checksummed"]))
    np.testing.assert_array_equal(chunks.read(0, 10_000), VALUES[:10_000])
    asked = Counter(key for key, _ in served.ranges)
    assert asked == {f"x/c/{i}": 2 for i in range(5)}  # the index and both chunks


def test_remote__several_arrays_wait_together(tmp_path: Path, served: Served) -> None:
    a = remote(served.url, stored(tmp_path, shards=(2000,), compressors=None))
    b = remote(served.url, stored(tmp_path, shards=(2000,), compressors=None))
    both = together([a.steps(0, 2000), b.steps(0, 2000)])
    for values in both:
        np.testing.assert_array_equal(values, VALUES[:2000])
    assert served.most == 2 and len(served.ranges) == 4


def test_remote__missing_objects_and_failures(tmp_path: Path, served: Served) -> None:
    for layout in ("zstd", "sharded"):
        array = stored(tmp_path, **V3[layout])
        (tmp_path / "x" / "c" / "0").unlink()
        chunks = remote(served.url, array)
        assert not chunks.read(0, 1000).any()
        assert chunks.missing == {"x/c/0"}
        raw = (tmp_path / "x" / "c" / "1").read_bytes()
        (tmp_path / "x" / "c" / "1").write_bytes(raw[: len(raw) // 2])
        step = 1000 if layout == "zstd" else 4000
        with pytest.raises(FormatError, match="x"):
            chunks.read(step, step + 10)
        (tmp_path / "x" / "c" / "1").write_bytes(raw)
        np.testing.assert_array_equal(chunks.read(step, step + 10), VALUES[step : step + 10])
    served.broken = True
    with pytest.raises(StoreError, match=r"127.0.0.1.*x/c/2 cannot be read: 500"):
        remote(served.url, stored(tmp_path, compressors=None)).read(2000, 3000)


def test_remote__a_server_without_ranges(tmp_path: Path, served: Served) -> None:
    served.ignore_ranges = True
    chunks = remote(served.url, stored(tmp_path, **V3["blosc"]))
    np.testing.assert_array_equal(chunks.read(0, N), VALUES)
    with pytest.raises(StoreError, match="cannot give parts of a file"):
        remote(served.url, stored(tmp_path, **V3["sharded"])).read(0, N)


@pytest.mark.parametrize("layout", V3)
def test_remote__fsspec_memory(tmp_path: Path, layout: str) -> None:
    array = stored(tmp_path, **V3[layout])
    url = f"memory://chunks-{time.monotonic_ns()}"
    fs, path = fsspec.core.url_to_fs(url)
    fs.put(str(tmp_path / "x"), f"{path}/x", recursive=True)
    try:
        chunks = remote(url, array)
        for start, stop in RANGES:
            np.testing.assert_array_equal(chunks.read(start, stop), VALUES[start:stop])
        fs.rm(f"{path}/x/c/0")
        chunks = remote(url, array)
        assert not chunks.read(0, 1000).any() and chunks.missing == {"x/c/0"}
    finally:
        fs.rm(path, recursive=True)


def test_objects_at__leaves_zips_and_chains_to_zarr(tmp_path: Path) -> None:
    for url in (tmp_path / "a.zip", "zip::memory://a.zip", "simplecache::memory://a.zarr", "memory://a.zip"):
        assert objects_at(Location.parse(url)) is None
