"""Lazy matrices beside each other: the same cells, the genes of one after those of the other; nothing is read.

As in `sc_dask.array.concat` a part is a whole expression, and what a task needs of the parts travels with it. A part
may lack some of the cells: their values are filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.base import tokenize

from sc_dask.array.blocks import RowBlocks, from_array, from_source
from sc_dask.array.chunks import cut_dense, default_block_bytes
from sc_dask.array.concat import holding, in_memory
from sc_dask.array.expr import BlockArgs, BlockPlan, Expr, evaluate
from sc_dask.array.layer import ForeignSource
from sc_dask.array.source import Block, BlockSource, MemorySource
from sc_dask.array.types import as_sparse, as_type
from sc_dask.errors import InputError
from sc_dask.kernels.concat import beside, spread


@dataclass(frozen=True, eq=False)
class Strip:
    """Rows of one part in a block: how they are made, the rows themselves if in memory, and where they belong.

    ``args`` is None where the part has none of the block's rows; ``at`` None where it has all.
    """

    args: BlockArgs | None
    block: Block | None
    at: np.ndarray | None
    n_rows: int


@dataclass(frozen=True, eq=False)
class StripPlans(BlockSource):
    """What all tasks share of the parts."""

    plans: tuple[BlockPlan, ...]
    widths: tuple[int, ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    is_sparse: bool
    token: str
    fill: float

    def join(self, payload: Sequence[Strip]) -> Block:
        blocks = []
        for plan, width, strip in zip(self.plans, self.widths, payload, strict=True):
            made = None if strip.args is None else evaluate(plan, strip.args, strip.block)
            if made is None or strip.at is not None:
                made = spread(made, strip.at, strip.n_rows, width, self.fill, self.dtype, is_sparse=self.is_sparse)
            blocks.append(made)
        return beside(blocks, self.dtype, is_sparse=self.is_sparse)

    def read(self, start: int, stop: int) -> Block:
        raise ValueError("parts are made of strips, not by row numbers")


@dataclass(frozen=True, eq=False)
class BesideSource(BlockSource):
    """Genes of many lazy matrices beside each other.

    ``rows[i]`` (int64, n_obs) says for each cell which row of part ``i`` it is, -1 where it has none; the others
    increase by one. None: the same rows.
    """

    parts: tuple[Expr, ...]
    rows: tuple[np.ndarray | None, ...]
    fill: float
    dtype: np.dtype[Any]
    token: str

    @property
    def shape(self) -> tuple[int, int]:
        first = self.rows[0]
        n_obs = self.parts[0].shape[0] if first is None else len(first)
        return n_obs, sum(p.shape[1] for p in self.parts)

    @property
    def is_sparse(self) -> bool:
        return self.parts[0].is_sparse

    @property
    def n_source_rows(self) -> int:
        """Rows of all that stands behind: what a whole pass reads."""
        return sum(p.n_source_rows for p in self.parts)

    def behind(self) -> Sequence[Expr]:
        return self.parts

    def shared(self) -> StripPlans:
        """Return what all tasks share, to which `payload` adds what one of them needs."""
        plans = tuple(BlockPlan(None, p.plan().kernels) if in_memory(p) else p.plan() for p in self.parts)
        widths = tuple(p.shape[1] for p in self.parts)
        return StripPlans(plans, widths, self.shape, self.dtype, self.is_sparse, self.token, self.fill)

    def payload(self, start: int, stop: int) -> tuple[Strip, ...]:
        """Return what the task of rows ``start:stop`` takes along. Rows in memory are looked at, not copied."""
        return tuple(self._strip(i, start, stop) for i in range(len(self.parts)))

    def _strip(self, i: int, start: int, stop: int) -> Strip:
        part, rows, at = self.parts[i], self.rows[i], None
        lo, hi = start, stop
        if rows is not None:
            of_block = rows[start:stop]
            there = np.flatnonzero(of_block >= 0)
            if not len(there):
                return Strip(None, None, None, stop - start)
            lo, hi = int(of_block[there[0]]), int(of_block[there[-1]]) + 1
            at = None if len(there) == stop - start else there
        args = part.args(lo, hi)
        block = part.source.read(args.start, args.stop) if in_memory(part) else None
        return Strip(args, block, at, stop - start)

    def read(self, start: int, stop: int) -> Block:
        return self.shared().join(self.payload(start, stop))


@dataclass(frozen=True, eq=False)
class Part:
    """One matrix: a lazy one, or None with a number of columns where there is nothing but fill.

    ``rows`` says for every row of the result which of the part's it is, -1 where it has none; None: the same.
    """

    x: RowBlocks | None
    n_vars: int
    rows: np.ndarray | None = None


def concat(parts: Sequence[Part], n_obs: int, *, fill: float | None = None) -> RowBlocks:
    """Put lazy matrices beside each other; nothing is read.

    Parameters
    ----------
    parts
        At least one of them a matrix. Rows of a part that come in another order are brought together in memory, if the
        part is in memory.
    n_obs
        Rows of the result.
    fill
        What stands where a part has no such row; None: 0 if any part is sparse, else NaN.

    Returns
    -------
    A lazy matrix with blocks as fine as those of the part that is cut finest: csr if any part is, of the type that
    numpy promotes to.

    Raises
    ------
    InputError
        A part is a Dask graph made elsewhere, or a lazy one has its rows in another order.
    """
    is_sparse = any(p.x is not None and p.x.expression.is_sparse for p in parts)
    missing = any(p.x is None or (p.rows is not None and (p.rows < 0).any()) for p in parts)
    value = (0.0 if is_sparse else np.nan) if fill is None else float(fill)
    ordered = [_ordered(p, i) for i, p in enumerate(parts)]
    dtypes = [p.x.dtype for p in ordered if p.x is not None]
    if missing and not (is_sparse and value == 0):
        dtypes = [holding(d, value) for d in dtypes]
    dtype = np.dtype(np.result_type(*dtypes))
    exprs = []
    for p in ordered:
        x = _nothing(p.n_vars, dtype) if p.x is None else p.x
        exprs.append(as_type(as_sparse(x) if is_sparse else x, dtype).expression)
    rows = [np.full(n_obs, -1) if p.x is None else p.rows for p in ordered]
    kept = [None if r is None else np.asarray(r, np.int64) for r in rows]
    token = f"beside-{tokenize([e.token() for e in exprs], kept, value)}"
    source = BesideSource(tuple(exprs), tuple(kept), value, dtype, token)
    return from_source(source, _bounds(exprs, kept, n_obs))


def _nothing(n_vars: int, dtype: np.dtype[Any]) -> RowBlocks:
    source = MemorySource(np.zeros((0, n_vars), dtype), f"no-rows-{n_vars}-{dtype}")
    return from_source(source, np.zeros(2, np.int64))


def _ordered(part: Part, i: int) -> Part:
    """Return a part whose rows, where it has them, follow each other."""
    if part.x is None or part.rows is None:
        return part
    x = part.x
    if isinstance(x.expression.source, ForeignSource):
        raise InputError(
            f"matrix {i} of the concatenation is a Dask graph made elsewhere, whose rows cannot be read alone",
            "a matrix in memory or an X from sd.read",
            f'sd.write(adatas[{i}], "part{i}.zarr") and concatenate the path',
        )
    there = part.rows[part.rows >= 0]
    if (np.diff(there) <= 0).any():
        if not (in_memory(x.expression) and not x.expression.steps):
            raise InputError(
                f"the cells of adatas[{i}] come in another order than those of the result",
                "cells in one order: those of a file are read from its beginning to its end",
                f"sd.write(adatas[{i}][order], path) and concatenate the path; join='outer' sorts names as "
                "obs_names.sort_values(), 'inner' keeps the order of adatas[0]",
            )
        return Part(_reordered(x, there), part.n_vars, _numbered(part.rows))
    return Part(x.select_rows(there), part.n_vars, _numbered(part.rows))


def _reordered(x: RowBlocks, rows: np.ndarray) -> RowBlocks:
    source = x.expression.source
    assert isinstance(source, MemorySource)
    whole = source.x if x.expression.rows is None else source.x[x.expression.rows]
    return from_array(whole[rows])


def _numbered(rows: np.ndarray) -> np.ndarray | None:
    """Return where each row stands among those that are there, -1 where it is not; None if all are."""
    there = rows >= 0
    return None if there.all() else np.where(there, np.cumsum(there) - 1, -1)


def _bounds(exprs: Sequence[Expr], rows: Sequence[np.ndarray | None], n_obs: int) -> np.ndarray:
    """Return the row bounds of the part that is cut finest, as rows of the result."""
    found = [cut_dense(n_obs, 1, 8, default_block_bytes())]
    for expr, of_part in zip(exprs, rows, strict=True):
        bounds = expr.bounds
        if of_part is not None:
            there = np.flatnonzero(of_part >= 0)
            inner = bounds[(bounds > 0) & (bounds < len(there))]
            bounds = np.concatenate([[0], there[inner], [n_obs]])
        found.append(np.unique(bounds).astype(np.int64))
    finest = max(found, key=len)
    return finest if len(finest) > 1 else np.array([0, n_obs], np.int64)
