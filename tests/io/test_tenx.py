"""10x files: the cases that no file of the data folder shows; the rest is in test_formats_table."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import FormatError, InputError
from sc_dask.io.blobs.store import Location
from sc_dask.io.formats import tenx
from tests.io.cases import dense

N_OBS, N_VARS = 7, 5


@pytest.fixture
def counts() -> sp.csr_matrix:
    return sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (N_OBS, N_VARS)))


def write_folder(folder: Path, counts: sp.csr_matrix, prefix: str = "", n_columns: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    scipy.io.mmwrite(folder / f"{prefix}matrix.mtx", counts.T.tocoo(), field="integer")
    types = ["Gene Expression"] * 4 + ["Antibody Capture"]
    lines = ["\t".join([f"ENSG{i}", f"gene{i // 2}", types[i]][:n_columns]) for i in range(N_VARS)]
    (folder / f"{prefix}features.tsv").write_text("\n".join(lines))
    (folder / f"{prefix}barcodes.tsv").write_text("\n".join(f"cell{i}-1" for i in range(N_OBS)))
    return folder


def write_h5(path: Path, counts: sp.csr_matrix) -> Path:
    with h5py.File(path, "w") as f:
        group = f.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(counts, name)
        group["shape"] = np.array([N_VARS, N_OBS], np.int32)
        group["barcodes"] = np.array([f"cell{i}-1" for i in range(N_OBS)], "S")
        group["filtered_barcodes"] = np.arange(N_OBS) % 2 == 0
        features = group.create_group("features")
        features["id"] = np.array([f"probe{i}" for i in range(N_VARS)], "S")
        features["gene_id"] = np.array([f"ENSG{i}" for i in range(N_VARS)], "S")
        features["name"] = np.array([f"gene{i // 2}" for i in range(N_VARS)], "S")
        features["feature_type"] = np.array(["Gene Expression"] * 4 + ["Custom"], "S")
        features["genome"] = np.array(["hg"] * 2 + ["mm"] * 3, "S")
        features["kept"] = np.arange(N_VARS) > 1
    return path


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("options", [{}, {"gex_only": False}, {"genome": "hg"}, {"genome": "mm", "gex_only": False}])
def test_h5__probes_and_filtered_barcodes(tmp_path: Path, counts: sp.csr_matrix, options: dict[str, object]) -> None:
    import scanpy as sc

    path = write_h5(tmp_path / "a.h5", counts)
    lazy = tenx.read_h5(Location.parse(path), **options)
    wanted = sc.read_10x_h5(path, **options)
    assert isinstance(lazy.X, RowBlocks)
    for found in (lazy, sd.convert(path, tmp_path / "a.zarr", **options)):
        np.testing.assert_array_equal(dense(found.X), dense(wanted.X))
        assert found.obs["filtered_barcodes"].tolist() == wanted.obs["filtered_barcodes"].tolist()
        assert list(found.var.columns) == list(wanted.var.columns)
        assert {c: list(found.var[c]) for c in found.var} == {c: list(wanted.var[c]) for c in wanted.var}
        assert list(found.var_names) == list(wanted.var_names)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_h5__says_what_is_wrong(tmp_path: Path, counts: sp.csr_matrix) -> None:
    path = write_h5(tmp_path / "a.h5", counts)
    with pytest.raises(InputError, match=r"genome 'rat'.*\['hg', 'mm'\]"):
        sd.convert(path, tmp_path / "a.zarr", genome="rat")
    with h5py.File(path, "r+") as f:
        del f["matrix/features/name"]
    with pytest.raises(FormatError, match="/matrix/features/name"):
        sd.convert(path, tmp_path / "a.zarr")
    with h5py.File(path, "r+") as f:
        f["matrix/features/name"] = np.array(["x"] * N_VARS, "S")
        del f["matrix/data"]
        f["matrix/data"] = counts.data[:-1]
    with pytest.raises(FormatError, match=r"a\.h5"):
        sd.convert(path, tmp_path / "a.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("prefix", ["", "patientA_"])
@pytest.mark.parametrize("zipped", [(), ("matrix.mtx",), ("features.tsv", "barcodes.tsv")])
def test_mtx__plain_and_gzipped_mixed(
    tmp_path: Path, counts: sp.csr_matrix, prefix: str, zipped: tuple[str, ...]
) -> None:
    folder = write_folder(tmp_path / "10x", counts, prefix)
    for name in zipped:
        path = folder / f"{prefix}{name}"
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
            shutil.copyfileobj(plain, packed)
        path.unlink()
    found = sd.convert(folder, tmp_path / "a.zarr", gex_only=False)
    np.testing.assert_array_equal(dense(found.X), counts.toarray())
    assert list(found.var_names) == ["gene0", "gene0-1", "gene1", "gene1-1", "gene2"]
    assert list(found.var["gene_ids"]) == [f"ENSG{i}" for i in range(N_VARS)]
    assert found.shape == ad.read_zarr(tmp_path / "a.zarr").shape
    assert sd.convert(folder, tmp_path / "b.zarr").shape == (N_OBS, 4)


def test_mtx__several_matrices_need_a_prefix(tmp_path: Path, counts: sp.csr_matrix) -> None:
    folder = write_folder(tmp_path / "10x", counts, "a_")
    write_folder(folder, counts[:, ::-1].tocsr(), "b_")
    with pytest.raises(InputError, match="give prefix="):
        sd.convert(folder, tmp_path / "a.zarr")
    found = sd.convert(folder, tmp_path / "a.zarr", prefix="b_", gex_only=False)
    np.testing.assert_array_equal(dense(found.X), counts.toarray()[:, ::-1])


def test_mtx__says_what_is_wrong(tmp_path: Path, counts: sp.csr_matrix) -> None:
    folder = write_folder(tmp_path / "10x", counts)
    with pytest.raises(InputError, match="var_names='symbols'"):
        sd.convert(folder, tmp_path / "a.zarr", var_names="symbols")
    (folder / "barcodes.tsv").write_text("cell0\ncell1")
    with pytest.raises(FormatError, match="beside 5 features and 2 barcodes"):
        sd.convert(folder, tmp_path / "a.zarr")
    (folder / "barcodes.tsv").unlink()
    with pytest.raises(FormatError, match=r"no barcodes\.tsv"):
        sd.convert(folder, tmp_path / "a.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["10x"]


def test_mtx__pbmc3k(pbmc3k_dir: Path, pbmc3k_counts: ad.AnnData, tmp_path: Path) -> None:
    found = sd.convert(pbmc3k_dir, tmp_path / "a.zarr")
    assert found.shape == (2700, 32738)
    assert found.X.dtype == np.uint16
    stored = ad.read_zarr(tmp_path / "a.zarr")
    assert stored.X.nnz == 2_286_884
    assert (stored.X != pbmc3k_counts.X).nnz == 0
    assert stored.obs_names.equals(pbmc3k_counts.obs_names) and stored.var_names.equals(pbmc3k_counts.var_names)
    assert stored.var["gene_ids"].tolist() == pbmc3k_counts.var["gene_ids"].tolist()
