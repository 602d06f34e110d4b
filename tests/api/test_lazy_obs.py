"""Every public function on an AnnData whose obs and var are lazy gives what it gives without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask import slots
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.outside.anndata import named_layers
from sc_dask.slots import in_memory, is_lazy
from tests.io.test_lazy_obs import text_alike
from tests.laws.compare import differences
from tests.laws.registry import FIRST, MAKERS, Case, connected, counts, logged, public

Pair = tuple[ad.AnnData, ad.AnnData]
Open = Callable[[ad.AnnData], Pair]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Write an AnnData and open it with lazy obs and without."""

    def both(adata: ad.AnnData) -> Pair:
        sd.write(adata, tmp_path / "a.zarr", overwrite=True)
        return sd.read(tmp_path / "a.zarr", lazy_obs=True), sd.read(tmp_path / "a.zarr")

    return both


def check_same(found: ad.AnnData, wanted: ad.AnnData) -> None:
    """Compare every column's values and type, then every slot."""
    assert is_lazy(found.obs) and is_lazy(found.var)
    frames = {axis: in_memory(getattr(found, axis)) for axis in ("obs", "var")}
    for axis, frame in frames.items():
        pd.testing.assert_frame_equal(frame, getattr(wanted, axis))
        pd.testing.assert_frame_equal(text_alike(getattr(found, axis).to_memory()), text_alike(getattr(wanted, axis)))
        for key in frame:
            pd.testing.assert_series_equal(sd.get.column(found, key, axis=axis), getattr(wanted, axis)[key])
    slot_names = ("obsm", "varm", "obsp", "varp", "uns")
    others = {s: dict(getattr(found, s)) for s in slot_names}
    plain = ad.AnnData(found.X, **frames, **others, layers=dict(named_layers(found)))
    assert differences(plain, wanted) == []


# -- one function at a time ----------------------------------------------------------------------


@pytest.mark.parametrize("case", FIRST, ids=lambda c: c.id)
@pytest.mark.filterwarnings("ignore")
def test_function__gives_the_same(case: Case, opened: Open) -> None:
    found, wanted = (case.run(adata) for adata in opened(case.start()))
    check_same(found, wanted)


def test_function__none_is_forgotten() -> None:
    assert {case.function for case in FIRST} == set(public()) - MAKERS


