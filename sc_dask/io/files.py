"""``sd.read`` and ``sd.read_*``: scanpy's readers, with a lazy X.

AnnData (zarr, h5ad), 10x HDF5 and loom files are read in place. Text cannot be read from its middle, so it is converted
once (`sc_dask.io.cache`). Excel sheets and tables of HDF5 are small, and are read into memory by anndata.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dask
import numpy as np
import pandas as pd
from anndata import AnnData

from sc_dask import slots
from sc_dask.array.types import as_sparse as sparse
from sc_dask.errors import InputError, NothingThereError
from sc_dask.io import cache as copies
from sc_dask.io import loom
from sc_dask.io.blobs.download import download
from sc_dask.io.blobs.store import Location, Place, exists
from sc_dask.io.convert import kind_of
from sc_dask.io.formats import tenx
from sc_dask.io.loom import read_loom as read_loom
from sc_dask.io.loom import with_type
from sc_dask.io.read import read as read_in_place
from sc_dask.io.sheets import read_excel as read_excel
from sc_dask.io.sheets import read_hdf as read_hdf
from sc_dask.io.sheets import read_soft
from sc_dask.preferences import settings

Backed = Literal["r", "r+"] | bool | None
_IN_PLACE = ("zarr", "h5ad")
_TABLES = ("csv", "tsv")
_KIND_OF = {"csv": "csv", "tsv": "tsv", "tab": "tsv", "txt": "tsv", "data": "tsv"}
_EXTENSIONS = {"anndata", "csv", "data", "h5", "h5ad", "loom", "mtx", "soft.gz", "tab", "tsv", "txt", "xls", "xlsx"}
_EXTENSIONS |= {"zarr", "zip"}


def read(
    filename: Place,
    backed: Backed = None,
    *,
    sheet: str | None = None,
    ext: str | None = None,
    delimiter: str | None = None,
    first_column_names: bool | None = None,
    backup_url: str | None = None,
    cache: bool = True,
    cache_compression: None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    block_bytes: int | None = None,
    lazy_obs: bool = False,
    **kwargs: Any,
) -> AnnData:
    """Open a file of any kind that is known; X may be larger than memory.

    AnnData zarr and h5ad, 10x HDF5 and loom are read in place: X, every layer and raw.X become `RowBlocks`, Dask arrays
    of csr or C-ordered dense row blocks, cut to a byte budget and read when they are computed. Everything else is read
    now. Text (10x folders, Matrix Market, tables) is converted once into a copy that is read in place from then on.

    Parameters
    ----------
    filename
        A path or any fsspec URL. A name without an extension stands for a file in ``settings.writedir``.
    backed
        ``"r"``, or nothing: both leave X in the file.
    sheet
        Sheet of an Excel file, or table of an HDF5 file: read into memory.
    ext
        The file's extension, where its name does not tell; contents decide between formats.
    delimiter, first_column_names
        Of a table: what stands between columns (None: commas in ``.csv``, else tabs or white space), and whether the
        first column holds names where these are numbers.
    backup_url
        Where the file is downloaded from if it is not there.
    cache
        Keep the converted copy of a text for the next process; False: it goes with this one.
    cache_compression
        None: copies are compressed zarr.
    cache_dir
        Where copies are kept (default: ``settings.cachedir``), at most ``sc-dask.cache-bytes`` of them.
    storage_options
        For the URL's filesystem, for instance ``{"anon": True}``.
    block_bytes
        Bytes of one decoded row block (default: the option ``sc-dask.block-bytes``, 48 MiB).
    lazy_obs
        Keep the columns of obs and var of a zarr or h5ad in the store: see `sc_dask.io.read.read`.
    **kwargs
        Of the format: those of `read_loom`, `read_10x_h5`, `read_10x_mtx`.

    Returns
    -------
    AnnData; values, names and columns equal those that scanpy's reader gives.

    Raises
    ------
    StoreError
        Nothing is there (also a ``FileNotFoundError``), it is unfinished, or chunks are missing.
    FormatError
        It is damaged, or of an unknown kind.
    InputError
        An option that the kind of file does not have.

    Passes: none over X, two over a csc matrix; a text is read once or twice to convert it. Memory: obs, var and the
    other small elements, and 16 bytes a row.

    Examples
    --------
    >>> import sc_dask as sd, tempfile
    >>> path = f"{tempfile.mkdtemp()}/cells.zarr"
    >>> sd.write(sd.datasets.simulate(200, 300, seed=1), path)
    >>> sd.read(path).shape
    (200, 300)
    """
    _check(backed, cache_compression)
    place = _place(filename, ext, storage_options)
    _download(place, backup_url)
    suffix = ext or _suffix(place.name)
    if suffix in ("xls", "xlsx") or (sheet is not None and suffix in ("h5", "h5ad", "hdf5")):
        return _sheet(place, sheet, suffix, kwargs)
    if suffix == "soft.gz":
        _refuse(kwargs, "soft")
        return read_soft(place.path)
    kind = _KIND_OF[suffix] if suffix in _KIND_OF else kind_of(place)
    options = dict(kwargs)
    if delimiter is not None:
        options["delimiter"] = delimiter
    if first_column_names is not None and (kind in _TABLES or first_column_names):
        options["first_column_names"] = first_column_names
    if sheet is not None:
        options["sheet"] = sheet
    if kind in _IN_PLACE:
        _refuse(options, kind)
        return read_in_place(place, block_bytes=block_bytes, lazy_obs=lazy_obs)
    if lazy_obs:
        raise InputError(f"found lazy_obs for a {kind} file", "AnnData zarr or h5ad", "sd.convert it first")
    with dask.config.set({} if block_bytes is None else {"sc-dask.block-bytes": block_bytes}):
        if kind == "10x-h5":
            return read_10x_h5(place, **_only(options, kind, ("genome", "gex_only")))
        if kind == "loom":
            return loom.read_loom(place, **_only(options, kind, loom.OPTIONS))
    return with_type(_copy(place, kind, options, cache, cache_dir, block_bytes), np.float32)


# -- AnnData -------------------------------------------------------------------------------------


def read_h5ad(
    filename: Place,
    backed: Backed = None,
    *,
    as_sparse: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    block_bytes: int | None = None,
    lazy_obs: bool = False,
) -> AnnData:
    """Open an h5ad file with a lazy X (see `read`).

    Parameters
    ----------
    filename
        A path or URL.
    backed
        ``"r"``, or nothing: both leave X in the file.
    as_sparse
        Dense matrices (``"X"``, ``"raw/X"``) that become sparse as they are read.
    storage_options, block_bytes, lazy_obs
        As in `read`.

    Raises
    ------
    StoreError, FormatError
        As `read`.
    """
    _check(backed, None)
    adata = read_in_place(filename, storage_options=storage_options, block_bytes=block_bytes, lazy_obs=lazy_obs)
    unknown = sorted(set(as_sparse) - {"X", "raw/X"})
    if unknown:
        raise InputError(f"found as_sparse={unknown!r}", "'X' or 'raw/X'")
    if "X" in as_sparse and adata.X is not None:
        slots.write(adata, {("X", ""): sparse(adata.X)})
    if "raw/X" in as_sparse and adata.raw is not None:
        raw = adata.raw
        cells = pd.DataFrame(index=slots.names(adata.obs))
        adata.raw = AnnData(sparse(raw.X), obs=cells, var=raw.var, varm=dict(raw.varm))
    return adata


def read_zarr(
    store: Place,
    *,
    storage_options: Mapping[str, Any] | None = None,
    block_bytes: int | None = None,
    lazy_obs: bool = False,
) -> AnnData:
    """Open an AnnData zarr store with a lazy X (see `read`)."""
    return read_in_place(store, storage_options=storage_options, block_bytes=block_bytes, lazy_obs=lazy_obs)


# -- 10x Genomics --------------------------------------------------------------------------------


def read_10x_h5(
    filename: Place,
    *,
    genome: str | None = None,
    gex_only: bool = True,
    backup_url: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> AnnData:
    """Open a 10x Genomics HDF5 file (Cell Ranger 2 and later) in place, as ``scanpy.read_10x_h5``.

    Parameters
    ----------
    filename
        A path or URL.
    genome
        Genes of this genome; needed where a file of Cell Ranger 2 holds several.
    gex_only
        Keep features of type "Gene Expression" only.
    backup_url
        Where the file is downloaded from if it is not there.
    storage_options
        For a URL's filesystem.

    Returns
    -------
    AnnData with lazy X; ``var`` has ``gene_ids``, ``feature_types``, ``genome`` and what else the file has.

    Passes: none. Memory: names and columns of cells and features.

    Raises
    ------
    InputError
        No such genome, or several and none was chosen.
    FormatError
        It is not such a file, or a part is missing.
    """
    place = Location.parse(filename, storage_options)
    _download(place, backup_url)
    adata = tenx.read_h5(place, genome=genome or None, gex_only=gex_only)
    return with_type(adata, np.float32) if adata.X.dtype == np.int32 else adata


def read_10x_mtx(
    path: Place,
    *,
    var_names: Literal["gene_symbols", "gene_ids"] = "gene_symbols",
    make_unique: bool = True,
    cache: bool = True,
    cache_compression: None = None,
    gex_only: bool = True,
    prefix: str | None = None,
    compressed: bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    block_bytes: int | None = None,
) -> AnnData:
    """Open a folder of ``matrix.mtx``, ``features.tsv`` and ``barcodes.tsv``, as ``scanpy.read_10x_mtx``.

    The text is converted once, in bounded memory; the next call finds the copy, unless a file has changed.

    Parameters
    ----------
    path
        The folder, or a URL of it.
    var_names
        ``"gene_symbols"`` or ``"gene_ids"``: what names the genes; the other becomes a column.
    make_unique
        Append -1, -2, ... to symbols that repeat.
    cache, cache_compression, cache_dir
        As in `read`.
    gex_only
        Keep features of type "Gene Expression" only.
    prefix
        What stands before the names of the three files.
    compressed
        Files may be plain or gzipped in any combination, so this is not needed.
    storage_options, block_bytes
        As in `read`.

    Returns
    -------
    AnnData with lazy X.

    Passes: the text once; then none. Disk: a spill while it is converted, then the compressed copy.

    Raises
    ------
    FormatError
        A file is missing or damaged, or the three disagree.
    """
    del compressed  # both forms are found by their names
    _check(None, cache_compression)
    options: dict[str, Any] = {"var_names": var_names, "make_unique": make_unique, "gex_only": gex_only}
    if prefix is not None:
        options["prefix"] = prefix
    place = Location.parse(path, storage_options)
    return with_type(_copy(place, "10x-mtx", options, cache, cache_dir, block_bytes), np.float32)


# -- text ----------------------------------------------------------------------------------------


def read_mtx(filename: Place, dtype: Any = "float32", **options: Any) -> AnnData:
    """Open a Matrix Market file, its rows as cells, as ``anndata.io.read_mtx``.

    Parameters
    ----------
    filename
        A path or URL; may be gzipped.
    dtype
        Type of X.
    **options
        ``cache``, ``cache_dir``, ``block_bytes``, ``storage_options`` of `read`.
    """
    return _text(filename, "mtx", {}, dtype, **options)


def read_csv(
    filename: Place,
    delimiter: str | None = ",",
    first_column_names: bool | None = None,
    dtype: Any = "float32",
    **options: Any,
) -> AnnData:
    """Open a table of cells by genes, as ``anndata.io.read_csv``; X is sparse.

    Parameters
    ----------
    filename
        A path or URL; may be gzipped.
    delimiter
        What stands between columns; None: white space.
    first_column_names
        Whether the first column holds names, where these are numbers.
    dtype
        Type of X.
    **options
        As in `read_mtx`, and ``first_row_names`` (see `sc_dask.convert`).
    """
    found: dict[str, Any] = {"delimiter": delimiter}
    if first_column_names is not None:
        found["first_column_names"] = first_column_names
    if "first_row_names" in options:
        found["first_row_names"] = options.pop("first_row_names")
    return _text(filename, "tsv" if delimiter is None else "csv", found, dtype, **options)


def read_text(
    filename: Place,
    delimiter: str | None = None,
    first_column_names: bool | None = None,
    dtype: Any = "float32",
    **options: Any,
) -> AnnData:
    """Open a table of cells by genes, as ``anndata.io.read_text``: `read_csv`, with white space between columns."""
    return read_csv(filename, delimiter, first_column_names, dtype, **options)


def read_umi_tools(filename: Place, dtype: Any = None, **options: Any) -> AnnData:
    """Open a long table ``gene, cell, count`` of umi_tools, as ``anndata.io.read_umi_tools`` (see `read_mtx`)."""
    return _text(filename, "tsv", {}, np.int64 if dtype is None else dtype, **options)


# -- what they share -----------------------------------------------------------------------------


def _check(backed: Backed, cache_compression: Any) -> None:
    if backed in ("r+",):
        raise InputError(
            "found backed='r+', which would change X in the file",
            "'r', or nothing: X stays in the file",
            "sd.write(adata, path, update=True) writes results into the store that X was read from",
        )
    if backed not in (None, "r", True, False):
        raise InputError(f"found backed={backed!r}", "'r' or None")
    if cache_compression is not None:
        raise InputError(
            f"found cache_compression={cache_compression!r}", "None: copies are compressed zarr", "leave it out"
        )


def _place(filename: Place, ext: str | None, storage_options: Mapping[str, Any] | None) -> Location:
    """Return where a file stands; a name that is no file and has no extension stands for one in ``writedir``."""
    place = Location.parse(filename, storage_options)
    if ext is not None and ext not in _EXTENSIONS:
        raise InputError(f"found ext={ext!r}", f"one of: {', '.join(sorted(_EXTENSIONS))}")
    if ext is not None or not place.is_local or _suffix(place.name) or os.path.lexists(place.url):
        return place
    keyed = settings.keyed(os.fspath(filename))  # type: ignore[arg-type]
    if not keyed.exists():
        raise NothingThereError(
            f"there is no file {place}, and none called {keyed}", "a path, or a name that was written to writedir"
        )
    return Location.parse(keyed)


def _suffix(name: str) -> str:
    """Return the extension of a file's name that says what it is, or nothing."""
    words = name.lower().split(".")[1:]
    if words[-2:] == ["soft", "gz"]:
        return "soft.gz"
    if len(words) > 1 and words[-1] in ("gz", "bz2"):
        words = words[:-1]
    return words[-1] if words and words[-1] in _EXTENSIONS else ""


