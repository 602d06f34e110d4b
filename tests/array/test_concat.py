"""A source made of many: blocks stay those of the parts, tasks carry what they need, picks go through."""

from __future__ import annotations

import pickle
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_dask.array import normalize, qc, spill
from sc_dask.array.blocks import RowBlocks, from_array, reduce_rows
from sc_dask.array.concat import ConcatSource, Part, concat, sources
from sc_dask.array.engine import run
from sc_dask.array.expr import ColumnSelection
from sc_dask.array.source import MemorySource
from sc_dask.errors import InputError
from sc_dask.io.writing.counts import known_row_nnz
from sc_dask.log import stage as logged
from sc_dask.testing import lazy, source_of

RNG = np.random.default_rng(0)
A, B, C = (RNG.poisson(0.8, (n, 7)).astype(np.float32) for n in (12, 5, 9))
REVERSED = np.arange(7)[::-1].copy()
WIDER = np.array([-1, 0, 1, 2, 3, -1, 4, 5, 6])


def csr(x: np.ndarray) -> sp.csr_matrix:
    return sp.csr_matrix(x)


def parts() -> list[Part]:
    """Three of a kind: a lazy one, one in memory whose columns are turned round, and one that is picked and scaled."""
    scaled = normalize.log1p(normalize.normalize(lazy(csr(C), 3), np.ones(9), 2.0), None)[[0, 2, 3, 8]]
    return [
        Part(lazy(csr(A), bounds=[0, 5, 12]), 12),
        Part(from_array(csr(B[:, REVERSED])), 5, REVERSED),
        Part(scaled, 4),
    ]


EXPECTED = np.concatenate([A, B, np.log1p(C[[0, 2, 3, 8]] * 2)])


def values(x: RowBlocks) -> np.ndarray:
    out = run.materialise(x)
    return out.toarray() if sp.issparse(out) else out


def test_concat__blocks_are_those_of_the_parts_and_each_row_is_read_once() -> None:
    made = parts()
    x = concat(made, 7)
    assert x.expression.bounds.tolist() == [0, 5, 12, 17, 19, 20, 21]
    assert x.expression.source.starts.dtype == np.int64
    with logged("all") as s:
        np.testing.assert_allclose(values(x), EXPECTED, rtol=1e-6)
    assert made[0].x is not None and source_of(made[0].x).reads == {(0, 5): 1, (5, 12): 1}
    # 12 rows, 5 in memory, and the runs of rows of the third that hold picked ones
    assert x.expression.n_source_rows == 12 + 5 + 9
    assert s.passes == pytest.approx((12 + 5 + 5) / 26)
    np.testing.assert_allclose(x.compute(scheduler="sync").toarray(), EXPECTED, rtol=1e-6)  # Dask's own way


def test_concat__the_same_columns_cost_nothing() -> None:
    x = concat([Part(lazy(csr(A)), 12), Part(lazy(csr(C)), 9)], 7)
    assert all(not p.steps for p in x.expression.source.parts)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_concat__schedulers_agree(scheduler: str) -> None:
    x = concat(parts(), 7)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        np.testing.assert_allclose(values(x), EXPECTED, rtol=1e-6)


def test_concat__pickles_and_tasks_take_their_own_rows_only() -> None:
    big = from_array(csr(np.ones((4000, 50), np.float32)))
    x = concat([Part(big, 4000), Part(lazy(csr(np.ones((2, 50), np.float32))), 2)], 50)
    assert len(pickle.dumps(x.expression.plan())) < 5_000  # what all tasks share holds no rows
    assert len(pickle.dumps(x.expression.args(10, 12))) < 5_000
    again = pickle.loads(pickle.dumps(x))
    assert again.name == x.name
    assert run.compute(reduce_rows(qc.GENES, again)).totals.sum() == 4002 * 50


