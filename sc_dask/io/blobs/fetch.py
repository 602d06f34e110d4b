"""Stored bytes: parts of the objects of a store, from a local folder or over any fsspec filesystem.

Parts are asked for first and waited for later. A local part is read when it is waited for, into memory that is used
again; from afar, many are under way at once. `together` runs several readings turn by turn, so that the bytes of all
of them are under way before any is decoded.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sc_dask.errors import FormatError, StoreError
from sc_dask.io.blobs.buffers import BUFFERS
from sc_dask.io.blobs.store import Location
from sc_dask.outside.fsspec import takes_negative_start

IN_FLIGHT = 64  # requests for one array at once
RUN_BYTES = 1 << 20  # neighbouring parts of an object are one request up to this

Raw = np.ndarray  # uint8
Answer = Callable[[], Raw | None]
"""Waits for a part and returns its bytes, or None where there is no such object; may be called again."""

Steps = Generator[None, None, np.ndarray]
"""A reading that yields where it would wait for bytes under way, and returns the values."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes ``start : start + size`` of an object; without a size all of it, from a negative start its last bytes."""

    key: str
    start: int = 0
    size: int | None = None

    @property
    def end(self) -> int | None:
        return None if self.size is None else self.start + self.size


class Objects(Protocol):
    """Where the objects of a store are."""

    @property
    def name(self) -> str: ...
    def ask(self, parts: Sequence[ByteRange]) -> list[Answer]:
        """Ask for parts; returns at once.

        Raises
        ------
        FormatError
            From the answer: an object ends before the part does.
        StoreError
            From the answer: the part cannot be read.
        """
        ...


@runtime_checkable
class Stepwise(Protocol):
    """A stored vector whose bytes can be under way while others are waited for."""

    def steps(self, start: int, stop: int) -> Steps:
        """Read entries ``start:stop`` step by step."""
        ...


def together(readings: Sequence[Steps]) -> list[np.ndarray]:
    """Return the values of several readings, each waiting only when all others have asked for what they need."""
    found: dict[int, np.ndarray] = {}
    while len(found) < len(readings):
        for k, reading in enumerate(readings):
            if k not in found:
                try:
                    next(reading)
                except StopIteration as end:
                    found[k] = end.value
    return [found[k] for k in range(len(readings))]


def steps_of(vector: Any, start: int, stop: int) -> Steps:
    """Return the reading of ``vector[start:stop]``; one step for vectors that cannot do it in several."""
    if isinstance(vector, Stepwise):
        return (yield from vector.steps(start, stop))
    values: np.ndarray = vector.read(start, stop)
    return values


def objects_at(location: Location, newest_ns: int | None = None) -> Objects | None:
    """Return the objects of a location, or None where only zarr can read them (zips, chained and private loops).

    ``newest_ns``: the latest modification time of local files when the array was opened; later ones are refused.
    """
    if location.is_zip:
        return None
    if location.is_local:
        return LocalObjects(location.path, newest_ns)
    if "::" in location.url:
        return None
    fs, path = location.fs()
    if fs.async_impl and fs.loop is None:  # it belongs to somebody else's event loop
        return None
    return RemoteObjects(location, fs, path)


def written_again(name: str) -> StoreError:
    """Return the error of a file that is no longer what was opened."""
    return StoreError(
        f"{name} was written again after it was opened", "the file as it was", "read it again with sd.read"
    )


def _whole(raw: Raw, part: ByteRange, name: str) -> Raw:
    wanted = -part.start if part.start < 0 else part.size
    if wanted is None or len(raw) == wanted:
        return raw
    if len(raw) < wanted:
        raise FormatError(f"{name}/{part.key} ends early", "a whole object", "copy it again")
    raise StoreError(
        f"the server of {name} cannot give parts of a file", "one that answers range requests", "download the store"
    )


