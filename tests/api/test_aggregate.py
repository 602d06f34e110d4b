from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from packaging.version import Version

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.kernels.aggregate import FUNCTIONS
from sc_dask.outside.anndata import named_layers
from sc_dask.testing import lazy, source_of
from tests.laws.registry import N_VARS, counts, logged
from tests.stack import SCANPY

KINDS: dict[str, Any] = {
    "lazy": lambda a: lazy(a, bounds=[0, 0, 1, 40, 43, 90]),
    "ndarray": lambda a: recast(a, lambda x: x.toarray()),
    "csc": lambda a: recast(a, sp.csc_matrix),
    "csr_array": lambda a: recast(a, sp.csr_array),
}


def recast(adata: ad.AnnData, kind: Any) -> ad.AnnData:
    adata.X = kind(adata.X)
    return adata


def start() -> ad.AnnData:
    adata = logged()
    adata.obs["half"] = np.arange(90) % 2
    adata.obs["kept"] = adata.obs["group"] != "b"
    adata.var["set"] = pd.Categorical(["x", "y", "z"] * 20)
    adata.varm["loadings"] = np.random.default_rng(0).normal(size=(N_VARS, 4))
    adata.obsm["table"] = pd.DataFrame(adata.obsm["X_other"], adata.obs_names, ["left", "right"])
    adata.obsm["sparse"] = sp.csr_matrix(np.round(adata.obsm["X_other"]))
    return adata


def assert_scanpys(found: ad.AnnData, theirs: ad.AnnData, axis: str = "obs") -> None:
    assert list(found.obs_names) == list(theirs.obs_names) and list(found.var_names) == list(theirs.var_names)
    groups, other = (found.obs, found.var) if axis == "obs" else (found.var, found.obs)
    their_groups, their_other = (theirs.obs, theirs.var) if axis == "obs" else (theirs.var, theirs.obs)
    if Version("1.12") > SCANPY:
        groups = groups.drop(columns="n_obs_aggregated")
    pd.testing.assert_frame_equal(groups, their_groups)
    pd.testing.assert_frame_equal(other, their_other)
    assert set(dict(named_layers(found))) == set(dict(named_layers(theirs))) and found.X is None
    for f, values in named_layers(theirs):
        assert found.layers[f].dtype == ("int64" if f == "count_nonzero" else "float64")
        # scanpy takes the square of the mean from the mean of squares in single precision, and medians too
        np.testing.assert_allclose(found.layers[f], values, rtol=1e-5, atol=1e-5, err_msg=f)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["group", ["batch", "group"], ["group", "half", "batch"]], ids=str)
def test_aggregate__is_scanpys(by: Any, kind: str) -> None:
    import scanpy as sc

    adata = KINDS[kind](start())
    found = sd.get.aggregate(adata, by, FUNCTIONS)
    assert_scanpys(found, sc.get.aggregate(start(), by, FUNCTIONS))
    sizes = start().obs.groupby(by, observed=True).size()
    assert list(found.obs["n_obs_aggregated"]) == list(sizes) and min(sizes) > 1
    if kind == "lazy":
        assert source_of(adata).passes == 2  # medians need the values of some genes


@pytest.mark.parametrize(
    "options",
    [
        {"layer": "spare", "func": "sum"},
        {"func": ("mean", "var"), "dof": 0},
        {"func": "var", "dof": 2},
        {"func": "median", "obsm": "X_other"},
        {"func": ["sum", "var"], "obsm": "table"},
        {"func": ["sum", "median"], "obsm": "sparse", "axis": 0},
        {"func": FUNCTIONS, "by": "set", "axis": "var"},
        {"func": FUNCTIONS, "by": "set", "axis": 1, "layer": "spare"},
        {"func": ["mean", "median"], "by": ["set", "mt"], "varm": "loadings"},
    ],
    ids=str,
)
def test_aggregate__is_scanpys_elsewhere(options: dict[str, Any]) -> None:
    import scanpy as sc

    options = {"by": "group"} | options
    turned = "varm" in options or options.get("axis") in (1, "var")
    for adata in (start(), lazy(start())):
        found = sd.get.aggregate(adata, **options)
        assert_scanpys(found, sc.get.aggregate(start(), **options), "var" if turned else "obs")


