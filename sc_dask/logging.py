"""``sd.logging``: what scanpy's module of that name offers to scripts, told by the logger ``sc_dask``.

How much is shown is ``sd.settings.verbosity``. Modules of the package use `sc_dask.log` and the standard ``logging``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from logging import CRITICAL, DEBUG, ERROR, INFO, WARNING
from typing import Any, TextIO

from sc_dask import __version__
from sc_dask.log import HINT, logger
from sc_dask.versions import print_versions

__all__ = [
    "CRITICAL",
    "DEBUG",
    "ERROR",
    "HINT",
    "INFO",
    "WARNING",
    "debug",
    "error",
    "get_memory_usage",
    "hint",
    "info",
    "print_header",
    "print_memory_usage",
    "print_version_and_date",
    "print_versions",
    "warning",
]
_IN_HEADER = ("scanpy", "anndata", "dask", "zarr", "numpy", "scipy", "pandas", "numba", "scikit-learn", "umap-learn")


def _tell(level: int, msg: str, time: datetime | None, deep: str | None, extra: Mapping[str, Any] | None) -> datetime:
    now = datetime.now(UTC)
    text = str(msg)
    for key, value in (extra or {}).items():
        text = text.replace(f"{{{key}}}", str(value))
    if time is not None:
        passed = timedelta(seconds=int((now - time).total_seconds()))
        shown = "{time_passed}" in text
        text = text.replace("{time_passed}", str(passed)) if shown else f"{text} ({passed})"
    if deep is not None and logger.isEnabledFor(level - 1):
        text = f"{text}: {deep}"
    logger.log(level, "%s", text)
    return now


def error(
    msg: str, *, time: datetime | None = None, deep: str | None = None, extra: Mapping[str, Any] | None = None
) -> datetime:
    """Tell of an error, and return the time.

    Parameters
    ----------
    msg
        What is told. ``{time_passed}`` and the keys of ``extra`` stand for their values.
    time
        An earlier time, as these functions return it: what has passed since then is told too.
    deep
        Told too where the verbosity is higher than this function's.
    extra
        Values for ``msg``.
    """
    return _tell(ERROR, msg, time, deep, extra)


def warning(
    msg: str, *, time: datetime | None = None, deep: str | None = None, extra: Mapping[str, Any] | None = None
) -> datetime:
    """Warn of something (see `error`)."""
    return _tell(WARNING, msg, time, deep, extra)


def info(
    msg: str, *, time: datetime | None = None, deep: str | None = None, extra: Mapping[str, Any] | None = None
) -> datetime:
    """Tell what is done (see `error`)."""
    return _tell(INFO, msg, time, deep, extra)


def hint(
    msg: str, *, time: datetime | None = None, deep: str | None = None, extra: Mapping[str, Any] | None = None
) -> datetime:
    """Give advice (see `error`)."""
    return _tell(HINT, msg, time, deep, extra)


def debug(
    msg: str, *, time: datetime | None = None, deep: str | None = None, extra: Mapping[str, Any] | None = None
) -> datetime:
    """Tell a detail (see `error`)."""
    return _tell(DEBUG, msg, time, deep, extra)


def print_header(*, file: TextIO | None = None) -> None:
    """Print one line of the versions that can change numbers; `print_versions` prints all of them.

    Parameters
    ----------
    file
        Where to print; None: standard output.
    """
    found = [f"sc_dask=={__version__}"]
    for name in _IN_HEADER:
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    print(" ".join(found), file=sys.stdout if file is None else file)


def print_version_and_date(*, file: TextIO | None = None) -> None:
    """Print the version of sc_dask and the time."""
    now = datetime.now().strftime("%Y-%m-%d %H:%M")
    print(f"sc_dask {__version__}, {now}", file=sys.stdout if file is None else file)


def get_memory_usage() -> tuple[float, float]:
    """Return the gigabytes that this process holds, and by how much that changed since the last call (anndata's)."""
    import anndata.logging

    found = anndata.logging.get_memory_usage()
    return float(found[0]), float(found[1])


def print_memory_usage(msg: str = "", newline: bool = False) -> None:
    """Print the memory that this process holds (anndata's)."""
    import anndata.logging

    anndata.logging.print_memory_usage(msg, newline=newline)
