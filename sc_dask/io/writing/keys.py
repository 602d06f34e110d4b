"""What can be stored: names of keys and columns, and the types of columns. One check for all writers and for a run.

In a store a key is a folder. ``a/b`` would be two of them, which no reader puts together again, "" is the folder
around, and ``zarr.json`` its metadata. Names are refused that any disk or bucket refuses or takes for another one, so
that a store can be copied anywhere; names that differ in case alone where the disk at hand takes them for one.
"""

from __future__ import annotations

import tempfile
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.io.writing.columns import storable, storable_column, storable_table
from sc_dask.names import check_name, is_storable, safe
from sc_dask.outside.anndata import named_layers
from sc_dask.tables import at_hand, columns, is_lazy, names

if TYPE_CHECKING:
    from anndata import AnnData

    from sc_dask.io.blobs.store import Location

_MAPPINGS = ("obsm", "varm", "obsp", "varp", "uns")


def check(adata: AnnData, target: Location | None = None) -> None:
    """Refuse an AnnData with keys or columns that cannot be stored; nothing is read.

    Parameters
    ----------
    adata
        What is to be written. Columns of a lazy obs that are in a file already are not looked at.
    target
        Where to: of HDF5 texts with NUL are refused, of a disk that does not tell capital letters names that
        differ in them alone.

    Raises
    ------
    InputError
        Names the first of them, what is wrong with it, and the call that mends it.
    """
    h5 = target is not None and is_h5ad(target)
    groups: dict[str, list[Any]] = {"layers": [key for key, _ in named_layers(adata)]}
    groups |= {attr: list(getattr(adata, attr)) for attr in _MAPPINGS}
    for attr, keys in groups.items():
        _check_group(keys, lambda key, attr=attr: _mend_key(attr, key), attr, target)
    for attr in _MAPPINGS:
        for key, value in getattr(adata, attr).items():
            if isinstance(value, pd.DataFrame) and attr != "uns":
                _check_columns(value, f"{attr}[{key!r}]", target)
            storable(value, f"{attr}[{key!r}]", h5=h5)
    for name, table in _tables(adata):
        _check_columns(table, name, target)
        if is_lazy(table):
            storable_table(pd.DataFrame(index=names(table)), name, h5=h5)
            for key, column in at_hand(table):
                storable_column(column, f"the column {key!r} of {name}", f"adata.{name}[{key!r}]", h5=h5)
        else:
            storable_table(table, name, h5=h5)


def is_h5ad(target: Location) -> bool:
    """Tell whether a place to write to is named as an h5ad file."""
    return target.name.lower().endswith(".h5ad")


def _tables(adata: AnnData) -> Iterator[tuple[str, Any]]:
    yield "obs", adata.obs
    yield "var", adata.var
    if adata.raw is not None:
        yield "raw.var", adata.raw.var


def _mend_key(attr: str, key: Any) -> tuple[str, str]:
    new = safe(str(key))
    return f"{attr}[{key!r}]", f"adata.{attr}[{new!r}] = adata.{attr}.pop({key!r})"


def _check_columns(table: Any, name: str, target: Location | None) -> None:
    found = columns(table) if is_lazy(table) else list(table.columns)
    at = f"adata.{name}"

    def mend(column: Any) -> tuple[str, str]:
        new = {column: safe(str(column))}
        if is_lazy(table):
            return f"the column {column!r} of {name}", f"{at} = {at}.to_memory().rename(columns={new})"
        if name == "raw.var":
            return f"the column {column!r} of {name}", f"{at}.columns = [{new}.get(c, c) for c in {at}.columns]"
        return f"the column {column!r} of {name}", f"{at} = {at}.rename(columns={new})"

    if "_index" in found:
        raise InputError(
            f"the column '_index' of {name} has the name under which AnnData stores names of rows",
            "another name",
            mend("_index")[1].replace("'_index': '_index'", "'_index': 'index'"),
        )
    _check_group(found, mend, name, target)
    index = None if is_lazy(table) else table.index.name
    if index is not None and not is_storable(index):
        check_name(index, f"the name {index!r} of the index of {name}", f"{at}.index.name = None")


def _check_group(keys: Iterable[Any], mend: Any, name: str, target: Location | None) -> None:
    folded: dict[str, Any] = {}
    for key in keys:
        if not is_storable(key):
            check_name(key, *mend(key))
        other = folded.setdefault(unicodedata.normalize("NFC", str(key)).casefold(), key)
        if other != key and target is not None and not is_h5ad(target) and folds_case(target):
            raise InputError(
                f"{name} has {other!r} and {key!r}, which are one name on the disk of {target}",
                "names that differ in more than capital letters, or another disk",
                f"rename {key!r}, or write to another disk",
            )


def folds_case(target: Location) -> bool:
    """Tell whether the disk of a place takes names for one that differ in capital letters alone; buckets never do."""
    if not target.is_local:
        return False
    folder = next(p for p in target.path.parents if p.exists())
    try:
        with tempfile.NamedTemporaryFile(prefix=".sc-dask-case-", dir=folder) as f:
            path = Path(f.name)
            return path.with_name(path.name.upper()).exists()
    except OSError:  # nothing can be written there: the writer says so
        return False


# -- names in uns --------------------------------------------------------------------------------


def with_safe_names(path: str, value: Any) -> Any:
    """Return an element of uns whose inner keys and columns can be stored, with a warning that names what was changed.

    Results hold names of groups there (batches, clusters), which may be anything.
    """
    changed: list[str] = []
    out = _renamed(value, changed)
    if changed:
        found = ", ".join(repr(name) for name in list(dict.fromkeys(changed))[:3])
        warnings.warn(
            f"found {found} in {path}; expected names without / or \\ in a store; "
            "next: nothing, they are stored with _ instead",
            ScDaskWarning,
            stacklevel=4,
        )
    return out


def _renamed(value: Any, changed: list[str]) -> Any:
    if isinstance(value, pd.DataFrame):
        new = _new_names(value.columns)
        changed += new
        return value.rename(columns=new) if new else value
    if isinstance(value, Mapping):
        new = _new_names(value)
        inner = {k: _renamed(v, changed) for k, v in value.items()}
        if not new and all(inner[k] is value[k] for k in value):
            return value
        changed += new
        return {new.get(k, k): v for k, v in inner.items()}
    return value


def _new_names(keys: Iterable[Any]) -> dict[Any, str]:
    """Return other names, each free, for those that cannot be stored."""
    taken = {k for k in keys if is_storable(k)}
    out: dict[Any, str] = {}
    for key in keys:
        if key not in taken and key not in out:
            new = safe(str(key))
            while new in taken:
                new += "_"
            taken.add(new)
            out[key] = new
    return out
