"""New cells of PBMC3k in a reference, by sc_dask and by scanpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from packaging.version import Version

import sc_dask as sd
from sc_dask.testing import lazy, source_of
from tests.stack import SCANPY

Halves = tuple[ad.AnnData, ad.AnnData, pd.Series]


@pytest.fixture(scope="module")
def halves(data_dir: Path) -> Halves:
    """Half of PBMC3k as a reference, the other half as new cells, and their published labels."""
    published = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad")
    adata = ad.AnnData(published.layers["log1p"].copy(), published.obs[["louvain"]].copy(), published.var.copy())
    adata.var["highly_variable"] = adata.var["highly_variable_tutorial"].astype(bool)
    first = np.random.default_rng(0).permutation(adata.n_obs) < adata.n_obs // 2
    reference, new = adata[first].copy(), adata[~first].copy()
    sd.pp.pca(reference, n_comps=40)
    sd.pp.neighbors(reference, n_neighbors=10)
    sd.tl.umap(reference)
    return reference, new, new.obs.pop("louvain")


def scanpys(
    new: ad.AnnData, reference: ad.AnnData, monkeypatch: pytest.MonkeyPatch, embedding_method: str
) -> ad.AnnData:
    """Return what scanpy gives, with exact neighbours.

    Its own search fails with pynndescent 0.6: it passes ``n_search_trees``, which is None now, as a number of trees.
    """
    import scanpy as sc
    from scanpy.tools._ingest import Ingest
    from sklearn.neighbors import NearestNeighbors

    class Exact:
        def __init__(self, x: np.ndarray) -> None:
            self.x = x

        def query(self, x: np.ndarray, k: int, epsilon: float) -> Any:
            return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(self.x).kneighbors(x)[::-1]

    exact = lambda self, distances: setattr(self, "_nnd_idx", Exact(self._rep))  # noqa: E731
    monkeypatch.setattr(Ingest, "_init_pynndescent", exact)
    if Version("1.12") > SCANPY:  # it centred new cells at their own mean

        def centred(self: Any, n_pcs: int | None = None) -> Any:
            shown = (a.X[:, self._adata_ref.var["highly_variable"].to_numpy()] for a in (self._adata_new, reference))
            x, ref = (a.toarray() for a in shown)
            return (x - ref.mean(axis=0)) @ self._pca_basis[:, :n_pcs]

        monkeypatch.setattr(Ingest, "_pca", centred)
    out = new.copy()
    sc.tl.ingest(out, reference, obs="louvain", embedding_method=embedding_method)
    return out


def test_ingest__is_scanpys_on_pbmc3k(halves: Halves, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, new, truth = halves
    theirs = scanpys(new, reference, monkeypatch, "pca")
    ours = lazy(new, 4)
    assert sd.tl.ingest(ours, reference, obs="louvain", embedding_method="pca") is None
    assert source_of(ours).passes == 1
    # scanpy leaves its working copy of the representation behind
    assert set(theirs.obsm) - set(ours.obsm) == {"rep"} and set(ours.obs) == set(theirs.obs)
    np.testing.assert_allclose(ours.obsm["X_pca"], theirs.obsm["X_pca"], atol=1e-4)
    assert ours.obs["louvain"].cat.categories.equals(theirs.obs["louvain"].cat.categories)
    agreement = (ours.obs["louvain"] == theirs.obs["louvain"]).mean()
    right = (ours.obs["louvain"] == truth).mean()
    print(f"labels like scanpy's {agreement:.4f}, like the published {right:.3f}")
    assert agreement > 0.998 and right > 0.92


def test_ingest__cells_of_one_kind_get_their_own_label(halves: Halves) -> None:
    """Centred at their own mean, they got the labels of what lies in the middle: 21 to 51 % right."""
    reference, new, truth = halves
    for kind in ("B cells", "NK cells", "CD4 T cells"):
        some = new[(truth == kind).to_numpy()].copy()
        sd.tl.ingest(some, reference, obs="louvain", embedding_method="pca")
        assert (some.obs["louvain"] == kind).mean() > 0.85, kind


def in_layout(reference: ad.AnnData, where: np.ndarray, truth: pd.Series) -> float:
    """Return the share of cells whose 15 nearest reference cells in the layout are mostly of their kind."""
    from sklearn.neighbors import KNeighborsClassifier

    nearest = KNeighborsClassifier(15).fit(reference.obsm["X_umap"], reference.obs["louvain"].astype(str))
    return float((nearest.predict(where) == truth.astype(str)).mean())


@pytest.mark.slow  # umap-learn compiles for half a minute in every process
def test_ingest__positions_are_near_those_of_umap_learn(halves: Halves, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, new, truth = halves
    theirs = scanpys(new, reference, monkeypatch, "umap").obsm["X_umap"]
    ours = new.copy()
    sd.tl.ingest(ours, reference, embedding_method="umap")
    apart = np.median(np.linalg.norm(ours.obsm["X_umap"] - theirs, axis=1))
    mine, its = (in_layout(reference, x, truth) for x in (ours.obsm["X_umap"], theirs))
    print(f"{apart:.2f} apart in a layout that spreads {reference.obsm['X_umap'].std():.2f}; like the published")
    print(f"    {mine:.3f}, scanpy's {its:.3f}")
    assert mine > its - 0.02 and apart < 0.15 * reference.obsm["X_umap"].std()


def test_transfer__on_pbmc3k_doubt_is_where_errors_are(halves: Halves) -> None:
    reference, new, truth = halves
    projected = lazy(new)
    sd.tl.ingest(projected, reference, embedding_method="pca")
    sd.tl.transfer_labels(projected, reference, "louvain", threshold=None)
    right = (projected.obs["louvain"].astype(str) == truth.astype(str)).to_numpy()
    sure = projected.obs["louvain_uncertainty"] < 0.2
    print(f"right {right.mean():.3f}, where sure {right[sure].mean():.3f}, else {right[~sure].mean():.3f}")
    assert right.mean() > 0.92 and right[sure].mean() > right.mean() > right[~sure].mean() + 0.1
