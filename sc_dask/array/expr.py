"""What stands behind a lazy X: a source, the rows that were picked, and the steps that each block goes through.

Everything here is plain data. ``blocks`` gives it the shape of a Dask array, ``run`` executes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from dask.base import tokenize

from sc_dask.array.chunks import cut_finer, default_block_bytes
from sc_dask.array.source import METER, Block, BlockSource
from sc_dask.errors import InputError
from sc_dask.kernels.concat import place_cols, place_lookup
from sc_dask.kernels.csr import col_lookup, take_cols, take_rows

Vector = np.ndarray


class RowVector:
    """One number (or row of numbers) per row of X that a step needs; it may become known only while X is read.

    Parameters
    ----------
    values
        The numbers, rows along the first axis, or None when they are not known yet.
    kernel
        ``kernel(block, **const) -> (n_rows,)``: how a step takes them from its own input block
        when they are not known. A pass that had to do so keeps what it found here. Values that are given with a kernel
        are what it gives.
    name
        See `token`; None: as is told there.
    """

    def __init__(
        self,
        values: Vector | None,
        kernel: Callable[..., Vector] | None = None,
        const: Mapping[str, Any] | None = None,
        parent: tuple[RowVector, np.ndarray | slice] | None = None,
        name: str | None = None,
    ) -> None:
        if values is None and kernel is None:
            raise ValueError("a row vector needs its values or a kernel")
        self._values, self.kernel, self.const, self._parent = values, kernel, dict(const or {}), parent
        self._name = name

    @property
    def token(self) -> str:
        """A name of all that decides the numbers, whether they are known yet or not.

        Numbers without a kernel are named by a digest of them. Numbers that a kernel takes from the block that enters
        their step are named by the kernel; where the step is moved to another place in the chain, `moved` says so.
        """
        if self._name is None:
            if self.kernel is None:
                self._name = f"values-{tokenize(self.values)}"
            else:
                self._name = f"taken-{named(self.kernel, self.const)}"
        return self._name

    def moved(self, context: Sequence[str]) -> RowVector:
        """Return the vector for a step that goes elsewhere; ``context``: the names of the steps it had before it."""
        if self.kernel is None or self.token.startswith("moved-"):
            return self
        name = f"moved-{tokenize(self.token, list(context))}"
        if self.values is not None:
            return RowVector(self.values, self.kernel, self.const, name=name)
        return RowVector(None, self.kernel, self.const, parent=(self, slice(None)), name=name)

    @property
    def values(self) -> Vector | None:
        """The numbers, or None when no pass has found them yet."""
        if self._values is None and self._parent is not None:
            above = self._parent[0].values
            if above is not None:
                self._values, self._parent = above[self._parent[1]], None
        return self._values

    def found(self, values: Vector) -> None:
        """Keep what a whole pass found."""
        self._values, self._parent = values, None

    def follow(self, other: RowVector) -> None:
        """Take the numbers of another vector of the same rows as soon as a pass finds them."""
        self._parent = (other, slice(None))

    def pick(self, rows: np.ndarray) -> RowVector:
        """Return the vector for picked rows (positions)."""
        values, name = self.values, None if self.kernel is None else self.token
        if values is not None:
            return RowVector(values[rows], self.kernel, self.const, name=name)
        return RowVector(None, self.kernel, self.const, parent=(self, rows), name=name)


Role = Literal["", "scaling", "logarithm", "logarithm of scaled", "correction"]


def named(kernel: Callable[..., Any], const: Mapping[str, Any]) -> str:
    """Return a name of a kernel with its constants."""
    code = f"{kernel.__module__}.{kernel.__qualname__}" if "<" not in kernel.__qualname__ else tokenize(kernel)
    return tokenize(code, dict(const))


@dataclass(frozen=True, eq=False)
class Step:
    """One thing done to every block: ``kernel(block, *row_vectors, **const) -> block`` with the same rows.

    ``columnwise`` says that each value of the result depends on its own column alone, given the
    row vectors, so that a choice of columns may be made before instead of after. ``by_col`` names the constants that
    hold a value per column (along their last axis), of which such a choice takes its own. ``keeps_pattern`` says that
    the result of a csr block has the same ``indices`` and ``indptr``. ``role`` says what the step is for those that
    can do it in a better way of their own.
    """

    kernel: Callable[..., Block]
    token: str
    dtype: np.dtype[Any]
    n_vars: int
    is_sparse: bool
    rows: tuple[RowVector, ...] = ()
    const: Mapping[str, Any] = field(default_factory=dict)
    columnwise: bool = False
    keeps_pattern: bool = False
    by_col: tuple[str, ...] = ()
    role: Role = ""

    @property
    def name(self) -> str:
        """A name of all that decides what the step makes of a block."""
        return tokenize(self.token, self.dtype.str, self.n_vars, self.is_sparse, [r.token for r in self.rows])

    def moved(self, context: Sequence[str]) -> Step:
        """Return the step for another place in the chain, with the row vectors it has; see `RowVector.moved`."""
        return replace(self, rows=tuple(r.moved(context) for r in self.rows)) if self.rows else self

    def of_columns(self, cols: np.ndarray) -> Step:
        """Return the same step for some of its columns, which are picked before it."""
        const = {**self.const, **{name: np.take(self.const[name], cols, axis=-1) for name in self.by_col}}
        return replace(self, n_vars=len(cols), const=const)

    @property
    def lets_columns_pass(self) -> bool:
        """True when a choice of columns may move before this step without changing the result."""
        return self.columnwise and all(r.values is not None for r in self.rows)

    @property
    def keeps_row_nnz(self) -> bool:
        """True when a row of a csr block has as many stored values afterwards as before."""
        return self.keeps_pattern


@dataclass(frozen=True, eq=False)
class ColumnSelection(Step):
    """The step that keeps some columns, in a given order; -1 stands for a new column of ``fill``."""

    cols: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    fill: float = 0

    @property
    def keeps_row_nnz(self) -> bool:
        """True when every column is kept and none is filled."""
        lookup = self.const["lookup"]
        return self.fill == 0 and lookup is not None and bool((lookup >= 0).all())

    def picked(self, cols: np.ndarray, n_below: int) -> ColumnSelection:
        """Return the step that does this pick of ``n_below`` columns and then another."""
        fill = self.fill if self.kernel is place_cols else None
        return column_selection(self.cols[cols], n_below, self.dtype, self.is_sparse, fill)


def _pick_columns(block: Block, *, lookup: np.ndarray | None, cols: np.ndarray) -> Block:
    if lookup is None:  # a column asked for twice: scipy and numpy know how
        out = block[:, cols]
        return np.ascontiguousarray(out) if isinstance(out, np.ndarray) else out
    return take_cols(block, lookup, len(cols))


def column_selection(
    cols: np.ndarray, n_vars: int, dtype: np.dtype[Any], is_sparse: bool, fill: float | None = None
) -> ColumnSelection:
    """Return the step that keeps ``cols`` (positions) of ``n_vars`` columns.

    With ``fill``, -1 among ``cols`` is a new column of that value, and values become ``dtype``.
    """
    if fill is None:
        const = {"lookup": col_lookup(cols, n_vars), "cols": cols}
        return ColumnSelection(
            _pick_columns, f"cols-{tokenize(cols)}", dtype, len(cols), is_sparse, const=const, cols=cols
        )
    lookup = place_lookup(cols, n_vars)
    filled: dict[str, Any] = {"lookup": lookup, "cols": cols, "fill": fill, "dtype": dtype}
    token = f"cols-{tokenize(cols, fill, dtype.str)}"
    return ColumnSelection(place_cols, token, dtype, len(cols), is_sparse, const=filled, cols=cols, fill=fill)


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """What all tasks of a pass share: the source and the chain of kernels, without any per-row data."""

    source: BlockSource | None
    kernels: tuple[tuple[Callable[..., Block], dict[str, Any], tuple[tuple[Any, dict[str, Any]], ...]], ...]


@dataclass(frozen=True, eq=False)
class BlockArgs:
    """What one task needs besides the plan: source rows, which of them stay, and its slice of each row vector.

    ``payload`` is what a source made of others (`sc_dask.array.concat`) has its task take along.
    """

    start: int
    stop: int
    rows: np.ndarray | None
    vectors: tuple[tuple[np.ndarray | None, ...], ...]
    payload: Any = None


Found = dict[tuple[int, int], Vector]  # row vectors that had to be taken from a block, by (step, position)


def evaluate(plan: BlockPlan, args: BlockArgs, block: Block | None = None) -> Block:
    """Read one block and run it through all steps."""
    n = len(plan.kernels)
    return run_steps(plan, args, frozenset([n]), read_block(plan, args, block))[0][n][0]


def read_block(plan: BlockPlan, args: BlockArgs, block: Block | None = None) -> Block:
    """Return the rows of the source that stay; ``block``: what a foreign source has read already."""
    if block is None:
        if plan.source is None:
            raise ValueError("a plan without a source needs its block")
        source = plan.source
        block = source.read(args.start, args.stop) if args.payload is None else source.join(args.payload)
    else:
        METER.add(rows=args.stop - args.start)
    return block if args.rows is None else take_rows(block, args.rows)


def run_steps(
    plan: BlockPlan, args: BlockArgs, depths: frozenset[int], block: Block
) -> tuple[dict[int, tuple[Block, tuple[Vector, ...]]], Found]:
    """Run a block through the steps, as far as anybody wants it.

    Returns
    -------
    For each of ``depths`` (numbers of steps done) the block and the row vectors of the step that would follow; and the
    row vectors that had to be taken from the block.
    """
    seen: dict[int, tuple[Block, tuple[Vector, ...]]] = {}
    found: Found = {}
    for i in range(max(depths) + 1):
        vectors: list[Vector] = []
        if i < len(plan.kernels):
            for j, ((row_kernel, const), v) in enumerate(zip(plan.kernels[i][2], args.vectors[i], strict=True)):
                if v is None:
                    v = found[i, j] = row_kernel(block, **const)
                vectors.append(v)
        if i in depths:
            seen[i] = block, tuple(vectors)
        if i < max(depths):
            kernel, const, _ = plan.kernels[i]
            block = kernel(block, *vectors, **const)
    return seen, found


@dataclass(frozen=True, eq=False)
class Expr:
    """A lazy matrix: rows ``rows`` of ``source`` (None: all), through ``steps``, cut at ``bounds``.

    ``bounds`` are row numbers of the result: block i holds rows ``bounds[i]:bounds[i + 1]``. Where a step makes sparse
    blocks dense, they are cut finer, so that each stays within the byte budget; ``coarse`` are the bounds without that.
    """

    source: BlockSource
    bounds: np.ndarray
    rows: np.ndarray | None = None
    steps: tuple[Step, ...] = ()
    coarse: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        n_vars = self.steps[-1].n_vars if self.steps else self.source.shape[1]
        return int(self.bounds[-1]), int(n_vars)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.steps[-1].dtype if self.steps else np.dtype(self.source.dtype)

    @property
    def is_sparse(self) -> bool:
        return self.steps[-1].is_sparse if self.steps else self.source.is_sparse

    @property
    def last(self) -> Step | None:
        """The last step; None where there is none."""
        return self.steps[-1] if self.steps else None

    def ends_with(self, role: Role) -> bool:
        """Tell whether the last step has this role."""
        return bool(self.steps) and self.steps[-1].role == role

    @property
    def is_as_stored(self) -> bool:
        """Whether it is the source itself: no rows or columns were selected, no values changed."""
        return not self.steps and self.rows is None

    @property
    def n_blocks(self) -> int:
        return len(self.bounds) - 1

    @property
    def n_source_rows(self) -> int:
        """Rows that stand behind, picked or not: what a whole pass reads."""
        return self.source.n_source_rows

    def most_values(self) -> int:
        """Return how many values there can be at most, stored ones of a sparse matrix; nothing is read."""
        per_row = self.source.row_nnz() if self.source.is_sparse and self.is_sparse else None
        repeats = any(isinstance(s, ColumnSelection) and s.const["lookup"] is None for s in self.steps)
        if per_row is None or repeats:
            return self.shape[0] * self.shape[1]
        return int((per_row if self.rows is None else per_row[self.rows]).sum())

    def token(self) -> str:
        """A digest of all that decides the values, and of where the rows are cut."""
        return tokenize(self.source.token, self.bounds, self.rows, [s.name for s in self.steps])

    def plan(self) -> BlockPlan:
        """Return what all blocks share."""
        kernels = tuple((s.kernel, dict(s.const), tuple((r.kernel, r.const) for r in s.rows)) for s in self.steps)
        return BlockPlan(self.source.shared(), kernels)

    def args(self, start: int, stop: int) -> BlockArgs:
        """Return what the task for rows ``start:stop`` of the result needs."""
        vectors = tuple(tuple(None if (v := r.values) is None else v[start:stop] for r in s.rows) for s in self.steps)
        if self.rows is None or start == stop:
            return BlockArgs(start, stop, None, vectors, self.source.payload(start, stop))
        picked = self.rows[start:stop]
        lo, hi = int(picked[0]), int(picked[-1]) + 1
        lo, hi = self.source.whole_block(lo, hi) or (lo, hi)
        all_once = hi - lo == stop - start and bool((np.diff(picked) == 1).all())
        local = None if all_once else (picked - lo).astype(np.int32)
        return BlockArgs(lo, hi, local, vectors, self.source.payload(lo, hi))

    def select_rows(self, positions: np.ndarray) -> Expr:
        """Keep rows at increasing positions, repeats allowed; blocks stay where they were, empty ones go."""
        source_rows = positions if self.rows is None else self.rows[positions]
        bounds = np.unique(np.searchsorted(positions, self.bounds if self.coarse is None else self.coarse))
        if len(bounds) == 1:  # nothing is left: one empty block keeps the shape
            bounds = np.zeros(2, np.int64)
        steps = tuple(replace(s, rows=tuple(r.pick(positions) for r in s.rows)) if s.rows else s for s in self.steps)
        return Expr(self.source, bounds.astype(np.int64), source_rows, steps)._fitted()

    def select_columns(self, cols: np.ndarray) -> Expr:
        """Keep columns at ``cols``, as early in the chain as gives the same result."""
        at = len(self.steps)
        while at and self.steps[at - 1].lets_columns_pass:
            at -= 1
        before, after = self.steps[:at], self.steps[at:]
        if before and isinstance(before[-1], ColumnSelection):
            last, before = before[-1], before[:-1]
            step = last.picked(cols, replace(self, steps=before).shape[1])
        else:
            below = replace(self, steps=before)
            step = column_selection(cols, below.shape[1], below.dtype, below.is_sparse)
        names = [s.name for s in self.steps] if after else []
        moved = (s.of_columns(cols).moved(names[: at + i]) for i, s in enumerate(after))
        return replace(self, steps=(*before, step, *moved))._fitted()

    def then(self, step: Step) -> Expr:
        """Add a step at the end."""
        return replace(self, steps=(*self.steps, step))._fitted()

    def before(self, n_steps: int) -> Expr:
        """Leave out the last ``n_steps``."""
        steps = self.steps[: len(self.steps) - n_steps]
        return replace(self, steps=steps)._fitted()

    def uncut(self) -> Expr:
        """Undo the finer cut, for who does not make the dense blocks."""
        return self if self.coarse is None else replace(self, bounds=self.coarse, coarse=None)

    def _fitted(self) -> Expr:
        """Cut blocks as fine as their width asks once a step has made them dense; without such a step, as before it."""
        coarse = self.bounds if self.coarse is None else self.coarse
        if self.is_sparse or not self.source.is_sparse or self.source.whole_block(0, 0):  # whole blocks only: as cut
            return self.uncut()
        rows = max(1, default_block_bytes() // max(1, self.shape[1] * self.dtype.itemsize))
        return replace(self, bounds=cut_finer(coarse, rows), coarse=coarse)

    def rebounded(self, bounds: np.ndarray) -> Expr:
        """Cut the same rows at other places."""
        bounds = np.asarray(bounds, np.int64)
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != self.shape[0] or (np.diff(bounds) < 0).any():
            raise InputError(f"row bounds {bounds!r}", f"increasing numbers from 0 to {self.shape[0]}")
        return replace(self, bounds=bounds, coarse=None)
