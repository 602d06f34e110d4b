from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.kernels import times_gram as kernel

P, K = 30, 7
BASIS = np.random.default_rng(1).normal(size=(P, K))
DTYPES = ["float32", "float64", "uint16", "int64", "bool"]


def matrix(n_obs: int, dtype: Any = np.float32, density: float = 0.3) -> np.ndarray:
    """Small counts; a gene that nobody has and one that everybody has, a cell without genes."""
    rng = np.random.default_rng(n_obs)
    x = rng.poisson(3.0, (n_obs, P)) * (rng.random((n_obs, P)) < density)
    x[:, 4], x[:, 5] = 0, 2
    x[n_obs // 2] = 0
    return x.astype(dtype)


def expected(x: np.ndarray, center: bool = True) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.mean(axis=0) if center else x
    return x.T @ (x @ BASIS)


@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_obs", [1, 5, 1024, 2500])
def test_times_gram__is_the_product(kind: Any, dtype: str, n_obs: int) -> None:
    x = matrix(n_obs, dtype)
    block = kind(x)
    state = kernel.times_gram(block, BASIS)
    assert state.n == n_obs
    np.testing.assert_allclose(state.sums, x.sum(axis=0, dtype=np.float64))
    np.testing.assert_allclose(state.along, state.sums @ BASIS)
    for center in (True, False):
        wanted = expected(x, center)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(kernel.times_comoments(state, center), wanted, rtol=1e-11, atol=1e-12 * scale)


@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
def test_times_gram__a_large_mean_costs_no_digits(kind: Any) -> None:
    x = matrix(3000, np.float64, 1.0) + 1e6
    found = kernel.times_gram(kind(x[:1700]), BASIS)
    found = kernel.times_gram_update(found, kind(x[1700:]), BASIS)
    wanted = expected(x - 1e6)
    np.testing.assert_allclose(found.product, wanted, atol=1e-7 * np.abs(wanted).max())  # of x^T x, 1e-4 is rounding


@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
def test_times_gram__update_absorb_and_merge_are_the_whole(kind: Any) -> None:
    x = matrix(900)
    parts = [kind(x[lo:hi]) for lo, hi in ((0, 0), (0, 1), (1, 500), (500, 500), (500, 900))]
    merged = updated = absorbed = kernel.times_gram(parts[0], BASIS)
    for part in parts[1:]:
        merged = kernel.merge_times_gram(merged, kernel.times_gram(part, BASIS))
        before, kept = updated, updated.product.copy()
        updated = kernel.times_gram_update(before, part, BASIS)
        np.testing.assert_array_equal(before.product, kept)
    for part in parts[1:]:
        taken = absorbed.product
        absorbed = kernel.times_gram_absorb(absorbed, part, BASIS)
        assert absorbed.product is taken
    for state in (merged, updated, absorbed):
        assert state.n == 900
        np.testing.assert_allclose(state.product, expected(x), rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(kernel.times_comoments(state, False), expected(x, False), rtol=1e-10, atol=1e-9)


def test_times_gram__leaves_its_block_alone() -> None:
    block = sp.csr_matrix(matrix(50))
    before = block.copy()
    kernel.times_gram(block, BASIS)
    assert (block != before).nnz == 0 and (block.indptr == before.indptr).all()


def test_times_gram__other_genes_are_an_error() -> None:
    with pytest.raises(InputError, match="a block of 30 columns; expected 29 as in the basis"):
        kernel.times_gram(sp.csr_matrix(matrix(5)), BASIS[1:])
