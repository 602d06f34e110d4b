"""Counts to clusters by sc_dask and by scanpy, equal settings, three seeds, on PBMC3k."""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from sklearn.metrics import adjusted_rand_score

import sc_dask as sd

SEEDS = (0, 1, 2)


def components(package: Any, counts: ad.AnnData) -> ad.AnnData:
    adata = counts.copy()
    package.pp.normalize_total(adata, target_sum=1e4)
    package.pp.log1p(adata)
    package.pp.highly_variable_genes(adata, min_mean=0.0125, max_mean=3, min_disp=0.5)
    package.pp.pca(adata)
    return adata


def clusters(package: Any, adata: ad.AnnData, seed: int, flavor: str) -> np.ndarray:
    package.pp.neighbors(adata, n_neighbors=10, n_pcs=40, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scanpy's, of the flavor that will be the default
        package.tl.leiden(adata, random_state=seed, flavor=flavor, n_iterations=2, directed=False)
    return adata.obs["leiden"].to_numpy()


def test_leiden__end_to_end_agrees_like_scanpys_own_seeds(pbmc3k_filtered: ad.AnnData, data_dir: Path) -> None:
    import scanpy as sc

    published = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad").obs["louvain"]
    published = published.reindex(pbmc3k_filtered.obs_names).to_numpy()
    runs = {package: components(package, pbmc3k_filtered) for package in (sd, sc)}
    for flavor in ("leidenalg", "igraph"):
        ours, theirs = ([clusters(p, adata, seed, flavor) for seed in SEEDS] for p, adata in runs.items())
        own = np.median([adjusted_rand_score(a, b) for a, b in combinations(theirs, 2)])
        between = np.median([adjusted_rand_score(a, b) for a, b in zip(ours, theirs, strict=True)])
        mine, its = (np.median([adjusted_rand_score(published, x) for x in labels]) for labels in (ours, theirs))
        print(f"{flavor}: ARI with scanpy {between:.3f}, of scanpy's own seeds {own:.3f}; with published")
        print(f"    {mine:.3f}, scanpy's {its:.3f}")
        assert between >= own - 0.05
        assert abs(mine - its) <= 0.03
