"""Lazy X as row blocks, and the verbs that everything out of core is written with.

- ``map_rows``: the same rows, other values: lazy, nothing is read.
- ``reduce_rows``: one small state per block, merged: sums, moments, Gram matrices.
- ``fold_rows``: the same, but block after block in order.
- ``collect_rows``: one small result per row.
- ``scan_rows``: per-row results and a merged state from one loop over the block.
- ``each_block``: one small result per block.

All but the first return a `Lazy` that ``run.compute`` turns into its value; everything asked of the
same X in one ``compute`` is done in one pass.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import dask.array as da
import numpy as np
import scipy.sparse as sp
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from sc_dask import config
from sc_dask.array import numpy_like
from sc_dask.array.chunks import cut_dense, cut_rows
from sc_dask.array.expr import BlockArgs, BlockPlan, Expr, Role, RowVector, Step, evaluate, named
from sc_dask.array.layer import (
    PREFIX,
    ExprLayer,
    ForeignSource,
    Known,
    layer_of,
    remember,
    remembered,
    selection_of,
)
from sc_dask.array.source import Block, BlockSource, MemorySource
from sc_dask.errors import InputError
from sc_dask.kernels.csr import canonical
from sc_dask.outside.dask import has_sparse_blocks

S = TypeVar("S")
T = TypeVar("T")


class RowBlocks(da.Array):  # type: ignore[misc]
    """A lazy matrix cut into row blocks: a Dask array whose rows and columns can be picked without a shuffle.

    Made by `from_source` and `from_array`, never directly.
    """

    def __new__(cls, expr: Expr, known: Known | None = None, name: str | None = None) -> RowBlocks:
        name = f"{PREFIX}{expr.token()}" if name is None else name
        dependencies: dict[str, set[str]] = {name: set()}
        layers: dict[str, Any] = {name: ExprLayer(name, expr, Known() if known is None else known)}
        if isinstance(expr.source, ForeignSource):
            below = expr.source.array.dask
            layers.update(below.layers)
            dependencies.update(below.dependencies)
            dependencies[name] = {expr.source.array.name}
        chunks = (tuple(int(n) for n in np.diff(expr.bounds)), (expr.shape[1],))
        meta = sp.csr_matrix((0, 0), dtype=expr.dtype) if expr.is_sparse else np.empty((0, 0), expr.dtype)
        self: RowBlocks = super().__new__(cls, HighLevelGraph(layers, dependencies), name, chunks, meta=meta)
        return self

    @staticmethod
    def of_same(kind: type[RowBlocks], x: RowBlocks) -> RowBlocks | None:
        """Return the same lazy matrix as an object of another class; None where values were set in place."""
        layer = layer_of(x)
        return None if layer is None else RowBlocks.__new__(kind, layer.expression, layer.known, layer.name)

    @property
    def _layer(self) -> ExprLayer:
        layer = layer_of(self)
        if layer is None:
            raise InputError(
                "values of this lazy X were set in place: it is a Dask array like any other now",
                "a lazy X as it was made",
                "sd.get.matrix(adata)",
            )
        return layer

    @property
    def expression(self) -> Expr:
        """What stands behind X: its source, the rows that were picked, the steps."""
        return self._layer.expression

    @property
    def known(self) -> Known:
        """What passes over X have taught."""
        return self._layer.known

    def __reduce__(self) -> tuple[Any, ...]:
        layer = layer_of(self)  # None: values were set in place, and it is a Dask array like any other
        return super().__reduce__() if layer is None else (RowBlocks, (layer.expression, layer.known, layer.name))

    def copy(self) -> Any:
        """Return the same lazy matrix as another object."""
        same = self.of_same(RowBlocks, self)
        return super().copy() if same is None else same

    def __getitem__(self, index: Any) -> Any:
        key = index if isinstance(index, tuple) else (index,)
        if len(key) <= 2 and layer_of(self) is not None and any(isinstance(k, int | np.integer) for k in key):
            few = tuple(_one(k, n) for k, n in zip((*key, slice(None))[:2], self.shape, strict=True))
            return numpy_like.dense(self[few])[
                tuple(0 if isinstance(k, int | np.integer) else slice(None) for k in key)
            ]
        if layer_of(self) is None or len(key) > 2 or any(k is None or k is Ellipsis for k in key):
            return super().__getitem__(index)
        rows = _positions(key[0], self.shape[0])
        cols = _positions(key[1], self.shape[1]) if len(key) == 2 else slice(None)
        if rows is None or cols is None or not _increasing(rows):
            out = super().__getitem__(index)
            return from_array(out) if out.ndim == 2 else out
        x = self
        if not _is_all(cols):
            x = x.select_columns(np.arange(self.shape[1])[cols] if isinstance(cols, slice) else cols)
        if not _is_all(rows):
            x = x.select_rows(np.arange(self.shape[0])[rows] if isinstance(rows, slice) else rows)
        return x

    # -- as numpy and scipy have it

    def __array__(self, dtype: Any = None, copy: Any = None, **kwargs: Any) -> np.ndarray:
        if layer_of(self) is None:
            return np.asarray(super().__array__(dtype, **kwargs))
        return numpy_like.to_ndarray(self, dtype)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.ravel and self.expression.is_sparse:  # AnnData.obs_vector
            return np.ravel(numpy_like.to_ndarray(self))
        if func in numpy_like.METHODS and isinstance(args[0], RowBlocks):
            return getattr(args[0], numpy_like.METHODS[func])(*args[1:], **kwargs)
        return super().__array_function__(func, types, args, kwargs)

    def __array_ufunc__(self, numpy_ufunc: Any, method: Any, *inputs: Any, **kwargs: Any) -> Any:
        if numpy_ufunc is np.matmul and method == "__call__" and not kwargs:
            left, right = inputs
            return left.__matmul__(right) if isinstance(left, RowBlocks) else right.__rmatmul__(left)
        return super().__array_ufunc__(numpy_ufunc, method, *inputs, **kwargs)

    def toarray(self) -> np.ndarray:
        """Return all values as an ndarray, if it fits into memory. Passes: 1."""
        return numpy_like.to_ndarray(self)

    def to_memory(self) -> Any:
        """Return all of it as it is: a csr_matrix, or an ndarray where it is dense. Passes: 1."""
        return numpy_like.to_sparse(self)

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False, **kwargs: Any) -> da.Array:  # type: ignore[override]
        """Return sums, lazily, as ``numpy.sum``; those of floats are added up in float64."""
        if not self.expression.is_sparse or kwargs:
            return numpy_like.dense(self).sum(axis=axis, dtype=dtype, keepdims=keepdims, **kwargs)
        return numpy_like.total(self, axis, keepdims, dtype)

    def mean(self, axis: Any = None, dtype: Any = None, keepdims: bool = False, **kwargs: Any) -> da.Array:  # type: ignore[override]
        """Return means, lazily, as ``numpy.mean``."""
        if not self.expression.is_sparse or kwargs:
            return numpy_like.dense(self).mean(axis=axis, dtype=dtype, keepdims=keepdims, **kwargs)
        return numpy_like.mean(self, axis, keepdims, dtype)

    def max(self, axis: Any = None, keepdims: bool = False, **kwargs: Any) -> da.Array:  # type: ignore[override]
        """Return the largest values, lazily, as ``numpy.max``."""
        if not self.expression.is_sparse or kwargs:
            return numpy_like.dense(self).max(axis=axis, keepdims=keepdims, **kwargs)
        return numpy_like.extreme(self, "max", axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False, **kwargs: Any) -> da.Array:  # type: ignore[override]
        """Return the smallest values, lazily, as ``numpy.min``."""
        if not self.expression.is_sparse or kwargs:
            return numpy_like.dense(self).min(axis=axis, keepdims=keepdims, **kwargs)
        return numpy_like.extreme(self, "min", axis, keepdims)

    def __matmul__(self, other: Any) -> da.Array:
        return numpy_like.matmul(self, other)

    def __rmatmul__(self, other: Any) -> da.Array:
        return numpy_like.matmul_left(self, other)

    def __repr__(self) -> str:
        layer = layer_of(self)
        if layer is None:
            return str(super().__repr__())
        e = layer.expression
        kind = "csr" if e.is_sparse else "dense"
        steps = ", ".join(step.role or step.kernel.__name__.strip("_") for step in e.steps)
        waiting = f"; steps: {steps}" if steps else ""
        return f"<lazy X: {e.shape[0]:,} x {e.shape[1]:,} {kind} {e.dtype}, {e.n_blocks} blocks{waiting}>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    # -- selections

    def select_rows(self, positions: np.ndarray) -> RowBlocks:
        """Keep rows at increasing positions, repeats allowed; known statistics of rows follow, those of columns go."""
        if len(positions) == self.shape[0] and bool((np.diff(positions) == 1).all()):
            return self
        known = Known(rows={k: v[positions] for k, v in self.known.rows.items()})
        return RowBlocks(self.expression.select_rows(np.asarray(positions, np.int64)), known)

    def select_columns(self, cols: np.ndarray) -> RowBlocks:
        """Keep columns; known statistics of columns follow, those of rows go."""
        cols = np.asarray(cols, np.int64)
        if len(cols) == self.shape[1] and (cols == np.arange(len(cols))).all():
            return self
        return RowBlocks(
            self.expression.select_columns(cols), Known(cols={k: v[cols] for k, v in self.known.cols.items()})
        )

    def rebounded(self, bounds: np.ndarray) -> RowBlocks:
        """Cut the same rows at other places; needs a source that can read any range of rows."""
        if isinstance(self.expression.source, ForeignSource):
            raise InputError("an X made elsewhere cannot be cut anew", "an X from sd.read", "use x.rechunk")
        return RowBlocks(self.expression.rebounded(bounds), self.known)

    def evaluator(self) -> Evaluator:
        """Return what can make any range of rows on any worker."""
        return Evaluator(self.expression)


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Makes any range of rows of a lazy X; picklable. Row vectors travel with it: give workers ``part``."""

    expression: Expr

    def evaluate(self, start: int, stop: int) -> Block:
        """Return rows ``start:stop`` as a block."""
        return evaluate(self.expression.plan(), self.expression.args(start, stop))

    def part(self, start: int, stop: int) -> tuple[BlockPlan, BlockArgs]:
        """Return the picklable arguments of rows ``start:stop``; ``evaluate_block(*part)`` makes them."""
        return self.expression.plan(), self.expression.args(start, stop)


