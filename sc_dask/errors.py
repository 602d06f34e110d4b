"""Every exception and warning of sc_dask.

A message has three parts: what was found, what was expected, and what to do next.
"""

from __future__ import annotations

import errno


class ScDaskError(Exception):
    """Base of every error raised on purpose.

    Parameters
    ----------
    found
        What is wrong, naming the file, slot, gene or option.
    expected
        What would have been right.
    fix
        What to type next.
    """

    def __init__(self, found: str, expected: str | None = None, fix: str | None = None) -> None:
        super().__init__(found, expected, fix)
        self.found, self.expected, self.fix = found, expected, fix

    def __str__(self) -> str:
        parts = [self.found]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.fix:
            parts.append(f"next: {self.fix}")
        return "; ".join(parts)


class InputError(ScDaskError, ValueError):
    """An argument or a matrix is not what the function's contract says."""


class MissingKeyError(InputError, KeyError):
    """A slot, column, gene or group that was asked for is not there."""

    __str__ = ScDaskError.__str__


class MissingPackageError(ScDaskError, ImportError):
    """A call needs a package that is not installed; names it."""

    __str__ = ScDaskError.__str__


class UnavailableError(ScDaskError, AttributeError):
    """A name of scanpy that is left out on purpose; says what to use."""

    __str__ = ScDaskError.__str__


class FormatError(ScDaskError):
    """A file is damaged or of a kind that is not supported; names the path and what was found."""


class StoreError(ScDaskError):
    """A store is missing, unfinished (no commit mark), has missing chunks, or would be overwritten."""


class NothingThereError(StoreError, FileNotFoundError):
    """There is no file or store at a path or URL."""

    def __init__(self, found: str, expected: str | None = None, fix: str | None = None) -> None:
        super().__init__(found, expected, fix)
        self.errno, self.filename = errno.ENOENT, None

    __str__ = ScDaskError.__str__


class TakenOverError(StoreError):
    """Another process has begun to write at the same place of a bucket."""


class MemoryBudgetError(ScDaskError):
    """No plan fits the memory budget; names what to change."""


class BackedError(InputError, NotImplementedError):
    """A backed AnnData, whose X is neither in memory nor lazy; scanpy raises ``NotImplementedError`` there."""


class StalledError(ScDaskError):
    """A cluster made no progress within the deadline."""


class ScDaskWarning(UserWarning):
    """Base of every warning."""


class CountsWarning(ScDaskWarning):
    """The matrix does not look like what the function expects (for instance counts)."""


class RecallWarning(ScDaskWarning):
    """Approximate neighbours missed more true neighbours than was asked for."""
