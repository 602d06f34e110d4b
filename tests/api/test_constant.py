"""Genes with the same value in all cells: in float64 rounding leaves a variance of 1e-31, which is no signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.graph import scrublet as engine
from sc_dask.testing import lazy

N_OBS, N_VARS = 900, 40
SAME = {0: 1.7, 1: np.log1p(3.0), 2: 0.1, 3: 300 / 7, 4: 0.0}  # places of the genes and their values
KINDS: dict[str, Callable[[Any], Any]] = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}


def constant(kind: str = "csr", dtype: str = "f8", is_lazy: bool = True) -> ad.AnnData:
    rng = np.random.default_rng(1)
    x = np.log1p(rng.poisson(rng.gamma(1, 1, N_VARS), (N_OBS, N_VARS)).astype(np.float64))
    for gene, value in SAME.items():
        x[:, gene] = value
    obs = {"half": pd.Categorical(np.where(np.arange(N_OBS) % 3 == 0, "u", "w")), "noise": rng.normal(size=N_OBS)}
    obs["tenth"] = x[:, 10]
    obs["part"] = np.arange(N_OBS) % 7 > 0
    adata = ad.AnnData(KINDS[kind](x.astype(dtype)), pd.DataFrame(obs, np.arange(N_OBS).astype(str)))
    return lazy(adata, 5) if is_lazy else adata


def dense(adata: ad.AnnData) -> np.ndarray:
    x = adata.X.compute() if hasattr(adata.X, "compute") else adata.X
    return x.toarray() if sp.issparse(x) else np.asarray(x)


@pytest.mark.parametrize("is_lazy", [True, False], ids=["lazy", "memory"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("kind", KINDS)
def test_constant_genes__are_zero_when_scaled(kind: str, dtype: str, is_lazy: bool) -> None:
    same = list(SAME)
    for options in ({}, {"mask_obs": "part"}):
        adata = constant(kind, dtype, is_lazy)
        sd.pp.scale(adata, **options)
        std = adata.var[" ".join(["std", *(["of part"] if options else [])])]
        assert (std.iloc[same] == 1).all()
        rows = adata.obs["part"].to_numpy() if options else slice(None)
        assert not dense(adata)[rows][:, same].any()
        sd.pp.scale(adata, **options)  # rounding errors do not grow
        assert not dense(adata)[rows][:, same].any()
    adata, before = constant(kind, dtype, is_lazy), constant(kind, dtype)
    sd.pp.scale(adata, zero_center=False)
    np.testing.assert_allclose(dense(adata)[:, same], dense(before)[:, same])


@pytest.mark.parametrize("is_lazy", [True, False], ids=["lazy", "memory"])
@pytest.mark.parametrize("keys", [["half"], ["noise"], ["tenth"], ["noise", "tenth"]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_constant_genes__and_explained_ones_have_no_residuals(kind: str, keys: list[str], is_lazy: bool) -> None:
    gone = [*SAME, *([10] if "tenth" in keys else [])]
    adata = constant(kind, is_lazy=is_lazy)
    sd.pp.regress_out(adata, keys)
    assert not dense(adata)[:, gone].any()
    sd.pp.scale(adata)
    x = dense(adata)
    assert not x[:, gone].any() and (adata.var["std"].iloc[gone] == 1).all()
    others = np.setdiff1d(np.arange(N_VARS), gone)
    np.testing.assert_allclose(x[:, others].std(axis=0, ddof=1), 1, rtol=1e-9)
    sd.pp.regress_out(adata, ["noise"])
    sd.pp.pca(adata, n_comps=5)
    assert not dense(adata)[:, gone].any()
    np.testing.assert_allclose(adata.varm["PCs"][gone], 0, atol=1e-12)


@pytest.mark.parametrize("batch_key", [None, "half"])
def test_constant_genes__are_not_highly_variable(batch_key: str | None) -> None:
    for kind in KINDS:
        adata = constant(kind)
        sd.pp.highly_variable_genes(adata, batch_key=batch_key, n_top_genes=N_VARS - len(SAME))
        assert not adata.var["highly_variable"].iloc[list(SAME)].any()
        sd.pp.highly_variable_genes(adata, batch_key=batch_key, min_disp=-np.inf, max_mean=np.inf)
        norm = adata.var["dispersions_norm"].iloc[list(SAME)]
        assert (norm.isna() | (norm == 0)).all() and adata.var["highly_variable"].sum() > 5


def test_constant_genes__of_equal_counts_are_not_highly_variable() -> None:
    """A gene with the same share of equal cells: its logarithms are made while X is read."""
    rng = np.random.default_rng(0)
    x = rng.multinomial(900, rng.dirichlet(np.ones(39)), 300).astype(np.float64)
    adata = lazy(ad.AnnData(sp.csr_matrix(np.column_stack([np.full(300, 100.0), x]))), 4)
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata, n_top_genes=30)
    assert not adata.var["highly_variable"].iloc[0] and np.isnan(adata.var["dispersions_norm"].iloc[0])


def test_constant_genes__differ_between_no_groups() -> None:
    for kind in KINDS:
        adata = constant(kind)
        for method in ("t-test", "t-test_overestim_var", "wilcoxon"):
            sd.tl.rank_genes_groups(adata, "half", method=method)
            table = sd.get.rank_genes_groups_df(adata, "u").set_index("names").loc[[str(g) for g in SAME]]
            assert (table["scores"] == 0).all() and (table["pvals"] == 1).all()
        sd.pp.combat(adata, "half")
        np.testing.assert_allclose(dense(adata)[:, list(SAME)], [list(SAME.values())] * N_OBS)


def test_constant_genes__have_variance_zero_in_groups() -> None:
    for kind in KINDS:
        found = sd.get.aggregate(constant(kind), "half", ["var", "mean"])
        assert not found.layers["var"][:, list(SAME)].any()
        x = dense(constant(kind))[np.arange(N_OBS) % 3 == 0]
        np.testing.assert_allclose(found["u"].layers["var"][0], x.var(axis=0, ddof=1), rtol=1e-9, atol=1e-12)


def test_constant_genes__have_no_part_in_doublet_scores() -> None:
    observed = sp.csr_matrix(dense(constant()))
    options = engine.ScrubletOptions(0.05, "euclidean", True, True, 5, False, False, None, 0.3, 0)
    basis, _ = engine._basis(observed, options)
    assert not basis[list(SAME)].any() and basis.any()
