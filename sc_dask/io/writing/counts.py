"""What must be known of a matrix before it is written: the stored values of each row, and the smallest exact type.

Both are had without a pass where that is possible. Rows: from the indptr of a stored matrix, as long as rows were
picked and values changed only; from what is known; where columns were picked, from column numbers alone. Type: from a
sample, which can only be too narrow for the rest. The writer checks every block against what was taken for known, and
has all of it counted where it was not so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from sc_dask.array.blocks import RowBlocks, each_block
from sc_dask.array.concat import ConcatSource
from sc_dask.array.engine import run
from sc_dask.array.expr import ColumnSelection, Expr
from sc_dask.array.source import METER, Block
from sc_dask.kernels.csr import kept_per_row, nnz_per_row

SAMPLE_VALUES = 128 << 10  # of each place
SAMPLE_PLACES = 8


@dataclass(frozen=True)
class Counts:
    """What a pass over a matrix has counted."""

    row_nnz: np.ndarray  # int64 of n_obs: stored values a row; of a dense matrix, those that are not 0
    lo: float | int
    hi: float | int
    whole: bool  # every value is an integer


@dataclass(frozen=True)
class Forecast:
    """What a matrix is taken to be when it is written."""

    dtype: np.dtype[Any]  # on disk
    row_nnz: np.ndarray | None  # None for a dense matrix


def count_block(block: Block, index: int = 0) -> Counts:
    """Count stored values per row of one block and look at the values."""
    values = block.data if sp.issparse(block) else block
    if not values.size:
        return Counts(nnz_per_row(block), 0, 0, True)
    return Counts(nnz_per_row(block), values.min().item(), values.max().item(), whole_numbers(values))


def merged(parts: list[Counts]) -> Counts:
    """Join what was counted of consecutive rows."""
    row_nnz = np.concatenate([p.row_nnz for p in parts])
    return Counts(row_nnz, min(p.lo for p in parts), max(p.hi for p in parts), all(p.whole for p in parts))


def count(x: RowBlocks) -> Counts:
    """Count stored values per row and look at the values. Passes: 1."""
    return merged(run.compute(each_block(count_block, x), label="count"))


def whole_numbers(values: np.ndarray) -> bool:
    """Return whether all values are integers that int64 holds exactly."""
    if values.dtype.kind in "iub":
        return True
    return bool(np.all(np.abs(values) < 2.0**63)) and bool(np.all(values == np.trunc(values)))


def narrowest(counts: Counts, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the smallest integer type that holds all values exactly (unsigned first), or ``dtype`` when none does."""
    if not counts.whole or dtype.kind not in "iuf":
        return dtype
    kinds = ("uint8", "uint16", "uint32", "uint64") if counts.lo >= 0 else ("int8", "int16", "int32", "int64")
    for kind in kinds:
        limits = np.iinfo(kind)
        if limits.min <= counts.lo and counts.hi <= limits.max:
            return np.dtype(kind)
    return dtype


def known_row_nnz(x: RowBlocks) -> np.ndarray | None:
    """Return the stored values per row where no pass is needed to know them, else None.

    They may be too many where stored rows hold a column twice, and too few where zeros are stored; never both, so that
    the sum over a block tells.
    """
    if not x.expression.is_sparse:
        return None
    found = _stored_row_nnz(x.expression)
    return x.known.rows.get("n_genes") if found is None else found


def _stored_row_nnz(expr: Expr) -> np.ndarray | None:
    source = expr.source
    if not source.is_sparse or not all(step.keeps_row_nnz for step in expr.steps):
        return None
    row_nnz = source.row_nnz()
    if isinstance(source, ConcatSource):
        parts = [_stored_row_nnz(part) for part in source.parts]
        known = [p for p in parts if p is not None]
        row_nnz = np.concatenate(known) if len(known) == len(parts) else None
    return row_nnz if row_nnz is None or expr.rows is None else row_nnz[expr.rows]


def kept_row_nnz(x: RowBlocks) -> np.ndarray | None:
    """Return the stored values per row of a stored csr whose columns were picked, else None.

    Reads the column numbers and no values: half a pass.
    """
    source = x.expression.source
    kept = _columns_kept(x.expression)
    if kept is None or not source.reads_columns:
        return None
    bounds = x.expression.bounds.tolist()
    items = [
        (a.start, a.stop, a.rows)
        for a in (x.expression.args(i, j) for i, j in zip(bounds[:-1], bounds[1:], strict=True))
    ]
    parts = run.map_tasks(_count_kept, items, shared=(source, kept), label="count", n_rows=x.expression.n_source_rows)
    return np.concatenate(parts)


