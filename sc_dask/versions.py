"""What is installed beside what sc_dask is developed with: for reports of faults and for run.json."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.resources import files
from typing import TextIO

from sc_dask import __version__

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def installed() -> dict[str, str]:
    """Return the versions of Python, sc_dask, every package that it needs, and scanpy; ``""`` where one is missing."""
    out = {"python": platform.python_version(), "sc-dask": __version__}
    for name in [*sorted(floors()), "scanpy"]:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = ""
    return out


def floors() -> dict[str, str]:
    """Return the lowest versions that sc_dask allows of the packages it needs."""
    try:
        needed = requires("sc-dask") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        return {}
    found = (re.match(r"([A-Za-z0-9_.-]+)(?:\[.*\])?>=([^;,\s]+)", need) for need in needed if "extra ==" not in need)
    return {m[1]: m[2] for m in found if m}


def locked(python: str = _PYTHON) -> dict[str, str]:
    """Return the versions that sc_dask is developed with on a Python version; empty where there is no such list."""
    lock = files("sc_dask") / "locks" / f"{python}.txt"
    if not lock.is_file():
        return {}
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    out: dict[str, str] = {}
    for line in lines:
        pinned, _, marker = line.partition(" ; ")
        if not marker or f'"{sys.platform}" and platform_machine == "{platform.machine()}"' in marker:
            name, _, found = pinned.partition("==")
            out[name] = found
    return out


def as_text() -> str:
    """Return a table of installed, developed-with and lowest versions."""
    here, tested, lowest = installed(), locked(), floors()
    rows = [("package", "installed", f"developed with on {_PYTHON}", "lowest")]
    for name, found in here.items():
        if name in ("python", "sc-dask"):
            continue
        rows.append((name, found or "missing", tested.get(name, "-"), lowest.get(name, "-")))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    head = f"sc_dask {__version__}, Python {here['python']} ({platform.python_implementation()}), {system}"
    other = [name for name, found in here.items() if name in tested and found and found != tested[name]]
    hint = "every version is one that sc_dask is developed with"
    if not tested:
        hint = f"sc_dask has no list of versions for Python {_PYTHON}"
    elif other:
        hint = f"other versions than sc_dask is developed with: {', '.join(other)}"
    return "\n".join([head, "", *table, "", f"{hint}.", "In a report of a fault, please paste all of this."])


def print_versions(*, file: TextIO | None = None) -> None:
    """Print what is installed, what sc_dask is developed with, and the lowest versions that it allows.

    Parameters
    ----------
    file
        Where to print; None: standard output.

    Examples
    --------
    >>> import sc_dask as sd
    >>> sd.print_versions()  # doctest: +ELLIPSIS
    sc_dask ...
    """
    print(as_text(), file=sys.stdout if file is None else file)