def _positions(index: Any, n: int) -> Any:
    """Return a slice with positive step or an integer array; None for what Dask itself should handle."""
    if isinstance(index, slice):
        return index if (index.step or 1) > 0 else None
    if isinstance(index, list | np.ndarray) or type(index).__module__.startswith("pandas"):
        index = np.asarray(index)
        if index.ndim != 1:
            return None
        if index.dtype == bool:
            if len(index) != n:
                raise IndexError(f"boolean index of length {len(index)} for an axis of length {n}")
            return np.flatnonzero(index)
        if index.size == 0:
            return np.empty(0, np.int64)
        if index.dtype.kind in "iu":
            index = np.where(index < 0, index + n, index).astype(np.int64)
            if index.min() < 0 or index.max() >= n:
                raise IndexError(f"index out of range for an axis of length {n}")
            return index
    return None


def _one(index: Any, n: int) -> Any:
    """Return the position of one row or column as a selection; anything else as it is."""
    if not isinstance(index, int | np.integer):
        return index
    if not -n <= index < n:
        raise IndexError(f"index {index} is out of range for an axis of length {n}")
    return np.array([index % n])


def _is_all(index: Any) -> bool:
    return isinstance(index, slice) and index == slice(None)


def _increasing(index: Any) -> bool:
    return isinstance(index, slice) or bool((np.diff(index) >= 0).all())


