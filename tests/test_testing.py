from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from sc_dask.array.blocks import collect_rows
from sc_dask.array.engine import run
from sc_dask.array.source import METER, BlockSource
from sc_dask.testing import CountingSource, compute_counter, count_matrices, lazy, row_bounds, source_of

DENSE = np.arange(24, dtype=np.float32).reshape(8, 3)


@pytest.mark.parametrize("kind", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_counting_source__is_a_block_source_that_counts(kind: type) -> None:
    source = CountingSource(kind(DENSE))
    assert isinstance(source, BlockSource)
    METER.empty()
    for start, stop in ((0, 3), (3, 8), (0, 3), (4, 4)):
        block = source.read(start, stop)
        np.testing.assert_array_equal(block.toarray() if sp.issparse(block) else block, DENSE[start:stop])
    assert source.reads == {(0, 3): 2, (3, 8): 1, (4, 4): 1}
    assert source.times_read().tolist() == [2, 2, 2, 1, 1, 1, 1, 1]
    assert source.rows_read == 11 and source.passes == 11 / 8
    reading = METER.empty()
    assert reading.rows == 11 and reading.n_bytes > 0
    source.forget()
    assert source.rows_read == 0


def test_counting_source__wraps_a_source_that_meters_itself() -> None:
    inner = CountingSource(DENSE)
    outer = CountingSource(inner)
    METER.empty()
    outer.read(0, 8)
    assert inner.rows_read == outer.rows_read == METER.empty().rows == 8
    assert outer.token == inner.token and outer.shape == (8, 3) and not outer.is_sparse


def test_counting_source__many_threads_and_a_pickled_copy() -> None:
    source = CountingSource(DENSE)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: source.read(0, 8), range(400)))
    assert source.reads == {(0, 8): 400}
    copied = pickle.loads(pickle.dumps(source))
    assert copied.rows_read == 0 and copied.token == source.token


def test_lazy__a_twin_that_its_original_cannot_change() -> None:
    adata = ad.AnnData(DENSE.copy(), layers={"counts": sp.csr_matrix(DENSE)})
    twin = lazy(adata, bounds=[0, 2, 2, 8])
    adata.X[:] = 0
    np.testing.assert_array_equal(twin.X.compute(), DENSE)
    assert twin.X.chunks[0] == (2, 0, 6) == twin.layers["counts"].chunks[0]
    assert lazy(DENSE, 3).chunks[0] == (2, 3, 3)
    assert lazy(ad.AnnData(obs=adata.obs)).X is None


def test_source_of__tells_when_there_is_none() -> None:
    x = lazy(DENSE)
    assert source_of(x) is source_of(ad.AnnData(x))
    with pytest.raises(TypeError, match="no counting source behind a ndarray"):
        source_of(ad.AnnData(DENSE))


def test_compute_counter__counts_inside_only() -> None:
    x = lazy(DENSE)
    run.materialise(x)
    with compute_counter() as counted:
        run.compute(collect_rows(lambda b: b[:, 0], x), label="first")
        run.map_tasks(lambda i: i, [1], label="second")
    run.materialise(x)
    assert counted.labels == ["first", "second"] and counted.n == 2


@given(data=st.data())
def test_strategies__keep_their_promises(data: st.DataObject) -> None:
    x = data.draw(count_matrices(max_obs=9, max_vars=4))
    assert x.shape[0] <= 9 and 1 <= x.shape[1] <= 4 and x.dtype == np.float32
    assert (x.data >= 0).all() and (x.data == np.floor(x.data)).all()
    bounds = data.draw(row_bounds(x.shape[0], max_blocks=3))
    assert bounds[0] == 0 and bounds[-1] == x.shape[0] and 2 <= len(bounds) <= 4 and (np.diff(bounds) >= 0).all()
