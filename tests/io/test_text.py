"""Text files of any order and shape, against anndata's readers; damaged ones are refused by name."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import FormatError
from sc_dask.io.formats import spill, text
from tests.io.cases import dense


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks, buckets and block files."""
    monkeypatch.setattr(text, "CHUNK_ENTRIES", 13)
    monkeypatch.setattr(text, "BUCKET_ENTRIES", 29)
    monkeypatch.setattr(text, "TABLE_BYTES", 1000)
    monkeypatch.setattr(spill, "BLOCK_NNZ", 40)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("field", ["integer", "real", "pattern"])
@pytest.mark.parametrize("symmetry", ["general", "symmetric", "skew-symmetric"])
def test_mtx__in_any_order(tmp_path: Path, field: str, symmetry: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.poisson(0.5, (23, 23)) * (1 if field == "integer" else 0.3)
    if symmetry != "general":
        x = np.tril(x, -1)
        x = x + x.T if symmetry == "symmetric" else x - x.T
    coo = sp.coo_matrix(x)
    order = rng.permutation(coo.nnz)
    coo = sp.coo_matrix((coo.data[order], (coo.row[order], coo.col[order])), shape=coo.shape)
    scipy.io.mmwrite(tmp_path / "a.mtx", coo, field=field, symmetry=symmetry)
    found = sd.convert(tmp_path / "a.mtx", tmp_path / "a.zarr")
    np.testing.assert_array_equal(dense(found.X).astype(np.float32), dense(ad.io.read_mtx(tmp_path / "a.mtx").X))


@pytest.mark.usefixtures("small")
def test_mtx__dense_array_and_repeated_places(tmp_path: Path) -> None:
    x = np.random.default_rng(0).poisson(0.5, (11, 5)).astype(float)
    scipy.io.mmwrite(tmp_path / "dense.mtx", x)
    np.testing.assert_array_equal(dense(sd.convert(tmp_path / "dense.mtx", tmp_path / "a.zarr").X), x)
    lines = ["%%MatrixMarket matrix coordinate integer general", "% said twice", "2 3 3", "2 1 5", "", "1 3 1", "2 1 4"]
    (tmp_path / "twice.mtx").write_text("\n".join(lines))
    np.testing.assert_array_equal(
        dense(sd.convert(tmp_path / "twice.mtx", tmp_path / "b.zarr").X), [[0, 0, 1], [9, 0, 0]]
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["%%MatrixMarket matrix coordinate complex general", "1 1 1", "1 1 1 1"], "complex"),
        (["%%MatrixMarket matrix coordinate integer general", "2 2 2", "1 1 1"], "1 entries; expected 2"),
        (["%%MatrixMarket matrix coordinate integer general", "2 2 1", "3 1 1"], "outside 2 x 2"),
        (["%%MatrixMarket matrix coordinate integer general", "2 2 1", "1 one 1"], "numbers only"),
        (["%%MatrixMarket matrix coordinate integer general", "two"], "line of sizes"),
        (["%%MatrixMarket vector coordinate integer general", "1"], "first line"),
    ],
)
def test_mtx__damaged(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "bad.mtx").write_text("\n".join(lines))
    with pytest.raises(FormatError, match=message) as err:
        sd.convert(tmp_path / "bad.mtx", tmp_path / "a.zarr")
    assert "bad.mtx" in str(err.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.mtx"]


def test_mtx__truncated_gzip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = "\n".join(f"{i + 1} {j + 1} {rng.integers(9999)}" for i in range(200) for j in range(20))
    whole = gzip.compress(f"%%MatrixMarket matrix coordinate integer general\n200 20 4000\n{rows}\n".encode())
    (tmp_path / "cut.mtx.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=r"cut\.mtx\.gz"):
        sd.convert(tmp_path / "cut.mtx.gz", tmp_path / "a.zarr")


TABLES = {
    "names everywhere": (",", ["g,a,b", "x,1,2", "y,3,4.5"]),
    "corner left out": (",", ["a,b", "x,1,2", "y,3,4"]),
    "corner empty, spaces": ("\t", ['\t"a"\t"b"', '"x y"\t1\t2', '"z"\t3\t4']),
    "no names": (",", ["1,2", "3,4", "5,6"]),
    "numbers as names": (",", ["10,20", "7,1,2", "8,3,4"]),
    "names in a comment": (None, ["# made by us", "# a b", "x 1 2", "y 3 4"]),
    "blank lines": (",", ["", "g,a,b", "", "x,1,2", "", "y,3,4", ""]),
    "one row": (",", ["g,a,b", "x,1,2"]),
    "fractions": (",", ["g,a,b", "x,0.1,1e-3", "y,-7.3,16777217.5"]),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", TABLES)
def test_table__equals_anndata(tmp_path: Path, name: str) -> None:
    delimiter, lines = TABLES[name]
    path = tmp_path / ("a.csv" if delimiter == "," else "a.tsv")
    path.write_text("\n".join(lines) + "\n")
    wanted = ad.io.read_csv(path, delimiter)
    found = sd.convert(path, tmp_path / "a.zarr", delimiter=delimiter)
    np.testing.assert_array_equal(dense(found.X).astype(np.float32), wanted.X)
    assert list(found.obs_names) == list(wanted.obs_names)
    assert list(found.var_names) == list(wanted.var_names)


@pytest.mark.usefixtures("small")
def test_table__many_rows(tmp_path: Path) -> None:
    x = pd.DataFrame(np.random.default_rng(0).poisson(0.2, (300, 12)), index=[f"c{i}" for i in range(300)])
    x.columns = [f"g{i}" for i in range(12)]
    x.to_csv(tmp_path / "a.csv.gz")
    found = sd.convert(tmp_path / "a.csv.gz", tmp_path / "a.zarr")
    np.testing.assert_array_equal(dense(found.X), x.to_numpy())
    assert list(found.obs_names) == list(x.index)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["g,a,b", "x,1,2", "y,3"], "3 fields in each row"),
        (["g,a,b", "x,1,2", "y,3,4,5"], "fields"),
        (["g,a,b", "x,1,", "y,3,4"], "numbers"),
        (["g,a,b", "x,1,nan"], "NaN"),
        (["g,a,b", "x,1,2", "y,3,many"], "many"),
        (["g;a;b", "x;1;2"], "no delimiter ','"),
        (["g,a,b"], "no rows"),
        ([""], "no lines"),
    ],
)
def test_table__damaged(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "bad.csv").write_text("\n".join(lines))
    with pytest.raises(FormatError, match=message) as err:
        sd.convert(tmp_path / "bad.csv", tmp_path / "a.zarr")
    assert "bad.csv" in str(err.value)


@pytest.mark.usefixtures("small")
def test_umi_tools__long_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = rng.permutation(40 * 15)[:200]
    table = pd.DataFrame({"gene": [f"G{p % 15}" for p in pairs], "cell": [f"C{p // 15}" for p in pairs], "count": 3})
    table.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    wanted = ad.io.read_umi_tools(tmp_path / "a.tsv")
    found = sd.convert(tmp_path / "a.tsv", tmp_path / "a.zarr")
    np.testing.assert_array_equal(dense(found.X), dense(wanted.X))
    assert found.obs_names.equals(wanted.obs_names) and found.var_names.equals(wanted.var_names)
