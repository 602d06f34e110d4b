"""A stored sparse matrix, whatever stores it: three 1-D arrays, checked, and any range of its rows as a block.

Chunks that are not there
-------------------------
zarr and HDF5 read a chunk that was never stored as zeros, and a zarr writer leaves out chunks that
hold nothing but zeros. So a lost chunk cannot be told from a chunk of zeros by looking at the store.
Rule: in a store that promises complete chunks (ours do) a missing chunk is an error. In any other,
it is read as zeros only where zeros are plausible, that is where all of this holds:

- it covers at most `MAX_ABSENT` entries of the array (or the matrix has no non-zeros at all);
- in ``indices``, no row has two entries in it (column 0 twice), unless there is one column only;
- in ``indptr``, the non-zeros after it make one row, of increasing columns: the rows it covers are empty.

Otherwise the read raises ``StoreError`` with the chunk's name. A dense matrix of a foreign store may
miss any chunk: there, chunks of zeros are common and left out by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from sc_dask.errors import FormatError, StoreError
from sc_dask.io.blobs.fetch import steps_of, together
from sc_dask.kernels.csr import canonical, values

MAX_ABSENT = 1024
PIECE_ROWS = 2**22  # indptr entries looked at together: 32 MiB
KEEP_ROWS = 2**24  # an indptr up to this length is kept in memory, 128 MiB


class Vector(Protocol):
    """A stored 1-D array."""

    @property
    def name(self) -> str:
        """The file and the path in it, for messages."""
        ...

    def __len__(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read(self, start: int, stop: int) -> np.ndarray:
        """Return entries ``start:stop``."""
        ...

    def absent(self, start: int, stop: int) -> list[tuple[int, int, str]]:
        """Return first entry, last + 1 and name of every chunk of ``start:stop``, once read, that is not stored."""
        ...


def block_dtype(dtype: Any, name: str) -> np.dtype[Any]:
    """Return the type that blocks of a stored matrix have: native numbers (bool: uint8, float16: float32).

    Raises
    ------
    FormatError
        If the values are not real numbers.
    """
    try:
        return values(np.empty(0, dtype)).dtype
    except (FormatError, TypeError) as err:
        raise FormatError(f"{name} holds values of type {dtype}", "real numbers") from err


@dataclass(eq=False)
class StoredCSR:
    """A compressed sparse matrix in a file; csc is the csr of the transpose."""

    data: Vector
    indices: Vector
    indptr: Vector
    shape: tuple[int, int]
    complete: bool  # the store promises that every chunk is there
    _kept: np.ndarray | None = field(default=None, repr=False)

    def check(self) -> None:
        """Compare the lengths of the three arrays with each other and with the shape; reads nothing.

        Raises
        ------
        FormatError
            If they contradict each other.
        """
        if len(self.indptr) != self.shape[0] + 1:
            raise FormatError(
                f"{self.indptr.name} has {len(self.indptr)} entries", f"{self.shape[0] + 1}, one more than rows"
            )
        if len(self.data) != len(self.indices):
            raise FormatError(
                f"{self.data.name} has {len(self.data)} values and {self.indices.name} {len(self.indices)}",
                "as many values as indices",
                "write the file again from its source",
            )
        for vector in (self.indices, self.indptr):
            if vector.dtype.kind not in "iu":
                raise FormatError(f"{vector.name} is of type {vector.dtype}", "integers")

    def indptr_pieces(self) -> Iterator[np.ndarray]:
        """Yield all of indptr as int64, piece by piece, each checked: memory does not depend on the number of rows.

        Raises
        ------
        FormatError
            If it does not begin at 0, falls, or does not end at the number of values.
        StoreError
            If a chunk of it is missing.
        """
        n, last = self.shape[0] + 1, 0
        for start in range(0, n, PIECE_ROWS):
            piece = self._entries(start, min(start + PIECE_ROWS, n))
            if (start == 0 and piece[0] != 0) or piece[0] < last or np.any(piece[1:] < piece[:-1]):
                raise self._bad_indptr()
            last = int(piece[-1])
            yield piece
        if last != len(self.data):
            raise self._bad_indptr()

    def _bad_indptr(self) -> FormatError:
        return FormatError(
            f"{self.indptr.name} does not count up from 0 to {len(self.data)}, the number of stored values",
            "the number of non-zeros before each row, in a type that holds it",
            "write the file again from its source",
        )

    def _entries(self, start: int, stop: int) -> np.ndarray:
        if self._kept is not None:
            return self._kept[start:stop]
        piece = self.indptr.read(start, stop).astype(np.int64, copy=False)
        self._check_absent_rows(start, stop)
        return piece

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return indptr of rows ``start:stop``, int64, ``stop - start + 1`` entries."""
        if self._kept is None and len(self.indptr) <= KEEP_ROWS:
            self._kept = self._entries(0, len(self.indptr))
        out = self._entries(start, stop + 1)
        if out[0] < 0 or out[-1] > len(self.data) or np.any(out[1:] < out[:-1]):
            raise self._bad_indptr()
        return out

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Return rows ``start:stop`` as a canonical block."""
        indptr = self.rows(start, stop)
        lo, hi = int(indptr[0]), int(indptr[-1])
        data, indices = together([steps_of(self.data, lo, hi), steps_of(self.indices, lo, hi)])
        for vector in (self.data, self.indices):
            for a, b, chunk in vector.absent(lo, hi):
                repeats = vector is self.indices and self._repeats_column(indptr, a, b)
                if self.complete or b - a > MAX_ABSENT or repeats:
                    raise _absent(vector, chunk)
        try:
            return canonical(data, indices, indptr - lo, self.shape[1])
        except FormatError as err:
            raise FormatError(
                f"{self.indices.name}, rows {start} to {stop}: {err.found}", err.expected, err.fix
            ) from err

    def columns(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return indptr (from 0) and indices of rows ``start:stop`` as they are stored, without their values."""
        indptr = self.rows(start, stop)
        (indices,) = together([steps_of(self.indices, int(indptr[0]), int(indptr[-1]))])
        return indptr - indptr[0], indices

    def _repeats_column(self, indptr: np.ndarray, start: int, stop: int) -> bool:
        inside = np.clip(indptr, start, stop)
        return self.shape[1] > 1 and bool(np.any(np.diff(inside) > 1))

    def _check_absent_rows(self, start: int, stop: int) -> None:
        for a, b, chunk in self.indptr.absent(start, stop):
            if self.complete:
                raise _absent(self.indptr, chunk)
            if len(self.data) == 0:
                continue
            after = int(self.indptr.read(b, b + 1)[0]) if b < len(self.indptr) else len(self.data)
            row = self.indices.read(0, after) if b - a <= MAX_ABSENT and after <= self.shape[1] else None
            if row is None or np.any(row[1:] <= row[:-1]):
                raise _absent(self.indptr, chunk)


def _absent(vector: Vector, chunk: str) -> StoreError:
    return StoreError(
        f"chunk {chunk} of {vector.name} is missing",
        "every chunk of a sparse matrix to be stored (a missing one would read as zeros)",
        "copy the store again, or write it again from its source",
    )
