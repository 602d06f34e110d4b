"""The Dask graph of a lazy X, and how X is known again in a Dask array of any class.

A lazy X is known by its graph, not by its Python class: AnnData's views, copies, ``dask.optimize`` and pickles hand
back plain ``dask.array.Array``. The graph's layer holds the expression and what passes have taught about it, so both
are there wherever the graph is. A selection that Dask itself made of such an array (``adata[mask]`` of a plain one) is
followed through Dask's slicing tasks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import Layer

from sc_dask.array.expr import BlockArgs, BlockPlan, Expr, evaluate
from sc_dask.array.source import Block, BlockSource
from sc_dask.errors import InputError
from sc_dask.outside import dask as outside

PREFIX = "rowblocks-"  # of the names of lazy X
_N_SELECTIONS = 8  # that one X remembers


@dataclass
class Known:
    """What passes over X have taught; ``rows`` holds a value per row, ``cols`` one per column.

    They are exact or absent: a selection of rows keeps those of rows, one of columns those of columns. ``selections``:
    the expressions and known statistics of selections that Dask made of X, by the name of their arrays.
    """

    rows: dict[str, np.ndarray] = field(default_factory=dict)
    cols: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    selections: OrderedDict[str, tuple[Expr, Known]] = field(default_factory=OrderedDict, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Known, (self.rows, self.cols, self.values)


def evaluate_block(plan: BlockPlan, args: BlockArgs, block: Block | None = None) -> Block:
    """Return one block of a lazy X (what a plain Dask task runs)."""
    return evaluate(plan, args, block)


@dataclass(frozen=True, eq=False)
class ForeignSource(BlockSource):
    """A Dask array that somebody else made, one chunk of columns, with known chunk sizes."""

    array: da.Array
    token: str

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.array.shape[0]), int(self.array.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    @property
    def is_sparse(self) -> bool:
        return outside.has_sparse_blocks(self.array)

    def key(self, args: BlockArgs) -> tuple[str, int, int]:
        """Return the Dask key of the block that holds the rows of ``args``."""
        return (self.array.name, self._block(args.start)[0], 0)

    def whole_block(self, start: int, stop: int) -> tuple[int, int]:
        return self._block(start)[1:]  # selections never cross blocks

    def _block(self, row: int) -> tuple[int, int, int]:
        bounds = np.concatenate([[0], np.cumsum(self.array.chunks[0])])
        i = min(max(int(np.searchsorted(bounds, row, side="right")) - 1, 0), len(bounds) - 2)
        return i, int(bounds[i]), int(bounds[i + 1])

    def read(self, start: int, stop: int) -> Block:
        raise InputError(
            "this X is a Dask graph made elsewhere, whose blocks cannot be read alone",
            "an X from sd.read",
            "write it with anndata and read it with sd.read",
        )


class ExprLayer(Layer):
    """The Dask graph of an expression, made key by key when Dask asks."""

    def __init__(self, name: str, expr: Expr, known: Known) -> None:
        super().__init__()
        self.name, self.expression, self.known = name, expr, known
        self._plan_key = f"{name}-plan"

    def __reduce__(self) -> tuple[Any, ...]:
        return ExprLayer, (self.name, self.expression, self.known)

    def __len__(self) -> int:
        return self.expression.n_blocks + 1

    def __iter__(self) -> Iterator[Any]:
        yield self._plan_key
        for i in range(self.expression.n_blocks):
            yield (self.name, i, 0)

    def __contains__(self, key: object) -> bool:
        if key == self._plan_key:
            return True
        return (
            isinstance(key, tuple) and len(key) == 3 and key[0] == self.name and 0 <= key[1] < self.expression.n_blocks
        )

    def __getitem__(self, key: Any) -> Any:
        if key == self._plan_key:
            plan = self.expression.plan()
            return _PlanOf(plan.source, plan.kernels, self)
        if key not in self:
            raise KeyError(key)
        i = key[1]
        args = self.expression.args(int(self.expression.bounds[i]), int(self.expression.bounds[i + 1]))
        task: tuple[Any, ...] = (evaluate_block, self._plan_key, args)
        if isinstance(self.expression.source, ForeignSource):
            task += (self.expression.source.key(args),)
        return task

    def is_materialized(self) -> bool:
        return False

    def get_output_keys(self) -> set[Any]:
        return set(self)


@dataclass(frozen=True, eq=False)
class _PlanOf(BlockPlan):
    """A plan in a graph, by which its layer is found once Dask has optimised the graph; pickled, a `BlockPlan`."""

    layer: ExprLayer | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockPlan, (self.source, self.kernels)


# -- knowing X again -----------------------------------------------------------------------------


def layer_of(x: da.Array) -> ExprLayer | None:
    """Return the layer of a lazy X that is the whole of ``x``, or None for a Dask array of another kind."""
    layer = _layers(x).get(x.name)
    if isinstance(layer, ExprLayer):
        return layer
    return _optimised(x) if x.name.startswith(PREFIX) else None


def _layers(x: da.Array) -> Mapping[str, Any]:
    layers: Mapping[str, Any] = getattr(x.dask, "layers", {})
    return layers


def _optimised(x: da.Array) -> ExprLayer | None:
    """Return the layer of an X whose graph Dask has optimised: the plan, alone or inside a fused task, names it."""
    for key in (f"{x.name}-plan", (x.name, 0, 0)):
        try:
            values = outside.values_in(x.dask[key])
        except KeyError:
            continue
        for value in values:
            if isinstance(value, _PlanOf) and value.layer is not None and value.layer.name == x.name:
                return value.layer
    return None


def selection_of(x: da.Array) -> tuple[ExprLayer, np.ndarray, np.ndarray] | None:
    """Return the lazy X that Dask selected ``x`` from, and the rows and columns (int64) that it selected.

    None where ``x`` is anything else than rows and columns of one lazy X. Reads nothing: Dask's own slicing tasks, and
    no others, are run on row and column numbers.
    """
    below = _below(x)
    if below is None or x.ndim != 2 or not all(n > 0 for n in x.shape):
        return None
    layer, names = below
    tasks = outside.slicing_tasks(x.dask, names)
    if tasks is None:
        return None
    bounds, cols = layer.expression.bounds, np.arange(layer.expression.shape[1])
    for i in range(layer.expression.n_blocks):
        tasks[layer.name, i, 0] = outside.data(_Numbers(np.arange(bounds[i], bounds[i + 1]), cols))
    grid = outside.run_here(tasks, [(x.name, i, j) for i in range(x.numblocks[0]) for j in range(x.numblocks[1])])
    if not all(isinstance(part, _Numbers) for part in grid):
        return None
    n = x.numblocks[1]
    by_row, by_col = grid[::n], grid[:n]
    same = all(
        np.array_equal(part.rows, by_row[at // n].rows) and np.array_equal(part.cols, by_col[at % n].cols)
        for at, part in enumerate(grid)
    )
    found = np.concatenate([p.rows for p in by_row]), np.concatenate([p.cols for p in by_col])
    if not same or (len(found[0]), len(found[1])) != x.shape:
        return None
    return layer, found[0].astype(np.int64), found[1].astype(np.int64)


def _below(x: da.Array) -> tuple[ExprLayer, list[str]] | None:
    """Return the lazy X under a line of layers, and the names of these, or None where there is no such line."""
    layers, name = _layers(x), x.name
    names: list[str] = []
    while name in layers and len(names) < 100:
        layer = layers[name]
        if isinstance(layer, ExprLayer):
            return (layer, names) if names else None
        names.append(name)
        under = x.dask.dependencies.get(name, set())
        if len(under) != 1:
            return None
        (name,) = under
    return None


class _Numbers:
    """Stands for a block in Dask's slicing tasks: the numbers of its rows and columns."""

    ndim = 2

    def __init__(self, rows: np.ndarray, cols: np.ndarray) -> None:
        self.rows, self.cols = rows, cols
        self.shape = (len(rows), len(cols))

    def __getitem__(self, index: Any) -> _Numbers:
        rows, cols = index
        return _Numbers(self.rows[rows], self.cols[cols])

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Do what slicing does to blocks: join them along an axis, and take some of it."""
        axis = kwargs.get("axis", args[2] if len(args) > 2 else 0)
        if func is np.concatenate and axis in (0, 1):
            parts = args[0]
            rows = np.concatenate([p.rows for p in parts]) if axis == 0 else parts[0].rows
            cols = np.concatenate([p.cols for p in parts]) if axis == 1 else parts[0].cols
            return _Numbers(rows, cols)
        if func is np.take and axis in (0, 1):
            every = slice(None)
            return self[(args[1], every) if axis == 0 else (every, args[1])]
        return NotImplemented


_REMEMBERING = threading.Lock()


def remembered(x: da.Array) -> tuple[Expr, Known] | None:
    """Return what a selection that Dask made was found to be, the last time; its tasks need not run again."""
    below = _below(x)
    if below is None:
        return None
    with _REMEMBERING:
        return below[0].known.selections.get(x.name)


def remember(layer: ExprLayer, name: str, expr: Expr, known: Known) -> tuple[Expr, Known]:
    """Keep what a selection was found to be, so that what passes teach of it is known the next time."""
    with _REMEMBERING:
        kept = layer.known.selections
        kept.setdefault(name, (expr, known))
        while len(kept) > _N_SELECTIONS:
            kept.popitem(last=False)
        return kept.get(name, (expr, known))
