from __future__ import annotations

import threading
import time
from collections import namedtuple
from dataclasses import dataclass
from typing import Any
from unittest import mock

import dask
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.array import normalize
from sc_dask.array.blocks import (
    Reduction,
    collect_rows,
    each_block,
    fold_rows,
    from_source,
    map_rows,
    reduce_rows,
    scan_rows,
)
from sc_dask.array.engine import cluster, passes, run, segments
from sc_dask.array.source import METER
from sc_dask.errors import StalledError
from sc_dask.kernels.qc import row_totals
from sc_dask.log import stage
from sc_dask.testing import CountingSource, compute_counter, lazy, source_of

DENSE = np.arange(60, dtype=np.float32).reshape(20, 3)
SUM = Reduction(lambda b: b.sum(axis=0), lambda a, b: a + b)
ORDER = Reduction(lambda b: [int(r) for r in b[:, 0]], lambda a, b: a + b)
Pair = namedtuple("Pair", ["a", "b"])


@dataclass
class Both:
    first: np.ndarray
    double: np.ndarray


@pytest.fixture(params=["threads", "synchronous"])
def scheduler(request: pytest.FixtureRequest) -> Any:
    with dask.config.set(scheduler=request.param, num_workers=3):
        yield request.param


# -- passes --------------------------------------------------------------------------------------


def test_compute__everything_of_one_x_in_one_pass(scheduler: str) -> None:
    x = lazy(DENSE, 6)
    scan = Reduction(lambda b: (b[:, 0], b.sum()), lambda a, b: a + b)
    with compute_counter() as counted:
        total, first, (rows, whole), sizes = run.compute(
            reduce_rows(SUM, x),
            collect_rows(lambda b: b[:, 0], x),
            scan_rows(scan, x),
            each_block(lambda b, i: len(b), x),
        )
    assert counted.n == 1
    assert source_of(x).times_read().tolist() == [1] * 20
    np.testing.assert_array_equal(total, DENSE.sum(axis=0))
    np.testing.assert_array_equal(first, DENSE[:, 0])
    np.testing.assert_array_equal(rows, DENSE[:, 0])
    assert whole == DENSE.sum()
    assert sizes == [3, 3, 4, 3, 3, 4]


def test_compute__one_pass_for_each_x_and_answers_in_order(scheduler: str) -> None:
    x, y = lazy(DENSE, 3), lazy(DENSE * 2, 4)
    with compute_counter() as counted:
        a, b, c = run.compute(reduce_rows(SUM, y), reduce_rows(SUM, x), reduce_rows(SUM, y))
    assert counted.n == 2 and source_of(y).passes == 1
    np.testing.assert_array_equal(np.stack([a, b, c]), DENSE.sum(axis=0) * np.array([[2], [1], [2]]))


def test_compute__matrices_of_one_source_share_a_pass(scheduler: str) -> None:
    x = lazy(DENSE, 6)
    doubled, some = map_rows(lambda b: b * 2, x, columnwise=True), x[:, [2, 0]]
    other_rows = x[5:]
    with compute_counter() as counted:
        a, b, c, d, e = run.compute(
            reduce_rows(SUM, doubled),
            collect_rows(lambda b: b[:, 0], some),
            reduce_rows(SUM, other_rows),
            collect_rows(lambda b, g: b[:, 1] + g, doubled, np.arange(20)),
            each_block(lambda b, i: (i, b.shape[1]), some),
        )
    assert counted.n == 2
    assert source_of(x).times_read().tolist() == [1] * 5 + [2] * 15
    np.testing.assert_array_equal(a, DENSE.sum(axis=0) * 2)
    np.testing.assert_array_equal(b, DENSE[:, 2])
    np.testing.assert_array_equal(c, DENSE[5:].sum(axis=0))
    np.testing.assert_array_equal(d, DENSE[:, 1] * 2 + np.arange(20))
    assert e == [(i, 2) for i in range(6)]


def test_compute__shared_passes_keep_totals_of_every_matrix(scheduler: str) -> None:
    x = lazy(DENSE + 1, 4)
    one, two = (normalize.normalize(x[:, c], normalize.totals_of(x[:, c]), 1) for c in ([0, 1], [2]))
    sums = run.compute(reduce_rows(SUM, one), reduce_rows(SUM, two))
    np.testing.assert_allclose([s.sum() for s in sums], [20, 20])
    for y, cols in ((one, [0, 1]), (two, [2])):
        np.testing.assert_allclose(y.expression.steps[-1].rows[0].values, (DENSE + 1)[:, cols].sum(axis=1))


def test_compute__a_fold_goes_in_order_and_others_join_in_order(scheduler: str) -> None:
    x = lazy(DENSE, 9)
    assert run.compute(fold_rows(ORDER, x)) == [int(r) for r in DENSE[:, 0]]
    assert sorted(run.compute(reduce_rows(ORDER, x))) == [int(r) for r in DENSE[:, 0]]


