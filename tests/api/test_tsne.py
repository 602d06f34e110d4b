from __future__ import annotations

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from packaging.version import Version

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from sc_dask.testing import lazy
from tests.stack import SCANPY


@pytest.fixture(scope="module")
def pbmc(data_dir: Path) -> ad.AnnData:
    full = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad")
    few = full[:150]
    return ad.AnnData(sp.csr_matrix((150, 80), dtype=np.float32), obsm={"X_pca": few.obsm["X_pca"]})


@pytest.mark.parametrize(
    "options", [{"n_pcs": 10}, {"use_rep": "X_pca", "perplexity": 12, "metric": "cosine", "random_state": 3}]
)
def test_tsne__is_scanpys(pbmc: ad.AnnData, options: dict[str, object]) -> None:
    import scanpy as sc

    ours, theirs = pbmc.copy(), pbmc.copy()
    sc.tl.tsne(theirs, n_jobs=1, **options)
    sd.tl.tsne(ours, n_jobs=1, **options)
    np.testing.assert_allclose(ours.obsm["X_tsne"], theirs.obsm["X_tsne"], rtol=1e-5)
    assert ours.obsm["X_tsne"].dtype == theirs.obsm["X_tsne"].dtype
    if Version("1.12") > SCANPY:
        theirs.uns["tsne"]["params"]["n_components"] = 2
    assert ours.uns["tsne"] == theirs.uns["tsne"]


def test_tsne__in_three_dimensions(pbmc: ad.AnnData) -> None:
    some = pbmc[:120].copy()
    sd.tl.tsne(some, n_pcs=10, n_components=3, perplexity=5)
    assert some.obsm["X_tsne"].shape == (120, 3) and some.uns["tsne"]["params"]["n_components"] == 3
    with pytest.raises(InputError, match="n_components=4; expected 1, 2 or 3"):
        sd.tl.tsne(some, n_components=4)


def test_tsne__of_x_reads_it_once() -> None:
    adata = ad.AnnData(sp.csr_matrix(np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)))
    on_blocks = lazy(adata, 3)  # scanpy: no t-SNE of a sparse X
    sd.tl.tsne(adata, perplexity=5)
    sd.tl.tsne(on_blocks, perplexity=5, key_added="map")
    np.testing.assert_array_equal(on_blocks.obsm["map"], adata.obsm["X_tsne"])
    assert set(on_blocks.uns) == {"map"}


def test_tsne__wrong_things_are_named(pbmc: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="perplexity=150 for 150 cells.*less than 150"):
        sd.tl.tsne(pbmc, perplexity=150)
    with pytest.raises(InputError, match="use_fast_tsne=True"):
        sd.tl.tsne(pbmc, use_fast_tsne=True)
    with pytest.raises(MissingKeyError, match="no 'X_other' in adata.obsm"):
        sd.tl.tsne(pbmc, use_rep="X_other")
    with pytest.raises(InputError, match="n_pcs=99.*at most 50"):
        sd.tl.tsne(pbmc, n_pcs=99)
    holed = pbmc.copy()
    holed.obsm["X_pca"] = np.where(np.arange(50) == 3, np.nan, pbmc.obsm["X_pca"])
    with pytest.raises(InputError, match="NaN or infinity"):
        sd.tl.tsne(holed)
    monkeypatch.setattr(sys.modules["sc_dask.tl.tsne"], "_SLOW", 149)
    with pytest.warns(ScDaskWarning, match=r"150 cells takes hours.*tl.umap"), pytest.raises(InputError):
        sd.tl.tsne(pbmc, perplexity=150)
