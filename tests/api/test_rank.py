from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.testing import lazy, source_of
from tests.laws.registry import N_OBS, N_VARS, logged

RECORDS = ("names", "scores", "pvals", "pvals_adj", "logfoldchanges")


def by_gene(result: dict[str, Any], group: str) -> pd.DataFrame:
    columns = {k: np.asarray(result[k][group]) for k in RECORDS}
    return pd.DataFrame(columns).set_index("names").sort_index()


def assert_scanpys(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["names"].dtype.names == theirs["names"].dtype.names
    for g in ours["names"].dtype.names:
        a, b = by_gene(ours, g), by_gene(theirs, g)
        for c in RECORDS[1:]:
            np.testing.assert_allclose(a[c], b.loc[a.index, c], rtol=1e-5, atol=1e-6, err_msg=f"{g} {c}")
        np.testing.assert_allclose(ours["scores"][g], theirs["scores"][g], rtol=1e-5, atol=1e-6)
    assert {k: v for k, v in ours["params"].items() if k != "mask_var"} == theirs["params"]
    for table in ("pts", "pts_rest"):
        assert (table in ours) == (table in theirs)
        if table in ours:
            pd.testing.assert_frame_equal(ours[table], theirs[table], check_names=False, check_column_type=False)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "t-test_overestim_var"},
        {"reference": "b", "pts": True},
        {"groups": ["a", "c"], "pts": True},
        {"groups": ["a"], "reference": "c"},
        {"corr_method": "bonferroni", "n_genes": 7},
        {"rankby_abs": True, "n_genes": 100},
        {"mask_var": "picked"},
        {"layer": "logged"},
        {"method": "wilcoxon", "pts": True},
        {"method": "wilcoxon", "tie_correct": True, "corr_method": "bonferroni"},
        {"method": "wilcoxon", "reference": "b", "pts": True, "layer": "logged"},
        {"method": "wilcoxon", "reference": "b", "tie_correct": True, "mask_var": "picked"},
        {"method": "wilcoxon", "groups": ["c"], "n_genes": 7, "rankby_abs": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning:scanpy")
def test_rank__is_scanpys(options: dict[str, Any]) -> None:
    import scanpy as sc

    expected = logged()
    expected.layers["logged"] = expected.X / 2
    adata = lazy(expected)
    assert sd.tl.rank_genes_groups(adata, "group", **options) is None
    theirs = dict(options)
    if isinstance(theirs.get("mask_var"), str):
        theirs["mask_var"] = expected.var["picked"].to_numpy()
    sc.tl.rank_genes_groups(expected, "group", **{"method": "t-test", **theirs})
    assert_scanpys(adata.uns["rank_genes_groups"], expected.uns["rank_genes_groups"])


def test_rank__raw_by_default_where_it_is() -> None:
    import scanpy as sc

    expected = logged()
    expected.raw = expected.copy()
    expected = expected[:, :20].copy()
    adata = expected.copy()
    for use_raw in (None, True, False):
        sd.tl.rank_genes_groups(adata, "group", use_raw=use_raw)
        sc.tl.rank_genes_groups(expected, "group", use_raw=use_raw, method="t-test")
        assert_scanpys(adata.uns["rank_genes_groups"], expected.uns["rank_genes_groups"])
        assert adata.uns["rank_genes_groups"]["params"]["use_raw"] == (use_raw is not False)
    with pytest.raises(InputError, match="mask_var has 20 genes, the matrix 60"):
        sd.tl.rank_genes_groups(adata, "group", mask_var=np.ones(20, bool))


def test_rank__cells_without_a_label_belong_to_the_rest() -> None:
    adata = logged()
    adata.obs["part"] = adata.obs["group"].cat.remove_categories("c")
    sd.tl.rank_genes_groups(adata, "part", key_added="part")
    adata.obs["whole"] = adata.obs["group"].astype(str)
    sd.tl.rank_genes_groups(adata, "whole", groups=["a", "b"], key_added="whole")
    for c in RECORDS:
        for g in ("a", "b"):
            np.testing.assert_array_equal(adata.uns["part"][c][g], adata.uns["whole"][c][g])


def test_rank__groups_that_are_numbers_or_unused() -> None:
    adata = lazy(logged())
    adata.obs["number"] = np.arange(N_OBS) % 3
    adata.obs["number"] = adata.obs["number"].astype(pd.CategoricalDtype([0, 1, 2, 3]))
    sd.tl.rank_genes_groups(adata, "number", groups=[0, "2"], reference=1)
    assert adata.uns["rank_genes_groups"]["names"].dtype.names == ("0", "2")
    assert adata.uns["rank_genes_groups"]["params"]["reference"] == 1


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_rank__writes_reads_back_and_scanpy_reads_it(suffix: str, tmp_path: Path) -> None:
    import scanpy as sc

    adata = logged()
    adata.var_names = [f"gène-{i}" for i in range(N_VARS)]
    sd.tl.rank_genes_groups(adata, "group", pts=True)
    sd.tl.rank_genes_groups(adata, "group", reference="b", key_added="vs_b")
    path = tmp_path / f"out.{suffix}"
    adata.write_zarr(path) if suffix == "zarr" else adata.write_h5ad(path)
    back = ad.read_zarr(path) if suffix == "zarr" else ad.read_h5ad(path)
    for key in ("rank_genes_groups", "vs_b"):
        for g in adata.uns[key]["names"].dtype.names:
            ours = sd.get.rank_genes_groups_df(back, g, key=key)
            pd.testing.assert_frame_equal(ours, sd.get.rank_genes_groups_df(adata, g, key=key), check_dtype=False)
            theirs = sc.get.rank_genes_groups_df(back, g, key=key)
            pd.testing.assert_frame_equal(ours[theirs.columns], theirs, check_dtype=False)
            assert set(ours["names"]) == set(adata.var_names)


def test_rank__only_fold_changes_hold_missing_values() -> None:
    adata = logged()
    adata.X = adata.X.toarray() - adata.X.mean()  # scaled data: fold changes of negative means do not exist
    sd.tl.rank_genes_groups(adata, "group", pts=True)
    for c in RECORDS[1:-1]:
        for g in "abc":
            assert np.isfinite(adata.uns["rank_genes_groups"][c][g]).all(), c


@pytest.mark.parametrize("method", ["t-test", "wilcoxon"])
def test_rank__fold_changes_that_are_not_defined_are_scanpys_nan(method: Any, tmp_path: Path) -> None:
    """Of scaled data, where means are negative, and of large counts, whose exponentials overflow."""
    import scanpy as sc

    for change in (lambda a: sc.pp.scale(a), lambda a: setattr(a, "X", a.X * 1000)):
        theirs = logged()[:, logged().X.toarray().any(axis=0)].copy()
        change(theirs)
        ours = lazy(theirs.copy())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # scanpy's
            sc.tl.rank_genes_groups(theirs, "group", method=method)
        sd.tl.rank_genes_groups(ours, "group", method=method)
        for g in "abc":
            a, b = (sc.get.rank_genes_groups_df(x, g).set_index("names") for x in (ours, theirs))
            np.testing.assert_allclose(a["logfoldchanges"], b["logfoldchanges"].reindex(a.index), rtol=1e-3, atol=1e-3)
            assert not np.isfinite(a["logfoldchanges"]).all()
        del ours.X
        sd.write(ours, tmp_path / f"{method}.zarr", overwrite=True)
        again = sd.read(tmp_path / f"{method}.zarr").uns["rank_genes_groups"]["logfoldchanges"]["a"]
        np.testing.assert_array_equal(again, ours.uns["rank_genes_groups"]["logfoldchanges"]["a"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groupby": "nope"}, MissingKeyError, "no column 'nope' in adata.obs"),
        ({"groupby": "group", "groups": "a"}, InputError, r"groups='a'; expected 'all' or a list.*groups=\['a'\]"),
        ({"groupby": "group", "groups": ["a", "z"]}, MissingKeyError, "no group 'z' in obs.* expected one of: a, b, c"),
        ({"groupby": "group", "reference": "z"}, MissingKeyError, "no group 'z'"),
        ({"groupby": "group", "groups": ["a"], "reference": "a"}, InputError, "nothing to compare"),
        ({"groupby": "group", "method": "anova"}, InputError, "method='anova'; expected one of: t-test, "),
        (
            {"groupby": "group", "tie_correct": True},
            InputError,
            "tie_correct=True with method='t-test'; expected .*wilc",
        ),
        ({"groupby": "group", "C": 2}, InputError, "C with method='t-test'; expected method='logreg'"),
        ({"groupby": "group", "method": "logreg", "pts": True}, InputError, "pts or corr_method with method='logreg'"),
        ({"groupby": "group", "method": "logreg", "groups": ["a"]}, InputError, "one group to compare"),
        ({"groupby": "group", "corr_method": "holm"}, InputError, "corr_method"),
        ({"groupby": "group", "layer": "spare", "use_raw": True}, InputError, "both use_raw=True and a layer"),
        ({"groupby": "group", "use_raw": True}, MissingKeyError, "adata.raw is not set"),
        ({"groupby": "group", "layer": "nope"}, MissingKeyError, "no layer 'nope'"),
        ({"groupby": "group", "mask_var": "nope"}, MissingKeyError, "no column 'nope' in adata.var"),
        ({"groupby": "lonely"}, InputError, "groups of fewer than two cells: alone; expected at least two cells"),
        ({"groupby": "same"}, InputError, "nothing to compare: obs.'same'. has the groups all"),
    ],
    ids=str,
)
def test_rank__what_does_not_apply(options: dict[str, Any], error: type, message: str) -> None:
    adata = lazy(logged())
    adata.obs["lonely"] = ["alone"] + ["others"] * (N_OBS - 1)
    adata.obs["same"] = "all"
    with pytest.raises(error, match=message):
        sd.tl.rank_genes_groups(adata, **options)
    assert source_of(adata).rows_read == 0 and "rank_genes_groups" not in adata.uns


@pytest.mark.parametrize("method", ["t-test", "wilcoxon"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rank__values_that_are_no_numbers(method: str, value: float) -> None:
    adata = logged()
    adata.X.data[adata.X.indices == 5] = value
    with pytest.raises(
        InputError, match="NaN or infinite values in 1 genes: gene5; expected finite numbers; next: mask"
    ):
        sd.tl.rank_genes_groups(adata, "group", method=method)
    sd.tl.rank_genes_groups(adata, "group", method=method, mask_var=np.arange(N_VARS) != 5)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_rank__wilcoxon_of_scaled_data_and_a_constant_gene(kind: type) -> None:
    import scanpy as sc

    adata = logged()
    x = adata.X.toarray()
    x = ((x - x.mean(axis=0)) / (x.std(axis=0) + 1)).round(1).astype(kind)
    x[:, 3] = 2.5
    adata.X = x
    expected = adata.copy()
    for reference in ("rest", "b"):
        sd.tl.rank_genes_groups(adata, "group", method="wilcoxon", tie_correct=True, reference=reference)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sc.tl.rank_genes_groups(expected, "group", method="wilcoxon", tie_correct=True, reference=reference)
        for g in adata.uns["rank_genes_groups"]["names"].dtype.names:
            ours, theirs = (by_gene(a.uns["rank_genes_groups"], g) for a in (adata, expected))
            for c in ("scores", "pvals", "pvals_adj"):
                np.testing.assert_allclose(ours[c], theirs.loc[ours.index, c], rtol=1e-6, atol=1e-7)
            assert ours.loc["gene3", "pvals"] == 1


@pytest.mark.parametrize("dtype", ["object", "string"])
def test_rank__a_column_of_text_becomes_scanpys_category(dtype: str) -> None:
    import scanpy as sc

    adata, expected = logged(), logged()
    names = [f"c{i % 11}" for i in range(N_OBS)]
    for a in (adata, expected):
        a.obs["cluster"] = pd.Series(names, a.obs_names, dtype=dtype)
        a.obs["name"] = [f"n{i}" for i in range(N_OBS)]
    sd.tl.rank_genes_groups(adata, "cluster")
    sc.tl.rank_genes_groups(expected, "cluster", use_raw=False)
    assert adata.obs["cluster"].dtype == expected.obs["cluster"].dtype == pd.CategoricalDtype(sorted_naturally(names))
    assert adata.obs["cluster"].tolist() == names
    sd.pp.combat(adata, "cluster")
    with sd.batch() as together:
        together.tl.rank_genes_groups(adata, "cluster")
        together.get.aggregate(adata, by="cluster", func="mean")


def sorted_naturally(names: list[str]) -> list[str]:
    return sorted(set(names), key=lambda n: int(n[1:]))
