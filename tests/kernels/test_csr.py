from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_dask.errors import FormatError, InputError
from sc_dask.kernels import csr

DTYPES = [np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64]


def block(n_obs=7, n_vars=9, dtype=np.float32, seed=0) -> sp.csr_matrix:
    x = np.random.default_rng(seed).poisson(0.7, (n_obs, n_vars)).astype(dtype)
    x[2] = 0
    m = sp.csr_matrix(x)
    return csr.canonical(m.data, m.indices, m.indptr, n_vars)


def assert_canonical(b: sp.csr_matrix) -> None:
    assert b.indices.dtype == b.indptr.dtype == np.int32
    assert b.indptr[0] == 0
    assert b.indptr[-1] == len(b.data) == len(b.indices)
    assert sp.csr_matrix((b.data, b.indices, b.indptr), b.shape).has_canonical_format


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [np.int32, np.int64, np.uint32, np.uint64, ">i8"])
def test_canonical__any_number_types(dtype, index):
    want = block(dtype=dtype)
    got = csr.canonical(want.data, want.indices.astype(index), want.indptr.astype(index), 9)
    assert_canonical(got)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.toarray(), want.toarray())


def test_canonical__shares_memory_when_in_order():
    want = block()
    got = csr.canonical(want.data, want.indices, want.indptr, 9)
    assert np.shares_memory(got.data, want.data)
    assert np.shares_memory(got.indices, want.indices)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=8), min_size=1, max_size=6), st.randoms())
def test_canonical__sorts_and_sums_duplicates(rows, random):
    indices = np.array([j for r in rows for j in r], np.int64)
    indptr = np.cumsum([0, *map(len, rows)])
    data = np.array([random.randint(1, 9) for _ in indices], np.float32)
    keep = data.copy()
    got = csr.canonical(data, indices, indptr, 6)
    want = np.zeros((len(rows), 6))
    np.add.at(want, (np.repeat(np.arange(len(rows)), np.diff(indptr)), indices), data)
    assert_canonical(got)
    np.testing.assert_array_equal(got.toarray(), want)
    np.testing.assert_array_equal(data, keep)


def test_canonical__keeps_explicit_zeros_and_read_only_input():
    data = np.array([0.0, 2.0])
    data.setflags(write=False)
    got = csr.canonical(data, np.array([0, 1]), np.array([0, 2]), 2)
    assert got.nnz == 2


@pytest.mark.parametrize(
    ("indices", "indptr"),
    [
        ([0, 3], [0, 1, 2]),  # column out of range
        ([0, -1], [0, 1, 2]),
        ([0, 2**40], [0, 1, 2]),  # would wrap to 0 as int32
        ([0, 1], [0, 2, 1]),  # ends before the last value
        ([0, 1], [0, 3, 2]),  # falls
        ([0, 1], [1, 1, 2]),  # does not start at 0
        ([0, 1], [0, 1, 3]),  # beyond the values
        ([0], [0, 1, 2]),  # fewer indices than values
        ([0, 1], []),
        ([0.0, 1.0], [0, 1, 2]),
    ],
)
def test_canonical__refuses_contradictions(indices, indptr):
    indptr = np.array(indptr, dtype=np.int64)
    with pytest.raises(FormatError):
        csr.canonical(np.ones(2), np.array(indices), indptr, 3)


def test_canonical__refuses_what_is_not_a_number():
    with pytest.raises(FormatError, match="complex"):
        csr.canonical(np.ones(1, complex), np.array([0]), np.array([0, 1]), 1)


def test_canonical__empty():
    got = csr.canonical(np.ones(0), np.zeros(0, int), np.array([0]), 4)
    assert got.shape == (0, 4)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, bool])
@pytest.mark.parametrize(
    "rows",
    [[3, 1, 1, 6], [2, 3, 4], [], [-1, 0], list(range(7)), np.array([1, 0, 1, 0, 0, 0, 1], bool), np.ones(7, bool)],
)
def test_take_rows__like_numpy(rows, dense, dtype):
    b = block(dtype=dtype)
    x = b.toarray()
    rows = np.asarray(rows) if len(rows) else np.zeros(0, int)
    got = csr.take_rows(x if dense else b, rows)
    if not dense:
        assert_canonical(got)
    np.testing.assert_array_equal(csr.to_dense(got, got.dtype), x[rows].astype(got.dtype))


def test_take_rows__refuses_positions_outside():
    with pytest.raises(InputError, match="7"):
        csr.take_rows(block(), np.array([7]))
    with pytest.raises(InputError, match="mask"):
        csr.take_rows(block(), np.ones(6, bool))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("cols", [[0, 4, 8], [8, 0, 4], [], list(range(9)), [-1, 2], np.arange(9) % 2 == 0])
def test_take_cols__like_numpy(cols, dense):
    b = block()
    x = b.toarray()
    cols = np.asarray(cols) if len(cols) else np.zeros(0, int)
    want = x[:, cols]
    got = csr.take_cols(x if dense else b, csr.col_lookup(cols, 9), want.shape[1])
    if dense:
        assert got.flags.c_contiguous
    else:
        assert_canonical(got)
    np.testing.assert_array_equal(csr.to_dense(got), want)
    np.testing.assert_array_equal(b.toarray(), x)


@pytest.mark.parametrize("dense", [False, True])
def test_take_cols__places_left_out_are_zero(dense):
    b = block()
    lookup = np.full(9, -1, np.int32)
    lookup[3] = 1
    got = csr.to_dense(csr.take_cols(b.toarray() if dense else b, lookup, 3))
    np.testing.assert_array_equal(got[:, 1], b.toarray()[:, 3])
    assert not got[:, [0, 2]].any()


def test_col_lookup__none_for_repeats():
    assert csr.col_lookup(np.array([1, 2, 1]), 4) is None
    assert csr.col_lookup(np.array([0, -4]), 4) is None
    with pytest.raises(InputError):
        csr.col_lookup(np.array([4]), 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_to_dense__and_nnz_per_row(dtype):
    b = block(dtype=dtype)
    np.testing.assert_array_equal(csr.to_dense(b, np.float64), b.toarray())
    assert csr.to_dense(b).dtype == dtype
    assert csr.to_dense(b.toarray().T.copy().T).flags.c_contiguous
    np.testing.assert_array_equal(csr.nnz_per_row(b), (b.toarray() != 0).sum(axis=1))
    np.testing.assert_array_equal(csr.nnz_per_row(b.toarray()), (b.toarray() != 0).sum(axis=1))


def test_take_cols__permuted_rows_come_sorted_across_tiles() -> None:
    x = sp.random(1500, 40, 0.3, format="csr", random_state=0, dtype=np.float32)
    x.data[::9] = 0  # stored zeros stay
    b = csr.canonical(x.data, x.indices, x.indptr, 40)
    cols = np.random.default_rng(0).permutation(40)[:31]
    lookup = csr.col_lookup(cols, 40)
    assert lookup is not None
    out = csr.take_cols(b, lookup, 31)
    np.testing.assert_array_equal(out.toarray(), x.toarray()[:, cols])
    assert out.nnz == sum(np.isin(x.indices, cols)) and out.indices.dtype == np.int32
    starts = np.zeros(out.nnz, bool)
    starts[out.indptr[:-1][np.diff(out.indptr) > 0]] = True
    assert np.all((np.diff(out.indices) > 0) | starts[1:])
