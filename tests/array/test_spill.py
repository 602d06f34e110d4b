from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.array import spill
from sc_dask.array.blocks import from_array, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.qc import GENES
from sc_dask.errors import StoreError
from sc_dask.log import stage as log_stage
from sc_dask.testing import lazy, source_of

DENSE = np.random.default_rng(0).poisson(0.7, (30, 8)).astype(np.float32)
BOUNDS = [0, 0, 7, 7, 20, 30, 30]


def spilled(x: Any) -> Any:
    lazy_sizes, staged = spill.spill(x)
    sizes = run.compute(lazy_sizes)
    assert len(sizes) == x.expression.n_blocks and all(s > 0 for s in sizes)
    return staged


def dense_of(block: Any) -> np.ndarray:
    return block.toarray() if sp.issparse(block) else block


@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "int64"])
def test_spill__reads_back_what_was_spilled(kind: Any, dtype: str) -> None:
    x = lazy(kind(DENSE.astype(dtype)), bounds=BOUNDS)
    staged = spilled(x)
    out = run.materialise(staged)
    assert type(out) is type(run.materialise(x)) and out.dtype == dtype
    np.testing.assert_array_equal(dense_of(out), DENSE)
    assert source_of(x).times_read().max() == 2  # once laid aside, once for the comparison


@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
def test_spill__reads_any_range(kind: Any) -> None:
    source = spilled(lazy(kind(DENSE), bounds=BOUNDS)).expression.source
    for start in range(31):
        for stop in range(start, 31):
            np.testing.assert_array_equal(dense_of(source.read(start, stop)), DENSE[start:stop])


def test_spill__more_columns_than_two_bytes_can_number() -> None:
    wide = sp.random(5, 70_000, density=0.01, format="csr", dtype=np.float32, random_state=0)
    back = run.materialise(spilled(lazy(wide, 2)))
    assert (back != wide).nnz == 0 and back.indices.dtype == np.int32


def test_spill__is_no_pass_over_x_but_counts_bytes() -> None:
    staged = spilled(lazy(sp.csr_matrix(DENSE)))
    with log_stage("again") as s:
        run.compute(reduce_rows(GENES, staged))
    assert s.passes == 0 and s.bytes_read > 0


def test_spill__the_folder_lives_in_the_work_dir_and_goes_with_x(tmp_path: Path) -> None:
    with dask.config.set({"sc-dask.work-dir": str(tmp_path / "work")}):
        staged = spilled(lazy(DENSE))
    folder = staged.expression.source.area.path
    assert folder.parent == tmp_path / "work" and len(list(folder.glob("*.block"))) == 4
    del staged
    gc.collect()
    assert not folder.exists()


def test_spill__a_lost_block_is_told() -> None:
    staged = spilled(lazy(DENSE))
    (staged.expression.source.area.path / "1.block").unlink()
    with pytest.raises(StoreError, match="1.block is gone; expected a work-dir that every worker sees"):
        run.materialise(staged)


def test_possible__where_it_is_worth_it_and_can_be_read_back(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    x = lazy(DENSE)
    assert spill.possible(x)
    assert not spill.possible(from_array(DENSE))  # in memory already
    assert not spill.possible(spill.spill(x)[1])
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster, Client(cluster):
        assert not spill.possible(x)  # a worker's own disk
        with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
            assert spill.possible(x)
