"""``sd.read``: AnnData zarr and h5ad in place, X and layers as lazy row blocks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

from anndata import AnnData

from sc_dask import slots
from sc_dask.array.blocks import RowBlocks, from_source
from sc_dask.array.chunks import cut_dense, cut_row_pieces, default_block_bytes
from sc_dask.errors import FormatError, InputError
from sc_dask.io.blobs.store import Location, Revision, open_group, open_h5, quiet, revision_of, sniff
from sc_dask.io.formats.elements import Encoding, MakeTable, encoding_of, lazy_table, read_elements
from sc_dask.io.formats.h5ad import H5CSRSource, H5DenseSource
from sc_dask.io.formats.transpose import INDEX_BYTES, transpose
from sc_dask.io.formats.zarr import ZarrCSRSource, ZarrDenseSource, is_complete
from sc_dask.io.writing import commit, graphs

T = TypeVar("T")


@quiet()
def read(
    path: str | os.PathLike[str] | Location,
    *,
    storage_options: Mapping[str, Any] | None = None,
    block_bytes: int | None = None,
    lazy_obs: bool = False,
) -> AnnData:
    """Open an AnnData store or file whose X may be larger than memory.

    X, every layer and raw.X become `RowBlocks`: Dask arrays of csr or C-ordered dense row blocks, cut
    by non-zeros to a byte budget and read when they are computed. Everything else is read now. A csc
    matrix is turned into rows now, out of core (see `sc_dask.io.formats.transpose`).

    Parameters
    ----------
    path
        A path or any fsspec URL of AnnData zarr (v2, v3, a folder or a ``.zip``) or h5ad, written by
        anndata 0.5 or later.
    storage_options
        For the URL's filesystem, for instance ``{"anon": True}``.
    block_bytes
        Bytes of one decoded row block (default: the option ``sc-dask.block-bytes``, 48 MiB).
    lazy_obs
        Keep the columns of obs and var in the store: both become anndata's ``Dataset2D`` (an xarray dataset), and a
        column is read, whole, each time it is used. Every ``pp``, ``tl``, ``get`` and ``write`` takes such an AnnData
        and gives the same numbers; ``get.column(adata, key)`` is a column as pandas holds it. In memory all the same:
        the names of cells and genes, which AnnData compares and looks up (8 bytes and a Python string each: 80 bytes
        for 21 letters); columns that are added; after a subset 8 bytes per kept cell, once for all columns; raw.var;
        obsm, obsp. What pandas does and xarray does not (``adata.obs.loc``, ``adata.obs["x"].value_counts()``) needs
        ``adata.obs.to_memory()``. ``adata[mask]`` leaves colours of lost categories in uns; our filters remove them.

    Returns
    -------
    AnnData; values of X, names and columns equal those that ``anndata.read_zarr`` and ``read_h5ad`` give
    (bool values become uint8 and float16 float32).

    Raises
    ------
    StoreError
        If nothing is there, it is unfinished, or chunks are missing.
    FormatError
        If it is damaged or not an AnnData; names the next command for 10x, loom and text files.
    InputError
        With ``lazy_obs``, if obs is stored as one array of records (anndata before 0.7).

    Passes: none over X; two over a csc matrix. Memory: obs, var and the other small elements, and 16 bytes a row. Of
    2 million cells with 10 columns (5 numeric, 3 categorical, 2 of text) and names of 21 letters, 246 bytes per cell
    were kept and 362 the peak of what Python allocated; with ``lazy_obs`` 79 and 160.

    Examples
    --------
    >>> import sc_dask as sd, tempfile
    >>> path = f"{tempfile.mkdtemp()}/cells.zarr"
    >>> sd.write(sd.datasets.simulate(200, 300, seed=1), path)
    >>> sd.read(path).shape
    (200, 300)
    """
    location = Location.parse(path, storage_options)
    if block_bytes is not None and block_bytes < 1:
        raise InputError(f"found block_bytes={block_bytes}", "a positive number of bytes", "leave it out")
    budget = default_block_bytes() if block_bytes is None else int(block_bytes)
    kind = commit.whole(location, sniff)
    if kind == "zarr":
        root, complete = commit.whole(location, _opened)
        return _read_zarr(
            location, root, complete, budget, partial(lazy_table, location, h5=False) if lazy_obs else None
        )
    if kind == "h5ad":
        return _read_h5ad(location, budget, partial(lazy_table, location, h5=True) if lazy_obs else None)
    raise FormatError(
        f"{location} is a {kind} file, which cannot be read in place",
        "AnnData zarr or h5ad",
        f'sd.convert("{location}", "{location.name.split(".")[0] or "converted"}.zarr")',
    )


def _opened(location: Location) -> tuple[Any, bool]:
    root = open_group(location)
    return root, is_complete(root, location)


def _read_zarr(location: Location, root: Any, complete: bool, budget: int, make_table: MakeTable | None) -> AnnData:
    revision = Revision(revision_of(location))

    def make(elem: Any) -> RowBlocks:
        encoding = _encoding(elem)
        if encoding.kind == "dense":
            dense = ZarrDenseSource.of(location, elem, complete, revision)
            return _dense(dense, (elem.shards or elem.chunks)[0], budget)
        source = ZarrCSRSource.of(location, elem, _stored_shape(encoding), complete, revision)
        return _sparse(source, encoding, budget)

    adata = read_elements(root, str(location), make, make_table)
    placed = {("uns", key): graphs.found(value, location) for key, value in adata.uns.items()}
    slots.write(adata, {at: value for at, value in placed.items() if value is not adata.uns[at[1]]})
    return adata


def _read_h5ad(location: Location, budget: int, make_table: MakeTable | None) -> AnnData:
    def make(elem: Any) -> RowBlocks:
        encoding = _encoding(elem)
        if encoding.kind == "dense":
            return _dense(H5DenseSource.of(location, elem), elem.chunks[0] if elem.chunks else 1, budget)
        return _sparse(H5CSRSource.of(location, elem, _stored_shape(encoding)), encoding, budget)

    with open_h5(location) as root:
        return read_elements(root, str(location), make, make_table)


def _encoding(elem: Any) -> Encoding:
    encoding = encoding_of(elem)
    assert encoding is not None  # read_elements asks before it calls
    return encoding


def _stored_shape(encoding: Encoding) -> tuple[int, int]:
    return encoding.shape[::-1] if encoding.kind == "csc" else encoding.shape


def _dense(source: ZarrDenseSource | H5DenseSource, row_chunk: int, budget: int) -> RowBlocks:
    n_obs, n_vars = source.shape
    return from_source(source, cut_dense(n_obs, n_vars, source.dtype.itemsize, budget, row_chunk))


def _sparse(source: ZarrCSRSource | H5CSRSource, encoding: Encoding, budget: int) -> RowBlocks:
    nnz_bytes = INDEX_BYTES + source.dtype.itemsize
    bounds = cut_row_pieces(source.opened().indptr_pieces(), budget, nnz_bytes)
    if encoding.kind == "csc":
        return from_source(*transpose(source, bounds, budget))
    return from_source(source, bounds)
