"""scanpy, where it is installed: it draws small pictures, asks web services, and calls libraries that need memory.

The one place that imports it for the namespace; nothing here runs before a function that needs it is called, and the
engine (``pp``, ``tl``, ``io``, ``pipeline``) does not use it.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from sc_dask.errors import MissingPackageError

_WAITING: dict[str, Any] = {}  # settings that are set when it is imported


def module(name: str = "") -> ModuleType:
    """Return scanpy, or one of its modules (``"queries"``).

    Raises
    ------
    MissingPackageError
        It is not installed.
    """
    if not is_installed():
        raise MissingPackageError(
            "scanpy is not installed, which this call hands over to",
            "scanpy 1.11.5 or later",
            "pip install 'sc-dask[plot]'",
        )
    found = importlib.import_module(f"scanpy.{name}" if name else "scanpy")
    while _WAITING:
        setattr(importlib.import_module("scanpy").settings, *_WAITING.popitem())
    return found


def on_import(setting: str, value: Any) -> None:
    """Set one of scanpy's settings once it is imported here: it takes seconds, so it is not imported for this."""
    _WAITING[setting] = value


def is_installed() -> bool:
    """Tell whether scanpy can be imported."""
    return is_imported() or find_spec("scanpy") is not None


def is_imported() -> bool:
    """Tell whether this process has imported scanpy already."""
    return sys.modules.get("scanpy") is not None


def data_file(*parts: str) -> Path | None:
    """Return a file that comes with scanpy, without importing it; None where it is not."""
    spec = find_spec("scanpy") if is_installed() else None
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder).joinpath(*parts)
        if path.is_file():
            return path
    return None


def settings() -> Any:
    """Return scanpy's settings: how its figures look and where they go."""
    return module().settings
