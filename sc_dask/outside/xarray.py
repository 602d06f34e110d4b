"""xarray: lazy columns, made as its guide for backends tells, from names that are not all public."""

from __future__ import annotations

from typing import Any

from xarray.core.extension_array import PandasExtensionArray
from xarray.core.indexing import IndexingSupport, LazilyIndexedArray, explicit_indexing_adapter

__all__ = [
    "IndexingSupport",
    "LazilyIndexedArray",
    "PandasExtensionArray",
    "data_of",
    "explicit_indexing_adapter",
    "rows_of",
]


def data_of(variable: Any) -> Any:
    """Return what a variable holds, without reading it."""
    return variable._data


def rows_of(lazy: Any) -> Any:
    """Return which rows of its array a lazily indexed array stands for: a slice or positions."""
    return lazy.key.tuple[0]
