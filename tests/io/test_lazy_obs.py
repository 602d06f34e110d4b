"""``sd.read(..., lazy_obs=True)``: what is read when, and that it is what the eager read gives."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata.experimental.backed import Dataset2D

import sc_dask as sd
from sc_dask import slots
from sc_dask.errors import FormatError, InputError, StoreError
from tests.io.cases import h5ad_and_zarr_cases

N = 60
FORMS = ("zarr v2", "zarr v3", "zip", "memory zarr", "h5ad", "memory h5ad")


def table(n: int = N) -> pd.DataFrame:
    """A column of every kind that AnnData stores."""
    i = np.arange(n)
    names = [f"cell{k}" for k in i]
    return pd.DataFrame(
        {
            "number": i,
            "short": i.astype(np.int16),
            "share": (i / 7).astype(np.float32),
            "good": i % 3 == 0,
            "kind": pd.Categorical.from_codes(np.where(i % 3 == 2, 2, 0), ["q", "unused", "a"]),
            "stage": pd.Categorical.from_codes(i % 3 - 1, ["late", "early"], ordered=True),
            "level": pd.Categorical.from_codes(i % 2, [9, 3]),
            "whole": pd.array([None if k % 5 == 0 else k for k in i], "Int64"),
            "maybe": pd.array([None if k % 4 == 0 else k % 2 == 0 for k in i], "boolean"),
            "text": np.array([f"t{k}" for k in i], object),
            "note": pd.array([None if k % 6 == 0 else f"n{k}" for k in i], "string"),
        },
        index=names,
    )


def cells() -> ad.AnnData:
    x = sp.random(N, 8, 0.4, format="csr", dtype=np.float32, random_state=0)
    var = pd.DataFrame(
        {"mt": np.arange(8) % 2 == 0, "chrom": pd.Categorical(list("aabbccaa"))}, [f"g{k}" for k in range(8)]
    )
    adata = ad.AnnData(x, table(), var)
    adata.uns["kind_colors"] = ["red", "green", "blue"]
    return adata


def stored(form: str, folder: Path) -> str:
    """Write the cells in one form of store; return where."""
    target = {
        "zip": folder / "a.zarr.zip",
        "h5ad": folder / "a.h5ad",
        "memory zarr": "memory://lazy_obs/a.zarr",
        "memory h5ad": "memory://lazy_obs/a.h5ad",
    }.get(form, folder / "a.zarr")
    if form == "memory zarr":
        sd.write(cells(), str(target), overwrite=True)
    elif form.endswith("h5ad"):
        with h5py.File(folder / "a.h5ad", "w") as f, ad.settings.override(allow_write_nullable_strings=True):
            ad.io.write_elem(f, "/", cells())
        if form == "memory h5ad":
            fsspec.filesystem("memory").put(str(folder / "a.h5ad"), "/lazy_obs/a.h5ad")
    else:
        store: Any = zarr.storage.ZipStore(target, mode="w") if form == "zip" else target
        root = zarr.open_group(store, mode="w", zarr_format=2 if form == "zarr v2" else 3)
        with ad.settings.override(allow_write_nullable_strings=True):
            ad.io.write_elem(root, "/", cells())
        root.store.close()
    return str(target)


@pytest.fixture
def store(tmp_path: Path) -> str:
    sd.write(cells(), tmp_path / "a.zarr")
    return str(tmp_path / "a.zarr")


def text_alike(frame: pd.DataFrame) -> pd.DataFrame:
    """Text as one type: what anndata loads of a lazy table is ``string``, also where it is pandas 3's ``str``."""
    text = [k for k, t in frame.dtypes.items() if t is np.dtype(object) or isinstance(t, pd.StringDtype)]
    return frame.astype(dict.fromkeys(text, "string"))


def check_tables(found: ad.AnnData, wanted: ad.AnnData) -> None:
    for axis in ("obs", "var"):
        frame = getattr(wanted, axis)
        assert isinstance(getattr(found, axis), Dataset2D)
        assert slots.columns(getattr(found, axis)) == list(frame)
        pd.testing.assert_index_equal(sd.get.names(found, axis), frame.index)
        for key in frame:
            pd.testing.assert_series_equal(sd.get.column(found, key, axis=axis), frame[key])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_lazy_obs__equals_the_eager_read(form: str, tmp_path: Path) -> None:
    path = stored(form, tmp_path)
    eager, found = sd.read(path), sd.read(path, lazy_obs=True)
    check_tables(found, eager)
    assert {str(sd.get.column(found, k).dtype) for k in slots.columns(found.obs)} >= {"Int64", "boolean", "category"}
    for key in eager.obs:  # as xarray sees them: text that may be missing has no type of its own there
        of_text = isinstance(eager.obs[key].dtype, pd.StringDtype)
        assert found.obs[key].dtype == (object if of_text else eager.obs[key].dtype), key
    pd.testing.assert_frame_equal(text_alike(found.obs.to_memory()), text_alike(eager.obs))
    rows = np.arange(N)[::-2]
    for a, b in ((found[rows], eager[rows]), (found[rows].copy(), eager[rows].copy()), (found.copy(), eager)):
        check_tables(a, b)


