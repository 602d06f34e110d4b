"""The tutorial of 2,700 blood cells, from the counts of 10x Genomics to named cell types, with X left in its file.

    python examples/pbmc3k.py                       # downloads 7 MB, or takes them from $SC_DASK_DATA
    python examples/pbmc3k.py --folder somewhere

The steps, words and numbers are those of scanpy's tutorial. What differs: X is a zarr store that is read in passes;
after regress_out and scale it is still the counts on disk, and what was regressed out is taken off as blocks go by.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

import sc_dask as sd

# What the tutorial calls a cluster whose best marker is one of these.
MARKERS = {
    "CD4 T": ["IL7R"],
    "B": ["CD79A", "MS4A1"],
    "CD14+ Monocytes": ["CD14", "LYZ"],
    "NK": ["GNLY", "NKG7"],
    "CD8 T": ["CD8A"],
    "FCGR3A+ Monocytes": ["FCGR3A", "MS4A7"],
    "Dendritic": ["FCER1A", "CST3"],
    "Megakaryocytes": ["PPBP"],
}
GENES = [g for genes in MARKERS.values() for g in genes]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("pbmc3k"), help="for what is made (%(default)s)")
    return parser.parse_args()


def counted(folder: Path) -> Any:
    """Convert the counts once, read them lazily, and keep good cells and genes."""
    store = folder / "counts.zarr"
    if not store.exists():
        sd.convert(sd.datasets.pbmc3k_folder(), store)
    adata = sd.read(store)
    adata.var_names_make_unique()
    print(f"{adata.n_obs:,} cells x {adata.n_vars:,} genes")
    sd.pp.filter_cells(adata, min_genes=200)
    sd.pp.filter_genes(adata, min_cells=3)
    print(f"{adata.n_vars:,} genes are in at least 3 cells")
    adata.var["mt"] = adata.var_names.str.startswith("MT-")
    sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, log1p=False, inplace=True)
    good = (adata.obs["n_genes_by_counts"] < 2500) & (adata.obs["pct_counts_mt"] < 5)
    return adata[good.to_numpy()].copy()


def clustered(adata: Any) -> Any:
    """Take out what the depth and the mitochondria of a cell tell, and cluster."""
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata, min_mean=0.0125, max_mean=3, min_disp=0.5)
    adata.raw = adata  # markers are looked for among all genes
    adata = adata[:, adata.var["highly_variable"].to_numpy()].copy()
    print(f"{adata.n_obs:,} cells are left, {adata.n_vars:,} genes vary")
    sd.pp.regress_out(adata, ["total_counts", "pct_counts_mt"])
    sd.pp.scale(adata, max_value=10)
    sd.pp.pca(adata)
    sd.pp.neighbors(adata, n_neighbors=10, n_pcs=40)
    sd.tl.leiden(adata, resolution=0.9, random_state=0, flavor="igraph", n_iterations=2)
    sd.tl.paga(adata, groups="leiden")
    sd.tl.umap(adata, init_pos="paga")
    print(f"{adata.obs['leiden'].nunique()} clusters")
    return adata


def named(adata: Any) -> pd.Series:
    """Name each cluster after the markers that stand out most in it."""
    means = sd.get.obs_df(adata, ["leiden", *GENES], use_raw=True).groupby("leiden", observed=True).mean()
    lead = (means - means.mean()) / means.std()
    names = pd.DataFrame({name: lead[genes].mean(axis=1) for name, genes in MARKERS.items()}).idxmax(axis=1)
    twice = names.groupby(names).cumcount()
    return names.where(twice == 0, names + " " + (twice + 1).astype(str))


def main() -> None:
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    adata = clustered(counted(args.folder))

    sd.tl.rank_genes_groups(adata, "leiden", method="wilcoxon", pts=True)
    sd.tl.rank_genes_groups(adata, "leiden", method="t-test", key_added="t-test")
    sd.tl.rank_genes_groups(adata, "leiden", method="logreg", max_iter=1000, key_added="logreg")
    sd.tl.filter_rank_genes_groups(adata, min_fold_change=1)

    names = named(adata)
    adata.obs["cell_type"] = adata.obs["leiden"].map(names.to_dict()).astype("category")
    sd.tl.dendrogram(adata, "cell_type")
    for cluster, name in names.items():
        wilcoxon = ", ".join(adata.uns["rank_genes_groups"]["names"][cluster][:4])
        print(f"  {cluster}  {name:<20}{(adata.obs['leiden'] == cluster).sum():>6} cells  {wilcoxon}")

    # what a dotplot shows: how much of a gene the cells of a type have, and how many of them have any
    seen = sd.get.obs_df(adata, GENES, use_raw=True)
    types = adata.obs["cell_type"]
    dots = {"mean": seen.groupby(types, observed=True).mean(), "share": (seen > 0).groupby(types, observed=True).mean()}
    pd.concat(dots, axis=1).to_csv(args.folder / "dotplot.csv")
    sd.get.rank_genes_groups_df(adata).to_csv(args.folder / "markers.csv", index=False)
    sd.write(adata, args.folder / "results.zarr", overwrite=True)
    print(f"results: {args.folder / 'results.zarr'}, markers.csv and dotplot.csv beside it")


if __name__ == "__main__":
    main()
