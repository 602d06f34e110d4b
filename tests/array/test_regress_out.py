from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.array import spill
from sc_dask.array.blocks import RowBlocks
from sc_dask.array.expr import ColumnSelection
from sc_dask.array.pca import incremental, krylov
from sc_dask.array.pca import solvers as pca
from sc_dask.array.regress_out import regressed
from sc_dask.array.scale import mean_and_std, scaled
from sc_dask.errors import InputError
from sc_dask.kernels.regress_out import orthonormal
from sc_dask.testing import compute_counter, lazy, source_of

N, P, K = 300, 40, 6
RNG = np.random.default_rng(0)
X = (RNG.poisson(2.0, (N, P)) * (RNG.random((N, P)) < 0.4)).astype(np.float32)
X[:, 3] = 0
COVARIATES = np.column_stack([1e5 + 100 * RNG.normal(size=N), X.sum(axis=1)])
CODES = RNG.integers(0, 4, N).astype(np.int32)
KEPT = RNG.random(N) < 0.7
KINDS: dict[str, Any] = {"sparse": sp.csr_matrix, "dense": np.asarray}
NONE = np.empty((N, 0))


def numeric(x: RowBlocks) -> RowBlocks:
    return regressed(x, orthonormal(COVARIATES, ["a", "b"]), None, 1)


def categorical(x: RowBlocks) -> RowBlocks:
    return regressed(x, NONE, CODES, 4)


def residuals(x: np.ndarray, by: Callable[..., RowBlocks]) -> np.ndarray:
    x = x.astype(np.float64)
    if by is categorical:
        return x - np.stack([x[g == CODES].mean(axis=0) for g in range(4)])[CODES]
    a = np.column_stack([np.ones(N), COVARIATES])
    return x - a @ np.linalg.lstsq(a, x, rcond=None)[0]


def standardised(x: np.ndarray, max_value: float | None) -> np.ndarray:
    std = x.std(axis=0, ddof=1)
    out = (x - x.mean(axis=0)) / np.where(std < 1e-9, 1, std)
    return out if max_value is None else np.clip(out, -max_value, max_value)


def assert_principal(found: pca.PCA, x: np.ndarray, center: bool, tol: float = 1e-6) -> None:
    x = x - x.mean(axis=0) if center else x
    _, s, vt = np.linalg.svd(x, full_matrices=False)
    cosines = (found.components * vt[:K]).sum(axis=1)
    assert np.abs(cosines).min() > 1 - tol
    np.testing.assert_allclose(found.scores * np.sign(cosines), x @ vt[:K].T, atol=30 * tol)
    variance = s[:K] ** 2 / (len(x) - 1) if center else (x @ vt[:K].T).var(axis=0)
    np.testing.assert_allclose(found.variance, variance, rtol=10 * tol)


@pytest.mark.parametrize("by", [numeric, categorical])
@pytest.mark.parametrize("kind", KINDS)
def test_regressed__is_least_squares(kind: str, by: Callable[..., RowBlocks]) -> None:
    x = lazy(KINDS[kind](X), 5)
    z, wanted = by(x), residuals(X, by)
    assert source_of(x).passes == 1 and z.dtype == np.float32 and isinstance(z._meta, np.ndarray)
    np.testing.assert_allclose(z.compute(scheduler="sync"), wanted, atol=1e-6)
    np.testing.assert_allclose(z[KEPT][:, [7, 2]].compute(scheduler="sync"), wanted[KEPT][:, [7, 2]], atol=1e-6)
    source_of(x).forget()
    mean, std = mean_and_std(z)
    assert source_of(x).passes == 0  # known since the regression
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    assert std[3] == 0  # the gene that nobody has
    np.testing.assert_allclose(np.delete(std, 3), np.delete(wanted.std(axis=0, ddof=1), 3), rtol=1e-6)


@pytest.mark.parametrize("by", [numeric, categorical])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_value", [None, 1.5], ids=["linear", "cut"])
@pytest.mark.parametrize("zero_center", [True, False])
def test_exact__of_residuals_is_the_svd(
    kind: str, by: Callable[..., RowBlocks], max_value: float | None, zero_center: bool
) -> None:
    z, wanted = by(lazy(KINDS[kind](X), 5)), residuals(X, by)
    for rows in (np.ones(N, bool), KEPT):  # the second: not those that the regression saw
        picked, values = z[rows], standardised(wanted[rows], max_value)
        y = scaled(picked, *mean_and_std(picked), max_value=max_value)
        np.testing.assert_allclose(y.compute(scheduler="sync"), values, atol=1e-6)
        before = source_of(y).rows_read
        assert_principal(pca.exact(y, K, zero_center=zero_center, dtype=np.float64), values, zero_center)
        assert source_of(y).rows_read - before <= N


