from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError


def shifted(n_obs: int = 240) -> ad.AnnData:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(np.zeros((n_obs, 1), np.float32))
    adata.obs["batch"] = np.repeat([0, 1], n_obs // 2)  # numbers, of which harmonypy would make no batches
    adata.obs["chip"] = pd.Categorical(np.arange(n_obs) % 3)
    centres = 8 * rng.normal(size=(3, 6))
    x = centres[np.arange(n_obs) // 2 % 3] + rng.normal(size=(n_obs, 6))
    adata.obsm["X_pca"] = x + adata.obs["batch"].to_numpy()[:, None] * np.float64([3, -2, 1, 0, 0, 2])
    return adata


def test_harmony__correlates_with_the_published_components(golden_dir: Path) -> None:
    folder = golden_dir / "harmonypy"
    before, after, meta = (
        pd.read_csv(folder / f"pbmc_3500_{name}.tsv.gz", sep="\t") for name in ("pcs", "pcs_harmonized", "meta")
    )
    adata = ad.AnnData(np.zeros((len(before), 1), np.float32), obs=meta[["donor"]].set_index(meta.index.astype(str)))
    adata.obsm["X_pca"] = before.to_numpy()
    sd.pp.harmony_integrate(adata, "donor", theta=2)  # what R's Harmony, which made them, takes if nothing is said
    found = adata.obsm["X_pca_harmony"]
    agree = [np.corrcoef(found[:, i], after.iloc[:, i])[0, 1] for i in range(30)]
    assert min(agree) > 0.995  # from other random draws
    assert min(np.corrcoef(before.iloc[:, i], after.iloc[:, i])[0, 1] for i in range(30)) < 0.8


def test_harmony__joins_batches_and_keeps_what_it_was_given() -> None:
    adata = shifted()
    before = adata.obsm["X_pca"].copy()
    sd.pp.harmony_integrate(adata, "batch", adjusted_basis="joined", theta=2)
    np.testing.assert_array_equal(adata.obsm["X_pca"], before)
    found, batch = adata.obsm["joined"], adata.obs["batch"].to_numpy() == 1
    assert found.dtype == np.float32 and "X_pca_harmony" not in adata.obsm
    apart = [np.abs(x[batch].mean(axis=0) - x[~batch].mean(axis=0)).max() for x in (before, found)]
    assert apart[1] < 0.25 * apart[0]


@pytest.mark.parametrize(
    "given",
    [
        {"theta": 0.0},
        {"theta": [1, 3]},
        {"theta": [1, 1, 3, 3, 3]},
        {"lamb": [0.1, 10]},
        {"sigma": 0.3},
        {"nclust": 3},
        {"tau": 20},
        {"block_size": 1},
        {"max_iter_harmony": 1},
        {"max_iter_kmeans": 1},
        {"epsilon_cluster": 1.0},
        {"epsilon_harmony": -10.0},
        {"random_state": 5},
    ],
    ids=str,
)
def test_harmony__every_option_counts(given: dict[str, Any]) -> None:
    adata = shifted()
    sd.pp.harmony_integrate(adata, ["batch", "chip"])
    sd.pp.harmony_integrate(adata, ["batch", "chip"], adjusted_basis="other", **given)
    assert not np.array_equal(adata.obsm["X_pca_harmony"], adata.obsm["other"])


def test_harmony__numbers_by_key_are_numbers_by_batch() -> None:
    adata = shifted()
    sd.pp.harmony_integrate(adata, ["batch", "chip"], theta=[1, 3], lamb=2)
    sd.pp.harmony_integrate(
        adata, ["batch", "chip"], adjusted_basis="other", theta=[1, 1, 3, 3, 3], lamb=[2] * 5, sigma=[0.1] * 8
    )
    np.testing.assert_array_equal(adata.obsm["X_pca_harmony"], adata.obsm["other"])


@pytest.mark.parametrize(
    ("key", "given", "said"),
    [
        ("nothing", {}, "no column 'nothing'"),
        ([], {}, "a column of obs"),
        (["batch", "batch"], {}, "several different"),
        ("same", {}, "has 1 group.*at least 2"),
        ("holes", {}, "missing values"),
        ("batch", {"basis": "X_none"}, "X_none"),
        ("batch", {"thetas": 2}, "found the options thetas"),
        ("batch", {"theta": [1, 2, 3]}, "one number, 1"),
        ("batch", {"theta": -1}, "theta not below 0"),
        ("batch", {"lamb": 0}, "above 0"),
        ("batch", {"sigma": [0.1, 0.1]}, "one or 8"),
        ("batch", {"nclust": 0}, "nclust=0"),
        ("batch", {"block_size": 0}, "block_size=0"),
        ("batch", {"max_iter_kmeans": 0}, "max_iter_kmeans=0"),
    ],
    ids=str,
)
def test_harmony__refuses_what_it_cannot_do(key: Any, given: dict[str, Any], said: str) -> None:
    adata = shifted()
    adata.obs["same"] = "a"
    adata.obs["holes"] = [None, *["a"] * 100, *["b"] * 139]
    with pytest.raises(InputError, match=said):
        sd.pp.harmony_integrate(adata, key, **given)
    assert "X_pca_harmony" not in adata.obsm


def test_harmony__refuses_components_that_are_not_finite() -> None:
    adata = shifted()
    adata.obsm["X_pca"][7, 2] = np.nan
    with pytest.raises(InputError, match="first: row 7"):
        sd.pp.harmony_integrate(adata, "batch")
    with pytest.raises(MissingKeyError):
        sd.pp.harmony_integrate(adata, "nothing")
