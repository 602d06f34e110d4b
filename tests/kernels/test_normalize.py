from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.kernels import normalize
from sc_dask.kernels.csr import to_dense


def counts(dtype=np.float32) -> np.ndarray:
    rng = np.random.default_rng(2)
    x = rng.poisson(rng.gamma(0.3, 3, 50), (30, 50))
    x[0, 3], x[1, 4], x[2, 5] = 63, 64, 900_000 if np.dtype(dtype).itemsize > 2 else 60_000
    return x.astype(dtype)


def as_block(x: np.ndarray, kind: str):
    return sp.csr_matrix(x) if kind == "csr" else x


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("base", [None, 2.0])
def test_normalize_log1p__equals_scanpy_and_the_two_steps(kind, dtype, base):
    x = counts(dtype)
    b = as_block(x, kind)
    a = ad.AnnData(as_block(x.astype(np.float64 if dtype == np.float64 else np.float32), kind))
    factors = 1e4 / x.sum(axis=1, dtype=np.float64)
    sc.pp.normalize_total(a, target_sum=1e4)
    scaled = normalize.scale_rows(b, factors)
    want = np.float64 if dtype == np.float64 else np.float32
    assert scaled.dtype == want
    np.testing.assert_allclose(to_dense(scaled), to_dense(a.X), rtol=1e-6)
    sc.pp.log1p(a, base=base)
    for got in (normalize.log1p(scaled, base), normalize.normalize_log1p(b, factors, base)):
        assert got.dtype == want
        np.testing.assert_allclose(to_dense(got), to_dense(a.X), rtol=1e-6)
    np.testing.assert_array_equal(to_dense(b), x)


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_normalize_log1p__values_between_and_below_integers(kind):
    x = np.array([[0.5, 63.999, 64.5, 0], [-0.25, 1, 1, 1e6]])
    factors = np.array([2.0, 3.0])
    got = normalize.normalize_log1p(as_block(x, kind), factors)
    np.testing.assert_allclose(to_dense(got), np.log1p(x * factors[:, None]), rtol=1e-12)


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_log1p__of_integers_is_float32(kind):
    x = counts(np.uint8)
    got = normalize.log1p(as_block(x, kind))
    assert got.dtype == np.float32
    np.testing.assert_allclose(to_dense(got), np.log1p(x.astype(np.float64)), rtol=1e-6)


def test_scale_rows__dtype_is_kept_to():
    assert normalize.scale_rows(counts(), np.ones(30), np.float64).dtype == np.float64
    with pytest.raises(InputError, match="int32"):
        normalize.scale_rows(counts(), np.ones(30), np.int32)
    with pytest.raises(InputError, match="factors"):
        normalize.scale_rows(counts(), np.ones(29))


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_highly_expressed__equals_scanpy(kind):
    x = counts()
    x[7] = 0
    totals = x.sum(axis=1, dtype=np.float64)
    dominant = normalize.highly_expressed(as_block(x, kind), totals, 0.2)
    np.testing.assert_array_equal(dominant, (x > 0.2 * totals[:, None]).any(axis=0))
    assert 0 < dominant.sum() < 50
    rest = normalize.row_totals_where(as_block(x, kind), ~dominant)
    np.testing.assert_array_equal(rest, x[:, ~dominant].sum(axis=1))
    a = ad.AnnData(x.copy())
    sc.pp.normalize_total(a, target_sum=100, exclude_highly_expressed=True, max_fraction=0.2)
    factors = np.divide(100, rest, out=np.ones(30), where=rest > 0)
    got = normalize.scale_rows(as_block(x, kind), factors)
    np.testing.assert_allclose(to_dense(got)[rest > 0], a.X[rest > 0], rtol=1e-6)
