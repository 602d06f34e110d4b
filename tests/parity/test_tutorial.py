"""A tutorial of scanpy with the import changed: every statement runs on a lazy X, plots and files too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest

import sc_dask as sc
from sc_dask.array.blocks import RowBlocks

STATEMENTS = """
sc.settings.verbosity = 3
sc.logging.print_header()
sc.settings.set_figure_params(dpi=80, facecolor="white")
results_file = "write_pbmc3k.h5ad"
adata = sc.read_10x_mtx(MTX, var_names="gene_symbols", cache=True)
adata.var_names_make_unique()
adata
sc.pl.highest_expr_genes(adata, n_top=20, show=False)
sc.pp.filter_cells(adata, min_genes=200)
sc.pp.filter_genes(adata, min_cells=3)
adata.var["mt"] = adata.var_names.str.startswith("MT-")
sc.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, log1p=False, inplace=True)
sc.pl.violin(adata, ["n_genes_by_counts", "total_counts", "pct_counts_mt"], jitter=0.4, multi_panel=True, show=False)
sc.pl.scatter(adata, x="total_counts", y="pct_counts_mt", show=False)
sc.pl.scatter(adata, x="total_counts", y="n_genes_by_counts", show=False)
adata = adata[adata.obs.n_genes_by_counts < 2500, :]
adata = adata[adata.obs.pct_counts_mt < 5, :].copy()
adata.layers["counts"] = adata.X.copy()
sc.pp.normalize_total(adata, target_sum=1e4)
sc.pp.log1p(adata)
sc.pp.highly_variable_genes(adata, min_mean=0.0125, max_mean=3, min_disp=0.5)
sc.pl.highly_variable_genes(adata, show=False)
adata.raw = adata.copy()
adata = adata[:, adata.var.highly_variable]
sc.pp.regress_out(adata, ["total_counts", "pct_counts_mt"])
sc.pp.scale(adata, max_value=10)
sc.tl.pca(adata, svd_solver="arpack")
sc.pl.pca(adata, color="CST3", show=False)
sc.pl.pca_variance_ratio(adata, log=True, show=False)
adata.write(results_file)
sc.pp.neighbors(adata, n_neighbors=10, n_pcs=40)
sc.tl.umap(adata)
sc.pl.umap(adata, color=["CST3", "NKG7", "PPBP"], show=False)
sc.pl.umap(adata, color=["CST3", "NKG7", "PPBP"], use_raw=False, show=False)
sc.tl.leiden(adata, resolution=0.9, random_state=0, flavor="igraph", n_iterations=2, directed=False)
sc.tl.paga(adata)
sc.pl.paga(adata, plot=False)
sc.tl.umap(adata, init_pos="paga")
sc.pl.umap(adata, color=["leiden", "CST3", "NKG7"], show=False)
sc.tl.rank_genes_groups(adata, "leiden", mask_var=None, method="t-test")
sc.pl.rank_genes_groups(adata, n_genes=25, sharey=False, show=False)
sc.settings.verbosity = 2
sc.tl.rank_genes_groups(adata, "leiden", method="wilcoxon")
sc.pl.rank_genes_groups(adata, n_genes=25, sharey=False, show=False)
sc.tl.rank_genes_groups(adata, "leiden", method="logreg", max_iter=1000)
marker_genes = ["IL7R", "CD79A", "MS4A1", "CD8A", "LYZ", "CD14", "GNLY", "NKG7", "FCGR3A", "FCER1A", "CST3", "PPBP"]
pd.DataFrame(adata.uns["rank_genes_groups"]["names"]).head(5)
sc.tl.rank_genes_groups(adata, "leiden", groups=["0"], reference="1", method="wilcoxon")
sc.pl.rank_genes_groups(adata, groups=["0"], n_genes=20, show=False)
sc.pl.rank_genes_groups_violin(adata, groups="0", n_genes=8, show=False)
sc.pl.violin(adata, ["CST3", "NKG7", "PPBP"], groupby="leiden", show=False)
adata.obs["cell_type"] = adata.obs["leiden"].astype(str).astype("category")
sc.pl.umap(adata, color="cell_type", legend_loc="on data", title="", frameon=False, show=False)
sc.pl.dotplot(adata, marker_genes, groupby="leiden", show=False)
sc.pl.stacked_violin(adata, marker_genes, groupby="leiden", show=False)
sc.pl.matrixplot(adata, {"B": ["CD79A", "MS4A1"]}, "leiden", dendrogram=True, show=False)
sc.pl.heatmap(adata, marker_genes, groupby="leiden", show=False)
sc.pl.tracksplot(adata, marker_genes, groupby="leiden", show=False)
sc.tl.dendrogram(adata, "leiden")
sc.pl.dendrogram(adata, "leiden", show=False)
sc.pl.correlation_matrix(adata, "leiden", show=False)
sc.tl.rank_genes_groups(adata, "leiden", method="wilcoxon", key_added="wx", pts=True)
sc.tl.filter_rank_genes_groups(adata, key="wx", min_fold_change=1)
sc.pl.rank_genes_groups_dotplot(adata, key="wx", n_genes=3, show=False)
sc.get.rank_genes_groups_df(adata, group="0", key="wx").head()
sc.get.obs_df(adata, ["CST3", "leiden"]).groupby("leiden", observed=True).mean()
sc.tl.score_genes(adata, ["CST3", "LYZ"], score_name="mono")
sc.tl.embedding_density(adata, basis="umap", groupby="leiden")
sc.pl.embedding_density(adata, basis="umap", groupby="leiden", show=False)
sc.tl.diffmap(adata)
adata.uns["iroot"] = 0
sc.tl.dpt(adata)
sc.pl.umap(adata, color="dpt_pseudotime", show=False)
ref = adata[:1300].copy()
query = adata[1300:].copy()
sc.pp.pca(ref); sc.pp.neighbors(ref); sc.tl.umap(ref)
sc.tl.ingest(query, ref, obs="leiden")
both = sc.concat([ref, query], label="part", keys=["ref", "query"])
sc.pp.sample(adata, n=500, copy=True) if hasattr(sc.pp, "sample") else None
adata.raw.to_adata().write("without_raw.h5ad")
adata.write(results_file, compression="gzip")
adata.obs[["n_genes_by_counts", "leiden"]].to_csv("obs.csv")
again = sc.read(results_file)
sc.pl.umap(again, color=["leiden", "CST3"], show=False)
"""


@pytest.mark.filterwarnings("ignore")
def test_tutorial__runs_with_the_import_changed(
    pbmc3k_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sc.settings, "cachedir", tmp_path / "cache")
    verbosity = sc.settings.verbosity
    names: dict[str, Any] = {"sc": sc, "pd": pd, "MTX": pbmc3k_dir}
    failed = {}
    try:
        for statement in STATEMENTS.strip().splitlines():
            try:
                exec(statement, names)
            except Exception as err:  # each statement is told, not the first alone
                failed[statement] = err
            plt.close("all")
    finally:
        sc.settings.verbosity = verbosity
        plt.rcdefaults()
    assert failed == {}
    adata = names["adata"]
    assert isinstance(adata.X, RowBlocks) and adata.shape == (2638, 1838)
    assert 7 <= adata.obs["leiden"].nunique() <= 10
    assert {"write_pbmc3k.h5ad", "without_raw.h5ad", "obs.csv"} <= set(os.listdir())