def _count_kept(item: tuple[int, int, np.ndarray | None], shared: tuple[Any, np.ndarray]) -> np.ndarray:
    (start, stop, rows), (source, kept) = item, shared
    indptr, indices = source.columns(start, stop)
    METER.add(rows=(stop - start + 1) // 2)
    row_nnz = kept_per_row(indices, indptr, kept)
    return row_nnz if rows is None else row_nnz[rows]


def _columns_kept(expr: Expr) -> np.ndarray | None:
    """Return a mask of the stored columns that are left; None where the steps do more than pick and change values."""
    places = np.arange(expr.source.shape[1])  # of the stored columns, in what the steps before have left
    for step in expr.steps:
        if step.keeps_row_nnz:
            continue
        lookup = step.const.get("lookup") if isinstance(step, ColumnSelection) and step.fill == 0 else None
        if lookup is None:
            return None
        places = np.where(places >= 0, lookup[places], -1)
    kept: np.ndarray = places >= 0
    return kept


def forecast(x: RowBlocks, *, narrow: bool, fractions: np.dtype[Any]) -> Forecast:
    """Say what X will be on disk, by a pass where nothing cheaper tells.

    Parameters
    ----------
    x
        n_obs x n_vars.
    narrow
        Whole numbers are stored in the smallest exact integer type.
    fractions
        The type of all others, with ``narrow``; else the type is kept.

    Passes: 1, or a half where columns were picked, or the share of a sample where the rows are known, or none.
    """
    row_nnz = known_row_nnz(x)
    known = getattr(x.expression.source, "counts", None)
    if isinstance(known, Counts) and x.expression.is_as_stored:  # an X that was spilled
        return _of_counts(known, x, narrow, fractions)
    if x.expression.is_sparse and row_nnz is None:
        row_nnz = kept_row_nnz(x)
    if x.expression.is_sparse and row_nnz is None:
        return counted(x, narrow=narrow, fractions=fractions)
    dtype = _sampled_type(x, row_nnz, fractions) if narrow else x.dtype
    return Forecast(dtype, row_nnz) if dtype is not None else counted(x, narrow=narrow, fractions=fractions)


def counted(x: RowBlocks, *, narrow: bool, fractions: np.dtype[Any]) -> Forecast:
    """Say what X will be on disk, having read all of it. Passes: 1."""
    return _of_counts(count(x), x, narrow, fractions)


def _of_counts(counts: Counts, x: RowBlocks, narrow: bool, fractions: np.dtype[Any]) -> Forecast:
    dtype = x.dtype if not narrow else narrowest(counts, x.dtype) if counts.whole else fractions
    return Forecast(dtype, counts.row_nnz if x.expression.is_sparse else None)


def _sampled_type(x: RowBlocks, row_nnz: np.ndarray | None, fractions: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the type on disk if a sample tells: fractions, or whole numbers far from the type's limits."""
    ends = np.arange(1, x.shape[0] + 1) * x.shape[1] if row_nnz is None else np.cumsum(row_nnz)
    total = int(ends[-1]) if len(ends) else 0
    if total <= SAMPLE_PLACES * SAMPLE_VALUES:
        return None
    parts = []
    for first in range(0, total, -(-total // SAMPLE_PLACES)):
        start = int(np.searchsorted(ends, first, side="right"))
        stop = int(np.searchsorted(ends, first + SAMPLE_VALUES, side="left")) + 1
        parts.append(count_block(x.evaluator().evaluate(start, min(stop, x.shape[0]))))
    counts = merged(parts)
    if not counts.whole:
        return fractions
    found = narrowest(counts, x.dtype)
    if found == x.dtype:
        return found
    if found.itemsize > 4:
        return None
    limits = np.iinfo(found)
    has_room = 4 * counts.hi <= limits.max and 4 * counts.lo >= limits.min
    return found if has_room else None


def cast_exactly(values: np.ndarray, out: np.ndarray) -> bool:
    """Fill ``out``, integers of at most 32 bits or as wide as the values, and return whether it holds the same."""
    with np.errstate(invalid="ignore"):
        np.copyto(out, values, casting="unsafe")
    return bool(np.array_equal(out, values))
