"""Results written into the store that X is read from: X untouched, and no kill leaves a mixture."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import sc_dask as sd
from sc_dask.errors import InputError, StoreError
from sc_dask.io.blobs.store import Location
from sc_dask.io.info import info
from sc_dask.io.writing import commit
from tests.io.cases import dense


@pytest.fixture
def store(tmp_path: Path) -> Path:
    adata = ad.AnnData(sp.random(50, 8, 0.4, format="csr", dtype=np.float32, random_state=0))
    adata.uns["old"], adata.obsm["X_old"] = {"a": 1}, np.ones((50, 2))
    sd.write(adata, tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def with_results(path: Path | str) -> ad.AnnData:
    adata = sd.read(path)
    adata.obs["leiden"] = np.arange(adata.n_obs) % 3
    adata.obsm["X_pca"] = np.full((adata.n_obs, 3), 7.0)
    adata.obsm["X_old"] = np.zeros((adata.n_obs, 4))
    adata.uns["pca"] = {"variance": np.arange(3.0)}
    return adata


def check_results(path: Path | str) -> None:
    found = sd.read(path)
    assert found.obs["leiden"].tolist() == [i % 3 for i in range(50)]
    assert (found.obsm["X_pca"] == 7).all() and found.obsm["X_old"].shape == (50, 4)
    assert found.uns["old"]["a"] == 1
    np.testing.assert_array_equal(found.uns["pca"]["variance"], np.arange(3))


def test_update__writes_results_and_leaves_x(store: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in (store / "X").rglob("*") if p.is_file()}
    adata = with_results(store)
    sd.write(adata, store, update=True)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in (store / "X").rglob("*") if p.is_file()} == before
    check_results(store)
    found = ad.read_zarr(store)
    assert found.obs["leiden"].sum() == adata.obs["leiden"].sum()
    np.testing.assert_array_equal(dense(adata.X), dense(found.X))  # the lazy X can still be read
    assert zarr.open_group(store, mode="r").metadata.consolidated_metadata is not None
    assert os.listdir(store.parent) == ["a.zarr"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_update__a_store_of_anndata(tmp_path: Path, zarr_format: Any) -> None:
    adata = ad.AnnData(sp.random(50, 8, 0.4, format="csr", dtype=np.float32, random_state=0))
    adata.uns["old"], adata.obsm["X_old"] = {"a": 1}, np.ones((50, 2))
    with ad.settings.override(zarr_write_format=zarr_format):
        adata.write_zarr(tmp_path / "a.zarr")
    sd.write(with_results(tmp_path / "a.zarr"), tmp_path / "a.zarr", update=True)
    check_results(tmp_path / "a.zarr")
    root = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert root.metadata.zarr_format == zarr_format
    assert "sc_dask" not in root.attrs
    assert ad.read_zarr(tmp_path / "a.zarr").uns["old"]["a"] == 1


def test_update__in_an_object_store() -> None:
    import fsspec

    url = "memory://updates/a.zarr"
    adata = ad.AnnData(sp.random(50, 8, 0.4, format="csr", dtype=np.float32, random_state=0))
    adata.uns["old"] = {"a": 1}
    sd.write(adata, url)
    sd.write(with_results(url), url, update=True)
    check_results(url)
    fs = fsspec.filesystem("memory")
    assert [p.rsplit("/", 1)[1] for p in fs.ls("/updates", detail=False)] == ["a.zarr"]
    fs.rm("/updates", recursive=True)


def test_update__refuses_another_x(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not read from"):
        sd.write(ad.read_zarr(store), store, update=True)
    with pytest.raises(InputError, match="picked"):
        sd.write(sd.read(store)[:10], store, update=True)
    with pytest.raises(InputError, match="update alone"):
        sd.write(sd.read(store), store, update=True, overwrite=True)
    ad.read_zarr(store).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="for an h5ad file; expected a zarr store"):
        sd.write(sd.read(tmp_path / "a.h5ad"), tmp_path / "a.h5ad", update=True)


class Killed(BaseException):
    """Stands for a signal: nothing of ours catches it."""


def killer(monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> None:
    real, calls = getattr(commit, name), iter(range(10**9))

    def deadly(*args: Any, **options: Any) -> Any:
        if next(calls) >= after:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(commit, name, deadly)


@pytest.mark.parametrize(("name", "after"), [("apply", 0), ("move", 0), ("move", 2), ("remove", 3), ("consolidate", 0)])
@pytest.mark.parametrize("read_first", [False, True])
def test_update__killed_at_any_moment(
    store: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: int, read_first: bool
) -> None:
    adata = with_results(store)
    with monkeypatch.context() as m, pytest.raises(Killed):
        killer(m, name, after)
        sd.write(adata, store, update=True)
    if name == "apply":  # nothing has been replaced
        assert "leiden" not in sd.read(store).obs
    if not read_first or name in ("apply", "consolidate"):
        sd.write(adata, store, update=True)
    check_results(store)  # a mixture is never read: the reader finishes what was whole
    assert os.listdir(store.parent) == ["a.zarr"]


def test_update__begun_and_whole_is_finished_by_the_next_write(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = with_results(store)
    with monkeypatch.context() as m, pytest.raises(Killed):
        killer(m, "move", 3)
        sd.write(adata, store, update=True)
    commit.finish_update(Location.parse(store))
    check_results(store)


# -- a writer that was killed ----------------------------------------------------------------------


def small(n: int, fill: str = "x") -> ad.AnnData:
    x = np.arange(n * 5, dtype=np.float32).reshape(n, 5) % 7
    return ad.AnnData(sp.csr_matrix(x), pd.DataFrame({"from": [fill] * n}, [f"{fill}{i}" for i in range(n)]))


def killed_update(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a store whose update was killed after its journal was there."""
    lazy = sd.read(path)
    lazy.obs["late"] = ["new"] * lazy.n_obs
    with monkeypatch.context() as m:
        m.setattr(commit, "move", lambda *a, **k: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            sd.write(lazy, path, update=True)


PLACES = ["{}/cells.zarr", "memory://{}/cells.zarr", "memory://{}.zarr"]


@pytest.fixture(params=PLACES, ids=["disk", "bucket", "root of a bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.param.format(tmp_path if request.param.startswith("{") else uuid.uuid4().hex)


def test_killed_update__is_finished_by_the_next_reader(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sd.write(small(50), place)
    killed_update(place, monkeypatch)
    assert sd.read(place).obs["late"].tolist() == ["new"] * 50


def test_killed_update__is_not_taken_for_a_free_place(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sd.write(small(50), place)
    killed_update(place, monkeypatch)
    with pytest.raises(StoreError, match="already"):
        sd.write(small(40, "y"), place)
    assert sd.read(place).obs["late"].tolist() == ["new"] * 50


def test_killed_update__is_not_done_to_another_store(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sd.write(small(50), place)
    killed_update(place, monkeypatch)
    sd.write(small(50, "y"), place, overwrite=True)
    lazy = sd.read(place)
    lazy.obs["mine"] = 1
    sd.write(lazy, place, update=True)
    again = sd.read(place)
    assert list(again.obs) == ["from", "mine"] and set(again.obs["from"]) == {"y"}


@pytest.mark.parametrize("reader", [sd.read, sd.read_zarr, info, sd.convert], ids=["read", "zarr", "info", "convert"])
def test_killed_overwrite__of_a_bucket_is_finished_by_the_next_reader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reader: Any
) -> None:
    place = f"memory://{uuid.uuid4().hex}/cells.zarr"
    sd.write(small(50), place)
    with monkeypatch.context() as m:
        m.setattr(commit, "move", lambda *a, **k: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            sd.write(small(40, "y"), place, overwrite=True)
    reader(place, tmp_path / "copy.zarr") if reader is sd.convert else reader(place)
    assert not commit.is_half_way(Location.parse(place))
    found = sd.read(place)
    assert found.n_obs == 40 and set(found.obs["from"]) == {"y"}


def test_failed_overwrite__of_a_disk_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, real = tmp_path / "cells.zarr", commit.move
    sd.write(small(50), place)

    def second_fails(source: Any, target: Any, **options: Any) -> None:
        if ".partial" in source.url:
            raise OSError("no")
        real(source, target, **options)

    monkeypatch.setattr(commit, "move", second_fails)
    with pytest.raises(OSError, match="no"):
        sd.write(small(40, "y"), place, overwrite=True)
    assert sd.read(place).n_obs == 50
