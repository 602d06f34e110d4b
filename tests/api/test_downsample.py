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
from tests.laws.registry import N_OBS, counts, logged


def totals(x: Any) -> np.ndarray:
    return np.asarray(x.sum(axis=1)).ravel()


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("target", [0, 60, list(range(N_OBS))])
def test_downsample_counts__totals_are_scanpys(target: Any, replace: bool) -> None:
    import scanpy as sc

    expected, adata = counts(), lazy(counts())
    sc.pp.downsample_counts(expected, counts_per_cell=target, replace=replace)
    sd.pp.downsample_counts(adata, counts_per_cell=target, replace=replace)
    assert isinstance(adata.X, RowBlocks) and source_of(adata).rows_read == 0
    found = adata.X.compute()
    np.testing.assert_array_equal(totals(found), totals(expected.X))
    few = totals(counts().X) <= np.asarray(target)
    np.testing.assert_array_equal(found[few].toarray(), counts().X[few].toarray())


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("n", [0, 1000, 10**9])
def test_downsample_counts__all_cells_together(n: int, replace: bool) -> None:
    adata, before = lazy(counts()), counts().X
    sd.pp.downsample_counts(adata, total_counts=n, replace=replace)
    found = adata.X.compute()
    assert found.sum() == min(n, before.sum())
    if not replace:
        assert (before - found).min() >= 0
    known = lazy(counts())
    sd.pp.filter_cells(known, min_genes=1)  # finds the sums
    source_of(known).forget()
    sd.pp.downsample_counts(known, total_counts=n, replace=replace)
    assert source_of(known).rows_read == 0
    np.testing.assert_array_equal(known.X.compute().toarray(), found.toarray())


def test_downsample_counts__a_cell_draws_the_same_in_any_company() -> None:
    whole, some = lazy(counts()), lazy(counts(), 9)
    sd.pp.downsample_counts(whole, counts_per_cell=50)
    sd.pp.downsample_counts(some, counts_per_cell=50)
    some = some[20:70:3, 5:40]
    np.testing.assert_array_equal(some.X.compute().toarray(), whole.X.compute().toarray()[20:70:3, 5:40])


def test_downsample_counts__seeds() -> None:
    found = []
    for seed in (0, 0, np.random.RandomState(0), 1, None, None):
        adata = counts()
        sd.pp.downsample_counts(adata, counts_per_cell=50, random_state=seed)
        found.append(adata.X.toarray())
    assert all(np.array_equal(found[0], f) for f in found[1:3])
    assert not any(np.array_equal(found[i], found[j]) for i, j in ((0, 3), (0, 4), (4, 5)))


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_downsample_counts__small_integers_do_not_overflow(kind: Any) -> None:
    adata = counts()
    adata.X = kind(np.diag(np.full(N_OBS, 200, np.uint8))[:, : adata.n_vars])
    sd.pp.downsample_counts(adata, total_counts=3000, replace=True)
    assert type(adata.X) is (np.ndarray if kind is np.asarray else kind) and adata.X.sum() == 3000
    assert adata.X.dtype.kind == "u"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "neither of counts_per_cell and total_counts"),
        ({"counts_per_cell": 3, "total_counts": 3}, "both of"),
        ({"counts_per_cell": -1}, "negative or no integer"),
        ({"counts_per_cell": 1.5}, "negative or no integer"),
        ({"total_counts": -3}, "negative or no integer"),
        ({"counts_per_cell": [1, 2]}, r"shape \(2,\)"),
    ],
)
def test_downsample_counts__says_what_is_wrong(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        sd.pp.downsample_counts(lazy(counts()), **options)


def test_downsample_counts__refuses_what_is_no_count() -> None:
    adata = lazy(logged())
    sd.pp.downsample_counts(adata, counts_per_cell=10)
    with pytest.raises(InputError, match="counts"):
        adata.X.compute(scheduler="sync")
    adata = lazy(logged())
    sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    with pytest.raises(InputError, match="X has fractions"):
        sd.pp.downsample_counts(adata, counts_per_cell=10)


def test_downsample__counts_beyond_int64_are_refused() -> None:
    adata = ad.AnnData(np.full((3, 2), 2**62, np.uint64))
    with pytest.raises(InputError, match="X sums to 2.76"):
        sd.pp.downsample_counts(adata, total_counts=10)
