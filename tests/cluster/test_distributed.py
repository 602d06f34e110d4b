"""The same code under Dask's threads, processes and a cluster: the same numbers."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask import cluster, log
from sc_dask.array.blocks import Reduction, RowBlocks, collect_rows, from_source, map_rows, reduce_rows
from sc_dask.array.engine import passes, run, segments
from sc_dask.array.pca.gram import GRAM
from sc_dask.array.source import METER, Block, BlockSource, MemorySource
from sc_dask.errors import InputError, RecallWarning
from sc_dask.pipeline import run as run_pipeline

from .conftest import SETTINGS, Bucket


@dataclass(frozen=True)
class EmptyRows(BlockSource):
    """Rows without values, which cost nothing to read; ``seconds`` slows a block down."""

    shape: tuple[int, int]
    seconds: float = 0.0
    token: str = "empty"
    dtype: Any = field(default_factory=lambda: np.dtype(np.float32))
    is_sparse: bool = True

    def read(self, start: int, stop: int) -> Block:
        time.sleep(self.seconds)
        METER.add(rows=stop - start, n_bytes=stop - start)
        return sp.csr_matrix((stop - start, self.shape[1]), dtype=self.dtype)


def same(block: Block, *vectors: np.ndarray) -> Block:
    return block


def n_rows(block: Block, *vectors: np.ndarray) -> int:
    return int(block.shape[0])


def add(a: Any, b: Any) -> Any:
    return a + b


ROWS: Reduction[int, int] = Reduction(n_rows, add)


class Told:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.done: list[tuple[int, int]] = []

    def on_stage(self, stage: log.Stage) -> None: ...
    def on_end(self, stage: log.Stage) -> None: ...
    def on_pass(self, stage: str, label: str, n_blocks: int) -> None: ...
    def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None:
        self.done.append((done, n_blocks))


# -- a whole run ---------------------------------------------------------------------------------


def test_run__on_two_processes_is_the_local_run(
    client: Any, counts: Path, local: Any, same_run: Any, tmp_path: Path
) -> None:
    with dask.config.set({"sc-dask.block-bytes": "200KiB"}):
        result = run_pipeline(counts, tmp_path / "out.zarr", settings=SETTINGS)
    same_run(ad.read_zarr(result.store), local[1])
    ours = {s["name"]: s for s in result.report["stages"]}
    theirs = {s["name"]: s for s in local[0].report["stages"]}
    for name, stage in theirs.items():
        assert ours[name]["passes"] == pytest.approx(stage["passes"], abs=0.1), name  # small blocks skip more
        assert ours[name]["peak_rss_bytes"] > 50e6
    assert result.report["total"]["bytes_read"] > 0


@pytest.mark.slow
def test_run__on_two_processes_in_a_bucket(
    client: Any, bucket: Bucket, counts: Path, local: Any, same_run: Any
) -> None:
    source = bucket.put(counts, "in.zarr")
    result = run_pipeline(source, f"{bucket.url}/out.zarr", settings=SETTINGS, storage_options=bucket.storage_options)
    adata = sd.read(result.store, storage_options=bucket.storage_options)
    adata.X = adata.X.compute()
    same_run(adata, local[1])
    passes = {s["name"]: s["passes"] for s in result.report["stages"]}
    assert passes["pca"] > 1.9  # no work-dir that all workers see: the scores need a second pass


# -- any scheduler, any block size -----------------------------------------------------------------


def statistics(path: Path, block_bytes: int) -> dict[str, np.ndarray]:
    """Return what a few verbs find, by name; integers are exact sums."""
    adata = sd.read(path, block_bytes=block_bytes)
    sd.pp.calculate_qc_metrics(adata, inplace=True, percent_top=(50,))
    sd.pp.filter_genes(adata, min_cells=3)
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata)
    sd.pp.pca(adata, n_comps=10)
    tables = {"obs": adata.obs, "var": adata.var}
    found = {
        f"{t} {k}": v.to_numpy() for t, table in tables.items() for k, v in table.items() if v.dtype.kind in "biuf"
    }
    return found | {"X_pca": adata.obsm["X_pca"], "variance": adata.uns["pca"]["variance"]}


def assert_same_numbers(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        if value.dtype.kind == "f":
            scale = float(np.nanmax(np.abs(value))) if key == "X_pca" else 0.0
            np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=1e-6 * scale, err_msg=key)
        else:
            np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.fixture(scope="module")
def expected(counts: Path) -> dict[str, np.ndarray]:
    with dask.config.set(scheduler="synchronous"):
        return statistics(counts, 2**30)


@pytest.mark.parametrize("block_bytes", [50_000, 300_000])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_statistics__any_local_scheduler_and_block_size(
    counts: Path, expected: dict[str, np.ndarray], scheduler: str, block_bytes: int
) -> None:
    with dask.config.set(scheduler=scheduler, num_workers=3):
        assert_same_numbers(statistics(counts, block_bytes), expected)


def test_statistics__processes(counts: Path, expected: dict[str, np.ndarray]) -> None:
    with dask.config.set(scheduler="processes", num_workers=2):
        assert_same_numbers(statistics(counts, 300_000), expected)


@pytest.mark.parametrize("block_bytes", [50_000, 2**30])
def test_statistics__cluster(client: Any, counts: Path, expected: dict[str, np.ndarray], block_bytes: int) -> None:
    assert run.client() is client
    assert run.n_workers() == run.n_processes() == 2
    assert_same_numbers(statistics(counts, block_bytes), expected)


def in_memory(counts: Path) -> ad.AnnData:
    return ad.read_zarr(counts)


def of_dask(counts: Path) -> ad.AnnData:
    adata = ad.read_zarr(counts)
    adata.X = da.from_array(adata.X, chunks=(200, -1), asarray=False)
    return adata


@pytest.mark.parametrize("given", [in_memory, of_dask])
def test_statistics__other_x_on_a_cluster(client: Any, counts: Path, given: Callable[[Path], ad.AnnData]) -> None:
    adata, exact = given(counts), ad.read_zarr(counts).X
    sd.pp.calculate_qc_metrics(adata, inplace=True, percent_top=None)
    np.testing.assert_array_equal(adata.obs["n_genes_by_counts"], np.diff(exact.indptr))
    np.testing.assert_allclose(adata.var["total_counts"], np.asarray(exact.sum(axis=0)).ravel(), rtol=1e-6)
    sd.pp.pca(adata, n_comps=5)
    assert adata.obsm["X_pca"].shape == (adata.n_obs, 5)


def test_in_memory_x__is_sent_once(client: Any) -> None:
    """Each task takes its own rows along; the plan, which all workers get, is without them."""
    from sc_dask.array.blocks import from_array

    with dask.config.set({"sc-dask.block-bytes": 80_000}):
        x = from_array(sp.random(5_000, 50, density=0.2, format="csr", random_state=0, dtype=np.float32))
    graph = pass_graph(x, ())
    assert x.expression.n_blocks > 3
    sizes = [len(cloudpickle.dumps(v)) for v in graph.values()]
    whole = x.expression.source.x.data.nbytes + x.expression.source.x.indices.nbytes
    assert sum(sizes) < 1.2 * whole
    assert run.compute(reduce_rows(ROWS, x)) == 5_000


# -- graph stages --------------------------------------------------------------------------------


def where() -> str:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return "here"


def low_recall(x: np.ndarray) -> float:
    warnings.warn("few found", RecallWarning, stacklevel=1)
    return float(x.sum())


def refuse() -> None:
    raise InputError("found this", "that", "do so")


def test_call__runs_on_a_worker_and_brings_everything_back(client: Any, recwarn: pytest.WarningsRecorder) -> None:
    assert run.call(where) in client.nthreads()
    with log.stage("graph") as stage:
        assert run.call(low_recall, np.ones((400_000, 10))) == 4e6  # 32 MB travel
    assert [str(w.message) for w in recwarn] == ["few found"]
    assert stage.passes == 0
    assert stage.peak_rss_bytes > 32e6
    with pytest.raises(InputError, match="found this; expected that; next: do so"):
        run.call(refuse)


def test_call__runs_here_without_a_cluster() -> None:
    assert run.call(where) == "here"
    with dask.config.set(scheduler="processes"):
        assert run.call(where) == "here"


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_knn__exact_search_does_not_depend_on_threads(metric: str, n_jobs: int) -> None:
    from sc_dask.graph.knn.neighbors import knn

    x = np.random.default_rng(0).normal(size=(3_000, 20)).astype(np.float32)
    one = knn(x, 15, metric=metric, method="brute", n_jobs=1)
    found = knn(x, 15, metric=metric, method="brute", n_jobs=n_jobs)
    np.testing.assert_array_equal(found.indices, one.indices)
    np.testing.assert_array_equal(found.distances, one.distances)


def test_graph_stages__on_a_worker_as_here(client: Any) -> None:
    def analysed() -> ad.AnnData:
        rng = np.random.default_rng(0)
        adata = ad.AnnData(rng.normal(size=(600, 8)).astype(np.float32) + 4 * rng.integers(0, 3, (600, 1)))
        sd.pp.neighbors(adata, use_rep="X", n_neighbors=12)
        sd.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
        sd.tl.leiden(adata, key_added="other", flavor="leidenalg")
        sd.tl.umap(adata, maxiter=20)
        return adata

    on_worker = analysed()
    with dask.config.set(scheduler="threads"):
        here = analysed()
    for key in ("leiden", "other"):
        assert list(on_worker.obs[key]) == list(here.obs[key])
    for key in ("distances", "connectivities"):
        assert (on_worker.obsp[key] != here.obsp[key]).nnz == 0
    np.testing.assert_allclose(on_worker.obsm["X_umap"], here.obsm["X_umap"], rtol=1e-3, atol=1e-3)


# -- the price -----------------------------------------------------------------------------------


def pass_graph(x: RowBlocks, rows: tuple[np.ndarray, ...]) -> dict[Any, Any]:
    lazy = reduce_rows(ROWS, x, *rows)
    spec = passes.describe([x], [lazy], in_place=False, sourceless=isinstance(x.expression.source, MemorySource))
    return passes.tasks("pass", [x], spec, [[lazy.rows]]).graph


def test_pass__a_task_for_several_blocks_and_a_graph_of_ten_thousand_in_a_second() -> None:
    n_obs, n_blocks = 1_000_000, 10_000
    x = from_source(EmptyRows((n_obs, 2_000)), np.linspace(0, n_obs, n_blocks + 1).astype(np.int64))
    x = x.select_rows(np.flatnonzero(np.arange(n_obs) % 10))
    x = map_rows(same, x, np.ones(x.shape[0]))
    start = time.process_time()
    graph = pass_graph(x, (np.ones(x.shape[0], np.int64),))
    assert time.process_time() - start < 1
    assert len(graph) <= 2.1 * n_blocks / 8


def test_pass__row_vectors_of_a_million_cells_bring_no_warning(client: Any) -> None:
    n_obs = 1_000_000
    x = from_source(EmptyRows((n_obs, 2_000)), np.linspace(0, n_obs, 21).astype(np.int64))
    x = map_rows(same, x, np.arange(n_obs, dtype=np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        total, rows = run.compute(
            reduce_rows(ROWS, x, np.arange(n_obs)), collect_rows(_numbers, x, np.arange(n_obs, dtype=np.float64))
        )
    assert total == n_obs
    np.testing.assert_array_equal(rows, np.arange(n_obs))


def _numbers(block: Block, numbers: np.ndarray) -> np.ndarray:
    return numbers


def test_pass__tells_of_progress_bytes_and_memory(client: Any) -> None:
    told = Told()
    x = from_source(EmptyRows((1_000, 5), seconds=0.15), np.arange(0, 1001, 20))
    with log.stage("slow", told) as stage:
        assert run.compute(reduce_rows(ROWS, x)) == 1_000
    done = [d for d, _ in told.done]
    assert {n for _, n in told.done} == {50}
    assert len(done) >= 3 and done == sorted(done) and done[-1] == 50 and 0 < done[0] < 50
    assert (stage.passes, stage.bytes_read) == (1.0, 1_000)
    assert stage.peak_rss_bytes > 50e6


@dataclass(frozen=True)
class Waves(EmptyRows):
    """Rows that hang on their number alone."""

    token: str = "waves"

    def read(self, start: int, stop: int) -> Block:
        METER.add(rows=stop - start)
        rows, cols = np.arange(start, stop)[:, None], np.arange(self.shape[1])
        return sp.csr_matrix(np.maximum(np.sin(rows * (cols + 1.0)), 0))


def test_pass__tasks_of_several_blocks_give_what_threads_give(client: Any) -> None:
    x = from_source(Waves((400, 6)), np.arange(0, 401, 2))

    def found() -> tuple[Any, np.ndarray]:
        answer: tuple[Any, np.ndarray] = run.compute(
            reduce_rows(GRAM, x, dtype=np.float64), collect_rows(_numbers, x, np.arange(400))
        )
        return answer

    with log.stage("pass") as stage:
        state, rows = found()
    assert len(segments.cut(200)) == 51 and stage.passes == 1
    with dask.config.set(scheduler="threads"):
        expected, _ = found()
    np.testing.assert_array_equal(rows, np.arange(400))
    assert state.n == expected.n == 400
    assert state.gram.tobytes() == expected.gram.tobytes()


# -- finding the cluster -------------------------------------------------------------------------


def test_client__joins_a_scheduler_and_leaves_it(two_processes: Any) -> None:
    with cluster.client(two_processes.scheduler_address) as c:
        assert run.client() is c
        assert run.call(where) in c.nthreads()
    assert run.client() is None


@pytest.mark.parametrize("kind", [None, "threads"])
def test_client__threads_start_nothing(kind: str | None) -> None:
    with cluster.client(kind) as c:
        assert c is None and run.client() is None


def test_client__processes_are_started_and_stopped() -> None:
    with dask.config.set(num_workers=1), cluster.client("processes") as c:
        assert run.n_processes() == 1
        (found,) = c.run(dask.config.get, "distributed.worker.profile.enabled").values()
        assert found is False
        assert list(c.run(os.getenv, "MALLOC_MMAP_THRESHOLD_").values()) == [str(32 << 20)]
        assert list(c.run(os.getenv, "MALLOC_ARENA_MAX").values()) == ["1"]
        assert all(address.startswith("tcp://127.0.0.1:") for address in c.nthreads())
    assert run.client() is None


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("tcp://127.0.0.1:1", "no scheduler answers at tcp://127.0.0.1:1"),
        ("tcp://127.0.0.1", "missing port"),
        ("htp://127.0.0.1:1", "unknown address scheme"),
        ("many", "scheduler 'many'"),
    ],
)
def test_client__says_what_is_wrong_with_a_scheduler(kind: str, found: str) -> None:
    with pytest.raises(InputError, match=found), cluster.client(kind, timeout_s=1):
        pass
    assert run.client() is None


def test_client__a_scheduler_without_workers_is_refused() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as empty:
        address = empty.scheduler_address
        with pytest.raises(InputError, match="has no worker"), cluster.client(address, timeout_s=1):
            pass
    assert run.client() is None


# -- a landmark graph -----------------------------------------------------------------------------


def test_landmark_graph__on_two_processes_is_the_local_one(client: Any, tmp_path: Path) -> None:
    def made(folder: Path) -> ad.AnnData:
        rng = np.random.default_rng(0)
        centres = 3 * rng.normal(size=(6, 12))
        x = (centres[rng.integers(6, size=1500)] + rng.normal(size=(1500, 12))).astype(np.float32)
        adata = ad.AnnData(sp.csr_matrix((1500, 60), dtype=np.float32))
        adata.obsm["X_pca"] = da.from_array(x, chunks=(400, 12))
        with dask.config.set({"sc-dask.work-dir": str(folder)}):
            sd.pp.neighbors(adata)
            sd.tl.leiden(adata, flavor="sc_dask")
            sd.tl.umap(adata, maxiter=3)
        return adata

    there = made(tmp_path / "cluster")
    with dask.config.set(scheduler="synchronous"):
        here = made(tmp_path / "here")
    assert there.obs["landmark"].tolist() == here.obs["landmark"].tolist()
    assert there.obs["leiden"].tolist() == here.obs["leiden"].tolist()
    np.testing.assert_array_equal(there.obsm["X_umap"], here.obsm["X_umap"])
    with pytest.raises(InputError, match="a cluster and no work-dir"):
        sd.pp.neighbors(there)
