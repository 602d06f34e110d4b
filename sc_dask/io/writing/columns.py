"""Columns and arrays of text: what each is in a file, and which are refused by name.

AnnData's spec has numbers, text, and boolean, whole numbers and text with missing values, and categories of these. Its
writers make text of what else they meet (``True`` and ``None`` become the words), or fail when most is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sc_dask.errors import InputError

_TEXTS_AT_ONCE = 1 << 16  # joined to see whether they can be encoded
_AS_TEXT = ".astype('string')"
_WIDEST = {"f": 8, "c": 16}  # bytes of a number that zarr knows
_MASKED = (
    pd.BooleanDtype,
    *(pd.Int8Dtype, pd.Int16Dtype, pd.Int32Dtype, pd.Int64Dtype),
    *(pd.UInt8Dtype, pd.UInt16Dtype, pd.UInt32Dtype, pd.UInt64Dtype),
)
_EXPECTED = "text, numbers, true and false, or categories of one of these"


class _CannotError(Exception):
    """Why values cannot be stored, and what to append to the expression of the column to mend it."""

    def __init__(self, found: str, mend: str, of_each: str | None = None) -> None:
        super().__init__(found)
        self.found, self.mend = found, mend
        self.of_each = of_each  # a function of one value that mends it


def storable_table(table: pd.DataFrame, name: str, *, h5: bool = False) -> pd.DataFrame:
    """Return a table whose columns a file holds as they are; the same table where nothing is to be done.

    Objects that are all boolean, or all numbers, get that type, with missing values where there are some. Objects that
    are text with missing values become categorical, and names plain text: the spec has no other place for them.

    Parameters
    ----------
    table
        A table in memory.
    name
        How to get at it: ``obs``, ``obsm['X']``.
    h5
        Whether it is for HDF5, which ends a text at the first NUL.

    Raises
    ------
    InputError
        Names the first column that cannot be stored, and the call that mends it.
    """
    _check_names(table, name)
    _check_rows(table.index, name, h5)
    changed: dict[Any, pd.Series] = {}
    for key, column in table.items():
        new = storable_column(column, f"the column {key!r} of {name}", f"adata.{name}[{key!r}]", h5=h5)
        if new is not column:
            changed[key] = new
    out = _replaced(table, changed)
    if isinstance(out.index.dtype, pd.StringDtype):
        out = out.set_axis(out.index.astype(object), axis=0)
        if out.index.name in out.columns:  # anndata allows the name twice where both are the same, of one type
            out = _replaced(out, {out.index.name: out[out.index.name].astype(object)})
    return out


def _replaced(table: pd.DataFrame, columns: Mapping[Any, pd.Series]) -> pd.DataFrame:
    """Return a table with other columns in the place of some; the same table if there are none."""
    out = table.copy(deep=False) if columns else table
    for key, column in columns.items():
        out[key] = column
    return out


def _check_names(table: pd.DataFrame, name: str) -> None:
    at, twice = f"adata.{name}", table.columns[table.columns.duplicated()]
    if len(twice):
        raise InputError(
            f"{int((table.columns == twice[0]).sum())} columns of {name} are called {twice[0]!r}",
            "columns of different names",
            f"{at} = {at}.loc[:, ~{at}.columns.duplicated()]",
        )
    key = table.index.name
    if key in table.columns and not np.array_equal(np.asarray(table.index, object), np.asarray(table[key], object)):
        raise InputError(
            f"the index of {name} is called {key!r}, as is a column of other values",
            "another name for one of them",
            f"{at}.index.name = None",
        )


def _check_rows(names: pd.Index, name: str, h5: bool) -> None:
    table = f"adata.{name}"
    if isinstance(names, pd.MultiIndex):
        raise InputError(
            f"{name} has names of {names.nlevels} levels", "one name a row", f"{table} = {table}.reset_index()"
        )
    n_missing = int(np.sum(np.asarray(names.isna())))
    if n_missing and names.dtype.kind == "O":
        raise InputError(
            f"{n_missing} of the names of {name} are missing",
            "a name for each row",
            f"{table}.index = {table}.index.fillna('unnamed')",
        )
    try:
        if names.dtype == object and pd.api.types.infer_dtype(names, skipna=False) not in ("string", "empty"):
            raise _CannotError("objects that are not all text", ".astype(str)")
        _storable(pd.Series(names), h5)
    except _CannotError as e:
        raise InputError(
            f"the names of {name} hold {e.found}", "text", f"{table}.index = {table}.index{e.mend}"
        ) from None


def storable_column(column: pd.Series, what: str, expression: str, *, h5: bool = False) -> pd.Series:
    """Return a column as a file holds it, or refuse it; ``what`` names it and ``expression`` is how to get at it."""
    try:
        return _storable(column, h5)
    except _CannotError as e:
        raise InputError(f"{what} holds {e.found}", _EXPECTED, f"{expression} = {expression}{e.mend}") from None


def _storable(column: pd.Series, h5: bool) -> pd.Series:
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _with_categories(column, dtype.categories, h5)
    if isinstance(dtype, pd.StringDtype):
        _check_text(column.dropna(), h5)
        return column
    if pd.api.types.is_object_dtype(dtype):
        return _of_objects(column, h5)
    if isinstance(dtype, np.dtype) and dtype.kind in "biufcS":
        if dtype.itemsize > _WIDEST.get(dtype.kind, dtype.itemsize):
            raise _CannotError(
                f"numbers of type {dtype}", f".astype('{'float64' if dtype.kind == 'f' else 'complex128'}')"
            )
        return column
    if not isinstance(dtype, _MASKED):
        raise _CannotError(f"values of type {dtype}", _mend_of(dtype))
    return column


def _mend_of(dtype: Any) -> str:
    if isinstance(dtype, pd.SparseDtype):
        return ".sparse.to_dense()"
    if isinstance(dtype, pd.Float32Dtype | pd.Float64Dtype):
        return f".astype('{str(dtype).lower()}')"
    return ".astype(object)" if isinstance(dtype, pd.ArrowDtype) else _AS_TEXT


def _of_objects(column: pd.Series, h5: bool) -> pd.Series:
    kind, lacks = pd.api.types.infer_dtype(column, skipna=True), bool(column.isna().any())
    if kind == "string" or (kind == "empty" and not lacks):
        _check_text(column.dropna() if lacks else column, h5)
        return column.astype("category") if lacks else column
    if kind == "empty":  # nothing but missing values
        return pd.Series(pd.Categorical([np.nan] * len(column), []), index=column.index, name=column.name)
    new = None
    if kind == "boolean":
        new = column.astype("boolean" if lacks else bool)
    elif kind == "integer":
        new = _whole_numbers(column, lacks)
    elif kind in ("floating", "mixed-integer-float"):
        new = _exact_floats(column)
    if new is not None:
        return new
    if kind == "bytes":
        raise _CannotError("bytes", ".str.decode('utf-8')")
    kinds = ", ".join(sorted({type(v).__name__ for v in column.dropna()}))
    raise _CannotError(f"objects of type {kinds}", _AS_TEXT if _becomes_text(column) else ".map(str)")


def _whole_numbers(column: pd.Series, lacks: bool) -> pd.Series | None:
    for dtype in ("Int64", "UInt64") if lacks else ("int64", "uint64"):
        try:
            return column.astype(dtype)
        except (OverflowError, TypeError, ValueError):
            continue
    return None


def _exact_floats(column: pd.Series) -> pd.Series | None:
    new = column.astype(np.float64)
    known = column.notna()
    return new if all(a == b or a != a for a, b in zip(column[known], new[known], strict=True)) else None


def _becomes_text(column: pd.Series) -> bool:
    try:
        column.astype("string")
    except (ValueError, TypeError):
        return False
    return True


def _with_categories(column: pd.Series, categories: pd.Index, h5: bool) -> pd.Series:
    try:
        if categories.dtype.kind == "c":
            raise _CannotError(f"numbers of type {categories.dtype}", "")
        new = _storable(pd.Series(categories), h5)
    except _CannotError as e:
        mend = f".cat.rename_categories({e.of_each or 'str'})"
        if e.of_each is None and not categories.map(str).is_unique:
            mend = f"{_AS_TEXT}.astype('category')"
        raise _CannotError(f"categories that are {e.found}", mend) from None
    return column if new.dtype == categories.dtype else column.cat.rename_categories(pd.Index(new))


def _check_text(texts: Any, h5: bool) -> None:
    values = np.asarray(texts, object)
    for start in range(0, len(values), _TEXTS_AT_ONCE):
        joined = "".join(values[start : start + _TEXTS_AT_ONCE])
        if h5 and "\0" in joined:
            raise _bad_text("text with the character NUL, at which HDF5 ends a text", "v.replace('\\0', '')")
        if not joined.isascii():
            try:
                joined.encode()
            except UnicodeEncodeError:
                raise _bad_text("text that is not Unicode", "v.encode('utf-8', 'replace').decode()") from None


def _bad_text(found: str, mended: str) -> _CannotError:
    return _CannotError(found, f".map(lambda v: {mended}, 'ignore')", f"lambda v: {mended}")


# -- elements ------------------------------------------------------------------------------------


def storable(value: Any, name: str, *, h5: bool = False) -> Any:
    """Return an element of obsm, varm or uns as a file holds it: tables in it column by column, at any depth.

    Raises
    ------
    InputError
        Names a column, or an array or list that a file could only hold as other values.
    """
    if isinstance(value, pd.DataFrame):
        return storable_table(value, name, h5=h5)
    if isinstance(value, Mapping):
        new = {k: storable(v, f"{name}[{k!r}]", h5=h5) for k, v in value.items()}
        return value if all(new[k] is v for k, v in value.items()) else new
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object):
        _check_array(value, name)
    return value


def _check_array(value: Any, name: str) -> None:
    """Refuse objects that are not all text: of numbers or missing values among them the words would be stored."""
    try:
        kind, flat = np.asarray(value).dtype.kind, np.asarray(value, object).ravel()
    except ValueError:  # lists of several lengths: the writer says so
        return
    if kind not in "OUS":
        return
    found = pd.api.types.infer_dtype(flat, skipna=False)
    if found in ("string", "empty", "bytes"):
        return
    kinds = ", ".join(sorted({type(v).__name__ for v in flat}))
    fits = np.ndim(value) == 1 and pd.api.types.infer_dtype(flat, skipna=True) == "string"
    raise InputError(
        f"{name} holds objects of type {kinds}",
        "text, or numbers of one type",
        f"adata.{name} = pd.array(adata.{name}, dtype='string')"
        if fits
        else f"adata.{name} = np.array(adata.{name}, str)",
    )
