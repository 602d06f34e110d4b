"""Input and output in a bucket: S3 by moto's server over HTTP on this machine, and fsspec's memory."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import fsspec
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import sc_dask as sd
from sc_dask.array.source import METER
from sc_dask.cli import main
from sc_dask.errors import StoreError
from sc_dask.pipeline import run

from .conftest import SETTINGS, Bucket

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {
    f"figures/{name}.png" for name in ("qc_violins", "hvg_scatter", "pca_variance_ratio", "umap_leiden", "umap_qc")
}


def opened(url: str, options: dict[str, Any]) -> ad.AnnData:
    """Read a store as somebody without sc_dask would."""
    return ad.read_zarr(zarr.storage.FsspecStore.from_url(url, storage_options=options, read_only=True))


def checked_beside(names: set[str]) -> None:
    assert FIGURES | {"markers.csv", "run.json", "out.zarr/zarr.json"} <= names
    assert not [n for n in names if ".work" in n or ".partial" in n]  # the checkpoints are gone


def test_run__from_bucket_to_bucket_is_the_local_run(bucket: Bucket, counts: Path, local: Any, same_run: Any) -> None:
    source = bucket.put(counts, "in.zarr")
    result = run(source, f"{bucket.url}/out.zarr", settings=SETTINGS, storage_options=bucket.storage_options)
    same_run(opened(result.store, bucket.storage_options), local[1])
    checked_beside(bucket.names())
    assert result.json == f"{bucket.url}/run.json"
    report = json.loads(bucket.fs().cat_file(result.json))
    ours, theirs = report["stages"], local[0].report["stages"]
    assert [(s["name"], s["passes"]) for s in ours] == [(s["name"], s["passes"]) for s in theirs]
    assert report["total"]["bytes_read"] > 0
    assert b"," in bucket.fs().cat_file(result.markers)


def test_cli__takes_nested_storage_options_and_h5ad_in_place(
    bucket: Bucket, counts: Path, local: Any, same_run: Any, tmp_path: Path
) -> None:
    ad.read_zarr(counts).write_h5ad(tmp_path / "in.h5ad", compression="gzip")
    source = bucket.put(tmp_path / "in.h5ad", "in.h5ad")
    (tmp_path / "run.yaml").write_text(json.dumps(SETTINGS))
    options = [f"--storage-option={k}={bucket.storage_options[k]}" for k in ("key", "secret")]
    done = CliRunner().invoke(
        main,
        ["run", source, "--out", f"{bucket.url}/out.zarr", *options,
         f"--storage-option=client_kwargs.endpoint_url={bucket.endpoint}", "--config", str(tmp_path / "run.yaml")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"store    {bucket.url}/out.zarr" in done.output
    assert "secret-word" not in done.output
    same_run(opened(f"{bucket.url}/out.zarr", bucket.storage_options), local[1])
    checked_beside(bucket.names())


_KILLED = """
import json, os, signal, sys
from sc_dask.pipeline import manifest, run
source, out, settings, options, stage = sys.argv[1:]
add = manifest.Manifest.add
def added(self, name, *rest):
    add(self, name, *rest)
    if name == stage:
        os.kill(os.getpid(), signal.SIGKILL)
