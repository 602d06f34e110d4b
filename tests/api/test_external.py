"""``experimental``, ``external`` and ``progress``: scanpy's numbers, X lazy."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import sc_dask as sd
from sc_dask.errors import InputError

sce = pytest.importorskip("scanpy.external")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pbmc(golden_dir: Path) -> ad.AnnData:
    return ad.read_h5ad(golden_dir / "pbmc68k_reduced.h5ad")


@pytest.fixture
def lazy(pbmc: ad.AnnData, tmp_path: Path) -> ad.AnnData:
    pbmc.write_zarr(tmp_path / "pbmc.zarr")
    return sd.read(tmp_path / "pbmc.zarr")


@pytest.fixture
def counts(pbmc3k_dir: Path, tmp_path: Path) -> tuple[ad.AnnData, ad.AnnData]:
    small = sc.read_10x_mtx(pbmc3k_dir)[:300, :2000].copy()
    sc.pp.filter_genes(small, min_cells=1)
    small.obs["batch"] = pd.Categorical(["a", "b"] * 150)
    small.write_zarr(tmp_path / "counts.zarr")
    return small, sd.read(tmp_path / "counts.zarr")


def test_experimental__pearson_residuals_are_scanpys(counts: tuple[ad.AnnData, ad.AnnData]) -> None:
    small, lazy = counts
    for module, adata in ((sc, small), (sd, lazy)):
        module.experimental.pp.recipe_pearson_residuals(adata, n_top_genes=200, batch_key="batch", n_comps=10)
    assert list(lazy.var["highly_variable"]) == list(small.var["highly_variable"])
    np.testing.assert_allclose(abs(lazy.obsm["X_pca"]), abs(small.obsm["X_pca"]), rtol=1e-2, atol=2e-2)
    assert lazy.varm["PCs"].shape == small.varm["PCs"].shape
    assert lazy.uns["pearson_residuals_normalization"]["theta"] == 100
    assert lazy.X.to_memory().sum() == small.X.sum()  # X stays
    found, table = sd.experimental.pp.recipe_pearson_residuals(lazy, n_top_genes=100, n_comps=5, inplace=False)
    assert (found.n_vars, int(table["highly_variable"].sum()), found.obsm["X_pca"].shape[1]) == (100, 100, 5)
    assert int(lazy.var["highly_variable"].sum()) == 200
    with pytest.raises(InputError, match="n_top_genes"):
        sd.experimental.pp.highly_variable_genes(lazy)


def test_external__hashsolo_reads_no_x(lazy: ad.AnnData) -> None:
    rng = np.random.default_rng(0)
    tags = rng.poisson(3, (700, 3)).astype(float)
    tags[np.arange(700), rng.integers(0, 3, 700)] += 200
    for i in range(3):
        lazy.obs[f"tag{i}"] = tags[:, i]
    plain = ad.AnnData(np.zeros((700, 1)), obs=lazy.obs.copy())
    sce.pp.hashsolo(plain, ["tag0", "tag1", "tag2"])
    sd.external.pp.hashsolo(lazy, ["tag0", "tag1", "tag2"])
    assert list(lazy.obs["Classification"]) == list(plain.obs["Classification"])
    assert set(plain.obs) <= set(lazy.obs)


def test_external__ours_and_what_needs_memory(lazy: ad.AnnData) -> None:
    assert sd.external.pp.bbknn is sd.pp.bbknn
    assert sd.external.pp.harmony_integrate is sd.pp.harmony_integrate
    with pytest.raises(InputError, match=r"external\.pp\.magic works in memory.*to_memory\(\)"):
        sd.external.pp.magic(lazy)
    with pytest.raises(AttributeError, match="nothing"):
        _ = sd.external.tl.nothing


def test_progress__tells_of_passes(lazy: ad.AnnData, capsys: pytest.CaptureFixture[str]) -> None:
    with sd.progress("sums") as seen:
        lazy.X.sum(axis=0).compute()
        sd.pp.calculate_qc_metrics(lazy, percent_top=None, inplace=True)
    assert seen.passes >= 1
    assert capsys.readouterr().out.startswith("sums ")
