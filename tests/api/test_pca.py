from __future__ import annotations

from typing import Any

import anndata as ad
import dask
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.array.pca import solvers
from sc_dask.errors import InputError, MemoryBudgetError, MissingKeyError
from sc_dask.testing import lazy, source_of
from tests.laws.registry import N_OBS, N_VARS, logged


def assert_scanpys(ours: ad.AnnData, theirs: ad.AnnData, keys: tuple[str, str, str] = ("X_pca", "PCs", "pca")) -> None:
    obsm, varm, uns = keys
    cosines = (ours.varm[varm] * theirs.varm[varm]).sum(axis=0)
    assert np.abs(cosines).min() > 0.9999
    np.testing.assert_allclose(ours.obsm[obsm] * np.sign(cosines), theirs.obsm[obsm], atol=1e-3)
    for c in ("variance", "variance_ratio"):
        np.testing.assert_allclose(ours.uns[uns][c], theirs.uns[uns][c], rtol=1e-4)


@pytest.mark.parametrize("zero_center", [True, False])
@pytest.mark.parametrize("solver", [None, "gram", "arpack", "full", "covariance_eigh"])
def test_pca__is_scanpys(zero_center: bool, solver: str | None) -> None:
    import scanpy as sc

    adata, expected = lazy(logged()), logged()
    assert sd.pp.pca(adata, n_comps=8, zero_center=zero_center, svd_solver=solver) is None
    sc.pp.pca(expected, n_comps=8, zero_center=zero_center, svd_solver="arpack")
    assert_scanpys(adata, expected)
    assert adata.obsm["X_pca"].shape == (N_OBS, 8) and adata.obsm["X_pca"].dtype == np.float32
    assert adata.varm["PCs"].shape == (N_VARS, 8)
    assert adata.uns["pca"]["params"] == {
        "zero_center": zero_center,
        "use_highly_variable": False,
        "mask_var": None,
        "svd_solver": "gram",
    }


def test_pca__genes_by_default_those_that_vary() -> None:
    import scanpy as sc

    adata, expected = lazy(logged()), logged()
    for x in (adata, expected):
        x.var["highly_variable"] = x.var["picked"]
    sd.pp.pca(adata, n_comps=5)
    sc.pp.pca(expected, n_comps=5)
    assert_scanpys(adata, expected)
    assert (adata.varm["PCs"][1::2] == 0).all()
    assert adata.uns["pca"]["params"]["mask_var"] == "highly_variable" == expected.uns["pca"]["params"]["mask_var"]
    assert adata.uns["pca"]["params"]["use_highly_variable"]
    mask = np.arange(N_VARS) < 30
    for mask_var in (None, "picked", mask):
        sd.pp.pca(adata, n_comps=5, mask_var=mask_var)
        used = (np.abs(adata.varm["PCs"]) > 1e-12).any(axis=1)
        wanted = np.arange(N_VARS) != 7  # the gene that nobody has
        wanted &= True if mask_var is None else mask if mask_var is mask else adata.var["picked"].to_numpy()
        np.testing.assert_array_equal(used, wanted)


def test_pca__number_of_components_by_default() -> None:
    adata = lazy(logged())
    sd.pp.pca(adata)
    assert adata.obsm["X_pca"].shape[1] == 50
    small = lazy(logged()[:30].copy())
    sd.pp.pca(small)
    assert small.obsm["X_pca"].shape[1] == 29
    sd.pp.pca(adata, 3)  # positional, as in scanpy
    assert adata.obsm["X_pca"].shape[1] == 3