@pytest.mark.parametrize(
    ("kernel", "check"),
    [
        (lambda b: (b[:, 0], b), lambda r: (r[0], r[1][:, 0])),
        (lambda b: Pair(b[:, 0], b[:, 0]), lambda r: (r.a, r.b)),
        (lambda b: {"x": b[:, 0]}, lambda r: (r["x"],)),
        (lambda b: Both(b[:, 0], b[:, 0]), lambda r: (r.first, r.double)),
        (lambda b: sp.csr_matrix(b), lambda r: (r.toarray()[:, 0],)),
    ],
    ids=["tuple", "named tuple", "dict", "dataclass", "csr"],
)
@pytest.mark.parametrize("n_blocks", [1, 5])
def test_collect_rows__joins(kernel: Any, check: Any, n_blocks: int) -> None:
    for column in check(run.compute(collect_rows(kernel, lazy(DENSE, n_blocks)))):
        np.testing.assert_array_equal(column, DENSE[:, 0])


def test_compute__row_vectors_and_constants_reach_each_block(scheduler: str) -> None:
    groups = np.arange(20)
    kernel = lambda b, g, *, add: g * 100 + b[:, 0] + add  # noqa: E731
    found = run.compute(collect_rows(kernel, lazy(DENSE, 7), groups, add=5))
    np.testing.assert_array_equal(found, groups * 100 + DENSE[:, 0] + 5)


def test_compute__keeps_totals_that_steps_had_to_take(scheduler: str) -> None:
    x = lazy(DENSE, 4)
    calls: list[int] = []

    def counted_totals(block: Any) -> np.ndarray:
        calls.append(len(block))
        return row_totals(block)

    vector = normalize.totals_of(x)
    vector.kernel = counted_totals
    y = normalize.normalize(x, vector, 1)
    run.compute(reduce_rows(SUM, y))
    assert sum(calls) == 20
    run.compute(reduce_rows(SUM, y))
    assert sum(calls) == 20


def test_materialise__gives_the_block_type() -> None:
    np.testing.assert_array_equal(run.materialise(lazy(DENSE)), DENSE)
    out = run.materialise(lazy(sp.csc_matrix(DENSE)))
    assert isinstance(out, sp.csr_matrix)
    np.testing.assert_array_equal(out.toarray(), DENSE)


# -- blocks in memory ---------------------------------------------------------------------------------------


