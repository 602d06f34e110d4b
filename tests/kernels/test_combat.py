from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.kernels.combat import Adjustment, adjust, fit, products
from sc_dask.kernels.moments import moments


def data(n: int = 90, p: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values with zeros, batches that differ in mean and spread, two covariates."""
    rng = np.random.default_rng(0)
    codes, covariates = rng.integers(3, size=n).astype(np.int32), rng.normal(size=(n, 2))
    x = rng.normal(2, 1, (n, p)) + rng.normal(size=(3, p))[codes] + covariates @ rng.normal(size=(2, p))
    return np.maximum(x * rng.uniform(0.5, 2, (3, p))[codes], 0), codes, covariates


def adjusted(x: np.ndarray, codes: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """ComBat as published, dense."""
    n, onehot = len(x), np.eye(codes.max() + 1)[codes]
    design = np.hstack([onehot, covariates])
    beta = np.linalg.lstsq(design, x, rcond=None)[0]
    grand, variance = (onehot.mean(axis=0) @ beta[: onehot.shape[1]]), ((x - design @ beta) ** 2).mean(axis=0)
    standing = grand + covariates @ beta[onehot.shape[1] :]
    s = (x - standing) / np.sqrt(variance)
    for b in range(onehot.shape[1]):
        own = s[codes == b]
        gamma, delta = own.mean(axis=0), own.var(axis=0, ddof=1)
        bars = np.stack([s[codes == c].mean(axis=0) for c in range(onehot.shape[1])])[b]
        m, v = delta.mean(), delta.var(ddof=1)
        g, d = gamma, delta
        for _ in range(100):
            g = (bars.var() * len(own) * gamma + d * bars.mean()) / (bars.var() * len(own) + d)
            squares = ((own - g) ** 2).sum(axis=0)
            d = (squares / 2 + (m * v + m**3) / v) / (len(own) / 2 + (2 * v + m**2) / v - 1)
        s[codes == b] = (own - g) / np.sqrt(d)
    assert n == len(s)
    return s * np.sqrt(variance) + standing


def fitted(x: np.ndarray, codes: np.ndarray, covariates: np.ndarray) -> Adjustment:
    means = np.stack([covariates[codes == b].mean(axis=0) for b in range(3)])
    centred = covariates - means[codes]
    squares = np.stack([centred[codes == b].T @ centred[codes == b] for b in range(3)])
    return fit(moments(x, codes, 3), products(x, centred, codes, 3), means, squares)


@pytest.mark.parametrize("n_covariates", [0, 2])
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_combat__equals_dense_numpy(n_covariates: int, kind: type) -> None:
    x, codes, covariates = data()
    covariates = np.ascontiguousarray(covariates[:, :n_covariates])
    a = fitted(kind(x), codes, covariates)
    found = adjust(kind(x), codes, covariates, factor=a.factor, offset=a.offset, coefficients=a.coefficients)
    expected = adjusted(x, codes, covariates)
    np.testing.assert_allclose(found, expected, atol=2e-3)  # it stops at a change of 1e-4
    assert abs(expected - x).max() > 1
    small = adjust(
        kind(x.astype(np.float32)), codes, covariates, factor=a.factor, offset=a.offset, coefficients=a.coefficients
    )
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, found, atol=1e-5)


def test_combat__products_of_sparse_and_dense_blocks() -> None:
    x, codes, covariates = data()
    expected = np.stack([covariates[codes == b].T @ x[codes == b] for b in range(3)])
    for block in (x, sp.csr_matrix(x)):
        np.testing.assert_allclose(products(block, covariates, codes, 3), expected, rtol=1e-12)


def test_combat__a_gene_that_does_not_vary_stays_and_has_no_say() -> None:
    x, codes, covariates = data()
    none = covariates[:, :0]
    more = np.insert(x, [4, 9], [[0.0, 3.0]], axis=1)
    whole, part = fitted(more, codes, none), fitted(x, codes, none)
    kept = np.delete(np.arange(more.shape[1]), [4, 10])
    np.testing.assert_allclose(whole.factor[:, kept], part.factor, rtol=1e-9)
    found = adjust(more, codes, none, factor=whole.factor, offset=whole.offset, coefficients=whole.coefficients)
    np.testing.assert_array_equal(found[:, [4, 10]], more[:, [4, 10]])


def test_combat__refuses_what_cannot_be_fitted() -> None:
    x, codes, covariates = data()
    with pytest.raises(InputError, match="1 genes vary"):
        fitted(x[:, :1], codes, covariates)
    x[3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        fitted(x, codes, covariates[:, :0])
