from __future__ import annotations

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.blocks import from_array
from sc_dask.errors import CountsWarning, InputError, MissingKeyError
from sc_dask.testing import lazy, source_of
from tests.laws.registry import N_OBS, N_VARS, counts


def scanpys(adata: ad.AnnData, **kwargs: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    import scanpy as sc

    return sc.pp.calculate_qc_metrics(adata, **kwargs)


def assert_tables(found: Any, expected: Any) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours.columns) == list(theirs.columns)
        assert ours.index.equals(theirs.index)
        for c in theirs:
            assert (ours[c].dtype.kind == "f") == (theirs[c].dtype.kind == "f"), c
            np.testing.assert_allclose(ours[c], theirs[c], rtol=1e-6, err_msg=c)


@pytest.mark.parametrize("log1p", [True, False])
@pytest.mark.parametrize(
    ("dtype", "percent_top"),
    [("float32", None), ("float32", (1, 60)), ("float32", (20, 5)), ("uint16", (20, 5)), ("int64", None)],
    ids=str,
)
def test_qc__columns_are_scanpys(log1p: bool, dtype: str, percent_top: Any) -> None:
    adata = counts()
    adata.X = adata.X.astype(dtype)
    kwargs = {"qc_vars": ["mt", "picked"], "percent_top": percent_top, "log1p": log1p}
    assert_tables(sd.pp.calculate_qc_metrics(lazy(adata), **kwargs), scanpys(adata, **kwargs))


def test_qc__names_are_made_of_the_types() -> None:
    kwargs = {"expr_type": "umis", "var_type": "features", "qc_vars": "mt", "percent_top": (3,)}
    assert_tables(sd.pp.calculate_qc_metrics(lazy(counts()), **kwargs), scanpys(counts(), **kwargs))


def test_qc__inplace_writes_what_is_returned_otherwise() -> None:
    adata = lazy(counts())
    obs, var = sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=(5,))
    assert not set(obs) & set(adata.obs)
    assert sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=(5,), inplace=True) is None
    pd.testing.assert_frame_equal(adata.obs[list(obs)], obs)
    pd.testing.assert_frame_equal(adata.var[list(var)], var)


def test_qc__a_layer_and_raw() -> None:
    adata = counts()
    adata.raw = adata.copy()
    adata.layers["double"] = adata.X * 2
    adata.X = adata.X * 3
    for kwargs, factor in (({"layer": "double"}, 2), ({"use_raw": True}, 1), ({}, 3)):
        obs, var = sd.pp.calculate_qc_metrics(adata, percent_top=None, **kwargs)
        np.testing.assert_array_equal(obs["total_counts"], adata.raw.X.sum(axis=1).A1 * factor)
        np.testing.assert_array_equal(var["total_counts"], adata.raw.X.sum(axis=0).A1 * factor)


def test_qc__what_it_learnt_is_not_read_again() -> None:
    adata = lazy(counts())
    sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    sd.pp.filter_cells(adata, min_genes=25)
    sd.pp.normalize_total(adata)
    assert source_of(adata).passes == 1


def test_qc__a_view_stays_lazy_and_becomes_actual() -> None:
    adata = lazy(counts())
    keep = np.arange(N_OBS) % 3 == 0
    view = adata[keep, :30]
    sd.pp.calculate_qc_metrics(view, percent_top=None, inplace=True)
    assert not view.is_view and "total_counts" not in adata.obs
    np.testing.assert_array_equal(view.obs["total_counts"], counts().X[keep, :30].sum(axis=1).A1)
    assert source_of(from_array(view.X)).times_read().max() == 1


def test_qc__empty_cells_and_genes_are_scanpys() -> None:
    adata = counts()
    x = adata.X.toarray()
    x[3], x[:, 4] = 0, 0
    adata.X = sp.csr_matrix(x)
    assert_tables(sd.pp.calculate_qc_metrics(lazy(adata), percent_top=(2,)), scanpys(adata, percent_top=(2,)))
    obs, _ = sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None)
    assert np.isnan(obs["pct_counts_mt"].iloc[3])


@pytest.mark.parametrize("tops", [(0,), (5, N_VARS + 1), (-1,)], ids=str)
def test_qc__percent_top_out_of_range(tops: Any) -> None:
    adata = lazy(counts())
    with pytest.raises(InputError, match="numbers from 1 to 60"):
        sd.pp.calculate_qc_metrics(adata, percent_top=tops)
    assert source_of(adata).rows_read == 0


