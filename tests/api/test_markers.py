from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from sc_dask.testing import lazy, source_of
from tests.laws.registry import N_VARS, logged

CUTS = {"min_in_group_fraction": 0.3, "min_fold_change": 0.1, "max_out_group_fraction": 0.95}
KEY = "rank_genes_groups_filtered"


def names(adata: ad.AnnData) -> dict[str, list[str]]:
    """The names by group, with scanpy's NaN as our empty text."""
    records = adata.uns[KEY]["names"]
    return {g: pd.Series(records[g]).fillna("").tolist() for g in records.dtype.names}


# -- filter_rank_genes_groups --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranking", "options"),
    [
        ({"pts": True}, CUTS),
        ({}, CUTS),
        ({"reference": "b"}, CUTS),
        ({"n_genes": 30, "groups": ["c", "a"]}, CUTS | {"compare_abs": True}),
        ({"pts": True}, {}),
        ({"pts": True}, CUTS | {"groupby": "other"}),
        ({"use_raw": True}, CUTS),
        ({"use_raw": True, "pts": True}, CUTS | {"use_raw": False}),
    ],
    ids=str,
)
def test_filter__is_scanpys(ranking: dict[str, Any], options: dict[str, Any]) -> None:
    import scanpy as sc

    expected = logged()
    expected.obs["other"] = pd.Categorical(np.roll(expected.obs["group"], 7))
    expected.raw = expected.copy()
    adata = lazy(expected)
    ranking = {"use_raw": False, "method": "t-test"} | ranking
    for a, x in ((adata, sd), (expected, sc)):
        x.tl.rank_genes_groups(a, "group", **ranking)
    before = source_of(adata).rows_read
    sd.tl.filter_rank_genes_groups(adata, **options)
    sc.tl.filter_rank_genes_groups(expected, **options)
    found = names(adata)
    assert found == names(expected)
    if options:
        assert 0 < sum(name != "" for g in found.values() for name in g) < sum(map(len, found.values()))
    if ranking == {"use_raw": False, "method": "t-test", "pts": True} and "groupby" not in options:
        assert source_of(adata).rows_read == before
    assert adata.uns[KEY]["params"] == adata.uns["rank_genes_groups"]["params"]


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_filter__writes_reads_back_and_scanpy_draws_it(suffix: str, tmp_path: Path) -> None:
    import matplotlib
    import scanpy as sc

    matplotlib.use("agg")
    adata = logged()
    sd.tl.rank_genes_groups(adata, "group")
    sd.tl.filter_rank_genes_groups(adata, **CUTS)
    path = tmp_path / f"out.{suffix}"
    adata.write_zarr(path) if suffix == "zarr" else adata.write_h5ad(path)
    back = ad.read_zarr(path) if suffix == "zarr" else ad.read_h5ad(path)
    assert names(back) == names(adata)
    for group in ("a", None):
        ours, theirs = (x.get.rank_genes_groups_df(back, group, key=KEY) for x in (sd, sc))
        kept = [n for g in ("a", "b", "c") if group in (g, None) for n in names(adata)[g] if n]
        assert ours["names"].tolist() == kept
        pd.testing.assert_frame_equal(ours[theirs.columns], theirs, check_dtype=False, check_categorical=False)
    # more genes than are left: the empty names are not asked for
    plot = sc.pl.rank_genes_groups_dotplot(back, n_genes=N_VARS, key=KEY, show=False, dendrogram=False, return_fig=True)
    assert list(plot.var_names) == sd.get.rank_genes_groups_df(back, key=KEY)["names"].tolist()
    sc.pl.rank_genes_groups(back, key=KEY, show=False)
    matplotlib.pyplot.close("all")


