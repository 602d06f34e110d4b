"""Lazy matrices below each other: one source made of many, each of which stays where it is.

A part is a whole expression: its own source, picked rows and steps. Its last steps bring it to the columns, type and
form of the result, so that a block of the result is one block of a part, or a stack of a few. What a task needs of the
parts (`PartRows`) travels with the task; what all tasks share (`PartPlans`) holds no row of anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.base import tokenize

from sc_dask.array.blocks import RowBlocks, from_source
from sc_dask.array.chunks import cut_dense, default_block_bytes
from sc_dask.array.expr import BlockArgs, BlockPlan, Expr, Step, column_selection, evaluate
from sc_dask.array.layer import ForeignSource, Known
from sc_dask.array.source import METER, Block, BlockSource, MemorySource
from sc_dask.array.types import cast_step, csr_step
from sc_dask.errors import InputError
from sc_dask.kernels.concat import as_csr, stack


@dataclass(frozen=True, eq=False)
class PartRows:
    """Rows of one part that a task stacks: which part, how they are made, and the rows themselves if in memory."""

    part: int
    args: BlockArgs
    block: Block | None


@dataclass(frozen=True, eq=False)
class PartPlans(BlockSource):
    """What all tasks share of the parts."""

    plans: tuple[BlockPlan, ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    is_sparse: bool
    token: str

    def join(self, payload: Sequence[PartRows]) -> Block:
        blocks = [evaluate(self.plans[p.part], p.args, p.block) for p in payload]
        return stack(blocks, self.shape[1], self.dtype, is_sparse=self.is_sparse)

    def read(self, start: int, stop: int) -> Block:
        raise ValueError("parts are made of pieces, not by row numbers")


@dataclass(frozen=True, eq=False)
class ConcatSource(BlockSource):
    """Rows of many lazy matrices below each other; ``starts`` (int64, n_parts + 1) says where each begins."""

    parts: tuple[Expr, ...]
    starts: np.ndarray
    token: str

    @classmethod
    def of(cls, parts: Sequence[Expr]) -> ConcatSource:
        """Stack parts of equal columns, type and form."""
        starts = np.cumsum([0, *(p.shape[0] for p in parts)], dtype=np.int64)
        return cls(tuple(parts), starts, f"concat-{tokenize([p.token() for p in parts])}")

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.starts[-1]), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.parts[0].dtype

    @property
    def is_sparse(self) -> bool:
        return self.parts[0].is_sparse

    @property
    def n_source_rows(self) -> int:
        """Rows of all that stands behind, picked or not: what a whole pass reads."""
        return sum(p.n_source_rows for p in self.parts)

    def behind(self) -> Sequence[Expr]:
        return self.parts

    def shared(self) -> PartPlans:
        """Return what all tasks share, to which `payload` adds what one of them needs."""
        plans = tuple(BlockPlan(None, p.plan().kernels) if in_memory(p) else p.plan() for p in self.parts)
        return PartPlans(plans, self.shape, self.dtype, self.is_sparse, self.token)

    def payload(self, start: int, stop: int) -> tuple[PartRows, ...]:
        """Return what the task of rows ``start:stop`` takes along. Rows in memory are looked at, not copied."""
        pieces = []
        first = max(int(np.searchsorted(self.starts, start, side="right")) - 1, 0)
        for i in range(first, len(self.parts)):
            begin, end = int(self.starts[i]), int(self.starts[i + 1])
            if begin >= stop:
                break
            lo, hi = max(start, begin) - begin, min(stop, end) - begin
            if lo < hi:
                args = self.parts[i].args(lo, hi)
                source = self.parts[i].source
                rows = source.read(args.start, args.stop) if isinstance(source, MemorySource) else None
                pieces.append(PartRows(i, args, rows))
        return tuple(pieces)

    def read(self, start: int, stop: int) -> Block:
        return self.shared().join(self.payload(start, stop))


def in_memory(expr: Expr) -> bool:
    """Tell whether the rows behind a lazy matrix are in memory."""
    return isinstance(expr.source, MemorySource)


def sources(expr: Expr) -> Iterator[BlockSource]:
    """Yield the sources that stand behind a lazy matrix: its own, or those of its parts."""
    parts = expr.source.behind()
    for part in parts:
        yield from sources(part)
    if not parts:
        yield expr.source


# -- making parts alike --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Part:
    """One matrix to stack: a lazy one, or None with a number of rows where there is nothing but ``fill``.

    ``cols`` says for every column of the result which of the part's it is, -1 where it has none; None: the same.
    """

    x: RowBlocks | None
    n_obs: int
    cols: np.ndarray | None = None


@dataclass(frozen=True)
class NothingSource(BlockSource):
    """Rows that no part holds: no columns, to which a pick of columns adds filled ones."""

    n_obs: int
    is_sparse: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_obs, 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    @property
    def token(self) -> str:
        return f"nothing-{self.n_obs}-{self.is_sparse}"

    def read(self, start: int, stop: int) -> Block:
        METER.add(rows=stop - start)
        empty = np.zeros((stop - start, 0))
        return as_csr(empty) if self.is_sparse else empty


def concat(parts: Sequence[Part], n_vars: int, *, fill: float | None = None) -> RowBlocks:
    """Stack lazy matrices; nothing is read.

    Parameters
    ----------
    parts
        What to stack, at least one of them a matrix.
    n_vars
        Columns of the result.
    fill
        What stands where a part has no such column; None: 0 if any part is sparse, else NaN.

    Returns
    -------
    A lazy matrix whose blocks are those of the parts: csr if any part is, of the type that numpy promotes to. Sums and
    numbers of genes of cells that every part knows are known of the result where they stay exact.

    Raises
    ------
    InputError
        A part is a Dask graph made elsewhere.
    """
    for i, p in enumerate(parts):
        if p.x is not None and isinstance(p.x.expression.source, ForeignSource):
            raise InputError(
                f"matrix {i} of the concatenation is a Dask graph made elsewhere, whose rows cannot be read alone",
                "a matrix in memory or an X from sd.read",
                f'sd.write(adatas[{i}], "part{i}.zarr") and concatenate the path',
            )
    is_sparse = any(p.x is not None and p.x.expression.is_sparse for p in parts)
    fill = (0 if is_sparse else np.nan) if fill is None else fill
    steps = _Steps()
    exprs = [_placed(p, n_vars, fill, is_sparse, steps) for p in parts]
    dtype = np.dtype(np.result_type(*(e.dtype for e in exprs)))
    alike = [e if e.dtype == dtype else e.then(steps.cast(e, dtype)) for e in exprs]
    source = ConcatSource.of(alike)
    bounds = np.concatenate([[0], *(s + e.bounds[1:] for s, e in zip(source.starts, alike, strict=False))])
    return from_source(source, np.unique(bounds), _known(parts, fill))


class _Steps:
    """Steps that parts share: tables of columns are large, and there may be many files with the same genes."""

    def __init__(self) -> None:
        self._made: dict[Any, Step] = {}

    def columns(self, expr: Expr, cols: np.ndarray, dtype: np.dtype[Any], fill: float | None) -> Step:
        """Put columns at their places."""
        n_below, is_sparse = expr.shape[1], expr.is_sparse
        key = (cols.tobytes(), n_below, dtype, is_sparse, fill)
        if key not in self._made:
            self._made[key] = column_selection(cols, n_below, dtype, is_sparse, fill)
        return self._made[key]

    def cast(self, expr: Expr, dtype: np.dtype[Any]) -> Step:
        """Change the type of values."""
        key = (expr.shape[1], expr.is_sparse, dtype)
        if key not in self._made:
            self._made[key] = cast_step(expr, dtype)
        return self._made[key]


def _placed(part: Part, n_vars: int, fill: float, is_sparse: bool, steps: _Steps) -> Expr:
    """Return a part with the result's columns and form; nothing is done to one that has them already."""
    cols: np.ndarray | None
    if part.x is None:
        expr, cols = _nothing(part.n_obs, n_vars, is_sparse), np.full(n_vars, -1)
    else:
        expr, cols = part.x.expression, part.cols
    if is_sparse and not expr.is_sparse:
        expr = expr.then(csr_step(expr))
    if cols is None:
        return expr
    if expr.shape[1] == 0 or (cols < 0).any():
        return expr.then(steps.columns(expr, cols, _filled_type(expr, fill), fill))
    if expr.steps:
        return expr.select_columns(cols)
    return expr.then(steps.columns(expr, cols, expr.dtype, None))


