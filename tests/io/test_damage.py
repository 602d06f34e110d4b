"""Files that contradict themselves are refused with their name; odd ones that do not are read exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import sc_dask as sd
from sc_dask.errors import FormatError, InputError
from sc_dask.io.info import as_text, info

M = sp.csr_matrix(np.array([[1, 0, 2, 0], [0, 3, 0, 0], [4, 5, 0, 6]], np.float32))
FORMS = ["h5ad", "zarr"]


def stored(path: Path, x: Any = M) -> Any:
    """Write with anndata and return the open root."""
    adata = ad.AnnData(x.copy())
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return h5py.File(path, "r+")
    adata.write_zarr(path)
    return zarr.open_group(path, mode="r+", use_consolidated=False)


def closed(root: Any, path: Path) -> Path:
    root.close() if isinstance(root, h5py.File) else zarr.consolidate_metadata(path)
    return path


def put(group: Any, key: str, values: Any) -> None:
    del group[key]
    group.create_dataset(key, data=values) if isinstance(group, h5py.Group) else group.create_array(key, data=values)


def arrays(**new: Any) -> Callable[[Any], None]:
    return lambda group: [put(group, key, np.asarray(v)) for key, v in new.items()] and None


def shape(*sizes: int) -> Callable[[Any], None]:
    return lambda group: group.attrs.update({"shape": list(sizes)})


WRONG: dict[str, Callable[[Any], None]] = {
    "indptr ends early": arrays(indptr=[0, 2, 3, 5]),
    "indptr starts late": arrays(indptr=[1, 2, 3, 6]),
    "indptr falls": arrays(indptr=[0, 3, 2, 6]),
    "indptr ends beyond": arrays(indptr=[0, 2, 3, 9]),
    "indptr is short": arrays(indptr=[0, 2, 6]),
    "indptr is long": arrays(indptr=[0, 2, 3, 6, 6]),
    "indptr is negative": arrays(indptr=[0, -2, 3, 6]),
    "indptr are fractions": arrays(indptr=[0.0, 2, 3, 6]),
    "indices beyond": arrays(indices=[0, 2, 1, 0, 1, 4]),
    "indices negative": arrays(indices=[0, 2, 1, 0, 1, -1]),
    "data is longer": arrays(data=np.arange(7, dtype=np.float32)),
    "indices are longer": arrays(indices=[0, 2, 1, 0, 1, 3, 0]),
    "both are longer": arrays(indices=[0, 2, 1, 0, 1, 3, 0], data=np.arange(7, dtype=np.float32)),
    "shape has more cells": shape(4, 4),
    "shape has more genes": shape(3, 5),
    "shape has fewer genes": shape(3, 3),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_sparse__contradictions_name_the_file(form: str, layout: str, tmp_path: Path) -> None:
    for i, (name, change) in enumerate(WRONG.items()):
        path = tmp_path / f"{i}.{form}"
        root = stored(path, M if layout == "csr" else M.T.tocsr().T)
        if layout == "csc":
            root["X"].attrs["encoding-type"] = "csc_matrix"
            arrays(data=M.data, indices=M.indices, indptr=M.indptr)(root["X"])  # of the transpose
            shape(4, 3)(root["X"])
        change(root["X"])
        if layout == "csc" and "shape" in name:
            shape(*tuple(root["X"].attrs["shape"])[::-1])(root["X"])
        if layout == "csc":
            put(root["obs"], "_index", np.array(list("abcd"), object) if form == "h5ad" else np.array(list("abcd")))
            put(root["var"], "_index", np.array(list("abc"), object) if form == "h5ad" else np.array(list("abc")))
            for axis in ("obs", "var"):
                root[axis]["_index"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        with pytest.raises(FormatError, match=path.name):
            sd.read(closed(root, path)).to_memory()


@pytest.mark.parametrize("form", FORMS)
def test_sparse__unsorted_repeated_and_big_endian_are_exact(form: str, tmp_path: Path) -> None:
    for i, new in enumerate(
        (
            {"indices": np.array([2, 0, 1, 3, 1, 0])},
            {"indices": np.array([0, 0, 1, 0, 1, 1])},  # equal places are added up, as scipy does
            {"data": M.data.astype(">f4"), "indices": M.indices.astype(">i4"), "indptr": M.indptr.astype(">i8")},
            {"data": M.data.astype(">i2"), "indptr": M.indptr.astype("u4")},
        )
    ):
        path = tmp_path / f"{i}.{form}"
        root = stored(path)
        arrays(**new)(root["X"])
        parts = {"data": M.data, "indices": M.indices, "indptr": M.indptr, **new}
        native = {k: v.astype(v.dtype.newbyteorder("=")) for k, v in parts.items()}
        native["indptr"] = native["indptr"].astype(np.int64)
        wanted = sp.csr_matrix((native["data"], native["indices"], native["indptr"]), (3, 4)).toarray()
        np.testing.assert_array_equal(sd.read(closed(root, path)).to_memory().X.toarray(), wanted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", ["raw", "X", "obs", "var", "obsm", "varm", "obsp", "layers", "uns"])
def test_null__stands_for_none(form: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    root = stored(path)
    if key in root:
        del root[key]
    ad.io.write_elem(root, key, None)
    if key not in ("layers", "obsm"):
        for slot in ("layers", "obsm", "uns"):
            if slot != key:
                ad.io.write_elem(root[slot], "nothing", None)
    closed(root, path)
    assert "has no" not in as_text(info(path)) and not info(path).has_raw
    assert info(path).shape == (None if key == "X" else (3, 4)) and info(path).layers == ()
    for options in ({}, {"lazy_obs": True}):
        found = sd.read(path, **options)
        assert found.shape == (3, 4) and found.raw is None and not len(found.obsm)
        assert [k for k in found.layers if k is not None] == []
        if key != "X":
            np.testing.assert_array_equal(found.to_memory().X.toarray(), M.toarray())
    assert sd.convert(path, tmp_path / "b.zarr").shape == (3, 4)


@pytest.mark.parametrize("sizes", [(0, 4), (3, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_empty_and_single__through_every_door(sizes: tuple[int, int], make: Any, tmp_path: Path) -> None:
    x = np.ones(sizes, np.float32)
    adata = ad.AnnData(make(x))
    adata.obs["kind"], adata.obs["text"] = pd.Categorical(["a"] * sizes[0]), np.array(["b"] * sizes[0], object)
    adata.layers["none"] = sp.csr_matrix(sizes, dtype=np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    lazy = sd.read(tmp_path / "a.h5ad")
    sd.write(lazy, tmp_path / "b.zarr")
    sd.write(lazy, tmp_path / "b.h5ad")
    as_text(info(tmp_path / "b.zarr"))
    for found in (
        ad.read_zarr(tmp_path / "b.zarr"),
        ad.read_h5ad(tmp_path / "b.h5ad"),
        sd.convert(tmp_path / "b.h5ad", tmp_path / "c.zarr").to_memory(),
        sd.read(tmp_path / "b.zarr", lazy_obs=True).to_memory(),
    ):
        np.testing.assert_array_equal(found.X.toarray() if sp.issparse(found.X) else found.X, x)
        assert list(found.obs["kind"]) == ["a"] * sizes[0] and list(found.obs["text"]) == ["b"] * sizes[0]
        assert found.layers["none"].nnz == 0


def test_old_records__names_are_text(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5ad", "w") as f:
        f["X"] = np.eye(3, 2, dtype=np.float32)
        obs = [(b"007", 1, 0), (b"7", 2, 1), (b"08", 3, -1)]
        f["obs"] = np.array(obs, dtype=[("index", "S5"), ("n", "i4"), ("kind", "i1")])
        f["var"] = np.array([(b"00",), (b"0",)], dtype=[("index", "S5")])
        f["uns/kind_categories"] = np.array([b"1", b"01"])
    wanted = ad.read_h5ad(tmp_path / "a.h5ad")
    for found in (sd.read(tmp_path / "a.h5ad"), sd.convert(tmp_path / "a.h5ad", tmp_path / "a.zarr")):
        assert list(found.obs_names) == list(wanted.obs_names) == ["007", "7", "08"]
        assert list(found.var_names) == ["00", "0"] and found.obs["n"].tolist() == [1, 2, 3]
        assert found.obs["kind"].tolist()[:2] == ["1", "01"] and found.obs["kind"].isna().tolist() == [
            False,
            False,
            True,
        ]


def test_index_called_like_a_column__is_kept_or_named(tmp_path: Path) -> None:
    adata = ad.AnnData(M.copy(), obs=pd.DataFrame({"barcode": ["00a", "b", "c"]}, pd.Index(["00a", "b", "c"])))
    adata.obs.index.name = "barcode"
    for path in (tmp_path / "a.zarr", tmp_path / "a.h5ad"):
        sd.write(adata, path)
        for options in ({}, {"lazy_obs": True}):
            found = sd.read(path, **options)
            assert list(found.obs_names) == sd.get.column(found, "barcode").tolist() == ["00a", "b", "c"]
    adata.obs["barcode"] = ["x", "y", "z"]
    with pytest.raises(
        InputError, match="the index of obs is called 'barcode', as is a column of other values"
    ) as told:
        sd.write(adata, tmp_path / "b.zarr")
    exec(str(told.value).split("next: ")[1], {"adata": adata})
    sd.write(adata, tmp_path / "b.zarr")
    assert ad.read_zarr(tmp_path / "b.zarr").obs["barcode"].tolist() == ["x", "y", "z"]


def tenx(path: Path, **new: Any) -> Path:
    m = M.astype(np.int32)
    parts: dict[str, Any] = {
        "barcodes": [b"a", b"b", b"c"],
        "data": m.data,
        "indices": m.indices,
        "indptr": m.indptr,
        "shape": [4, 3],
        "features/id": [b"1", b"2", b"3", b"4"],
        "features/name": [b"a", b"b", b"c", b"d"],
        "features/feature_type": [b"Gene Expression"] * 4,
    }
    with h5py.File(path, "w") as f:
        for key, value in (parts | new).items():
            f[f"matrix/{key}"] = value
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("indptr", [0, 2, 3, 5]),
        ("indptr", [0, 2, 3, 7]),
        ("indices", [0, 2, 1, 0, 1, 4]),
        ("data", [1, 2, 3]),
        ("barcodes", [b"a", b"b"]),
        ("barcodes", [b"\xfc", b"b", b"c"]),
        ("features/id", [b"1"]),
        ("features/name", [b"1"] * 5),
        ("features/feature_type", [b"Gene Expression"]),
        ("filtered_barcodes", [True]),
        ("shape", [3, 4]),
        ("shape", [4, 3, 1]),
    ],
)
def test_tenx_h5__contradictions_name_the_file(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"a\.h5"):
        sd.convert(tenx(tmp_path / "a.h5", **{key: value}), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


HEAD = "%%MatrixMarket matrix coordinate integer general\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"{HEAD}2 2 2\n1 1 1\n2 2 5\n", [[1, 0], [0, 5]]),
        (f"{HEAD.upper()}2 2 3\n1 1 1\n1 1 5\n2 2 1\n", [[6, 0], [0, 1]]),
        (f"{HEAD}2 2 0\n", [[0, 0], [0, 0]]),
        (f"{HEAD}0 0 0\n", []),
        (f"{HEAD}2 2 3\n1 1 1\n2 2 5\n", "expected 3, as its header says"),
        (f"{HEAD}2 2 1\n1 1 1\n2 2 5\n", "expected 1, as its header says"),
        (f"{HEAD}2 2 2\n1 1 1\n3 2 5\n", "outside 2 x 2"),
        (f"{HEAD}2 2 2\n0 1 1\n2 2 5\n", "outside 2 x 2"),
        (f"{HEAD}-2 2 0\n", "line of sizes"),
        (f"{HEAD.replace('integer', 'pattern')}2 2 1\n1 1 7\n", "2 numbers a line"),
        (f"{HEAD}2 2 1\n1 1 7 9\n", "3 numbers a line"),
    ],
)
def test_mtx__header_and_lines(text: str, wanted: Any, tmp_path: Path) -> None:
    (tmp_path / "a.mtx").write_text(text)
    if isinstance(wanted, str):
        with pytest.raises(FormatError, match=wanted):
            sd.convert(tmp_path / "a.mtx", tmp_path / "a.zarr")
    else:
        assert sd.convert(tmp_path / "a.mtx", tmp_path / "a.zarr").to_memory().X.toarray().tolist() == wanted
