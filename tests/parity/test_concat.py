"""Eight samples in eight files, zarr and h5ad, analysed as one: the same as the whole file."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.log import stage
from sc_dask.testing import lazy


@pytest.fixture(scope="module")
def kang(data_dir: Path) -> ad.AnnData:
    adata = ad.read_h5ad(data_dir / "kang" / "kang_12k_1287genes_counts.h5ad")
    adata.obs["sample_id"] = adata.obs["sample_id"].astype(str).astype("category")
    order = np.argsort(adata.obs["sample_id"].cat.codes, kind="stable")
    return adata[order].copy()


@pytest.fixture(scope="module")
def samples(kang: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Zarr and h5ad in turn; every file has the genes in an order of its own."""
    folder, rng, files = tmp_path_factory.mktemp("samples"), np.random.default_rng(0), {}
    for i, name in enumerate(kang.obs["sample_id"].cat.categories):
        part = kang[kang.obs["sample_id"] == name, rng.permutation(kang.n_vars) if i else slice(None)].copy()
        files[name] = folder / f"{name}.{('zarr', 'h5ad')[i % 2]}"
        if i % 2:
            part.write_h5ad(files[name])
        else:
            sd.write(part, files[name], narrow=True)
    return files


def analysed(adata: ad.AnnData, batch: str) -> ad.AnnData:
    sd.pp.calculate_qc_metrics(adata, percent_top=(50,), inplace=True)
    sd.pp.filter_cells(adata, min_genes=150)
    sd.pp.filter_genes(adata, min_cells=200)
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata, n_top_genes=500, batch_key=batch)
    sd.pp.pca(adata, n_comps=10)
    return adata


def test_concat__eight_samples_are_analysed_as_the_whole(kang: ad.AnnData, samples: dict[str, Path]) -> None:
    both = sd.concat(samples, label="sample")
    assert list(both.obs_names) == list(kang.obs_names) and list(both.var_names) == list(kang.var_names)
    assert (both.obs["sample"] == kang.obs["sample_id"]).all()
    with stage("eight") as eight:
        found = analysed(both, "sample")
    with stage("one") as one:
        whole = analysed(lazy(kang, 8), "sample_id")
    assert eight.passes == pytest.approx(one.passes, abs=0.05)
    assert found.shape == whole.shape < kang.shape
    for key in ("total_counts", "n_genes_by_counts", "pct_counts_in_top_50_genes"):
        np.testing.assert_allclose(found.obs[key], whole.obs[key], rtol=1e-6)
    assert (found.var["highly_variable"] == whole.var["highly_variable"]).all()
    np.testing.assert_allclose(found.var["dispersions_norm"], whole.var["dispersions_norm"], rtol=1e-5)
    a, b = found.obsm["X_pca"], whole.obsm["X_pca"]
    np.testing.assert_allclose(a * np.sign((a * b).sum(axis=0)), b, atol=2e-3)
    np.testing.assert_allclose(found.uns["pca"]["variance"], whole.uns["pca"]["variance"], rtol=1e-5)


def test_concat__eight_samples_are_written_as_anndata_would(
    kang: ad.AnnData, samples: dict[str, Path], tmp_path: Path
) -> None:
    both = sd.concat(samples, label="sample", index_unique="-")
    sd.write(both, tmp_path / "all.zarr", narrow=True, shard_bytes=4 << 20)
    back = ad.read_zarr(tmp_path / "all.zarr")
    assert (back.X != kang.X).nnz == 0 and back.X.dtype == np.uint16
    assert (back.obs["sample"].astype(str) == kang.obs["sample_id"].astype(str).to_numpy()).all()
