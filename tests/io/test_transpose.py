from __future__ import annotations

import gc
import pickle
from pathlib import Path

import anndata as ad
import dask
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask import log
from sc_dask.array.source import METER, MemorySource
from sc_dask.errors import StoreError
from sc_dask.io.formats.transpose import SpilledSource, transpose
from sc_dask.io.read import read


def columns_of(x: sp.csr_matrix) -> MemorySource:
    return MemorySource(x.T.tocsr(), "columns")


def matrix(n_obs: int, n_vars: int, density: float = 0.1) -> sp.csr_matrix:
    x = sp.random(n_obs, n_vars, density, format="csr", dtype=np.float32, random_state=1)
    x.data = np.round(x.data * 50)
    x.data[::17] = 0  # explicit zeros stay
    return x


@pytest.mark.parametrize("n_threads", [1, 4])
@pytest.mark.parametrize("block_bytes", [100, 2000, 10**6])
def test_transpose__equals_the_matrix(tmp_path: Path, block_bytes: int, n_threads: int) -> None:
    x = matrix(203, 37)
    x[50:90] = 0  # rows without non-zeros, a bucket without records
    x.eliminate_zeros()
    with dask.config.set({"sc-dask.work-dir": str(tmp_path), "num_workers": n_threads}):
        source, bounds = transpose(columns_of(x), np.array([0, 1, 10, 11, 37]), block_bytes)
    assert source.shape == (203, 37) and bounds[0] == 0 and bounds[-1] == 203
    for a, b in [(0, 203), (0, 0), (202, 203), *zip(bounds[:-1], bounds[1:], strict=True)]:
        block, wanted = source.read(int(a), int(b)), x[a:b]
        assert block.has_canonical_format and block.indices.dtype == block.indptr.dtype == np.int32
        assert np.array_equal(block.indptr, wanted.indptr)
        assert np.array_equal(block.indices, wanted.indices)
        assert np.array_equal(block.data, wanted.data)
    nnz = np.diff(x.indptr[bounds])
    rows = np.diff(bounds)
    assert np.all((nnz * 8 <= block_bytes) | (rows == 1))


def test_transpose__one_block_stays_in_memory(tmp_path: Path) -> None:
    x = matrix(30, 20)
    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
        source, bounds = transpose(columns_of(x), np.array([0, 20]), 10**6)
    assert isinstance(source, MemorySource)
    assert bounds.tolist() == [0, 30]
    assert (source.read(3, 30) != x[3:]).nnz == 0
    assert list(tmp_path.iterdir()) == []


def test_transpose__work_area_goes_with_its_last_holder(tmp_path: Path) -> None:
    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
        source, _ = transpose(columns_of(matrix(203, 37)), np.array([0, 20, 37]), 500)
    assert isinstance(source, SpilledSource)
    assert sorted(p.name for p in Path(source.folder).glob("[!.]*")) == ["data", "indices", "indptr"]
    borrowed = pickle.loads(pickle.dumps(source))
    assert borrowed == source
    whole = borrowed.read(0, 203)
    del borrowed
    gc.collect()
    assert source.read(0, 203).nnz == whole.nnz
    borrowed = pickle.loads(pickle.dumps(source))
    del source
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="work-dir"):
        borrowed.read(0, 10)


def test_transpose__a_failure_leaves_nothing(tmp_path: Path) -> None:
    class Broken(MemorySource):
        calls = 0

        def read(self, start: int, stop: int) -> sp.csr_matrix:
            Broken.calls += 1
            if Broken.calls > 2:  # both column blocks counted, then the disk fails
                raise StoreError("lost the disk")
            return super().read(start, stop)

    x = matrix(203, 37)
    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}), pytest.raises(StoreError, match="lost the disk"):
        transpose(Broken(x.T.tocsr(), "broken"), np.array([0, 20, 37]), 500)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
def test_read__csc_in_many_blocks(tmp_path: Path, suffix: str) -> None:
    x = matrix(150, 60)
    path = tmp_path / f"csc.{suffix}"
    stored = ad.AnnData(x.tocsc(), layers={"also": x.tocsc() * 2})
    stored.write_h5ad(path, compression="gzip") if suffix == "h5ad" else stored.write_zarr(path)
    METER.empty()
    with dask.config.set({"sc-dask.work-dir": str(tmp_path / "work")}), log.stage("read") as stage:
        found = read(path, block_bytes=800)
    assert METER.empty().rows == 0
    assert stage.passes == pytest.approx(4)  # two passes over each of two matrices
    assert stage.bytes_read > 0
    assert found.X.numblocks[0] > 5
    assert (found.X.compute() != x).nnz == 0
    assert (found.layers["also"].compute() != x * 2).nnz == 0
