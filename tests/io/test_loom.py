"""Loom: layers, attributes with several columns, and any block of cells."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import FormatError
from sc_dask.io.blobs.store import Location
from sc_dask.io.formats import loom
from sc_dask.outside.anndata import named_layers
from tests.io.cases import dense

N_VARS, N_OBS = 150, 90


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.loom", "w") as f:
        f.attrs["LOOM_SPEC_VERSION"] = "2.0.1"
        f.create_dataset("matrix", data=rng.poisson(0.3, (N_VARS, N_OBS)).astype(np.float32), chunks=(64, 64))
        f.create_dataset("layers/spliced", data=rng.poisson(0.3, (N_VARS, N_OBS)), chunks=(64, 64))
        f.create_dataset("layers/ratio", data=rng.random((N_VARS, N_OBS)).astype(np.float32), chunks=(64, 64))
        f["col_attrs/CellID"] = np.array([f"cell&lt;{i}&gt;" for i in range(N_OBS)], "S")
        f["col_attrs/umap"] = rng.random((N_OBS, 2))
        f["col_attrs/n"] = np.arange(N_OBS)
        f["row_attrs/Gene"] = np.array([f"g{i}" for i in range(N_VARS)], dtype=object)
        f["row_attrs/Accession"] = np.array([f"ENSG{i}" for i in range(N_VARS)], "S")
        for name in ("row_graphs", "col_graphs"):
            f.create_group(name)
    return tmp_path / "a.loom"


@pytest.mark.parametrize("x_name", ["spliced", "ratio", "none"])
def test_loom__layers_and_attributes(path: Path, tmp_path: Path, x_name: str) -> None:
    wanted = ad.io.read_loom(path, X_name=x_name, validate=False)
    found = sd.convert(path, tmp_path / "a.zarr", X_name=x_name, block_bytes=4 * N_VARS * 7, shard_bytes=4000)
    np.testing.assert_array_equal(dense(found.X).astype(np.float32), dense(wanted.X))
    assert sorted(dict(named_layers(found))) == sorted(dict(named_layers(wanted)))
    for key, _ in named_layers(wanted):
        np.testing.assert_array_equal(dense(found.layers[key]), dense(wanted.layers[key]))
    assert found.X.dtype == (np.float32 if x_name == "ratio" else np.uint8)
    assert list(found.obs_names) == list(wanted.obs_names) and found.obs_names[0] == "cell<0>"
    assert list(found.var["Accession"]) == list(wanted.var["Accession"])
    np.testing.assert_array_equal(found.obsm["umap"], wanted.obsm["umap"])


def test_loom__is_lazy_and_reads_any_rows(path: Path) -> None:
    x = loom.read(Location.parse(path)).X
    assert isinstance(x, RowBlocks)
    with h5py.File(path) as f:
        wanted = f["layers/spliced"][:].T
    for start, stop in ((0, N_OBS), (5, 6), (63, 65), (70, 70)):
        np.testing.assert_array_equal(dense(x.expression.source.read(start, stop)), wanted[start:stop])


def test_loom__damaged(path: Path, tmp_path: Path) -> None:
    with h5py.File(path, "r+") as f:
        del f["col_attrs/n"]
        f["col_attrs/n"] = np.arange(3)
    with pytest.raises(FormatError, match=r"a\.loom: /col_attrs/n"):
        sd.convert(path, tmp_path / "a.zarr")
    with h5py.File(path, "r+") as f:
        del f["col_attrs/n"], f["layers/ratio"]
        f["layers/ratio"] = np.zeros((3, 3))
    with pytest.raises(FormatError, match="layers/ratio"):
        sd.convert(path, tmp_path / "a.zarr")


def test_convert__reads_each_cell_once(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells: dict[str, list[int]] = {}
    read = loom.LoomSource.read

    def counting(source: loom.LoomSource, start: int, stop: int) -> object:
        cells.setdefault(source.path, []).extend(range(start, stop))
        return read(source, start, stop)

    monkeypatch.setattr(loom.LoomSource, "read", counting)
    sd.convert(path, tmp_path / "a.zarr", block_bytes=4 * N_VARS * 7, shard_bytes=4000)
    assert sorted(cells) == ["layers/ratio", "layers/spliced", "matrix"]
    assert sorted(cells["matrix"]) == sorted(cells["layers/ratio"]) == list(range(N_OBS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.loom", "a.zarr"]  # nothing set aside is left
