from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.array import hvg, normalize
from sc_dask.array.blocks import from_array
from sc_dask.kernels.moments import moments
from sc_dask.kernels.normalize import normalize_log1p
from tests.kernels.test_log_moments import undone


def counts() -> sp.csr_matrix:
    rng = np.random.default_rng(0)
    return sp.csr_matrix(rng.poisson(rng.gamma(0.5, 2, 30), (80, 30)).astype(np.uint16))


@pytest.mark.parametrize("n_kept", [30, 25, 10], ids=["all genes", "most", "few"])
@pytest.mark.parametrize("n_groups", [1, 3])
def test_group_moments__straight_from_counts(n_kept, n_groups):
    x, kept = counts(), np.sort(np.random.default_rng(1).permutation(30)[:n_kept])
    groups = None if n_groups == 1 else (np.arange(80) % n_groups).astype(np.int32)
    lazy = from_array(x).rebounded(np.array([0, 7, 7, 50, 80])).select_columns(kept)
    lazy = normalize.log1p(normalize.normalize(lazy, normalize.totals_of(lazy), 1e3), None)
    got = hvg.group_moments(lazy, groups, n_groups, expm1=True)
    totals = np.asarray(x[:, kept].sum(axis=1), np.float64).ravel()
    want = moments(undone(normalize_log1p(x[:, kept], normalize.factors(totals, 1e3))), groups, n_groups)
    np.testing.assert_allclose(got.mean, want.mean, rtol=1e-12)
    np.testing.assert_allclose(got.m2, want.m2, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(got.nnz, want.nnz)
    # the pass has learnt the cells' sums, of the genes that stay: the next choice of genes may move before them
    np.testing.assert_array_equal(lazy.expression.steps[-1].rows[0].values, totals)
    assert len(lazy.select_columns(np.arange(3)).expression.steps) == 2


def test_group_moments__picked_rows_take_their_sums_along():
    x = counts()
    lazy = normalize.log1p(normalize.normalize(from_array(x), normalize.totals_of(from_array(x)), 1e3), None)
    rows = np.arange(5, 77, 2)
    got = hvg.group_moments(lazy.select_rows(rows))
    block = normalize_log1p(x[rows], normalize.factors(np.asarray(x[rows].sum(axis=1)).ravel(), 1e3))
    np.testing.assert_allclose(got.mean, moments(block).mean, rtol=1e-12)
