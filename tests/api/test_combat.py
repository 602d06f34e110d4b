from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.testing import lazy, source_of


@pytest.fixture(scope="module")
def kang(data_dir: Path) -> ad.AnnData:
    """Every fifth of Kang's cells, with two covariates; genes that vary."""
    import scanpy as sc

    adata = ad.read_h5ad(data_dir / "kang" / "kang_12k_1287genes_counts.h5ad")[::5, ::2].copy()
    sc.pp.filter_genes(adata, min_cells=3)
    adata.obs["depth"] = np.log(np.asarray(adata.X.sum(axis=1)).ravel())
    adata.obs["noise"] = np.random.default_rng(0).normal(size=adata.n_obs)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    assert adata.obs["sample_id"].nunique() == 8
    adata.obs["sample_id"] = adata.obs["sample_id"].astype("category")
    return adata


@pytest.mark.parametrize("covariates", [None, ["depth", "noise"]])
def test_combat__equals_scanpy(kang: ad.AnnData, covariates: list[str] | None) -> None:
    import scanpy as sc

    expected = sc.pp.combat(kang.copy(), "sample_id", covariates=covariates, inplace=False)
    twin = lazy(kang, 5)
    x = sd.pp.combat(twin, "sample_id", covariates=covariates, inplace=False)
    assert source_of(twin).passes == 1
    found = x.compute()
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    some = x[:, [300, 5, 7]]
    np.testing.assert_array_equal(some.compute(), found[:, [300, 5, 7]])
    np.testing.assert_array_equal(x[3:400][:, ::50].compute(), found[3:400, ::50])


def small(n_obs: int = 120) -> ad.AnnData:
    rng = np.random.default_rng(0)
    batch, kind = np.arange(n_obs) % 3, rng.integers(3, size=n_obs)
    x = rng.normal(2, 1, (n_obs, 20)) + rng.normal(size=(3, 20))[batch] + rng.normal(size=(3, 20))[kind]
    obs = {"batch": batch, "kind": pd.Categorical.from_codes(kind, ["a", "b", "c"]), "flag": kind == 1}
    obs |= {"value": rng.normal(size=n_obs), "same": 1.0, "follows": batch * 2.0}
    return ad.AnnData(np.maximum(x, 0), pd.DataFrame(obs, index=[str(i) for i in range(n_obs)]))


def test_combat__categories_leave_one_out() -> None:
    """scanpy 1.11 gives every category a column: with the batches' they are dependent, and it inverts noise."""
    as_categories, as_numbers = small(), small()
    for k in "bc":
        as_numbers.obs[f"is_{k}"] = (as_numbers.obs["kind"] == k).astype(float)
    found = sd.pp.combat(as_categories, covariates=["kind", "value"], inplace=False)
    expected = sd.pp.combat(as_numbers, covariates=["value", "is_b", "is_c"], inplace=False)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    without = sd.pp.combat(small(), inplace=False)
    assert abs(found - without).max() > 0.1


def test_combat__one_gene_that_never_varies_does_not_end_the_search() -> None:
    """scanpy 1.11 divides 0 by 0 for such a gene, and NaN ends its loop after one round."""
    adata, more = small(), small()
    x = np.insert(more.X, 3, 0.1, axis=1)
    more = ad.AnnData(x, more.obs)
    expected = sd.pp.combat(adata, inplace=False)
    found = sd.pp.combat(more, inplace=False)
    np.testing.assert_allclose(np.delete(found, 3, axis=1), expected, rtol=1e-9)
    np.testing.assert_array_equal(found[:, 3], 0.1)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_combat__memory_becomes_dense(kind: Any) -> None:
    adata, twin = small(), lazy(small(), 4)
    adata.X = kind(adata.X)
    sd.pp.combat(adata)
    sd.pp.combat(twin)
    assert isinstance(adata.X, np.ndarray) and adata.X.dtype == np.float64
    assert isinstance(twin.X, RowBlocks)
    np.testing.assert_allclose(adata.X, twin.X.compute(), rtol=1e-10)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"key": "nothing"}, "no column 'nothing'"),
        ({"key": "same"}, "has 1 group.*at least 2"),
        ({"key": "single"}, "fewer than two cells: alone"),
        ({"key": "holes"}, "missing values"),
        ({"covariates": ["nothing"]}, "no column 'nothing'"),
        ({"covariates": ["batch"]}, "without the key"),
        ({"covariates": ["value", "value"]}, "different columns"),
        ({"covariates": "value"}, "different columns"),
        ({"covariates": ["holes"]}, "missing values"),
        ({"covariates": ["follows"]}, "follow from the batches"),
        ({"covariates": ["same"]}, "follow from the batches"),
        ({"covariates": ["kind", "flag"]}, "or from each other"),
    ],
    ids=str,
)
def test_combat__refuses_what_it_cannot_do(given: dict[str, Any], said: str) -> None:
    adata = small()
    adata.obs["single"] = ["alone", *["a", "b"] * 59, "a"]
    adata.obs["holes"] = [None, *["a", "b"] * 59, "a"]
    with pytest.raises(InputError, match=said):
        sd.pp.combat(adata, **given)


def test_combat__refuses_nan() -> None:
    adata = small()
    adata.X[3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        sd.pp.combat(adata)
    with pytest.raises(MissingKeyError):
        sd.pp.combat(adata, "nothing")


def test_combat__components_without_a_dense_matrix(kang: ad.AnnData) -> None:
    twin, dense = lazy(kang, 5), kang.copy()
    for adata in (twin, dense):
        sd.pp.combat(adata, "sample_id", covariates=["depth"])
        sd.pp.pca(adata, n_comps=10)
    assert source_of(twin.X).passes == 2  # moments, and what the components need
    a, b = (adata.obsm["X_pca"] for adata in (twin, dense))
    np.testing.assert_allclose(a, b, atol=1e-3 * abs(b).max())
