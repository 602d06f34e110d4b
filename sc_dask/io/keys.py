"""Keys and columns that become paths in a store: which are refused, and what is done about others before writing.

In a store a key is a folder. ``a/b`` would be two of them, which no reader puts together again, and "" is the folder
around.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.outside.anndata import named_layers
from sc_dask.tables import columns, is_lazy

if TYPE_CHECKING:
    from anndata import AnnData

_MAPPINGS = ("obsm", "varm", "obsp", "varp", "uns")


def is_storable(name: Any) -> bool:
    """Tell whether a key or column can be a name in a store."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and "\\" not in name


def safe(name: str) -> str:
    """Return a name like this one that can be stored."""
    replaced = name.replace("/", "_").replace("\\", "_")
    return replaced if replaced not in ("", ".", "..") else "unnamed"


def check(adata: AnnData) -> None:
    """Refuse an AnnData with keys or columns that cannot be names in a store; nothing is read.

    Raises
    ------
    InputError
        Names the first of them, and the call that mends it.
    """
    for key, _ in named_layers(adata):
        _check_key("layers", key)
    for attr in _MAPPINGS:
        for key, value in getattr(adata, attr).items():
            _check_key(attr, key)
            if attr != "uns" and isinstance(value, pd.DataFrame):
                for column in _unstorable(value):
                    raise _refused(f"the column {column!r} of {attr}[{key!r}]", "rename the column")
    tables = [("obs", adata.obs), ("var", adata.var)]
    if adata.raw is not None:
        tables.append(("raw.var", adata.raw.var))
    for axis, table in tables:
        for column in _unstorable(table):
            new = {column: safe(str(column))}
            raise _refused(f"the column {column!r} of {axis}", f"adata.{axis} = adata.{axis}.rename(columns={new})")


def _check_key(attr: str, key: Any) -> None:
    if not is_storable(key):
        raise _refused(f"{attr}[{key!r}]", f"adata.{attr}[{safe(str(key))!r}] = adata.{attr}.pop({key!r})")


def _refused(what: str, fix: str) -> InputError:
    return InputError(f"{what} cannot be a name in a store", "a name that is not empty and holds no / or \\", fix)


def _unstorable(table: Any) -> Iterator[Any]:
    found = list(columns(table)) if is_lazy(table) else list(table.columns)
    name = None if is_lazy(table) else table.index.name
    yield from (c for c in [*found, *([] if name is None else [name])] if not is_storable(c))


def with_safe_names(path: str, value: Any) -> Any:
    """Return an element of uns whose inner keys and columns can be stored, with a warning that names what was changed.

    Results hold names of groups there (batches, clusters), which may be anything.
    """
    changed: list[str] = []
    out = _renamed(value, changed)
    if changed:
        names = ", ".join(repr(name) for name in list(dict.fromkeys(changed))[:3])
        warnings.warn(
            f"found {names} in {path}; expected names without / or \\ in a store; "
            "next: nothing, they are stored with _ instead",
            ScDaskWarning,
            stacklevel=4,
        )
    return out


def _renamed(value: Any, changed: list[str]) -> Any:
    if isinstance(value, pd.DataFrame):
        bad = [c for c in value.columns if not is_storable(c)]
        changed += bad
        return value.rename(columns={c: _free(str(c), value.columns) for c in bad}) if bad else value
    if isinstance(value, Mapping):
        bad = [k for k in value if not is_storable(k)]
        inner = {k: _renamed(v, changed) for k, v in value.items()}
        if not bad and all(inner[k] is value[k] for k in value):
            return value
        changed += bad
        return {_free(str(k), value) if k in bad else k: v for k, v in inner.items()}
    return value


def _free(name: str, taken: Any) -> str:
    new = safe(name)
    while new in taken:
        new += "_"
    return new
