from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.testing import lazy, source_of
from tests.laws.registry import N_OBS, N_VARS, counts

P = np.arange(N_OBS) / np.arange(N_OBS).sum()
pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique")


def assert_same_in_order(adata: ad.AnnData, theirs: ad.AnnData) -> None:
    """The same cells and genes, each as often as scanpy has it, in the order of the data."""
    by = [np.argsort([int(n.lstrip("celgn")) for n in names]) for names in (theirs.obs_names, theirs.var_names)]
    theirs = theirs[by[0]][:, by[1]]
    assert list(adata.obs_names) == list(theirs.obs_names) and list(adata.var_names) == list(theirs.var_names)
    x = adata.X.compute() if isinstance(adata.X, RowBlocks) else adata.X
    np.testing.assert_array_equal(x.toarray(), theirs.X.toarray())
    assert list(adata.obs["group"]) == list(theirs.obs["group"])
    np.testing.assert_array_equal(adata.obsm["X_other"], theirs.obsm["X_other"])


@pytest.mark.parametrize(
    "options",
    [
        {"n": 30, "rng": 0},
        {"fraction": 0.25, "rng": 5},
        {"fraction": 1.0, "rng": 5},
        {"fraction": 2.5, "rng": 1, "replace": True},
        {"n": N_OBS, "rng": 1, "replace": True},
        {"n": 30, "rng": 3, "p": P},
        {"n": 40, "rng": 3, "p": P > 0.005, "replace": True},
        {"n": 9, "rng": 2, "axis": "var"},
        {"fraction": 0.5, "rng": 2, "axis": 1, "p": "picked"},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_blocks", [0, 7])
def test_sample__is_scanpys(options: dict[str, Any], n_blocks: int) -> None:
    import scanpy as sc

    expected = counts()
    adata = lazy(expected, n_blocks) if n_blocks else expected.copy()
    copied = sd.pp.sample(adata, copy=True, **options)
    assert copied is not None and adata.shape == (N_OBS, N_VARS)
    sc.pp.sample(expected, **options)
    assert sd.pp.sample(adata, **options) is None
    for found in (adata, copied):
        assert_same_in_order(found, expected)


@pytest.mark.parametrize("options", [{"fraction": 0.3}, {"n_obs": 17, "random_state": 4}])
def test_subsample__is_scanpys(options: dict[str, Any]) -> None:
    import scanpy as sc

    expected, adata = counts(), lazy(counts())
    sc.pp.subsample(expected, **options)
    sd.pp.subsample(adata, **options)
    assert_same_in_order(adata, expected)


def test_subsample__by_a_generator() -> None:
    found = [counts(), counts()]
    for adata, seed in zip(found, (3, np.random.RandomState(3)), strict=True):
        sd.pp.subsample(adata, n_obs=20, random_state=seed)
    assert list(found[0].obs_names) == list(found[1].obs_names)


def test_sample__repeated_cells_are_read_once_and_work_on() -> None:
    """A bootstrap: what follows sees each cell as often as it was drawn."""
    adata = lazy(counts(), 6)
    sd.pp.sample(adata, n=N_OBS, rng=0, replace=True)
    assert not adata.obs_names.is_unique and adata.X.known.rows == {}
    memory = counts()
    sd.pp.sample(memory, n=N_OBS, rng=0, replace=True)
    source = source_of(adata)
    for a in (adata, memory):
        sd.pp.calculate_qc_metrics(a, percent_top=None, inplace=True)
        sd.pp.normalize_total(a, target_sum=1e4)
        sd.pp.log1p(a)
        sd.pp.highly_variable_genes(a, n_top_genes=20)
    assert source.times_read().max() == 2
    np.testing.assert_array_equal(adata.obs["total_counts"], memory.obs["total_counts"])
    assert list(adata.var["highly_variable"]) == list(memory.var["highly_variable"])


def test_sample__what_was_learnt_of_cells_follows_them() -> None:
    adata = lazy(counts())
    sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    source_of(adata).forget()
    source = source_of(adata)
    sd.pp.sample(adata, n=N_OBS, rng=0, replace=True)
    sd.pp.normalize_total(adata)  # the median of known sums
    assert source.rows_read == 0
    np.testing.assert_allclose(adata.X.compute().sum(axis=1), np.median(adata.obs["total_counts"]), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, InputError, "neither"),
        ({"n": 3, "fraction": 0.1}, InputError, "both"),
        ({"fraction": -0.1}, InputError, "fraction=-0.1"),
        ({"fraction": 1.5}, InputError, "replace=True"),
        ({"n": N_OBS + 1}, InputError, f"{N_OBS + 1} to draw of {N_OBS}"),
        ({"n": 0}, InputError, "0 to draw"),
        ({"n": 3, "axis": "X"}, InputError, "axis='X'"),
        ({"n": 3, "p": "none"}, MissingKeyError, "none"),
        ({"n": 3, "p": P * 2}, InputError, "sum 2"),
        ({"n": 3, "p": P[1:]}, InputError, "shape"),
        ({"n": 3, "p": np.arange(N_OBS)}, InputError, "int64"),
        ({"n": 3, "p": np.zeros(N_OBS, bool)}, InputError, "sum 0"),
        ({"n": 3, "p": np.arange(N_OBS) < 2}, InputError, "3 to draw of 2"),
    ],
    ids=str,
)
def test_sample__says_what_is_wrong(options: dict[str, Any], error: type[Exception], said: str) -> None:
    adata = counts()
    with pytest.raises(error, match=said):
        sd.pp.sample(adata, **options)
    assert adata.n_obs == N_OBS


def test_sqrt__is_scanpys() -> None:
    import scanpy as sc

    for kind in ("float32", "int32", "float64"):
        expected, adata = counts(), counts()
        expected.X, adata.X = expected.X.astype(kind), adata.X.astype(kind)
        adata = lazy(adata)
        sc.pp.sqrt(expected)
        sd.pp.sqrt(adata)
        assert adata.X.dtype == (kind if kind != "int32" else "float32")
        np.testing.assert_allclose(adata.X.compute().toarray(), expected.X.toarray(), rtol=1e-6)


def test_sqrt__negative_values_become_nan() -> None:
    adata = counts()
    adata.X.data[0] = -4
    sd.pp.sqrt(adata)
    assert np.isnan(adata.X.data[0]) and np.isfinite(adata.X.data[1:]).all()
