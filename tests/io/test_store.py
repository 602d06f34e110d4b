from __future__ import annotations

import gzip
import os
import pickle
import re
import shutil
import threading
import warnings
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
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

from sc_dask.errors import FormatError, InputError, StoreError
from sc_dask.io.blobs import store
from sc_dask.io.blobs.store import Location
from sc_dask.io.read import read
from sc_dask.outside.fsspec import reads_zip_behind_url
from tests.io.cases import differences


def small(n_obs: int = 60, n_vars: int = 15) -> ad.AnnData:
    x = sp.random(n_obs, n_vars, 0.3, format="csr", dtype=np.float32, random_state=0)
    out = ad.AnnData(x, layers={"dense": x.toarray()})
    out.obs["kind"] = pd.Categorical(np.where(np.arange(n_obs) % 2, "a", "b"))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One AnnData as a.zarr, a.zarr.zip and a.h5ad, and files of other kinds."""
    root = tmp_path_factory.mktemp("stores")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small().write_zarr(root / "a.zarr")
        small().write_h5ad(root / "a.h5ad", compression="gzip")
    shutil.make_archive(str(root / "a.zarr"), "zip", root / "a.zarr")
    (root / "a.csv").write_text("a,b\n1,2\n")
    (root / "a.tsv.gz").write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
    (root / "any.name").write_bytes(gzip.compress(b"%%MatrixMarket matrix coordinate integer general\n"))
    (root / "liar.mtx").write_text("nothing\n")
    (root / "a.txt.gz").write_bytes(b"\x1f\x8b broken")
    (root / "10x").mkdir()
    (root / "10x" / "sample_matrix.mtx.gz").write_bytes(b"")
    (root / "empty.zarr").mkdir()
    for name, keys in {"loom": ["matrix"], "v3": ["matrix/barcodes", "matrix/indptr"], "mu": ["mod/rna/X"]}.items():
        with h5py.File(root / f"{name}.h5", "w") as f:
            for key in keys:
                f[key] = np.zeros(3)
    (root / "cut.h5ad").write_bytes((root / "a.h5ad").read_bytes()[:2000])
    return root


class RangeHandler(SimpleHTTPRequestHandler):
    """A web server that answers range requests, as buckets do, and lists no folders."""

    def log_message(self, *args: Any) -> None:
        pass

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def do_GET(self) -> None:
        path = self.translate_path(self.path)
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or not os.path.isfile(path):
            return super().do_GET()
        body = Path(path).read_bytes()
        first, last = asked.groups()
        start = int(first) if first else len(body) - int(last)
        stop = min(int(last) + 1, len(body)) if first and last else len(body)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(body[start:stop])
        return None


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    def handler(*args: Any) -> RangeHandler:
        return RangeHandler(*args, directory=str(folder))

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    thread.join()


@pytest.fixture
def memory(folder: Path) -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    for name in ("a.zarr", "a.zarr.zip", "a.h5ad"):
        fs.put(str(folder / name), f"/bucket/{name}", recursive=True)
    yield "memory://bucket"
    fs.rm("/bucket", recursive=True)


def test_parse__local_paths_and_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location.parse("x.zarr").path == tmp_path / "x.zarr"
    assert Location.parse(tmp_path / "x.zarr") == Location.parse(f"file://{tmp_path}/x.zarr/")
    remote = Location.parse("s3://bucket/x.zarr/", {"key": "secret", "client_kwargs": {"endpoint_url": "http://x"}})
    assert remote.url == "s3://bucket/x.zarr" and remote.name == "x.zarr" and not remote.is_local
    assert "secret" not in repr(remote) and "secret" not in str(remote)
    assert hash(remote) == hash(pickle.loads(pickle.dumps(remote)))
    assert remote != Location.parse("s3://bucket/x.zarr", {"key": "other"})
    assert (remote / "X/data").url == "s3://bucket/x.zarr/X/data"
    for bad in ("", 3, "s3://"):
        with pytest.raises(InputError):
            Location.parse(bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="storage options"):
        Location.parse("x.zarr", {"anon": True})
    with pytest.raises(StoreError, match="gopher"):
        Location.parse("gopher://x/y").fs()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.zarr", "zarr"),
        ("a.zarr.zip", "zarr"),
        ("a.h5ad", "h5ad"),
        ("a.csv", "csv"),
        ("a.tsv.gz", "tsv"),
        ("any.name", "mtx"),
        ("10x", "10x-mtx"),
        ("loom.h5", "loom"),
        ("v3.h5", "10x-h5"),
    ],
)
def test_sniff__by_content(folder: Path, name: str, kind: str) -> None:
    assert store.sniff(Location.parse(folder / name)) == kind


@pytest.mark.parametrize("name", ["liar.mtx", "a.txt.gz", "empty.zarr", "mu.h5", "cut.h5ad", "."])
def test_sniff__refuses_with_the_name(folder: Path, name: str) -> None:
    location = Location.parse(folder / name)
    with pytest.raises(FormatError, match=re.escape(str(location))):
        store.sniff(location)


@pytest.mark.parametrize("name", ["a.zarr", "a.zarr.zip", "a.h5ad"])
@pytest.mark.parametrize("where", ["local", "memory", "http"])
def test_read__same_from_everywhere(folder: Path, memory: str, server: str, where: str, name: str) -> None:
    root = {"local": str(folder), "memory": memory, "http": server}[where]
    if name.endswith(".zip") and where != "local" and not reads_zip_behind_url():
        with pytest.raises(StoreError, match="zip behind a URL, which fsspec .* cannot read"):
            read(f"{root}/{name}")
        return
    found = read(f"{root}/{name}", block_bytes=300)
    assert found.X.numblocks[0] > 3
    assert differences(found, small()) == []


@pytest.mark.parametrize("where", ["local", "memory", "http"])
def test_read__missing_is_one_sentence(folder: Path, memory: str, server: str, where: str) -> None:
    root = {"local": str(folder), "memory": memory, "http": server}[where]
    for name in ("nothing.zarr", "nothing.h5ad", "nothing.zarr.zip"):
        with pytest.raises(StoreError, match=f"no file or store at .*{name}"):
            read(f"{root}/{name}")
        assert not store.exists(Location.parse(f"{root}/{name}"))
        assert store.exists(Location.parse(f"{root}/{name.replace('nothing', 'a')}"))


def test_open_file__a_server_without_ranges_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setattr(RangeHandler, "do_GET", SimpleHTTPRequestHandler.do_GET)
    with pytest.raises(StoreError, match=r"a\.h5ad cannot give parts of a file|fewer bytes"):
        read(f"{server}/a.h5ad").X.compute()


def test_open_group__write_and_read_back(tmp_path: Path) -> None:
    for url in (str(tmp_path / "new.zarr"), str(tmp_path / "new.zarr.zip"), "memory://new/x.zarr"):
        location = Location.parse(url)
        group = store.open_group(location, "w", zarr_format=3)
        group.create_array("x", data=np.arange(10))
        group.store.close()
        back = store.open_group(location)["x"]
        assert isinstance(back, zarr.Array) and np.array_equal(back[:], np.arange(10))


def test_fingerprint__changes_when_a_file_is_written_again(tmp_path: Path, memory: str) -> None:
    path = tmp_path / "x"
    path.write_text("one")
    location = Location.parse(path)
    first = store.fingerprint(location)
    assert store.fingerprint(location) == first != ""
    path.write_text("three")
    assert store.fingerprint(location) != first
    remote = Location.parse(f"{memory}/a.zarr")
    key = next(k for k in ("X/data/.zarray", "X/data/zarr.json") if store.exists(remote / k))
    before = store.fingerprint(remote, key)
    fsspec.filesystem("memory").pipe_file(f"/bucket/a.zarr/{key}", b"{}")
    assert store.fingerprint(remote, key) != before != ""


def test_read__a_file_written_again_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.h5ad"
    small().write_h5ad(path)
    first = read(path)
    assert differences(first, small()) == []
    small(80).write_h5ad(path, compression="lzf")
    assert differences(read(path), small(80)) == []
