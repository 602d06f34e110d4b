"""Keys and columns that cannot be names in a store are refused before anything is read or written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError, ScDaskWarning, StoreError

BAD: dict[str, Callable[[ad.AnnData, str], Any]] = {
    "layers": lambda a, k: a.layers.__setitem__(k, a.X.copy()),
    "obsm": lambda a, k: a.obsm.__setitem__(k, np.ones((20, 2))),
    "varm": lambda a, k: a.varm.__setitem__(k, np.ones((8, 2))),
    "obsp": lambda a, k: a.obsp.__setitem__(k, sp.eye(20, format="csr")),
    "uns": lambda a, k: a.uns.__setitem__(k, 1),
    "obs": lambda a, k: a.obs.__setitem__(k, 1.0),
    "var": lambda a, k: a.var.__setitem__(k, 1.0),
}


def small() -> ad.AnnData:
    adata = ad.AnnData(sp.csr_matrix(np.eye(20, 8, dtype=np.float32)))
    adata.obs_names = [f"c{i}" for i in range(20)]
    return adata


@pytest.mark.parametrize("slot", BAD)
@pytest.mark.parametrize("key", ["G2/M", "a\\b", "", ".."])
def test_write__refuses_a_key_that_is_no_name_and_harms_nothing(slot: str, key: str, tmp_path: Path) -> None:
    good = tmp_path / "good.zarr"
    sd.write(small(), good)
    bad, lazy = small(), sd.read(good)
    BAD[slot](bad, key)
    if slot != "layers":
        BAD[slot](lazy, key)
    for adata, path, options in (
        (bad, tmp_path / "new.zarr", {}),
        (bad, tmp_path / "new.h5ad", {}),
        (bad, good, {"overwrite": True}),
        (lazy, good, {"update": True}),
    ):
        if slot == "layers" and adata is lazy:
            continue
        with pytest.raises(InputError, match=r"cannot be a name in a store.*next: ") as told:
            sd.write(adata, path, **options)
        assert repr(key) in str(told.value) and slot in str(told.value)
    assert [p.name for p in tmp_path.iterdir()] == ["good.zarr"]
    np.testing.assert_array_equal(ad.read_zarr(good).X.toarray(), np.eye(20, 8))


def test_write__the_call_that_it_offers_mends_it(tmp_path: Path) -> None:
    adata = small()
    adata.obs["G2/M"], adata.obsm["X/umap"] = 1.0, np.ones((20, 2))
    for _ in range(2):
        with pytest.raises(InputError) as told:
            sd.write(adata, tmp_path / "a.zarr")
        exec(str(told.value).split("next: ")[1], {"adata": adata})
    sd.write(adata, tmp_path / "a.zarr")
    found = ad.read_zarr(tmp_path / "a.zarr")
    assert "G2_M" in found.obs and "X_umap" in found.obsm


def test_convert_and_run__name_the_column_of_an_h5ad_before_the_first_pass(tmp_path: Path) -> None:
    adata = sd.datasets.simulate(200, 100, seed=1).to_memory()
    adata.obs["G2M"] = 1.0
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as f:  # as anndata wrote it up to 0.12
        f["obs"].create_group("G2")
        f.move("obs/G2M", "obs/G2/M")
        f["obs"].attrs["column-order"] = [c.replace("G2M", "G2/M") for c in f["obs"].attrs["column-order"]]
    with pytest.raises(InputError, match="column 'G2/M' of obs"):
        sd.convert(tmp_path / "a.h5ad", tmp_path / "c.zarr")
    command = [sys.executable, "-m", "sc_dask.cli", "run", str(tmp_path / "a.h5ad"), "--out", str(tmp_path / "r.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "column 'G2/M' of obs" in done.stderr and "qc" not in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


def test_write__groups_of_any_name_in_results_are_stored_under_another(tmp_path: Path) -> None:
    adata = sd.datasets.simulate(200, 60, seed=1).to_memory()
    sd.pp.log1p(adata)
    adata.obs["type"] = pd.Categorical(["CD4/CD8 T"] * 100 + ["B"] * 100)
    sd.tl.rank_genes_groups(adata, "type", pts=True)
    with pytest.warns(ScDaskWarning, match=r"found 'CD4/CD8 T' in uns\['rank_genes_groups'\]"):
        sd.write(adata, tmp_path / "a.zarr")
    found = ad.read_zarr(tmp_path / "a.zarr").uns["rank_genes_groups"]
    assert sorted(found["pts"].columns) == ["B", "CD4_CD8 T"] and found["names"].dtype.names == ("B", "CD4/CD8 T")
    assert "CD4/CD8 T" in adata.uns["rank_genes_groups"]["pts"]


# -- others' files -------------------------------------------------------------------------------


def test_locked_h5ad__is_told_to_be_locked(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    small().write_h5ad(path)
    code = f"import h5py; f = h5py.File({str(path)!r}, 'r+'); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout is not None
        p.stdout.readline()
        try:
            with pytest.raises(StoreError, match="is locked: another program has it open for writing"):
                sd.read(path)
        finally:
            p.kill()


def test_tenx__data_sets_of_another_length_are_no_columns(tmp_path: Path) -> None:
    m = sp.csr_matrix(np.random.default_rng(0).poisson(1, (9, 4)).astype(np.int32))
    with h5py.File(tmp_path / "x.h5", "w") as f:
        g = f.create_group("matrix")
        g["barcodes"] = np.array([f"A{i}-1" for i in range(9)], "S")
        g["data"], g["indices"], g["indptr"], g["shape"] = m.data, m.indices.astype(np.int64), m.indptr, [4, 9]
        v = g.create_group("features")
        v["id"] = v["name"] = np.array([f"G{i}" for i in range(4)], "S")
        v["feature_type"] = np.array(["Gene Expression"] * 4, "S")
        v["panel"], v["scalar"] = np.arange(2), 3
    found = sd.convert(tmp_path / "x.h5", tmp_path / "x.zarr")
    assert found.shape == (9, 4) and not {"panel", "scalar"} & set(found.var)


def test_concat__of_a_backed_adata_says_what_to_do(tmp_path: Path) -> None:
    small().write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(InputError, match=r"'one' is backed by .*a.h5ad.*next: sd.read"):
        sd.concat({"one": backed, "two": small()}, index_unique="-")


def test_group_without_a_name__is_told(tmp_path: Path) -> None:
    adata = ad.AnnData(sp.random(60, 20, 0.5, format="csr", random_state=0, dtype=np.float32))
    adata.obs["type"] = pd.Categorical(["", "B", "T"] * 20)
    with pytest.raises(InputError, match=r"group of obs\['type'\] has no name.*rename_categories"):
        sd.tl.rank_genes_groups(adata, "type")


def test_sparse_obsm__is_a_representation_like_any_other() -> None:
    rng = np.random.default_rng(0)
    dense, sparse = small(), small()
    x = rng.normal(size=(20, 5)).astype(np.float32)
    dense.obsm["X_s"], sparse.obsm["X_s"] = x, sp.csr_matrix(x)
    for a in (dense, sparse):
        sd.pp.neighbors(a, 5, use_rep="X_s")
    assert (dense.obsp["connectivities"] != sparse.obsp["connectivities"]).nnz == 0
    pd.testing.assert_frame_equal(*(sd.get.obs_df(a, obsm_keys=[("X_s", 1)]) for a in (dense, sparse)))