class Slow(CountingSource):
    """Knows how many of its blocks are in memory at once."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.now, self.most, self.guard = 0, 0, threading.Lock()

    def enter(self, n: int) -> None:
        with self.guard:
            self.now += n
            self.most = max(self.most, self.now)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_threads__hold_one_block_each(n_threads: int) -> None:
    source = Slow(DENSE)
    read = source.read

    def counting(start: int, stop: int) -> Any:
        source.enter(1)
        time.sleep(0.002)
        return read(start, stop)

    def block(b: Any) -> float:
        time.sleep(0.002)
        source.enter(-1)
        return float(b.sum())

    source.read = counting  # type: ignore[method-assign]
    with dask.config.set(scheduler="threads", num_workers=n_threads):
        total = run.compute(reduce_rows(Reduction(block, lambda a, b: a + b), from_source(source, np.arange(21))))
    assert total == DENSE.sum()
    assert 1 <= source.most <= n_threads


def test_n_workers__follows_the_scheduler() -> None:
    with dask.config.set(scheduler="synchronous"):
        assert run.n_workers() == 1
    with dask.config.set(scheduler="threads", num_workers=5):
        assert run.n_workers() == 5
    assert run.client() is None and run.n_processes() == 1


def test_compute__an_error_of_the_reader_arrives_as_it_is(scheduler: str) -> None:
    source = CountingSource(DENSE)

    def broken(start: int, stop: int) -> Any:
        raise OSError("disk gone")

    source.read = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="disk gone"):
        run.compute(reduce_rows(SUM, from_source(source, np.array([0, 20]))))


# -- figures -------------------------------------------------------------------------------------


class Heard:
    def __init__(self) -> None:
        self.stages: list[Any] = []
        self.passes: list[Any] = []
        self.blocks: list[Any] = []

    def on_stage(self, *args: Any) -> None:
        self.stages.append(args)

    def on_end(self, *args: Any) -> None:
        self.stages.append(args)

    def on_pass(self, *args: Any) -> None:
        self.passes.append(args)

    def on_block(self, *args: Any) -> None:
        self.blocks.append(args)


def test_stage__counts_passes_and_bytes_and_tells_its_listener(scheduler: str) -> None:
    x, heard = lazy(DENSE, 5), Heard()
    with stage("sums", listener=heard) as s:
        run.compute(reduce_rows(SUM, x), label="first")
        run.compute(reduce_rows(SUM, x[:5]), label="part")
    assert s.passes == pytest.approx(1.25)
    assert s.bytes_read == DENSE.nbytes * 5 // 4
    assert s.peak_rss_bytes > 10_000_000 and s.seconds > 0
    assert heard.stages == [(s,), (s,)]
    assert [p[:2] for p in heard.passes] == [("sums", "first"), ("sums", "part")]
    assert [b[1:3] for b in heard.blocks if b[2] == 5] == [(i, 5) for i in range(1, 6)]


def test_stage__does_not_count_what_plain_dask_read_before(scheduler: str) -> None:
    x = lazy(DENSE, 5)
    x.compute(scheduler="sync")
    assert source_of(x).passes == 1
    with stage("sums") as s:
        run.compute(reduce_rows(SUM, x))
    assert s.passes == 1
    assert METER.empty().rows == 0


def test_stage__nothing_is_recorded_outside_of_one() -> None:
    with stage("over") as s:
        pass
    run.compute(reduce_rows(SUM, lazy(DENSE)))
    assert s.passes == 0 and s.bytes_read == 0


# -- tasks ---------------------------------------------------------------------------------------


def test_map_tasks__answers_in_order(scheduler: str) -> None:
    assert run.map_tasks(lambda i: i * i, range(7)) == [0, 1, 4, 9, 16, 25, 36]
    assert run.map_tasks(lambda i, s: i + s["add"], [1, 2], shared={"add": 10}) == [11, 12]
    assert run.map_tasks(lambda i: i, []) == []


def test_map_tasks__counts_what_is_read(scheduler: str) -> None:
    source = CountingSource(DENSE)
    with stage("tasks") as s:
        sums = run.map_tasks(lambda i: source.read(i, i + 5).sum(), [0, 5, 10, 15], n_rows=20)
    assert sum(sums) == DENSE.sum() and s.passes == 1 and s.bytes_read == DENSE.nbytes


def test_tasks__several_blocks_a_segment_and_rows_apart() -> None:
    source = lazy(DENSE, 20)
    lazies = [reduce_rows(SUM, source), collect_rows(lambda b: b[:, 0], source)]
    spec = passes.describe([source], lazies, in_place=False, sourceless=False)
    with mock.patch.object(segments, "_SEGMENTS", 5):
        made = passes.tasks("p", [source], spec, [[(), ()]], apart=True)
    assert made.blocks == {("p", i): 4 for i in range(5)}
    acc, *of_segments = dask.get(made.graph, [made.end, *made.apart])
    assert acc.by_block == [] and [len(p) for p in of_segments] == [4] * 5
    here = passes.describe([source], lazies, in_place=True, sourceless=False)
    passes.collect_rows(here, acc, reversed(of_segments))
    total, rows = passes.answers(here, acc)
    np.testing.assert_array_equal(total, DENSE.sum(axis=0))
    np.testing.assert_array_equal(rows, DENSE[:, 0])


def test_places__a_worker_gets_a_run_of_tasks_by_its_threads() -> None:
    found = cluster.places(list("abcdefgh"), {"one": 1, "three": 3})
    assert found == dict.fromkeys("ab", "one") | dict.fromkeys("cdefgh", "three")
    assert cluster.places(["a", "b"], {"one": 1, "two": 1, "three": 1}) == {"a": "one", "b": "two"}
    assert cluster.places(["a"], {"one": 1, "two": 1}) == {}  # wherever there is room
    assert cluster.places(["a"], {}) == {}


def test_call__runs_here_without_a_cluster() -> None:
    assert run.call(lambda a, b=1: a + b, 2, b=3) == 5


# -- cluster -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client() -> Any:
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": ":0"}
    with LocalCluster(processes=False, **options) as cluster, Client(cluster, set_as_default=False) as c:
        yield c


def test_cluster__computes_on_the_current_client(client: Any) -> None:
    x = lazy(DENSE, 6)
    with client.as_current(), dask.config.set(scheduler=client), stage("sums") as s:
        assert run.client() is client and run.n_workers() == 4 and run.n_processes() == 2
        np.testing.assert_array_equal(run.compute(reduce_rows(SUM, x)), DENSE.sum(axis=0))
        assert run.map_tasks(lambda i: -i, [1, 2, 3]) == [-1, -2, -3]
        assert run.call(lambda a: a + 1, 1) == 2
    assert s.passes == 1


def test_cluster__takes_a_dask_array_of_others(client: Any) -> None:
    import dask.array as da

    from sc_dask.array.blocks import from_array

    x = from_array(da.from_array(DENSE, chunks=(6, 2)))
    with client.as_current(), dask.config.set(scheduler=client):
        np.testing.assert_array_equal(run.compute(reduce_rows(SUM, x[2:])), DENSE[2:].sum(axis=0))


def test_cluster__a_job_without_progress_is_given_up(client: Any) -> None:
    release = threading.Event()
    try:
        with client.as_current(), dask.config.set({"scheduler": client, "sc-dask.stall-timeout-s": 0.5}):
            start = time.monotonic()
            with pytest.raises(StalledError, match="no block was finished for"):
                run.call(_wait_for, _Shared(release))
            assert time.monotonic() - start < 20
    finally:
        release.set()


class _Shared:
    """An event that crosses to a worker of this very process."""

    known: dict[int, threading.Event] = {}

    def __init__(self, event: threading.Event) -> None:
        self.known[id(event)] = event
        self.key = id(event)


def _wait_for(shared: _Shared) -> None:
    _Shared.known[shared.key].wait(30)
