"""Stores that we write, read and used by others: anndata, scanpy, scipy, zarr-python in another process."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

import sc_dask as sd
from sc_dask import pipeline

N_OBS, N_VARS = 300, 120
pytestmark = pytest.mark.filterwarnings("ignore")


def counts() -> ad.AnnData:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, N_OBS)
    mean = np.exp(rng.normal(0, 1, (3, N_VARS)))[kind] * rng.lognormal(0, 0.3, (N_OBS, 1))
    x = sp.csr_matrix(rng.poisson(mean).astype(np.float32))
    obs = {"kind": pd.Categorical.from_codes(kind, ["T cell", "B cell", "NK"]), "depth": rng.normal(size=N_OBS)}
    obs |= {"donor": pd.array([None if i % 50 == 0 else f"d{i % 4}" for i in range(N_OBS)], "string")}
    names = [f"{i:05d}-1" for i in range(N_OBS)], [f"{'MT-' if i < 9 else 'GENE'}{i}" for i in range(N_VARS)]
    out = ad.AnnData(x, pd.DataFrame(obs, names[0]), pd.DataFrame({"id": names[1]}, names[1]))
    out.layers["counts"] = x.astype(np.int32)
    out.obsm["X_pca"] = rng.normal(size=(N_OBS, 5)).astype(np.float32)
    out.obsp["weights"] = sp.random(N_OBS, N_OBS, 0.02, "csr", np.float32, random_state=0)
    out.uns["note"] = {"colours": ["#ffffff"], "n": 3}
    return out


def with_counts(adata: ad.AnnData, path: Path) -> Path:
    sd.write(adata, path)
    return path


def from_mtx(adata: ad.AnnData, path: Path) -> Path:
    folder = path.parent / "mtx"
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(adata.X.T.astype(np.int64)))
    (folder / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    (folder / "genes.tsv").write_text("".join(f"id{i}\t{name}\n" for i, name in enumerate(adata.var_names)))
    sd.convert(folder, path)
    return path


def updated(adata: ad.AnnData, path: Path) -> Path:
    adata.write_zarr(path)
    lazy = sd.read(path)
    lazy.obs["late"] = pd.Categorical(["x", "y", "z"] * (N_OBS // 3))
    sd.write(lazy, path, update=True)
    return path


def in_small_shards(adata: ad.AnnData, path: Path) -> Path:
    sd.write(sd.read(with_counts(adata, path.with_suffix(".whole.zarr"))), path, shard_bytes=4096)
    return path


def of_dense(adata: ad.AnnData, path: Path) -> Path:
    adata.X = adata.X.toarray()
    return with_counts(adata, path)


def of_run(adata: ad.AnnData, path: Path) -> Path:
    source = with_counts(adata, path.parent / "in.zarr")
    settings = {"filter": {"min_genes": 1, "min_cells": 1}, "qc": {"percent_top": [20]}, "umap": {"maxiter": 5}}
    settings |= {"pca": {"n_comps": 10}, "input": {"layer": "counts"}, "hvg": {"n_top_genes": 60}}
    pipeline.run(source, path, settings=settings)
    return path


KINDS: dict[str, Callable[[ad.AnnData, Path], Path]] = {
    "zarr": with_counts,
    "shards": in_small_shards,
    "h5ad": lambda adata, path: with_counts(adata, path.with_suffix(".h5ad")),
    "lazy h5ad": lambda adata, path: with_counts(sd.read(with_counts(adata, path)), path.with_suffix(".h5ad")),
    "convert": from_mtx,
    "update": updated,
    "dense": of_dense,
    "run": of_run,
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def path(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[kind](counts(), tmp_path_factory.mktemp("kinds") / "cells.zarr")


def opened(path: Path) -> ad.AnnData:
    return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)


@pytest.fixture
def adata(path: Path) -> ad.AnnData:
    return opened(path)


def raw(adata: ad.AnnData) -> sp.csr_matrix:
    return sp.csr_matrix(adata.layers.get("counts", adata.X))


def test_anndata__reads_what_was_written(adata: ad.AnnData, kind: str) -> None:
    expected = counts()
    assert adata.shape == expected.shape
    assert adata.obs_names.tolist() == expected.obs_names.tolist()
    assert adata.var_names.tolist() == expected.var_names.tolist()
    np.testing.assert_array_equal(raw(adata).toarray(), expected.X.toarray())
    if kind != "convert":
        pd.testing.assert_series_equal(adata.obs["kind"], expected.obs["kind"])
        assert adata.obs["donor"].isna().tolist() == expected.obs["donor"].isna().tolist()
        np.testing.assert_array_equal(adata.obsp["weights"].toarray(), expected.obsp["weights"].toarray())


def test_scipy__every_sparse_matrix_has_one_width_of_indices(adata: ad.AnnData) -> None:
    assert not sp.issparse(adata.X) or adata.X.has_canonical_format
    for x in (adata.X, *(v for k, v in adata.layers.items() if k is not None), *adata.obsp.values()):
        if sp.issparse(x):
            assert x.indices.dtype == x.indptr.dtype == np.int32
            mask = np.arange(x.shape[0]) % 3 == 0
            both = sp.vstack([x[mask], x[~mask]], format="csr")
            assert both.sum() == pytest.approx(x.sum()) and (x.T @ x).shape == (x.shape[1],) * 2
            assert sp.csc_matrix(x)[:, 3].toarray().shape == (x.shape[0], 1)


def test_scanpy__works_on_it(adata: ad.AnnData) -> None:
    import scanpy as sc

    adata.X = raw(adata).astype(np.float32)
    adata.uns.pop("log1p", None)
    adata.var["mt"] = adata.var_names.str.startswith("MT-")
    sc.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
    sc.pp.filter_cells(adata, min_genes=1)
    sc.pp.filter_genes(adata, min_cells=1)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=50)
    sc.pp.pca(adata, n_comps=10)
    sc.pp.neighbors(adata)
    adata.obs["half"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, "a", "b"))
    for method in ("t-test", "wilcoxon"):
        sc.tl.rank_genes_groups(adata, "half", method=method)
    sc.tl.score_genes(adata, list(adata.var_names[:5]))
    assert np.isfinite(adata.obsm["X_pca"]).all()


def test_anndata__writes_joins_and_reads_it_lazily(adata: ad.AnnData, path: Path, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "again.h5ad")
    adata.write_zarr(tmp_path / "again.zarr")
    for again in (ad.read_h5ad(tmp_path / "again.h5ad"), ad.read_zarr(tmp_path / "again.zarr")):
        np.testing.assert_array_equal(raw(again).toarray(), raw(adata).toarray())
    joined = ad.concat({"a": adata, "b": adata}, label="part", index_unique="-")
    assert joined.shape == (2 * N_OBS, N_VARS) and joined.obs["part"].cat.categories.tolist() == ["a", "b"]
    lazy = ad.experimental.read_lazy(path)
    assert lazy.shape == adata.shape
    values = lazy.X.compute()
    values = values.toarray() if sp.issparse(values) else np.asarray(values)
    stored = adata.X.toarray() if sp.issparse(adata.X) else adata.X
    np.testing.assert_array_equal(values, stored)


def test_models__find_counts_logarithms_and_categories(adata: ad.AnnData, kind: str) -> None:
    layer = raw(adata)
    assert (np.mod(layer.data, 1) == 0).all() and layer.data.min() >= 0  # as scvi-tools looks at counts
    assert layer.astype(np.float32).sum(axis=1).min() > 0
    frame = adata.to_df()  # as decoupler does
    assert frame.index.is_unique and frame.columns.is_unique and all(isinstance(n, str) for n in frame.columns)
    if kind != "convert":
        assert adata.obs["kind"].cat.codes.to_numpy().dtype == np.int8
    if kind == "run":
        total = np.expm1(adata.X[:100].toarray().astype(np.float64)).sum(axis=1)
        np.testing.assert_allclose(total, 1e4, rtol=1e-4)  # as CellTypist looks at logarithms
        assert len(adata.uns["leiden_colors"]) == len(adata.obs["leiden"].cat.categories)


READER = """
import json, sys
import numpy as np
import scipy.sparse as sp
path = sys.argv[1]
if path.endswith(".h5ad"):
    import h5py
    root = h5py.File(path)
