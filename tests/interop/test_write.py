"""anndata's own writers on a lazy X, and what scanpy, scipy and numpy do with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError, StoreError

READERS: dict[str, Callable[[Any], ad.AnnData]] = {"h5ad": ad.read_h5ad, "zarr": ad.read_zarr}


def write(adata: ad.AnnData, path: Path) -> None:
    (adata.write_h5ad if path.suffix == ".h5ad" else adata.write_zarr)(path)


def counts(dense: bool = False) -> ad.AnnData:
    m = sp.random(900, 60, 0.2, format="csr", random_state=0, dtype=np.float32)
    m.data = np.ceil(m.data * 9)
    adata = ad.AnnData(m.toarray() if dense else m)
    adata.obs["name"] = [f"cell {i}" for i in range(900)]
    adata.layers["twice"] = adata.X * 2
    adata.raw = adata[:, :50]
    return adata


def dense(x: Any) -> np.ndarray:
    out: np.ndarray = x.toarray() if sp.issparse(x) else np.asarray(x)
    return out


@pytest.fixture(params=["csr", "dense"])
def lazy(request: pytest.FixtureRequest, tmp_path: Path) -> ad.AnnData:
    sd.write(counts(request.param == "dense"), tmp_path / "in.zarr")
    return sd.read(tmp_path / "in.zarr", block_bytes=20_000)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("form", ["as read", "view", "copy of a view", "normalised"])
def test_written_by_anndata__is_exact(lazy: ad.AnnData, kind: str, form: str, tmp_path: Path) -> None:
    expected = counts()
    if form in ("view", "copy of a view"):
        lazy, expected = lazy[100:700, 5:40], expected[100:700, 5:40]
        lazy = lazy.copy() if form == "copy of a view" else lazy
    x = expected.X.toarray()
    if form == "normalised":
        sd.pp.normalize_total(lazy, target_sum=1e3)
        sd.pp.log1p(lazy)
        x = np.log1p(x / np.maximum(x.sum(axis=1, keepdims=True), 1) * 1e3)
    path = tmp_path / f"out.{kind}"
    write(lazy, path)
    found = READERS[kind](path)
    np.testing.assert_allclose(dense(found.X), x, rtol=1e-5)
    np.testing.assert_array_equal(dense(found.layers["twice"]), dense(expected.layers["twice"]))
    np.testing.assert_array_equal(dense(found.raw.X), dense(expected.raw.X))
    assert list(found.obs["name"]) == list(expected.obs["name"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.zarr", path.name]


@pytest.mark.parametrize("kind", READERS)
def test_written_over_what_x_is_read_from__loses_nothing(kind: str, tmp_path: Path) -> None:
    path, expected = tmp_path / f"a.{kind}", counts()
    write(expected, path)
    lazy = sd.read(path, block_bytes=20_000)
    sd.pp.log1p(lazy)
    write(lazy, path)
    np.testing.assert_allclose(dense(READERS[kind](path).X), np.log1p(expected.X.toarray()), rtol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", READERS)
def test_failing__leaves_the_target_as_it_was(kind: str, tmp_path: Path) -> None:
    path, expected = tmp_path / f"a.{kind}", counts()
    write(expected, path)
    lazy = sd.read(path)
    lazy.uns["bad"] = object()
    with pytest.raises(Exception, match="bad|object"):
        write(lazy, path)
    np.testing.assert_array_equal(dense(READERS[kind](path).X), expected.X.toarray())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", READERS)
def test_written_through_a_link__replaces_what_it_points_to(kind: str, lazy: ad.AnnData, tmp_path: Path) -> None:
    real, link = tmp_path / f"real.{kind}", tmp_path / f"link.{kind}"
    write(counts(), real)
    link.symlink_to(real)
    write(lazy, link)
    assert link.is_symlink() and not real.is_symlink()
    assert READERS[kind](real).n_obs == 900


@pytest.mark.parametrize("lazy_obs", [False, True])
def test_sd_write__h5ad(lazy_obs: bool, tmp_path: Path) -> None:
    sd.write(counts(), tmp_path / "in.zarr")
    lazy = sd.read(tmp_path / "in.zarr", lazy_obs=lazy_obs)
    sd.write(lazy, tmp_path / "out.h5ad")
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(dense(found.X), counts().X.toarray())
    assert list(found.obs["name"]) == list(counts().obs["name"]) and found.raw.n_vars == 50
    with pytest.raises(StoreError, match="something at .* already"):
        sd.write(lazy, tmp_path / "out.h5ad")
    sd.write(lazy[:10], tmp_path / "out.h5ad", overwrite=True)
    assert ad.read_h5ad(tmp_path / "out.h5ad").n_obs == 10
    with pytest.raises(InputError, match="for an h5ad file"):
        sd.write(lazy, tmp_path / "other.h5ad", update=True)


# -- numpy, scipy, pandas ------------------------------------------------------------------------

M = counts().X.toarray()
V, W = np.arange(60.0), np.arange(120.0).reshape(60, 2)
CALLS: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    "sum": (lambda x: x.sum(), M.sum()),
    "sum 0": (lambda x: x.sum(axis=0), M.sum(axis=0)),
    "sum 1": (lambda x: x.sum(axis=1), M.sum(axis=1)),
    "sum -1": (lambda x: x.sum(axis=-1), M.sum(axis=-1)),
    "sum keepdims": (lambda x: x.sum(axis=1, keepdims=True), M.sum(axis=1, keepdims=True)),
    "np.sum": (lambda x: np.sum(x, axis=0), M.sum(axis=0)),
    "mean": (lambda x: x.mean(), M.mean()),
    "mean 0": (lambda x: x.mean(axis=0), M.mean(axis=0)),
    "np.mean": (lambda x: np.mean(x, axis=1), M.mean(axis=1)),
    "max 1": (lambda x: x.max(axis=1), M.max(axis=1)),
    "min": (lambda x: x.min(), M.min()),
    "min 0": (lambda x: x.min(axis=0), M.min(axis=0)),
    "@ vector": (lambda x: x @ V, M @ V),
    "@ matrix": (lambda x: x @ W, M @ W),
    "@ sparse": (lambda x: x @ sp.csr_matrix(W), M @ W),
    "vector @": (lambda x: np.ones(900) @ x, M.sum(axis=0)),
    "matrix @": (lambda x: np.ones((2, 900)) @ x, np.ones((2, 900)) @ M),
    "row": (lambda x: x[3], M[3]),
    "last row": (lambda x: x[-1], M[-1]),
    "column": (lambda x: x[:, 5], M[:, 5]),
    "value": (lambda x: x[3, 5], M[3, 5]),
    "part": (lambda x: x[10:20, [1, 4]], M[10:20, [1, 4]]),
    "asarray": (np.asarray, M),
    "toarray": (lambda x: x.toarray(), M),
    "to_memory": (lambda x: x.to_memory(), M),
    "ravel": (np.ravel, M.ravel()),
    "frame": (pd.DataFrame, M),
}


def in_memory(found: Any) -> np.ndarray:
    found = found.compute() if hasattr(found, "compute") else found
    return dense(found)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("part", ["all", "view"])
def test_x__does_what_an_array_does(lazy: ad.AnnData, call: str, part: str) -> None:
    func, expected = CALLS[call]
    x = (lazy if part == "all" else lazy[:, lazy.var_names]).X
    found = in_memory(func(x))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_x__integer_sums_do_not_wrap(tmp_path: Path) -> None:
    x = sp.csr_matrix(np.full((300, 3), 60_000, np.uint16))
    sd.write(ad.AnnData(x), tmp_path / "a.zarr")
    lazy = sd.read(tmp_path / "a.zarr").X
    assert lazy.sum(axis=0).compute().tolist() == [18_000_000] * 3
    assert lazy.sum().dtype == x.toarray().sum().dtype and lazy.max().compute() == 60_000


def test_x__of_selected_cells_has_blocks_without_rows(lazy: ad.AnnData) -> None:
    x = lazy.X[np.array([0, 899])]
    np.testing.assert_array_equal(in_memory(x.max(axis=0)), M[[0, 899]].max(axis=0))
    np.testing.assert_allclose(in_memory(x.mean(axis=1)), M[[0, 899]].mean(axis=1), rtol=1e-6)


def test_x__that_does_not_fit_says_so(lazy: ad.AnnData) -> None:
    with dask.config.set({"sc-dask.memory": "100KiB"}):
        for call in (np.asarray, lambda x: x.toarray(), lambda x: pd.DataFrame(x)):
            with pytest.raises(InputError, match=r"takes 0.0 GiB \(900 x 60 float32\).*next: select cells or genes"):
                call(lazy.X)
        assert np.asarray(lazy[:, :2].X).shape == (900, 2)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_anndata__vectors_and_tables(lazy: ad.AnnData) -> None:
    gene, cell = lazy.var_names[5], lazy.obs_names[4]
    lazy.obs["gene"] = lazy.obs_vector(gene)
    np.testing.assert_array_equal(lazy.obs["gene"], M[:, 5])
    np.testing.assert_array_equal(lazy.var_vector(cell), M[4])
    np.testing.assert_array_equal(lazy[:7].to_df(), M[:7])


def test_repr__tells_shape_kind_blocks_and_steps(lazy: ad.AnnData) -> None:
    kind = "csr" if lazy.X.expression.is_sparse else "dense"
    assert repr(lazy.X).startswith(f"<lazy X: 900 x 60 {kind} float32, ") and repr(lazy.X).endswith(" blocks>")
    sd.pp.normalize_total(lazy, target_sum=1)
    sd.pp.log1p(lazy)
    assert repr(lazy.X).endswith("; steps: logarithm of scaled>")
    assert repr(lazy.X).replace("<", "&lt;").replace(">", "&gt;") in lazy.X._repr_html_()