def test_filter__a_table_that_scanpy_filtered_is_read_too() -> None:
    import scanpy as sc

    adata = logged()
    sd.tl.rank_genes_groups(adata, "group", pts=True)
    sc.tl.filter_rank_genes_groups(adata, **CUTS)
    theirs = sd.get.rank_genes_groups_df(adata, key=KEY)
    sd.tl.filter_rank_genes_groups(adata, **CUTS)
    pd.testing.assert_frame_equal(sd.get.rank_genes_groups_df(adata, key=KEY), theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "nope"}, "no 'nope' in adata.uns; expected a marker table; next: tl.rank_genes_groups"),
        ({"groupby": "nope"}, "no column 'nope'"),
        ({"groupby": "batch"}, "no groups a, b, c in obs.'batch'.; expected one of: 0, 1"),
        ({"use_raw": True}, "adata.raw"),
    ],
    ids=str,
)
def test_filter__what_is_not_there(options: dict[str, Any], message: str) -> None:
    adata = logged()
    sd.tl.rank_genes_groups(adata, "group")
    with pytest.raises(MissingKeyError, match=message):
        sd.tl.filter_rank_genes_groups(adata, **options)
    adata.var_names = [f"other{i}" for i in range(N_VARS)]
    with pytest.raises(MissingKeyError, match="no genes gene0, .* in the matrix; expected the genes that were ranked"):
        sd.tl.filter_rank_genes_groups(adata)


# -- marker_gene_overlap -------------------------------------------------------------------------

KNOWN = {"A": {f"gene{i}" for i in range(0, 60, 3)}, "B": ["gene1", "gene2", "gene2"], "C": ["nobody"]}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "overlap_coef", "top_n_markers": 7},
        {"method": "jaccard", "adj_pval_threshold": 0.5},
        {"normalize": "reference", "top_n_markers": 1000},
        {"normalize": "data", "adj_pval_threshold": 0.9},
    ],
    ids=str,
)
def test_overlap__is_scanpys(options: dict[str, Any]) -> None:
    import scanpy as sc

    adata = logged()
    sd.tl.rank_genes_groups(adata, "group")
    found = sd.tl.marker_gene_overlap(adata, KNOWN, **options)
    pd.testing.assert_frame_equal(found, sc.tl.marker_gene_overlap(adata, KNOWN, **options))
    assert (found.loc["A"] > 0).any() and (found.loc["C"] == 0).all()
    assert sd.tl.marker_gene_overlap(adata, KNOWN, inplace=True, key_added="mine", **options) is None
    pd.testing.assert_frame_equal(adata.uns["mine"], found)


def test_overlap__of_filtered_markers_counts_those_that_stay() -> None:
    adata = logged()
    sd.tl.rank_genes_groups(adata, "group")
    sd.tl.filter_rank_genes_groups(adata, **CUTS)
    kept = {g: set(n) - {""} for g, n in names(adata).items()}
    found = sd.tl.marker_gene_overlap(adata, {"all": adata.var_names}, key=KEY, normalize="data")
    assert (found.loc["all"] == 1).all()
    found = sd.tl.marker_gene_overlap(adata, {"all": adata.var_names}, key=KEY)
    assert found.loc["all"].tolist() == [len(k) for k in kept.values()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "nope"}, "no 'nope' in adata.uns"),
        ({"method": "enrich"}, "method='enrich'; expected one of: overlap_count, overlap_coef, jaccard"),
        ({"normalize": "both"}, "normalize='both'"),
        (
            {"normalize": "data", "method": "jaccard"},
            "normalize='data' with method='jaccard'; expected .*overlap_count",
        ),
        ({"top_n_markers": 0}, "top_n_markers=0; expected at least 1"),
        ({"adj_pval_threshold": 1.5}, "adj_pval_threshold=1.5; expected a number from 0 to 1"),
        ({"adj_pval_threshold": 0.1, "top_n_markers": 3}, "both top_n_markers and adj_pval_threshold"),
        ({"reference_markers": {"A": "CD79A"}}, "one text; expected a list or set"),
    ],
    ids=str,
)
def test_overlap__what_does_not_apply(options: dict[str, Any], message: str) -> None:
    adata = logged()
    sd.tl.rank_genes_groups(adata, "group")
    with pytest.raises(InputError, match=message):
        sd.tl.marker_gene_overlap(adata, **({"reference_markers": KNOWN} | options))


def test_overlap__a_group_without_markers_is_told() -> None:
    adata = logged()
    sd.tl.rank_genes_groups(adata, "group")
    with pytest.warns(ScDaskWarning) as said:
        assert (sd.tl.marker_gene_overlap(adata, KNOWN, method="jaccard", adj_pval_threshold=0) == 0).all(axis=None)
    assert [str(w.message) for w in said] == [f"no marker of group {g!r} has a p-value below 0" for g in "abc"]
