from __future__ import annotations

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
    merged = updated = gram.empty_gram(25)
    for p in parts:
        before = merged.gram.copy(), merged.sums.copy()
        merged_next = gram.merge_gram(merged, gram.gram(p, np.float64))
        updated = gram.gram_update(updated, p, np.float64)
        np.testing.assert_array_equal(merged.gram, before[0])
        np.testing.assert_array_equal(merged.sums, before[1])
        merged = merged_next
    for state in (merged, updated):
        assert state.n == 90
        np.testing.assert_allclose(gram.covariance(state), gram.covariance(whole), rtol=1e-9, atol=1e-10)


def test_gram_update__leaves_its_input_alone():
    x = values()
    state = gram.gram(x[:40])
    kept = state.gram.copy(), state.sums.copy()
    gram.gram_update(state, x[40:])
    np.testing.assert_array_equal(state.gram, kept[0])
    np.testing.assert_array_equal(state.sums, kept[1])


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
        gram.covariance(gram.gram(values()[:1]))
    with pytest.raises(InputError, match="no cells"):
        gram.second_moment(gram.empty_gram(3))
    with pytest.raises(InputError, match="columns"):
        gram.gram_update(gram.empty_gram(3), values())
    with pytest.raises(InputError, match="genes"):
        gram.project(values(), np.ones((3, 2)))
    with pytest.raises(InputError, match="dtype"):
        gram.gram(values(), np.int32)