# -- making them ---------------------------------------------------------------------------------


def from_source(source: BlockSource, bounds: np.ndarray, known: Known | None = None) -> RowBlocks:
    """Return the lazy matrix of a source cut at ``bounds`` (n_blocks + 1 row numbers)."""
    bounds = np.asarray(bounds, np.int64)
    if len(bounds) < 2:
        bounds = np.zeros(2, np.int64)
    return RowBlocks(Expr(source, bounds), known)


def _as_block(block: Any) -> Block:
    if sp.issparse(block):
        csr = block.tocsr()
        return canonical(csr.data, csr.indices, csr.indptr, csr.shape[1])
    return np.ascontiguousarray(block)


def from_array(x: Any) -> RowBlocks:
    """Return row blocks of an ndarray, a scipy sparse matrix or a Dask array of either.

    An array in memory is cut by ``config["block-bytes"]`` without a copy (CSC is turned to CSR first).
    A Dask array keeps its row chunks; its columns are joined to one chunk.
    """
    if isinstance(x, da.Array):
        if isinstance(x, RowBlocks) and layer_of(x) is not None:
            return x
        found = restored(x)
        return found if isinstance(found, RowBlocks) and layer_of(found) is not None else _from_dask(x)
    budget = config.n_bytes("block-bytes")
    assert budget is not None
    token = f"memory-{tokenize(object())}"  # its values may change: never taken for another's
    if sp.issparse(x):
        csr = x.tocsr()
        csr = canonical_whole(csr)
        bounds = cut_rows(csr.indptr.astype(np.int64), budget)
        return from_source(MemorySource(csr, token), bounds)
    dense = np.ascontiguousarray(x)
    bounds = cut_dense(dense.shape[0], dense.shape[1], dense.dtype.itemsize, budget)
    return from_source(MemorySource(dense, token), bounds)


