"""obs and var as tables, in memory or lazy (``lazy_obs=True``): anndata's ``Dataset2D``, an xarray dataset.

This file is all that differs: reading one column, adding one, and names.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from xarray import Variable
from xarray.backends import BackendArray

from sc_dask.errors import InputError
from sc_dask.outside.xarray import (
    IndexingSupport,
    LazilyIndexedArray,
    PandasExtensionArray,
    data_of,
    explicit_indexing_adapter,
    rows_of,
)


def is_lazy(table: Any) -> bool:
    """Tell whether an obs or var is a lazy table."""
    return not isinstance(table, pd.DataFrame)


def columns(table: Any) -> list[str]:
    """Return the names of a table's columns, in their order."""
    return [c for c in table.ds.data_vars if c != table.true_index_dim] if is_lazy(table) else list(table.columns)


def names(table: Any) -> pd.Index:
    """Return the names of a table's rows."""
    if not is_lazy(table):
        return table.index
    index = table.index if table.true_index_dim == table.index_dim else table.true_index
    return index.rename(None) if index.name == "_index" else index


def load(table: Any, key: str) -> pd.Series:
    """Return one column of a table; of a lazy one it is read now, and no other."""
    if not is_lazy(table):
        return table[key]
    variable = table.ds.variables[key]
    column = _column(variable)
    if column is not None:
        return pd.Series(column.picked(rows_of(data_of(variable))), index=names(table), name=key)
    values = variable.data
    values = values.array if isinstance(values, PandasExtensionArray) else values
    if not isinstance(values, pd.api.extensions.ExtensionArray):
        values = np.asarray(values)  # anndata's own lazy columns are Dask arrays
    kind = "string" if variable.attrs.get("is_nullable_string") else None
    return pd.Series(values, index=names(table), name=key, dtype=kind)


def in_memory(table: Any) -> pd.DataFrame:
    """Return all columns of a table; those of a lazy one are read now."""
    return pd.DataFrame({c: load(table, c) for c in columns(table)}, index=names(table)) if is_lazy(table) else table


def lazy_columns(table: Any) -> Iterator[Column]:
    """Yield the columns of a table that are read when they are asked for."""
    for variable in table.ds.variables.values() if is_lazy(table) else ():
        column = _column(variable)
        if column is not None:
            yield column


def at_hand(table: Any) -> Iterator[tuple[str, pd.Series]]:
    """Yield name and values of the columns of a lazy table that are in memory."""
    for key in columns(table):
        column = _column(table.ds.variables[key])
        data = data_of(table.ds.variables[key])
        if isinstance(column, HeldColumn) or (column is None and isinstance(data, np.ndarray | PandasExtensionArray)):
            yield key, load(table, key)


class Column(BackendArray, ABC):
    """One column of a lazy table: `values` gives all of it; rows are picked afterwards, and then AnnData's way.

    AnnData drops categories without a row whenever it subsets.
    """

    shape: tuple[int]

    @abstractmethod
    def values(self) -> Any:
        """Return the whole column: an ndarray, or an array of pandas."""

    def picked(self, rows: Any) -> Any:
        """Return some rows: a slice (``slice(None)``: never subset), positions or one position."""
        import anndata

        values = self.values()
        if _never_picked(rows):
            return values
        values = values[rows]
        if isinstance(values, pd.Categorical) and anndata.settings.remove_unused_categories:
            return values.remove_unused_categories()
        return values

    def __getitem__(self, key: Any) -> Any:
        """Return rows as xarray holds them."""
        return explicit_indexing_adapter(
            key, self.shape, IndexingSupport.OUTER, lambda k: _for_xarray(self.picked(k[0]))
        )


class HeldColumn(Column):
    """A categorical in memory, in a lazy table."""

    def __init__(self, array: pd.Categorical) -> None:
        self.array = array
        self.shape, self.dtype = (len(array),), array.dtype

    def values(self) -> Any:
        """Return the categorical."""
        return self.array


def lazy_variable(dim: str, column: Column) -> Variable:
    """Return a column as a variable of a lazy table whose rows are called ``dim``."""
    text = {"is_nullable_string": True} if getattr(column, "is_nullable_string", False) else {}
    return Variable([dim], _Picked(column), attrs=text)


class _Picked(LazilyIndexedArray):
    """A column of which some rows are picked.

    Columns of one table are picked alike, so they share one array of positions: xarray alone would keep 8 bytes per
    cell and column. A pick of all rows is told from none, because AnnData drops unused categories of obs when genes
    are picked too.
    """

    def __init__(self, array: Any, key: Any = None) -> None:
        global _latest
        super().__init__(array, key)
        if key is not None and _never_picked(self.key.tuple[0]):
            self.key = type(self.key)((slice(0, self.array.shape[0], 1),))
        latest = _latest()
        if latest is not None and _same_rows(latest.key.tuple, self.key.tuple):
            self.key = latest.key
        else:
            _latest = weakref.ref(self)


_latest: Any = weakref.ref(set())  # of a picked column; starts dead


def _never_picked(rows: Any) -> bool:
    return isinstance(rows, slice) and rows == slice(None)


def _same_rows(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return all(isinstance(k, np.ndarray) for k in (*a, *b)) and np.array_equal(a[0], b[0])


def _column(variable: Any) -> Column | None:
    """Return the column behind a variable, or None where xarray holds an array."""
    data = data_of(variable)
    return data.array if isinstance(data, _Picked) and isinstance(data.array, Column) else None


def _for_xarray(values: Any) -> Any:
    if isinstance(values, pd.Categorical | pd.arrays.IntegerArray | pd.arrays.BooleanArray):
        return PandasExtensionArray(values)
    return np.asarray(values, object) if isinstance(values, pd.api.extensions.ExtensionArray) else values


def add_column(table: Any, key: str, value: Any) -> None:
    """Add a column to a lazy table."""
    if key == table.index_dim or key == table.true_index_dim:
        raise InputError(
            f"found {key!r} as a new column, which is the name of the lazy table's index",
            "another name",
            "pass another key_added, or read without lazy_obs",
        )
    if isinstance(value, pd.Categorical):
        table[key] = lazy_variable(table.index_dim, HeldColumn(value))
    else:
        table[key] = np.array(value)  # a copy, as pandas makes one: known statistics of X may hold the same array
