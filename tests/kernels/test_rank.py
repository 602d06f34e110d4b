from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.kernels.moments import moments
from sc_dask.kernels.rank import benjamini_hochberg, t_test

GROUPS = np.repeat([0, 1, 2, 3], [40, 25, 12, 3]).astype(np.int32)


def data(base: float | None = None) -> ad.AnnData:
    rng = np.random.default_rng(5)
    x = rng.poisson(rng.gamma(0.5, 2, 40) * (1 + (GROUPS[:, None] == np.arange(40) % 4)), (80, 40)).astype(np.float64)
    x[:, 0] = 0
    a = ad.AnnData(sp.csr_matrix(x))
    a.var_names = [f"g{i}" for i in range(40)]
    a.obs["group"] = pd.Categorical.from_codes(GROUPS, list("abcd"))
    sc.pp.log1p(a, base=base)
    return a


@pytest.mark.parametrize("method", ["t-test", "t-test_overestim_var"])
@pytest.mark.parametrize("corr_method", ["benjamini-hochberg", "bonferroni"])
@pytest.mark.parametrize("reference", ["rest", "b"])
@pytest.mark.parametrize("base", [None, 2.0])
def test_t_test__equals_scanpy(method, corr_method, reference, base):
    a = data(base)
    sc.tl.rank_genes_groups(a, "group", method=method, corr_method=corr_method, reference=reference, pts=True)
    r = t_test(moments(a.X, GROUPS, 4), None if reference == "rest" else 1, method, corr_method, base=base)
    for g, scores, pvals, adj, changes, pts in zip(
        r.groups, r.scores, r.pvals, r.pvals_adj, r.logfoldchanges, r.pts, strict=True
    ):
        name = "abcd"[g]
        want = sc.get.rank_genes_groups_df(a, name).set_index("names").loc[a.var_names]
        np.testing.assert_allclose(scores, want["scores"], rtol=1e-5)
        np.testing.assert_allclose(pvals, want["pvals"], rtol=1e-5)
        np.testing.assert_allclose(adj, want["pvals_adj"], rtol=1e-5)
        np.testing.assert_allclose(changes, want["logfoldchanges"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(pts, a.uns["rank_genes_groups"]["pts"][name])
        if reference == "rest":
            rest = r.pts_rest[list(r.groups).index(g)]
            np.testing.assert_allclose(rest, a.uns["rank_genes_groups"]["pts_rest"][name])
    assert r.groups.tolist() == ([0, 1, 2, 3] if reference == "rest" else [0, 2, 3])


def test_t_test__genes_without_variance_have_score_0():
    x = data().X.toarray()
    x[:, 1] = 0.7  # scanpy's variance of it is rounding noise, and so is its p-value
    r = t_test(moments(x, GROUPS, 4))
    assert (r.scores[:, :2] == 0).all()
    assert (r.pvals[:, :2] == 1).all()
    assert np.isfinite(r.logfoldchanges).all()


def test_t_test__rest_keeps_small_differences_at_large_means():
    x = 1e6 + np.random.default_rng(0).integers(0, 3, (80, 1)).astype(float)
    m = moments(x, GROUPS, 4)
    r = t_test(m, groups=[2])
    from scipy.stats import ttest_ind

    want = ttest_ind(x[GROUPS == 2], x[GROUPS != 2], equal_var=False)
    np.testing.assert_allclose(r.scores[0], want.statistic, rtol=1e-8)
    np.testing.assert_allclose(r.pvals[0], want.pvalue, rtol=1e-8)


def test_t_test__subset_of_groups_keeps_the_whole_rest():
    m = moments(data().X, GROUPS, 4)
    some, everything = t_test(m, groups=[2, 0]), t_test(m)
    np.testing.assert_array_equal(some.scores, everything.scores[[2, 0]])


def test_benjamini_hochberg__equals_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).random((3, 50)) ** 3
    p[1, :5], p[2] = 0, 1
    for got, row in zip(benjamini_hochberg(p), p, strict=True):
        np.testing.assert_allclose(got, multipletests(row, method="fdr_bh")[1], rtol=1e-14)


def test_t_test__refuses_what_cannot_be_tested():
    x = data().X
    m = moments(x, GROUPS, 5)
    with pytest.raises(InputError, match="fewer than two"):
        t_test(m)
    with pytest.raises(InputError, match="fewer than two"):
        t_test(m, reference=4, groups=[0])
    with pytest.raises(InputError, match="all cells"):
        t_test(moments(x))
    with pytest.raises(InputError, match="method"):
        t_test(m, method="wilcoxon")
    with pytest.raises(InputError, match="corr_method"):
        t_test(m, corr_method="none")
    with pytest.raises(InputError, match="codes"):
        t_test(m, groups=[7])
    with pytest.raises(InputError, match="at least one"):
        t_test(m, reference=0, groups=[0])
