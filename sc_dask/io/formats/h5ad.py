"""AnnData's matrices in h5ad, read in place by `blobs.h5chunks`: any range of rows, from any number of threads."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from sc_dask.array.source import METER, Block
from sc_dask.errors import FormatError
from sc_dask.io.blobs.fetch import written_again
from sc_dask.io.blobs.h5chunks import H5Array
from sc_dask.io.blobs.store import Location, fingerprint
from sc_dask.io.formats.csr import StoredCSR, block_dtype
from sc_dask.io.formats.stored import StoredCSRSource, StoredSource

_OPENING = threading.RLock()


def _open(location: Location, path: str, stamp: str) -> H5Array:
    if fingerprint(location) != stamp:
        raise written_again(str(location))
    return H5Array(location, path)


@dataclass(frozen=True)
class H5CSRSource(StoredCSRSource):
    """Rows of a sparse matrix in an HDF5 file (or columns of a csc one, as the csr of the transpose)."""

    location: Location
    path: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    stamp: str

    @classmethod
    def of(cls, location: Location, group: Any, shape: tuple[int, int]) -> H5CSRSource:
        """Make the source of an open h5py group with ``data``, ``indices`` and ``indptr``; checks their lengths.

        Raises
        ------
        FormatError
            If a dataset is not there, or they contradict the shape.
        """
        for key in ("data", "indices", "indptr"):
            if getattr(group.get(key), "ndim", 0) != 1:
                raise FormatError(f"{location}: {group.name} has no array {key}", "data, indices and indptr")
        dtype = block_dtype(group["data"].dtype, f"{location}: {group.name}/data")
        source = cls(location, group.name, shape, dtype, fingerprint(location))
        source.opened().check()
        return source

    def opened(self) -> StoredCSR:
        """Return the open matrix, opened once per process."""
        with _OPENING:
            return _opened_csr(self)


@functools.lru_cache(maxsize=32)
def _opened_csr(source: H5CSRSource) -> StoredCSR:
    data, indices, indptr = (
        _open(source.location, f"{source.path}/{key}", source.stamp) for key in ("data", "indices", "indptr")
    )
    return StoredCSR(data, indices, indptr, source.shape, complete=False)


@dataclass(frozen=True)
class H5DenseSource(StoredSource):
    """Rows of a dense matrix in an HDF5 file."""

    location: Location
    path: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    stamp: str

    @classmethod
    def of(cls, location: Location, dataset: Any) -> H5DenseSource:
        """Make the source of an open 2-D h5py dataset."""
        shape = (int(dataset.shape[0]), int(dataset.shape[1]))
        dtype = block_dtype(dataset.dtype, f"{location}: {dataset.name}")
        return cls(location, dataset.name, shape, dtype, fingerprint(location))

    def read(self, start: int, stop: int) -> Block:
        with _OPENING:
            array = _opened_dense(self)
        block = array.read(start, stop).astype(self.dtype, order="C", copy=False)
        METER.add(rows=stop - start)
        return block


@functools.lru_cache(maxsize=32)
def _opened_dense(source: H5DenseSource) -> H5Array:
    return _open(source.location, source.path, source.stamp)
