"""Every kind of file becomes one sort of store: sharded, with checksums, counts narrowed; also after ``kill -9``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.io.writing import layout
from tests.io.cases import dense

N_OBS, N_VARS = 120, 40
SHARD = 8 * 199


def h5ad(form: Callable[[Any], Any], compression: str | None) -> Callable[[Path, sp.csr_matrix], None]:
    def write(path: Path, x: sp.csr_matrix) -> None:
        ad.AnnData(form(x)).write_h5ad(path, compression=compression)

    return write


def tenx_h5(path: Path, x: sp.csr_matrix) -> None:
    with h5py.File(path, "w") as f:
        group = f.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(x, name).astype(np.int64), chunks=(100,), compression="gzip")
        group["shape"] = np.array([N_VARS, N_OBS], np.int32)
        group["barcodes"] = np.array([f"cell{i}-1" for i in range(N_OBS)], "S")
        for name in ("id", "name"):
            group[f"features/{name}"] = np.array([f"g{i}" for i in range(N_VARS)], "S")
        group["features/feature_type"] = np.array(["Gene Expression"] * N_VARS, "S")


def tenx_folder(path: Path, x: sp.csr_matrix) -> None:
    path.mkdir()
    scipy.io.mmwrite(path / "matrix.mtx", x.T.tocoo(), field="integer")
    (path / "features.tsv").write_text("".join(f"ENSG{i}\tg{i}\tGene Expression\n" for i in range(N_VARS)))
    (path / "barcodes.tsv").write_text("".join(f"cell{i}-1\n" for i in range(N_OBS)))


def mtx(path: Path, x: sp.csr_matrix) -> None:
    scipy.io.mmwrite(path, x.tocoo(), field="integer")


def loom(path: Path, x: sp.csr_matrix) -> None:
    with h5py.File(path, "w") as f:
        f.create_dataset("matrix", data=x.toarray().T, chunks=(16, 16), compression="gzip")
        f["row_attrs/Gene"] = np.array([f"g{i}" for i in range(N_VARS)], "S")
        f["col_attrs/CellID"] = np.array([f"cell{i}" for i in range(N_OBS)], "S")


def csv(path: Path, x: sp.csr_matrix) -> None:
    np.savetxt(path, x.toarray(), delimiter=",", fmt="%d")


FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda x: x.toarray()}
KINDS: dict[str, Callable[[Path, sp.csr_matrix], None]] = {
    **{f"{form}-{c}.h5ad": h5ad(FORMS[form], c) for form in FORMS for c in ("gzip", "lzf", None)},
    "10x.h5": tenx_h5,
    "10x-folder": tenx_folder,
    "a.mtx": mtx,
    "a.loom": loom,
    "a.csv": csv,
}

DOOMED = """
import json, os, signal, sys
import sc_dask as sd
from sc_dask.io import convert
from sc_dask.io.writing import layout

def convert_until_killed(source, out, shard_bytes):
    put, n = layout.put, 0
    def deadly(*args, **options):
        nonlocal n
        if n == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        n += 1
        put(*args, **options)
    layout.put = deadly
    sd.convert(source, out, shard_bytes=shard_bytes)

ended = {}
for source, out in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        convert_until_killed(source, out, int(sys.argv[2]))
        os._exit(0)
    ended[out] = -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    x = np.random.default_rng(3).poisson(0.5, (N_OBS, N_VARS))
    x[7, 3], x[60], x[-1, -1] = 300, 0, 1
    return sp.csr_matrix(x.astype(np.float32))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, counts: sp.csr_matrix) -> Path:
    """A folder of one file of each kind, and of what conversions of them left that were killed after five shards."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, write in KINDS.items():
        write(folder / name, counts)
    pairs = json.dumps([(str(folder / name), str(folder / f"{name}.zarr")) for name in KINDS])
    done = subprocess.run(
        [sys.executable, "-c", DOOMED, pairs, str(SHARD)], stdout=subprocess.PIPE, check=True, timeout=600
    )
    assert set(json.loads(done.stdout).values()) == {9}
    return folder


def objects(store: Path) -> list[Path]:
    """Every file of a store but the metadata, whose dicts have no order."""
    return sorted(p.relative_to(store) for p in store.rglob("*") if p.is_file() and p.name != "zarr.json")


@pytest.mark.parametrize("name", KINDS)
def test_convert__every_kind_killed_and_begun_again(
    killed: Path, counts: sp.csr_matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out, draft = killed / f"{name}.zarr", killed / f".{name}.zarr.partial"
    assert draft.is_dir() and not out.exists()
    written: list[int] = []
    put = layout.put

    def counting(array: Any, shard: int, *args: Any, **options: Any) -> None:
        written.append(shard)
        put(array, shard, *args, **options)

    monkeypatch.setattr(layout, "put", counting)
    found = sd.convert(killed / name, out, shard_bytes=SHARD)
    n_resumed = len(written)
    unbroken = sd.convert(killed / name, tmp_path / "a.zarr", shard_bytes=SHARD)
    assert 0 < n_resumed < len(written) - n_resumed  # some shards stayed
    for x in (found.X, unbroken.X):
        assert x.dtype == np.uint16
        np.testing.assert_array_equal(dense(x), counts.toarray())
    stored = objects(out)
    assert stored == objects(tmp_path / "a.zarr")
    for path in stored:
        assert (out / path).read_bytes() == (tmp_path / "a.zarr" / path).read_bytes()
    arrays = [out / "X"] if name.startswith("dense") else [out / "X" / "data", out / "X" / "indices"]
    for array in arrays:
        (codec,) = json.loads((array / "zarr.json").read_text())["codecs"]
        assert codec["name"] == "sharding_indexed"
        assert [c["name"] for c in codec["configuration"]["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert not list(killed.glob(f".*{name}.zarr*"))