else:
    import zarr
    root = zarr.open_group(path, mode="r")
assert "sc_dask" not in sys.modules
X = root["layers/counts"] if "layers" in root and "counts" in root["layers"] else root["X"]
if hasattr(X, "shape"):
    x = sp.csr_matrix(X[:])
else:
    x = sp.csr_matrix((X["data"][:], X["indices"][:], X["indptr"][:]), shape=tuple(X.attrs["shape"]))
names = root["obs"][root["obs"].attrs["_index"]][:]
first = names[0].decode() if isinstance(names[0], bytes) else str(names[0])
print(json.dumps([float(x.sum()), x.nnz, first, list(x.shape)]))
"""


def test_zarr_and_h5py__read_it_without_us(path: Path) -> None:
    command = [sys.executable, "-c", READER, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    expected = counts()
    total, nnz, name, shape = json.loads(done.stdout)
    assert (total, nnz, name, shape) == (expected.X.sum(), expected.X.nnz, "00000-1", [N_OBS, N_VARS])


def test_ours__reads_what_scanpy_changed(adata: ad.AnnData, tmp_path: Path) -> None:
    import scanpy as sc

    adata.X = raw(adata).astype(np.float32)
    sc.pp.normalize_total(adata, target_sum=1e4)
    adata.uns.pop("log1p", None)
    sc.pp.log1p(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(tmp_path / "theirs.zarr")
    lazy = sd.read(tmp_path / "theirs.zarr")
    sd.pp.highly_variable_genes(lazy, n_top_genes=50)
    sc.pp.highly_variable_genes(adata, n_top_genes=50)
    assert lazy.var["highly_variable"].tolist() == adata.var["highly_variable"].tolist()
