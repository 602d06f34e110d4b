"""Where row blocks come from: the contract that every reader keeps, and the meter that counts what is read."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from sc_dask.array.expr import Expr

Block = Any  # csr_matrix with int32 indices and indptr, or C-ordered ndarray; 2-D either way


class BlockSource(ABC):
    """A matrix that can hand out any range of its rows: what every reader of files implements.

    Implementations are small frozen dataclasses: picklable, cheap to hash, holding a URL and options
    and never an open file; they open (and may cache, per process) inside ``read``. They have the attributes
    ``shape`` (rows, columns), ``dtype``, ``is_sparse`` and ``token``, a name that is the same for the same stored
    bytes. Everything but these and ``read`` has a default, for a source that has nothing special to say.
    """

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, int]: ...
        @property
        def dtype(self) -> np.dtype[Any]: ...
        @property
        def is_sparse(self) -> bool: ...
        @property
        def token(self) -> str: ...

    @abstractmethod
    def read(self, start: int, stop: int) -> Block:
        """Return rows ``start:stop``; safe to call from many threads.

        A ``scipy.sparse.csr_matrix`` whose ``indices`` and ``indptr`` are int32, sorted, without duplicates and below
        ``shape[1]`` (use ``sc_dask.kernels.csr.canonical``), or a C-ordered ``ndarray``. Calls ``METER.add`` with the
        bytes that it took from storage.
        """

    # -- what tasks are given

    def behind(self) -> Sequence[Expr]:
        """Return the matrices that this one is put together of. Default: none, it is read itself."""
        return ()

    def shared(self) -> BlockSource:
        """Return what all tasks of a pass share; `payload` adds what one task needs. Default: the source itself."""
        return self

    def payload(self, start: int, stop: int) -> Any:
        """Return what the task of rows ``start:stop`` takes along for `join`. Default: None, the task calls `read`."""
        return None

    def join(self, payload: Any) -> Block:
        """Return the rows of a payload; called on what `shared` returned."""
        raise NotImplementedError(f"{type(self).__name__} has no payloads")

    def whole_block(self, start: int, stop: int) -> tuple[int, int] | None:
        """Return the rows of the block around ``start:stop`` where only whole blocks can be read. Default: None."""
        return None

    # -- what is known without reading

    @property
    def n_source_rows(self) -> int:
        """Rows that stand behind, selected or not: what a whole pass reads. Default: the number of rows."""
        return self.shape[0]

    def row_nnz(self) -> np.ndarray | None:
        """Return the stored values of each row where no pass is needed to know them. Default: None."""
        return None

    def columns(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return indptr (from 0) and column numbers of rows ``start:stop``, without values. Default: None, read all."""
        return None

    @property
    def reads_columns(self) -> bool:
        """Whether `columns` reads less than `read`. Default: False."""
        return False

    @property
    def place(self) -> Any:
        """The ``Location`` of the stored bytes; None where there is none, or more than one. Default: None."""
        return None

    def stored_bytes(self) -> int | None:
        """Return the bytes of the matrix on disk where that is cheap to know. Default: None."""
        return None

    @property
    def state(self) -> str:
        """A text that changes when the stored bytes do. Default: "", not known."""
        return ""

    @property
    def read_once(self) -> bool:
        """Whether spilling rows is cheaper than reading them twice. Default: False."""
        return False


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
class MemorySource(BlockSource):
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

    def row_nnz(self) -> np.ndarray | None:
        return None if isinstance(self.x, np.ndarray) else np.diff(self.x.indptr).astype(np.int64)

    def read(self, start: int, stop: int) -> Block:
        if isinstance(self.x, np.ndarray):
            return self.x[start:stop]
        lo, hi = int(self.x.indptr[start]), int(self.x.indptr[stop])
        indptr = (self.x.indptr[start : stop + 1] - self.x.indptr[start]).astype(np.int32)
        indices = self.x.indices[lo:hi].astype(np.int32, copy=False)
        return sp.csr_matrix((self.x.data[lo:hi], indices, indptr), shape=(stop - start, self.x.shape[1]), copy=False)
