from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError


def drawn(n: int = 400) -> ad.AnnData:
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=n)
    adata = ad.AnnData(np.zeros((n, 1), np.float32))
    adata.obs["group"] = pd.Categorical.from_codes(group, ["x", "y", "z"])
    adata.obs["text"] = np.array(["T10", "T9", "T1"])[group]
    for key, n_dims in (("X_umap", 2), ("X_diffmap", 4), ("X_draw_graph_fa", 2)):
        coords = rng.normal(size=(n, n_dims)) + group[:, None]
        adata.obsm[key] = coords.astype(np.float32)
    return adata


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"groupby": "group"},
        {"groupby": "text", "key_added": "crowd"},
        {"basis": "diffmap", "components": "1,3"},
        {"basis": "diffmap", "components": ["3", "1"], "groupby": "group"},
        {"basis": "fa"},
    ],
)
def test_embedding_density__is_scanpys(options: dict[str, object]) -> None:
    import scanpy as sc

    adata = drawn()
    adata.obs.loc["5", "group"] = np.nan  # counts nowhere, and gets 0
    theirs = adata.copy()
    sc.tl.embedding_density(theirs, **options)
    sd.tl.embedding_density(adata, **options)
    (key,) = set(theirs.obs) - {"group", "text"}
    np.testing.assert_allclose(adata.obs[key], theirs.obs[key], rtol=1e-12, atol=1e-12)
    assert adata.uns[f"{key}_params"] == theirs.uns[f"{key}_params"]


def test_embedding_density__missing_and_wrong_things_are_named() -> None:
    adata = drawn()
    adata.obs["small"] = np.where(np.arange(400) < 2, "few", "many")
    adata.obs["number"] = 0.5
    for found, options in {
        "no 'X_tsne' in adata.obsm.*one of: umap, diffmap": {"basis": "tsne"},
        "components='1,2,3'": {"components": "1,2,3"},
        "components='a,b'": {"components": "a,b"},
        "components='0,1'": {"components": "0,1"},
        r"components \[1, 3\].*at most 2": {"components": "1,3"},
        r"components \[1, 4\].*at most 3": {"components": "1,4", "basis": "diffmap"},
        "no column 'kind'": {"groupby": "kind"},
        "group 'few': found 2 cells": {"groupby": "small"},
        "holds numbers": {"groupby": "number"},
    }.items():
        with pytest.raises(InputError, match=found):
            sd.tl.embedding_density(adata, **options)
    with pytest.raises(MissingKeyError, match="tl.umap"):
        sd.tl.embedding_density(adata, "pca")
    assert not adata.uns
