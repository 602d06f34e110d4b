"""Workers that die: the result is the same, or the run ends in time with a sentence."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask import datasets, log
from sc_dask.array.blocks import Reduction, RowBlocks, collect_rows, from_source, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.source import METER, Block, BlockSource
from sc_dask.errors import StalledError
from sc_dask.pipeline import run as run_pipeline


@dataclass(frozen=True)
class SlowRows(BlockSource):
    """Row i holds i + 1 in column 0; a block takes a while, and is noted in a folder."""

    shape: tuple[int, int]
    folder: str
    seconds: float = 0.1
    token: str = "slow"
    dtype: Any = field(default_factory=lambda: np.dtype(np.int64))
    is_sparse: bool = True

    def read(self, start: int, stop: int) -> Block:
        time.sleep(self.seconds)
        (Path(self.folder) / f"{start}-{os.getpid()}").touch()
        METER.add(rows=stop - start)
        values = np.arange(start + 1, stop + 1)
        n = stop - start
        return sp.csr_matrix(
            (values, np.zeros(n, np.int32), np.arange(n + 1, dtype=np.int32)), shape=(n, self.shape[1])
        )


def total(block: Block) -> int:
    return int(block.sum())


def add(a: int, b: int) -> int:
    return a + b


def row_sums(block: Block) -> np.ndarray:
    return np.asarray(block.sum(axis=1)).ravel()


def wait_and_tell(seconds: float, shared: str) -> int:
    assert shared
    time.sleep(seconds)
    return os.getpid()


TOTAL: Reduction[int, int] = Reduction(total, add)


@pytest.fixture(scope="module")
def two_processes() -> Iterator[Any]:
    """Two worker processes under nannies, which tests may kill."""
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "5m"}),  # as `sc_dask.cluster` has it
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as made,
    ):
        yield made


@pytest.fixture
def cluster(two_processes: Any) -> Iterator[Any]:
    """The two processes, whole again after what the last test did, compute by default."""
    from distributed import Client

    with Client(two_processes) as client:
        two_processes.scale(2)
        client.wait_for_workers(2, timeout=60)
        client.run(total, sp.csr_matrix((1, 1)))  # what a worker imports first takes seconds
        yield two_processes


def slow(folder: Path, n_blocks: int = 30) -> RowBlocks:
    return from_source(SlowRows((10 * n_blocks, 3), str(folder)), np.arange(0, 10 * n_blocks + 1, 10))


def kill_when(n_files: int, folder: Path, pid: int) -> threading.Thread:
    """Kill a process once it has read so many blocks."""

    def kill() -> None:
        deadline = time.monotonic() + 60
        while len(list(folder.glob(f"*-{pid}"))) < n_files and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def pids(cluster: Any) -> list[int]:
    return [worker.process.pid for worker in cluster.workers.values()]


def test_pass__a_killed_worker_does_not_change_the_result(cluster: Any, tmp_path: Path) -> None:
    victim, x = pids(cluster)[0], slow(tmp_path)
    thread = kill_when(5, tmp_path, victim)
    with log.stage("pass") as stage:
        answer, rows = run.compute(reduce_rows(TOTAL, x), collect_rows(row_sums, x))
    thread.join()
    assert answer == sum(range(1, 301))
    np.testing.assert_array_equal(rows, np.arange(1, 301))
    assert stage.passes == 1  # what the dead worker read is no part of the result
    readers = {name.name.split("-")[1] for name in tmp_path.iterdir()}
    assert str(victim) in readers and len(readers) >= 2  # it had really been at work
    assert len(list(tmp_path.iterdir())) > 30  # and blocks of its lane were read again


def test_pass__every_worker_gets_its_lane(cluster: Any, tmp_path: Path) -> None:
    run.compute(reduce_rows(TOTAL, slow(tmp_path, 20)))
    readers = [name.name.split("-")[1] for name in tmp_path.iterdir()]
    assert min(readers.count(str(pid)) for pid in pids(cluster)) >= 5  # 10 each unless one was slow to start


def test_tasks__few_of_them_are_dealt_out(cluster: Any) -> None:
    readers = run.map_tasks(wait_and_tell, [0.2] * 4, shared="something")
    assert all(pid in readers for pid in pids(cluster))


def test_pass__without_workers_it_ends_within_the_deadline(cluster: Any, tmp_path: Path) -> None:
    thread = threading.Thread(target=lambda: (time.sleep(1), cluster.scale(0)))
    thread.start()
    start = time.monotonic()
    with (
        dask.config.set({"sc-dask.stall-timeout-s": 3}),
        pytest.raises(StalledError, match=r"no block was finished for 3 s .*; 0 workers are there; expected"),
    ):
        run.compute(reduce_rows(TOTAL, slow(tmp_path, 200)))
    thread.join()
    assert time.monotonic() - start < 15


def test_pass__goes_on_when_all_workers_were_gone_for_a_moment(cluster: Any, tmp_path: Path) -> None:
    def replace_all() -> None:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 6 and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in pids(cluster):
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=replace_all)
    thread.start()
    with dask.config.set({"sc-dask.stall-timeout-s": 240}):
        answer, rows = run.compute(*(f(k, slow(tmp_path)) for f, k in ((reduce_rows, TOTAL), (collect_rows, row_sums))))
    thread.join()
    assert answer == sum(range(1, 301)) and rows.sum() == answer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_call__a_stage_that_kills_its_workers_ends_with_a_sentence(cluster: Any) -> None:
    with pytest.raises(StalledError, match="workers died at the same task"):
        run.call(die)
    assert run.call(abs, -3) == 3  # nannies bring workers back; the cluster is still good


def test_pass__a_long_pass_is_not_taken_for_a_stalled_one(cluster: Any, tmp_path: Path) -> None:
    with dask.config.set({"sc-dask.stall-timeout-s": 3}):
        assert run.compute(reduce_rows(TOTAL, slow(tmp_path, 100))) == sum(range(1, 1001))


@pytest.mark.slow
def test_run__workers_killed_again_and_again(cluster: Any, tmp_path: Path) -> None:
    datasets.simulate(3_000, 1_000, n_groups=4, seed=0, out=tmp_path / "in.zarr")
    settings = {"neighbors": {"n_pcs": 15}, "umap": {"maxiter": 20}}
    with dask.config.set(scheduler="threads"):
        expected = ad.read_zarr(run_pipeline(tmp_path / "in.zarr", tmp_path / "local.zarr", settings=settings).store)
    over = threading.Event()

    def kill() -> None:
        while not over.wait(4):
            os.kill(next(pid for pid in pids(cluster) if pid), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        with dask.config.set({"sc-dask.block-bytes": "100KiB"}):
            result = run_pipeline(tmp_path / "in.zarr", tmp_path / "out.zarr", settings=settings)
    finally:
        over.set()
        thread.join()
    found = ad.read_zarr(result.store)
    assert list(found.obs["leiden"]) == list(expected.obs["leiden"])
    np.testing.assert_array_equal(found.obs["total_counts"], expected.obs["total_counts"])
    np.testing.assert_allclose(found.obsm["X_pca"], expected.obsm["X_pca"], atol=1e-5)
    np.testing.assert_array_equal(found.X.indices, expected.X.indices)
