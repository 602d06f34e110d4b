"""Conversion may be killed at any moment and begun again; what it makes is checked against the source."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import FormatError, InputError, StoreError
from sc_dask.io import convert
from sc_dask.io.writing import commit, counts, layout, shards
from tests.io.cases import dense

SHARD_NNZ = 401
SHARD = 8 * SHARD_NNZ


@pytest.fixture
def h5ad(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    x = sp.csr_matrix(rng.poisson(0.4, (200, 30)).astype(np.float32))
    adata = ad.AnnData(x, layers={"half": x / 2, "dense": x.toarray()})
    adata.obs["n"] = np.arange(200)
    adata.raw = adata
    adata.write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


def check(found: ad.AnnData, h5ad: Path) -> None:
    wanted = ad.read_h5ad(h5ad)
    for a, b in [
        (found.X, wanted.X),
        (found.raw.X, wanted.raw.X),
        *((found.layers[k], wanted.layers[k]) for k in wanted.layers),
    ]:
        np.testing.assert_array_equal(dense(a), dense(b))
    assert found.obs["n"].tolist() == wanted.obs["n"].tolist()


def test_convert__narrows_counts_and_keeps_the_rest(h5ad: Path, tmp_path: Path) -> None:
    found = sd.convert(h5ad, tmp_path / "a.zarr", shard_bytes=SHARD, block_bytes=400)
    check(found, h5ad)
    assert (found.X.dtype, found.layers["half"].dtype, found.layers["dense"].dtype) == (np.uint8, np.float64, np.uint8)
    assert len(found.X.chunks[0]) > 10
    assert sorted(os.listdir(tmp_path)) == ["a.h5ad", "a.zarr"]


def chunks(store: Path) -> dict[str, bytes]:
    """Every stored object but the metadata, whose dicts have no order."""
    return {
        str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file() and p.name != "zarr.json"
    }


@pytest.fixture
def unbroken(h5ad: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a conversion that nothing stopped."""
    out = tmp_path_factory.mktemp("unbroken") / "a.zarr"
    sd.convert(h5ad, out, shard_bytes=SHARD)
    return out


