"""One small store of counts, one finished run of it, and the same counts in every format."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from sc_dask import datasets
from sc_dask.pipeline import Result, run

N_OBS, N_VARS = 420, 300
BLOCK_BYTES = 40_000  # some ten blocks
SETTINGS: dict[str, dict[str, Any]] = {
    "qc": {"percent_top": [20, 50]},
    "filter": {"min_genes": 40},
    "pca": {"n_comps": 10},
    "umap": {"maxiter": 20},
}
READING = ("qc", "filter", "normalize", "hvg", "pca")
NAMES = (*READING, "neighbors", "leiden", "umap", "markers", "write", "figures")


@dataclass(frozen=True)
class Finished:
    """A run, where it was made, and its store in memory."""

    result: Result
    source: Path
    folder: Path

    @property
    def adata(self) -> ad.AnnData:
        return ad.read_zarr(self.result.store)


def with_settings(**sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The quick settings, with some changed."""
    return SETTINGS | {name: SETTINGS.get(name, {}) | options for name, options in sections.items()}


def run_small(source: Path, out: Path, **options: Any) -> Result:
    """A run in small blocks."""
    with dask.config.set({"sc-dask.block-bytes": BLOCK_BYTES}):
        return run(source, out, **{"settings": SETTINGS, **options})


@functools.cache
def _store(base: Path) -> Path:
    path = base / "small-counts.zarr"
    datasets.simulate(N_OBS, N_VARS, n_groups=4, n_batches=2, seed=3, out=path)
    return path


@functools.cache
def _finished(base: Path) -> Finished:
    source = _store(base)
    folder = base / "finished-run"
    return Finished(run_small(source, folder / "result.zarr"), source, folder)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts of 420 cells x 300 genes in 4 groups and 2 batches; not to be changed."""
    return _store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run of `store` with `SETTINGS`; not to be changed."""
    return _finished(tmp_path_factory.getbasetemp())


def left_over(folder: Path) -> set[str]:
    """What stands in a folder beside the result, figures, table and report."""
    return {p.name for p in folder.iterdir()} - {"result.zarr", "figures", "markers.csv", "run.json"}


# -- formats -------------------------------------------------------------------------------------


def counts_in_memory(store: Path) -> ad.AnnData:
    """The counts with names only."""
    read = ad.read_zarr(store)
    x = sp.csr_matrix(read.X, dtype=np.float32)
    return ad.AnnData(x, obs=pd.DataFrame(index=read.obs_names), var=pd.DataFrame(index=read.var_names))


def _h5ad(adata: ad.AnnData, folder: Path) -> Path:
    adata.write_h5ad(folder / "counts.h5ad")
    return folder / "counts.h5ad"


def _csc_h5ad(adata: ad.AnnData, folder: Path) -> Path:
    adata = adata.copy()
    adata.X = sp.csc_matrix(adata.X)
    return _h5ad(adata, folder)


def _csc_zarr(adata: ad.AnnData, folder: Path) -> Path:
    adata = adata.copy()
    adata.X = sp.csc_matrix(adata.X)
    adata.write_zarr(folder / "csc.zarr")
    return folder / "csc.zarr"


def _dense_h5ad(adata: ad.AnnData, folder: Path) -> Path:
    adata = adata.copy()
    adata.X = adata.X.toarray()
    return _h5ad(adata, folder)


def _10x_h5(adata: ad.AnnData, folder: Path) -> Path:
    x = sp.csr_matrix(adata.X)
    with h5py.File(folder / "matrix.h5", "w") as f:
        group = f.create_group("matrix")
        group["barcodes"] = adata.obs_names.to_numpy().astype("S")
        for name, values in (("data", x.data.astype(np.int32)), ("indices", x.indices), ("indptr", x.indptr)):
            group[name] = values
        group["shape"] = np.array(x.shape[::-1])
        features = group.create_group("features")
        features["name"] = adata.var_names.to_numpy().astype("S")
        features["id"] = np.array([f"ENSG{i}" for i in range(adata.n_vars)], "S")
        features["feature_type"] = np.array(["Gene Expression"] * adata.n_vars, "S")
        features["genome"] = np.array(["GRCh38"] * adata.n_vars, "S")
    return folder / "matrix.h5"


def _10x_mtx(adata: ad.AnnData, folder: Path) -> Path:
    at = folder / "mtx"
    at.mkdir()
    scipy.io.mmwrite(at / "matrix.mtx", sp.coo_matrix(adata.X.T).astype(np.int32))
    (at / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    (at / "genes.tsv").write_text("".join(f"ENSG{i}\t{g}\n" for i, g in enumerate(adata.var_names)))
    return at


def _loom(adata: ad.AnnData, folder: Path) -> Path:
    with h5py.File(folder / "counts.loom", "w") as f:
        f["matrix"] = adata.X.toarray().T
        f.create_group("layers")
        f.create_group("row_attrs")["Gene"] = adata.var_names.to_numpy().astype("S")
        f.create_group("col_attrs")["CellID"] = adata.obs_names.to_numpy().astype("S")
    return folder / "counts.loom"


def _csv(adata: ad.AnnData, folder: Path) -> Path:
    adata.to_df().astype(int).to_csv(folder / "counts.csv")
    return folder / "counts.csv"


WRITERS: dict[str, Callable[[ad.AnnData, Path], Path]] = {
    "h5ad": _h5ad,
    "h5ad csc": _csc_h5ad,
    "zarr csc": _csc_zarr,
    "h5ad dense": _dense_h5ad,
    "10x h5": _10x_h5,
    "10x mtx": _10x_mtx,
    "loom": _loom,
    "csv": _csv,
}
READ_IN_PLACE = {"h5ad", "h5ad dense"}
