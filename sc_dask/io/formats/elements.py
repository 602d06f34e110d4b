"""Everything of an AnnData but its matrices, read into memory by anndata's own readers, from anndata 0.5 to now.

The matrices (X, layers, raw.X) are left to a callback, which makes them lazy; another may take obs and var, and
`lazy_table` is that one. Layouts older than
anndata's element encodings are recognised by what they hold: tables as compound arrays, sparse
groups with ``h5sparse_format``, ``raw.X`` beside X, categories in ``uns``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.experimental import read_dispatched
from anndata.experimental.backed import Dataset2D
from anndata.io import read_elem
from xarray import Dataset

from sc_dask.errors import FormatError, InputError, ScDaskError, StoreError
from sc_dask.io.blobs.store import Location, open_group, open_h5, quiet
from sc_dask.slots import Column, lazy_variable

MakeMatrix = Callable[[Any], Any]  # a stored element -> a lazy matrix
MakeTable = Callable[[str, Any], Any]  # "obs" or "var", and the stored element -> a lazy table


@dataclass(frozen=True)
class Encoding:
    """How a matrix is stored: csr, csc or dense, and its shape (n_obs, n_vars)."""

    kind: Literal["csr", "csc", "dense"]
    shape: tuple[int, int]


def is_null(elem: Any) -> bool:
    """Tell whether a stored element says that there is none, as anndata writes None (h5py or zarr)."""
    return _text(elem.attrs.get("encoding-type", "")) == "null" or getattr(elem, "shape", ()) is None


def encoding_of(elem: Any) -> Encoding | None:
    """Return how a stored element (h5py or zarr) holds a matrix, or None when it holds something else.

    Raises
    ------
    FormatError
        If it is a sparse matrix without a shape.
    """
    attrs = elem.attrs
    if is_null(elem):
        return None
    if hasattr(elem, "shape"):  # an array
        kind = str(np.dtype(elem.dtype).kind)
        return (
            Encoding("dense", (int(elem.shape[0]), int(elem.shape[1])))
            if len(elem.shape) == 2 and kind in "biuf"
            else None
        )
    found = _text(attrs.get("h5sparse_format", attrs.get("encoding-type", ""))).removesuffix("_matrix")
    if found not in ("csr", "csc"):
        return None
    shape = attrs.get("shape", attrs.get("h5sparse_shape"))
    if shape is None or len(shape) != 2:
        raise FormatError(f"the sparse matrix {elem.name} has no shape", "an attribute shape of two numbers")
    return Encoding("csr" if found == "csr" else "csc", (int(shape[0]), int(shape[1])))


def read_elements(root: Any, where: str, make_matrix: MakeMatrix, make_table: MakeTable | None = None) -> AnnData:
    """Return the AnnData of an open zarr or HDF5 group.

    Parameters
    ----------
    root
        ``zarr.Group`` or ``h5py.File``.
    where
        The file's path or URL, for messages.
    make_matrix
        Called with every stored matrix of X, layers and raw.
    make_table
        Called with obs and var; None: they are read now.

    Raises
    ------
    FormatError
        If the group is not an AnnData, holds an element that anndata does not know, or contradicts itself.
    """
    _check_root(root, where)

    def callback(func: Callable[[Any], Any], name: str, elem: Any, iospec: Any) -> Any:
        name = name.strip("/")
        if is_null(elem):
            return None
        if _is_matrix(name) and encoding_of(elem) is not None:
            return make_matrix(elem)
        if name == "X" and iospec.encoding_type not in ("null", "array"):
            raise FormatError(
                f"X of {where} is stored as {iospec.encoding_type or type(elem).__name__!r}",
                "csr_matrix, csc_matrix or array",
            )
        if name in ("obs", "var") and make_table is not None:
            return make_table(name, elem)
        if name in ("obs", "var", "raw.var", "raw/var") and hasattr(elem, "dtype"):
            return _legacy_table(func(elem))
        return func(elem)

    def read(key: str) -> Any:
        return read_dispatched(root[key], callback)

    try:
        keys = sorted(root)
        parts = {k: read(k) for k in keys if k != "raw" and not k.startswith("raw.") and k in _SLOTS}
        for slot in _OF_ARRAYS:
            if isinstance(parts.get(slot), Mapping):  # before anndata 0.7 an array of records
                parts[slot] = {k: v for k, v in parts[slot].items() if v is not None}
        raw = _read_raw(root, keys, where, read)
        adata = AnnData(**parts, raw=raw)
        if hasattr(root["obs"], "dtype") and not is_null(root["obs"]) and not hasattr(root["obs"], "keys"):
            _categories_from_uns(adata)
    except ScDaskError:
        raise
    except Exception as err:  # anndata raises many kinds; the file's name must reach the reader of the message
        raise FormatError(
            f"{where} cannot be read: {str(err).splitlines()[0] if str(err) else type(err).__name__}"
        ) from err
    return adata


_OF_ARRAYS = ("obsm", "varm", "obsp", "varp", "layers")
_SLOTS = ("X", "obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_matrix(name: str) -> bool:
    return name in ("X", "raw/X", "raw.X") or (name.startswith("layers/") and name.count("/") == 1)


def _check_root(root: Any, where: str) -> None:
    kind = _text(root.attrs.get("encoding-type", ""))
    if kind not in ("", "anndata") or "mod" in root:
        raise FormatError(f"{where} holds {kind or 'MuData'}", "anndata", "write one modality with anndata")
    missing = [k for k in ("obs", "var") if k not in root]
    if missing:
        found = ", ".join(sorted(root)[:5]) or "nothing"
        raise FormatError(f"{where} has no {' and no '.join(missing)}: it holds {found}", "an AnnData with obs and var")


def _legacy_table(records: np.ndarray) -> pd.DataFrame:
    """Return a table that anndata before 0.7 stored as one compound array, its first field the names."""
    table = pd.DataFrame(records)
    return table.set_index(table.columns[0])


def _read_raw(root: Any, keys: list[str], where: str, read: Callable[[str], Any]) -> dict[str, Any] | None:
    legacy = [k for k in keys if k.startswith("raw.")]
    if "raw" in keys and legacy:
        raise FormatError(f"{where} has both raw and {legacy[0]}", "one of them", "write it again with anndata")
    if "raw" in keys:
        stored = root["raw"]
        if not hasattr(stored, "keys"):
            return None
        found = {k: read(f"raw/{k}") for k in ("X", "var", "varm") if k in stored}
        return {k: v for k, v in found.items() if v is not None} or None
    return {k.removeprefix("raw."): read(k) for k in legacy if k in ("raw.X", "raw.var", "raw.varm")} or None


def _categories_from_uns(adata: AnnData) -> None:
    """Make categoricals of columns whose categories anndata before 0.7 kept under ``uns["<column>_categories"]``.

    The same rule as anndata's own: categories of a column in obs and in var share one name, so they are
    taken where every code has a category.
    """
    for key in [k for k in adata.uns if k.endswith("_categories")]:
        column = key.replace("_categories", "")
        categories = adata.uns[key]
        if isinstance(categories, str | int):
            categories = [categories]
        for table in (adata.obs, adata.var):
            if column in table and np.all(table[column].to_numpy() < len(categories)):
                table[column] = pd.Categorical.from_codes(table[column].to_numpy(), categories)
                adata.uns.pop(key, None)


# -- lazy obs and var ----------------------------------------------------------------------------


def lazy_table(location: Location, name: str, elem: Any, *, h5: bool) -> Dataset2D:
    """Return a stored obs or var as a table whose columns are read when they are used; its names are read now.

    Parameters
    ----------
    location
        Where the store or file stands; columns open it anew, so nothing stays open.
    name
        ``obs`` or ``var``.
    elem
        The stored table.
    h5
        Whether it is an HDF5 file.

    Raises
    ------
    InputError
        If the table is stored as one array of records (anndata before 0.7).
    FormatError
        If a column is missing.
    """
    if not hasattr(elem, "keys"):
        raise InputError(
            f"found {name} of {location} as one array of records (anndata before 0.7) with lazy_obs=True",
            "columns that are stored one by one",
            "leave lazy_obs out, or sd.convert the file",
        )
    index_key, keys = _text(elem.attrs["_index"]), [_text(c) for c in elem.attrs["column-order"]]
    index = pd.DataFrame(index=_read_column(elem, index_key)).index
    if not pd.api.types.is_string_dtype(index.dropna()):
        index = index.astype(str)  # as AnnData does
    missing = [key for key in keys if key not in elem]
    if missing:
        raise FormatError(f"{name} of {location} has no column {missing[0]!r}, which its column-order names")
    dim = "_index" if index_key in keys else index_key
    columns = {k: lazy_variable(dim, StoredColumn(location, f"{name}/{k}", elem[k], len(index), h5=h5)) for k in keys}
    table = Dataset2D(Dataset(columns, coords={dim: index}))
    table.is_backed = True
    return table


class StoredColumn(Column):
    """A column in a store or file: opened, read whole and closed every time it is used."""

    def __init__(self, location: Location, path: str, elem: Any, n: int, *, h5: bool) -> None:
        self.location, self.path, self.shape, self._h5 = location, path, (n,), h5
        self._kind = _text(elem.attrs.get("encoding-type", ""))
        self.is_nullable_string = self._kind == "nullable-string-array"
        self._is_categorical = self._kind == "categorical" or "categories" in elem.attrs

    def values(self) -> Any:
        """Read the column with anndata's reader.

        Raises
        ------
        StoreError
            If the file was changed since it was opened.
        FormatError
            If the column is damaged.
        """
        table, _, key = self.path.partition("/")
        try:
            with quiet(), _opened(self.location, h5=self._h5) as root:
                values = _read_column(root[table], key)
        except ScDaskError:
            raise
        except KeyError as err:
            raise self._changed("it is gone") from err
        except Exception as err:  # anndata raises many kinds
            reason = str(err).splitlines()[0] if str(err) else type(err).__name__
            raise FormatError(f"{self.path} of {self.location} cannot be read: {reason}") from err
        if len(values) != self.shape[0]:
            raise self._changed(f"it has {len(values)} rows instead of {self.shape[0]}")
        return values

    @cached_property
    def dtype(self) -> Any:
        """The type of the column; reads the categories of a categorical, else nothing."""
        with quiet(), _opened(self.location, h5=self._h5) as root:
            elem = root[self.path]
            if self._is_categorical:
                return pd.CategoricalDtype(*_categories(elem, root[self.path.partition("/")[0]]))
            if self._kind.startswith("nullable") and not self.is_nullable_string:
                return pd.array(np.empty(0, elem["values"].dtype)).dtype
            dtype = np.dtype(object) if self.is_nullable_string else np.dtype(elem.dtype)
            return dtype if dtype.kind in "biufc" else np.dtype(object)

    def _changed(self, found: str) -> StoreError:
        return StoreError(
            f"{self.path} of {self.location} is not what it was when it was opened: {found}",
            "a store that does not change while it is read",
            "open it again with sd.read",
        )


@contextlib.contextmanager
def _opened(location: Location, *, h5: bool) -> Iterator[Any]:
    if h5:
        with open_h5(location) as root:
            yield root
    else:
        yield open_group(location)


def _read_column(table: Any, key: str) -> Any:
    """Read one column of a stored table; before anndata 0.8 a categorical was its codes, which name the categories."""
    elem = table[key]
    if "categories" in elem.attrs:
        return pd.Categorical.from_codes(read_elem(elem), *_categories(elem, table))
    return read_elem(elem)


def _categories(elem: Any, table: Any) -> tuple[Any, bool]:
    """Return the categories of a stored categorical, new or old, and whether they are ordered."""
    stored = elem["categories"] if hasattr(elem, "keys") else table[elem.attrs["categories"]]
    ordered = (elem if hasattr(elem, "keys") else stored).attrs.get("ordered", False)
    return read_elem(stored), bool(ordered)
