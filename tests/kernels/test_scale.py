from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.kernels.scale import scale_cols, scale_some
from tests.kernels.test_regress_out import KINDS, N, P, X

MASK = np.arange(N) % 3 > 0
MEAN, FACTOR = np.linspace(0, 2, P), np.linspace(0.5, 3, P)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_scale_cols__keeps_zeros(kind: str, masked: bool) -> None:
    block = KINDS[kind](X)
    found = scale_cols(block, *([MASK] if masked else []), factor=FACTOR, high=2.5)
    wanted = np.minimum(X * FACTOR, 2.5)
    wanted[~MASK & masked] = X[~MASK & masked]
    assert found.dtype == np.float32 and sp.issparse(found) == (kind == "sparse")
    np.testing.assert_allclose(found.toarray() if sp.issparse(found) else found, wanted, rtol=1e-6)
    if sp.issparse(found):
        assert np.array_equal(found.indices, block.indices) and np.array_equal(found.indptr, block.indptr)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", [MASK, np.zeros(N, bool), np.ones(N, bool)], ids=["some", "none", "all"])
def test_scale_some__leaves_the_others(kind: str, mask: np.ndarray) -> None:
    before = X.copy()
    found = scale_some(KINDS[kind](X), mask, mean=MEAN, factor=FACTOR, low=-1.0, high=1.0)
    wanted = np.where(mask[:, None], np.clip((X - MEAN) * FACTOR, -1, 1), X)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert np.array_equal(X, before)
