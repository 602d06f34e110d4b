from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
from scipy.stats import spearmanr

import sc_dask as sd
from sc_dask.errors import CountsWarning, InputError, ScDaskWarning
from sc_dask.testing import lazy, source_of


def test_scrublet__scanpys_scores_of_pbmc3k(pbmc3k_counts: ad.AnnData) -> None:
    import scanpy as sc

    twin = lazy(pbmc3k_counts, 5)
    sd.pp.scrublet(twin)
    assert source_of(twin).passes == 4
    sc.pp.scrublet(pbmc3k_counts, threshold=0.25)  # None needs scikit-image
    ours, theirs = twin.uns["scrublet"], pbmc3k_counts.uns["scrublet"]
    np.testing.assert_array_equal(ours["doublet_parents"], theirs["doublet_parents"])
    assert ours["parameters"] == theirs["parameters"]
    for a, b in (
        (twin.obs["doublet_score"], pbmc3k_counts.obs["doublet_score"]),
        (ours["doublet_scores_sim"], theirs["doublet_scores_sim"]),
    ):
        equal = np.isclose(a, b, rtol=1e-9)  # but where neighbours are as good as equally far
        assert equal.mean() > 0.995 and np.abs(a - b).max() < 0.01
    assert ours["threshold"] == pytest.approx(0.2499439460, abs=1e-9)  # scanpy's, with scikit-image
    assert int(twin.obs["predicted_doublet"].sum()) == 32


@pytest.fixture(scope="module")
def some(_pbmc3k: ad.AnnData) -> ad.AnnData:
    """600 cells of PBMC3k in two batches, every second gene."""
    adata = _pbmc3k[:600, ::2].copy()
    adata.obs["batch"] = np.random.default_rng(0).choice(["x", "y"], 600)
    return adata


@pytest.mark.parametrize(
    "given",
    [
        {"log_transform": True, "sim_doublet_ratio": 1.5},
        {"mean_center": False, "expected_doublet_rate": 0.1},
        {"normalize_variance": False, "n_neighbors": 10},
        {"mean_center": False, "normalize_variance": False, "n_prin_comps": 10},
        {"knn_dist_metric": "manhattan", "random_state": 3, "use_approx_neighbors": False},
    ],
    ids=str,
)
def test_scrublet__scanpys_scores_with_options(some: ad.AnnData, given: dict[str, Any]) -> None:
    import scanpy as sc

    ours, theirs = some.copy(), some.copy()
    sd.pp.scrublet(ours, threshold=0.3, **given)
    sc.pp.scrublet(theirs, threshold=0.3, **given)
    a, b = ours.obs["doublet_score"], theirs.obs["doublet_score"]
    assert np.isclose(a, b, rtol=1e-6).mean() > 0.97 and spearmanr(a, b)[0] > 0.999
    assert ours.uns["scrublet"]["parameters"] == theirs.uns["scrublet"]["parameters"]
    assert (ours.obs["predicted_doublet"] == theirs.obs["predicted_doublet"]).mean() > 0.99


def test_scrublet__batches_are_scored_alone(some: ad.AnnData) -> None:
    twin = lazy(some, 3)
    options: dict[str, Any] = {"threshold": 0.3, "n_prin_comps": 10}
    sd.pp.scrublet(twin, batch_key="batch", get_doublet_neighbor_parents=True, **options)
    assert source_of(twin).passes == 4
    assert twin.uns["scrublet"]["batched_by"] == "batch"
    for name in "xy":
        rows = (some.obs["batch"] == name).to_numpy()
        alone = some[rows].copy()
        sd.pp.scrublet(alone, **options)
        np.testing.assert_array_equal(twin.obs["doublet_score"][rows], alone.obs["doublet_score"])
        found = twin.uns["scrublet"]["batches"][name]
        np.testing.assert_array_equal(found["doublet_scores_sim"], alone.uns["scrublet"]["doublet_scores_sim"])
        parents = found["doublet_neighbor_parents"]
        assert len(parents) == rows.sum() and max(p.max() for p in parents if len(p)) < rows.sum()


def test_scrublet__doublets_that_are_there_already(some: ad.AnnData) -> None:
    import scanpy as sc

    genes = some[:, np.asarray(some.X.sum(axis=0)).ravel() > 60].copy()
    sim = sc.pp.scrublet_simulate_doublets(genes, sim_doublet_ratio=1.0)
    for a in (genes, sim):
        sc.pp.normalize_total(a, target_sum=1e6)
    ours, theirs = lazy(genes, 3), genes.copy()
    sd.pp.scrublet(ours, sim, threshold=0.3)
    sc.pp.scrublet(theirs, sim, threshold=0.3)
    assert np.isclose(ours.obs["doublet_score"], theirs.obs["doublet_score"], rtol=1e-6).mean() > 0.97
    assert ours.uns["scrublet"]["parameters"] == theirs.uns["scrublet"]["parameters"]
    with pytest.raises(InputError, match="one of them"):
        sd.pp.scrublet(genes, sim, batch_key="batch")
    with pytest.raises(InputError, match="doublet_parents"):
        sd.pp.scrublet(genes, genes)