def test_aggregate__names_and_defaults_are_scanpys() -> None:
    import scanpy as sc

    ours, theirs = (inspect.signature(m.aggregate).parameters for m in (sd.get, sc.get))
    facts = [[(p.name, p.kind, p.default) for p in parameters.values()] for parameters in (ours, theirs)]
    assert facts[0] == facts[1]


@pytest.mark.parametrize("cut", [[0, 90], list(range(91)), [0, 0, 33, 90, 90]], ids=["one", "many", "ragged"])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_aggregate__sums_of_counts_are_counts_however_they_are_cut(cut: list[int], scheduler: str) -> None:
    adata = counts()
    adata.X.data[::7] += 2.0**22 - 1  # beyond what single precision adds up
    with dask.config.set(scheduler=scheduler, num_workers=3):
        found = sd.get.aggregate(lazy(adata, bounds=cut), ["group", "batch"], ["sum", "mean", "count_nonzero", "var"])
    x = adata.X.toarray().astype(np.int64)
    for i, (group, batch) in enumerate(zip(found.obs["group"], found.obs["batch"], strict=True)):
        own = x[((adata.obs["group"] == group) & (adata.obs["batch"] == batch)).to_numpy()]
        np.testing.assert_array_equal(found.layers["sum"][i], own.sum(axis=0))
        np.testing.assert_array_equal(found.layers["mean"][i], own.sum(axis=0) / len(own))
        np.testing.assert_allclose(found.layers["var"][i], own.var(axis=0, ddof=1), rtol=1e-12)


def test_aggregate__on_a_client() -> None:
    from distributed import Client, LocalCluster

    alone = sd.get.aggregate(lazy(counts()), "group", FUNCTIONS)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(processes=False, **options) as cluster, Client(cluster):
        found = sd.get.aggregate(lazy(counts(), 5), "group", FUNCTIONS)
    for f in FUNCTIONS:
        np.testing.assert_allclose(found.layers[f], alone.layers[f], rtol=1e-13)


def test_aggregate__a_mask_leaves_cells_out() -> None:
    """scanpy 1.11 divides by the cells of the whole group, and its medians forget the mask."""
    import scanpy as sc

    adata = start()
    mask = (np.arange(90) % 3 > 0) & adata.obs["kept"].to_numpy()
    adata.obs["mask"] = mask
    found = sd.get.aggregate(lazy(adata), "group", FUNCTIONS, mask="mask")
    np.testing.assert_array_equal(found.layers["sum"], sd.get.aggregate(adata, "group", "sum", mask=mask).layers["sum"])
    part = sc.get.aggregate(adata[mask].copy(), "group", FUNCTIONS)
    assert list(found.obs_names) == ["a", "b", "c"] and list(part.obs_names) == ["a", "c"]
    some = found[["a", "c"]]
    for f in FUNCTIONS:
        np.testing.assert_allclose(some.layers[f], part.layers[f], rtol=1e-5, atol=1e-5, err_msg=f)
    assert not found.layers["sum"][1].any() and np.isnan(found.layers["mean"][1]).all()
    n = [int((mask & (adata.obs["group"] == g).to_numpy()).sum()) for g in "abc"]
    assert list(found.obs["n_obs_aggregated"]) == n and n[1] == 0 < n[0]
    theirs = sc.get.aggregate(adata, "group", ["sum", "mean", "median"], mask=mask)
    np.testing.assert_allclose(found.layers["sum"], theirs.layers["sum"], rtol=1e-5)
    if Version("1.12") <= SCANPY:
        for f in ("mean", "median"):
            np.testing.assert_allclose(found.layers[f][[0, 2]], theirs.layers[f][[0, 2]], rtol=1e-5)
        return
    assert np.abs(found.layers["mean"][0] - theirs.layers["mean"][0]).max() > 0.1
    assert np.abs(found.layers["median"][0] - theirs.layers["median"][0]).max() > 0.1


