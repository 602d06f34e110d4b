"""A csc matrix transposed into csr rows outside of memory.

A csc matrix is the csr matrix of its transpose, so any source of the transpose will do. Passes over it:

1. count: the non-zeros of every row, which gives indptr and, by `cut_rows`, the row blocks;
2. split: blocks of columns are read side by side and their non-zeros appended to one bucket file per row block;
3. sort: each bucket becomes the rows of one block, written where they belong in two plain files.

Memory: ``threads x 4 x block_bytes + 24 bytes x n_obs``, but at least four times the largest column.
Disk, in a temporary folder (`sc_dask.work.scratch`): 8 + itemsize bytes a non-zero, and at most
twice that for a moment. The folder goes when the last source that reads it goes, at the latest when
the process that made it ends. Workers on other machines must see it: set ``work-dir`` to a shared
disk, or convert the store.

A matrix that fits into one block is transposed in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from sc_dask import config
from sc_dask.array.chunks import cut_rows, default_block_bytes
from sc_dask.array.source import METER, Block, BlockSource, MemorySource
from sc_dask.errors import StoreError
from sc_dask.kernels.csr import from_parts
from sc_dask.log import current_stage, logger
from sc_dask.work import WorkFolder

INDEX_BYTES = 4


@dataclass(frozen=True)
class SpilledSource(BlockSource):
    """Rows of a csr matrix in three plain files of a folder: ``data``, ``indices`` (int32) and ``indptr`` (int64)."""

    folder: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    token: str
    area: WorkFolder = field(compare=False, repr=False)

    @property
    def is_sparse(self) -> bool:
        return True

    def read(self, start: int, stop: int) -> Block:
        indptr = self._entries("indptr", np.dtype(np.int64), start, stop + 1)
        lo, hi = int(indptr[0]), int(indptr[-1])
        data = self._entries("data", self.dtype, lo, hi)
        indices = self._entries("indices", np.dtype(np.int32), lo, hi)
        METER.add(rows=stop - start, n_bytes=data.nbytes + indices.nbytes + indptr.nbytes)
        return from_parts(data, indices, (indptr - lo).astype(np.int32), self.shape[1])

    def _entries(self, name: str, dtype: np.dtype[Any], start: int, stop: int) -> np.ndarray:
        path = Path(self.folder) / name
        try:
            out = np.fromfile(path, dtype, stop - start, offset=start * dtype.itemsize)
        except FileNotFoundError as err:
            raise StoreError(
                f"the temporary file {path} is gone or is on another machine",
                "a work-dir that every worker sees",
                'set "sc-dask.work-dir" to a shared folder, or run sc-dask convert first',
            ) from err
        if len(out) != stop - start:
            raise StoreError(f"the temporary file {path} ends early", "a whole file", "read the matrix again")
        return out


def transpose(
    source: BlockSource, column_bounds: np.ndarray, block_bytes: int | None = None
) -> tuple[BlockSource, np.ndarray]:
    """Return the rows of a matrix whose columns ``source`` gives as rows.

    Parameters
    ----------
    source
        Sparse, shape (n_vars, n_obs): the csr form of a csc matrix.
    column_bounds
        int64, from 0 to n_vars: the blocks of columns to read, as `cut_rows` makes them of the columns' indptr.
    block_bytes
        Byte budget of one decoded row block (default: the option ``sc-dask.block-bytes``).

    Returns
    -------
    A source of shape (n_obs, n_vars), and its row bounds (int64) within the budget.

    Raises
    ------
    FormatError
        If the stored matrix is damaged.

    Passes: 2 over the stored matrix, 1 when it fits into one block; added to the running stage.
    """
    budget = default_block_bytes() if block_bytes is None else block_bytes
    try:
        if len(column_bounds) == 2:
            return _in_memory(source, budget)
        return _spilled(source, column_bounds, budget)
    finally:
        reading, stage = METER.empty(), current_stage()
        if stage is not None:
            stage.passes += reading.rows / max(source.shape[0], 1)
            stage.bytes_read += reading.n_bytes


def _in_memory(source: BlockSource, budget: int) -> tuple[BlockSource, np.ndarray]:
    n_vars = source.shape[0]
    x = source.read(0, n_vars).T.tocsr()
    block = from_parts(x.data, x.indices.astype(np.int32), x.indptr.astype(np.int32), n_vars)
    bounds = cut_rows(x.indptr.astype(np.int64), budget, INDEX_BYTES + source.dtype.itemsize)
    return MemorySource(block, f"transposed-{source.token}"), bounds


def _spilled(source: BlockSource, column_bounds: np.ndarray, budget: int) -> tuple[BlockSource, np.ndarray]:
    n_vars, n_obs = source.shape
    counts = np.zeros(n_obs, np.int64)
    for part in _side_by_side(lambda a, b: np.bincount(source.read(a, b).indices, minlength=n_obs), column_bounds):
        counts += part
    indptr = np.concatenate([[0], np.cumsum(counts)])
    bounds = cut_rows(indptr, budget, INDEX_BYTES + source.dtype.itemsize)
    logger.info("turning a csc matrix of %d x %d: %d non-zeros, %d buckets", n_obs, n_vars, indptr[-1], len(bounds) - 1)
    area = WorkFolder.make("rows")
    try:
        indptr.tofile(area.path / "indptr")
        buckets = _Buckets(area.path, bounds, source.dtype)
        for _ in _side_by_side(lambda a, b: buckets.split(source.read(a, b), a), column_bounds):
            pass
        for _ in _side_by_side(lambda a, b: buckets.sort(a, b, indptr, n_vars), bounds):
            pass
    except BaseException:
        area.remove()
        raise
    return SpilledSource(str(area.path), (n_obs, n_vars), source.dtype, f"transposed-{source.token}", area), bounds


def _side_by_side(work: Callable[[int, int], Any], bounds: np.ndarray) -> Iterator[Any]:
    """Yield ``work(a, b)`` for neighbouring bounds, on as many threads as are configured, results not piling up."""
    n_threads = config.n_threads()
    pairs = iter(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    with ThreadPoolExecutor(n_threads) as pool:
        running: set[Future[Any]] = set()
        for pair in pairs:
            running.add(pool.submit(work, *pair))
            if len(running) >= n_threads:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (f.result() for f in done)
        yield from (f.result() for f in running)


class _Buckets:
    """The non-zeros of each row block, in the order in which column blocks came."""

    def __init__(self, folder: Path, bounds: np.ndarray, dtype: np.dtype[Any]) -> None:
        self._folder, self._bounds = folder, bounds
        self._record = np.dtype([("row", np.int32), ("col", np.int32), ("value", dtype)])
        self._starts = {int(b): i for i, b in enumerate(bounds[:-1])}
        self._locks = [threading.Lock() for _ in bounds[:-1]]
        self._value = dtype
        for name in ("data", "indices"):
            (folder / name).touch()

    def split(self, block: sp.csr_matrix, first_column: int) -> None:
        """Append the non-zeros of a block of columns to the buckets of their rows."""
        by_row = block.tocsc()  # of the transpose: sorted by row of X
        starts = by_row.indptr[self._bounds]
        for i in np.flatnonzero(np.diff(starts)).tolist():
            lo, hi = int(starts[i]), int(starts[i + 1])
            rows = slice(int(self._bounds[i]), int(self._bounds[i + 1]))
            records = np.empty(hi - lo, self._record)
            per_row = np.diff(by_row.indptr[rows.start : rows.stop + 1])
            records["row"] = np.repeat(np.arange(len(per_row), dtype=np.int32), per_row)
            records["col"] = by_row.indices[lo:hi]
            records["col"] += first_column
            records["value"] = by_row.data[lo:hi]
            with self._locks[i], (self._folder / f"bucket-{i}").open("ab") as f:
                records.tofile(f)

    def sort(self, start: int, stop: int, indptr: np.ndarray, n_vars: int) -> None:
        """Write the rows of one bucket to their place, and remove the bucket."""
        path = self._folder / f"bucket-{self._starts[start]}"
        if not path.exists():
            return
        records = np.fromfile(path, self._record)
        path.unlink()
        triples = (records["value"], (records["row"], records["col"]))
        rows = sp.coo_matrix(triples, shape=(stop - start, n_vars)).tocsr()
        rows.sort_indices()
        if rows.nnz != int(indptr[stop] - indptr[start]):
            raise StoreError(
                f"rows {start} to {stop} came out with {rows.nnz} non-zeros",
                f"{int(indptr[stop] - indptr[start])}, as counted before: the file was changed meanwhile",
                "read it again",
            )
        _write_at(self._folder / "data", rows.data.astype(self._value, copy=False), int(indptr[start]))
        _write_at(self._folder / "indices", rows.indices.astype(np.int32, copy=False), int(indptr[start]))


def _write_at(path: Path, values: np.ndarray, position: int) -> None:
    with path.open("r+b") as f:
        f.seek(position * values.itemsize)
        values.tofile(f)
