"""A bucket on this machine, two worker processes, and one run to compare with."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

from sc_dask import datasets
from sc_dask.pipeline import Result, run

SETTINGS = {
    "qc": {"percent_top": [50]},
    "neighbors": {"n_pcs": 15},
    "pca": {"n_comps": 20},
    "umap": {"maxiter": 20},
}


@dataclass(frozen=True)
class Bucket:
    """A bucket of moto's server."""

    url: str
    storage_options: dict[str, Any]

    @property
    def endpoint(self) -> str:
        endpoint: str = self.storage_options["client_kwargs"]["endpoint_url"]
        return endpoint

    def fs(self) -> Any:
        import s3fs

        fs = s3fs.S3FileSystem(**self.storage_options)
        fs.invalidate_cache()
        return fs

    def put(self, path: Path, name: str) -> str:
        self.fs().put(str(path), f"{self.url.removeprefix('s3://')}/{name}", recursive=path.is_dir())
        return f"{self.url}/{name}"

    def names(self) -> set[str]:
        """Keys of the bucket, without those of what tests read."""
        root = self.url.removeprefix("s3://")
        return {key.removeprefix(f"{root}/") for key in self.fs().find(root)}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, Any]]:
    """Storage options of an S3 server on a free port of this machine."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield {"key": "name", "secret": "secret-word", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    finally:
        server.stop()


@pytest.fixture
def bucket(s3_server: dict[str, Any], request: pytest.FixtureRequest) -> Iterator[Bucket]:
    """An empty bucket."""
    name = f"bucket-{abs(hash(request.node.nodeid)):x}"
    made = Bucket(f"s3://{name}", s3_server)
    made.fs().mkdir(name)
    yield made
    with contextlib.suppress(FileNotFoundError):
        made.fs().rm(name, recursive=True)


@pytest.fixture(scope="session")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 900 x 600 simulated counts in four groups."""
    path = tmp_path_factory.mktemp("counts") / "in.zarr"
    datasets.simulate(900, 600, n_groups=4, n_batches=2, seed=0, out=path)
    return path


@pytest.fixture(scope="session")
def local(counts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, ad.AnnData]:
    """The run under Dask's threads, on a local disk."""
    result = run(counts, tmp_path_factory.mktemp("local") / "out.zarr", settings=SETTINGS)
    return result, ad.read_zarr(result.store)


@pytest.fixture(scope="session")
def two_processes() -> Iterator[Any]:
    """A LocalCluster of two worker processes of one thread; a test connects a client of its own."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster:
        yield cluster


@pytest.fixture
def client(two_processes: Any) -> Iterator[Any]:
    """The cluster computes by default while a test runs."""
    from distributed import Client

    with Client(two_processes) as c:
        yield c


def assert_same_run(found: ad.AnnData, expected: ad.AnnData) -> None:
    """Integers bit for bit, floats to 1e-6 relative, labels and names equal."""
    assert list(found.obs_names) == list(expected.obs_names)
    assert list(found.var_names) == list(expected.var_names)
    assert list(found.obs["leiden"]) == list(expected.obs["leiden"])
    for name in ("obs", "var"):
        a, b = getattr(found, name), getattr(expected, name)
        assert list(a.columns) == list(b.columns)
        for column in a:
            if a[column].dtype.kind == "f":
                np.testing.assert_allclose(a[column], b[column], rtol=1e-6, err_msg=column)
            else:
                assert a[column].equals(b[column]), column
    for slot, key in (("obsm", "X_pca"), ("varm", "PCs")):
        a, b = getattr(found, slot)[key], getattr(expected, slot)[key]
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * float(np.abs(b).max()))
    np.testing.assert_allclose(found.uns["pca"]["variance"], expected.uns["pca"]["variance"], rtol=1e-6)
    a, b = found.X.tocsr(), expected.X.tocsr()
    np.testing.assert_array_equal(a.indptr, b.indptr)
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_allclose(a.data, b.data, rtol=1e-6)


@pytest.fixture(scope="session")
def same_run() -> Any:
    """``same_run(found, expected)`` compares two results."""
    return assert_same_run
