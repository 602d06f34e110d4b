"""Data sets under scanpy's names: scanpy's cells and columns, without a network."""

from __future__ import annotations

import gzip
import http.server
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.datasets import published
from sc_dask.errors import FormatError, StoreError


@pytest.fixture(autouse=True)
def _places(tmp_path: Path) -> Iterator[None]:
    with dask.config.set({"sc-dask.cache-dir": str(tmp_path / "c"), "sc-dask.dataset-dir": str(tmp_path / "d")}):
        yield


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a server of ``tmp_path / "web"``."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / "web").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def check_equal(found: ad.AnnData, wanted: ad.AnnData) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(np.asarray(found.X), np.asarray(wanted.X))
    assert found.X.dtype == wanted.X.dtype
    loosely = {"check_index_type": False, "check_column_type": False, "check_categorical": False}
    pd.testing.assert_frame_equal(found.obs, wanted.obs, **loosely)
    pd.testing.assert_frame_equal(found.var, wanted.var, **loosely)
    for c in found.obs.select_dtypes("category"):
        assert list(found.obs[c].cat.categories) == list(wanted.obs[c].cat.categories)
    assert set(found.uns) == set(wanted.uns)
    assert set(found.obsm) == set(wanted.obsm)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("has_data", [True, False])
@pytest.mark.parametrize("name", ["krumsiek11", "toggleswitch", "pbmc68k_reduced", "blobs"])
def test_datasets__are_scanpys(name: str, has_data: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_data:
        monkeypatch.delenv("SC_DASK_DATA", raising=False)  # scanpy's own files are taken
    found, wanted = getattr(sd.datasets, name)(), getattr(sc.datasets, name)()
    check_equal(found, wanted)
    if name == "krumsiek11":
        assert found.uns["highlights"] == wanted.uns["highlights"]


def test_datasets__of_scanpy_are_downloaded_and_checked_without_it(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Path(str(published.scanpy.data_file("datasets", "toggleswitch.txt"))).read_bytes()
    monkeypatch.delenv("SC_DASK_DATA", raising=False)
    monkeypatch.setattr(published.scanpy, "data_file", lambda *_: None)
    monkeypatch.setattr(published, "_SCANPY", web)
    (tmp_path / "web" / "toggleswitch.txt").write_bytes(mine)
    assert sd.datasets.toggleswitch().shape == (200, 2)
    (tmp_path / "web" / "krumsiek11.txt").write_bytes(mine)
    with pytest.raises(FormatError, match="SHA-256"):
        sd.datasets.krumsiek11()
    (tmp_path / "d" / "toggleswitch.txt").write_bytes(mine[:-10])  # damaged since: fetched again
    assert sd.datasets.toggleswitch().shape == (200, 2)
    with pytest.raises(StoreError, match="could not download"):
        sd.datasets.pbmc68k_reduced()


def test_pbmc3k__is_the_tutorials(pbmc3k_dir: Path) -> None:
    found = sd.datasets.pbmc3k()
    assert isinstance(found.X, RowBlocks)
    assert (found.shape, found.X.dtype, list(found.var)) == ((2700, 32738), np.float32, ["gene_ids"])
    wanted = sc.read_10x_mtx(pbmc3k_dir)
    assert list(found.var_names) == list(wanted.var_names)
    assert (found.X.to_memory() != wanted.X).nnz == 0


def test_paul15__has_scanpys_columns(data_dir: Path) -> None:
    found = sd.datasets.paul15()
    assert (found.shape, found.X.dtype, found.uns["iroot"]) == ((2730, 3451), np.float32, 840)
    assert list(found.obs["paul15_clusters"].cat.categories)[:3] == ["1Ery", "2Ery", "3Ery"]


def test_paul15__reads_the_published_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file made like the published one gives what scanpy makes of it."""
    import h5py

    rng = np.random.default_rng(0)
    path = tmp_path / "d" / "paul15" / "paul15.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as f:
        f["data.debatched"] = rng.poisson(1.0, (6, 30)).astype(float)
        f["data.debatched_rownames"] = [b"A;a", b"B", b"C", b"D;d", b"E", b"F"]
        f["data.debatched_colnames"] = [f"W{i}".encode() for i in range(30)]
        f["cluster.id"] = rng.permutation(np.arange(30) % 19 + 1)[None]
        f["info.genes_strings"] = [b"D", b"A", b"nope", b"F"]
    monkeypatch.delenv("SC_DASK_DATA", raising=False)
    monkeypatch.setattr(published, "_checked", lambda adata, *_: adata)
    with sc.settings.verbosity.override("error"):
        before = sc.settings.datasetdir
        sc.settings.datasetdir = tmp_path / "d"
        try:
            check_equal(sd.datasets.paul15(), sc.datasets.paul15())
        finally:
            sc.settings.datasetdir = before


def test_downloads__of_another_shape_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SC_DASK_DATA", raising=False)
    (tmp_path / "d" / "burczynski06").mkdir(parents=True)
    lines = ["!subset_description = UC", "!subset_sample_id = GSM1", "!dataset_table_begin"]
    lines += ["ID_REF\tIDENTIFIER\tGSM1", "1\tABC\t1.5", "!dataset_table_end"]
    path = tmp_path / "d" / "burczynski06" / "GDS1615_full.soft.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(FormatError, match=r"\(1, 1\).*\(127, 22283\)"):
        sd.datasets.burczynski06()
    ad.AnnData(np.eye(3, dtype=np.float32)).write_h5ad(tmp_path / "d" / "pbmc3k_processed.h5ad")
    with pytest.raises(FormatError, match=r"\(2638, 1838\)"):
        sd.datasets.pbmc3k_processed()


def test_ebi_expression_atlas__reads_an_experiment(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "d" / "E-TEST-1"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "expression_archive.zip", "w") as f:
        f.writestr("x.mtx", "%%MatrixMarket matrix coordinate real general\n2 3 3\n1 1 1.5\n2 2 2\n1 3 4\n")
        f.writestr("x.mtx_rows", "g1\tENS1\ng2\tENS2\n")
        f.writestr("x.mtx_cols", "a\nb\nc\n")
    (folder / "experimental_design.tsv").write_text("Assay\tage\tsame\nb\t2\tx\na\t1\tx\nc\t1\tx\n")
    found = sd.datasets.ebi_expression_atlas("E-TEST-1")
    assert found.X.to_memory().toarray().tolist() == [[1.5, 0], [0, 2], [4, 0]]
    assert (list(found.var_names), list(found.obs_names)) == (["ENS1", "ENS2"], ["a", "b", "c"])
    assert found.obs["age"].tolist() == [1, 2, 1]
    assert list(sd.datasets.ebi_expression_atlas("E-TEST-1", filter_boring=True).obs) == ["age"]


def test_visium__says_what_to_use() -> None:
    with pytest.raises(AttributeError, match=r"next: squidpy\.datasets\.visium"):
        _ = sd.datasets.visium_sge
