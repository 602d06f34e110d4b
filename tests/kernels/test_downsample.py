from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.kernels.downsample import cell_seeds, downsample, share

ROW = np.array([0, 5, 1, 30, 4], np.float32)  # 40 counts
N = 4000


def drawn(n: int, *, replace: bool, dense: bool) -> np.ndarray:
    """The same cell many times, downsampled."""
    x = np.tile(ROW, (N, 1))
    targets = np.full(N, n)
    out = downsample(x if dense else sp.csr_matrix(x), targets, cell_seeds(1, N), replace=replace, out_dtype="float32")
    return out if dense else out.toarray()


@pytest.mark.parametrize("dense", [False, True], ids=["csr", "dense"])
@pytest.mark.parametrize("replace", [False, True])
def test_downsample__every_count_has_the_same_chance_in_every_cell(replace: bool, dense: bool) -> None:
    found = drawn(10, replace=replace, dense=dense)
    assert (found.sum(axis=1) == 10).all() and (replace or (found <= ROW).all())
    p = ROW / 40
    variance = 10 * p * (1 - p) * (1 if replace else 30 / 39)  # multinomial, or hypergeometric
    z = (found.mean(axis=0) - 10 * p)[1:] / np.sqrt(variance[1:] / N)
    assert np.abs(z).max() < 4
    np.testing.assert_allclose(found.var(axis=0), variance, rtol=0.15)
    after = np.corrcoef(found[:-1, 3], found[1:, 3])[0, 1]  # cells are independent of each other
    assert abs(after) < 4 / np.sqrt(N)


def test_downsample__sparse_and_dense_draw_alike_and_zeros_go() -> None:
    x = sp.csr_matrix(np.tile(ROW, (3, 1)))
    options = {"replace": False, "out_dtype": "float32"}
    out = downsample(x, np.array([0, 7, 40]), cell_seeds(0, 3), **options)
    dense = downsample(x.toarray(), np.array([0, 7, 40]), cell_seeds(0, 3), **options)
    np.testing.assert_array_equal(out.toarray(), dense)
    assert out.nnz == np.count_nonzero(dense) and out.sum(axis=1).ravel().tolist() == [[0, 7, 40]]


@pytest.mark.parametrize("value", [-1, 0.5, np.nan, np.inf])
def test_downsample__refuses_what_is_no_count(value: float) -> None:
    x = np.array([[1.0, value]])
    with pytest.raises(InputError, match="counts"):
        downsample(x, np.array([1]), cell_seeds(0, 1), replace=False, out_dtype="float64")


@pytest.mark.parametrize("replace", [False, True])
def test_share__is_exact_and_even(replace: bool) -> None:
    totals = np.array([10.0, 0, 200, 3, 1000])
    found = np.array([share(totals, 300, np.random.default_rng(i), replace) for i in range(2000)])
    assert (found.sum(axis=1) == 300).all() and (found >= 0).all() and (replace or (found <= totals).all())
    p = totals / totals.sum()
    variance = 300 * p * (1 - p) * (1 if replace else (1213 - 300) / 1212)
    z = (found.mean(axis=0) - 300 * p)[p > 0] / np.sqrt(variance[p > 0] / 2000)
    assert np.abs(z).max() < 4
    np.testing.assert_allclose(found.var(axis=0), variance, rtol=0.15)


def test_share__more_counts_than_numpys_own_draw_can_take() -> None:
    found = share(np.full(10, 3e9), 10**10, np.random.default_rng(0), replace=False)
    assert found.sum() == 10**10 and np.abs(found - 1e9).max() < 5 * np.sqrt(1e9)


def test_share__nothing_and_everything() -> None:
    for n in (0, 7):
        assert share(np.array([3.0, 4.0]), n, np.random.default_rng(0), replace=False).sum() == n
    assert share(np.zeros(2), 0, np.random.default_rng(0), replace=True).tolist() == [0, 0]
