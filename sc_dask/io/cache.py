"""Copies of files that cannot be read in place: converted once, found again, bounded in bytes.

A copy is a folder ``<name of the file>-<token>`` in the cache directory, with the converted store and a mark that says
what it was made from. The token covers the path, the state of every file that is read, and the options; so a file that
was written again is converted again. A process that uses a copy holds a shared lock on its mark until it ends. Where
all copies together take more than the option ``sc-dask.cache-bytes``, those that were not used for longest are
removed, unless somebody uses them; nothing else in the directory is touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pandas as pd
from anndata import AnnData
from dask.base import tokenize

from sc_dask import config
from sc_dask.io.blobs.store import Location, fingerprint
from sc_dask.io.convert import convert
from sc_dask.io.formats import tenx
from sc_dask.io.read import read
from sc_dask.io.writing import layout as disk
from sc_dask.log import logger
from sc_dask.work import WorkFolder

_MARK, _STORE, _PREFIX = ".sc-dask-copy.json", "X.zarr", "sc-dask-copy-"
_IN_USE: dict[str, IO[str]] = {}  # the marks of copies that this process has opened


def converted(
    source: Location, kind: str, options: Mapping[str, Any], folder: Path | None, block_bytes: int | None = None
) -> AnnData:
    """Return a file as a lazy AnnData, by way of a converted copy.

    Parameters
    ----------
    source, kind, options
        What is converted, of which kind (see `sc_dask.io.blobs.store.sniff`), and with which options of ``convert``.
    folder
        Where copies are kept; None: the copy goes with this process.
    block_bytes
        Bytes of one decoded row block.
    """
    if folder is None:
        work = WorkFolder.make("copy")
        work.keep()
        return convert(source, work.path / _STORE, block_bytes=block_bytes, kind=kind, **options)
    state = state_of(source, kind, options.get("prefix"))
    token = tokenize(source.url, state, kind, dict(options), disk.LAYOUT_VERSION, text_type())
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", source.name)[:60]
    entry = folder / f"{_PREFIX}{slug}-{token[:16]}"
    store = entry / _STORE
    if str(entry) in _IN_USE and store.exists():
        os.utime(entry / _MARK)
        return read(store, block_bytes=block_bytes)
    with _held(entry) as mark:
        if not _is_whole(mark, store):
            logger.info("converting %s, which cannot be read in place, into %s", source, entry)
            convert(source, store, overwrite=store.exists(), kind=kind, **options)
            _say(mark, {"source": source.url, "options": dict(options), "bytes": _size(entry)})
            _bound(folder, entry)
    logger.debug("reading %s from its copy %s", source, entry)
    return read(store, block_bytes=block_bytes)


def text_type() -> str:
    """Return the type that pandas gives to text.

    Text that was written under pandas 3 comes back as nullable text under pandas 2, which anndata 0.12 does not write.
    """
    return str(pd.Series(["text"]).dtype)


def state_of(source: Location, kind: str, prefix: str | None = None) -> list[str]:
    """Return a text for every file that is read, which changes when the file does."""
    if kind == "10x-mtx":
        place, files = tenx.folder_files(source, prefix)
        return [f"{name}:{fingerprint(place / name)}" for name in sorted(files.values())]
    return [fingerprint(source)]


# -- the mark ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _held(entry: Path) -> Iterator[IO[str]]:
    """Give the mark of a copy, locked against everybody while it is not whole; it stays shared after the block."""
    entry.mkdir(parents=True, exist_ok=True)
    path = entry / _MARK
    while True:
        file = path.open("a+")
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(file, fcntl.LOCK_SH)
            if not _is_whole(file, entry / _STORE):
                fcntl.flock(file, fcntl.LOCK_UN)
                fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # somebody has just removed the copy
        entry.mkdir(parents=True, exist_ok=True)
    try:
        yield file
    except BaseException:
        file.close()
        raise
    os.utime(path)
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH)
    _IN_USE[str(entry)] = file


def _is_whole(mark: IO[str], store: Path) -> bool:
    mark.seek(0)
    return bool(mark.read()) and store.exists()


def _say(mark: IO[str], words: dict[str, Any]) -> None:
    mark.seek(0)
    mark.truncate()
    json.dump(words, mark)
    mark.flush()


# -- the bound -----------------------------------------------------------------------------------


def _size(entry: Path) -> int:
    return sum(p.stat().st_size for p in entry.rglob("*") if p.is_file())


def _bound(folder: Path, newest: Path) -> None:
    """Remove the copies that were not used for longest, until the rest fits."""
    limit = config.n_bytes("cache-bytes")
    if limit is None:
        return
    marks = sorted(folder.glob(f"{_PREFIX}*/{_MARK}"), key=lambda p: p.stat().st_mtime)
    sizes = {mark.parent: _size(mark.parent) for mark in marks}
    total = sum(sizes.values())
    for entry, size in sizes.items():
        if total <= limit:
            return
        if entry != newest and _removed(entry):
            total -= size
            logger.info("removed the copy %s (%s bytes): all copies may take %s", entry, size, limit)


def _removed(entry: Path) -> bool:
    """Remove a copy unless somebody uses it; tell whether it is gone."""
    try:
        with (entry / _MARK).open("a+") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry)
            return True
    except OSError:  # in use, or a disk without locks, where nobody can tell
        return False
