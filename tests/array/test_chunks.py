from __future__ import annotations

import numpy as np
import pytest

from sc_dask.array import chunks
from sc_dask.errors import InputError


def indptr_of(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def greedy(counts: np.ndarray, budget: int, max_rows: int) -> list[int]:
    bounds, rows, nnz = [0], 0, 0
    for i, n in enumerate(counts):
        if rows and (nnz + n > budget or rows == max_rows):
            bounds.append(i)
            rows, nnz = 0, 0
        rows, nnz = rows + 1, nnz + n
    return [*bounds, len(counts)]


@pytest.mark.parametrize("budget", [1, 7, 50, 10_000])
@pytest.mark.parametrize("kind", ["mixed", "empty rows", "one row", "all empty"])
def test_cut_rows__takes_as_many_rows_as_fit(budget: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_ROWS", 40)
    rng = np.random.default_rng(0)
    counts = {
        "mixed": rng.integers(0, 30, 300),
        "empty rows": rng.integers(0, 30, 300) * (rng.random(300) < 0.1),
        "one row": np.array([90]),
        "all empty": np.zeros(95, dtype=int),
    }[kind]
    bounds = chunks.cut_rows(indptr_of(counts), block_bytes=budget * 8)
    assert bounds.dtype == np.int64
    assert bounds.tolist() == greedy(counts, budget, 40)


@pytest.mark.parametrize("step", [1, 3, 64, 1000])
def test_cut_row_pieces__does_not_depend_on_the_pieces(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_ROWS", 25)
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 30, 500)
    counts[100:200] = 0
    indptr = indptr_of(counts)
    pieces = (indptr[i : i + step] for i in range(0, len(indptr), step))
    assert chunks.cut_row_pieces(pieces, 800).tolist() == chunks.cut_rows(indptr, 800).tolist()


def test_cut_rows__without_rows_is_one_empty_block() -> None:
    assert chunks.cut_rows(np.zeros(1, dtype=np.int64), 8).tolist() == [0, 0]


def test_cut_rows__int64_totals_and_int32_blocks() -> None:
    counts = np.full(6, 2**30, dtype=np.int64)
    bounds = chunks.cut_rows(indptr_of(counts), block_bytes=2**40)
    assert bounds.tolist() == [0, 1, 2, 3, 4, 5, 6]  # two rows would be 2**31 non-zeros


def test_cut_rows__bytes_per_nonzero_counts() -> None:
    indptr = indptr_of(np.full(12, 10))
    assert len(chunks.cut_rows(indptr, 480, 8)) - 1 == 2
    assert len(chunks.cut_rows(indptr, 480, 12)) - 1 == 3


def test_cut_dense__multiples_of_the_row_chunk() -> None:
    assert chunks.cut_dense(100, 10, 4, 1200, row_chunk=8).tolist() == [0, 24, 48, 72, 96, 100]
    assert chunks.cut_dense(100, 10, 4, 1200).tolist() == [0, 30, 60, 90, 100]
    assert chunks.cut_dense(100, 10, 4, 1200, row_chunk=64).tolist() == [0, 30, 60, 90, 100]
    assert chunks.cut_dense(3, 10, 4, 1).tolist() == [0, 1, 2, 3]
    assert chunks.cut_dense(0, 10, 4, 100).tolist() == [0, 0]
    assert chunks.cut_dense(5, 0, 4, 100).tolist() == [0, 5]


def test_cut__refuses_an_empty_budget() -> None:
    with pytest.raises(InputError):
        chunks.cut_rows(np.array([0, 1]), 0)
    with pytest.raises(InputError):
        chunks.cut_dense(10, 10, 4, 0)


def test_cut_finer__keeps_what_was_cut() -> None:
    bounds = np.array([0, 0, 3, 10, 11], np.int64)
    assert chunks.cut_finer(bounds, 100).tolist() == bounds.tolist()
    assert chunks.cut_finer(bounds, 3).tolist() == [0, 0, 3, 5, 7, 10, 11]
    assert chunks.cut_finer(bounds, 1).tolist() == [0, *range(12)]
