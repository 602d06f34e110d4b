"""sc_dask inside the tasks of a cluster: one sample a task, computed where the task is."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import sc_dask as sd


def sample(path: str) -> tuple[int, float, np.ndarray]:
    from sc_dask.array.engine import run

    with dask.config.set({"sc-dask.stall-timeout-s": 30}):
        adata = sd.read(path)
        assert run.client() is None
        threads = run.n_workers()
        sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
        sd.pp.normalize_total(adata, target_sum=1e4)
        sd.pp.pca(adata, n_comps=5)
        sd.pp.neighbors(adata, n_neighbors=5)
    return threads, float(adata.obs["total_counts"].sum()), np.abs(adata.obsm["X_pca"])


@pytest.mark.parametrize("processes", [True, False])
def test_nested__a_task_does_not_wait_for_itself(processes: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "a.zarr")
    sd.write(sd.datasets.simulate(400, 200, seed=0), path)
    _, total, components = sample(path)
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    if processes:
        options["host"] = "127.0.0.1"
    with LocalCluster(processes=processes, **options) as cluster, Client(cluster) as client:
        found = client.gather(client.map(sample, [path] * 4, pure=False))
        assert run_outside(path) == total  # the client itself still computes on the cluster
    for threads, its_total, its_components in found:
        assert 1 <= threads <= max(1, sd.config.n_threads() // 2) and its_total == total
        np.testing.assert_allclose(its_components, components, atol=1e-4)


def run_outside(path: str) -> float:
    from sc_dask.array.engine import run

    assert run.client() is not None
    adata = sd.read(path)
    sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    return float(adata.obs["total_counts"].sum())
