"""Blocks made alike and stacked, against a few lines of dense numpy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.kernels import concat
from sc_dask.kernels.csr import INT32_MAX

DENSE = np.random.default_rng(0).poisson(0.7, (9, 5)).astype(np.float32)
DENSE[3] = 0


def block(kind: str) -> Any:
    return DENSE if kind == "dense" else concat.as_csr(DENSE)


def dense(x: Any) -> np.ndarray:
    return x.toarray() if sp.issparse(x) else x


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize("fill", [0, 2.5, np.nan])
@pytest.mark.parametrize(
    "cols", [[4, 3, 2, 1, 0], [-1, 0, 1, -1, 2, 3, 4], [3, -1, 1], [-1, -1], [2, 2, -1, 0], []], ids=str
)
def test_place_cols__is_take_with_fill(kind: str, fill: float, cols: list[int]) -> None:
    at = np.array(cols, np.int64)
    lookup = concat.place_lookup(at, 5)
    out = concat.place_cols(block(kind), lookup=lookup, cols=at, fill=fill, dtype=np.dtype(np.float64))
    wide = np.concatenate([DENSE, np.full((9, 1), fill)], axis=1)
    np.testing.assert_array_equal(dense(out), wide[:, at])
    assert out.dtype == np.float64
    if kind == "csr":
        assert out.indices.dtype == out.indptr.dtype == np.int32
        assert out.nnz == np.count_nonzero(wide[:, at])  # a fill of 0 is not stored
        assert all(np.all(np.diff(row.indices) > 0) for row in out)


def test_place_lookup__knows_repeats() -> None:
    assert concat.place_lookup(np.array([1, -1, 1]), 3) is None
    found = concat.place_lookup(np.array([2, -1, 0, -1]), 3)
    assert found is not None and found.tolist() == [2, -1, 0]


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_cast__keeps_values_and_costs_nothing_where_nothing_is_to_do(kind: str) -> None:
    b = block(kind)
    assert concat.cast(b, dtype=np.dtype(np.float32)) is b
    out = concat.cast(b, dtype=np.dtype(np.int16))
    assert out.dtype == np.int16
    np.testing.assert_array_equal(dense(out), DENSE)


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_stack__blocks_below_each_other(kind: str) -> None:
    b = block(kind)
    options = {"n_vars": 5, "dtype": np.dtype(np.float32), "is_sparse": kind == "csr"}
    assert concat.stack([b], **options) is b
    out = concat.stack([b[:0], b[:4], b[4:]], **options)
    np.testing.assert_array_equal(dense(out), DENSE)
    none = concat.stack([], **options)
    assert none.shape == (0, 5) and none.dtype == np.float32 and sp.issparse(none) == (kind == "csr")
    if kind == "csr":
        assert out.indices.dtype == out.indptr.dtype == np.int32


def test_stack__more_than_int32_counts_is_refused() -> None:
    b = SimpleNamespace(indptr=np.array([0, INT32_MAX // 2 + 1], np.int32))  # values that would fill the memory
    with pytest.raises(InputError, match=r"2147483648 non-zeros in all; expected fewer than 2\*\*31"):
        concat.stack([b, b], 5, np.dtype(np.float32), is_sparse=True)
