from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from sc_dask.testing import lazy, source_of
from tests.laws.registry import counts, logged

SET, OTHER = ["gene1", "gene5", "gene40"], [f"gene{i}" for i in range(10, 18)]
OPTIONS: list[dict[str, Any]] = [
    {"ctrl_size": 5},
    {"ctrl_size": 50, "ctrl_as_ref": False, "n_bins": 7},
    {"ctrl_size": 3, "random_state": 7, "score_name": "mine", "n_bins": 10},
    {"ctrl_size": 4, "gene_pool": [f"gene{i}" for i in range(59, 0, -2)], "ctrl_as_ref": False, "n_bins": 6},
    {"ctrl_size": 5, "layer": "spare"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_score_genes__is_scanpys(options: dict[str, Any]) -> None:
    import scanpy as sc

    expected = logged()
    expected.layers["spare"] = expected.layers["spare"] * 2.0
    adata = lazy(expected)
    genes = SET[:2] if "gene_pool" in options else SET
    sc.tl.score_genes(expected, genes, **options)
    assert sd.tl.score_genes(adata, genes, **options) is None
    name = options.get("score_name", "score")
    np.testing.assert_allclose(adata.obs[name], expected.obs[name], atol=1e-6)
    assert adata.obs[name].std() > 0


def test_score_genes__a_pool_of_all_genes_in_another_order_is_used_in_that_order() -> None:
    """scanpy takes means in the order of X then, and gives them to the wrong genes."""
    adata = logged()
    pool = adata.var_names[::-1]
    turned = adata[:, pool].copy()
    sd.tl.score_genes(adata, SET, gene_pool=pool, ctrl_size=3)
    sd.tl.score_genes(turned, SET, ctrl_size=3)
    np.testing.assert_allclose(adata.obs["score"], turned.obs["score"], rtol=1e-9)


def test_score_genes__raw_is_the_default_where_it_is() -> None:
    import scanpy as sc

    expected = logged()
    expected.raw = expected.copy()
    expected = expected[:, expected.var["picked"]].copy()
    adata = expected.copy()
    for tl in (sc.tl, sd.tl):
        found = expected if tl is sc.tl else adata
        tl.score_genes(found, SET, ctrl_size=5)
        tl.score_genes(found, ["gene2", "gene4"], n_bins=6, use_raw=False, score_name="of_x")
    for name in ("score", "of_x"):
        np.testing.assert_allclose(adata.obs[name], expected.obs[name], atol=1e-6)


def test_score_genes__several_sets_share_their_passes_and_give_the_same() -> None:
    adata, one = lazy(logged()), lazy(logged())
    sd.tl.score_genes(adata, {"a": SET, "b": OTHER}, ctrl_size=5)
    assert source_of(adata).passes == 2
    sd.tl.score_genes(one, SET, ctrl_size=5)
    assert source_of(one).passes == 2
    sd.tl.score_genes(one, OTHER, ctrl_size=5, score_name="other")
    assert source_of(one).passes == 3  # the means are known
    np.testing.assert_array_equal(adata.obs["a_score"], one.obs["score"])
    np.testing.assert_array_equal(adata.obs["b_score"], one.obs["other"])


def test_score_genes__sums_that_qc_found_are_not_taken_again() -> None:
    adata, plain = lazy(counts()), counts()
    sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    source_of(adata).forget()
    sd.tl.score_genes(adata, SET, ctrl_size=5)
    assert source_of(adata).passes == 1
    sd.tl.score_genes(plain, SET, ctrl_size=5)
    np.testing.assert_array_equal(adata.obs["score"], plain.obs["score"])


@pytest.mark.parametrize("dropped", [0, 2, 35])
def test_score_genes__straight_from_counts(dropped: int) -> None:
    """Normalised lazily, with few and many genes dropped before: as of values in memory, and no more passes."""
    names = [f"gene{i}" for i in range(60 - dropped)]
    adata, memory = lazy(counts()), counts()
    found = []
    for a in (adata, memory):
        a = a[:, names].copy()
        sd.pp.normalize_total(a, target_sum=1e4)
        sd.pp.log1p(a)
        sd.tl.score_genes(a, SET[:2], ctrl_size=5, n_bins=5)
        found.append(a)
    assert source_of(adata).passes == 2
    np.testing.assert_allclose(found[0].obs["score"], found[1].obs["score"], atol=1e-6)


def test_score_genes_cell_cycle__is_scanpys() -> None:
    import scanpy as sc

    expected = logged()
    adata = lazy(expected)
    options: dict[str, Any] = {"s_genes": SET, "g2m_genes": OTHER, "n_bins": 10, "random_state": 3}
    sc.tl.score_genes_cell_cycle(expected, **options)
    sd.tl.score_genes_cell_cycle(adata, **options)
    assert source_of(adata).passes == 2
    for c in ("S_score", "G2M_score"):
        np.testing.assert_allclose(adata.obs[c], expected.obs[c], atol=1e-6)
    assert list(adata.obs["phase"]) == list(expected.obs["phase"]) and adata.obs["phase"].nunique() == 3


def test_score_genes__random_states() -> None:
    adata = logged()
    for seed in (0, np.random.RandomState(0), 1, None):
        sd.tl.score_genes(adata, OTHER, ctrl_size=2, n_bins=4, random_state=seed, score_name=f"by_{type(seed)}{seed}")
    zero, state, one, _ = (adata.obs[c].to_numpy() for c in adata.obs if c.startswith("by_"))
    assert (zero == state).all() and (zero != one).any()


def nan_in(gene: str) -> ad.AnnData:
    adata = logged()
    x = adata.X.toarray()
    x[0, adata.var_names.get_loc(gene)] = np.nan
    adata.X = x
    return adata


@pytest.mark.parametrize("genes", [SET, ["gene3"], ["gene3", "gene5"]], ids=["others", "alone", "one of two"])
def test_score_genes__means_leave_nan_out_as_scanpys_do(genes: list[str]) -> None:
    import scanpy as sc

    ours, theirs = lazy(nan_in("gene3")), nan_in("gene3")
    sd.tl.score_genes(ours, genes, n_bins=2, ctrl_size=5)
    sc.tl.score_genes(theirs, genes, n_bins=2, ctrl_size=5, use_raw=False)
    np.testing.assert_allclose(ours.obs["score"], theirs.obs["score"], atol=1e-6)
    assert ours.obs["score"].isna().any() == (genes == ["gene3"])


def test_score_genes__missing_genes_are_named() -> None:
    adata = logged()
    with pytest.warns(ScDaskWarning, match="'score'.*nobody, nothing"):
        sd.tl.score_genes(adata, [*SET, "nobody", "nothing"], ctrl_size=5)
    other = logged()
    sd.tl.score_genes(other, SET, ctrl_size=5)
    np.testing.assert_array_equal(adata.obs["score"], other.obs["score"])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"gene_list": ["nobody"]}, InputError, "none of the 1 genes of 'score'.*nobody"),
        ({"gene_list": {"x": SET, "y": []}}, InputError, "y_score"),
        ({"gene_list": {}}, InputError, "no set"),
        ({"gene_list": SET, "gene_pool": ["nobody"]}, InputError, "gene_pool"),
        ({"gene_list": SET, "gene_pool": ["gene1", "gene2"]}, MissingKeyError, "gene5, gene40|gene40, gene5"),
        ({"gene_list": SET, "n_bins": 1}, InputError, "n_bins=1"),
        ({"gene_list": SET, "ctrl_size": 0}, InputError, "ctrl_size=0"),
        ({"gene_list": SET, "layer": "none"}, MissingKeyError, "none"),
        ({"gene_list": SET, "use_raw": True}, MissingKeyError, "raw"),
        ({"gene_list": SET, "gene_pool": SET}, InputError, "no control gene is left.*ctrl_as_ref=False"),
    ],
)
def test_score_genes__says_what_is_wrong(options: dict[str, Any], error: type[Exception], said: str) -> None:
    adata = lazy(logged())
    with pytest.raises(error, match=said):
        sd.tl.score_genes(adata, **options)
    assert "score" not in adata.obs


def test_score_genes__names_must_be_unique() -> None:
    adata = logged()
    adata.var_names = ["gene1", *adata.var_names[1:]]
    with pytest.raises(InputError, match="var_names_make_unique"):
        sd.tl.score_genes(adata, SET)


def test_score_genes__an_empty_bin_is_warned_of() -> None:
    adata = logged()
    means = np.asarray(adata.X.mean(axis=0)).ravel()
    top = list(adata.var_names[np.argsort(means)[-1:]])
    with pytest.warns(ScDaskWarning, match="no control genes for 'score' in bin"):
        sd.tl.score_genes(adata, [*top, *OTHER], n_bins=31, ctrl_as_ref=False)


def test_score_genes_cell_cycle__refuses_other_options() -> None:
    with pytest.raises(InputError, match="ctrl_size"):
        sd.tl.score_genes_cell_cycle(logged(), s_genes=SET, g2m_genes=OTHER, ctrl_size=5)
