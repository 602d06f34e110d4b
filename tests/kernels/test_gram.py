from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.kernels import gram


def values(dtype=np.float32) -> np.ndarray:
    rng = np.random.default_rng(4)
    x = np.log1p(rng.poisson(rng.gamma(0.5, 2, 25), (90, 25)))
    x[:, 0], x[:, 1] = 0, 5000 + rng.random(90)
    return x.astype(dtype)


def as_block(x: np.ndarray, kind: str):
    return sp.csr_matrix(x) if kind == "csr" else x


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-4), (np.float64, 1e-10)])
@pytest.mark.parametrize("tile_rows", [7, 2048])
def test_covariance__like_numpy(kind, dtype, rtol, tile_rows):
    x = values()
    state = gram.gram(as_block(x, kind), dtype, tile_rows)
    want = np.cov(x.astype(np.float64), rowvar=False)
    state = gram.finish(state)
    got = gram.covariance(state)
    # gene 1 has a mean of 5000 and a variance below 0.1: a plain float32 Gram matrix loses it
    np.testing.assert_allclose(np.diag(got), np.diag(want), rtol=rtol)
    np.testing.assert_allclose(got, want, atol=rtol * want.max())
    np.testing.assert_array_equal(got, got.T)
    np.testing.assert_allclose(gram.second_moment(state), x.astype(np.float64).T @ x / 90, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(state.sums, x.sum(axis=0, dtype=np.float64))
    assert not np.tril(state.gram, -1).any()


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_merge_and_update__any_split_is_the_whole(kind):
    x = values(np.float64)
    whole = gram.gram(as_block(x, kind), np.float64)
    parts = [as_block(x[i:j], kind) for i, j in ((40, 90), (0, 0), (0, 1), (1, 40))]
    merged = updated = absorbed = gram.empty_gram(25)
    for p in parts:
        before = copy.deepcopy(merged)
        merged_next = gram.merge_gram(merged, gram.gram(p, np.float64))
        updated = gram.gram_update(updated, p, np.float64)
        absorbed = gram.gram_absorb(absorbed, p, np.float64)
        assert_untouched(merged, before)
        merged = merged_next
    want = gram.covariance(gram.finish(whole))
    for state in (merged, updated, absorbed):
        assert state.n == 90
        np.testing.assert_allclose(gram.covariance(gram.finish(state)), want, rtol=1e-9, atol=1e-10)


def test_gram_update__leaves_its_input_alone():
    x = values()
    state = gram.gram(x[:40])
    kept = copy.deepcopy(state)
    gram.gram_update(state, x[40:])
    assert_untouched(state, kept)


def skewed(n_obs: int, n_vars: int, dtype=np.float32) -> sp.csr_matrix:
    """Genes from always to hardly ever there, as highly variable ones are."""
    rng = np.random.default_rng(1)
    share = np.linspace(1, 0, n_vars) ** 3
    x = np.where(rng.random((n_obs, n_vars)) < share, np.log1p(rng.poisson(3, (n_obs, n_vars)) + share * 20), 0)
    return sp.csr_matrix(x[:, rng.permutation(n_vars)].astype(dtype))


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-5), (np.float64, 1e-11)])
@pytest.mark.parametrize("tile_rows", [64, 2048])
def test_gram__frequent_and_rare_genes_in_every_pairing(dtype, rtol, tile_rows):
    x = skewed(700, 400)
    state = gram.gram(x, dtype, tile_rows)
    assert 0 < len(state.frame.shift) < 400 and state.pairs.any() and state.cross.any()
    want = np.cov(x.toarray().astype(np.float64), rowvar=False)
    np.testing.assert_allclose(gram.covariance(gram.finish(state)), want, atol=rtol * want.max())


def test_gram__first_cells_that_mislead_are_outvoted():
    x = skewed(900, 300, np.float64)
    first = sp.csr_matrix(x[:1].multiply(x[:1] > 2.8))  # one cell in which few genes are there
    state = gram.gram(first, np.float64)
    for lo, hi in ((0, 40), (40, 60), (60, 900)):
        state = gram.gram_update(state, x[lo:hi], np.float64)
    assert state.frame.n_rows == 840
    want = np.cov(sp.vstack([first, x]).toarray(), rowvar=False)
    np.testing.assert_allclose(gram.covariance(gram.finish(state)), want, atol=1e-11)


def test_gram__dense_blocks_and_csr_blocks_merge():
    x = skewed(500, 200, np.float64)
    state = gram.merge_gram(gram.gram(x[:300].toarray(), np.float64), gram.gram(x[300:], np.float64))
    want = np.cov(x.toarray(), rowvar=False)
    np.testing.assert_allclose(gram.covariance(gram.finish(state)), want, atol=1e-11)
    state = gram.gram_update(gram.gram(x[:300], np.float64), x[300:].toarray(), np.float64)
    np.testing.assert_allclose(gram.covariance(gram.finish(state)), want, atol=1e-11)


def assert_untouched(state, kept) -> None:
    np.testing.assert_array_equal(state.sums, kept.sums)
    for name in ("dense", "cross", "pairs"):
        np.testing.assert_array_equal(getattr(state, name), getattr(kept, name))


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_project__like_numpy(kind, dtype):
    x = np.minimum(values(np.float64), 100).astype(dtype)
    rng = np.random.default_rng(0)
    components, offset = rng.standard_normal((25, 6)), rng.standard_normal(6)
    got = gram.project(as_block(x, kind), components, offset)
    assert got.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_allclose(got, x.astype(np.float64) @ components - offset, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        gram.project(as_block(x, kind), components, dtype=np.float64), x.astype(np.float64) @ components, atol=1e-9
    )


def test_gram__refuses_what_does_not_fit():
    with pytest.raises(InputError, match="at least 2"):
        gram.covariance(gram.finish(gram.gram(values()[:1])))
    with pytest.raises(InputError, match="no cells"):
        gram.second_moment(gram.finish(gram.empty_gram(3)))
    with pytest.raises(InputError, match="columns"):
        gram.gram_update(gram.empty_gram(3), values())
    with pytest.raises(InputError, match="genes"):
        gram.project(values(), np.ones((3, 2)))
    with pytest.raises(InputError, match="dtype"):
        gram.gram(values(), np.int32)