def canonical_whole(csr: Any) -> sp.csr_matrix:
    """Return the matrix as a csr_matrix with sorted, unique indices; a copy only where one is needed."""
    out = sp.csr_matrix((csr.data, csr.indices, csr.indptr), shape=csr.shape, copy=False)
    if not out.has_canonical_format:
        out = out.copy()
        out.sum_duplicates()
    return out


def restored(x: Any) -> Any:
    """Return a lazy X that lost its class with its class, and anything else as it is."""
    if not isinstance(x, da.Array) or isinstance(x, RowBlocks):
        return x
    layer = layer_of(x)
    found = _selection(x) if layer is None else RowBlocks(layer.expression, layer.known, layer.name)
    return x if found is None else found


def _selection(x: da.Array) -> RowBlocks | None:
    """Return the selection of a lazy X that Dask made, as one that reads what it needs; None for anything else."""
    known = remembered(x)
    if known is None:
        found = selection_of(x)
        if found is None or not _increasing(found[1]):
            return None
        layer, rows, cols = found
        made = RowBlocks(layer.expression, layer.known, layer.name).select_columns(cols).select_rows(rows)
        known = remember(layer, x.name, made.expression, made.known)
    return RowBlocks(*known)


def _from_dask(x: da.Array) -> RowBlocks:
    if x.ndim != 2 or any(np.isnan(c) for chunks in x.chunks for c in chunks):
        raise InputError(
            f"a Dask array of shape {x.shape}", "two dimensions and known chunk sizes", "x.compute_chunk_sizes()"
        )
    if len(x.chunks[1]) > 1:
        x = x.rechunk({1: -1})
    meta = sp.csr_matrix((0, 0), dtype=x.dtype) if has_sparse_blocks(x) else np.empty((0, 0), x.dtype)
    blocks = da.map_blocks(_as_block, x, dtype=x.dtype, meta=meta)
    return from_source(ForeignSource(blocks, blocks.name), np.concatenate([[0], np.cumsum(blocks.chunks[0])]))


# -- the verbs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reduction(Generic[S, T]):
    """A reduction over row blocks.

    Parameters
    ----------
    block
        ``block(b, *row_vectors, **const) -> state``: what one block teaches.
    merge
        ``merge(state, state) -> state``: associative; must not change its arguments.
    finalize
        ``finalize(state) -> answer``, on the driver.
    updated_copy
        ``updated_copy(state, b, *row_vectors, **const) -> state``: optional faster ``merge(state, block(b))``;
        must not change its state.
    update_inplace
        The same, but may change the state: used where nobody else has seen it.
    merge_inplace
        ``merge``, but may change both states; the same digits.
    """

    block: Callable[..., S]
    merge: Callable[[S, S], S]
    finalize: Callable[[S], T] = lambda s: s  # type: ignore[assignment,return-value]
    updated_copy: Callable[..., S] | None = None
    update_inplace: Callable[..., S] | None = None
    merge_inplace: Callable[[S, S], S] | None = None


