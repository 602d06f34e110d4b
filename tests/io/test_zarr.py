from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

from sc_dask.array.source import METER
from sc_dask.errors import FormatError, StoreError
from sc_dask.io.blobs.store import Location, open_group
from sc_dask.io.formats.zarr import ZarrArray, ZarrCSRSource, ZarrDenseSource
from sc_dask.io.read import read

N_OBS, N_VARS, CHUNK = 200, 50, 64
COMMITTED = {"committed": True, "complete_chunks": True}


def counts(seed: int = 0) -> sp.csr_matrix:
    x = sp.random(N_OBS, N_VARS, 0.2, format="csr", dtype=np.float32, random_state=seed)
    x.data = np.ceil(x.data * 9)
    return x


def write(
    path: Path, x: sp.csr_matrix, *, zarr_format: int = 3, shards: bool = False, mark: dict[str, bool] | None = None
) -> Path:
    """An AnnData store whose X has chunks of ``CHUNK`` non-zeros; as zarr writes by default, without empty chunks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
        ad.io.write_elem(root, "/", ad.AnnData(obs=ad.AnnData(x).obs, var=ad.AnnData(x).var))
        if "X" in root:
            del root["X"]
        group = root.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(x.shape)})
        for name in ("data", "indices", "indptr"):
            values = getattr(x, name)
            options = {"shards": (4 * CHUNK,)} if shards else {}
            group.create_array(name, data=values, chunks=(CHUNK,), **options)
        dense = root["layers"].create_array("dense", data=x.toarray(), chunks=(16, 20))
        dense.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    if mark is not None:
        root.attrs["sc_dask"] = mark
    return path


def chunk(path: Path, array: str, i: str, zarr_format: int = 3) -> Path:
    return path / array / "c" / i if zarr_format == 3 else path / array / i.replace("/", ".")


@pytest.mark.parametrize(("zarr_format", "shards"), [(2, False), (3, False), (3, True)])
def test_read__any_rows_from_many_threads(tmp_path: Path, zarr_format: int, shards: bool) -> None:
    x = counts()
    found = read(write(tmp_path / "x.zarr", x, zarr_format=zarr_format, shards=shards), block_bytes=400)
    source = found.X.expression.source
    assert isinstance(source, ZarrCSRSource)
    assert pickle.loads(pickle.dumps(source)) == source
    dense = found.layers["dense"].expression.source
    assert isinstance(dense, ZarrDenseSource)
    spans = [(a, b) for a in range(0, N_OBS, 23) for b in (a, a + 1, a + 23) if b <= N_OBS]
    with ThreadPoolExecutor(8) as pool:
        for (a, b), block in zip(spans, pool.map(lambda s: source.read(*s), spans), strict=True):
            assert (block != x[a:b]).nnz == 0 and block.shape == (b - a, N_VARS)
            assert block.has_canonical_format and block.indices.dtype == block.indptr.dtype == np.int32
        for (a, b), rows in zip(spans, pool.map(lambda s: dense.read(*s), spans), strict=True):
            assert np.array_equal(rows, x[a:b].toarray()) and rows.flags.c_contiguous


def test_read__counts_rows_and_stored_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", counts())
    source = read(path).X.expression.source
    source.read(0, 1)  # opened, indptr known
    METER.empty()
    source.read(0, N_OBS)
    reading = METER.empty()
    stored = sum(f.stat().st_size for name in ("data", "indices") for f in (path / "X" / name / "c").iterdir())
    assert (reading.rows, reading.n_bytes) == (N_OBS, stored)


def test_read__blocks_are_cut_by_non_zeros(tmp_path: Path) -> None:
    x = counts()
    found = read(write(tmp_path / "x.zarr", x), block_bytes=400)
    bounds = np.concatenate([[0], np.cumsum(found.X.chunks[0])])
    assert np.all(np.diff(x.indptr[bounds]) * 8 <= 400)
    assert found.X.numblocks[0] < 2 * x.nnz * 8 / 400
    rows = found.layers["dense"].chunks[0]
    assert set(rows[:-1]) == {2}  # 400 bytes hold two rows of 50 float32; a chunk of 16 does not fit
    assert set(read(tmp_path / "x.zarr", block_bytes=8000).layers["dense"].chunks[0][:-1]) == {32}


@pytest.mark.parametrize("mark", [None, COMMITTED], ids=["foreign", "ours"])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("array", ["X/indices", "X/indptr"])
def test_read__a_lost_chunk_is_never_zeros(tmp_path: Path, array: str, shards: bool, mark: dict[str, bool]) -> None:
    path = write(tmp_path / "x.zarr", counts(), shards=shards, mark=mark)
    chunk(path, array, "0").unlink()
    with pytest.raises((StoreError, FormatError), match=f"x.zarr: {array}") as err:
        read(path).X.compute()
    if mark or array == "X/indices":
        assert isinstance(err.value, StoreError) and f"{array}/c/0" in str(err.value)


def test_read__a_lost_chunk_of_values(tmp_path: Path) -> None:
    big = sp.csr_matrix(np.ones((100, 50), np.float32))
    foreign = write(tmp_path / "big.zarr", big)
    root = zarr.open_group(foreign, mode="r+")
    root["X"].create_array("data", data=big.data, chunks=(2000,), overwrite=True)
    zarr.consolidate_metadata(foreign)
    chunk(foreign, "X/data", "1").unlink()
    whole = read(foreign, block_bytes=800)
    assert whole.X.expression.source.read(0, 10).sum() == 500  # rows in other chunks are read
    with pytest.raises(StoreError, match="chunk X/data/c/1 of .*big.zarr: X/data is missing"):
        whole.X.compute()
    ours = write(tmp_path / "ours.zarr", counts(), mark=COMMITTED)
    chunk(ours, "X/data", "2").unlink()
    with pytest.raises(StoreError, match="X/data/c/2"):
        read(ours).X.compute()
    chunk(ours, "layers/dense", "0/0").unlink()
    with pytest.raises(StoreError, match="layers/dense/c/0/0"):
        read(ours).layers["dense"].compute()


def test_read__chunks_of_zeros_that_a_writer_left_out(tmp_path: Path) -> None:
    x = counts()
    x.data[:CHUNK] = 0  # a chunk of explicit zeros
    x[: 2 * CHUNK] = 0
    x.eliminate_zeros()  # a chunk of indptr that is all zeros
    x = sp.vstack([x, sp.csr_matrix(([2.0], ([0], [0])), shape=(1, N_VARS), dtype=np.float32)], format="csr")
    while x.nnz % CHUNK != 1:  # the last chunk of indices holds a single 0
        row = sp.csr_matrix(([1.0], ([0], [3])), shape=(1, N_VARS), dtype=np.float32)
        x = sp.vstack([row, x], format="csr")
    path = write(tmp_path / "x.zarr", x)
    last = str(x.nnz // CHUNK)
    assert not chunk(path, "X/indices", last).exists()
    found = read(path, block_bytes=400)
    assert (found.X.compute() != x).nnz == 0
    assert np.array_equal(found.layers["dense"].compute(), x.toarray())
    empty = write(tmp_path / "empty.zarr", sp.csr_matrix((N_OBS, N_VARS), dtype=np.float32))
    assert not chunk(empty, "X/indptr", "0").exists()
    assert read(empty).X.compute().nnz == 0


def test_read__leading_empty_rows_without_their_chunk(tmp_path: Path) -> None:
    x = sp.vstack([sp.csr_matrix((CHUNK + 5, N_VARS), dtype=np.float32), counts()], format="csr")
    path = write(tmp_path / "x.zarr", x)
    assert not chunk(path, "X/indptr", "0").exists()
    assert (read(path, block_bytes=400).X.compute() != x).nnz == 0
    ours = write(tmp_path / "ours.zarr", x, mark=COMMITTED)
    with pytest.raises(StoreError, match="X/indptr/c/0"):
        read(ours)


def test_read__refuses_an_unfinished_store(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", counts(), mark={"committed": False})
    with pytest.raises(StoreError, match="unfinished.*run the same command again"):
        read(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("indptr", lambda v: np.where(np.arange(len(v)) == 50, v.astype(np.int64) - 2**31, v)),  # overflowed
        ("indptr", lambda v: v[::-1]),
        ("indptr", lambda v: v + 1),
        ("indptr", lambda v: v[:-1]),
        ("indptr", lambda v: v * 2),
        ("indptr", lambda v: v.astype(float)),
        ("indices", lambda v: v[:-1]),
        ("indices", lambda v: v + N_VARS),
        ("indices", lambda v: v.astype(np.int64) - 2**32),
        ("data", lambda v: v.astype(complex)),
    ],
)
def test_read__contradictions_are_format_errors(
    tmp_path: Path, name: str, values: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = write(tmp_path / "x.zarr", counts())
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    root["X"].create_array(name, data=values(root["X"][name][:]), chunks=(CHUNK,), overwrite=True)
    zarr.consolidate_metadata(path)
    with pytest.raises(FormatError, match=r"x\.zarr: X/"):
        read(path).X.compute()


def test_read__a_damaged_chunk_and_a_damaged_group(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", counts())
    chunk(path, "X/data", "1").write_bytes(b"not zstd at all")
    with pytest.raises(FormatError, match=r"x\.zarr: X/data has a damaged chunk"):
        read(path).X.compute()
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    del root["X/indices"]
    zarr.consolidate_metadata(path)
    with pytest.raises(FormatError, match="no array indices"):
        read(path)
    del root["obs"]
    zarr.consolidate_metadata(path)
    with pytest.raises(FormatError, match=r"x\.zarr has no obs"):
        read(path)


def test_read__other_types_and_unsorted_rows(tmp_path: Path) -> None:
    x = counts()
    for dtype in (np.uint16, np.int64, np.float64, np.bool_, np.float16):
        typed = x.astype(np.float32)
        path = write(tmp_path / f"{np.dtype(dtype)}.zarr", typed)
        root = zarr.open_group(path, mode="r+", use_consolidated=False)
        backwards = np.concatenate([np.arange(b - 1, a - 1, -1) for a, b in zip(x.indptr, x.indptr[1:], strict=False)])
        for name, values in (("data", x.data.astype(dtype)), ("indices", x.indices.astype(np.uint64))):
            root["X"].create_array(name, data=values[backwards], chunks=(CHUNK,), overwrite=True)
        zarr.consolidate_metadata(path)
        found = read(path).X
        block = found.compute()
        assert block.has_sorted_indices and found.dtype == block.dtype
        assert np.array_equal(block.toarray(), x.toarray().astype(dtype))


def test_source__tokens_follow_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", counts())
    first, again = read(path), read(path)
    assert first.X.expression.source.token == again.X.expression.source.token
    write(path, counts(seed=1))
    anew = read(path)
    assert anew.X.expression.source.token != first.X.expression.source.token
    assert (anew.X.compute() != counts(seed=1)).nnz == 0


def test_open_group__results_written_beside_x_keep_it(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", counts())
    found = read(path)
    open_group(Location.parse(path), "r+").attrs["note"] = "results"
    zarr.consolidate_metadata(path)
    assert found.X.expression.source.token == read(path).X.expression.source.token
    assert (found.X.compute() != counts()).nnz == 0


DENSE = {
    "columns cut": {"chunks": (16, 20)},
    "shards": {"chunks": (8, 10), "shards": (64, 30)},
    "two codecs": {"chunks": (16, 50), "compressors": [zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec()]},
    "turned": {"chunks": (16, 50), "filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
    "whole rows": {"chunks": (16, 50)},
}


@pytest.fixture(params=["zarrs", "zarrs absent", "zarrs fails"])
def zarrs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reading with zarrs, without it, and with one that opens but cannot read; and how its reads went."""
    pytest.importorskip("zarrs")
    reads: list[bool] = []
    read_with = ZarrArray._read_with_zarrs

    def counted(self: ZarrArray, array: Any, start: int, stop: int) -> np.ndarray | None:
        rows = read_with(self, array, start, stop)
        if stop > start:  # nothing is asked of zarrs else
            reads.append(rows is not None)
        return rows

    monkeypatch.setattr(ZarrArray, "_read_with_zarrs", counted)
    if request.param == "zarrs absent":
        monkeypatch.setitem(sys.modules, "zarrs", None)
    if request.param == "zarrs fails":
        import zarrs

        async def fails(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("no")

        monkeypatch.setattr(zarrs.ZarrsCodecPipeline, "read", fails)
    return request.param, reads


@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_dense__every_layout_with_and_without_zarrs(tmp_path: Path, zarrs: Any, layout: str, dtype: str) -> None:
    values = counts().toarray().astype(dtype)
    path = write(tmp_path / "x.zarr", counts())
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    array = root["layers"].create_array("dense", data=values, overwrite=True, **DENSE[layout])
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    zarr.consolidate_metadata(path)
    source = read(path).layers["dense"].expression.source
    METER.empty()
    source.read(0, N_OBS)
    reading = METER.empty()
    stored = sum(f.stat().st_size for f in (path / "layers" / "dense" / "c").rglob("*") if f.is_file())
    assert reading.rows == N_OBS and 0 < reading.n_bytes <= stored
    assert layout == "shards" or reading.n_bytes == stored
    for start, stop in [(0, N_OBS), (0, 1), (15, 17), (33, 150), (N_OBS - 1, N_OBS), (7, 7)]:
        rows = source.read(start, stop)
        assert rows.dtype == dtype and rows.flags.c_contiguous
        assert np.array_equal(rows, values[start:stop])
    kind, reads = zarrs
    if layout == "whole rows" or kind == "zarrs absent":
        assert not reads
    else:
        assert set(reads) == {kind == "zarrs"}


def test_dense__lost_and_damaged_chunks_with_and_without_zarrs(tmp_path: Path, zarrs: Any) -> None:
    path = write(tmp_path / "x.zarr", counts(), mark=COMMITTED)
    chunk(path, "layers/dense", "1/0").unlink()
    source = read(path).layers["dense"].expression.source
    assert np.array_equal(source.read(0, 16), counts()[:16].toarray())
    with pytest.raises(StoreError, match="layers/dense/c/1/0"):
        source.read(0, 20)
    foreign = write(tmp_path / "y.zarr", counts())
    chunk(foreign, "layers/dense", "1/0").unlink()
    assert not read(foreign).layers["dense"].expression.source.read(16, 32)[:, :20].any()
    chunk(foreign, "layers/dense", "0/0").write_bytes(b"not zstd at all")
    with pytest.raises(FormatError, match=r"y\.zarr: layers/dense has a damaged chunk"):
        read(foreign).layers["dense"].expression.source.read(0, 16)


def test_sparse__codecs_that_only_zarr_knows(tmp_path: Path, zarrs: Any) -> None:
    x = counts()
    path = write(tmp_path / "x.zarr", x)
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    both = [zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec()]
    for name in ("data", "indices"):
        root["X"].create_array(name, data=getattr(x, name), chunks=(CHUNK,), compressors=both, overwrite=True)
    zarr.consolidate_metadata(path)
    assert (read(path, block_bytes=400).X.compute() != x).nnz == 0
    chunk(path, "X/indices", "0").unlink()
    with pytest.raises(StoreError, match="X/indices/c/0"):
        read(path).X.compute()
