"""Counts to clusters by sc_dask and by scanpy, equal settings, three seeds, on PBMC3k."""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import sc_dask as sd

SEEDS = (0, 1, 2)


def clusters(package: Any, counts: ad.AnnData, seed: int, flavor: str) -> np.ndarray:
    adata = counts.copy()
    package.pp.normalize_total(adata, target_sum=1e4)
    package.pp.log1p(adata)
    package.pp.highly_variable_genes(adata, min_mean=0.0125, max_mean=3, min_disp=0.5)
    package.pp.pca(adata)
    package.pp.neighbors(adata, n_neighbors=10, n_pcs=40, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scanpy's, of the flavor that will be the default
        package.tl.leiden(adata, random_state=seed, flavor=flavor, n_iterations=2, directed=False)
    return adata.obs["leiden"].to_numpy()


@pytest.mark.parametrize("flavor", ["leidenalg", "igraph"])
def test_leiden__end_to_end_agrees_like_scanpys_own_seeds(
    pbmc3k_filtered: ad.AnnData, data_dir: Path, flavor: str
) -> None:
    import scanpy as sc

    published = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad").obs["louvain"]
    published = published.reindex(pbmc3k_filtered.obs_names).to_numpy()
    ours, theirs = ([clusters(p, pbmc3k_filtered, seed, flavor) for seed in SEEDS] for p in (sd, sc))
    own = np.median([adjusted_rand_score(a, b) for a, b in combinations(theirs, 2)])
    between = np.median([adjusted_rand_score(a, b) for a, b in zip(ours, theirs, strict=True)])
    assert between >= own - 0.05
    to_published = [np.median([adjusted_rand_score(published, labels) for labels in runs]) for runs in (ours, theirs)]
    assert abs(to_published[0] - to_published[1]) <= 0.03
    print(f"{flavor}: ARI with scanpy {between:.3f}, of scanpy's own seeds {own:.3f}, with published {to_published}")
