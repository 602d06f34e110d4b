from __future__ import annotations

import contextlib
from typing import Any

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from tests.api.test_diffmap import cells

COLUMNS = ("dpt_groups", "dpt_order", "dpt_order_indices")


def tree(n: int) -> ad.AnnData:
    adata = cells(n)
    sd.pp.neighbors(adata, 15)
    sd.tl.diffmap(adata)
    adata.uns["iroot"] = int(adata.X[:, 5].argmin())
    return adata


def check_same(adata: ad.AnnData, **options: Any) -> ad.AnnData:
    import scanpy as sc

    theirs = adata.copy()
    sc.tl.dpt(theirs, **options)
    with pytest.warns(ScDaskWarning) if "iroot" not in adata.uns else contextlib.nullcontext():
        sd.tl.dpt(adata, **options)
    if "iroot" in adata.uns:
        np.testing.assert_array_equal(adata.obs["dpt_pseudotime"], theirs.obs["dpt_pseudotime"])
    else:
        assert "dpt_pseudotime" not in adata.obs
    for key in COLUMNS if options.get("n_branchings") else ():
        assert (adata.obs[key].to_numpy() == theirs.obs[key].to_numpy()).all(), key
    for key in ("dpt_changepoints", "dpt_grouptips") if options.get("n_branchings") else ():
        np.testing.assert_array_equal(adata.uns[key], theirs.uns[key])
    return adata


@pytest.mark.parametrize("n_branchings", [0, 3])
def test_dpt__is_scanpys_on_paul15(paul15: ad.AnnData, n_branchings: int) -> None:
    sd.tl.diffmap(paul15)
    found = check_same(paul15, n_branchings=n_branchings)
    assert ("dpt_groups" in found.obs) == (n_branchings > 0)
    if n_branchings:
        assert list(found.obs["dpt_groups"].cat.categories) == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    "options",
    [{"n_branchings": 1}, {"n_branchings": 2, "min_group_size": 0.05}, {"n_branchings": 3, "min_group_size": 40}],
)
@pytest.mark.parametrize("root", [True, False])
@pytest.mark.filterwarnings("ignore:a split left nearly nothing")
def test_dpt__is_scanpys_on_a_branching_process(options: dict[str, Any], root: bool) -> None:
    adata = tree(300)
    if not root:
        del adata.uns["iroot"]
    found = check_same(adata, **options, allow_kendall_tau_shift=root)
    assert found.obs["dpt_groups"].nunique() >= 4


def test_dpt__parts_of_a_graph_are_infinitely_far() -> None:
    adata = cells(120)
    adata.X[60:] += 1000
    sd.pp.neighbors(adata, 10)
    sd.tl.diffmap(adata)
    adata.uns["iroot"] = np.array([7])  # as some files have it
    sd.tl.dpt(adata)
    time = adata.obs["dpt_pseudotime"].to_numpy()
    assert time[7] == 0 and time[:60].max() == 1 and np.isinf(time[60:]).all()
    adata.uns["iroot"] = 7
    check_same(adata, n_branchings=2)


def test_dpt__makes_components_that_are_not_there() -> None:
    adata = cells()
    adata.uns["iroot"] = 0
    sd.pp.neighbors(adata, 15)
    with pytest.warns(ScDaskWarning, match="tl.diffmap"):
        sd.tl.dpt(adata, 15)
    assert adata.obsm["X_diffmap"].shape == (200, 15)


def test_dpt__missing_things_are_named() -> None:
    adata = tree(100)
    root = adata.uns.pop("iroot")
    with pytest.raises(MissingKeyError, match=r"no 'iroot' in adata.uns.*get_loc"):
        sd.tl.dpt(adata)
    for wrong in (100, -1, 0.5, "cell7", [1, 2]):
        adata.uns["iroot"] = wrong
        with pytest.raises(InputError, match="from 0 to 99"):
            sd.tl.dpt(adata)
    adata.uns["iroot"] = root
    with pytest.raises(InputError, match=r"n_dcs=16.*from 1 to 15.*n_comps=16"):
        sd.tl.dpt(adata, 16)
    with pytest.raises(
        InputError, match=r"group of \d+ cells to split|branch without cells"
    ):  # scanpy: argmax of nothing
        sd.tl.dpt(adata, n_branchings=30, min_group_size=1)
    with pytest.raises(MissingKeyError, match=r"no 'other' in adata.uns.*pp.neighbors"):
        sd.tl.dpt(adata, neighbors_key="other")
    assert "dpt_pseudotime" not in adata.obs
