from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from sklearn.manifold import trustworthiness

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning


def grouped() -> ad.AnnData:
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(3, 6))
    adata = ad.AnnData((np.repeat(centres, 40, axis=0) + rng.normal(size=(120, 6))).astype(np.float32))
    sd.pp.neighbors(adata, 10)
    return adata


@pytest.fixture(scope="module")
def pbmc3k(data_dir: Path) -> ad.AnnData:
    full = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad")
    adata = ad.AnnData(full.X[:, :60], obsm={"X_pca": full.obsm["X_pca"]})
    sd.pp.neighbors(adata)
    return adata


@pytest.mark.parametrize("init_pos", ["spectral", "multilevel", "random"])
def test_umap__is_as_good_as_umap_learns(pbmc3k: ad.AnnData, init_pos: str) -> None:
    ours, theirs = pbmc3k.copy(), pbmc3k.copy()
    sd.tl.umap(ours, init_pos=init_pos, random_state=1)
    sd.tl.umap(theirs, init_pos=init_pos.replace("multilevel", "spectral"), random_state=1, method="umap-learn")
    for measure in (sd.metrics.trustworthiness, sd.metrics.neighborhood_preservation):
        found = [measure(a.obsm["X_pca"], a.obsm["X_umap"], n_cells=3000) for a in (ours, theirs)]
        assert found[0] > found[1] - 0.01, measure.__name__


def test_umap__umap_learns_coordinates_are_scanpys(pbmc3k: ad.AnnData) -> None:
    import scanpy as sc
    from umap import UMAP

    ours = pbmc3k[::3].copy()
    sd.pp.neighbors(ours)
    theirs = ours.copy()
    sd.tl.umap(ours, random_state=1, method="umap-learn")
    sc.tl.umap(theirs, random_state=1)
    np.testing.assert_allclose(ours.obsm["X_umap"], theirs.obsm["X_umap"], atol=1e-4)
    assert ours.uns["umap"]["params"] == pytest.approx(theirs.uns["umap"]["params"])
    x = ours.obsm["X_pca"]
    direct = UMAP(n_neighbors=15, min_dist=0.5, random_state=1).fit_transform(x)
    trust = [trustworthiness(x, coords, n_neighbors=15) for coords in (ours.obsm["X_umap"], direct)]
    assert abs(trust[0] - trust[1]) < 0.01 and trust[0] > 0.8


def test_umap__keeps_the_graph() -> None:
    adata = grouped()
    before = adata.obsp["connectivities"].copy()
    sd.tl.umap(adata, maxiter=20)
    assert (adata.obsp["connectivities"] != before).nnz == 0


def test_umap__writes_its_slots_and_a_second_key_beside_them(tmp_path: Path) -> None:
    adata = grouped()
    sd.tl.umap(adata, maxiter=20)
    first = adata.obsm["X_umap"].copy()
    sd.tl.umap(adata, maxiter=20, n_components=3, random_state=4, a=1.0, b=1.0, key_added="three")
    np.testing.assert_array_equal(adata.obsm["X_umap"], first)
    assert adata.obsm["three"].shape == (120, 3) and adata.obsm["three"].dtype == np.float32
    assert adata.uns["three"] == {"params": {"a": 1.0, "b": 1.0, "random_state": 4}}
    assert set(adata.uns["umap"]["params"]) == {"a", "b"}
    adata.write_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "a.h5ad").obsm["X_umap"], first)


def test_umap__starts_from_coordinates_of_obsm_or_given() -> None:
    adata = grouped()
    adata.obsm["X_start"] = adata.X[:, :2].copy()
    sd.tl.umap(adata, init_pos="X_start", maxiter=5)
    by_key = adata.obsm["X_umap"].copy()
    out = sd.tl.umap(adata, init_pos=adata.obsm["X_start"], maxiter=5, copy=True)
    assert out is not None
    np.testing.assert_array_equal(out.obsm["X_umap"], by_key)
    sd.tl.umap(adata, init_pos="random", maxiter=5)
    assert not np.array_equal(adata.obsm["X_umap"], by_key)


def test_umap__another_kind_of_graph_is_warned_of() -> None:
    adata = grouped()
    sd.pp.neighbors(adata, 10, method="gauss", key_added="g")
    with pytest.warns(ScDaskWarning, match="method='gauss', not 'umap'"):
        sd.tl.umap(adata, neighbors_key="g", maxiter=5)


def test_umap__missing_things_are_named() -> None:
    adata = grouped()
    with pytest.raises(MissingKeyError, match=r"no 'other' in adata.uns.*pp.neighbors"):
        sd.tl.umap(adata, neighbors_key="other")
    with pytest.raises(InputError, match="method='rapids'"):
        sd.tl.umap(adata, method="rapids")
    with pytest.raises(MissingKeyError, match=r"init_pos='paga'.*tl.paga"):
        sd.tl.umap(adata, init_pos="paga")
    assert "X_umap" not in adata.obsm and "umap" not in adata.uns
