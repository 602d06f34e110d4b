"""Threads of the linear algebra libraries (BLAS): one while sc_dask computes.

sc_dask computes several blocks side by side, and the libraries give other digits for other numbers of threads.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_holders = 0
_limits: list[Any] = []


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS from starting threads; the number it had comes back when the last of those inside leaves.

    The setting is the process's, so threads that come and go in any order share it.
    """
    global _holders
    _enter()
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                while _limits:  # the first one knows what was there before
                    _limits.pop().restore_original_limits()


def _enter() -> None:
    global _holders
    from threadpoolctl import threadpool_limits

    with _lock:
        if not _holders:
            _limits.append(threadpool_limits(limits=1, user_api="blas"))
        _holders += 1
