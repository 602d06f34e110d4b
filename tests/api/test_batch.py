from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.log import stage
from sc_dask.outside.anndata import named_layers
from sc_dask.testing import lazy, source_of


@pytest.fixture()
def adata() -> Any:
    import anndata as ad

    rng = np.random.default_rng(0)
    x = sp.csr_matrix(np.log1p(rng.poisson(1.0, (60, 12))).astype(np.float32))
    obs = pd.DataFrame({"group": pd.Categorical(rng.choice(list("abc"), 60))}, [f"c{i}" for i in range(60)])
    return ad.AnnData(x, obs, pd.DataFrame(index=[f"g{i}" for i in range(12)]))


def test_batch__gives_what_single_calls_give_in_one_pass(adata: Any) -> None:
    one, alone = lazy(adata, 5), lazy(adata, 5)
    with stage("batch") as s, sd.batch() as batch:
        batch.tl.rank_genes_groups(one, "group")
        batch.tl.rank_genes_groups(one, "group", reference="a", key_added="vs_a", pts=True)
        batch.pp.highly_variable_genes(one, n_top_genes=5)
        qc = batch.pp.calculate_qc_metrics(one, percent_top=None)
        table = batch.get.obs_df(one, ["g3", "group"])
        assert source_of(one).passes == 0
    assert source_of(one).passes == 1 and s.passes == 1
    sd.tl.rank_genes_groups(alone, "group")
    sd.tl.rank_genes_groups(alone, "group", reference="a", key_added="vs_a", pts=True)
    sd.pp.highly_variable_genes(alone, n_top_genes=5)
    pd.testing.assert_frame_equal(table.value, sd.get.obs_df(alone, ["g3", "group"]))
    for got, want in zip(qc.value, sd.pp.calculate_qc_metrics(alone, percent_top=None), strict=True):
        pd.testing.assert_frame_equal(got, want)
    for key in ("rank_genes_groups", "vs_a"):
        pd.testing.assert_frame_equal(
            sd.get.rank_genes_groups_df(one, key=key), sd.get.rank_genes_groups_df(alone, key=key)
        )
    pd.testing.assert_frame_equal(one.var, alone.var)


def test_batch__markers_pseudobulk_and_scores_in_one_read(adata: Any) -> None:
    sets = {"one": ["g1", "g5", "g7"], "two": ["g2", "g9"]}
    options: dict[str, Any] = {"n_bins": 3, "ctrl_size": 2}
    one, alone = lazy(adata, 5), lazy(adata, 5)
    sd.tl.score_genes(one, ["g0"], **options)  # the genes' means are known from here on
    source_of(one).forget()
    with sd.batch() as batch:
        batch.tl.rank_genes_groups(one, "group")
        sums = batch.get.aggregate(one, "group", ["sum", "var"])
        batch.tl.score_genes(one, sets, **options)
    assert source_of(one).times_read().tolist() == [1] * 60
    sd.tl.rank_genes_groups(alone, "group")
    sd.tl.score_genes(alone, sets, **options)
    assert source_of(alone).passes == 2  # the first one has taught the genes' sums
    for func, values in named_layers(sd.get.aggregate(alone, "group", ["sum", "var"])):
        np.testing.assert_array_equal(sums.value.layers[func], values)
    pd.testing.assert_frame_equal(sd.get.rank_genes_groups_df(one), sd.get.rank_genes_groups_df(alone))
    pd.testing.assert_frame_equal(one.obs[["one_score", "two_score"]], alone.obs[["one_score", "two_score"]])


def test_batch__several_anndatas(adata: Any) -> None:
    one, other = lazy(adata, 3), lazy(adata[:30].copy(), 3)
    with sd.batch() as batch:
        batch.tl.rank_genes_groups(one, "group")
        batch.tl.rank_genes_groups(other, "group")
    assert source_of(one).passes == source_of(other).passes == 1
    assert not np.array_equal(*(a.uns["rank_genes_groups"]["scores"]["a"] for a in (one, other)))


def test_batch__one_wrong_call_leaves_the_others(adata: Any) -> None:
    with pytest.raises(MissingKeyError, match="no group") as err, sd.batch() as batch:
        wrong = batch.tl.rank_genes_groups(adata, "group", groups=["z"])
        table = batch.get.obs_df(adata, ["g1"])
    assert "in tl.rank_genes_groups of a batch" in err.value.__notes__[0]
    assert table.value.shape == (60, 1) and "rank_genes_groups" not in adata.uns
    with pytest.raises(InputError, match="has not run"):
        _ = wrong.value


def test_batch__refuses_calls_that_need_each_other(adata: Any) -> None:
    adata.obs["n_genes_by_counts"] = 0
    with (
        pytest.raises(InputError, match="names 'n_genes_by_counts', which pp.calculate_qc_metrics"),
        sd.batch() as batch,
    ):
        batch.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
        batch.get.obs_df(adata, ["n_genes_by_counts"])
    assert (adata.obs["n_genes_by_counts"] == 0).all() and "total_counts" not in adata.obs


def test_batch__refuses_what_changes_x(adata: Any) -> None:
    with pytest.raises(InputError, match=r"pp.log1p in a batch; expected one of: get.aggregate"), sd.batch() as batch:
        batch.pp.log1p(adata)


def test_batch__an_error_inside_runs_nothing(adata: Any) -> None:
    x = lazy(adata)
    with pytest.raises(ZeroDivisionError), sd.batch() as batch:
        result = batch.get.obs_df(x, ["g1"])
        1 / 0  # noqa: B018
    assert source_of(x).passes == 0
    with pytest.raises(InputError, match="has not run"):
        _ = result.value


def test_batch__names_what_can_be_batched() -> None:
    batch = sd.batch()
    assert dir(batch.get) == ["aggregate", "obs_df"] and "rank_genes_groups" in dir(batch.tl)
