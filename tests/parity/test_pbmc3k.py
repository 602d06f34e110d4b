"""PBMC3k from counts to markers: the numbers of scanpy's tutorial, and scanpy's own beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.log import stage
from sc_dask.testing import lazy, source_of

RTOL = 1e-6
Module = Any


def flow(adata: ad.AnnData, pp: Module, min_genes: int = 200) -> ad.AnnData:
    """The tutorial up to principal components, with the functions of either library."""
    adata.var["mt"] = adata.var_names.str.startswith("MT-")
    pp.calculate_qc_metrics(adata, qc_vars=["mt"], inplace=True)
    pp.filter_cells(adata, min_genes=min_genes)
    pp.filter_genes(adata, min_cells=3)
    adata = adata[(adata.obs["n_genes_by_counts"] < 2500) & (adata.obs["pct_counts_mt"] < 5)].copy()
    pp.normalize_total(adata, target_sum=1e4)
    pp.log1p(adata)
    pp.highly_variable_genes(adata)
    pp.pca(adata, n_comps=50)
    return adata


@pytest.fixture(scope="module")
def theirs(_pbmc3k: ad.AnnData) -> ad.AnnData:
    import scanpy as sc

    return flow(_pbmc3k.copy(), sc.pp)


Counted = tuple[ad.AnnData, np.ndarray, float]


def counted_flow(counts: ad.AnnData, min_genes: int = 200) -> Counted:
    """Return the result, how often each row was read by the loader, and the passes that the stage reports."""
    adata = lazy(counts, 9)
    source = source_of(adata)
    with stage("to X_pca") as s:
        adata = flow(adata, sd.pp, min_genes)
    return adata, source.times_read(), s.passes


@pytest.fixture(scope="module")
def counted(_pbmc3k: ad.AnnData) -> Counted:
    return counted_flow(_pbmc3k)


@pytest.fixture(scope="module")
def ours(counted: Counted) -> ad.AnnData:
    return counted[0]


def test_pbmc3k__numbers_of_the_tutorial(pbmc3k_counts: ad.AnnData, ours: ad.AnnData) -> None:
    adata = lazy(pbmc3k_counts)
    sd.pp.filter_cells(adata, min_genes=200)
    sd.pp.filter_genes(adata, min_cells=3)
    assert adata.shape == (2700, 13_714) and pbmc3k_counts.n_vars - adata.n_vars == 19_024
    assert ours.shape == (2638, 13_714)
    assert ours.var["highly_variable"].sum() == 1838
    assert isinstance(ours.X, RowBlocks)


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_pbmc3k__columns_are_scanpys(axis: str, ours: ad.AnnData, theirs: ad.AnnData) -> None:
    mine, others = getattr(ours, axis), getattr(theirs, axis)
    assert mine.index.equals(others.index) and set(mine) == set(others)
    numbers = [c for c in others if pd.api.types.is_numeric_dtype(others[c])]
    assert len(numbers) >= 11
    for c in numbers:
        np.testing.assert_allclose(mine[c], others[c], rtol=RTOL, atol=2e-6, err_msg=c)
    assert "highly_variable" not in mine or list(mine["highly_variable"]) == list(others["highly_variable"])


def test_pbmc3k__normalised_values_are_scanpys(ours: ad.AnnData, theirs: ad.AnnData) -> None:
    difference = abs(ours.X.compute() - theirs.X)
    assert difference.max() <= RTOL * theirs.X.max()


def test_pbmc3k__components_are_scanpys(ours: ad.AnnData, theirs: ad.AnnData) -> None:
    cosines = (ours.varm["PCs"] * theirs.varm["PCs"]).sum(axis=0)
    assert np.abs(cosines)[:20].min() > 0.9999
    for c in ("variance", "variance_ratio"):
        np.testing.assert_allclose(ours.uns["pca"][c], theirs.uns["pca"][c], rtol=1e-4)
    scores = ours.obsm["X_pca"][:, :20] * np.sign(cosines)[:20]
    np.testing.assert_allclose(scores, theirs.obsm["X_pca"][:, :20], atol=1e-2)


def test_pbmc3k__at_most_four_reads_to_principal_components(pbmc3k_counts: ad.AnnData, counted: Counted) -> None:
    adata, times_read, passes = counted
    assert adata.obsm["X_pca"].shape == (2638, 50)
    assert times_read.max() == 3 and passes <= 3  # filter_cells dropped nothing: what QC learnt of the genes holds
    fewer, times_read, passes = counted_flow(pbmc3k_counts, min_genes=500)
    assert fewer.n_obs < 2638
    assert times_read.max() == 4 and passes <= 4


def test_pbmc3k__in_memory_the_same(pbmc3k_counts: ad.AnnData, ours: ad.AnnData) -> None:
    adata = flow(pbmc3k_counts, sd.pp)
    assert type(adata.X) is type(pbmc3k_counts.X)
    pd.testing.assert_frame_equal(adata.obs, ours.obs, rtol=RTOL)
    pd.testing.assert_frame_equal(adata.var, ours.var, rtol=RTOL, atol=RTOL)
    np.testing.assert_allclose(adata.obsm["X_pca"], ours.obsm["X_pca"], atol=1e-4)


# -- markers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(theirs: ad.AnnData, data_dir: Path) -> tuple[ad.AnnData, ad.AnnData]:
    """The same logarithmised values twice, lazy and in memory, with the published labels."""
    published = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad")
    adata = theirs.copy()
    adata.obs["louvain"] = published.obs["louvain"].reindex(adata.obs_names)
    assert not adata.obs["louvain"].isna().any()
    return lazy(adata, 6), adata


OPTIONS: dict[str, dict[str, Any]] = {
    "rest": {"pts": True},
    "reference": {"reference": "B cells", "pts": True},
    "overestim_var": {"method": "t-test_overestim_var", "corr_method": "bonferroni"},
    "some groups": {"groups": ["NK cells", "Megakaryocytes"], "rankby_abs": True},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_rank__is_scanpys_gene_by_gene(labelled: tuple[ad.AnnData, ad.AnnData], options: str) -> None:
    import scanpy as sc

    mine, others = labelled
    sd.tl.rank_genes_groups(mine, "louvain", **OPTIONS[options])
    sc.tl.rank_genes_groups(others, "louvain", **{"method": "t-test", **OPTIONS[options]})
    results = [x.uns["rank_genes_groups"] for x in labelled]
    groups = results[0]["names"].dtype.names
    assert groups == results[1]["names"].dtype.names
    for g in groups:
        tables = [
            pd.DataFrame({c: r[c][g] for c in ("names", "scores", "pvals", "pvals_adj", "logfoldchanges")})
            .set_index("names")
            .sort_index()
            for r in results
        ]
        assert tables[0].index.equals(tables[1].index)
        for c in tables[0]:
            # a few highly expressed genes differ by up to 1e-5, where scanpy's variances lose digits (see below)
            near = np.isclose(tables[0][c], tables[1][c], rtol=RTOL, atol=RTOL)
            assert near.mean() > 0.999, f"{g} {c}"
            np.testing.assert_allclose(tables[0][c], tables[1][c], rtol=1e-5, atol=1e-5, err_msg=f"{g} {c}")
        top = [list(r["names"][g][:50]) for r in results]
        assert top[0] == top[1]
        for table in {"pts", "pts_rest"} & set(results[1]):
            np.testing.assert_allclose(results[0][table][g], results[1][table][g].reindex(results[0][table].index))


def test_rank__is_scipys_t_test_of_float64(labelled: tuple[ad.AnnData, ad.AnnData]) -> None:
    from scipy.stats import ttest_ind

    mine, others = labelled
    sd.tl.rank_genes_groups(mine, "louvain", groups=["Dendritic cells"], reference="B cells")
    found = pd.DataFrame({c: mine.uns["rank_genes_groups"][c]["Dendritic cells"] for c in ("names", "scores", "pvals")})
    a, b = (others[others.obs["louvain"] == g].X.toarray().astype(np.float64) for g in ("Dendritic cells", "B cells"))
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = ttest_ind(a, b, equal_var=False)
    order = others.var_names.get_indexer(found["names"])
    np.testing.assert_allclose(found["scores"], np.nan_to_num(expected.statistic[order]), rtol=RTOL, atol=RTOL)
    np.testing.assert_allclose(found["pvals"], np.nan_to_num(expected.pvalue[order], nan=1.0), rtol=1e-9)


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_rank__written_and_read_back_by_scanpys_getter(
    labelled: tuple[ad.AnnData, ad.AnnData], suffix: str, tmp_path: Path
) -> None:
    import scanpy as sc

    sd.tl.rank_genes_groups(labelled[0], "louvain", pts=True)
    sc.tl.rank_genes_groups(labelled[1], "louvain", pts=True, method="t-test")
    small = ad.AnnData(obs=labelled[0].obs[["louvain"]], var=labelled[0].var[[]])
    small.uns["rank_genes_groups"] = labelled[0].uns["rank_genes_groups"]
    path = tmp_path / f"out.{suffix}"
    small.write_zarr(path) if suffix == "zarr" else small.write_h5ad(path)
    back = ad.read_zarr(path) if suffix == "zarr" else ad.read_h5ad(path)
    found, expected = (sc.get.rank_genes_groups_df(x, "NK cells") for x in (back, labelled[1]))
    found, expected = found.head(50), expected.head(50)
    squared = ["scores", "pvals", "pvals_adj"]  # scanpy squares in float32, whose rounding differs between processors
    pd.testing.assert_frame_equal(
        found.drop(columns=squared), expected.drop(columns=squared), check_dtype=False, rtol=RTOL
    )
    pd.testing.assert_frame_equal(found[squared], expected[squared], check_dtype=False, rtol=10 * RTOL)