class Killed(BaseException):
    """Stands for a signal: nothing of ours catches it."""


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (counts, "count", 0),
        (counts, "count", 2),
        (layout, "create_sparse", 0),
        (layout, "put_sparse", 0),
        (layout, "put_sparse", 3),
        (layout, "put_dense", 1),
        (shards, "holds", 0),
        (shards, "holds", 5),
        (convert, "write_elements", 0),
        (commit, "consolidate", 0),
        (commit, "move", 0),
    ],
)
def test_convert__killed_and_begun_again(
    h5ad: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: int
) -> None:
    out = tmp_path / "a.zarr"
    real, calls = getattr(owner, name), iter(range(10**9))

    def deadly(*args: Any, **options: Any) -> Any:
        if next(calls) >= after:
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(owner, name, deadly)
        sd.convert(h5ad, out, shard_bytes=SHARD)
    assert not out.exists()
    written: list[str] = []
    put = layout.put_sparse

    def counting(group: Any, *args: Any) -> None:
        written.append(group.path)
        put(group, *args)

    monkeypatch.setattr(layout, "put_sparse", counting)
    check(sd.convert(h5ad, out, shard_bytes=SHARD), h5ad)
    n_shards = -(-ad.read_h5ad(h5ad).X.nnz // SHARD_NNZ)
    if (name, after) == ("put_sparse", 3):
        assert 0 < written.count("X") <= n_shards - 3 + 2
    if name in ("put_dense", "consolidate"):
        assert written.count("X") == 0  # every shard was there
    assert chunks(out) == chunks(unbroken)
    assert sorted(os.listdir(tmp_path)) == ["a.h5ad", "a.zarr"]


def test_convert__a_torn_or_stale_draft_is_not_trusted(
    h5ad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(commit, "consolidate", stop)
        sd.convert(h5ad, tmp_path / "a.zarr", shard_bytes=SHARD)
    shard = tmp_path / ".a.zarr.partial" / "X" / "data" / "c" / "2"
    half = shard.read_bytes()[:-3]
    shard.write_bytes(half)
    shard.with_name("3.0123456789abcdef.partial").write_bytes(half)  # as zarr names what it is still writing
    check(sd.convert(h5ad, tmp_path / "a.zarr", shard_bytes=SHARD), h5ad)
    assert not list((tmp_path / "a.zarr").rglob("*.partial"))
    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(commit, "consolidate", stop)
        sd.convert(h5ad, tmp_path / "b.zarr", shard_bytes=SHARD)
    changed = ad.read_h5ad(h5ad)
    changed.X.data[:] = 9
    time.sleep(0.02)
    changed.write_h5ad(h5ad)
    check(sd.convert(h5ad, tmp_path / "b.zarr", shard_bytes=SHARD), h5ad)


SLOW = """
import sys, time
import sc_dask as sd
from sc_dask.io.writing import layout
put = layout.put_sparse
def slow(*args):
    time.sleep(0.05)
    put(*args)
layout.put_sparse = slow
print("ready", flush=True)
sd.convert(sys.argv[1], sys.argv[2], shard_bytes=808)
"""


def test_convert__after_kill_9(h5ad: Path, tmp_path: Path) -> None:
    out, shards = tmp_path / "a.zarr", tmp_path / ".a.zarr.partial" / "X" / "data" / "c"
    child = subprocess.Popen([sys.executable, "-c", SLOW, str(h5ad), str(out)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (shards.is_dir() and len(list(shards.iterdir())) >= 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.returncode == -signal.SIGKILL
    assert not out.exists()
    check(sd.convert(h5ad, out, shard_bytes=808), h5ad)
    assert sorted(os.listdir(tmp_path)) == ["a.h5ad", "a.zarr"]


@pytest.mark.parametrize("name", ["data", "indices"])
def test_convert__says_when_the_result_differs(
    h5ad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    encode = shards.encode

    def wrong(array: Any, values: np.ndarray) -> np.ndarray:
        return encode(array, values ^ (array.path == f"X/{name}" and len(values) < SHARD_NNZ))  # one bit, last shard

    monkeypatch.setattr(shards, "encode", wrong)
    with pytest.raises(StoreError, match=f"X/{name}> does not hold|X/{name} does not hold"):
        sd.convert(h5ad, tmp_path / "a.zarr", shard_bytes=SHARD)
    assert os.listdir(tmp_path) == ["a.h5ad"]


def test_convert__bad_input_leaves_nothing(h5ad: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.zarr"
    with pytest.raises(StoreError, match="no file or store"):
        sd.convert(tmp_path / "none.h5ad", out)
    with pytest.raises(InputError, match="'genome' for a h5ad"):
        sd.convert(h5ad, out, genome="hg19")
    (tmp_path / "a.xyz").write_text("hello")
    with pytest.raises(FormatError, match="unknown kind"):
        sd.convert(tmp_path / "a.xyz", out)
    sd.convert(h5ad, out)
    with pytest.raises(StoreError, match="overwrite=True"):
        sd.convert(h5ad, out)
    with pytest.raises(InputError, match="input and output"):
        sd.convert(out, out, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["a.h5ad", "a.xyz", "a.zarr"]


def test_convert__a_damaged_file_leaves_nothing(h5ad: Path, tmp_path: Path) -> None:
    import h5py

    with h5py.File(h5ad, "r+") as f:
        f["X/indices"][5] = 10_000
    with pytest.raises(FormatError, match=r"a\.h5ad"):
        sd.convert(h5ad, tmp_path / "a.zarr")
    assert os.listdir(tmp_path) == ["a.h5ad"]


def test_convert__to_an_object_store(h5ad: Path) -> None:
    import fsspec

    check(sd.convert(h5ad, "memory://converted/a.zarr", shard_bytes=SHARD), h5ad)
    fs = fsspec.filesystem("memory")
    assert [p.rsplit("/", 1)[1] for p in fs.ls("/converted", detail=False)] == ["a.zarr"]
    fs.rm("/converted", recursive=True)


def test_counts__one_pass_over_any_blocks(h5ad: Path) -> None:
    x = sd.read(h5ad, block_bytes=300).X
    found, wanted = counts.count(x), ad.read_h5ad(h5ad).X
    np.testing.assert_array_equal(found.row_nnz, np.diff(wanted.indptr))
    assert (found.lo, found.hi, found.whole) == (1, wanted.data.max(), True)
