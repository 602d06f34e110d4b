"""``sd.read`` and ``sd.read_*`` give what the readers of scanpy and anndata give, with a lazy X."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import loompy
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import FormatError, InputError, StoreError

TENX, OLD = "scanpy/10x_data/3.0.0/filtered_feature_bc_matrix", "scanpy/10x_data/1.2.0"
GENES = f"{OLD}/filtered_gene_bc_matrices/hg19_chr21"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path) -> Any:
    with dask.config.set({"sc-dask.cache-dir": str(tmp_path / "cache")}):
        yield


def dense(x: Any) -> np.ndarray:
    x = x.to_memory() if isinstance(x, RowBlocks) else x
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def check_equal(found: ad.AnnData, wanted: ad.AnnData) -> None:
    assert isinstance(found.X, RowBlocks)
    assert found.X.dtype == wanted.X.dtype
    np.testing.assert_array_equal(dense(found.X), dense(wanted.X))
    for axis in ("obs", "var"):
        mine, theirs = getattr(found, axis), getattr(wanted, axis)
        assert list(mine.index) == list(theirs.index)
        assert list(mine.columns) == list(theirs.columns)
        for c in mine:
            assert mine[c].astype(str).tolist() == theirs[c].astype(str).tolist()


# file, ours, scanpy's or anndata's
CASES: list[tuple[str, Callable[[Path], Any], Callable[[Path], Any]]] = [
    (f"{TENX}.h5", sd.read_10x_h5, sc.read_10x_h5),
    (f"{TENX}.h5", partial(sd.read_10x_h5, gex_only=False), partial(sc.read_10x_h5, gex_only=False)),
    (f"{TENX}.h5", sd.read, sc.read_10x_h5),
    (f"{TENX}.h5", partial(sd.read_10x_h5, genome="GRCh38_chr21"), partial(sc.read_10x_h5, genome="GRCh38_chr21")),
    (f"{OLD}/filtered_gene_bc_matrices_h5.h5", sd.read_10x_h5, sc.read_10x_h5),
    (
        f"{OLD}/multiple_genomes.h5",
        partial(sd.read_10x_h5, genome="another_genome"),
        partial(sc.read_10x_h5, genome="another_genome"),
    ),
    ("seurat_10x/visium/filtered_feature_bc_matrix.h5", sd.read_10x_h5, sc.read_10x_h5),
    (TENX, sd.read_10x_mtx, sc.read_10x_mtx),
    (TENX, sd.read, sc.read_10x_mtx),
    (TENX, partial(sd.read_10x_mtx, cache=False), sc.read_10x_mtx),
    (
        TENX,
        partial(sd.read_10x_mtx, gex_only=False, make_unique=False),
        partial(sc.read_10x_mtx, gex_only=False, make_unique=False),
    ),
    (TENX, partial(sd.read_10x_mtx, var_names="gene_ids"), partial(sc.read_10x_mtx, var_names="gene_ids")),
    (GENES, sd.read_10x_mtx, sc.read_10x_mtx),
    ("bpcells/double_mat.mtx", sd.read_mtx, sc.read_mtx),
    ("bpcells/int_mat.mtx.gz", sd.read, sc.read),
    ("anndata_archives/adata.csv", sd.read_csv, sc.read_csv),
    ("anndata_archives/adata.csv", sd.read, sc.read),
    ("anndata_archives/umi_tools.tsv.gz", sd.read_umi_tools, sc.read_umi_tools),
    ("loom/test.loom", sd.read_loom, sc.read_loom),
    ("loom/expr_mat_small.loom", sd.read, sc.read_loom),
    ("loom/expr_mat_small.loom", partial(sd.read_loom, cleanup=True), partial(sc.read_loom, cleanup=True)),
    ("bpcells/mini_mat.anndata-v0.10.9.h5ad", sd.read_h5ad, sc.read_h5ad),
    ("bpcells/mini_mat.anndata-v0.10.9.h5ad", partial(sd.read, backed="r"), sc.read),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", range(len(CASES)))
def test_read__is_scanpys(case: int, formats_dir: Path) -> None:
    name, ours, theirs = CASES[case]
    check_equal(ours(formats_dir / name), theirs(formats_dir / name))


def test_read_10x_mtx__is_the_tutorials(pbmc3k_dir: Path) -> None:
    found = sd.read_10x_mtx(pbmc3k_dir, var_names="gene_symbols", cache=True)
    check_equal(found, sc.read_10x_mtx(pbmc3k_dir, var_names="gene_symbols"))


@pytest.mark.filterwarnings("ignore")
def test_read_10x_mtx__takes_a_prefix_and_plain_files(formats_dir: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "cells").mkdir()
    for path in (formats_dir / TENX).iterdir():
        (folder / f"a_{path.stem}").write_bytes(gzip.decompress(path.read_bytes()))
    check_equal(sd.read_10x_mtx(folder, prefix="a_", compressed=False), sc.read_10x_mtx(formats_dir / TENX))


@pytest.mark.parametrize("delimiter", [",", "\t", None, ";"])
def test_read_text__every_name_and_delimiter(delimiter: str | None, tmp_path: Path) -> None:
    words = " " if delimiter is None else delimiter
    rows = [["cell", "a", "b"], ["x", "1.5", "0"], ["y", "0", "3"]]
    path = tmp_path / "table.data"  # a name that tells nothing
    path.write_text("\n".join(words.join(r) for r in rows) + "\n")
    check_equal(sd.read_text(path, delimiter), sc.read_text(path, delimiter))
    check_equal(sd.read(path, delimiter=delimiter), sc.read(path, delimiter=delimiter))


def test_read__first_column_names_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("id,a,b\n7,1,2\n8,3,0\n")
    check_equal(sd.read(path, first_column_names=True), sc.read(path, first_column_names=True))
    with pytest.raises(FormatError, match="first_column_names"):  # scanpy takes it for a gene
        sd.read(path)


def test_read_loom__columns_become_embeddings(tmp_path: Path) -> None:
    made = ad.AnnData(
        np.eye(4, 3, dtype=np.float32), obs=pd.DataFrame({"u": [1.0, 2, 3, 4], "v": 2.0}, index=list("abcd"))
    )
    made.var_names = list("xyz")
    cells = {k: made.obs[k].to_numpy() for k in ("u", "v")} | {"CellID": np.array(made.obs_names, dtype=object)}
    loompy.create(str(tmp_path / "a.loom"), made.X.T, {"Gene": np.array(made.var_names, dtype=object)}, cells)
    options: dict[str, Any] = {"obsm_mapping": {"X_uv": ["u", "v"]}}
    found, wanted = (m.read_loom(tmp_path / "a.loom", **options) for m in (sd, sc))
    check_equal(found, wanted)
    np.testing.assert_array_equal(found.obsm["X_uv"], wanted.obsm["X_uv"])
    with pytest.raises(InputError, match="'nope'"):
        sd.read_loom(tmp_path / "a.loom", obsm_mapping={"X_uv": ["nope"]})


def test_read__excel_and_hdf(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    table = pd.DataFrame([[1.0, 2.0], [0.0, 3.0]], index=["a", "b"], columns=["x", "y"])
    table.to_excel(tmp_path / "t.xlsx", sheet_name="one")
    found, wanted = (m.read(tmp_path / "t.xlsx", sheet="one") for m in (sd, sc))
    np.testing.assert_array_equal(found.X, wanted.X)
    assert list(found.obs_names) == list(wanted.obs_names) == ["a", "b"]
    with pytest.raises(InputError, match="sheet"):
        sd.read(tmp_path / "t.xlsx")


def test_read_hdf__an_array(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "t.h5", "w") as f:
        f["a"] = np.eye(3)
    np.testing.assert_array_equal(sd.read_hdf(tmp_path / "t.h5", "a").X, np.eye(3))
    np.testing.assert_array_equal(sd.read(tmp_path / "t.h5", sheet="a").X, np.eye(3))


def test_read_soft__is_scanpys(tmp_path: Path) -> None:
    lines = [
        "^DATASET = X",
        "!subset_description = sick",
        "!subset_sample_id = GSM1,GSM2",
        "!subset_description = well",
    ]
    lines += ["!subset_sample_id = GSM3", "!dataset_table_begin", "ID_REF\tIDENTIFIER\tGSM1\tGSM2\tGSM3\tother"]
    lines += ["1\tABC\t1.5\t2\t3\tq", "2\tNA\t4\t5\t6\tq", "!dataset_table_end"]
    path = tmp_path / "x.soft.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    found, wanted = sd.read(path), sc.read(path)
    np.testing.assert_array_equal(found.X, wanted.X)
    assert list(found.obs["groups"]) == list(wanted.obs["groups"]) == ["sick", "sick", "well"]
    assert list(found.var_names) == list(wanted.var_names) == ["ABC", "NA"]


def test_read__dense_becomes_sparse_on_request(tmp_path: Path) -> None:
    made = ad.AnnData(np.eye(5, dtype=np.float32))
    made.raw = made
    made.write_h5ad(tmp_path / "a.h5ad")
    found = sd.read_h5ad(tmp_path / "a.h5ad", as_sparse=["X", "raw/X"])
    assert sp.issparse(found.X.to_memory())
    assert sp.issparse(found.raw.X.to_memory())
    np.testing.assert_array_equal(dense(found.raw.X), np.eye(5))
    with pytest.raises(InputError, match="as_sparse"):
        sd.read_h5ad(tmp_path / "a.h5ad", as_sparse=["layers/a"])


def test_read__a_name_stands_for_a_file_in_writedir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "write").mkdir()
    ad.AnnData(np.eye(3, dtype=np.float32)).write_h5ad(tmp_path / "write" / "mine.h5ad")
    assert sd.read("mine").shape == (3, 3)
    with pytest.raises(FileNotFoundError, match=r"write/other\.h5ad"):
        sd.read("other")


def test_write__takes_scanpys_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = ad.AnnData(np.eye(3, dtype=np.float32))
    for name in ("a.h5ad", "a.zarr", "a"):
        for _ in range(2):  # what stands there is replaced
            sd.write(name, made)  # type: ignore[arg-type]
        assert sd.read(name).shape == (3, 3)
    assert (tmp_path / "write" / "a.h5ad").is_file()
    assert sc.read("a").shape == (3, 3)
    with pytest.raises(StoreError, match="overwrite=True"):
        sd.write(made, "a.h5ad")


def test_read__nothing_there_is_a_file_not_found_error(tmp_path: Path) -> None:
    for call in (sd.read, sd.read_h5ad, sd.read_10x_h5, sd.read_10x_mtx, sd.read_mtx, sd.read_csv):
        with pytest.raises(StoreError) as err:
            call(tmp_path / "none.h5")
        assert isinstance(err.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backed": "r+"}, "update=True"),
        ({"backed": "w"}, "backed='w'"),
        ({"cache_compression": "gzip"}, "compressed zarr"),
        ({"delimiter": ","}, "'delimiter' for a h5ad"),
        ({"genome": "a"}, "'genome' for a h5ad"),
        ({"ext": "exe"}, "ext='exe'"),
    ],
)
def test_read__refuses_what_it_would_ignore(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    ad.AnnData(np.eye(3, dtype=np.float32)).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=said):
        sd.read(tmp_path / "a.h5ad", **options)


def test_read__fetches_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    ad.AnnData(np.eye(3, dtype=np.float32)).write_h5ad(tmp_path / "web" / "a.h5ad")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/a.h5ad"
    try:
        assert sd.read(tmp_path / "new" / "b.h5ad", backup_url=url).shape == (3, 3)
        assert (tmp_path / "new" / "b.h5ad").read_bytes() == (tmp_path / "web" / "a.h5ad").read_bytes()
        with pytest.raises(StoreError, match=r"none\.h5ad"):
            sd.read(tmp_path / "new" / "c.h5ad", backup_url=url.replace("a.h5ad", "none.h5ad"))
        assert not (tmp_path / "new" / "c.h5ad").exists()
    finally:
        server.shutdown()
        server.server_close()
    assert sd.read(tmp_path / "new" / "b.h5ad", backup_url=url).shape == (3, 3)  # nobody is asked again
