from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError


def cells(n: int = 200) -> ad.AnnData:
    rng = np.random.default_rng(0)
    branch, along = rng.integers(3, size=n), rng.random(n)
    x = np.eye(6)[branch] * np.maximum(along - 0.4, 0)[:, None] * 10 + rng.normal(scale=0.15, size=(n, 6))
    x[:, 5] += np.minimum(along, 0.4) * 10
    return ad.AnnData(x.astype(np.float32))


def test_diffmap__is_scanpys_on_paul15(paul15: ad.AnnData) -> None:
    import scanpy as sc

    sc.tl.diffmap(paul15)
    theirs = paul15.obsm.pop("X_diffmap"), paul15.uns.pop("diffmap_evals")
    sd.tl.diffmap(paul15)
    np.testing.assert_allclose(paul15.uns["diffmap_evals"], theirs[1], atol=1e-5)
    cosine = np.abs((paul15.obsm["X_diffmap"] * theirs[0]).sum(axis=0))
    assert cosine.min() > 0.99999
    assert paul15.obsm["X_diffmap"].dtype == theirs[0].dtype


def test_diffmap__another_graph_by_its_key() -> None:
    adata = cells()
    sd.pp.neighbors(adata, 15, key_added="wide")
    with pytest.raises(MissingKeyError, match="'neighbors' in adata.uns.*pp.neighbors"):
        sd.tl.diffmap(adata)
    with pytest.raises(InputError, match="n_comps=2"):
        sd.tl.diffmap(adata, 2, neighbors_key="wide")
    sd.tl.diffmap(adata, 5, neighbors_key="wide")
    assert adata.obsm["X_diffmap"].shape == (200, 5)


def test_diffmap__of_a_landmark_graph_is_near_that_of_all_cells(tmp_path: Any) -> None:
    import dask

    adata = cells(2000)
    adata.obsm["X_pca"] = adata.X
    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
        sd.pp.neighbors(adata, 15, use_rep="X_pca")
        sd.tl.diffmap(adata, 5)
        plain, values = adata.obsm["X_diffmap"], adata.uns["diffmap_evals"]
        sd.pp.neighbors(adata, 15, use_rep="X_pca", compact=True)
        sd.tl.diffmap(adata, 5)
        # three of the eigenvalues are nearly equal: the space is the same, not the vectors
        assert np.linalg.svd(adata.obsm["X_diffmap"].T @ plain)[1].min() > 0.97
        assert np.abs(adata.uns["diffmap_evals"] - values).max() < 0.03
        adata.uns["iroot"] = 0
        sd.tl.dpt(adata, 5)
    on_landmarks = adata.obs["dpt_pseudotime"].to_numpy()
    assert on_landmarks[0] == 0 and on_landmarks.max() == 1