def test_aggregate__one_cell_in_a_group_has_no_variance() -> None:
    adata = counts()
    adata.obs["own"] = ["alone", *["others"] * 89]
    found = sd.get.aggregate(lazy(adata), "own", FUNCTIONS)
    x = adata.X[0].toarray().ravel()
    assert np.isnan(found.layers["var"][0]).all() and np.isfinite(found.layers["var"][1]).all()
    for f in ("sum", "mean", "median"):
        np.testing.assert_array_equal(found.layers[f][0], x)


def test_aggregate__cells_without_a_group_take_no_part() -> None:
    """As in scanpy 1.12; scanpy 1.11 fails for one key and puts such cells into other groups for two."""
    import scanpy as sc

    adata = start()
    adata.obs["group"] = adata.obs["group"].cat.remove_categories("b")
    for by in ("group", ["batch", "group"]):
        found = sd.get.aggregate(adata, by, "sum")
        if Version("1.12") <= SCANPY:
            theirs = sc.get.aggregate(adata, by, "sum")
            assert found.obs_names.tolist() == theirs.obs_names.tolist()
            np.testing.assert_allclose(found.layers["sum"], theirs.layers["sum"])
        known = start()[adata.obs["group"].notna().to_numpy()]
        np.testing.assert_array_equal(found.layers["sum"], sd.get.aggregate(known, by, "sum").layers["sum"])
    adata.obs["none"] = pd.Categorical([None] * adata.n_obs)
    with pytest.raises(InputError, match="has no value"):
        sd.get.aggregate(adata, "none", "sum")


def test_aggregate__lazy_tables(tmp_path: Path) -> None:
    adata = start()
    del adata.obsm["table"]
    adata.write_zarr(tmp_path / "a.zarr")
    found = sd.get.aggregate(sd.read(tmp_path / "a.zarr", lazy_obs=True), ["batch", "group"], ["sum", "median"])
    expected = sd.get.aggregate(adata, ["batch", "group"], ["sum", "median"])
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert list(found.var) == list(adata.var) and list(found.var_names) == list(adata.var_names)
    for f in ("sum", "median"):
        np.testing.assert_allclose(found.layers[f], expected.layers[f], rtol=1e-13)
    found.write_h5ad(tmp_path / "pseudobulk.h5ad")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"by": "nobody"}, MissingKeyError, "nobody"),
        ({"by": []}, InputError, "by is empty"),
        ({"func": "max"}, InputError, "func max.*count_nonzero, mean, median, sum, var"),
        ({"func": []}, InputError, "some of"),
        ({"layer": "none"}, MissingKeyError, "none"),
        ({"obsm": "none"}, MissingKeyError, "none"),
        ({"layer": "spare", "obsm": "X_other"}, InputError, "more than one"),
        ({"obsm": "X_other", "axis": "var"}, InputError, "obsm with axis='var'"),
        ({"varm": "loadings", "axis": 0}, InputError, "varm with axis=0"),
        ({"axis": "X"}, InputError, "axis='X'"),
        ({"mask": "nobody"}, MissingKeyError, "nobody"),
        ({"mask": np.ones(3, bool)}, InputError, r"\(3,\)"),
        ({"mask": "half"}, InputError, "int64"),
        ({"mask": np.zeros(90, bool)}, InputError, "mask keeps no obs"),
    ],
    ids=str,
)
def test_aggregate__says_what_is_wrong(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        sd.get.aggregate(lazy(start()), **({"by": "group", "func": "sum"} | options))


def test_aggregate__groups_of_one_name_are_refused() -> None:
    adata = counts()
    adata.obs["x"] = ["a_b" if i % 2 else "a" for i in range(90)]
    adata.obs["y"] = ["c" if i % 2 else "b_c" for i in range(90)]
    with pytest.raises(InputError, match="several groups are called a_b_c"):
        sd.get.aggregate(adata, ["x", "y"], "sum")
