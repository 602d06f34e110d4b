from __future__ import annotations

import pickle
from typing import Any

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_dask.array import normalize, qc
from sc_dask.array.blocks import (
    Reduction,
    RowBlocks,
    collect_rows,
    each_block,
    from_array,
    from_source,
    map_rows,
    reduce_rows,
)
from sc_dask.array.engine import run
from sc_dask.array.expr import ColumnSelection, RowVector
from sc_dask.array.layer import evaluate_block
from sc_dask.errors import InputError
from sc_dask.kernels.qc import row_totals
from sc_dask.testing import lazy, source_of

N_OBS, N_VARS = 23, 11
DENSE = np.random.default_rng(1).poisson(1.0, (N_OBS, N_VARS)).astype(np.float32)
DENSE[4], DENSE[:, 3] = 0, 0
BOUNDS = [0, 5, 5, 6, 17, N_OBS]


def make(kind: str = "sparse", bounds: Any = BOUNDS) -> RowBlocks:
    return lazy(sp.csr_matrix(DENSE) if kind == "sparse" else DENSE, bounds=bounds)


def values(x: Any) -> np.ndarray:
    out = run.materialise(x) if isinstance(x, RowBlocks) else x.compute(scheduler="sync")
    return out.toarray() if sp.issparse(out) else np.asarray(out)


def scaled(dense: np.ndarray) -> np.ndarray:
    totals = dense.sum(axis=1, keepdims=True)
    return np.log1p(dense * np.where(totals == 0, 1, 100 / np.where(totals == 0, 1, totals)))


# -- picks ---------------------------------------------------------------------------------------