manifest.Manifest.add = added
run(source, out, settings=json.loads(settings), storage_options=json.loads(options))
"""


def killed_after(stage: str, source: str, out: str, options: dict[str, Any]) -> None:
    args = [source, out, json.dumps(SETTINGS), json.dumps(options), stage]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, *args], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr


@pytest.mark.slow
def test_run__resumes_in_the_bucket_after_a_kill(bucket: Bucket, counts: Path, local: Any, same_run: Any) -> None:
    source, out = bucket.put(counts, "in.zarr"), f"{bucket.url}/out.zarr"
    killed_after("pca", source, out, bucket.storage_options)
    assert "out.zarr.work/manifest.json" in bucket.names()
    assert not any(n.startswith("out.zarr/") for n in bucket.names())
    result = run(source, out, settings=SETTINGS, storage_options=bucket.storage_options)
    resumed = [s["name"] for s in result.report["stages"] if s.get("resumed")]
    assert resumed[0] == "qc" and resumed[-1] == "pca"
    same_run(opened(out, bucket.storage_options), local[1])
    checked_beside(bucket.names())


def test_run__output_that_is_there_is_refused(bucket: Bucket, counts: Path) -> None:
    source = bucket.put(counts, "in.zarr")
    bucket.put(counts, "out.zarr")
    before = bucket.names()
    with pytest.raises(StoreError, match="is there already"):
        run(source, f"{bucket.url}/out.zarr", settings=SETTINGS, storage_options=bucket.storage_options)
    assert bucket.names() == before


def test_write_and_convert__to_a_bucket(bucket: Bucket, counts: Path, tmp_path: Path) -> None:
    adata = ad.read_zarr(counts)
    url = f"{bucket.url}/written.zarr"
    sd.write(sd.read(counts), url, storage_options=bucket.storage_options)
    np.testing.assert_array_equal(opened(url, bucket.storage_options).X.toarray(), adata.X.toarray())
    lazy = sd.read(url, storage_options=bucket.storage_options)
    sd.pp.calculate_qc_metrics(lazy, inplace=True, percent_top=None)
    sd.write(lazy, url, storage_options=bucket.storage_options, update=True)
    found = opened(url, bucket.storage_options)
    assert found.obs["total_counts"].sum() == adata.X.sum()
    adata.write_h5ad(tmp_path / "in.h5ad")
    source = bucket.put(tmp_path / "in.h5ad", "in.h5ad")
    sd.convert(
        source,
        f"{bucket.url}/converted.zarr",
        storage_options=bucket.storage_options,
        out_storage_options=bucket.storage_options,
    )
    np.testing.assert_array_equal(
        opened(f"{bucket.url}/converted.zarr", bucket.storage_options).X.toarray(), adata.X.toarray()
    )
    assert {n.split("/")[0] for n in bucket.names()} == {"written.zarr", "converted.zarr", "in.h5ad"}


def test_write__needs_few_requests(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements go together: zarr alone asks for and writes about ten objects an array, one after the other."""
    import aiohttp

    asked, request = [], aiohttp.ClientSession._request

    async def counted(self: Any, method: str, url: Any, **kwargs: Any) -> Any:
        asked.append(method)
        return await request(self, method, url, **kwargs)

    adata = ad.AnnData(np.ones((4, 3), np.float32))
    for i in range(20):
        adata.obs[f"column{i}"] = np.arange(4.0)
    monkeypatch.setattr(aiohttp.ClientSession, "_request", counted)
    sd.write(adata, f"{bucket.url}/small.zarr", storage_options=bucket.storage_options)
    assert opened(f"{bucket.url}/small.zarr", bucket.storage_options).obs["column19"].sum() == 6
    assert asked.count("PUT") < 100
    assert len(asked) < 500


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of fsspec's memory."""
    url = f"memory://test-{time.monotonic_ns()}"
    yield url
    fs, path = fsspec.core.url_to_fs(url)
    fs.rm(path, recursive=True)


def test_run__in_fsspec_memory(memory: str, counts: Path, local: Any, same_run: Any) -> None:
    fs, path = fsspec.core.url_to_fs(memory)
    fs.put(str(counts), f"{path}/in.zarr", recursive=True)
    result = run(f"{memory}/in.zarr", f"{memory}/out.zarr", settings=SETTINGS)
    same_run(opened(result.store, {}), local[1])
    checked_beside({str(n).removeprefix(path).strip("/") for n in fs.find(path)} - {"in.zarr"})


def test_read__chunks_of_a_bucket_are_under_way_together(
    bucket: Bucket, counts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sharded (ours) and unsharded (foreign): the local values and bytes, with more than four requests at once."""
    import s3fs

    at_once, most = 0, 0
    cat = s3fs.S3FileSystem._cat_file

    async def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            await asyncio.sleep(0.05)
            return await cat(self, *args, **kwargs)
        finally:
            at_once -= 1

    foreign, x = tmp_path / "foreign.zarr", ad.read_zarr(counts).X
    ad.AnnData(x).write_zarr(foreign)
    root = zarr.open_group(foreign, mode="r+", use_consolidated=False)
    for name in ("data", "indices"):
        root["X"].create_array(name, data=getattr(x, name), chunks=(10_000,), overwrite=True)
    zarr.consolidate_metadata(foreign)
    for path, wanted in ((counts, 1), (foreign, 4)):
        url = bucket.put(path, path.name)
        here, there = sd.read(path).X, sd.read(url, storage_options=bucket.storage_options).X
        here.expression.source.read(0, 1), there.expression.source.read(0, 1)  # opened, indptr known
        METER.empty()
        expected = here.expression.source.read(0, 900)
        n_bytes = METER.empty().n_bytes
        most = 0
        with monkeypatch.context() as patched:
            patched.setattr(s3fs.S3FileSystem, "_cat_file", slow)
            found = there.expression.source.read(0, 900)
        assert (found != expected).nnz == 0
        assert METER.empty().n_bytes == n_bytes
        assert most > wanted
    lost = f"X/indices/{root['X/indices'].metadata.encode_chunk_key((3,))}"
    bucket.fs().rm(f"{url.removeprefix('s3://')}/{lost}")
    with pytest.raises(StoreError, match=f"chunk {lost} of s3://.* is missing"):
        sd.read(url, storage_options=bucket.storage_options).X.compute()