def _download(place: Location, url: str | None) -> None:
    """Download a file that is not there; it has its name once it is whole."""
    if url is None or exists(place):
        return
    download(url, place.path)


def _sheet(place: Location, sheet: str | None, suffix: str, kwargs: Mapping[str, Any]) -> AnnData:
    _refuse(kwargs, suffix)
    if sheet is None:
        raise InputError(f"{place} is an Excel file", "the name of a sheet", "give sheet=")
    return read_excel(place.path, sheet) if suffix in ("xls", "xlsx") else read_hdf(place.path, sheet)


def _only(options: Mapping[str, Any], kind: str, known: Sequence[str]) -> dict[str, Any]:
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"found the option {unknown[0]!r} for a {kind} file", ", ".join(known) or "no options")
    return dict(options)


def _refuse(options: Mapping[str, Any], kind: str) -> None:
    _only(options, kind, ())


def _text(
    filename: Place,
    kind: str,
    options: dict[str, Any],
    dtype: Any,
    *,
    cache: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    block_bytes: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> AnnData:
    place = Location.parse(filename, storage_options)
    return with_type(_copy(place, kind, options, cache, cache_dir, block_bytes), dtype)


def _copy(
    place: Location,
    kind: str,
    options: Mapping[str, Any],
    cache: bool,
    cache_dir: str | os.PathLike[str] | None,
    block_bytes: int | None,
) -> AnnData:
    if not cache and cache_dir is not None:
        raise InputError("found cache=False and a cache_dir", "one of them", "leave cache_dir out")
    folder = (settings.cachedir if cache_dir is None else Path(cache_dir)) if cache else None
    return copies.converted(place, kind, options, folder, block_bytes)
