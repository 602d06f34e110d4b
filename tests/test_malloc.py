"""One arena for all threads, and what is free goes back."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from sc_dask import malloc

PROGRAM = """
import ctypes, sys, threading
from sc_dask import malloc
if sys.argv[1] == "one":
    malloc.one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
both = threading.Barrier(2)
def work():
    p = libc.malloc(100_000)
    both.wait()
    libc.free(p)
threads = [threading.Thread(target=work) for _ in range(2)]
[t.start() for t in threads]
[t.join() for t in threads]
libc.malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_one_arena__threads_share_it() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def n_arenas(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True, env=env)
        return done.stderr.count("\nArena ") + done.stderr.startswith("Arena ")

    assert n_arenas("as it is") > 1
    assert n_arenas("one") == 1


def test_trim__does_no_harm_where_malloc_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    malloc.one_arena()
    malloc.trim()
