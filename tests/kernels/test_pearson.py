from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.kernels import pearson as kernel

KINDS: dict[str, Any] = {"sparse": sp.csr_matrix, "dense": np.asarray}
N, P = 60, 25
RNG = np.random.default_rng(0)
X = RNG.poisson(RNG.lognormal(0, 1.5, P), (N, P)).astype(np.float32)
X[7], X[:, 4] = 0, 0
TOTALS, GENES = X.sum(axis=1, dtype=np.float64), X.sum(axis=0, dtype=np.float64)


def by_numpy(theta: float, clip: float) -> np.ndarray:
    mu = np.outer(TOTALS, GENES) / X.sum(dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.clip(np.nan_to_num((X - mu) / np.sqrt(mu + mu**2 / theta)), -clip, clip)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("theta", "clip"), [(100.0, np.sqrt(N)), (1.0, 0.7), (np.inf, np.inf), (100.0, 0.0)])
def test_residuals__are_the_formula(kind: str, theta: float, clip: float) -> None:
    options = {"gene_totals": GENES, "total": float(GENES.sum()), "theta": theta, "clip": clip}
    found = kernel.residuals(KINDS[kind](X), TOTALS, **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_numpy(theta, clip), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("theta", "clip"), [(100.0, np.sqrt(N)), (1.0, 0.7)])
@pytest.mark.parametrize("n_genes", [1000, 4])
def test_sums__of_zeros_and_changes_are_those_of_all(kind: str, theta: float, clip: float, n_genes: int) -> None:
    share = GENES / GENES.sum()
    distinct, n_cells = np.unique(TOTALS, return_counts=True)
    zeros = kernel.sums_of_zeros(distinct, n_cells, share, theta, clip, n_genes)
    groups = np.zeros(N, np.int32)
    changed = kernel.changes(
        KINDS[kind](X), TOTALS, groups, share=share[None, :], theta=theta, clip=np.array([clip])
    )  # fmt: skip
    sums, squares = (z + c[0] for z, c in zip(zeros, changed, strict=True))
    wanted = by_numpy(theta, clip)
    np.testing.assert_allclose(sums, wanted.sum(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(squares, (wanted**2).sum(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(kernel.variance(N, sums, squares), wanted.var(axis=0), rtol=1e-9, atol=1e-9)


def test_check_model__refuses_what_is_none() -> None:
    for theta in (0, -1, np.nan):
        with pytest.raises(InputError, match=f"theta={theta}"):
            kernel.check_model(theta, None)
    with pytest.raises(InputError, match="clip=-1"):
        kernel.check_model(100, -1)
    kernel.check_model(np.inf, np.inf)
