from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.kernels import regress_out as kernel

N, P, LEVELS = 70, 12, 3
KINDS: dict[str, Any] = {"sparse": sp.csr_matrix, "dense": np.asarray}
RNG = np.random.default_rng(0)
X = (RNG.poisson(2.0, (N, P)) * (RNG.random((N, P)) < 0.4)).astype(np.float32)
X[5], X[:, 4] = 0, 0
DESIGN = RNG.normal(size=(N, 2))
CODES = RNG.integers(0, LEVELS, N).astype(np.int32)
PARTS = {
    "levels": RNG.normal(size=(LEVELS, P)),
    "coefficients": RNG.normal(size=(2, P)),
    "factor": RNG.uniform(0.5, 2, P),
}


def by_numpy(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) - PARTS["levels"][CODES] - DESIGN @ PARTS["coefficients"]) * PARTS["factor"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bounds", [{}, {"low": -1.0, "high": 2.0}, {"high": 0.5}])
def test_correct__is_the_formula(kind: str, bounds: dict[str, float]) -> None:
    given = KINDS[kind](X)
    found = kernel.correct(given, DESIGN, CODES, **PARTS, **bounds)
    wanted = np.clip(by_numpy(X), bounds.get("low", -np.inf), bounds.get("high", np.inf))
    assert found.dtype == np.float32 and found.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert np.array_equal(given.toarray() if sp.issparse(given) else given, X)


@pytest.mark.parametrize("kind", KINDS)
def test_correct__double_stays_double_and_nan_stays_nan(kind: str) -> None:
    x = X.astype(np.float64)
    x[0, 0] = np.nan
    found = kernel.correct(KINDS[kind](x), DESIGN, CODES, **PARTS, low=-1.0, high=1.0)
    assert found.dtype == np.float64 and np.isnan(found[0, 0]) and np.isfinite(found.ravel()[1:]).all()
    np.testing.assert_allclose(found[1:], np.clip(by_numpy(x), -1, 1)[1:], rtol=1e-12, atol=1e-12)


def test_correct__no_rows() -> None:
    empty = sp.csr_matrix((0, P), dtype=np.float32)
    assert kernel.correct(empty, DESIGN[:0], CODES[:0], **PARTS).shape == (0, P)


@pytest.mark.parametrize("kind", KINDS)
def test_cross__is_sums_and_products(kind: str) -> None:
    found = kernel.cross(KINDS[kind](X), DESIGN, CODES, LEVELS)
    sums = np.stack([X[g == CODES].sum(axis=0, dtype=np.float64) for g in range(LEVELS)])
    np.testing.assert_allclose(found, np.vstack([sums, DESIGN.T @ X.astype(np.float64)]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_corrected_scores__are_those_of_the_corrected_block(kind: str) -> None:
    components = RNG.normal(size=(P, 4))
    along = PARTS["factor"][:, None] * components
    options = {"of_levels": PARTS["levels"] @ along, "of_design": PARTS["coefficients"] @ along}
    found = kernel.corrected_scores(KINDS[kind](X), DESIGN, CODES, basis=along, **options, dtype=np.float64)
    np.testing.assert_allclose(found, by_numpy(X) @ components, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "uint16", "int32", "bool"])
def test_float_of__is_scanpys(dtype: str) -> None:
    assert kernel.float_of(dtype) == np.float32
    assert kernel.float_of("int64") == kernel.float_of("float64") == np.float64


def test_orthonormal__spans_the_covariates_whatever_their_units() -> None:
    c = np.column_stack([1e9 + RNG.normal(size=N), 1e-9 * RNG.normal(size=N), RNG.integers(0, 2, N)])
    q = kernel.orthonormal(c, ["a", "b", "c"])
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(q.sum(axis=0), 0, atol=1e-12)
    centred = (c - c.mean(axis=0)) / c.std(axis=0)
    np.testing.assert_allclose(q @ (q.T @ centred), centred, atol=1e-6)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([DESIGN[:, 0], np.full(N, 0.1)], r"obs\['b'\] is the same in all cells"),
        ([DESIGN[:, 0], 3 - 2 * DESIGN[:, 0]], r"obs\['b'\] is collinear with 'a'"),
        ([DESIGN[:, 0], DESIGN[:, 1], DESIGN.sum(axis=1)], r"obs\['c'\] is collinear with 'a', 'b'"),
        ([np.zeros(N)], r"obs\['a'\] is the same"),
    ],
)
def test_orthonormal__names_what_adds_nothing(columns: list[np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kernel.orthonormal(np.column_stack(columns), list("abc"))
