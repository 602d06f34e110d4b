"""Text stays text: names that look like numbers, and columns that are not all text, in every format."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import FormatError, InputError
from sc_dask.io.writing.columns import storable

BARCODES = ["00017", "00170", "017", "17", "1e5", "NA", "True"]
X = np.arange(1, 22).reshape(7, 3)


def folder(path: Path, zipped: bool) -> Path:
    path.mkdir()
    genes = "".join(f"00{i}\t{i}\tGene Expression\n" for i in range(3))
    files = {"barcodes.tsv": "\n".join(BARCODES) + "\n", "features.tsv": genes}
    scipy.io.mmwrite(path / "matrix.mtx", sp.coo_matrix(X.T))
    for name, text in files.items():
        (path / f"{name}.gz").write_bytes(gzip.compress(text.encode())) if zipped else (path / name).write_text(text)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("var_names", ["gene_symbols", "gene_ids"])
def test_tenx_folder__names_of_digits(zipped: bool, var_names: str, tmp_path: Path) -> None:
    found = sd.convert(folder(tmp_path / "m", zipped), tmp_path / "a.zarr", var_names=var_names)
    assert list(found.obs_names) == BARCODES
    ids, symbols = ["000", "001", "002"], ["0", "1", "2"]
    names, other = (symbols, ids) if var_names == "gene_symbols" else (ids, symbols)
    assert list(found.var_names) == names
    assert list(found.var["gene_ids" if var_names == "gene_symbols" else "gene_symbols"]) == other
    assert list(ad.read_zarr(tmp_path / "a.zarr").obs_names) == BARCODES


def test_tenx_h5_and_loom__names_of_digits_and_of_other_alphabets(tmp_path: Path) -> None:
    names = [*BARCODES[:-1], "Zelle ü 细胞"]
    m = sp.csr_matrix(X)
    with h5py.File(tmp_path / "a.h5", "w") as f:
        g = f.create_group("matrix")
        g["barcodes"] = [n.encode() for n in names]
        g["data"], g["indices"], g["indptr"], g["shape"] = m.data, m.indices, m.indptr, [3, 7]
        g["features/id"], g["features/name"] = [b"000", b"001", b"010"], [b"7", b"07", b"007"]
        g["features/feature_type"] = [b"Gene Expression"] * 3
    found = sd.convert(tmp_path / "a.h5", tmp_path / "h5.zarr")
    assert list(found.obs_names) == names
    assert list(found.var_names) == ["7", "07", "007"] and list(found.var["gene_ids"]) == ["000", "001", "010"]
    with h5py.File(tmp_path / "a.loom", "w") as f:
        f["matrix"] = X.T.astype(np.float32)
        f["col_attrs/CellID"] = [n.encode() for n in names]
        f["col_attrs/plate"] = [b"01", b"1", b"", b"nan", b"None", "ß".encode(), b"&#228;"]
        f["row_attrs/Gene"] = [b"7", b"07", b"007"]
    found = sd.convert(tmp_path / "a.loom", tmp_path / "loom.zarr")
    assert list(found.obs_names) == names and list(found.var_names) == ["7", "07", "007"]
    assert list(found.obs["plate"]) == ["01", "1", "", "nan", "None", "ß", "ä"]
    with h5py.File(tmp_path / "a.loom", "r+") as f:
        del f["col_attrs/plate"]
        f["col_attrs/plate"] = [b"\xfc"] * 7
    with pytest.raises(FormatError, match=r"plate holds text that is not UTF-8"):
        sd.convert(tmp_path / "a.loom", tmp_path / "other.zarr")


G, R = ["101", "102", "0103"], ["c1,1,2,3", "c2,4,5,6"]
TABLES: dict[str, tuple[list[str], dict[str, Any], list[str], list[str]]] = {
    "corner empty": ([",101,102,103", *R], {}, ["c1", "c2"], ["101", "102", "103"]),
    "corner quoted": (['"","101","102","103"', *R], {}, ["c1", "c2"], ["101", "102", "103"]),
    "corner left out": (["101,102,103", *R], {}, ["c1", "c2"], ["101", "102", "103"]),
    "names with zeros": (["00101,1.50,1e3", *R], {}, ["c1", "c2"], ["00101", "1.50", "1e3"]),
    "last name with a zero": (["g,101,102,0103", *R], {}, ["c1", "c2"], G),
    "told": (["cell,101,102,103", *R], {"first_row_names": True}, ["c1", "c2"], ["101", "102", "103"]),
    "told a cell": (["c,7,8,9", *R], {"first_row_names": False}, ["c", "c1", "c2"], ["0", "1", "2"]),
    "cells with zeros": (["g,a,b,c", "007,1,2,3", "07,4,5,6"], {}, ["007", "07"], ["a", "b", "c"]),
    "cells, corner empty": ([",a,b,c", "7,1,2,3", "8,4,5,6"], {}, ["7", "8"], ["a", "b", "c"]),
    "cells told": (["cell,a,b,c", "7,1,2,3"], {"first_column_names": True}, ["7"], ["a", "b", "c"]),
    "a gene told": (["id,a,b", "7,1,2", "8,3,4"], {"first_column_names": False}, ["0", "1"], ["id", "a", "b"]),
    "a delimiter in quotes": (['"g","a,1","b ""x""",c', '"c,1",1,2,3'], {}, ["c,1"], ["a,1", 'b "x"', "c"]),
    "a byte order mark": (["\ufeff,a,b,c", *R], {}, ["c1", "c2"], ["a", "b", "c"]),
    "numbers everywhere": ([",1,2,3", "1,1,2,3", "2,4,5,6"], {}, ["1", "2"], ["1", "2", "3"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_table__names_that_look_like_numbers(name: str, tmp_path: Path) -> None:
    lines, options, cells, genes = TABLES[name]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    found = sd.convert(tmp_path / "a.csv", tmp_path / "a.zarr", **options)
    assert (list(found.obs_names), list(found.var_names)) == (cells, genes)
    if cells == ["c1", "c2"]:
        np.testing.assert_array_equal(found.to_memory().X.toarray(), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("lines", "option"),
    [
        (["cell,101,102,103", *R], "first_row_names=True"),
        (["anything,101,102,103", *R], "first_row_names=True"),
        (["cell,a,b,c", "7,1,2,3", "8,4,5,6"], "first_column_names=True"),
    ],
)
def test_table__what_cannot_be_told_is_asked(lines: list[str], option: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(FormatError, match=f"next: give {option}"):
        sd.convert(tmp_path / "a.csv", tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("to", ["csv", "tsv"])
def test_table__what_pandas_writes_comes_back(to: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(X[:, :3], BARCODES, ["1", "02", "3"])
    frame.to_csv(tmp_path / f"a.{to}", sep="," if to == "csv" else "\t")
    found = sd.convert(tmp_path / f"a.{to}", tmp_path / "a.zarr", **({} if to == "csv" else {"delimiter": "\t"}))
    assert list(found.obs_names) == BARCODES and list(found.var_names) == ["1", "02", "3"]


# -- columns -------------------------------------------------------------------------------------

NA = pd.NA
COLUMNS: dict[str, tuple[Any, str]] = {  # values, and the type that comes back
    "boolean and None": ([True, False, None, True], "boolean"),
    "boolean and NaN": ([True, False, np.nan, True], "boolean"),
    "boolean": ([True, False, False, True], "bool"),
    "whole and None": ([1, 2, None, 3], "Int64"),
    "whole": ([1, 2, -1, 3], "int64"),
    "wide": ([2**64 - 1, 0, 1, 2], "uint64"),
    "wide and None": ([2**64 - 1, 0, None, 2], "UInt64"),
    "fractions and None": ([1.5, None, 2, 3.25], "float64"),
    "nothing": ([None, np.nan, None, None], "category"),
    "text and missing": (["nan", None, "None", ""], "category"),
    "text and NA": (["a", NA, "True", "007"], "category"),
}


def frame(values: Any) -> ad.AnnData:
    adata = ad.AnnData(sp.csr_matrix(np.eye(4, dtype=np.float32)))
    adata.obs["c"] = pd.Series(values, index=adata.obs_names, dtype=object)
    return adata


def same(found: Any, wanted: Any) -> None:
    assert [None if pd.isna(v) else v for v in found] == [None if pd.isna(v) else v for v in wanted]
    assert [type(v) for v in found if isinstance(v, str)] == [type(v) for v in wanted if isinstance(v, str)]


@pytest.mark.parametrize("form", ["zarr", "h5ad"])
def test_objects__come_back_as_they_are(form: str, tmp_path: Path) -> None:
    path, adata = tmp_path / f"a.{form}", frame(["a"] * 4)
    table = pd.DataFrame({k: pd.Series(v, dtype=object) for k, (v, _) in COLUMNS.items()})
    adata.obs = table.set_axis(adata.obs_names)
    adata.obsm["table"] = adata.obs.copy()
    adata.raw = adata.copy()
    for key in table:
        adata.raw.var[key] = table[key].set_axis(adata.var_names)
    adata.uns["deep"] = {"table": table}
    sd.write(adata, path)
    theirs = ad.read_zarr(path) if form == "zarr" else ad.read_h5ad(path)
    lazy, converted = sd.read(path, lazy_obs=True), sd.convert(path, tmp_path / "b.zarr")
    for key, (values, dtype) in COLUMNS.items():
        for found in (
            theirs.obs[key],
            theirs.obsm["table"][key],
            theirs.raw.var[key],
            theirs.uns["deep"]["table"][key],
            sd.get.column(lazy, key),
            converted.obs[key],
        ):
            assert str(found.dtype) == dtype
            same(found, values)
        assert adata.obs[key].dtype == object  # what is written does not change


@pytest.mark.parametrize("lazy_obs", [False, True])
@pytest.mark.parametrize("update", [False, True])
def test_concat__columns_that_one_part_lacks(lazy_obs: bool, update: bool, tmp_path: Path) -> None:
    columns = {"flag": [True, False], "number": [1, 2], "text": ["01", "1"]}
    for name, keys in (("a", list(columns)), ("b", [])):
        part = ad.AnnData(np.ones((2, 3), np.float32), obs=pd.DataFrame(columns, ["x", "y"])[keys])
        sd.write(part, tmp_path / f"{name}.zarr")
    parts = [sd.read(tmp_path / f"{n}.zarr", lazy_obs=lazy_obs) for n in "ab"]
    both = sd.concat(parts, join="outer", index_unique="-")
    sd.write(both, tmp_path / "ab.zarr")
    if update:
        again = sd.read(tmp_path / "ab.zarr", lazy_obs=lazy_obs)
        sd.write(again, tmp_path / "ab.zarr", update=True)
    found = ad.read_zarr(tmp_path / "ab.zarr").obs
    for key, values in columns.items():
        same(found[key], [*values, None, None])


ODD: dict[str, Any] = {
    "text and numbers": ["a", 1, np.nan, "b"],
    "too wide": [2**70, 1, 2, 3],
    "not exact": [0.5, 2**60 + 1, 2, 3],
    "bytes": [b"a", b"b", b"c", b"d"],
    "lists": [[1], [2], [3], [4]],
    "no Unicode": ["\udcff", "a", None, "b"],
    "dates": pd.date_range("2020", periods=4),
    "dates of a zone": pd.date_range("2020", periods=4, tz="UTC"),
    "spans": pd.to_timedelta([1, 2, 3, 4], unit="s"),
    "periods": pd.period_range("2020", periods=4, freq="M"),
    "intervals": pd.interval_range(0, 4),
    "sparse": pd.arrays.SparseArray([0, 0, 1, 0]),
    "Float64": pd.array([1.5, None, 2, 3], "Float64"),
    "long double": np.arange(4, dtype=np.longdouble),
    "cut": pd.cut([1, 2, 3, 4], 2),
    "categories of two kinds": pd.Categorical(["a", 1, None, "a"]),
    "categories that are one as text": pd.Categorical(["1", 1, None, "1"]),
    "categories of dates": pd.Categorical(pd.date_range("2020", periods=4)),
    "categories of no Unicode": pd.Categorical(["\udcff", "a", None, "b"]),
}


@pytest.mark.parametrize("name", ODD)
def test_column_that_no_file_holds__is_named_and_its_mend_mends(name: str, tmp_path: Path) -> None:
    if name == "long double" and np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long double is double here")
    adata = frame(["a", "b", "c", "d"])
    values = pd.Series(ODD[name], index=adata.obs_names, dtype=object if isinstance(ODD[name], list) else None)
    adata.obs["odd one"] = values
    for path in (tmp_path / "a.h5ad", tmp_path / "a.zarr"):
        with pytest.raises(InputError, match=r"the column 'odd one' of obs holds .*; next: adata.obs") as told:
            sd.write(adata, path)
        assert not path.exists()
    exec(str(told.value).split("next: ")[1], {"adata": adata, "pd": pd})
    sd.write(adata, path)
    assert ad.read_zarr(path).obs["odd one"].isna().tolist() == values.isna().tolist()


def test_column_that_no_file_holds__of_a_lazy_obs(tmp_path: Path) -> None:
    for name, values in (("a", ["x", "y", "z", "7"]), ("b", [7, 8, 9, 10])):
        sd.write(frame(values), tmp_path / f"{name}.zarr")
    parts = [sd.read(tmp_path / f"{n}.zarr", lazy_obs=True) for n in "ab"]
    adata = sd.concat(parts, index_unique="-")
    with pytest.raises(InputError, match=r"the column 'c' of obs holds objects of type int, str.*; next: ") as told:
        sd.write(adata, tmp_path / "ab.zarr")
    exec(str(told.value).split("next: ")[1], {"adata": adata})
    sd.write(adata, tmp_path / "ab.zarr")
    assert ad.read_zarr(tmp_path / "ab.zarr").obs["c"].tolist() == ["x", "y", "z", "7", "7", "8", "9", "10"]


def test_text_with_nul__is_kept_by_zarr_and_refused_for_hdf5(tmp_path: Path) -> None:
    adata = frame(["a\0b", "\0", "c", None])
    sd.write(adata, tmp_path / "a.zarr")
    same(sd.read(tmp_path / "a.zarr").obs["c"], ["a\0b", "\0", "c", None])
    with pytest.raises(InputError, match=r"the column 'c' of obs holds text with the character NUL") as told:
        sd.write(adata, tmp_path / "a.h5ad")
    exec(str(told.value).split("next: ")[1], {"adata": adata})
    sd.write(adata, tmp_path / "a.h5ad")
    same(sd.read(tmp_path / "a.h5ad").obs["c"], ["ab", "", "c", None])


def test_uns__lists_and_arrays_of_objects_are_not_made_text(tmp_path: Path) -> None:
    adata = frame(["a"] * 4)
    for value in (["a", 1], np.array(["a", None], object), np.array([1, None], object), [True, "no"]):
        adata.uns["x"] = {"deep": value}
        for path in (tmp_path / "a.zarr", tmp_path / "a.h5ad"):
            with pytest.raises(InputError, match=r"uns\['x'\]\['deep'\] holds objects of type") as told:
                sd.write(adata, path)
        exec(str(told.value).split("next: ")[1], {"adata": adata, "pd": pd, "np": np})
        storable(dict(adata.uns), "uns")
    texts = np.array([["a"], ["b"]], object)
    fine = {"a": ["a", "b"], "b": [1, 2.5], "c": texts[0], "d": [True, False], "e": [], "f": texts}
    adata.uns = fine
    sd.write(adata, tmp_path / "a.zarr")
    for key, value in fine.items():
        np.testing.assert_array_equal(ad.read_zarr(tmp_path / "a.zarr").uns[key], np.asarray(value))


def test_names_that_are_missing__are_refused(tmp_path: Path) -> None:
    adata = frame(["a"] * 4)
    adata.obsm["t"] = pd.DataFrame({"c": range(4)}, adata.obs_names)
    adata.uns["t"] = pd.DataFrame({"c": [1, 2]}, pd.Index(["a", None], dtype=object))
    with pytest.raises(InputError, match=r"1 of the names of uns\['t'\] are missing.*next: ") as told:
        sd.write(adata, tmp_path / "a.zarr")
    exec(str(told.value).split("next: ")[1], {"adata": adata})
    sd.write(adata, tmp_path / "a.zarr")


def test_h5ad_in_memory__a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    good, path = frame(["a"] * 4), tmp_path / "a.h5ad"
    sd.write(good, path)
    before = path.read_bytes()
    good.uns["bad"] = object()
    with pytest.raises(InputError, match="uns/bad cannot be stored"):
        sd.write(good, path, overwrite=True)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


def test_another_process_reads_the_same_text(tmp_path: Path) -> None:
    adata = frame(["007", "7", None, "nan"])
    adata.obs_names = ["00017", "17", "1e5", "NA"]
    sd.write(adata, tmp_path / "a.zarr")
    code = "import sys, anndata as ad; a = ad.read_zarr(sys.argv[1]); print(list(a.obs_names), a.obs['c'].tolist())"
    command = [sys.executable, "-c", code, str(tmp_path / "a.zarr")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "['00017', '17', '1e5', 'NA'] ['007', '7', nan, 'nan']"
