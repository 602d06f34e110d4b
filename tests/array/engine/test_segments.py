from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any
from unittest import mock

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc_dask import blas
from sc_dask.array.blocks import Reduction, from_source, reduce_rows
from sc_dask.array.engine import run, segments
from sc_dask.testing import CountingSource, lazy


@given(st.integers(1, 20_000))
def test_cut__covers_all_blocks_and_keeps_threads_busy(n_blocks: int) -> None:
    bounds = segments.cut(n_blocks)
    sizes = np.diff(bounds)
    assert bounds[0] == 0 and bounds[-1] == n_blocks and sizes.min() > 0 and sizes.max() <= 8
    assert len(sizes) >= min(n_blocks, 12)


@given(st.integers(1, 600))
def test_merged__keeps_the_order(n: int) -> None:
    assert segments.merged([[i] for i in range(n)], lambda a, b: a + b) == list(range(n))


def test_merged__neighbours_at_each_level() -> None:
    with mock.patch.object(segments, "FAN_IN", 4):
        assert segments.merged(list("abcdefghij"), "({}{})".format) == "(((((ab)c)d)(((ef)g)h))(ij))"


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_sums__have_the_same_digits_for_any_number_of_threads(n_threads: int) -> None:
    values = np.random.default_rng(0).lognormal(0, 8, (500, 3)).astype(np.float64)
    total = Reduction(lambda b: b.sum(axis=0), lambda a, b: a + b)
    by_hand = segments.merged(
        [values[10 * lo : 10 * hi] for lo, hi in zip(segments.cut(50)[:-1], segments.cut(50)[1:], strict=True)],
        lambda a, b: np.vstack([a, b]),
    )
    np.testing.assert_array_equal(by_hand, values)
    with dask.config.set(scheduler="synchronous"):
        one = run.compute(reduce_rows(total, lazy(values, 50)))
    with dask.config.set(scheduler="threads", num_workers=n_threads):
        assert run.compute(reduce_rows(total, lazy(values, 50))).tobytes() == one.tobytes()


class State:
    """Counts how many of its kind there are."""

    now, most, lock = 0, 0, threading.Lock()

    def __init__(self) -> None:
        with self.lock:
            State.now += 1
            State.most = max(State.most, State.now)

    def __del__(self) -> None:
        with self.lock:
            State.now -= 1


def slow_state(block: Any) -> State:
    time.sleep(0.002)  # as long as real work takes, beside which Dask's own is nothing
    return State()


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_states__few_are_held_at_once(n_threads: int) -> None:
    State.now = State.most = 0
    counted: Reduction[Any, Any] = Reduction(
        slow_state, lambda a, b: State(), finalize=lambda s: None, update_inplace=lambda s, b: s
    )
    x = from_source(CountingSource(np.zeros((2_000, 1))), np.arange(2_001))
    with dask.config.set(scheduler="threads", num_workers=n_threads):
        run.compute(reduce_rows(counted, x))
    assert len(segments.cut(2_000)) > 200 and State.now == 0

    assert State.most <= 4 * n_threads + 6  # one a thread, one a level, and those of merges under way


def n_blas_threads() -> set[int]:
    from threadpoolctl import threadpool_info

    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


def test_blas__one_thread_inside_and_as_before_after_any_order() -> None:
    before = n_blas_threads()
    first, second = blas.one_thread(), blas.one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert n_blas_threads() == {1}
    second.__exit__(None, None, None)
    assert n_blas_threads() == before


def test_blas__as_before_after_passes_of_several_user_threads() -> None:
    before = n_blas_threads()
    total = Reduction(partial(np.sum, axis=0), np.add)
    users = [
        threading.Thread(target=lambda: run.compute(reduce_rows(total, lazy(np.ones((200, 4)), 100)))) for _ in range(4)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert n_blas_threads() == before


def test_states_held__workers_levels_and_a_merge() -> None:
    assert [segments.states_held(n, 2) for n in (1, 2, 8, 24, 2_000)] == [1, 2, 4, 4, 5]
    assert segments.states_held(5, 64) == 5