def test_qc__gene_sets_must_be_boolean_columns() -> None:
    adata = lazy(counts())
    with pytest.raises(MissingKeyError, match="no column 'ribo' in adata.var; expected one of: mt, picked"):
        sd.pp.calculate_qc_metrics(adata, qc_vars=["ribo"], percent_top=None)
    adata.var["number"] = 1
    with pytest.raises(InputError, match="of type int64; expected a boolean column"):
        sd.pp.calculate_qc_metrics(adata, qc_vars=["number"], percent_top=None)
    assert source_of(adata).rows_read == 0


def test_qc__raw_with_other_genes() -> None:
    adata = counts()
    adata.raw = adata.copy()
    adata = adata[:, :40].copy()
    obs, var = sd.pp.calculate_qc_metrics(adata, use_raw=True, percent_top=(50,))
    assert len(var) == N_VARS and "pct_counts_in_top_50_genes" in obs
    with pytest.raises(InputError, match="60 raw genes and 40 genes"):
        sd.pp.calculate_qc_metrics(adata, use_raw=True, percent_top=None, inplace=True)
    with pytest.raises(InputError, match="has 40 genes, the matrix 60"):
        sd.pp.calculate_qc_metrics(adata, use_raw=True, percent_top=None, qc_vars=["mt"])


def test_qc__no_matrix() -> None:
    adata = counts()
    with pytest.raises(MissingKeyError, match="no layer 'nope'"):
        sd.pp.calculate_qc_metrics(adata, layer="nope", percent_top=None)
    with pytest.raises(MissingKeyError, match="adata.raw is not set"):
        sd.pp.calculate_qc_metrics(adata, use_raw=True, percent_top=None)
    adata.X = None
    with pytest.raises(MissingKeyError, match="adata.X is None"):
        sd.pp.calculate_qc_metrics(adata, percent_top=None)


@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray])
def test_qc__cells_without_counts_have_scanpys_nan_and_one_warning(kind: Any) -> None:
    import scanpy as sc

    x = counts().X.toarray()
    x[[3, 8]] = 0
    ours, theirs = (ad.AnnData(kind(x), var=counts().var) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.calculate_qc_metrics(theirs, qc_vars=["mt"], percent_top=[5], inplace=True)
    twin = lazy(ours, 4)
    with pytest.warns(CountsWarning, match="^2 cells have no counts: their percentages are NaN") as told:
        sd.pp.calculate_qc_metrics(twin, qc_vars=["mt"], percent_top=[5], inplace=True)
    assert len(told) == 1 and source_of(twin).passes == 1
    for c in ("pct_counts_mt", "pct_counts_in_top_5_genes"):
        np.testing.assert_allclose(twin.obs[c], theirs.obs[c], rtol=1e-5)
        assert np.flatnonzero(twin.obs[c].isna()).tolist() == [3, 8]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_qc__nan_and_infinite_values_are_told(value: float) -> None:
    x = counts().X.toarray()
    x[4, 2], x[4, 9], x[11, 2] = value, value, value
    for normalise in (False, True):
        twin = lazy(ad.AnnData(sp.csr_matrix(x), counts().obs, counts().var), 4)
        if normalise:
            with pytest.warns(CountsWarning, match=r"2 cells have NaN or infinite values \(cell4, cell11\)"):
                sd.pp.normalize_total(twin)
            continue
        with pytest.warns(CountsWarning, match=r"in 2 cells \(cell4, cell11\) and 2 genes \(gene2, gene9\)"):
            sd.pp.calculate_qc_metrics(twin, inplace=True, percent_top=None)
        assert source_of(twin).passes == 1


@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray])
def test_qc__integer_sums_beyond_int64_are_floats(kind: Any) -> None:
    x = np.ones((4, 3), np.uint64)
    x[1] = 2**63
    x[2, 0] = 2**63 - 1024
    wanted = x.astype(np.float64)
    adata = lazy(ad.AnnData(kind(x)), 2)
    obs, var = sd.pp.calculate_qc_metrics(adata, percent_top=None)
    np.testing.assert_array_equal(obs["total_counts"], wanted.sum(axis=1))
    np.testing.assert_array_equal(var["total_counts"], wanted.sum(axis=0))
    for function, axis in ((sd.pp.filter_cells, 1), (sd.pp.filter_genes, 0)):
        keep, numbers = function(adata, min_counts=5, inplace=False)
        np.testing.assert_array_equal(numbers, wanted.sum(axis=axis))
        np.testing.assert_array_equal(keep, wanted.sum(axis=axis) >= 5)
    np.testing.assert_array_equal(sd.get.aggregate(with_group(adata), "of", "sum").layers["sum"][0], wanted.sum(axis=0))


def with_group(adata: ad.AnnData) -> ad.AnnData:
    adata.obs["of"] = pd.Categorical(["a"] * adata.n_obs)
    return adata
