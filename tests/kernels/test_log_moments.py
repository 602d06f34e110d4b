from __future__ import annotations

import math

import numba
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.kernels.log_moments import LogSums, absorb, copied, empty, finish, merge
from sc_dask.kernels.moments import Moments, moments
from sc_dask.kernels.normalize import normalize_log1p


def counts(dtype=np.uint16, n_obs: int = 60) -> sp.csr_matrix:
    rng = np.random.default_rng(3)
    x = rng.poisson(rng.gamma(0.4, 3, 20), (n_obs, 20)).astype(np.float64)
    x[:, 0], x[:, 1], x[3, 2] = 0, 70 + np.arange(n_obs) % 3, 60_000  # never there; always; beyond any table
    out = sp.csr_matrix(x.astype(dtype))
    out.data[4] = 0  # stored zeros are zeros
    out.indices, out.indptr = out.indices.astype(np.int32), out.indptr.astype(np.int32)
    return out


def factors(x: sp.csr_matrix) -> np.ndarray:
    return 1e4 / np.asarray(x.sum(axis=1), np.float64).ravel()


def log_sums(x: sp.csr_matrix, f: np.ndarray, groups=None, n_groups: int = 1, **how) -> LogSums:
    return absorb(empty(n_groups, x.shape[1]), x, f, groups, **how)


@numba.njit
def _expm1(x):
    out = np.empty_like(x)
    for k in range(len(x)):
        out[k] = math.expm1(x[k])
    return out


def undone(block: sp.csr_matrix, base: float | None = None) -> sp.csr_matrix:
    """Return ``expm1`` by the C library, as kernels have it: numpy's of float32 differs from processor to processor."""
    out = block.copy()
    if base is not None:
        out.data[:] = out.data * np.float64(np.log(base))
    out.data = _expm1(out.data)
    np.testing.assert_allclose(out.data, np.expm1(block.data * (1 if base is None else np.log(base))), rtol=3e-6)
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize(("expm1", "expm1_base"), [(False, None), (True, None), (True, 2.0)])
@pytest.mark.parametrize("base", [None, 2.0])
def test_log_sums__equal_the_steps_in_a_row(dtype, expm1, expm1_base, base):
    x = counts(np.float64 if dtype == np.uint8 else dtype)
    x = x.minimum(200).astype(dtype) if dtype == np.uint8 else x
    f = factors(x)
    groups = (np.arange(60) % 4 - 1).astype(np.int32)
    block = normalize_log1p(x, f, base)
    want = moments(undone(block, expm1_base) if expm1 else block, groups, 3)
    options = {"n_groups": 3, "base": base, "expm1": expm1, "expm1_base": expm1_base}
    at_once = log_sums(x, f, groups, **options)
    first, second = (log_sums(x[part], f[part], groups[part], **options) for part in (slice(0, 7), slice(7, 60)))
    for found in (at_once, merge(first, second), merge(second, first)):
        assert_moments(finish(found), want)


def assert_moments(found: Moments, want: Moments) -> None:
    np.testing.assert_array_equal(found.n, want.n)
    np.testing.assert_array_equal(found.nnz, want.nnz)
    np.testing.assert_allclose(found.mean, want.mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.m2, want.m2, rtol=1e-9, atol=1e-12)


def test_log_sums__nearly_constant_gene_keeps_its_variance():
    n = 400
    x = sp.csr_matrix(np.column_stack([np.full(n, 50_000), np.full(n, 7)]).astype(np.uint16))
    f = 1 + 1e-7 * np.arange(n)
    block = normalize_log1p(x, f, dtype=np.float64)
    got = finish(log_sums(x.astype(np.float64), f))
    # variance 1e-10 about a mean of 10: sums of squares alone would have lost it
    np.testing.assert_allclose(got.m2, moments(block).m2, rtol=1e-6)


def test_absorb__groups_that_are_new_and_groups_that_are_gone():
    x = counts(n_obs=90)
    f = factors(x)
    groups = np.repeat([0, 1, 0], 30).astype(np.int32)
    options = {"expm1": True}
    state = log_sums(x[:30], f[:30], groups[:30], 3, **options)
    before = copied(state)
    for lo, hi in ((30, 60), (60, 60), (60, 90)):
        state = absorb(state, x[lo:hi], f[lo:hi], groups[lo:hi], **options)
    assert np.array_equal(before.n, [30, 0, 0]) and not before.sums[1].any()  # the copy stays as it was
    want = moments(undone(normalize_log1p(x, f)), groups, 3)
    got = finish(state)
    assert_moments(got, want)
    np.testing.assert_array_equal(got.n, [60, 30, 0])
    assert not got.m2[2].any() and not got.mean[2].any()
