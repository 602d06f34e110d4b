"""Where numba keeps machine code when it can write neither beside the sources nor into a home.

In a read-only image without a home (Singularity, a container with another uid) numba refuses to compile anything that
is to be kept. Then a folder of this user in the system's temporary folder takes it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from sc_dask.errors import ScDaskError, ScDaskWarning


def prepare(probe: Callable[..., Any]) -> None:
    """Give numba a folder for machine code if it has none for functions beside ``probe``, which is not compiled.

    numba chooses the folder as a function is decorated. Its setting and ``NUMBA_CACHE_DIR`` are set for this process
    and those that it starts, so that other libraries find the place too.

    Raises
    ------
    ScDaskError
        Nothing can be written anywhere.
    """
    if _has_place(probe):
        return
    try:
        folder = _own_folder()
    except OSError as e:
        raise ScDaskError(
            f"numba can write its machine code nowhere: {e}",
            "a folder that can be written",
            "export NUMBA_CACHE_DIR=/a/folder/that/can/be/written",
        ) from e
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]


def _has_place(probe: Callable[..., Any]) -> bool:
    try:
        numba.njit(cache=True)(probe)
    except RuntimeError:  # no locator available
        return False
    return True


def _own_folder() -> Path:
    """Return a folder that nobody else can write to: what is in it is run."""
    folder = Path(tempfile.gettempdir()) / f"sc-dask-numba-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
        if stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022:
            tempfile.TemporaryFile(dir=folder).close()
            return folder
    except OSError:  # a file of that name, or one that cannot be written
        pass
    made = tempfile.mkdtemp(prefix="sc-dask-numba-")
    atexit.register(_remove, made, os.getpid())
    warnings.warn(
        f"found no folder that lasts for numba's machine code ({folder} is not this user's own); expected one; "
        "next: export NUMBA_CACHE_DIR=/a/folder, or functions are compiled anew in every process",
        ScDaskWarning,
        stacklevel=2,
    )
    return Path(made)


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        shutil.rmtree(folder, ignore_errors=True)
