from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError, StoreError


def adata(n: int = 1500) -> ad.AnnData:
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(6, 12))
    group = rng.integers(6, size=n)
    x = (centres[group] + rng.normal(size=(n, 12))).astype(np.float32)
    out = ad.AnnData(np.zeros((n, 60), np.float32), obsm={"X_pca": x})
    out.obs["truth"] = group.astype(str)
    return out


@pytest.fixture
def work_dir(tmp_path: Path) -> Any:
    with dask.config.set({"sc-dask.work-dir": str(tmp_path / "work")}):
        yield tmp_path / "work"


def test_landmark_graph__from_neighbours_to_umap(work_dir: Path, tmp_path: Path) -> None:
    a = adata()
    sd.pp.neighbors(a, compact=True)
    assert not a.obsp and a.uns["neighbors"]["params"]["recall"] > 0.95
    facts = a.uns["neighbors"]["compact"]
    assert facts["n_landmarks"] == a.obs["landmark"].nunique() < 600 and 0 < facts["inner_weight"] < 1
    sd.tl.leiden(a, [0.5, 1], flavor="sc_dask")
    assert sd.metrics.ari(a.obs["leiden_1"], a.obs["truth"]) > 0.9
    sd.tl.umap(a, init_pos="multilevel")
    assert sd.metrics.trustworthiness(a.obsm["X_pca"], a.obsm["X_umap"]) > 0.85
    a.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    sd.tl.leiden(back, flavor="sc_dask", key_added="again")
    assert back.obs["again"].tolist() == back.obs["leiden_1"].tolist()
    assert Path(facts["folder"]).parent == work_dir


def test_landmark_graph__a_lazy_representation_is_never_loaded(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, eager = adata(), adata()
    a.obsm["X_pca"] = da.from_array(a.obsm["X_pca"], chunks=(400, 12))
    monkeypatch.setattr(da.Array, "__array__", lambda *_: pytest.fail("loaded whole"))
    sd.pp.neighbors(a)
    sd.pp.neighbors(eager, compact=True)
    assert a.obs["landmark"].tolist() == eager.obs["landmark"].tolist()
    sd.tl.umap(a, maxiter=3)
    assert a.obsm["X_umap"].shape == (1500, 2)


def test_landmark_graph__auto_goes_by_budget(work_dir: Path) -> None:
    a = adata()
    sd.pp.neighbors(a, key_added="plain")
    with dask.config.set({"sc-dask.memory": "1MiB"}):
        sd.pp.neighbors(a, key_added="tight")
    assert "compact" not in a.uns["plain"] and "compact" in a.uns["tight"]
    assert "tight_landmark" in a.obs and "plain_connectivities" in a.obsp


def test_landmark_graph__what_needs_all_cells_says_so(work_dir: Path) -> None:
    a = adata()
    for options in ({"metric": "cosine"}, {"method": "gauss"}, {"transformer": "sklearn"}):
        with pytest.raises(InputError, match=r"of a landmark graph.*compact=False"):
            sd.pp.neighbors(a, compact=True, **options)
    with pytest.raises(InputError, match="compact='yes'"):
        sd.pp.neighbors(a, compact="yes")
    with pytest.raises(InputError, match="n_neighbors=1000 of 1500 cells"):
        sd.pp.neighbors(a, 1000, compact=True)
    a.obsm["X_pca"][7, 3] = np.nan
    with pytest.raises(InputError, match="NaN or infinity .*row 7"):
        sd.pp.neighbors(a, compact=True)
    assert "neighbors" not in a.uns
    a = adata()
    sd.pp.neighbors(a, compact=True)
    with pytest.raises(InputError, match=r'landmark graph.*flavor="sc_dask"'):
        sd.tl.leiden(a)
    with pytest.raises(InputError, match="landmark graph, and a method or a start"):
        sd.tl.umap(a, method="umap-learn")
    with pytest.raises(MissingKeyError, match="is a landmark graph and not in adata.obsp"):
        sd.tl.louvain(a)
    with pytest.raises(StoreError, match="of 1500 cells, not of 700"):
        sd.tl.umap(a[:700].copy())


# -- where the graph is --------------------------------------------------------------------------


def labels(a: ad.AnnData) -> list[str]:
    sd.tl.leiden(a, flavor="sc_dask", key_added="again")
    return list(a.obs["again"])


def with_graph(n: int = 1500) -> tuple[ad.AnnData, list[str]]:
    a = adata(n)
    sd.pp.neighbors(a, compact=True)
    return a, labels(a)


def graphs_in(store: Path) -> list[str]:
    return [p.name for p in (store / ".sc_dask").iterdir()]


def test_written__the_graph_goes_where_its_store_goes(tmp_path: Path) -> None:
    a, expected = with_graph()
    sd.write(a, tmp_path / "a.zarr")
    assert Path(a.uns["neighbors"]["compact"]["folder"]).is_absolute()  # that of the AnnData in memory stays
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.zarr").rename(tmp_path / "elsewhere" / "b.zarr")
    shutil.rmtree(a.uns["neighbors"]["compact"]["folder"])
    back = sd.read(tmp_path / "elsewhere" / "b.zarr")
    assert labels(back) == expected
    sd.write(back, tmp_path / "c.zarr")
    shutil.rmtree(tmp_path / "elsewhere")
    assert labels(sd.read(tmp_path / "c.zarr")) == expected
    assert len(graphs_in(tmp_path / "c.zarr")) == 1
    plain = ad.read_zarr(tmp_path / "c.zarr")
    assert plain.obs["again"].tolist() == expected and not plain.obsp
    with pytest.raises(StoreError, match=r"next: read its store with sd\.read"):
        labels(plain)


def test_updated__a_new_graph_takes_the_place_of_the_old(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    sd.write(adata(), store)
    a = sd.read(store)
    sd.pp.neighbors(a, compact=True)
    expected = labels(a)
    sd.write(a, store, update=True)
    (first,) = graphs_in(store)
    assert labels(sd.read(store)) == expected
    b = sd.read(store)
    b.obs["new"] = 1
    sd.write(b, store, update=True)  # its graph is in the store already
    assert labels(sd.read(store)) == expected
    sd.pp.neighbors(b, 20, compact=True, key_added="more")
    sd.pp.neighbors(b, 10, compact=True)
    sd.write(b, store, update=True)
    assert len(graphs_in(store)) == 2 and first not in graphs_in(store)
    assert sd.get.landmark_graph(sd.read(store), "more") is not None


def test_converted__a_store_keeps_its_graph(tmp_path: Path) -> None:
    a, expected = with_graph()
    sd.write(a, tmp_path / "a.zarr")
    assert labels(sd.convert(tmp_path / "a.zarr", tmp_path / "b.zarr")) == expected
    shutil.rmtree(tmp_path / "a.zarr")
    assert labels(sd.read(tmp_path / "b.zarr")) == expected


def test_bucket__the_graph_is_written_and_fetched(tmp_path: Path) -> None:
    a, expected = with_graph()
    url = "memory://bucket/graph.zarr"
    sd.write(a, url)
    shutil.rmtree(a.uns["neighbors"]["compact"]["folder"])
    assert labels(sd.read(url)) == expected


def test_gone__is_told_before_anything_is_written(tmp_path: Path) -> None:
    a, _ = with_graph()
    shutil.rmtree(a.uns["neighbors"]["compact"]["folder"])
    with pytest.raises(StoreError, match=r"landmark graph .* is gone .* next: run pp.neighbors again"):
        sd.write(a, tmp_path / "a.zarr")
    assert not list(tmp_path.glob("*.zarr"))
