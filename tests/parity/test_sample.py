"""Fewer cells and fewer counts of real data: scanpy's cells, scanpy's totals, and the distribution that it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.testing import lazy


@pytest.fixture(scope="module", params=["pbmc3k", "kang"])
def real(request: pytest.FixtureRequest, data_dir: Path) -> ad.AnnData:
    if request.param == "pbmc3k":
        return request.getfixturevalue("_pbmc3k_filtered").copy()
    return ad.read_h5ad(data_dir / "kang" / "kang_12k_1287genes_counts.h5ad")


@pytest.mark.parametrize("options", [{"fraction": 0.3, "rng": 1}, {"n": 3000, "rng": 2, "replace": True}])
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_sample__scanpys_cells(real: ad.AnnData, options: dict[str, Any]) -> None:
    import scanpy as sc

    expected, twin = real.copy(), lazy(real, 5)
    sc.pp.sample(expected, **options)
    sd.pp.sample(twin, **options)
    assert sorted(twin.obs_names) == sorted(expected.obs_names)
    assert list(twin.obs_names.unique()) == list(real.obs_names[real.obs_names.isin(expected.obs_names)])


def test_subsample__scanpys_cells(real: ad.AnnData) -> None:
    import scanpy as sc

    expected, twin = real.copy(), lazy(real, 5)
    sc.pp.subsample(expected, n_obs=500)
    sd.pp.subsample(twin, n_obs=500)
    assert set(twin.obs_names) == set(expected.obs_names) and twin.n_obs == 500


def spread(found: Any, counts: Any, target: int) -> float:
    """Return the standard deviation of the genes' sums in units of what independent draws of all cells would give."""
    totals = np.asarray(counts.sum(axis=1), float)
    share = np.minimum(target / totals, 1)
    mean = np.asarray(counts.multiply(share).sum(axis=0)).ravel()
    variance = np.asarray(counts.multiply(share * (1 - share)).sum(axis=0)).ravel()
    seen = variance > 5
    return float(((np.asarray(found.sum(axis=0)).ravel() - mean)[seen] / np.sqrt(variance[seen])).std())


def test_downsample_counts__scanpys_totals_and_errors_that_average_out(real: ad.AnnData) -> None:
    """scanpy seeds every cell alike: cells draw the same places, and sums of genes are off by more than chance."""
    import scanpy as sc

    target = int(np.median(np.asarray(real.X.sum(axis=1))) / 2)
    expected, twin = real.copy(), lazy(real, 5)
    sc.pp.downsample_counts(expected, counts_per_cell=target)
    sd.pp.downsample_counts(twin, counts_per_cell=target)
    found = twin.X.compute()
    np.testing.assert_array_equal(found.sum(axis=1), expected.X.sum(axis=1))
    assert (real.X - found).min() >= 0
    assert 0.9 < spread(found, real.X, target) < 1.1 < spread(expected.X, real.X, target)
    genes = (np.asarray(x.sum(axis=0), float).ravel() for x in (found, expected.X))
    assert np.corrcoef(*genes)[0, 1] > 0.999


def test_downsample_counts__all_cells_together(real: ad.AnnData) -> None:
    twin = lazy(real, 5)
    n = int(real.X.sum() // 3)
    sd.pp.downsample_counts(twin, total_counts=n)
    found = twin.X.compute()
    assert found.sum() == n
    totals = np.asarray(real.X.sum(axis=1), float)
    z = (np.asarray(found.sum(axis=1)) - totals / 3) / np.sqrt(totals * 2 / 9)
    assert 0.95 < z.std() < 1.05
