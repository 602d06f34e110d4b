from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import InputError
from sc_dask.testing import lazy, source_of
from tests.laws.registry import N_OBS, N_VARS, counts

FUNCTIONS = {"cells": sd.pp.filter_cells, "genes": sd.pp.filter_genes}
BOUNDS = [
    ("cells", {"min_genes": 35}),
    ("cells", {"max_genes": 35}),
    ("cells", {"min_counts": 100}),
    ("cells", {"max_counts": 100}),
    ("genes", {"min_cells": 50}),
    ("genes", {"max_cells": 50}),
    ("genes", {"min_counts": 150}),
    ("genes", {"max_counts": 150}),
]


@pytest.mark.parametrize(("what", "bound"), BOUNDS, ids=lambda v: str(v))
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_filter__is_scanpys(what: str, bound: dict[str, Any], dtype: str) -> None:
    import scanpy as sc

    expected = counts()
    expected.X = expected.X.astype(dtype)
    adata = lazy(expected)
    mask, numbers = FUNCTIONS[what](adata, inplace=False, **bound)
    theirs = getattr(sc.pp, f"filter_{what}")(expected, inplace=False, **bound)
    np.testing.assert_array_equal(mask, theirs[0])
    np.testing.assert_array_equal(numbers, np.asarray(theirs[1]).ravel())
    assert numbers.dtype.kind == np.asarray(theirs[1]).dtype.kind

    assert FUNCTIONS[what](adata, **bound) is None
    getattr(sc.pp, f"filter_{what}")(expected, **bound)
    assert isinstance(adata.X, RowBlocks) and min(adata.shape) > 0
    assert adata.shape == expected.shape and adata.shape != (N_OBS, N_VARS)
    assert adata.obs_names.equals(expected.obs_names) and adata.var_names.equals(expected.var_names)
    frames = (adata.obs, expected.obs) if what == "cells" else (adata.var, expected.var)
    assert set(frames[0]) == set(frames[1])
    for c in set(frames[0]) & {"n_genes", "n_cells", "n_counts"}:
        np.testing.assert_array_equal(frames[0][c], frames[1][c])
    np.testing.assert_array_equal(adata.X.compute().toarray(), expected.X.toarray())


@pytest.mark.parametrize("what", FUNCTIONS)
def test_filter__copy_leaves_the_original(what: str) -> None:
    adata = lazy(counts())
    copied = FUNCTIONS[what](adata, min_counts=120, copy=True)
    assert copied.shape < (N_OBS, N_VARS) and adata.shape == (N_OBS, N_VARS)
    assert "n_counts" not in adata.obs and "n_counts" not in adata.var


def test_filter__keeping_all_keeps_the_matrix() -> None:
    adata = lazy(counts())
    x = adata.X
    sd.pp.filter_cells(adata, min_genes=1)
    assert adata.X is x and "n_genes" in adata.obs


def test_filter__one_after_the_other_reads_once_for_each() -> None:
    adata = lazy(counts())
    source = source_of(adata)
    sd.pp.filter_cells(adata, min_genes=30)
    sd.pp.filter_cells(adata, max_counts=300)  # totals were learnt in the same pass
    assert source.times_read().max() == 1
    sd.pp.filter_genes(adata, min_cells=10)
    assert source.times_read().max() == 2
    dense = counts().X.toarray()
    kept = dense[((dense > 0).sum(axis=1) >= 30) & (dense.sum(axis=1) <= 300)]
    np.testing.assert_array_equal(adata.X.compute().toarray(), kept[:, (kept > 0).sum(axis=0) >= 10])


def test_filter__a_view() -> None:
    view = lazy(counts())[10:60]
    sd.pp.filter_cells(view, min_genes=35)
    dense = counts().X.toarray()[10:60]
    np.testing.assert_array_equal(view.X.compute().toarray(), dense[(dense > 0).sum(axis=1) >= 35])


@pytest.mark.parametrize("what", FUNCTIONS)
@pytest.mark.parametrize("bounds", [{}, {"min_counts": 1, "max_counts": 2}], ids=["none", "two"])
def test_filter__exactly_one_bound(what: str, bounds: dict[str, Any]) -> None:
    adata = lazy(counts())
    with pytest.raises(InputError, match="exactly one"):
        FUNCTIONS[what](adata, **bounds)
    assert source_of(adata).rows_read == 0


@pytest.mark.parametrize("what", FUNCTIONS)
def test_filter__nothing_left_is_told_with_what_was_found(what: str) -> None:
    adata = lazy(counts())
    with pytest.raises(InputError, match=rf"min_counts=1000000 keeps none of \d+ {what} \(found \d+ to \d+\)"):
        FUNCTIONS[what](adata, min_counts=1_000_000)
    assert adata.shape == (N_OBS, N_VARS) and "n_counts" not in adata.obs and "n_counts" not in adata.var


def test_filter__no_cells_at_all() -> None:
    with pytest.raises(InputError, match="there are no cells"):
        sd.pp.filter_cells(lazy(counts()[:0].copy(), 1), min_genes=1)


@pytest.mark.parametrize("function", ["filter_cells", "filter_genes"])
@pytest.mark.parametrize("bound", ["counts", "other"])
def test_filter__what_is_returned_is_the_callers_own(function: str, bound: str) -> None:
    option = {
        f"min_{bound}" if bound == "counts" else {"filter_cells": "min_genes", "filter_genes": "min_cells"}[function]: 1
    }
    adata = lazy(counts())
    keep, numbers = getattr(sd.pp, function)(adata, inplace=False, **option)
    numbers -= 1000
    keep[:] = False
    again = getattr(sd.pp, function)(adata, inplace=False, **option)[1]
    np.testing.assert_array_equal(again, numbers + 1000)
    sd.pp.normalize_total(adata, target_sum=1e4)
    np.testing.assert_allclose(adata.X.compute().sum(axis=1).max(), 1e4, rtol=1e-4)


@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray])
@pytest.mark.parametrize("with_nan", [False, True])
@pytest.mark.parametrize("after_qc", [False, True])
def test_filters__count_values_above_zero_as_scanpy(kind: Any, with_nan: bool, after_qc: bool) -> None:
    import scanpy as sc

    x = np.random.default_rng(0).normal(size=(40, 30)).round(1).astype(np.float32)
    x[:, 3], x[5] = -1, -0.5
    if with_nan:
        x[7, 8] = np.nan
    for name, function, bound in (("n_genes", "filter_cells", "min_genes"), ("n_cells", "filter_genes", "min_cells")):
        theirs = ad.AnnData(kind(x))
        ours = lazy(ad.AnnData(kind(x)), 3)
        if after_qc:
            sd.pp.calculate_qc_metrics(ours, percent_top=None)
        getattr(sc.pp, function)(theirs, **{bound: 12})
        getattr(sd.pp, function)(ours, **{bound: 12})
        assert ours.shape == theirs.shape != x.shape
        axis = "obs" if name == "n_genes" else "var"
        assert getattr(ours, axis)[name].tolist() == getattr(theirs, axis)[name].tolist()
