"""What is written is what AnnData reads, whatever the shards; one writer per shard; whole in one moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import sc_dask as sd
from sc_dask.array.blocks import from_array, map_rows
from sc_dask.errors import InputError, StoreError
from sc_dask.io.blobs.store import Location
from sc_dask.io.writing import commit, layout, matrix
from sc_dask.io.writing.counts import Counts, narrowest
from sc_dask.io.writing.layout import dense_layout, sparse_layout, verify_store
from tests.io.cases import dense

N_OBS, N_VARS = 300, 40
SHARD_NNZ = 397  # borders fall inside rows
SHARD = 8 * SHARD_NNZ


@pytest.fixture
def counts() -> sp.csr_matrix:
    """Ragged rows: some empty, one full; 70,000 does not fit in 16 bits."""
    rng = np.random.default_rng(0)
    x = rng.poisson(0.3, (N_OBS, N_VARS))
    x[::7] = 0
    x[5] = np.arange(1, N_VARS + 1)
    x[-1, -1] = 70_000
    return sp.csr_matrix(x.astype(np.float32))


@pytest.fixture
def adata(counts: sp.csr_matrix) -> ad.AnnData:
    obs = pd.DataFrame(
        {
            "group": pd.Categorical(["a", "b", "c"] * (N_OBS // 3)),
            "score": np.linspace(0, 1, N_OBS),
            "note": ["x", None, "y"] * (N_OBS // 3),
            "zero": np.zeros(N_OBS),
            "flag": pd.array([True, None, False] * (N_OBS // 3), dtype="boolean"),
        },
        index=[f"cell{i}" for i in range(N_OBS)],
    )
    out = ad.AnnData(counts.copy(), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_VARS)]))
    out.layers["dense"], out.layers["csc"] = counts.toarray() / 2, counts.tocsc()
    out.obsm["X_pca"], out.obsp["near"] = np.zeros((N_OBS, 5)), sp.eye(N_OBS, format="csr")
    out.varm["PCs"] = np.ones((N_VARS, 5))
    out.uns["pca"] = {"params": {"n": 3, "none": None, "names": np.array(["a", "b"])}, "variance": np.zeros(5)}
    out.raw = out
    return out


def assert_same(found: ad.AnnData, wanted: ad.AnnData) -> None:
    for a, b in [(found.X, wanted.X), *((found.layers[k], wanted.layers[k]) for k in wanted.layers)]:
        np.testing.assert_array_equal(dense(a), dense(b))
    assert found.obs_names.equals(wanted.obs_names) and found.var_names.equals(wanted.var_names)
    assert list(found.obs.columns) == list(wanted.obs.columns)
    for slot in ("obsm", "varm", "obsp"):
        for key in getattr(wanted, slot):
            np.testing.assert_array_equal(dense(getattr(found, slot)[key]), dense(getattr(wanted, slot)[key]))


# -- layout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("nnz", [0, 1, 5, 1000, 10**9])
def test_layout__shards_tile_the_non_zeros(nnz: int) -> None:
    for shard_bytes in (1, 8, 1000, layout.SHARD_BYTES):
        plan = sparse_layout((10, 10), nnz, "uint16", shard_bytes)
        assert plan.shard_nnz % plan.chunk_nnz == 0
        assert plan.shard_nnz * 8 <= max(8, shard_bytes)
        assert plan.n_shards == -(-nnz // plan.shard_nnz)
        if plan.n_shards:
            assert plan.span(plan.n_shards - 1)[1] == nnz


def test_layout__large_matrices_have_the_documented_sizes() -> None:
    sparse = sparse_layout((10**6, 30_000), 10**9, "uint16")
    assert sparse.shard_nnz * 8 == 64 << 20
    assert sparse.chunk_nnz * 4 == 2 << 20
    plan = dense_layout((10**6, 2000), "float32")
    assert (32 << 20) <= plan.shard_rows * 2000 * 4 <= 64 << 20
    assert (1 << 20) <= plan.chunk_rows * 2000 * 4 <= 4 << 20


def test_layout__rows_of_a_shard_overlap_it_and_no_more(counts: sp.csr_matrix) -> None:
    indptr = counts.indptr.astype(np.int64)
    plan = sparse_layout(counts.shape, counts.nnz, "float32", SHARD)
    for shard in range(plan.n_shards):
        (lo, hi), (start, stop) = plan.span(shard), plan.rows(shard, indptr)
        assert indptr[start] <= lo < indptr[start + 1]
        assert indptr[stop - 1] < hi <= indptr[stop]


# -- matrices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shard_bytes", "block_bytes"), [(8, 64), (SHARD, 64), (SHARD, "48MiB"), (layout.SHARD_BYTES, 64)]
)
def test_write__equals_anndata_whatever_the_shards_and_blocks(
    adata: ad.AnnData, tmp_path: Path, shard_bytes: int, block_bytes: Any
) -> None:
    adata = adata[:6].copy() if shard_bytes == 8 else adata
    with dask.config.set({"sc-dask.block-bytes": block_bytes}):
        sd.write(adata, tmp_path / "a.zarr", shard_bytes=shard_bytes)
    found = ad.read_zarr(tmp_path / "a.zarr")
    assert_same(found, adata)
    assert found.X.dtype == np.float32
    assert isinstance(found.layers["csc"], sp.csc_matrix)
    np.testing.assert_array_equal(dense(found.raw.X), dense(adata.raw.X))
    assert found.obs["note"].isna().sum() == adata.n_obs // 3
    assert str(found.obs["flag"].dtype) == "boolean"
    assert found.uns["pca"]["params"]["none"] is None
    assert os.listdir(tmp_path) == ["a.zarr"]
    lazy = sd.read(tmp_path / "a.zarr")
    assert_same(lazy, adata)


@pytest.mark.parametrize("most", [layout.MOST_INT32, 500])
def test_write__indices_and_indptr_have_one_width(
    adata: ad.AnnData, tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scanpy as sc

    monkeypatch.setattr(layout, "MOST_INT32", most)
    sd.write(adata, tmp_path / "a.zarr", shard_bytes=SHARD)
    width = np.int32 if most > 500 else np.int64
    root = zarr.open_group(tmp_path / "a.zarr", mode="r")
    for path in ("X", "layers/csc", "raw/X"):
        assert root[path]["indices"].dtype == root[path]["indptr"].dtype == width
    found = ad.read_zarr(tmp_path / "a.zarr")
    assert_same(sd.read(tmp_path / "a.zarr"), adata)
    sc.pp.calculate_qc_metrics(found, percent_top=None, inplace=True)  # scipy refuses two widths
    np.testing.assert_allclose(found.obs["total_counts"], np.asarray(adata.X.sum(axis=1)).ravel(), rtol=1e-5)


def test_write__stores_what_the_spec_says(adata: ad.AnnData, tmp_path: Path) -> None:
    sd.write(adata, tmp_path / "a.zarr", narrow=True, shard_bytes=SHARD)
    root = zarr.open_group(tmp_path / "a.zarr", mode="r")
    x = root["X"]
    assert dict(x.attrs) == {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [N_OBS, N_VARS]}
    assert (x["data"].dtype, x["indices"].dtype, x["indptr"].dtype) == (np.uint32, np.int32, np.int32)
    assert root["layers/dense"].dtype == np.float32  # halves
    assert x["data"].shards == x["indices"].shards == (SHARD_NNZ,)
    (codec,) = json.loads((tmp_path / "a.zarr" / "X" / "data" / "zarr.json").read_text())["codecs"]
    assert [c["name"] for c in codec["configuration"]["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert codec["configuration"]["codecs"][1]["configuration"]["shuffle"] == "bitshuffle"
    assert [c["name"] for c in codec["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
    assert root.attrs["sc_dask"] == {"committed": True, "complete_chunks": True, "version": 1}
    assert root.metadata.consolidated_metadata is not None
    assert verify_store(root, deep=True).sums["X"] == int(adata.X.sum())


@pytest.mark.parametrize(
    ("lo", "hi", "dtype", "wanted"),
    [
        (0, 255, "float32", "uint8"),
        (0, 256, "int64", "uint16"),
        (0, 70_000, "float64", "uint32"),
        (-1, 127, "int64", "int8"),
        (-129, 1, "int32", "int16"),
        (0, 2**63, "uint64", "uint64"),
        (0, 1e300, "float64", "float64"),
    ],
)
def test_narrowest__is_exact(lo: float, hi: float, dtype: str, wanted: str) -> None:
    found = narrowest(Counts(np.zeros(1, np.int64), lo, hi, True), np.dtype(dtype))
    assert found == wanted
    fractions = Counts(np.zeros(1, np.int64), lo, hi, False)
    assert narrowest(fractions, np.dtype(dtype)) == dtype


def test_write__logarithms_are_stored_as_what_is_smaller(tmp_path: Path) -> None:
    x = sp.random(400, 300, 0.4, format="csr", random_state=0, dtype=np.float32)
    x.data = np.random.default_rng(0).poisson(1, x.nnz).astype(np.float32) + 1
    lazy = ad.AnnData(x)
    lazy.layers["counts"], lazy.layers["smooth"] = x.astype(np.uint8), np.linspace(0, 1, 400)[:, None] + np.arange(300)
    sd.pp.normalize_total(lazy, target_sum=1e4)
    sd.pp.log1p(lazy)
    sd.write(lazy, tmp_path / "a.zarr")
    root = zarr.open_group(tmp_path / "a.zarr", mode="r")
    paths = ("X/data", "X/indices", "layers/counts/data", "layers/smooth")
    found = [
        root[p].metadata.to_dict()["codecs"][0]["configuration"]["codecs"][1]["configuration"]["shuffle"] for p in paths
    ]
    assert found == ["noshuffle", "bitshuffle", "bitshuffle", "bitshuffle"]
    assert_same(ad.read_zarr(tmp_path / "a.zarr"), lazy)
    assert_same(sd.read(tmp_path / "a.zarr"), lazy)


def double(block: Any) -> Any:
    return block * 2


@pytest.mark.parametrize("picked", [slice(None), slice(10, 250, 3)])
def test_write__a_lazy_x_with_picks_and_steps(
    adata: ad.AnnData, counts: sp.csr_matrix, tmp_path: Path, picked: slice
) -> None:
    sd.write(adata, tmp_path / "a.zarr")
    lazy = sd.read(tmp_path / "a.zarr", block_bytes=500)
    x = map_rows(double, lazy.X)[picked, 3:33]
    sd.write(ad.AnnData(x, obs=lazy.obs[picked]), tmp_path / "b.zarr", shard_bytes=SHARD)
    np.testing.assert_array_equal(dense(ad.read_zarr(tmp_path / "b.zarr").X), counts.toarray()[picked, 3:33] * 2)


@pytest.mark.parametrize("sparse", [True, False])
def test_write__a_foreign_dask_array(counts: sp.csr_matrix, tmp_path: Path, sparse: bool) -> None:
    x = da.from_array(counts.toarray(), chunks=(77, 13))
    x = x.map_blocks(sp.csr_matrix) if sparse else x
    sd.write(ad.AnnData(x), tmp_path / "a.zarr", shard_bytes=SHARD)
    found = ad.read_zarr(tmp_path / "a.zarr")
    assert sp.issparse(found.X) == sparse
    np.testing.assert_array_equal(dense(found.X), counts.toarray())
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_write__counts_again_where_stored_rows_repeat_a_column(tmp_path: Path) -> None:
    x = sp.csr_matrix(np.eye(6, dtype=np.float32))
    ad.AnnData(x).write_zarr(tmp_path / "twice.zarr")
    group = zarr.open_group(tmp_path / "twice.zarr", mode="r+")
    group["X/indptr"][:] = np.array([0, 2, 2, 3, 4, 5, 6])
    group["X/indices"][:] = np.array([1, 1, 2, 3, 4, 5])
    lazy = sd.read(tmp_path / "twice.zarr")
    sd.write(lazy, tmp_path / "a.zarr", shard_bytes=16)
    wanted = np.diag([0, 0, 1, 1, 1, 1]).astype(np.float32)
    wanted[0, 1] = 2
    np.testing.assert_array_equal(dense(ad.read_zarr(tmp_path / "a.zarr").X), wanted)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (4, 3)])
@pytest.mark.parametrize("make", [np.array, sp.csr_matrix, sp.csc_matrix])
def test_write__nothing_in_it(tmp_path: Path, shape: tuple[int, int], make: Callable[[Any], Any]) -> None:
    sd.write(ad.AnnData(make(np.zeros(shape, np.float32))), tmp_path / "a.zarr", narrow=True)
    assert ad.read_zarr(tmp_path / "a.zarr").shape == shape
    assert sd.read(tmp_path / "a.zarr").shape == shape


@pytest.mark.parametrize("scheduler", ["sync", "processes"])
def test_write__the_same_bytes_under_other_schedulers(adata: ad.AnnData, tmp_path: Path, scheduler: str) -> None:
    del adata.layers["csc"], adata.layers["dense"], adata.raw
    sd.write(adata, tmp_path / "threads.zarr", shard_bytes=8000)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        sd.write(sd.read(tmp_path / "threads.zarr"), tmp_path / "other.zarr", shard_bytes=8000)
    for path in sorted((tmp_path / "threads.zarr" / "X").rglob("c/*")):
        other = tmp_path / "other.zarr" / path.relative_to(tmp_path / "threads.zarr")
        assert other.read_bytes() == path.read_bytes()


def test_write__on_distributed_workers(adata: ad.AnnData, tmp_path: Path) -> None:
    from distributed import Client

    sd.write(adata, tmp_path / "a.zarr")
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None):
        sd.write(sd.read(tmp_path / "a.zarr"), tmp_path / "b.zarr", shard_bytes=SHARD)
        sd.write(adata, tmp_path / "c.zarr", shard_bytes=SHARD)
    for name in ("b", "c"):
        assert_same(ad.read_zarr(tmp_path / f"{name}.zarr"), adata)


def test_put__each_shard_once(adata: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int]] = []
    put = layout.put_sparse

    def counting(group: zarr.Group, plan: Any, shard: int, *arrays: np.ndarray) -> None:
        assert len(arrays[0]) == np.diff(plan.span(shard))[0]
        written.append((group.path, shard))
        put(group, plan, shard, *arrays)

    monkeypatch.setattr(layout, "put_sparse", counting)
    sd.write(adata, tmp_path / "a.zarr", shard_bytes=SHARD)
    x = [shard for path, shard in written if path == "X"]
    assert sorted(x) == list(range(-(-adata.X.nnz // SHARD_NNZ)))


# -- stores --------------------------------------------------------------------------------------


def test_write__refuses_to_overwrite(adata: ad.AnnData, tmp_path: Path) -> None:
    sd.write(adata, tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="overwrite=True"):
        sd.write(adata, tmp_path / "a.zarr")
    sd.write(adata[:10].copy(), tmp_path / "a.zarr", overwrite=True)
    assert ad.read_zarr(tmp_path / "a.zarr").n_obs == 10
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_write__does_not_overwrite_what_is_no_store(adata: ad.AnnData, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(InputError, match="no zarr store"):
        sd.write(adata, tmp_path / "thesis", overwrite=True)
    with pytest.raises(InputError, match=r"ends with \.zarr"):
        sd.write(adata, tmp_path / "a.loom")
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


def test_write__refuses_the_store_that_x_is_read_from(adata: ad.AnnData, tmp_path: Path) -> None:
    sd.write(adata, tmp_path / "a.zarr")
    with pytest.raises(InputError, match="update=True"):
        sd.write(sd.read(tmp_path / "a.zarr"), tmp_path / "a.zarr", overwrite=True)


class Killed(BaseException):
    """Stands for a signal: nothing of ours catches it."""


def killer(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: int = 0) -> None:
    """Make the call number ``after`` of a function the last thing that happens."""
    real, calls = getattr(owner, name), iter(range(10**9))

    def deadly(*args: Any, **options: Any) -> Any:
        if next(calls) >= after:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(owner, name, deadly)


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [(layout, "put_sparse", 0), (commit, "consolidate", 0), (commit, "move", 0), (commit, "move", 1)],
)
def test_write__killed_while_overwriting_keeps_the_old_store(
    adata: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: int
) -> None:
    sd.write(adata, tmp_path / "a.zarr")
    with monkeypatch.context() as m, pytest.raises(Killed):
        killer(m, owner, name, after)
        m.setattr(commit.Draft, "abandon", lambda self: None)  # a killed process does not clean up
        sd.write(adata[:10].copy(), tmp_path / "a.zarr", overwrite=True, shard_bytes=SHARD)
    where = tmp_path / ".a.zarr.old" / "a.zarr" if (name, after) == ("move", 1) else tmp_path / "a.zarr"
    assert_same(ad.read_zarr(where), adata)
    sd.write(adata[:20].copy(), tmp_path / "a.zarr", overwrite=True)
    assert ad.read_zarr(tmp_path / "a.zarr").n_obs == 20
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_write__an_error_leaves_nothing(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.uns["bad"] = {"x": object()}
    with pytest.raises(InputError, match="uns/bad"):
        sd.write(adata, tmp_path / "a.zarr")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def memory_url() -> Iterator[str]:
    import fsspec

    fs = fsspec.filesystem("memory")
    yield "memory://bucket/a.zarr"
    fs.rm("/bucket", recursive=True)


def test_write__to_an_object_store(adata: ad.AnnData, memory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    with monkeypatch.context() as m, pytest.raises(Killed):
        killer(m, commit, "consolidate")
        m.setattr(commit.Draft, "abandon", lambda self: None)
        sd.write(adata, memory_url, shard_bytes=SHARD)
    with pytest.raises(StoreError, match="no commit mark"):
        sd.read(memory_url)
    sd.write(adata, memory_url, shard_bytes=SHARD)
    assert_same(sd.read(memory_url), adata)
    with pytest.raises(StoreError, match="overwrite=True"):
        sd.write(adata, memory_url)
    sd.write(adata[:10].copy(), memory_url, overwrite=True)
    found = sd.read(memory_url)
    assert_same(found, adata[:10])
    assert [p.rsplit("/", 1)[1] for p in fsspec.filesystem("memory").ls("/bucket", detail=False)] == ["a.zarr"]


# -- checks --------------------------------------------------------------------------------------


def test_verify__sees_what_is_missing_or_wrong(adata: ad.AnnData, tmp_path: Path) -> None:
    sd.write(adata, tmp_path / "a.zarr", shard_bytes=SHARD)
    root = zarr.open_group(tmp_path / "a.zarr", mode="r+", use_consolidated=False)
    shard = tmp_path / "a.zarr" / "X" / "data" / "c" / "3"
    whole = shard.read_bytes()
    shard.unlink()
    with pytest.raises(StoreError, match="'X/data' lacks 1 chunk"):
        verify_store(root)
    shard.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    verify_store(root)
    with pytest.raises(ValueError, match=r"(?i)checksum"):
        verify_store(root, deep=True)
    shard.write_bytes(whole)
    indptr = root["X/indptr"][:]
    root["X/indptr"][:] = indptr[::-1].copy()
    with pytest.raises(StoreError, match="indptr of 'X'"):
        verify_store(root)


def test_stored__sees_a_torn_shard(counts: sp.csr_matrix, tmp_path: Path) -> None:
    layout_ = sparse_layout(counts.shape, counts.nnz, "float32", SHARD)
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    matrix.write_matrix(from_array(counts), Location.parse(tmp_path / "a.zarr"), "X", shard_bytes=SHARD)
    data = root["X/data"]
    assert matrix.is_stored(data, layout_.n_shards - 1)
    path = tmp_path / "a.zarr" / "X" / "data" / "c" / str(layout_.n_shards - 1)
    path.write_bytes(path.read_bytes()[:-7])
    assert not matrix.is_stored(data, layout_.n_shards - 1)
    path.unlink()
    assert not matrix.is_stored(data, layout_.n_shards - 1)
