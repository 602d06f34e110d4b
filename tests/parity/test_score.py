"""Scores of gene sets: scanpy's controls and numbers on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.testing import lazy, source_of

S_GENES = ["MCM5", "PCNA", "TYMS", "FEN1", "MCM2", "MCM4", "RRM1", "UNG", "GINS2", "MCM6", "CDCA7", "DTL", "PRIM1"]
G2M_GENES = ["HMGB2", "CDK1", "NUSAP1", "UBE2C", "BIRC5", "TPX2", "TOP2A", "NDC80", "CKS2", "NUF2", "CKS1B", "MKI67"]


def normalised(adata: ad.AnnData) -> ad.AnnData:
    import scanpy as sc

    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


@pytest.fixture(scope="module")
def pbmc3k(_pbmc3k_filtered: ad.AnnData) -> ad.AnnData:
    return normalised(_pbmc3k_filtered.copy())


@pytest.fixture(scope="module")
def kang(data_dir: Path) -> ad.AnnData:
    return normalised(ad.read_h5ad(data_dir / "kang" / "kang_12k_1287genes_counts.h5ad"))


def assert_scanpys(adata: ad.AnnData, genes: list[str], **options: Any) -> None:
    import scanpy as sc

    expected, twin = adata.copy(), lazy(adata, 7)
    sc.tl.score_genes(expected, genes, **options)
    sd.tl.score_genes(twin, genes, **options)
    assert source_of(twin).passes == 2
    np.testing.assert_allclose(twin.obs["score"], expected.obs["score"], atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"ctrl_size": 20, "n_bins": 50, "random_state": 5, "ctrl_as_ref": False}])
def test_score_genes__scanpys_numbers_on_pbmc3k(pbmc3k: ad.AnnData, options: dict[str, Any]) -> None:
    assert_scanpys(pbmc3k, ["CD79A", "MS4A1", "CD74", "HLA-DRA", "CD79B", "CD37"], **options)


@pytest.mark.parametrize("seed", [0, 11])
def test_score_genes__scanpys_numbers_on_kang(kang: ad.AnnData, seed: int) -> None:
    genes = list(kang.var_names[[3, 40, 77, 200, 500, 801]])
    assert_scanpys(kang, genes, random_state=seed)


def test_score_genes_cell_cycle__scanpys_phases_of_pbmc3k(pbmc3k: ad.AnnData) -> None:
    import scanpy as sc

    expected, twin = pbmc3k.copy(), lazy(pbmc3k, 7)
    here = [[g for g in genes if g in pbmc3k.var_names] for genes in (S_GENES, G2M_GENES)]
    assert min(map(len, here)) > 8
    sc.tl.score_genes_cell_cycle(expected, s_genes=here[0], g2m_genes=here[1])
    sd.tl.score_genes_cell_cycle(twin, s_genes=here[0], g2m_genes=here[1])
    assert source_of(twin).passes == 2
    for c in ("S_score", "G2M_score"):
        np.testing.assert_allclose(twin.obs[c], expected.obs[c], atol=1e-6)
    sure = np.abs(expected.obs[["S_score", "G2M_score"]]).min(axis=1) > 1e-6  # scanpy sums in single precision
    assert (twin.obs["phase"] == expected.obs["phase"])[sure].all() and sure.mean() > 0.9
