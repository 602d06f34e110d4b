"""Temporary folders and files: each has a unique name and an owner that removes it; nothing else is ever removed.

A work folder holds a marker file that its owner keeps locked. Folders whose owner was killed are removed by the next
process of the same user on the same machine that makes a folder beside them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import dask.config

from sc_dask import config
from sc_dask.errors import StoreError

_MARKER = ".sc-dask-work"
_OWN = ".sc-dask-own"  # in a folder whose name any program could have given it
_HOLDER = r"process \d+ of .*"  # what a lock file says
_EMPTY = "process 0 of nobody"  # one whose holder was killed before it said so
_PREFIX = "sc-dask-"
_IN_MEMORY = {"tmpfs", "ramfs"}


_KEPT: list[WorkFolder] = []


class WorkFolder:
    """A temporary folder that goes with the last object that holds it, at the latest when its process ends.

    A pickled or forked copy only borrows it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._finalizer: Any = None

    @classmethod
    def make(cls, kind: str, *, lasting: bool = False) -> WorkFolder:
        """Make a new folder in the option ``work-dir``, or where `scratch` says; a lasting one is never removed."""
        parent = scratch()
        os.makedirs(parent, exist_ok=True)
        _remove_orphans(parent)
        made = cls(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-", dir=parent))
        if lasting:
            return made
        lock = _locked_marker(made.path)
        made._finalizer = weakref.finalize(made, _remove, made.path, os.getpid(), lock)
        return made

    def keep(self) -> None:
        """Hold the folder until this process ends, whoever holds this object."""
        _KEPT.append(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkFolder, (str(self.path),)

    def __str__(self) -> str:
        return str(self.path)

    def remove(self) -> None:
        """Remove the folder now, if it is this object's own."""
        if self._finalizer is not None:
            self._finalizer()


def is_own(folder: Path) -> bool:
    """Tell whether `claim` has made a folder ours."""
    return (folder / _OWN).is_file()


def not_ours(place: object) -> StoreError:
    """Return the error for something that stands where we write, and that we did not make."""
    return StoreError(
        f"{place} is in the way: sc-dask did not make it", "a free place", "move it away, or name another output"
    )


def check_own(folder: Path) -> None:
    """Refuse a place that is neither free nor an empty folder nor ours.

    Raises
    ------
    StoreError
        It is somebody else's.
    """
    if not os.path.lexists(folder) or is_own(folder):
        return
    if not folder.is_dir() or any(not name.startswith(_OWN) for name in os.listdir(folder)):
        raise not_ours(folder)


def claim(folder: Path) -> None:
    """Make a folder that is ours to remove; an empty one that was there is used, and `release` leaves it there.

    Raises
    ------
    StoreError
        Something that is not ours stands there.
    """
    check_own(folder)
    if is_own(folder):
        return
    found = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    new = partial(folder / _OWN)
    new.write_text(json.dumps({"found": found}))
    new.replace(folder / _OWN)


def release(folder: Path, only: str | None = None) -> None:
    """Remove a claimed folder; with ``only`` what has such a name (a pattern), and the rest stays with the folder."""
    if not is_own(folder):
        return
    stays = bool(json.loads((folder / _OWN).read_text() or "{}").get("found"))
    entries = [p for p in folder.iterdir() if not p.name.startswith(_OWN)]
    for path in entries:
        if only is None or re.fullmatch(only, path.name):
            remove_entry(path)
    for marker in folder.glob(f"{_OWN}*"):
        marker.unlink(missing_ok=True)
    if not stays:
        with contextlib.suppress(OSError):  # what is not ours is in it
            folder.rmdir()


def remove_entry(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link without what it points to; nothing where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[str | None]:
    """Hold a lock file inside the block; yields who holds it where that is somebody else, else None.

    The file goes with the lock. On a disk without locks nobody is kept away.

    Raises
    ------
    StoreError
        A file that is no lock of ours has the name.
    """
    file = _lock(path)
    if isinstance(file, str):
        yield file
        return
    try:
        yield None
    finally:
        path.unlink(missing_ok=True)
        file.close()


def check_lock(path: Path) -> None:
    """Refuse a place for a lock that is neither free nor a lock of ours.

    Raises
    ------
    StoreError
        It is somebody else's.
    """
    if not os.path.lexists(path):
        return
    try:
        text = "" if path.is_symlink() or not path.is_file() else path.read_text() or _EMPTY
    except FileNotFoundError:  # its holder has just removed it
        return
    except ValueError:  # no text
        text = ""
    if not re.fullmatch(_HOLDER, text):
        raise not_ours(path)


def _lock(path: Path) -> IO[str] | str:
    """Return the locked file, or who holds it."""
    while True:
        check_lock(path)
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            return holder
        except OSError:  # no locks here
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(f"process {os.getpid()} of {socket.gethostname()}")
                file.flush()
                return file
        file.close()  # its holder has just removed it


def scratch() -> str:
    """Return the folder for temporary folders: a disk, because what is put there may be larger than memory.

    The option ``sc-dask.work-dir``; else Dask's ``temporary-directory``; else the system's temporary folder, or
    ``/var/tmp`` where that one is in memory and was not chosen by ``TMPDIR``.
    """
    chosen = config.get("work-dir") or dask.config.get("temporary-directory", None)
    if chosen:
        return str(chosen)
    system = tempfile.gettempdir()
    if os.environ.get("TMPDIR") or _filesystem(system) not in _IN_MEMORY:
        return system
    lasting = "/var/tmp"
    return lasting if os.access(lasting, os.W_OK) and _filesystem(lasting) not in _IN_MEMORY else system


def partial(path: Path) -> Path:
    """Return a name beside ``path`` that no other process, thread or machine takes, for a file until it is whole."""
    return path.with_name(f"{path.name}.partial-{uuid.uuid4().hex}")


@contextlib.contextmanager
def replacing(kind: str, target: Path) -> Iterator[Path | None]:
    """Give a place beside the target to write to, which takes the target's name when the block ends without an error.

    A link stays a link: what it points to is replaced. After an error nothing of the new file is left.
    """
    real = Path(os.path.realpath(target))
    if kind != "h5ad" and real.exists() and not real.is_dir():
        raise StoreError(f"{target} is a file", "a folder, or a free path", "choose another path")
    new = partial(real)
    new = new.with_name(f".{new.name}{real.suffix}")
    try:
        yield new
        if kind == "h5ad":
            os.replace(new, real)
        else:
            _swap(new, real)
    finally:
        if new.is_dir():
            shutil.rmtree(new, ignore_errors=True)
        new.unlink(missing_ok=True)


def _swap(new: Path, real: Path) -> None:
    """Put a folder in the place of another, which cannot be one step: the old one goes last."""
    if not real.exists():
        new.rename(real)
        return
    old = new.with_name(f"{new.name}.old")
    real.rename(old)
    try:
        new.rename(real)
    except OSError:
        old.rename(real)
        raise
    shutil.rmtree(old)


def _filesystem(path: str) -> str:
    """Return the type of the filesystem of a path; "" where the system does not tell."""
    found = ("", "")
    with contextlib.suppress(OSError):
        real = os.path.realpath(path)
        for line in Path("/proc/mounts").read_text().splitlines():
            _, at, kind, *_ = line.split(" ")
            inside = at == "/" or f"{real}/".startswith(f"{at}/")
            if inside and len(at) >= len(found[0]):
                found = (at, kind)
    return found[1]


def _locked_marker(folder: Path) -> IO[str]:
    """Write the marker; it has its name only once it is locked."""
    new = folder / f"{_MARKER}.new"
    file = new.open("w")
    json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
    file.flush()
    with contextlib.suppress(OSError):  # a disk without locks: nobody will take the folder for an orphan
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    new.replace(folder / _MARKER)
    return file


def _remove(path: Path, pid: int, lock: IO[str]) -> None:
    if os.getpid() != pid:  # a forked child must not take its parent's folder
        return
    if (path / _MARKER).exists():
        shutil.rmtree(path, ignore_errors=True)
    lock.close()


def _remove_orphans(parent: str) -> None:
    """Remove the folders beside ours whose owners were killed: ours by user, machine and marker, and not locked."""
    for marker in Path(parent).glob(f"{_PREFIX}*/{_MARKER}"):
        with contextlib.suppress(OSError, ValueError), marker.open("r+") as file:
            if os.fstat(file.fileno()).st_uid != os.getuid() or json.load(file)["host"] != socket.gethostname():
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(marker.parent, ignore_errors=True)
