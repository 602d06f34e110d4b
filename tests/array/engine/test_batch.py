from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from sc_dask.array.blocks import Reduction, reduce_rows
from sc_dask.array.engine import batch, run
from sc_dask.testing import lazy, source_of

DENSE = np.arange(60, dtype=np.float32).reshape(20, 3)
SUM = Reduction(lambda b: b.sum(axis=0), lambda a, b: a + b)


def test_run_together__rounds_are_computed_together() -> None:
    x, rounds = lazy(DENSE, 4), []

    def sums(n: int) -> Any:
        return lambda: [run.compute(reduce_rows(SUM, x)).sum() for _ in range(n)]

    def counted(lazies: list[Any]) -> list[Any]:
        rounds.append(len(lazies))
        return run.compute_all(lazies)

    participants = batch.run_together([sums(1), sums(3), sums(0), sums(2)], counted)
    assert rounds == [3, 2, 1] and source_of(x).passes == 3
    assert [s.value for s in participants] == [[DENSE.sum()] * n for n in (1, 3, 0, 2)]
    assert batch.participant() is None


def test_run_together__one_runs_at_a_time_in_order() -> None:
    x, heard, inside = lazy(DENSE), [], threading.Lock()

    def func(i: int) -> Any:
        def go() -> None:
            for part in range(2):
                assert inside.acquire(blocking=False)
                heard.append((part, i))
                inside.release()
                run.compute(reduce_rows(SUM, x), reduce_rows(SUM, x))

        return go

    batch.run_together([func(i) for i in range(4)], run.compute_all)
    assert heard == [(part, i) for part in range(2) for i in range(4)]


def test_run_together__an_error_is_of_its_function_alone() -> None:
    x = lazy(DENSE)

    def wrong() -> None:
        raise KeyError("mine")

    participants = batch.run_together([wrong, lambda: run.compute(reduce_rows(SUM, x))], run.compute_all)
    assert isinstance(participants[0].error, KeyError) and participants[1].error is None
    np.testing.assert_array_equal(participants[1].value, DENSE.sum(axis=0))


def test_run_together__an_error_of_a_pass_reaches_all_that_asked() -> None:
    x, source = lazy(DENSE), None

    def broken(block: Any) -> Any:
        raise OSError("disk gone")

    def caught() -> str:
        with pytest.raises(OSError, match="disk gone"):
            run.compute(reduce_rows(SUM, x))
        return "caught"

    bad = Reduction(broken, lambda a, b: a)
    participants = batch.run_together(
        [caught, lambda: run.compute(reduce_rows(bad, x)), lambda: source], run.compute_all
    )
    assert participants[0].value == "caught"
    assert isinstance(participants[1].error, OSError) and participants[2].error is None
