"""What deploy/README.md says is done: its commands start a scheduler and two workers, and runs on them."""

from __future__ import annotations

import logging
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import psutil
import pytest
import zarr

from sc_dask import datasets
from sc_dask.cli import main
from sc_dask.config import DEFAULTS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "deploy" / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return [b.strip() for b in re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def bucket() -> Iterator[str]:
    """The endpoint of an S3 server on this machine that has an empty bucket named ``bucket``."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        S3FileSystem(key="name", secret="word", endpoint_url=endpoint).mkdir("bucket")
        yield endpoint
    finally:
        server.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a command line of the README, in an environment where ``dask`` and ``sc-dask`` are this checkout's."""
    shims = tmp_path / "bin"
    shims.mkdir()
    for name, module in (("dask", "dask"), ("sc-dask", "sc_dask.cli")):
        (shims / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
        (shims / name).chmod(0o755)
    env = os.environ | {
        "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "AWS_ACCESS_KEY_ID": "name",
        "AWS_SECRET_ACCESS_KEY": "word",
        "DASK_TEMPORARY_DIRECTORY": str(tmp_path / "dask"),
    }
    started: list[subprocess.Popen[str]] = []

    def begin(line: str) -> subprocess.Popen[str]:
        with (tmp_path / f"log-{len(started)}").open("w") as out:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {line}"], stdout=out, stderr=out, text=True, env=env, cwd=tmp_path
            )
        started.append(process)
        return process

    yield begin
    for process in reversed(started):
        process.terminate()
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def logs(tmp_path: Path) -> str:
    return "\n".join(f"{p.name}: {p.read_text()}" for p in sorted(tmp_path.glob("log-*")))


def listening(process: subprocess.Popen[str]) -> set[str]:
    """Return the addresses that a process and its children listen at."""
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    return {c.laddr.ip for p in family for c in p.net_connections(kind="inet") if c.status == "LISTEN"}


def wait_for_workers(address: str, n: int) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(n, timeout=60)


def test_readme__its_commands_run_the_pipeline_on_workers(
    tmp_path: Path, bucket: str, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    counts = tmp_path / "counts.zarr"
    datasets.simulate(600, 900, n_groups=3, seed=0, out=counts)
    options = {"key": "name", "secret": "word", "endpoint_url": bucket}
    upload(counts, "bucket/atlas.zarr", options)
    scheduler_port = free_port()
    replaced = {
        "8786": str(scheduler_port),
        "8787": str(free_port()),
        "INPUT": str(counts),
        " OUT.zarr": f" {tmp_path}/OUT.zarr",
        "http://127.0.0.1:9000": bucket,
    }
    lines = blocks("sh")
    (script,) = blocks("python")
    for old, new in replaced.items():
        assert any(old in line for line in lines), old
        lines = [line.replace(old, new) for line in lines]
        script = script.replace(old, new)
    services = [start(line) for line in lines if line.startswith("dask ")]
    assert len(services) == 3
    wait_for_workers(f"tcp://127.0.0.1:{scheduler_port}", 2)
    for service in services:
        assert listening(service) == {"127.0.0.1"}, service.args

    runs = [line for line in lines if line.startswith("sc-dask ")]
    assert len(runs) == len(lines) - len(services) == 2
    for line in runs:
        assert start(line).wait(240) == 0, logs(tmp_path)
    local = ad.read_zarr(tmp_path / "OUT.zarr")
    store = zarr.storage.FsspecStore.from_url("s3://bucket/OUT.zarr", storage_options=options, read_only=True)
    remote = ad.read_zarr(store)
    assert local.obs["leiden"].nunique() >= 2
    assert list(local.obs["leiden"]) == list(remote.obs["leiden"])
    np.testing.assert_allclose(local.obsm["X_pca"], remote.obsm["X_pca"], rtol=1e-6, atol=1e-5)
    assert (tmp_path / "markers.csv").exists() and (tmp_path / "run.json").exists()

    names: dict[str, ad.AnnData] = {}
    exec(script, names)  # README's own
    exact = ad.read_zarr(counts)
    np.testing.assert_array_equal(names["adata"].obs["n_genes_by_counts"], np.diff(exact.X.tocsr().indptr))
    assert all(service.poll() is None for service in services)  # nothing fell over on the way


def upload(path: Path, key: str, options: dict[str, str]) -> None:
    from s3fs import S3FileSystem

    S3FileSystem(**options).put(str(path), key, recursive=True)


def test_readme__settings_exist() -> None:
    ours = re.findall(r"`DASK_SC_DASK__(\w+)=", README)
    assert len(ours) == 3
    assert {name.lower().replace("_", "-") for name in ours} <= set(DEFAULTS)
    import dask
    import distributed  # noqa: F401  (declares its options)

    for name in re.findall(r"`DASK_DISTRIBUTED__(\w+)=", README):
        dask.config.get("distributed." + name.lower().replace("__", "."))


@pytest.mark.parametrize("name", ["WORK_DIR", "STALL_TIMEOUT_S", "BLOCK_BYTES"])
def test_readme__a_setting_of_the_environment_arrives(name: str) -> None:
    key = name.lower().replace("_", "-")
    done = subprocess.run(
        [sys.executable, "-c", f"from sc_dask import config; print(config.get({key!r}))"],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env=os.environ | {f"DASK_SC_DASK__{name}": "77"},
    )  # fmt: skip
    assert done.stdout.strip() == "77", done.stderr


def test_readme__image_commands_are_those_of_the_dockerfile() -> None:
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    lines = blocks("console")[0].splitlines()
    in_comments = [
        " ".join(line.lstrip("# ").split()) for line in dockerfile.splitlines() if line.startswith("#   docker")
    ]
    assert lines[0] == in_comments[0].split("(")[0].strip()
    assert lines[1:3] == in_comments[1:3]
    command = shlex.split(lines[3].split(" sc-dask ", 1)[1])
    assert command[:2] == ["sc-dask", "run"]  # the image is called as its program is
    assert {o for p in main.commands["run"].params for o in p.opts} >= {w for w in command if w.startswith("--")}
