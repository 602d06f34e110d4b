"""Spilled row blocks: what can be read only from its beginning is written as it comes and then read in any order.

Used for text files and for a lazy X that somebody else's Dask graph makes. A spill is a folder of uncompressed block
files (``.npz``), as large as the matrix is in memory; it stands beside the store that is being written, until that is
whole.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from sc_dask.array.source import METER, Block, BlockSource
from sc_dask.errors import StoreError
from sc_dask.io.blobs.store import Location
from sc_dask.io.writing.counts import Counts, count_block, merged
from sc_dask.kernels.csr import canonical

BLOCK_NNZ = 2 << 20  # small blocks are joined up to this


@dataclass(frozen=True, eq=False)
class SpillSource(BlockSource):
    """The rows of a finished spill (a ``BlockSource``); block file i holds rows ``bounds[i]:bounds[i + 1]``.

    ``counts`` is what was seen of the values while they were spilled.
    """

    location: Location
    bounds: np.ndarray
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    is_sparse: bool
    token: str
    counts: Counts

    def row_nnz(self) -> np.ndarray | None:
        return self.counts.row_nnz if self.is_sparse else None

    @property
    def place(self) -> Location:
        return self.location

    def cuts(self) -> np.ndarray:
        """Return the row bounds of the block files."""
        return self.bounds

    def read(self, start: int, stop: int) -> Block:
        first = int(np.searchsorted(self.bounds, start, side="right")) - 1
        last = int(np.searchsorted(self.bounds, stop, side="left"))
        parts = []
        for i in range(first, last):
            lo = int(self.bounds[i])
            block = load_block(self.location, i)
            parts.append(block[max(start - lo, 0) : stop - lo].astype(self.dtype, copy=False))
        METER.add(rows=stop - start)
        if not self.is_sparse:
            return np.ascontiguousarray(np.concatenate(parts)) if parts else np.empty((0, self.shape[1]), self.dtype)
        if not parts:
            return sp.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        out = parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr")
        return canonical(out.data, out.indices, out.indptr, self.shape[1])


def save_block(location: Location, i: int, block: Block) -> int:
    """Write block file ``i``; return its bytes."""
    buffer = io.BytesIO()
    if sp.issparse(block):
        shape = np.asarray(block.shape, np.int64)
        np.savez(buffer, data=block.data, indices=block.indices, indptr=block.indptr, shape=shape)
    else:
        np.savez(buffer, dense=block)
    fs, path = location.fs()
    fs.makedirs(path, exist_ok=True)
    with fs.open(f"{path}/{i}.npz", "wb") as f:
        f.write(buffer.getbuffer())
    return buffer.getbuffer().nbytes


def load_block(location: Location, i: int) -> Block:
    """Read block file ``i``."""
    fs, path = location.fs()
    try:
        raw = fs.cat_file(f"{path}/{i}.npz")
    except FileNotFoundError as e:
        raise StoreError(
            f"{location}/{i}.npz is gone", "a spill that stays until the store is whole", "run the same command again"
        ) from e
    METER.add(n_bytes=len(raw))
    with np.load(io.BytesIO(raw)) as parts:
        if "dense" in parts:
            return parts["dense"]
        shape = tuple(int(n) for n in parts["shape"])
        return sp.csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=shape, copy=False)


@dataclass
class Spill:
    """Takes csr blocks of float64 in the order of their rows; ``finish`` makes them a source.

    Whole numbers come back exactly (int64), others as float32.
    """

    location: Location
    token: str
    _bounds: list[int] = field(default_factory=lambda: [0])
    _waiting: list[sp.csr_matrix] = field(default_factory=list)
    _counts: list[Counts] = field(default_factory=list)

    def append(self, block: sp.csr_matrix) -> None:
        """Add rows at the end."""
        self._waiting.append(block)
        self._counts.append(count_block(block))
        if sum(b.nnz for b in self._waiting) >= BLOCK_NNZ:
            self._flush()

    def _flush(self) -> None:
        rows = sum(b.shape[0] for b in self._waiting)
        if rows:
            block = self._waiting[0] if len(self._waiting) == 1 else sp.vstack(self._waiting, format="csr")
            save_block(self.location, len(self._bounds) - 1, block)
            self._bounds.append(self._bounds[-1] + rows)
        self._waiting = []

    def finish(self, n_obs: int, n_vars: int) -> SpillSource:
        """Return the source of everything that was added."""
        self._flush()
        if self._bounds[-1] != n_obs:
            raise ValueError(f"{self._bounds[-1]} rows were added for {n_obs}")
        bounds = np.asarray(self._bounds if n_obs else [0, 0], np.int64)
        counts = merged(self._counts) if self._counts else Counts(np.zeros(0, np.int64), 0, 0, True)
        dtype = np.dtype(np.int64 if counts.whole else np.float32)
        return SpillSource(self.location, bounds, (n_obs, n_vars), dtype, True, self.token, counts)