@pytest.mark.parametrize("max_value", [None, 1.5], ids=["linear", "cut"])
def test_exact__one_pass_where_nothing_is_laid_aside_two(max_value: float | None, monkeypatch: Any) -> None:
    values = standardised(residuals(X, numeric), max_value)
    z = numeric(lazy(sp.csr_matrix(X), 5))
    y = scaled(z, *mean_and_std(z), max_value=max_value)
    for aside, passes in ((True, 1), (False, 2)):
        monkeypatch.setattr(spill, "possible", lambda x, aside=aside: aside)
        source_of(y).forget()
        assert_principal(pca.exact(y, K, dtype=np.float64), values, True)
        assert source_of(y).passes == passes


@pytest.mark.parametrize("max_value", [None, 3.0], ids=["linear", "cut"])
def test_other_solvers__take_residuals_too(max_value: float | None) -> None:
    z = numeric(lazy(sp.csr_matrix(X), 5))
    y = scaled(z, *mean_and_std(z), max_value=max_value)
    values = standardised(residuals(X, numeric), max_value)
    assert_principal(krylov.randomized(y, K, dtype=np.float64), values, True)
    assert_principal(incremental.incremental(y, K, chunk_size=100, dtype=np.float64), values, True)


def test_corrected__large_means_cost_no_digits() -> None:
    far = X.astype(np.float64) + 1e5
    z = numeric(lazy(far, 5))
    y = scaled(z, *mean_and_std(z))
    values = standardised(residuals(X, numeric), None)
    values[:, 3] = y.compute(scheduler="sync")[:, 3]  # the gene that nobody has: what rounding left of a constant
    assert_principal(pca.exact(y, K, dtype=np.float64), values, True, tol=1e-5)


def test_corrected__linear_steps_become_one() -> None:
    z = categorical(numeric(lazy(sp.csr_matrix(X), 3)))
    y = scaled(z, *mean_and_std(z))
    assert len(y.expression.steps) == 1
    again = categorical(y)  # groups twice: two steps
    assert len(again.expression.steps) == 2
    wanted = residuals(standardised(residuals(residuals(X, numeric), categorical), None), categorical)
    np.testing.assert_allclose(again.compute(scheduler="sync"), wanted, atol=2e-6)
    assert_principal(pca.exact(again, K, dtype=np.float64), wanted, True, tol=1e-5)


def test_blocks__stay_within_the_budget_and_come_back() -> None:
    with dask.config.set({"sc-dask.block-bytes": 20 * P * 4}):  # 20 dense rows
        x = lazy(sp.csr_matrix(X), bounds=[0, 0, 130, 300])
        z = numeric(x)
        assert max(z.chunks[0]) <= 20 and sum(z.chunks[0]) == N
        few = z[:, [1, 5]]
        assert isinstance(few.expression.steps[0], ColumnSelection)  # so only two genes are corrected
        assert few.chunks[0] == (0, 130, 170)
        assert z[KEPT].expression.coarse is not None and max(z[KEPT].chunks[0]) <= 20
        np.testing.assert_allclose(few.compute(scheduler="sync"), z.compute(scheduler="sync")[:, [1, 5]], atol=1e-7)
        source_of(x).forget()
        with compute_counter() as counted:
            pca.exact(scaled(z, *mean_and_std(z), max_value=2.0), K)
        assert source_of(x).reads.keys() == {(0, 0), (0, 130), (130, 300)} and counted.n == 2


def test_regressed__refuses_what_is_not_finite() -> None:
    x = X.copy()
    x[4, 4] = np.nan
    for by in (numeric, categorical):
        with pytest.raises(InputError, match="X holds NaN or infinite values"):
            by(lazy(sp.csr_matrix(x)))
    with pytest.raises(InputError, match="X holds NaN or infinite values"):
        mean_and_std(lazy(sp.csr_matrix(x)))