@pytest.mark.filterwarnings("ignore")
def test_lazy_obs__every_file_of_other_writers(data_dir: Path) -> None:
    refused = 0
    for path, oracle in h5ad_and_zarr_cases(data_dir):
        wanted = oracle()
        try:
            found = sd.read(path, lazy_obs=True)
        except InputError as err:
            assert "array of records" in str(err) and "leave lazy_obs out" in str(err)
            refused += 1
            continue
        for axis in ("obs", "var"):
            for key in getattr(wanted, axis):
                pd.testing.assert_series_equal(sd.get.column(found, key, axis=axis), getattr(wanted, axis)[key])
                assert getattr(found, axis)[key].dtype == getattr(wanted, axis)[key].dtype
            pd.testing.assert_index_equal(sd.get.names(found, axis), getattr(wanted, axis).index)
    assert refused == 2


# -- what is read when ---------------------------------------------------------------------------


@pytest.fixture
def read_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The obs and var elements whose values are fetched: keys of a zarr store, names of HDF5 datasets."""
    seen: list[str] = []

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        async def get(self: Any, key: str, *args: Any, **kwargs: Any) -> Any:
            if not key.endswith(("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")):
                seen.append(key)
            return await real(self, key, *args, **kwargs)

        return get

    def h5_counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def get(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(self.name.strip("/"))
            return real(self, *args, **kwargs)

        return get

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counted(zarr.storage.LocalStore.get))
    monkeypatch.setattr(h5py.Dataset, "__getitem__", h5_counted(h5py.Dataset.__getitem__))
    monkeypatch.setattr(h5py.Dataset, "read_direct", h5_counted(h5py.Dataset.read_direct))
    yield seen


def elements_of(keys: list[str]) -> set[str]:
    """``obs/kind/codes/c/0`` -> ``obs/kind``."""
    found = {"/".join(k.split("/")[:2]) for k in keys if k.startswith(("obs/", "var/"))}
    keys.clear()
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["zarr v2", "zarr v3", "h5ad"])
def test_lazy_obs__reads_a_column_when_it_is_used_and_no_other(form: str, tmp_path: Path, read_keys: list[str]) -> None:
    path = stored(form, tmp_path)
    read_keys.clear()
    sd.read(path)
    assert {f"obs/{k}" for k in table()} < elements_of(read_keys)  # the counter sees what is read
    adata = sd.read(path, lazy_obs=True)
    assert elements_of(read_keys) == {"obs/_index", "var/_index"}
    repr(adata), adata.shape, adata.obs_names, "kind" in adata.obs, slots.columns(adata.obs)
    other = adata[np.arange(N) % 2 == 0, :5].copy()
    assert elements_of(read_keys) == set()
    for key in table():
        for some in (adata, other):
            sd.get.column(some, key)
            assert elements_of(read_keys) == {f"obs/{key}"}
    sd.get.matrix(adata, mask_var="mt")
    assert elements_of(read_keys) == {"var/mt"}
    del other.uns["kind_colors"]
    slots.subset(other, "obs", np.arange(other.n_obs) > 3)
    slots.write(other, {("obs", "n_genes"): np.arange(other.n_obs)})
    assert elements_of(read_keys) == set()


def test_lazy_obs__rows_that_are_kept_are_noted_once_for_all_columns(store: str) -> None:
    adata = sd.read(store, lazy_obs=True)
    for _ in range(2):
        adata = adata[np.arange(adata.n_obs) % 4 > 0].copy()
        kept = [v._data.key.tuple[0] for v in adata.obs.ds.data_vars.values() for v in [v.variable]]
        assert len(kept) == len(table().columns) and len({id(k) for k in kept}) == 1


# -- subsets -------------------------------------------------------------------------------------


def test_subset__drops_unused_categories_and_their_colours(store: str) -> None:
    eager, found = sd.read(store), sd.read(store, lazy_obs=True)
    for adata in (eager, found):
        slots.write(adata, {("obs", "leiden"): pd.Categorical([str(i % 4) for i in range(N)])})
        adata.uns["leiden_colors"] = ["a", "b"]  # too few: reset
        adata.uns["level_colors"] = np.array("one")
    for axis, keep in (("var", np.arange(8) < 5), ("obs", np.arange(N) % 3 != 2), ("obs", np.arange(40) % 4 != 0)):
        for adata in (eager, found):
            slots.subset(adata, axis, keep)
        check_tables(found, eager)
        assert sorted(found.uns) == sorted(eager.uns)
        for key in eager.uns:
            np.testing.assert_array_equal(found.uns[key], eager.uns[key])
    assert list(eager.uns["kind_colors"]) == ["red"]


def test_subset__of_genes_drops_unused_categories_of_cells_too(store: str) -> None:
    eager, found = sd.read(store), sd.read(store, lazy_obs=True)
    assert list(sd.get.column(found, "kind").cat.categories) == ["q", "unused", "a"]
    check_tables(found[:, :3], eager[:, :3])
    check_tables(found[:, :3].copy(), eager[:, :3].copy())
    assert list(sd.get.column(found[:, :3], "kind").cat.categories) == ["q", "a"]


def test_subset__keeps_unused_categories_where_anndata_does(store: str) -> None:
    eager, found = sd.read(store), sd.read(store, lazy_obs=True)
    with ad.settings.override(remove_unused_categories=False):
        check_tables(found[:1], eager[:1])
        assert len(sd.get.column(found[:1], "kind").cat.categories) == 3


# -- new columns ---------------------------------------------------------------------------------


def test_write_slot__is_a_copy_and_replaces(store: str) -> None:
    adata, values = sd.read(store, lazy_obs=True), np.arange(N)
    slots.write(adata, {("obs", "n_genes"): values})
    values[:] = 0
    assert sd.get.column(adata, "n_genes").tolist() == list(range(N))
    slots.write(adata, {("obs", "n_genes"): np.ones(N)})
    assert sd.get.column(adata, "n_genes").dtype == np.float64
    other = adata.copy()
    slots.write(other, {("obs", "n_counts"): np.ones(N)})
    slots.drop(other, "obs", "n_genes")
    slots.drop(other, "obs", "no such")
    assert slots.columns(adata.obs) == [*table(), "n_genes"]
    assert slots.columns(other.obs) == [*table(), "n_counts"]


def test_write_slot__refuses_the_name_of_the_index(tmp_path: Path) -> None:
    adata = cells()
    adata.obs.index.name = "leiden"
    sd.write(adata, tmp_path / "a.zarr")
    found = sd.read(tmp_path / "a.zarr", lazy_obs=True)
    assert sd.get.names(found).name == "leiden"
    with pytest.raises(InputError, match=r"'leiden' .*index.*another key_added"):
        slots.write(found, {("obs", "leiden"): pd.Categorical(["0"] * N)})


def test_index__may_be_called_like_a_column(tmp_path: Path) -> None:
    adata = cells()
    adata.obs["text"] = list(adata.obs_names)
    adata.obs.index.name = "text"
    sd.write(adata, tmp_path / "a.zarr")
    eager, found = sd.read(tmp_path / "a.zarr"), sd.read(tmp_path / "a.zarr", lazy_obs=True)
    assert slots.columns(found.obs) == list(eager.obs)
    assert sd.get.column(found, "text").tolist() == list(eager.obs_names) == list(found.obs_names)


# -- writing -------------------------------------------------------------------------------------


def with_results(adata: ad.AnnData) -> ad.AnnData:
    slots.write(
        adata,
        {
            ("obs", "n_genes"): np.arange(adata.n_obs),
            ("obs", "leiden"): pd.Categorical([str(i % 4) for i in range(adata.n_obs)]),
            ("obsm", "X_pca"): np.ones((adata.n_obs, 2)),
        },
    )
    return adata


def same_store(a: str | Path, b: str | Path) -> None:
    """Compare tables as anndata reads them, and what is stored: elements, types, encodings."""
    found, wanted = ad.read_zarr(a), ad.read_zarr(b)
    pd.testing.assert_frame_equal(found.obs, wanted.obs)
    pd.testing.assert_frame_equal(found.var, wanted.var)
    left, right = (zarr.open_group(p, mode="r", use_consolidated=False) for p in (a, b))
    for axis in ("obs", "var"):
        assert dict(left[axis].attrs) == dict(right[axis].attrs)
        nodes = [dict(root[axis].members(max_depth=None)) for root in (left, right)]
        assert nodes[0].keys() == nodes[1].keys()
        for key, node in nodes[0].items():
            assert dict(node.attrs) == dict(nodes[1][key].attrs)
            if isinstance(node, zarr.Array):
                assert node.metadata == nodes[1][key].metadata, key


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_write__equals_the_eager_one(form: str, tmp_path: Path) -> None:
    path = stored(form, tmp_path)
    for name, lazy in (("lazy", True), ("eager", False)):
        adata = sd.read(path, lazy_obs=lazy)
        adata.raw = adata
        slots.subset(adata, "obs", np.arange(N) % 7 > 0)
        sd.write(with_results(adata), tmp_path / f"{name}.zarr")
    same_store(tmp_path / "lazy.zarr", tmp_path / "eager.zarr")
    found, wanted = (ad.read_zarr(tmp_path / f"{name}.zarr") for name in ("lazy", "eager"))
    pd.testing.assert_frame_equal(found.raw.var, wanted.raw.var)
    assert "note" in found.obs and found.obs["leiden"].dtype == "category"


@pytest.mark.parametrize("where", ["{}/a.zarr", "memory://lazy_obs/update.zarr"])
def test_update__equals_the_eager_one(where: str, tmp_path: Path) -> None:
    path = where.format(tmp_path)
    frames = []
    for lazy in (True, False):
        sd.write(cells(), path, overwrite=True)
        adata = with_results(sd.read(path, lazy_obs=lazy))
        sd.write(adata, path, update=True)
        frames.append(sd.read(path).obs)
        if lazy:  # what was opened before goes on from what stands there now
            pd.testing.assert_frame_equal(text_alike(adata.obs.to_memory()), text_alike(frames[0]))
    pd.testing.assert_frame_equal(*frames)
    assert frames[0]["leiden"].tolist() == [str(i % 4) for i in range(N)]


def test_write__refuses_the_store_that_columns_are_read_from(store: str) -> None:
    adata = sd.read(store, lazy_obs=True)
    slots.drop(adata, "X", "")
    with pytest.raises(InputError, match=r"obs/number is read lazily from"):
        sd.write(adata, store, overwrite=True)


def test_write__says_which_column_cannot_be_stored(store: str, tmp_path: Path) -> None:
    adata = sd.read(store, lazy_obs=True)
    adata.obs["odd"] = pd.array([1.5] * N, "Float64")
    with pytest.raises(InputError, match="the column 'odd' of obs holds values of type Float64"):
        sd.write(adata, tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [True, False])
def test_write__takes_what_anndata_reads_lazily(store: str, tmp_path: Path, names: bool) -> None:
    found = ad.experimental.read_lazy(store, load_annotation_index=names)
    for key in table():
        values, wanted = sd.get.column(found, key), sd.read(store).obs[key]
        if key == "kind":  # anndata drops unused categories as it reads
            wanted = wanted.cat.remove_unused_categories()
        pd.testing.assert_frame_equal(*(text_alike(v.to_frame()) for v in (values, wanted)))
    sd.write(found, tmp_path / "b.zarr")
    back, wanted = ad.read_zarr(tmp_path / "b.zarr"), ad.read_zarr(store)
    wanted.obs["kind"] = wanted.obs["kind"].cat.remove_unused_categories()
    pd.testing.assert_frame_equal(text_alike(back.obs), text_alike(wanted.obs))


# -- what goes wrong -----------------------------------------------------------------------------


def test_column__is_gone_or_of_another_length(store: str, tmp_path: Path) -> None:
    adata = sd.read(store, lazy_obs=True)
    smaller = cells()[:10].copy()
    del smaller.obs["share"]
    sd.write(smaller, store, overwrite=True)
    with pytest.raises(StoreError, match=r"obs/number .* 10 rows instead of 60.*next: open it again with sd\.read"):
        sd.get.column(adata, "number")
    with pytest.raises(StoreError, match=r"obs/share .* it is gone"):
        sd.get.column(adata, "share")


def test_column__is_damaged(store: str) -> None:
    adata = sd.read(store, lazy_obs=True)
    chunks = [p for p in (Path(store) / "obs" / "number").rglob("*") if p.is_file() and p.name != "zarr.json"]
    assert chunks
    for chunk in chunks:
        chunk.write_bytes(b"no chunk")
    with pytest.raises(FormatError, match=r"obs/number of .* cannot be read"):
        sd.get.column(adata, "number")
    assert sd.get.column(adata, "share").notna().all()


def test_read__says_which_column_is_missing(store: str) -> None:
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    del root["obs/share"]
    zarr.consolidate_metadata(root.store)
    with pytest.raises(FormatError, match="no column 'share'"):
        sd.read(store, lazy_obs=True)


def test_lazy_obs__survives_pickling(store: str) -> None:
    adata = sd.read(store, lazy_obs=True)[:10].copy()
    again = pickle.loads(pickle.dumps(adata))
    pd.testing.assert_frame_equal(again.obs.to_memory(), adata.obs.to_memory())
