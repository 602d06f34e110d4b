from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from packaging.version import Version

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import CountsWarning, InputError, MissingKeyError
from sc_dask.testing import compute_counter, lazy, source_of
from tests.laws.registry import N_OBS, counts
from tests.stack import SCANPY

KINDS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda x: x.toarray()}


def dense(x: Any) -> np.ndarray:
    x = x.compute() if isinstance(x, RowBlocks) else x
    return x.toarray() if sp.issparse(x) else np.asarray(x)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_sum": 1e4},
        {"target_sum": 50, "key_added": "factor"},
        {"exclude_highly_expressed": True, "max_fraction": 0.1},
        {"exclude_highly_expressed": True, "target_sum": 1e4},
        {"layer": "spare"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("kind", KINDS)
def test_normalize_total__is_scanpys(options: dict[str, Any], dtype: str, kind: str) -> None:
    import scanpy as sc

    expected = counts()
    expected.layers["spare"] = KINDS[kind](expected.X.astype(dtype) * 2)
    expected.X = KINDS[kind](expected.X.astype(dtype))
    memory, adata = expected.copy(), lazy(expected)
    sc.pp.normalize_total(expected, **options)
    for got in (adata, memory):
        assert sd.pp.normalize_total(got, **options) is None
        for mine, theirs in ((got.X, expected.X), (got.layers["spare"], expected.layers["spare"])):
            assert mine.dtype == theirs.dtype
            np.testing.assert_allclose(dense(mine), dense(theirs), rtol=1e-6)
        if "key_added" in options:
            np.testing.assert_allclose(got.obs["factor"], expected.obs["factor"], rtol=1e-6)
    assert isinstance(adata.X, RowBlocks) and type(memory.X) is type(KINDS[kind](counts().X))


def test_normalize_total__not_inplace_gives_x_and_factors() -> None:
    import scanpy as sc

    expected, adata = counts(), lazy(counts())
    theirs = sc.pp.normalize_total(expected, inplace=False)
    found = sd.pp.normalize_total(adata, inplace=False)
    np.testing.assert_allclose(dense(found["X"]), dense(theirs["X"]), rtol=1e-6)
    np.testing.assert_allclose(found["norm_factor"], theirs["norm_factor"], rtol=1e-6)
    np.testing.assert_array_equal(dense(adata.X), dense(counts().X))


@pytest.mark.parametrize("kind", KINDS)
def test_normalize_total__cells_without_counts_stay_zero(kind: str) -> None:
    import scanpy as sc

    expected = counts()
    x = expected.X.toarray()
    x[[2, 50]] = 0
    expected.X = KINDS[kind](sp.csr_matrix(x))
    adata = lazy(expected)
    with pytest.warns(CountsWarning, match="2 cells have zero counts"):
        sd.pp.normalize_total(adata)
    sums = x.sum(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # scanpy 1.11 takes the median over all cells of a csr matrix, 1.12 over those with counts
        target = None if Version("1.12") <= SCANPY else float(np.median(sums[sums > 0]))
        sc.pp.normalize_total(expected, target_sum=target)
    np.testing.assert_allclose(dense(adata.X), dense(expected.X), rtol=1e-6)
    silent = lazy(counts())
    sd.pp.normalize_total(silent, target_sum=1)
    np.testing.assert_allclose(dense(silent.X).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("base", [None, 2, 10])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False], ids=["normalised", "counts"])
def test_log1p__is_scanpys(base: float | None, kind: str, first: bool) -> None:
    import scanpy as sc

    expected = counts()
    expected.X = KINDS[kind](expected.X)
    adata, memory = lazy(expected), expected.copy()
    if first:
        sc.pp.normalize_total(expected, target_sum=1e4)
        sd.pp.normalize_total(adata, target_sum=1e4)
        sd.pp.normalize_total(memory, target_sum=1e4)
    sc.pp.log1p(expected, base=base)
    for got in (adata, memory):
        assert sd.pp.log1p(got, base=base) is None
        assert got.uns["log1p"] == {"base": base} == expected.uns["log1p"]
        np.testing.assert_allclose(dense(got.X), dense(expected.X), rtol=1e-6)
        assert got.X.dtype == expected.X.dtype
    assert len(adata.X.expression.steps) == 1  # both in one loop over a block


def test_log1p__a_layer_of_integers() -> None:
    adata = counts()
    adata.layers["spare"] = adata.X.astype(np.int32)
    sd.pp.log1p(adata, layer="spare")
    assert adata.layers["spare"].dtype == np.float32
    np.testing.assert_allclose(dense(adata.layers["spare"]), np.log1p(dense(counts().X)), rtol=1e-6)
    np.testing.assert_array_equal(dense(adata.X), dense(counts().X))


def test_log1p__twice_is_warned() -> None:
    adata = lazy(counts())
    sd.pp.log1p(adata)
    with pytest.warns(CountsWarning, match="log-transformed already"):
        sd.pp.log1p(adata)


@pytest.mark.parametrize("base", [0, 1, -2])
def test_log1p__base_out_of_range(base: float) -> None:
    with pytest.raises(InputError, match=f"base={base}; expected a number above 0 and not 1"):
        sd.pp.log1p(lazy(counts()), base=base)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copy": True, "inplace": False}, "copy=True with inplace=False"),
        ({"max_fraction": 1.5}, "max_fraction=1.5; expected a number from 0 to 1"),
        ({"max_fraction": -0.1}, "max_fraction=-0.1"),
        ({"target_sum": 0}, "target_sum=0; expected a number above 0, or None"),
        ({"target_sum": -3}, "target_sum=-3"),
        ({"target_sum": float("nan")}, "target_sum=nan"),
    ],
    ids=str,
)
def test_normalize_total__options_out_of_range(options: dict[str, Any], message: str) -> None:
    adata = lazy(counts())
    with compute_counter() as counted, pytest.raises(InputError, match=message):
        sd.pp.normalize_total(adata, **options)
    assert counted.n == 0 and source_of(adata).rows_read == 0


def test_normalize_total__no_counts_at_all() -> None:
    adata = counts()
    adata.X = adata.X * 0
    with pytest.raises(InputError, match="the median of the cells' sums is 0"):
        sd.pp.normalize_total(lazy(adata))


@pytest.mark.parametrize("function", [sd.pp.normalize_total, sd.pp.log1p])
def test_normalize__no_such_layer(function: Any) -> None:
    with pytest.raises(MissingKeyError, match="no layer 'nope'; expected one of: spare"):
        function(counts(), layer="nope")


def test_normalize__a_view_and_a_pick_afterwards_stay_lazy() -> None:
    adata = lazy(counts())
    view = adata[np.arange(N_OBS) % 2 == 0]
    sd.pp.normalize_total(view, target_sum=1e4)
    sd.pp.log1p(view)
    picked = view[5:20, 10:20]
    with compute_counter() as counted:
        x = picked.copy().X
    assert counted.n == 0 and isinstance(x, RowBlocks)
    whole = counts().X.toarray()[::2]
    expected = np.log1p(whole / whole.sum(axis=1, keepdims=True) * 1e4)[5:20, 10:20]
    np.testing.assert_allclose(dense(x), expected, rtol=1e-5)
    np.testing.assert_array_equal(dense(adata.X), dense(counts().X))
