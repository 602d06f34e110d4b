"""Where row blocks come from: the contract that every reader keeps, and the meter that counts what is read."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp

Block = Any  # csr_matrix with int32 indices and indptr, or C-ordered ndarray; 2-D either way


@runtime_checkable
class BlockSource(Protocol):
    """A matrix that can hand out any range of its rows.

    Implementations are small frozen dataclasses: picklable, cheap to hash, holding a URL and options
    and never an open file; they open (and may cache, per process) inside ``read``.

    ``read`` returns rows ``start:stop`` as a ``scipy.sparse.csr_matrix`` whose ``indices`` and
    ``indptr`` are int32, sorted, without duplicates and below ``shape[1]`` (use
    ``sc_dask.kernels.csr.canonical``), or as a C-ordered ``ndarray``. It calls ``METER.add`` with
    the bytes that it took from storage and is safe to call from many threads.
    """

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def is_sparse(self) -> bool: ...
    @property
    def token(self) -> str:
        """A name that is the same for the same stored bytes."""
        ...

    def read(self, start: int, stop: int) -> Block: ...


@dataclass
class Reading:
    """What was read since the meter was last emptied."""

    rows: int = 0
    n_bytes: int = 0


class Meter:
    """Counts what this process reads; emptied by every finished step of a pass."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reading = Reading()

    def add(self, *, rows: int = 0, n_bytes: int = 0) -> None:
        """Add rows handed out and bytes fetched from storage."""
        with self._lock:
            self._reading.rows += rows
            self._reading.n_bytes += n_bytes

    def empty(self) -> Reading:
        """Return what was counted and start again at zero."""
        with self._lock:
            out, self._reading = self._reading, Reading()
        return out


METER = Meter()


@dataclass(frozen=True, eq=False)
class MemorySource:
    """A csr_matrix or C-ordered ndarray that is in memory already."""

    x: sp.csr_matrix | np.ndarray
    token: str

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.x.shape[0]), int(self.x.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.x.dtype)

    @property
    def is_sparse(self) -> bool:
        return sp.issparse(self.x)

    def read(self, start: int, stop: int) -> Block:
        if isinstance(self.x, np.ndarray):
            return self.x[start:stop]
        lo, hi = int(self.x.indptr[start]), int(self.x.indptr[stop])
        indptr = (self.x.indptr[start : stop + 1] - self.x.indptr[start]).astype(np.int32)
        indices = self.x.indices[lo:hi].astype(np.int32, copy=False)
        return sp.csr_matrix((self.x.data[lo:hi], indices, indptr), shape=(stop - start, self.x.shape[1]), copy=False)