@dataclass(frozen=True)
class Lazy(Generic[T]):
    """Something that a pass over ``x`` will tell; ``run.compute`` makes it."""

    x: RowBlocks
    kernel: Any  # a Reduction, or a function of a block
    kind: str  # "reduce", "fold", "scan", "rows" or "blocks"
    rows: tuple[np.ndarray, ...] = ()
    const: Mapping[str, Any] = field(default_factory=dict)
    before_last: int = (
        0  # the kernel takes the block as it is before so many last steps, and the next step's row vectors
    )


def before_last_steps(lazy: Lazy[T], n_steps: int = 1) -> Lazy[T]:
    """Let a kernel do the last step itself, or do without it: ``kernel(block, *step_vectors, *rows, **const)``.

    It sees the block as it is before that step, or before the last ``n_steps``. Whatever else is asked of the same X
    shares the pass.
    """
    if len(lazy.x.expression.steps) < n_steps:
        raise ValueError(f"there are no {n_steps} steps before which to stop")
    return replace(lazy, before_last=n_steps)


def _checked(x: RowBlocks, rows: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    out = tuple(np.asarray(r) for r in rows)
    for r in out:
        if r.shape[:1] != x.shape[:1]:
            raise ValueError(f"row vector of shape {r.shape} for {x.shape[0]} rows")
    return out


def map_rows(
    kernel: Callable[..., Block],
    x: RowBlocks,
    *rows: np.ndarray | RowVector,
    dtype: Any = None,
    n_vars: int | None = None,
    is_sparse: bool | None = None,
    columnwise: bool = False,
    keeps_pattern: bool = False,
    by_col: tuple[str, ...] = (),
    role: Role = "",
    **const: Any,
) -> RowBlocks:
    """Return ``kernel(block, *row_vectors, **const)`` of every block as a lazy matrix with the same rows.

    ``columnwise=True`` promises that a value depends on its own column (and the row vectors) alone,
    ``keeps_pattern=True`` that a csr block keeps its ``indices`` and ``indptr``; ``by_col`` names the constants that
    hold a value per column; ``role`` is that of the step. Blocks that become dense are cut as fine as the byte budget
    asks. No pass; known statistics of ``x`` do not carry over, since values change.
    """
    vectors = tuple(r if isinstance(r, RowVector) else RowVector(_checked(x, (r,))[0]) for r in rows)
    step = Step(
        kernel,
        named(kernel, const),
        np.dtype(dtype or x.dtype),
        x.shape[1] if n_vars is None else n_vars,
        x.expression.is_sparse if is_sparse is None else is_sparse,
        vectors,
        const,
        columnwise,
        keeps_pattern,
        by_col,
        role,
    )
    return RowBlocks(x.expression.then(step))


def reduce_rows(red: Reduction[S, T], x: RowBlocks, *rows: np.ndarray, **const: Any) -> Lazy[T]:
    """Describe a reduction over all blocks."""
    return Lazy(x, red, "reduce", _checked(x, rows), const)


def fold_rows(red: Reduction[S, T], x: RowBlocks, *rows: np.ndarray, **const: Any) -> Lazy[T]:
    """Describe a reduction over the blocks in their order, one after the other."""
    return Lazy(x, red, "fold", _checked(x, rows), const)


def scan_rows(red: Reduction[S, T], x: RowBlocks, *rows: np.ndarray, **const: Any) -> Lazy[tuple[Any, T]]:
    """Describe both at once: ``red.block`` returns (one small result per row, state); the answer is the pair."""
    return Lazy(x, red, "scan", _checked(x, rows), const)


def collect_rows(kernel: Callable[..., Any], x: RowBlocks, *rows: np.ndarray, **const: Any) -> Lazy[Any]:
    """Describe one small result per row, joined on the driver.

    ``kernel(block, *row_vectors, **const)`` returns an array, or a tuple, dict or dataclass of arrays, whose first
    axis is the rows.
    """
    return Lazy(x, kernel, "rows", _checked(x, rows), const)


def each_block(kernel: Callable[..., T], x: RowBlocks, *rows: np.ndarray, **const: Any) -> Lazy[list[T]]:
    """Describe one small result per block, in a list: ``kernel(block, block_index, *row_vectors, **const)``."""
    return Lazy(x, kernel, "blocks", _checked(x, rows), const)
