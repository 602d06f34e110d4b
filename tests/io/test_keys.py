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
from sc_dask.io.blobs.store import Location
from sc_dask.io.writing import keys

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
@pytest.mark.parametrize("key", ["G2/M", "a\\b", "", "..", "zarr.json", "a\nb", "ä" * 128, "\udcff"])
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


def test_write__every_mend_of_a_name_mends_it(tmp_path: Path) -> None:
    for slot, put in BAD.items():
        if slot == "uns":
            continue
        for key in ("G2/M", "", "zarr.json", "tab\t", "ä" * 128, "\udcff"):
            adata = small()
            put(adata, key)
            with pytest.raises(InputError) as told:
                keys.check(adata)
            exec(str(told.value).split("next: ")[1], {"adata": adata})
            keys.check(adata)
    adata = small()
    adata.obs = pd.DataFrame(np.ones((20, 3)), adata.obs_names, ["a", "a", "_index"])
    for found in ("'_index' of obs has the name under which AnnData", "2 columns of obs are called 'a'"):
        with pytest.raises(InputError, match=found) as told:
            keys.check(adata)
        exec(str(told.value).split("next: ")[1], {"adata": adata})
    keys.check(adata)
    adata.raw = adata.copy()
    adata.raw.var["a/b"], adata.obs.index.name = 1.0, "x/y"
    for _ in range(2):
        with pytest.raises(InputError) as told:
            keys.check(adata)
        exec(str(told.value).split("next: ")[1], {"adata": adata})
    sd.write(adata, tmp_path / "a.zarr")


@pytest.mark.parametrize("lazy_obs", [False, True])
def test_write__unusual_names_come_back(lazy_obs: bool, tmp_path: Path) -> None:
    names = [
        ".hidden",
        "__x",
        "0",
        "c",
        "ä" * 127,
        " a ",
        "a:b*?#%2F",
        "~",
        "-x",
        "a.",
        "nan",
        "é",
        "e\u0301",
        "A",
        "a",
    ]
    adata = small()
    for i, name in enumerate(names):
        adata.obs[name], adata.obsm[name], adata.uns[name] = i, np.full((20, 1), i), {name: i}
    adata.layers["ä" * 127] = adata.X * 2
    for path in (tmp_path / "a.zarr", tmp_path / "a.h5ad"):
        sd.write(adata, path)
        found = sd.read(path, lazy_obs=lazy_obs)
        for i, name in enumerate(names):
            assert sd.get.column(found, name).iloc[0] == found.obsm[name][0, 0] == found.uns[name][name] == i
        assert found.layers["ä" * 127].sum().compute() == 16


def test_write__names_that_a_disk_takes_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = small()
    adata.obs["CD4"], adata.obs["cd4"] = 1.0, 2.0
    keys.check(adata, Location.parse(tmp_path / "a.zarr"))
    monkeypatch.setattr(keys, "folds_case", lambda target: target.is_local)
    with pytest.raises(InputError, match="obs has 'CD4' and 'cd4', which are one name on the disk of"):
        sd.write(adata, tmp_path / "a.zarr")
    sd.write(adata, tmp_path / "a.h5ad")
    keys.check(adata, Location.parse("memory://a.zarr"))


def test_safe_names__no_two_become_one() -> None:
    with pytest.warns(ScDaskWarning, match=r"found 'a/b', 'a\\\\b' in uns\['x'\]"):
        found = keys.with_safe_names("uns['x']", {"a/b": 1, "a\\b": 2, "a_b": 3})
    assert found == {"a_b_": 1, "a_b__": 2, "a_b": 3}


def test_check__names_a_column_that_no_file_holds(tmp_path: Path) -> None:
    sd.write(sd.datasets.simulate(60, 40, seed=1), tmp_path / "a.zarr")
    adata = sd.read(tmp_path / "a.zarr")
    adata.obs["when"] = pd.Timestamp("2020-01-01")
    with pytest.raises(InputError, match="the column 'when' of obs holds values of type datetime64"):
        keys.check(adata)


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