def index_of(n: int) -> st.SearchStrategy[Any]:
    masks = st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)
    slices = st.builds(slice, st.integers(-n, n), st.integers(-n, n), st.integers(1, 3))
    lists = st.lists(st.integers(0, n - 1), unique=True, min_size=1).map(lambda v: np.array(sorted(v)))
    return st.one_of(masks, slices, lists, st.just(slice(None)))


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("known", [True, False], ids=["totals known", "totals unknown"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_picks__commute_with_steps(kind: str, known: bool, data: st.DataObject) -> None:
    x, expected = make(kind), DENSE
    if known:
        qc.cell_statistics(x)
    steps = data.draw(st.permutations(["rows", "columns", "rows", "columns", "normalise"]))
    for step in steps:
        if step == "rows" and len(expected):
            index = data.draw(index_of(len(expected)))
            x, expected = x[index], expected[index]
        elif step == "columns" and expected.shape[1]:
            index = data.draw(index_of(expected.shape[1]))
            x, expected = x[:, index], expected[:, index]
        elif step == "normalise":
            x, expected = normalize.log1p(normalize.normalize(x, normalize.totals_of(x), 100), None), scaled(expected)
    assert isinstance(x, RowBlocks)
    assert x.shape == expected.shape
    np.testing.assert_allclose(values(x), expected, rtol=1e-5)
    np.testing.assert_allclose(x.compute(scheduler="sync").sum(), expected.sum(), rtol=1e-4)  # Dask's own way


def test_picks__of_columns_move_before_normalising_only_when_totals_are_known() -> None:
    x = make()
    unknown = normalize.normalize(x, normalize.totals_of(x), 100)[:, [1, 2]]
    assert isinstance(unknown.expression.steps[-1], ColumnSelection)
    qc.cell_statistics(x)
    known = normalize.normalize(x, normalize.totals_of(x), 100)[:, [1, 2]]
    assert isinstance(known.expression.steps[0], ColumnSelection)
    np.testing.assert_array_equal(values(unknown), values(known))


def test_picks__facts_that_stay_true_follow() -> None:
    x = make()
    qc.metrics(x, np.zeros((0, N_VARS), bool), ())
    rows, cols = x[3:9], x[:, [2, 5]]
    assert set(rows.known.rows) == {"totals", "n_genes"} and not rows.known.cols and not rows.known.values
    np.testing.assert_array_equal(rows.known.rows["totals"], DENSE[3:9].sum(axis=1))
    assert set(cols.known.cols) == {"totals", "n_cells"} and not cols.known.rows
    np.testing.assert_array_equal(cols.known.cols["totals"], DENSE[:, [2, 5]].sum(axis=0))
    mapped = normalize.normalize(x, normalize.totals_of(x), 100)
    assert not mapped.known.rows and not mapped.known.cols


def test_picks__read_only_blocks_with_wanted_rows() -> None:
    x = make()
    values(x[[7, 9, 20]])
    assert source_of(x).reads == {(7, 10): 1, (20, 21): 1}


@pytest.mark.parametrize("index", [[5, 2], [1, 1, 3], slice(None, None, -1)], ids=str)
def test_picks__out_of_order_are_left_to_dask(index: Any) -> None:
    x = make("dense")[index]
    assert isinstance(x, RowBlocks)
    np.testing.assert_array_equal(values(x), DENSE[index])


def test_from_array__knows_its_own_among_any_number_whatever_class_they_lost() -> None:
    stripped = [da.Array(x.dask, x.name, x.chunks, meta=x._meta) for x in (make()[:, [i % N_VARS]] for i in range(40))]
    again = from_array(stripped[0])
    assert type(stripped[0]) is da.Array and source_of(again).shape == DENSE.shape
    np.testing.assert_array_equal(values(again), DENSE[:, [0]])


def test_picks__repeated_and_reordered_columns() -> None:
    for cols in ([4, 1], [2, 2, 0], [-1, 0]):
        for kind in ("sparse", "dense"):
            np.testing.assert_array_equal(values(make(kind)[:, cols]), DENSE[:, cols])


def test_picks__single_numbers_and_extra_axes_are_dasks() -> None:
    x = make("dense")
    np.testing.assert_array_equal(x[3].compute(), DENSE[3])
    np.testing.assert_array_equal(x[:, 2].compute(), DENSE[:, 2])
    assert x[..., None].shape == (N_OBS, N_VARS, 1)


@pytest.mark.parametrize("index", [np.ones(3, bool), [N_OBS], [-N_OBS - 1]], ids=["mask", "above", "below"])
def test_picks__out_of_range(index: Any) -> None:
    with pytest.raises(IndexError, match="axis of length 23"):
        make()[index]


def test_picks__nothing_left() -> None:
    for x in (make()[np.zeros(N_OBS, bool)], make()[:, np.zeros(N_VARS, bool)], make()[:0][:, []]):
        assert values(x).shape == x.shape
    assert run.compute(reduce_rows(qc.GENES, make()[:0])).n_obs == 0


# -- the Dask array ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_rowblocks__is_a_dask_array(kind: str) -> None:
    x = make(kind)
    assert x.chunks == ((5, 0, 1, 11, 6), (N_VARS,))
    assert isinstance(x.copy(), RowBlocks) and x.copy().known is x.known and x.copy().name == x.name
    np.testing.assert_array_equal(values(x.persist(scheduler="sync")), DENSE)
    blocks = [b.compute(scheduler="sync") for b in x.to_delayed().ravel()]
    assert [b.shape[0] for b in blocks] == [5, 0, 1, 11, 6]
    np.testing.assert_array_equal(
        np.asarray(x.map_blocks(lambda b: b * 2).compute(scheduler="sync").sum()), 2 * DENSE.sum()
    )
    assert len(x.dask.layers[x.name]) == 6 == len(set(x.dask.layers[x.name]))
    with pytest.raises(KeyError):
        x.dask.layers[x.name][x.name, 5, 0]


def test_rowblocks__pickle() -> None:
    x = normalize.normalize(make(), normalize.totals_of(make()), 100)[3:20, [1, 4]]
    back = pickle.loads(pickle.dumps(x))
    assert isinstance(back, RowBlocks) and back.name == x.name
    np.testing.assert_array_equal(values(back), values(x))


def test_rowblocks__names_tell_contents_apart() -> None:
    x, y = make(), lazy(sp.csr_matrix(DENSE * 2), bounds=BOUNDS)
    names = {x.name, y.name, make(bounds=[0, N_OBS]).name, x[1:].name, x[:, 1:].name}
    names |= {normalize.log1p(x, base).name for base in (None, 2)}
    names |= {normalize.normalize(x, np.full(N_OBS, t), 100).name for t in (1.0, 2.0)}
    assert len(names) == 9
    assert make().name == x.name


def test_rowblocks__an_anndata_view_stays_lazy() -> None:
    adata = ad.AnnData(X=make())
    view = adata[np.arange(N_OBS) % 2 == 0, 2:8]
    x = from_array(view.X)
    assert isinstance(x, RowBlocks)
    values(x)
    assert source_of(x).reads[0, 5] == 1  # blocks of the source, not of a Dask graph upon it
    np.testing.assert_array_equal(values(x), DENSE[::2, 2:8])
    assert isinstance(view.X, RowBlocks) and isinstance(view.copy().X, RowBlocks)
    assert view.is_view and type(view.copy().X) is RowBlocks


def test_rowblocks__values_set_in_a_view_make_it_an_anndata_of_its_own() -> None:
    adata = ad.AnnData(X=make("dense"))
    view = adata[:10]
    with pytest.warns(ad.ImplicitModificationWarning):
        view.X[view.X > 1] = 0
    assert not view.is_view
    np.testing.assert_array_equal(view.X.compute(), np.where(DENSE[:10] > 1, 0, DENSE[:10]))
    np.testing.assert_array_equal(values(from_array(view.X)), np.where(DENSE[:10] > 1, 0, DENSE[:10]))
    np.testing.assert_array_equal(values(adata.X), DENSE)


def test_rowblocks__make_any_range_elsewhere() -> None:
    x = normalize.normalize(make(), DENSE.sum(axis=1), 100)[2:20]
    expected = values(x)
    np.testing.assert_array_equal(x.evaluator().evaluate(3, 12).toarray(), expected[3:12])
    recipe = pickle.loads(pickle.dumps(x.evaluator().part(0, 7)))
    np.testing.assert_array_equal(evaluate_block(*recipe).toarray(), expected[:7])


def test_rebounded__cuts_the_same_rows_elsewhere() -> None:
    x = make()
    qc.cell_statistics(x)
    cut = x.rebounded(np.array([0, 2, N_OBS]))
    assert cut.chunks[0] == (2, 21) and cut.known is x.known
    np.testing.assert_array_equal(values(cut), DENSE)
    for bounds in ([0, 5], [1, N_OBS], [0, 9, 3, N_OBS], [0]):
        with pytest.raises(InputError, match="row bounds"):
            x.rebounded(np.array(bounds))


# -- where they come from ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array]
)
def test_from_array__takes_what_is_in_memory(kind: Any) -> None:
    x = from_array(kind(DENSE))
    assert x.expression.is_sparse == sp.issparse(kind(DENSE))
    np.testing.assert_array_equal(values(x), DENSE)


def test_from_array__sums_duplicates_without_touching_the_input() -> None:
    csr = sp.csr_matrix((np.ones(3, np.float32), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    np.testing.assert_array_equal(values(from_array(csr)), [[1, 0, 2]])
    assert csr.nnz == 3


def test_from_array__an_array_that_changes_is_a_new_x() -> None:
    dense = DENSE.copy()
    first = from_array(dense)
    dense[0, 0] += 1
    assert from_array(dense).name != first.name


FOREIGN = {
    "dense, column chunks": lambda: da.from_array(DENSE, chunks=(7, 4)),
    "csr": lambda: da.from_array(DENSE, chunks=(7, -1)).map_blocks(
        sp.csr_matrix, meta=sp.csr_matrix((0, 0), dtype="f4")
    ),
    "csc": lambda: da.from_array(DENSE, chunks=(7, -1)).map_blocks(
        sp.csc_matrix, meta=sp.csc_matrix((0, 0), dtype="f4")
    ),
    "concatenated": lambda: da.concatenate([da.from_array(DENSE[:9], chunks=4), da.from_array(DENSE[9:], chunks=5)]),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("scheduler", ["threads", "sync"])
def test_from_array__takes_dask_arrays_of_others(kind: str, scheduler: str) -> None:
    import dask

    x = from_array(FOREIGN[kind]())
    with dask.config.set(scheduler=scheduler):
        np.testing.assert_array_equal(values(x), DENSE)
        picked = x[np.arange(N_OBS) % 3 > 0][:, [0, 4, 5]]
        np.testing.assert_array_equal(values(picked), DENSE[np.arange(N_OBS) % 3 > 0][:, [0, 4, 5]])
        np.testing.assert_array_equal(run.compute(reduce_rows(qc.GENES, x)).totals, DENSE.sum(axis=0))
        np.testing.assert_array_equal(values(x[5:6]), DENSE[5:6])


def test_from_array__a_dask_array_of_others_has_its_limits() -> None:
    x = from_array(da.from_array(DENSE, chunks=(7, -1)))
    with pytest.raises(InputError, match="cannot be cut anew"):
        x.rebounded(np.array([0, N_OBS]))
    with pytest.raises(InputError, match="blocks cannot be read alone"):
        x.expression.source.read(0, 7)


@pytest.mark.parametrize("x", [da.ones(5), da.ones((4, 4, 4))], ids=["1-D", "3-D"])
def test_from_array__refuses_other_shapes(x: Any) -> None:
    with pytest.raises(InputError, match="two dimensions and known chunk sizes"):
        from_array(x)


def test_from_array__refuses_unknown_chunks() -> None:
    x = da.from_array(DENSE, chunks=(7, -1))
    with pytest.raises(InputError, match="compute_chunk_sizes"):
        from_array(x[da.from_array(DENSE[:, 0], chunks=7) > 0])


def test_from_source__without_rows() -> None:
    x = from_source(lazy(DENSE[:0], 1).expression.source, np.array([0]))
    assert x.chunks == ((0,), (N_VARS,))


# -- the verbs -----------------------------------------------------------------------------------


def test_map_rows__row_vectors_travel_with_picks() -> None:
    weights = np.arange(N_OBS, dtype=np.float32)
    x = map_rows(lambda b, w: b * w[:, None], make("dense"), weights, columnwise=True)
    np.testing.assert_array_equal(values(x[[3, 8, 22]]), DENSE[[3, 8, 22]] * weights[[3, 8, 22], None])


def test_verbs__refuse_a_row_vector_of_another_length() -> None:
    with pytest.raises(ValueError, match="row vector of shape"):
        map_rows(lambda b, w: b, make(), np.ones(3))
    with pytest.raises(ValueError, match="row vector of shape"):
        collect_rows(lambda b, w: w, make(), np.ones(3))


def test_each_block__knows_its_number() -> None:
    assert run.compute(each_block(lambda b, i: (i, b.shape[0]), make())) == [(0, 5), (1, 0), (2, 1), (3, 11), (4, 6)]


def test_reduction__finalises_on_the_driver() -> None:
    red = Reduction(lambda b: b.sum(), lambda a, b: a + b, finalize=lambda s: f"{s:g}")
    assert run.compute(reduce_rows(red, make())) == f"{DENSE.sum():g}"


def test_row_vector__needs_values_or_a_kernel() -> None:
    with pytest.raises(ValueError, match="needs its values or a kernel"):
        RowVector(None)


def test_row_vector__is_learnt_once_and_follows_picks() -> None:
    x = make()
    vector = normalize.totals_of(x)
    y = normalize.normalize(x, vector, 100)
    picked = vector.pick(np.array([0, 4, 9]))
    assert vector.values is None and picked.values is None
    values(y[2:])  # a part teaches nothing about the whole
    assert vector.values is None
    values(y)
    np.testing.assert_array_equal(vector.values, DENSE.sum(axis=1))
    np.testing.assert_array_equal(picked.values, DENSE[[0, 4, 9]].sum(axis=1))
    assert vector.kernel is row_totals
