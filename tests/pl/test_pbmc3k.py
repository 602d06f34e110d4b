"""A tutorial's plots of 2,638 blood cells, lazy, beside scanpy's own."""

from __future__ import annotations

from typing import Any

import anndata as ad
import pytest

import sc_dask as sd
from sc_dask.testing import lazy, source_of
from tests.pl.test_plots import holds_the_same

MARKERS = {"B": ["CD79A", "MS4A1"], "NK": ["GNLY", "NKG7"], "T": ["CD3D", "IL7R"], "Mono": ["LYZ", "CST3"]}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("highest_expr_genes", {"n_top": 20, "layer": "counts"}),
    ("violin", {"keys": ["n_genes_by_counts", "total_counts", "pct_counts_mt"], "jitter": 0.4, "multi_panel": True}),
    ("scatter", {"x": "total_counts", "y": "pct_counts_mt"}),
    ("highly_variable_genes", {}),
    ("pca", {"color": "CST3"}),
    ("umap", {"color": ["leiden", "CST3", "NKG7", "PPBP"], "vmax": "p99"}),
    ("dotplot", {"var_names": MARKERS, "groupby": "leiden", "dendrogram": True}),
    ("stacked_violin", {"var_names": MARKERS, "groupby": "leiden"}),
    ("heatmap", {"var_names": MARKERS, "groupby": "leiden"}),
    ("rank_genes_groups", {"n_genes": 25, "sharey": False}),
    ("rank_genes_groups_matrixplot", {"n_genes": 3, "standard_scale": "var"}),
]


@pytest.fixture(scope="module")
def cells(_pbmc3k_filtered: ad.AnnData) -> ad.AnnData:
    adata = _pbmc3k_filtered.copy()
    adata.layers["counts"] = adata.X.copy()
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata, min_mean=0.0125, max_mean=3, min_disp=0.5)
    sd.pp.pca(adata, n_comps=30)
    sd.pp.neighbors(adata, n_neighbors=10)
    sd.tl.leiden(adata)
    sd.tl.umap(adata)
    sd.tl.rank_genes_groups(adata, "leiden", method="t-test")
    return adata


@pytest.mark.parametrize(("name", "given"), CALLS, ids=[name for name, _ in CALLS])
def test_plot__of_pbmc3k_is_scanpys(name: str, given: dict[str, Any], cells: ad.AnnData) -> None:
    adata = lazy(cells, 3)
    holds_the_same(name, adata, cells, given)
    assert source_of(adata).passes <= 1