def test_scrublet__subsampled_and_approximate_scores_are_like_the_others(some: ad.AnnData) -> None:
    scores = {}
    for name, given in (
        ("whole", {}),
        ("approximate", {"use_approx_neighbors": True}),
        ("subsampled", {"synthetic_doublet_umi_subsampling": 0.8}),
    ):
        copied = sd.pp.scrublet(some, threshold=0.3, copy=True, **given)  # type: ignore[arg-type]
        assert copied is not None and "scrublet" not in some.uns
        scores[name] = copied.obs["doublet_score"]
    assert spearmanr(scores["whole"], scores["approximate"])[0] > 0.95
    assert 0.5 < spearmanr(scores["whole"], scores["subsampled"])[0] < 1


def test_scrublet__cells_without_genes_are_not_scored(some: ad.AnnData) -> None:
    adata = some.copy()
    dense = adata.X.toarray()
    dense[7] = 0
    adata.X = dense
    sd.pp.scrublet(adata, threshold=0.3)
    assert np.isnan(adata.obs["doublet_score"].iloc[7]) and not adata.obs["predicted_doublet"].iloc[7]
    assert adata.obs["doublet_score"].notna().sum() == 599


def test_scrublet__without_two_peaks_calls_nobody(some: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sc_dask.kernels.scrublet.valley", lambda _: None)
    with pytest.warns(ScDaskWarning, match="no two peaks"):
        adata = sd.pp.scrublet(some, copy=True)
    assert adata is not None and not adata.obs["predicted_doublet"].any()
    assert "threshold" not in adata.uns["scrublet"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_key": "nothing"}, "no column 'nothing'"),
        ({"n_prin_comps": 600}, "n_prin_comps=600 for 600 cells"),
        ({"expected_doublet_rate": 0}, "expected_doublet_rate=0"),
        ({"stdev_doublet_rate": 0}, "stdev_doublet_rate=0"),
        ({"synthetic_doublet_umi_subsampling": 1.5}, "subsampling=1.5"),
        ({"sim_doublet_ratio": 0}, "sim_doublet_ratio=0"),
        ({"n_neighbors": 0}, "n_neighbors=0"),
        ({"knn_dist_metric": "none"}, "metric='none'"),
    ],
    ids=str,
)
def test_scrublet__refuses_what_it_cannot_do(some: ad.AnnData, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        sd.pp.scrublet(some.copy(), **given)


def test_scrublet__wants_counts(some: ad.AnnData) -> None:
    adata = some.copy()
    adata.X = adata.X * np.float32(0.3)
    with pytest.warns(CountsWarning, match="fractions"):
        sd.pp.scrublet(adata, threshold=0.3)
    adata.X = -adata.X
    with pytest.raises(InputError, match="negative values"):
        sd.pp.scrublet(adata)


def test_scrublet__small_batches_keep_the_scores_of_the_others(some: ad.AnnData) -> None:
    adata = some.copy()
    adata.obs["of"] = np.where(np.arange(600) < 591, adata.obs["batch"].astype(str), "tiny")
    rest = adata[:591].copy()
    twin = lazy(adata, 4)
    with pytest.warns(ScDaskWarning, match=r"NaN\) for 1 of 3 batches.*n_prin_comps=30: 'tiny' \(9 cells\)"):
        sd.pp.scrublet(twin, batch_key="of", threshold=0.3)
    sd.pp.scrublet(rest, batch_key="of", threshold=0.3)
    assert twin.obs["doublet_score"][591:].isna().all() and not twin.obs["predicted_doublet"][591:].any()
    np.testing.assert_allclose(twin.obs["doublet_score"][:591], rest.obs["doublet_score"], rtol=1e-12)
    np.testing.assert_array_equal(twin.obs["predicted_doublet"][:591], rest.obs["predicted_doublet"])
    assert sorted(twin.uns["scrublet"]["batches"]) == ["x", "y"]


def test_scrublet__a_batch_without_variable_genes_is_small_too(some: ad.AnnData) -> None:
    adata = some.copy()
    x = adata.X.toarray()
    x[500:] = x[500]
    adata.X = x
    adata.obs["of"] = np.where(np.arange(600) < 500, "vary", "same")
    with pytest.warns(ScDaskWarning, match="'same'"):
        sd.pp.scrublet(adata, batch_key="of", threshold=0.3)
    assert adata.obs["doublet_score"][:500].notna().all() and adata.obs["doublet_score"][500:].isna().all()


def test_scrublet__all_batches_too_small_is_told_before_a_pass(some: ad.AnnData) -> None:
    adata = some[:50].copy()
    adata.obs["of"] = ["first"] * 24 + ["second"] * 26
    twin = lazy(adata, 2)
    with pytest.raises(InputError, match="n_prin_comps=30 for 26 cells in the largest batch, 'second'"):
        sd.pp.scrublet(twin, batch_key="of")
    assert source_of(twin).passes == 0