def test_concat__of_concatenations() -> None:
    inner = concat(parts(), 7)
    x = concat([Part(inner, 21, REVERSED), Part(inner[3:20], 17, REVERSED)], 7)
    np.testing.assert_allclose(values(x), np.concatenate([EXPECTED, EXPECTED[3:20]])[:, ::-1], rtol=1e-6)
    assert len(list(sources(x.expression))) == 6
    np.testing.assert_allclose(
        x.evaluator().evaluate(10, 30).toarray(), np.concatenate([EXPECTED, EXPECTED[3:20]])[10:30, ::-1], rtol=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_concat__picks_commute(data: st.DataObject) -> None:
    x, expected = concat([*parts(), Part(lazy(C, 2), 9)], 7), np.concatenate([EXPECTED, C])
    for _ in range(3):
        rows = np.array(data.draw(st.lists(st.booleans(), min_size=len(expected), max_size=len(expected))), bool)
        x, expected = x[rows], expected[rows]
        if expected.shape[1]:
            cols = np.array(data.draw(st.lists(st.integers(0, expected.shape[1] - 1), max_size=6)), np.int64)
            x, expected = x[:, cols], expected[:, cols]
    assert isinstance(x, RowBlocks) and x.shape == expected.shape
    np.testing.assert_allclose(values(x), expected, rtol=1e-6)


def test_concat__files_with_the_same_genes_share_one_table_of_columns() -> None:
    x = concat([Part(lazy(csr(A)), 12, WIDER), Part(lazy(csr(C)), 9, WIDER.copy()), Part(lazy(csr(B)), 5, WIDER)], 9)
    steps = [p.steps[0] for p in x.expression.source.parts]
    assert steps[0] is steps[1] is steps[2]


def test_concat__columns_picked_of_placed_ones_are_one_step() -> None:
    placed = from_array(concat([Part(lazy(csr(A).astype(np.int16)), 12, WIDER)], 9, fill=1.5))
    inner = RowBlocks(placed.expression.source.parts[0])
    picked = inner[:, [5, 2, 8]]
    (step,) = picked.expression.steps
    assert isinstance(step, ColumnSelection) and step.cols.tolist() == [-1, 1, 6]
    assert picked.dtype == inner.dtype == np.float64
    np.testing.assert_array_equal(values(picked), np.c_[np.full(12, 1.5), A[:, 1], A[:, 6]])
    np.testing.assert_array_equal(values(inner[:, [2, 8, 2]]), A[:, [1, 6, 1]])


def test_concat__several_results_share_a_pass() -> None:
    made = [Part(lazy(csr(A), 3), 12), Part(from_array(csr(B)), 5), Part(lazy(csr(C), 2), 9, REVERSED)]
    x = concat(made, 7)
    found, few = run.compute(reduce_rows(qc.GENES, x), reduce_rows(qc.GENES, x[:, [1, 2]]))
    total = np.concatenate([A, B, C[:, REVERSED]]).sum(axis=0)
    np.testing.assert_array_equal(found.totals, total)
    np.testing.assert_array_equal(few.totals, total[[1, 2]])
    assert source_of(made[0].x).times_read().tolist() == [1] * 12


def test_concat__missing_columns_and_types() -> None:
    x = concat([Part(lazy(A.astype(np.int16)), 12, WIDER), Part(None, 3)], 9)
    assert x.dtype == np.float64 and not x.expression.is_sparse
    expected = np.full((15, 9), np.nan)
    expected[:12, WIDER >= 0] = A
    np.testing.assert_array_equal(values(x), expected)
    narrow = concat([Part(lazy(csr(A).astype(np.uint8)), 12), Part(lazy(B.astype(np.int16)), 5)], 7)
    assert narrow.dtype == np.int16 and narrow.expression.is_sparse
    np.testing.assert_array_equal(values(narrow), np.concatenate([A, B]))


def test_concat__known_sums_carry_over_where_they_stay_exact() -> None:
    def known(*columns: Any, kind: Any = csr, fill: float | None = None) -> set[str]:
        made = [Part(lazy(kind(m)), len(m), c) for m, c in zip((A, C), columns, strict=True)]
        for p in made:
            assert p.x is not None
            qc.cell_statistics(p.x)
        x = concat(made, 7 if columns[0] is None else len(columns[0]), fill=fill)
        if "totals" in x.known.rows:
            np.testing.assert_array_equal(x.known.rows["totals"], np.concatenate([A, C]).sum(axis=1))
        if "n_genes" in x.known.rows:
            np.testing.assert_array_equal(x.known.rows["n_genes"], (np.concatenate([A, C]) != 0).sum(axis=1))
        return set(x.known.rows)

    assert known(None, None) == known(WIDER, WIDER) == {"totals", "n_genes"}
    assert known(REVERSED, REVERSED) == {"n_genes"}  # a float sum depends on the order
    assert known(np.arange(6), np.arange(6)) == known(WIDER, WIDER, kind=np.asarray) == set()
    assert known(WIDER, WIDER, fill=1) == set()
    half = concat([Part(lazy(csr(A)), 12), parts()[0]], 7)
    assert not half.known.rows


def test_concat__stored_values_per_row_are_known_without_a_pass() -> None:
    memory = [from_array(csr(m)) for m in (A, C)]
    x = concat([Part(memory[0], 12, WIDER), Part(memory[1], 9, WIDER)], 9)[1:15]
    found = known_row_nnz(x)
    assert found is not None
    np.testing.assert_array_equal(found, (np.concatenate([A, C]) != 0).sum(axis=1)[1:15])
    assert known_row_nnz(x[:, :4]) is None
    assert known_row_nnz(concat([Part(memory[0], 12, WIDER), Part(lazy(csr(C)), 9, WIDER)], 9)) is None


def test_concat__of_memory_is_not_laid_aside() -> None:
    memory = concat([Part(from_array(csr(A)), 12), Part(from_array(csr(B)), 5)], 7)
    assert all(isinstance(s, MemorySource) for s in sources(memory.expression))
    assert not spill.possible(memory) and spill.possible(concat(parts(), 7))


def test_concat__without_rows() -> None:
    x = concat([Part(lazy(csr(A))[:0], 0), Part(from_array(np.empty((0, 7), np.float32)), 0)], 7)
    assert x.shape == (0, 7) and values(x).shape == (0, 7)
    assert concat([Part(lazy(csr(A))[:0], 0), Part(lazy(csr(B)), 5)], 7).expression.bounds[-1] == 5


def test_concat__a_graph_made_elsewhere_is_refused() -> None:
    made = from_array(da.from_array(A, chunks=(4, 7)))
    with pytest.raises(InputError, match=r"matrix 1 .* Dask graph made elsewhere.*next: sd.write\(adatas\[1\]"):
        concat([Part(lazy(A), 12), Part(made, 12)], 7)


def test_source__reads_any_rows() -> None:
    source = concat(parts(), 7).expression.source
    assert isinstance(source, ConcatSource)
    np.testing.assert_allclose(source.read(3, 19).toarray(), EXPECTED[3:19], rtol=1e-6)
    assert source.read(4, 4).shape == (0, 7)
