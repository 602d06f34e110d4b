from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask.errors import InputError


def grouped() -> ad.AnnData:
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(4, 6))
    adata = ad.AnnData((np.repeat(centres, 30, axis=0) + rng.normal(size=(120, 6))).astype(np.float32))
    adata.obs["truth"] = pd.Categorical(np.repeat(list("abcd"), 30))
    sd.pp.neighbors(adata, 10)
    return adata


@pytest.mark.parametrize("options", [{}, {"use_weights": True, "random_state": 2}])
def test_louvain__labels_are_scanpys(data_dir: Path, options: dict[str, Any]) -> None:
    import scanpy as sc

    full = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad")
    ours = ad.AnnData(full.X[:, :60], obsm={"X_pca": full.obsm["X_pca"]})
    sc.pp.neighbors(ours)
    theirs = ours.copy()
    sd.tl.louvain(ours, flavor="igraph", **options)
    sc.tl.louvain(theirs, flavor="igraph", **options)
    # igraph numbers communities by size, and scanpy does not seed it: the partitions are alike, not the same.
    assert sd.metrics.ari(ours.obs["louvain"], theirs.obs["louvain"]) > 0.8
    quality = sd.metrics.modularity(ours.obsp["connectivities"], theirs.obs["louvain"])
    assert sd.metrics.modularity(ours.obsp["connectivities"], ours.obs["louvain"]) > quality - 0.01


@pytest.mark.parametrize("flavor", ["igraph", "sc_dask"])
def test_louvain__writes_its_slots(tmp_path: Path, flavor: str) -> None:
    adata = grouped()
    sd.tl.louvain(adata, flavor=flavor)
    assert sd.metrics.ari(adata.obs["louvain"], adata.obs["truth"]) > 0.9
    assert "resolution" not in adata.uns["louvain"]["params"]
    sd.tl.louvain(adata, [0.1, 5], flavor=flavor, key_added="l")
    assert adata.obs["l_0.1"].nunique() < adata.obs["l_5"].nunique()
    out = sd.tl.louvain(adata, 2, flavor=flavor, restrict_to=("truth", ["a", "b"]), copy=True)
    assert out is not None and "louvain_R" not in adata.obs
    assert {c.split(",")[0] for c in out.obs["louvain_R"].cat.categories} == {"a-b", "c", "d"}
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["l_5"]["params"]["flavor"] == flavor


@pytest.mark.parametrize("flavor", ["igraph", "sc_dask"])
def test_louvain__seed_decides(flavor: str) -> None:
    a, b = grouped(), grouped()
    for adata in (a, b):
        sd.tl.louvain(adata, 8, flavor=flavor, random_state=4)
    pd.testing.assert_series_equal(a.obs["louvain"], b.obs["louvain"])


def test_louvain__bad_options_are_named() -> None:
    adata = grouped()
    with pytest.raises(InputError, match="flavor='rapids'"):
        sd.tl.louvain(adata, flavor="rapids")
    with pytest.raises(InputError, match="found resolution=-1"):
        sd.tl.louvain(adata, -1)
    assert "louvain" not in adata.obs
