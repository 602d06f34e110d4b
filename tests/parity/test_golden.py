"""Tables that R's Seurat and Cell Ranger, and scanpy long ago, have made; matched as scanpy's own tests match them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.testing import lazy

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
KINDS: dict[str, Any] = {
    "ndarray": lambda x: x.toarray(),
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "lazy": lambda x: lazy(x.tocsr(), 5),
    "lazy dense": lambda x: lazy(x.toarray(), 5),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("flavor", "options", "table"),
    [
        ("seurat", {"min_mean": 0.0125, "max_mean": 3, "min_disp": 0.5}, "seurat_hvg.csv"),
        ("cell_ranger", {"n_top_genes": 100}, "cell_ranger_hvg.csv"),
    ],
)
def test_hvg__matches_seurat_and_cell_ranger(
    golden_dir: Path, kind: str, flavor: str, options: dict[str, Any], table: str
) -> None:
    expected = pd.read_csv(golden_dir / table)
    stored = ad.read_h5ad(golden_dir / "pbmc68k_reduced.h5ad")
    adata = ad.AnnData(KINDS[kind](stored.raw.X), obs=stored.obs[[]], var=stored.raw.var[[]])
    adata.var_names_make_unique()
    sd.pp.filter_cells(adata, min_counts=1)
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata, flavor=flavor, **options)
    np.testing.assert_array_equal(expected["highly_variable"], adata.var["highly_variable"])
    for c in ("means", "dispersions", "dispersions_norm"):
        np.testing.assert_allclose(expected[c], adata.var[c], err_msg=c, **TOLERANCE)


@pytest.fixture(scope="module")
def expressed(_pbmc3k: ad.AnnData) -> ad.AnnData:
    adata = lazy(_pbmc3k, 5)
    sd.pp.filter_cells(adata, min_genes=200)
    sd.pp.filter_genes(adata, min_cells=3)
    return adata


def test_hvg__matches_seurat_v3(golden_dir: Path, expressed: ad.AnnData) -> None:
    expected = pd.read_csv(golden_dir / "seurat_hvg_v3.csv.gz")
    dense = ad.AnnData(expressed.X.compute().toarray(), var=expressed.var)
    for adata in (expressed, dense):
        table = sd.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=1000, inplace=False)
        np.testing.assert_allclose(expected["variance"], table["variances"], **TOLERANCE)
        np.testing.assert_allclose(expected["variance.standardized"], table["variances_norm"], **TOLERANCE)


def test_hvg__matches_seurats_features_for_integration(golden_dir: Path, expressed: ad.AnnData) -> None:
    chosen_by_seurat = pd.Index(pd.read_csv(golden_dir / "seurat_hvg_v3_batch.csv")["x"])
    expressed.obs["dummy_tech"] = ("source_" + pd.array([*range(1, 6), 5]).repeat(500).astype("string"))[
        : expressed.n_obs
    ]
    shares = {}
    for flavor in ("seurat_v3_paper", "seurat_v3"):
        table = sd.pp.highly_variable_genes(
            expressed, n_top_genes=2000, flavor=flavor, batch_key="dummy_tech", inplace=False
        )
        shares[flavor] = len(chosen_by_seurat.intersection(table.index[table["highly_variable"]])) / 2000
    assert shares["seurat_v3_paper"] > 0.95 > shares["seurat_v3"]


@pytest.mark.parametrize("kind", KINDS)
def test_rank__matches_the_stored_t_test(golden_dir: Path, kind: str) -> None:
    rng = np.random.RandomState(1234)  # the generator of scanpy's test, in its order
    x = np.multiply(rng.binomial(1, 0.15, (100, 20)), rng.negative_binomial(2, 0.25, (100, 20)))
    x[0:10, 0:5] = np.multiply(rng.binomial(1, 0.9, (10, 5)), rng.negative_binomial(1, 0.5, (10, 5)))
    adata = ad.AnnData(KINDS[kind](sp.csr_matrix(x)))
    adata.obs["true_groups"] = pd.Categorical(np.repeat([0, 1], [10, 90]))
    with np.load(golden_dir / "objs-t-test.npz", allow_pickle=False) as stored:
        names, scores = stored["names"].astype(str), stored["scores"]
    sd.tl.rank_genes_groups(adata, "true_groups", n_genes=20, method="t-test")
    found = adata.uns["rank_genes_groups"]
    for g in range(2):
        np.testing.assert_allclose(found["scores"][str(g)], scores[g], rtol=1e-5, atol=1e-12)
        np.testing.assert_array_equal(found["names"][str(g)], names[g])
    assert found["params"]["use_raw"] is False