@pytest.mark.parametrize(
    "options",
    [
        {"svd_solver": "incremental", "chunk_size": 90},
        {"chunked": True},
        {"svd_solver": "randomized", "random_state": 3},
    ],
    ids=str,
)
def test_pca__other_solvers_find_the_same(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    strong = rng.normal(size=(N_OBS, 4)) * [40, 20, 10, 5] @ rng.normal(size=(4, N_VARS)) + rng.normal(
        size=(N_OBS, N_VARS)
    )
    adata = lazy(ad.AnnData(strong.astype(np.float32)))
    sd.pp.pca(adata, n_comps=3)
    sd.pp.pca(adata, n_comps=3, key_added="other", dtype="float64", **options)
    assert_scanpys(adata, adata, ("X_pca", "PCs", "pca"))
    np.testing.assert_allclose(adata.varm["other"], adata.varm["PCs"], atol=1e-3)
    np.testing.assert_allclose(adata.uns["other"]["variance"], adata.uns["pca"]["variance"], rtol=1e-4)
    assert adata.obsm["other"].dtype == np.float64


@pytest.mark.parametrize(
    ("options", "zero_center"),
    [({"chunked": True}, True), ({"svd_solver": "randomized"}, True), ({"svd_solver": "randomized"}, False)],
    ids=str,
)
def test_pca__other_solvers_on_a_flat_tail(options: dict[str, Any], zero_center: bool) -> None:
    """Counts of few kinds of cell: a few large variances, then noise of nearly the same variance everywhere."""
    rng = np.random.default_rng(0)
    kinds = np.exp(rng.normal(0, 0.7, (12, 1000)))[rng.integers(0, 12, 1300)]
    adata = lazy(ad.AnnData(np.log1p(rng.poisson(kinds)).astype(np.float32)), 3)
    sd.pp.pca(adata, n_comps=15, zero_center=zero_center)
    sd.pp.pca(adata, n_comps=15, zero_center=zero_center, key_added="other", **options)
    cosines = np.abs((adata.varm["PCs"] * adata.varm["other"]).sum(axis=0))
    assert cosines[:11].min() > 0.9999  # what kinds differ in
    assert cosines.min() > (0.999 if "svd_solver" in options else 0.9)
    for c in ("variance", "variance_ratio"):
        rtol = 1e-4 if "svd_solver" in options else 1e-2
        np.testing.assert_allclose(adata.uns["other"][c], adata.uns["pca"][c], rtol=rtol)


def test_pca__a_layer_a_view_and_a_copy() -> None:
    adata = lazy(logged())
    adata.layers["twice"] = logged().X * 2
    copied = sd.pp.pca(adata, n_comps=4, layer="twice", copy=True)
    assert "X_pca" not in adata.obsm
    assert copied.uns["pca"]["params"]["layer"] == "twice"
    sd.pp.pca(adata, n_comps=4)
    np.testing.assert_allclose(copied.obsm["X_pca"], adata.obsm["X_pca"] * 2, rtol=1e-4, atol=1e-4)
    view = lazy(logged())[20:, 10:]
    sd.pp.pca(view, n_comps=4)
    part = logged()[20:, 10:].copy()
    sd.pp.pca(part, n_comps=4)
    np.testing.assert_allclose(view.obsm["X_pca"], part.obsm["X_pca"], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"svd_solver": "jacobi"}, "svd_solver='jacobi'; expected one of: gram, randomized, incremental"),
        ({"chunked": True, "svd_solver": "gram"}, "chunked=True with svd_solver='gram'"),
        ({"chunk_size": 50}, "chunk_size=50 with svd_solver='gram'"),
        ({"chunked": True, "zero_center": False}, "zero_center=False with svd_solver='incremental'"),
        ({"n_comps": 61}, "n_comps=61 for 90 cells and 60 genes; expected a number from 1 to 60"),
        ({"n_comps": 31, "mask_var": "picked"}, "n_comps=31 for 90 cells and 30 genes"),
        ({"n_comps": 0}, "n_comps=0"),
        ({"chunked": True, "chunk_size": 10, "n_comps": 20}, "chunk_size=10; expected at least n_comps=20"),
        ({"mask_var": "absent"}, "no column 'absent' in adata.var"),
        ({"mask_var": np.ones(5, bool)}, r"mask_var of type bool and shape \(5,\)"),
        ({"mask_var": np.arange(60)}, r"mask_var of type int64 and shape \(60,\); expected a boolean array"),
        ({"mask_var": np.zeros(60, bool)}, "mask_var keeps no gene"),
    ],
    ids=str,
)
def test_pca__options_that_do_not_apply(options: dict[str, Any], message: str) -> None:
    adata = lazy(logged())
    with pytest.raises(InputError, match=message):
        sd.pp.pca(adata, **options)
    assert source_of(adata).rows_read == 0 and "X_pca" not in adata.obsm


def test_pca__the_solver_follows_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "GRAM_GENES", 40)
    used = {}
    for asked in (None, "auto", "arpack", "full"):
        for mask in ("picked", None):  # 30 and 60 genes
            adata = lazy(logged())
            told = sd.explain(adata, "pp.pca", n_comps=4, svd_solver=asked, mask_var=mask)
            sd.pp.pca(adata, n_comps=4, svd_solver=asked, mask_var=mask)
            used[asked, mask] = adata.uns["pca"]["params"]["svd_solver"]
            assert told.passes == 1
    assert used == {(a, m): "randomized" if m is None and a != "full" else "gram" for a, m in used}


def test_pca__a_gram_matrix_that_does_not_fit_is_refused() -> None:
    adata = lazy(logged())
    with dask.config.set({"sc-dask.memory": "100kB"}), pytest.raises(MemoryBudgetError, match="60 genes needs 112 KiB"):
        sd.pp.pca(adata, n_comps=4, svd_solver="full")
    assert source_of(adata).rows_read == 0


def test_pca__one_cell_and_no_layer() -> None:
    with pytest.raises(InputError, match="1 cells and 60 genes; expected at least 2 cells"):
        sd.pp.pca(lazy(logged()[:1].copy(), 1), n_comps=1)
    with pytest.raises(MissingKeyError, match="no layer 'nope'"):
        sd.pp.pca(lazy(logged()), layer="nope")


@pytest.mark.parametrize("solver", ["gram", "randomized", "incremental"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_pca__values_that_are_not_finite(solver: str, bad: float) -> None:
    adata = logged()
    adata.X.data[5] = bad
    with pytest.raises(InputError, match="NaN or infinite values"):
        sd.pp.pca(lazy(adata), n_comps=3, svd_solver=solver)
    assert "X_pca" not in adata.obsm