class LocalObjects:
    """Files in a folder.

    One that was written after ``newest_ns`` (of its modification time) is an error: what is known of the others would
    not fit it.
    """

    def __init__(self, root: Path, newest_ns: int | None = None) -> None:
        self.name, self._newest_ns = str(root), newest_ns

    def ask(self, parts: Sequence[ByteRange]) -> list[Answer]:
        return [partial(self._read, part) for part in parts]

    def _read(self, part: ByteRange) -> Raw | None:
        try:
            fd = os.open(f"{self.name}/{part.key}", os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            info = os.fstat(fd)
            end = info.st_size
            if self._newest_ns is not None and info.st_mtime_ns > self._newest_ns:
                raise written_again(f"{self.name}/{part.key}")
            start = max(end + part.start, 0) if part.start < 0 else part.start
            size = max(end - start, 0) if part.size is None else part.size
            if start + size > end:
                raise FormatError(f"{self.name}/{part.key} ends early", "a whole object", "copy it again")
            raw, done = BUFFERS.empty(size, np.uint8), 0
            while done < size:
                n = os.preadv(fd, [raw.data[done:]], start + done)
                if n <= 0:
                    raise FormatError(f"{self.name}/{part.key} ends early", "a whole object", "copy it again")
                done += n
        finally:
            os.close(fd)
        return _whole(raw, part, self.name)


class RemoteObjects:
    """Objects of an fsspec filesystem. An asynchronous one has up to `IN_FLIGHT` requests under way."""

    def __init__(self, location: Location, fs: Any, path: str) -> None:
        self.name = str(location)
        self._fs, self._path = fs, path.rstrip("/")
        self._free = asyncio.Semaphore(IN_FLIGHT)

    def ask(self, parts: Sequence[ByteRange]) -> list[Answer]:
        if not self._fs.async_impl:
            return [partial(self._answer, part, partial(self._cat, part), part) for part in parts]
        answers: list[Answer] = []
        for run, members in _runs(parts):
            sent = asyncio.run_coroutine_threadsafe(self._cat_async(run), self._fs.loop)
            answers += [partial(self._answer, run, sent.result, part) for part in members]
        return answers

    def _cat(self, run: ByteRange) -> bytes:
        path = f"{self._path}/{run.key}"
        size = self._fs.info(path)["size"] if self._is_sized(run) else None
        raw: bytes = self._fs.cat_file(path, **_where(run, size))
        return raw

    async def _cat_async(self, run: ByteRange) -> bytes:
        path = f"{self._path}/{run.key}"
        async with self._free:
            size = (await self._fs._info(path))["size"] if self._is_sized(run) else None
            raw: bytes = await self._fs._cat_file(path, **_where(run, size))
        return raw

    def _is_sized(self, run: ByteRange) -> bool:
        """Tell whether the size of an object must be known to ask for its last bytes."""
        return run.start < 0 and not takes_negative_start(self._fs)

    def _answer(self, run: ByteRange, get: Callable[[], bytes], part: ByteRange) -> Raw | None:
        try:
            raw = np.frombuffer(get(), np.uint8)
        except FileNotFoundError:
            return None
        except Exception as err:  # each filesystem has its own: no such host, access denied, connection lost
            text = str(err).splitlines()[0] if str(err) else type(err).__name__
            raise StoreError(f"{self.name}/{run.key} cannot be read: {text}", "a readable store", "try again") from err
        raw = _whole(raw, run, self.name)
        return raw if part is run else raw[part.start - run.start :][: part.size]


def _where(run: ByteRange, size: int | None) -> dict[str, int | None]:
    """Return start and end of a part, from the beginning where the size of the object is given."""
    return {"start": run.start, "end": run.end} if size is None else {"start": max(0, size + run.start), "end": size}


def _runs(parts: Sequence[ByteRange]) -> list[tuple[ByteRange, list[ByteRange]]]:
    """Return the parts in order, neighbours of one object joined into one request of up to `RUN_BYTES`."""
    runs: list[tuple[ByteRange, list[ByteRange]]] = []
    for part in parts:
        if runs and part.size is not None:
            run, members = runs[-1]
            size = (run.size or 0) + part.size
            if run.size is not None and run.key == part.key and run.end == part.start and size <= RUN_BYTES:
                runs[-1] = (ByteRange(run.key, run.start, size), [*members, part])
                continue
        runs.append((part, [part]))
    return runs
