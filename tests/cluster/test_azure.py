"""Our stores in Azure Blob Storage: its emulator Azurite (``npm install -g azurite``) and adlfs (extra ``cloud``)."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd

# the account that the emulator's documentation publishes
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Storage options of an emulator on a free port of this machine, with a container ``cells``."""
    adlfs = pytest.importorskip("adlfs", reason="adlfs is in the extra cloud")
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("azurite-blob is not installed: npm install -g azurite")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folder = tmp_path_factory.mktemp("azurite")
    command = [azurite, "--silent", "--skipApiVersionCheck", "--blobPort", str(port), "--location", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(port)
            endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
            given = (
                f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint={endpoint};"
            )
            adlfs.AzureBlobFileSystem(connection_string=given).mkdir("cells")
            yield {"connection_string": given}
        finally:
            server.terminate()


def wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(port)


@pytest.mark.slow
def test_store__is_written_read_updated_and_replaced(options: dict[str, Any], tmp_path: Path) -> None:
    m = sp.random(900, 50, 0.2, format="csr", random_state=0, dtype=np.float32)
    wanted = ad.AnnData(m, layers={"dense": m.toarray()})
    wanted.obs["name"] = [f"00{i}" for i in range(900)]
    url = "az://cells/a.zarr"
    sd.write(wanted, url, storage_options=options, shard_bytes=8192)
    found = sd.read(url, storage_options=options, block_bytes=8192)
    np.testing.assert_array_equal(found.to_memory().X.toarray(), m.toarray())
    np.testing.assert_array_equal(found.layers["dense"].compute(), m.toarray())
    sd.pp.calculate_qc_metrics(found, percent_top=None, inplace=True)
    sd.write(found, url, storage_options=options, update=True)
    again = sd.read(url, storage_options=options, lazy_obs=True)
    np.testing.assert_allclose(sd.get.column(again, "total_counts"), m.toarray().sum(axis=1), rtol=1e-5)
    wanted.write_h5ad(tmp_path / "a.h5ad")
    sd.convert(tmp_path / "a.h5ad", url, out_storage_options=options, overwrite=True, shard_bytes=8192)
    back = sd.convert(url, tmp_path / "b.zarr", storage_options=options)
    np.testing.assert_array_equal(back.to_memory().X.toarray(), m.toarray())
    assert ad.read_zarr(tmp_path / "b.zarr").obs["name"].tolist() == wanted.obs["name"].tolist()