@pytest.mark.parametrize(
    ("function", "start", "kwargs"),
    [
        ("pp.filter_cells", counts, {"min_genes": 15}),
        ("pp.filter_genes", counts, {"min_cells": 40}),
        ("pp.normalize_total", counts, {"key_added": "factor"}),
        ("pp.log1p", counts, {}),
        ("pp.pca", logged, {"n_comps": 5}),
        ("pp.neighbors", connected, {"n_neighbors": 5}),
        ("tl.leiden", connected, {}),
        ("tl.umap", connected, {"maxiter": 5}),
        ("tl.rank_genes_groups", logged, {"groupby": "group"}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_function__with_copy_leaves_the_original(
    function: str, start: Callable[[], ad.AnnData], kwargs: dict[str, Any], opened: Open
) -> None:
    lazy, eager = opened(start())
    found, wanted = (public()[function](adata, copy=True, **kwargs) for adata in (lazy, eager))
    check_same(found, wanted)
    check_same(lazy, eager)


def test_highly_variable_genes__subset_and_table(opened: Open) -> None:
    lazy, eager = opened(logged())
    tables = [sd.pp.highly_variable_genes(a, n_top_genes=20, batch_key="batch", inplace=False) for a in (lazy, eager)]
    pd.testing.assert_frame_equal(*tables)
    for adata in (lazy, eager):
        sd.pp.highly_variable_genes(adata, n_top_genes=20, subset=True)
    assert lazy.n_vars == 20
    check_same(lazy, eager)


def test_qc__returns_the_same_tables(opened: Open) -> None:
    lazy, eager = opened(counts())
    for use_raw in (False, True):
        if use_raw:
            for adata in (lazy, eager):
                adata.raw = adata
        found, wanted = (
            sd.pp.calculate_qc_metrics(a, qc_vars=["mt"], percent_top=None, use_raw=use_raw) for a in (lazy, eager)
        )
        for a, b in zip(found, wanted, strict=True):
            pd.testing.assert_frame_equal(a, b)


def test_leiden__divides_one_cluster(opened: Open) -> None:
    lazy, eager = opened(connected())
    for adata in (lazy, eager):
        sd.tl.leiden(adata, restrict_to=("group", ["a"]))
    check_same(lazy, eager)
    assert any(c.startswith("a,") for c in eager.obs["leiden_R"].cat.categories)


def test_get__gives_the_same(opened: Open) -> None:
    start = logged()
    start.var["symbol"] = [f"s{i}" for i in range(start.n_vars)]
    lazy, eager = opened(start)
    for adata in (lazy, eager):
        sd.tl.rank_genes_groups(adata, "group", pts=True)
    for ask in (
        lambda a: sd.get.obs_df(a, ["batch", "gene3", "group"], [("X_other", 1)]),
        lambda a: sd.get.obs_df(a, ["s4", "group"], gene_symbols="symbol", layer="spare"),
        lambda a: sd.get.rank_genes_groups_df(a, gene_symbols="symbol"),
        lambda a: sd.get.column(a, "group").to_frame(),
        lambda a: sd.get.column(a, "mt", axis="var").to_frame(),
    ):
        pd.testing.assert_frame_equal(ask(lazy), ask(eager))
    for a, b in zip(sd.get.batches(lazy, "batch"), sd.get.batches(eager, "batch"), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(sd.get.var_mask(lazy, "picked"), sd.get.var_mask(eager, "picked"))
    for adata in (lazy, eager):
        adata.raw = adata
    pd.testing.assert_frame_equal(*(sd.get.obs_df(a, ["gene3", "group"], use_raw=True) for a in (lazy, eager)))


@pytest.mark.parametrize(
    "ask",
    [
        lambda a: sd.get.column(a, "no such"),
        lambda a: sd.get.column(a, "_index"),
        lambda a: sd.get.obs_df(a, ["no such"]),
        lambda a: sd.get.var_mask(a, "no such"),
        lambda a: sd.pp.calculate_qc_metrics(a, qc_vars=["no such"]),
        lambda a: sd.pp.calculate_qc_metrics(a, qc_vars=["half"]),
        lambda a: sd.pp.highly_variable_genes(a, batch_key="no such"),
        lambda a: sd.tl.rank_genes_groups(a, "no such"),
        lambda a: sd.tl.rank_genes_groups(a, "group", groups=["z"]),
        lambda a: sd.pp.filter_cells(a, min_genes=1000),
    ],
)
def test_errors__are_the_same(ask: Callable[[ad.AnnData], Any], opened: Open) -> None:
    start = counts()
    start.var["half"] = 0.5
    messages = []
    for adata in opened(start):
        with pytest.raises((InputError, MissingKeyError)) as err:
            ask(adata)
        messages.append(str(err.value))
    assert messages[0] == messages[1]


# -- the whole way -------------------------------------------------------------------------------


def atlas() -> ad.AnnData:
    """600 cells with columns of every kind, an unused category, missing values and colours."""
    adata = sd.datasets.simulate(600, 300, n_groups=4, n_batches=3, seed=3)
    i = np.arange(adata.n_obs)
    adata.obs["score"] = (i / 9).astype(np.float32)
    adata.obs["plate"] = i.astype(np.int16)
    adata.obs["fresh"] = i % 2 == 0
    adata.obs["site"] = pd.Categorical.from_codes(i % 2 * 2, ["x", "nowhere", "y"])
    adata.obs["stage"] = pd.Categorical.from_codes(i % 3 - 1, ["late", "early"], ordered=True)
    adata.obs["age"] = pd.array([None if k % 5 == 0 else k for k in i], "Int64")
    adata.obs["smoker"] = pd.array([None if k % 4 == 0 else k % 3 == 0 for k in i], "boolean")
    adata.obs["barcode"] = np.array([f"b{k}" for k in i], object)
    adata.obs["note"] = pd.array([None if k % 6 == 0 else f"n{k}" for k in i], "string")
    adata.var["mt"] = np.arange(adata.n_vars) % 25 == 0
    adata.uns["site_colors"] = ["red", "grey", "blue"]
    return adata


def analyse(adata: ad.AnnData) -> ad.AnnData:
    sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=(50,), inplace=True)
    bound = int(np.quantile(sd.get.column(adata, "n_genes_by_counts"), 0.1)) + 1
    sd.pp.filter_cells(adata, min_genes=bound)
    sd.pp.filter_genes(adata, min_cells=int(np.quantile(sd.get.column(adata, "n_cells_by_counts", axis="var"), 0.1)))
    keep = sd.get.column(adata, "pct_counts_mt").to_numpy() < np.quantile(sd.get.column(adata, "pct_counts_mt"), 0.95)
    adata = adata[keep].copy()
    sd.pp.normalize_total(adata)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata, n_top_genes=100, batch_key="batch")
    sd.pp.pca(adata, n_comps=10)
    sd.pp.neighbors(adata)
    sd.tl.leiden(adata)
    sd.tl.umap(adata, maxiter=20)
    sd.tl.rank_genes_groups(adata, "leiden")
    return adata


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["zarr", "h5ad"])
def test_whole_way__gives_the_same_store(form: str, tmp_path: Path) -> None:
    sd.write(atlas(), tmp_path / "start.zarr")
    path = tmp_path / f"start.{form}"
    if form == "h5ad":
        with ad.settings.override(allow_write_nullable_strings=True):
            ad.read_zarr(tmp_path / "start.zarr").write_h5ad(path, convert_strings_to_categoricals=False)
    results = []
    for name, lazy in (("lazy", True), ("eager", False)):
        adata = analyse(sd.read(path, lazy_obs=lazy))
        results.append((adata, sd.get.obs_df(adata, ["leiden", "site", adata.var_names[0]])))
        sd.write(adata, tmp_path / f"{name}.zarr")
    (found, found_df), (wanted, wanted_df) = results
    assert 300 < found.n_obs < 570 and found.n_vars < 300
    pd.testing.assert_frame_equal(found_df, wanted_df)
    check_same(found, wanted)
    found, wanted = (ad.read_zarr(tmp_path / f"{name}.zarr") for name in ("lazy", "eager"))
    for axis in ("obs", "var"):
        assert list(getattr(found, axis)) == list(getattr(wanted, axis))
        for key in getattr(wanted, axis):
            pd.testing.assert_series_equal(getattr(found, axis)[key], getattr(wanted, axis)[key])
    assert {str(t) for t in wanted.obs.dtypes} >= {"int16", "float32", "bool", "category", "Int64", "boolean", "string"}
    assert differences(found, wanted) == []


@pytest.mark.filterwarnings("ignore")
def test_whole_way__results_go_back_into_the_store(tmp_path: Path) -> None:
    frames = []
    for lazy in (True, False):
        path = tmp_path / f"{lazy}.zarr"
        sd.write(atlas(), path)
        adata = sd.read(path, lazy_obs=lazy)
        sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
        sd.write(adata, path, update=True)
        frames.append(ad.read_zarr(path))
    pd.testing.assert_frame_equal(frames[0].obs, frames[1].obs)
    pd.testing.assert_frame_equal(frames[0].var, frames[1].var)
    assert "pct_counts_mt" in frames[0].obs


def test_journal__is_replayed_on_a_lazy_obs(opened: Open) -> None:
    lazy, eager = opened(counts())
    with slots.journal() as events:
        sd.pp.filter_cells(eager, min_genes=15)
        sd.pp.filter_genes(eager, min_cells=40)
    slots.replay(lazy, events)
    check_same(lazy, eager)