def _filled_type(expr: Expr, fill: float) -> np.dtype[Any]:
    """Return the type of a matrix to which columns are added: its own where that can hold ``fill``.

    anndata before 0.13 gives dense matrices the same type; 0.13 makes float64 and int64 of all, whose values are equal.
    """
    of_fill = np.asarray(fill).dtype
    if expr.shape[1] == 0:
        return np.dtype(np.float64) if expr.is_sparse and fill == 0 else of_fill
    if expr.is_sparse:
        return expr.dtype if fill == 0 else np.promote_types(expr.dtype, of_fill)
    return holding(expr.dtype, fill)


def holding(dtype: np.dtype[Any], fill: float) -> np.dtype[Any]:
    """Return the smallest type, from ``dtype`` on, for its values and ``fill``; a fraction among integers: float64."""
    if dtype.kind == "f":
        return np.result_type(dtype, float(fill))
    if not float(fill).is_integer():
        return np.dtype(np.float64)
    if dtype.kind in "iu" and np.iinfo(dtype).min <= fill <= np.iinfo(dtype).max:
        return dtype
    return np.result_type(dtype, np.min_scalar_type(int(fill)))


def _nothing(n_obs: int, n_vars: int, is_sparse: bool) -> Expr:
    bounds = cut_dense(n_obs, 1 if is_sparse else n_vars, 8, default_block_bytes())
    return Expr(NothingSource(n_obs, is_sparse), bounds)


def _known(parts: Sequence[Part], fill: float) -> Known:
    """Return what is known of all rows and stays exact: sums where values are added up in the same order."""
    rows: dict[str, np.ndarray] = {}
    for key in ("n_genes", "totals"):
        known = [p.x.known.rows[key] for p in parts if p.x is not None and key in p.x.known.rows]
        if key == "n_genes" and any(p.x is not None and "n_positive" in p.x.known.rows for p in parts):
            continue  # these would be missing of the other parts
        if len(known) == len(parts) and all(_keeps(p, fill, in_order=key == "totals") for p in parts):
            rows[key] = np.concatenate(known)
    return Known(rows=rows)


def _keeps(part: Part, fill: float, *, in_order: bool) -> bool:
    """Tell whether a part keeps all its columns, gets none but zeros, and (``in_order``) keeps their order."""
    if part.x is None or part.cols is None:
        return part.x is not None
    kept = part.cols[part.cols >= 0]
    if len(kept) < part.x.shape[1] or (len(kept) < len(part.cols) and fill != 0):
        return False
    return not in_order or part.x.dtype.kind in "iub" or bool((np.diff(kept) > 0).all())
