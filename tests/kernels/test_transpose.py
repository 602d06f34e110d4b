from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.kernels import transpose
from sc_dask.kernels.normalize import normalize_log1p, scale_rows

X = np.random.default_rng(0).poisson(0.8, (50, 9)).astype(np.float32)
N_UNITS = 4


def put_together(blocks: list[np.ndarray], u: int, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    rows, data, at, first = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32), indptr[:-1].copy(), 0
    for block in blocks:
        bounds, cells, values = transpose.by_unit(sp.csr_matrix(block), N_UNITS)
        one = slice(bounds[u], bounds[u + 1])
        counts, steps, values = transpose.by_gene(cells[one], values[one], len(lengths))
        transpose.append(counts, steps.astype(np.int32), values, first, at, rows, data)
        first += len(block)
    return rows, data


@pytest.mark.parametrize("cuts", [[], [20], [0, 1, 1, 30, 50]])
@pytest.mark.parametrize("u", range(N_UNITS))
def test_by_gene__blocks_put_together_are_the_transpose(cuts: list[int], u: int) -> None:
    expected = sp.csc_matrix(X[:, u::N_UNITS])
    rows, data = put_together(np.split(X, cuts), u, np.diff(expected.indptr))
    np.testing.assert_array_equal(rows, expected.indices)
    np.testing.assert_array_equal(data, expected.data)


def test_by_gene__drops_explicit_zeros_and_keeps_nan() -> None:
    block = sp.csr_matrix(np.array([[1, np.nan], [2, 3.0]]))
    block.data[0] = 0
    bounds, cells, values = transpose.by_unit(block, 1)
    counts, steps, values = transpose.by_gene(cells, values, 2)
    assert bounds.tolist() == [0, 3] and counts.tolist() == [1, 2] and steps.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(values, [2, np.nan, 3])


def test_by_gene__wide_where_a_block_has_many_rows_or_a_unit_many_genes() -> None:
    tall = sp.csr_matrix(([1.0, 2.0], ([3, 70_000], [0, 0])), shape=(70_001, 1), dtype=np.float32)
    _, cells, values = transpose.by_unit(tall, 1)
    counts, steps, _ = transpose.by_gene(cells, values, 1)
    assert counts.tolist() == [2] and steps.tolist() == [3, 69_997] and steps.dtype == np.uint32
    _, cells, values = transpose.by_unit(sp.csr_matrix(tall.T), 1)
    counts, steps, values = transpose.by_gene(cells, values, 70_001)
    assert np.flatnonzero(counts).tolist() == [3, 70_000] and values.tolist() == [1, 2]


@pytest.mark.parametrize("base", [None, 2.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_log1p__is_that_of_rows_bit_by_bit(base: float | None, dtype: type) -> None:
    x = X.astype(dtype)
    x[3, 4], x[5, 2] = 1000, 2.5
    factors = np.random.default_rng(2).gamma(3, 1, 50)
    csc, over = sp.csc_matrix(x), 1.0 if base is None else 1 / np.log(base)
    out = np.empty_like(csc.data)
    known = transpose.small_logs(factors, base, out)
    transpose.scaled_log1p(csc.data, csc.indices, factors, over, known, out)
    np.testing.assert_array_equal(out, sp.csc_matrix(normalize_log1p(x, factors, base)).data)
    transpose.scaled(csc.data, csc.indices, factors, out)
    np.testing.assert_array_equal(out, sp.csc_matrix(scale_rows(x, factors)).data)
