"""Kang's PBMCs: half of the donors' samples name the cells of the other half."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.testing import lazy


@pytest.fixture(scope="module")
def samples(data_dir: Path) -> tuple[ad.AnnData, ad.AnnData]:
    """Four samples as a reference and the other four as new cells, logarithmised."""
    adata = ad.read_h5ad(data_dir / "kang" / "kang_12k_1287genes_counts.h5ad")
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    known = adata.obs["sample_id"].isin(sorted(adata.obs["sample_id"].unique())[:4]).to_numpy()
    return adata[known].copy(), adata[~known].copy()


@pytest.mark.parametrize("method", ["logreg", "sgd"])
def test_annotate__names_the_cells_of_other_samples(samples: tuple[ad.AnnData, ad.AnnData], method: str) -> None:
    reference, new = samples
    options = {"epochs": 2} if method == "sgd" else {"C": 0.01}
    model = sd.tl.train_annotation(lazy(reference), "cluster_id", method=method, **options)
    found = lazy(new)
    sd.tl.annotate(found, model)
    right = (found.obs["predicted_labels"].astype(str) == new.obs["cluster_id"].astype(str)).to_numpy()
    sure = found.obs["conf_score"].to_numpy() > np.median(found.obs["conf_score"])
    print(f"{method}: right {right.mean():.3f}, surer half {right[sure].mean():.3f}")
    print(f"    confidence {np.percentile(found.obs['conf_score'], [1, 10, 50, 90]).round(3)}")
    assert right.mean() > 0.92 and right[sure].mean() > right.mean() + 0.03


def test_transfer__names_the_cells_of_other_samples(samples: tuple[ad.AnnData, ad.AnnData]) -> None:
    reference, new = (x.copy() for x in samples)
    sd.pp.pca(reference, n_comps=30)
    sd.pp.neighbors(reference)
    sd.tl.ingest(new, reference, obs="cluster_id", embedding_method="pca", inplace=True)
    truth = samples[1].obs["cluster_id"].astype(str)
    ingested = (new.obs["cluster_id"].astype(str) == truth).mean()
    sd.tl.transfer_labels(new, reference, "cluster_id", threshold=None, n_neighbors=30)
    weighed = (new.obs["cluster_id"].astype(str) == truth).mean()
    print(f"ingest {ingested:.3f}, transfer {weighed:.3f}")
    assert min(ingested, weighed) > 0.85
