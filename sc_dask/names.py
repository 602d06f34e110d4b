"""Names of keys and columns that a store can hold.

In a store a key is a folder. ``a/b`` would be two of them, which no reader puts together again, "" is the folder
around, and ``zarr.json`` its metadata. Names are refused that any disk or bucket refuses or takes for another one, so
that a store can be copied anywhere.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable
from typing import Any

from sc_dask.errors import InputError, ScDaskWarning

MOST_BYTES = 255  # of a file's name, on the disks that are in use
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_EXPECTED = "a name that is not empty, holds no /, \\ or control character, and has at most 255 bytes"


def is_storable(name: Any) -> bool:
    """Tell whether a key or column can be a name in a store."""
    return why_not(name) is None


def why_not(name: Any) -> str | None:
    """Return why a key or column cannot be a name in a store, or None if it can."""
    if not isinstance(name, str):
        return f"it is no text but of type {type(name).__name__}"
    if name in ("", ".", ".."):
        return "it names the folder it would stand in" if name != ".." else "it names another folder"
    if "/" in name or "\\" in name:
        return "/ and \\ part folders"
    if name in _METADATA:
        return "zarr keeps its metadata under it"
    if any(unicodedata.category(c) == "Cc" for c in name):
        return "it holds a control character"
    try:
        n_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "it is not Unicode"
    return f"it has {n_bytes} bytes" if n_bytes > MOST_BYTES else None


def safe(name: str) -> str:
    """Return a name like this one that can be stored."""
    new = "".join("_" if c in "/\\" or unicodedata.category(c) == "Cc" else c for c in str(name))
    new = new.encode("utf-8", "replace").decode()
    new = new.lstrip(".").replace(".", "_") if new in _METADATA else new
    new = new.encode()[: MOST_BYTES - 15].decode("utf-8", "ignore") if len(new.encode()) > MOST_BYTES else new
    return new if new not in ("", ".", "..") else "unnamed"


def check_name(name: Any, what: str, fix: str | None = None) -> None:
    """Refuse a name that cannot be stored; ``what`` tells what it names.

    Raises
    ------
    InputError
        Says what is wrong with the name, and the call that mends it.
    """
    reason = why_not(name)
    if reason is not None:
        raise InputError(f"{what} cannot be a name in a store: {reason}", _EXPECTED, fix)


def warn_name(name: Any, what: str, fix: str, *, stacklevel: int = 3) -> None:
    """Warn of a name that cannot be stored: it may be used in memory, and writing refuses it."""
    reason = why_not(name)
    if reason is not None:
        warnings.warn(
            f"{what} cannot be a name in a store: {reason}; expected {_EXPECTED}; next: {fix}",
            ScDaskWarning,
            stacklevel=stacklevel,
        )


def check_new(**given: Any) -> None:
    """Warn of names of results (an argument and its value: a text, several of them, or None) that cannot be stored.

    Called by a function before it reads X, so that who wants to write the result knows in time.
    """
    for argument, value in given.items():
        several = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
        for name in several:
            if name is not None:
                warn_name(name, f"{argument}={name!r}", f"{argument}={safe(str(name))!r}", stacklevel=4)
