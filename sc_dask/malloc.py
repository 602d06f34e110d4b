"""What we ask of glibc's malloc; elsewhere nothing happens.

glibc gives every thread an arena of its own, and no arena but the main one ever gives back the memory at its end: up to
64 MiB of every thread stay with the process after a pass. With one arena for all threads, runs of 50,000 and 100,000
cells take 10 to 25 % less memory and the same time (two threads), and take the same memory each time.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

_ARENA_MAX = -8  # of malloc.h
ENVIRONMENT = {"MALLOC_ARENA_MAX": 1}  # the same for a process that is yet to start


def one_arena() -> None:
    """Let all threads that are yet to start share one arena."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def trim() -> None:
    """Give the system back what is free, also what waits in reference cycles."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
