"""50,000 cells from counts to markers: the same bytes for any number of threads, processes and workers."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.engine import run

pytestmark = pytest.mark.slow
N_OBS, N_VARS = 50_000, 3_000


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "counts.zarr"
    sd.datasets.simulate(N_OBS, N_VARS, n_groups=12, n_batches=3, seed=0, out=path)
    return path


def digest(*arrays: Any) -> str:
    found = hashlib.blake2b(digest_size=8)
    for x in arrays:
        parts = (x.data, x.indices, x.indptr) if sp.issparse(x) else (np.ascontiguousarray(x),)
        for part in parts:
            found.update(part.astype(str).tobytes() if part.dtype == object else part.tobytes())
    return found.hexdigest()


def analysed(path: Path) -> dict[str, str]:
    """Return a hash of what every stage finds."""
    adata = sd.read(path, block_bytes=2 << 20)
    assert adata.X.expression.n_blocks > 30
    sd.pp.calculate_qc_metrics(adata, percent_top=(50,), inplace=True)
    sd.pp.filter_cells(adata, min_genes=50)
    sd.pp.filter_genes(adata, min_cells=10)
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata, n_top_genes=1_000, batch_key="batch")
    sd.pp.pca(adata, n_comps=30)
    sd.pp.neighbors(adata)
    sd.tl.leiden(adata, flavor="sc_dask")
    sd.tl.umap(adata, maxiter=50)
    sd.tl.rank_genes_groups(adata, "leiden")
    sd.tl.rank_genes_groups(adata, "leiden", method="wilcoxon", key_added="wilcoxon")
    return hashes(adata)


def hashes(adata: ad.AnnData) -> dict[str, str]:
    tests = {
        f"{key} {name}": digest(
            *(np.asarray(adata.uns[key][name][g]).astype(str) for g in adata.obs["leiden"].cat.categories)
        )
        for key in ("rank_genes_groups", "wilcoxon")
        for name in ("names", "scores", "pvals_adj", "logfoldchanges")
    }
    return {
        "totals": digest(adata.obs["total_counts"].to_numpy()),
        "dispersions": digest(adata.var["dispersions_norm"].to_numpy()),
        "X_pca": digest(adata.obsm["X_pca"], adata.varm["PCs"], adata.uns["pca"]["variance"]),
        "graph": digest(adata.obsp["distances"], adata.obsp["connectivities"]),
        "leiden": digest(np.asarray(adata.obs["leiden"]).astype(str)),
        "umap": digest(adata.obsm["X_umap"]),
        **tests,
    }


@pytest.fixture(scope="module")
def expected(counts: Path) -> dict[str, str]:
    with dask.config.set(scheduler="threads", num_workers=2):
        return analysed(counts)


@pytest.mark.parametrize("n_threads", [1, 4])
def test_digits__threads(counts: Path, expected: dict[str, str], n_threads: int) -> None:
    with dask.config.set(scheduler="threads", num_workers=n_threads):
        assert analysed(counts) == expected


@contextmanager
def workers(n: int, work_dir: Path) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with (
        dask.config.set({"sc-dask.work-dir": str(work_dir)}),
        LocalCluster(n_workers=n, processes=True, **options) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(n, timeout=120)
        yield cluster


def killer(cluster: Any, seconds: float) -> Callable[[], None]:
    """Kill one worker after a while; returns what waits for it."""

    def kill() -> None:
        time.sleep(seconds)
        os.kill(next(iter(cluster.workers.values())).process.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread.join


@pytest.mark.parametrize("n_workers", [2, 3])
def test_digits__workers(counts: Path, expected: dict[str, str], n_workers: int, tmp_path: Path) -> None:
    with workers(n_workers, tmp_path):
        assert run.n_processes() == n_workers
        assert analysed(counts) == expected


def test_digits__a_killed_worker(counts: Path, expected: dict[str, str], tmp_path: Path) -> None:
    with workers(3, tmp_path) as cluster, ExitStack() as stack:
        stack.callback(killer(cluster, 8))
        assert analysed(counts) == expected


def test_digits__an_adaptive_cluster(counts: Path, expected: dict[str, str], tmp_path: Path) -> None:
    seen = []
    with workers(1, tmp_path) as cluster:
        cluster.adapt(minimum=1, maximum=3, interval="200ms", wait_count=100)
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                seen.append(len(cluster.scheduler_info["workers"]))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert analysed(counts) == expected
        finally:
            done.set()
            watcher.join()
    assert max(seen) > 1  # it saw a backlog
