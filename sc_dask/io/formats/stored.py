"""What every matrix in a file has: its place, its state, its name, and, of a sparse one, how its rows are read."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from dask.base import tokenize

from sc_dask.array.source import METER, Block, BlockSource
from sc_dask.io.blobs.sizes import matrix_bytes

if TYPE_CHECKING:
    from sc_dask.io.blobs.store import Location
    from sc_dask.io.formats.csr import StoredCSR


class StoredSource(BlockSource):
    """A matrix at ``path`` within a file or store at ``location``, whose bytes are named by ``stamp``."""

    if TYPE_CHECKING:

        @property
        def location(self) -> Location: ...
        @property
        def path(self) -> str: ...
        @property
        def stamp(self) -> str: ...

    @property
    def is_sparse(self) -> bool:
        return False

    @property
    def place(self) -> Location:
        return self.location

    def stored_bytes(self) -> int | None:
        return matrix_bytes(self.location, self.path)

    @property
    def state(self) -> str:
        return self.stamp

    @property
    def token(self) -> str:
        return tokenize(type(self).__name__, self.location.url, self.path, self.shape, self.stamp)


class StoredCSRSource(StoredSource):
    """A sparse matrix of ``data``, ``indices`` and ``indptr``."""

    @abstractmethod
    def opened(self) -> StoredCSR:
        """Return the open matrix, opened once per process."""

    @property
    def is_sparse(self) -> bool:
        return True

    def row_nnz(self) -> np.ndarray:
        return np.diff(self.opened().rows(0, self.shape[0]))  # its indptr is one small array

    def columns(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return self.opened().columns(start, stop)

    @property
    def reads_columns(self) -> bool:
        return True

    def read(self, start: int, stop: int) -> Block:
        block = self.opened().read(start, stop)
        METER.add(rows=stop - start)
        return block
