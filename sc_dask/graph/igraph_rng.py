"""The random generator of igraph: there is one for the process, and one caller at a time may use it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ONE = threading.Lock()


@contextmanager
def of_igraph(generator: Any) -> Iterator[None]:
    """Let igraph draw from ``generator`` (``random.Random``, or what has its ``getrandbits``, ``randint``, ...)."""
    import random

    import igraph

    with _ONE:
        igraph.set_random_number_generator(generator)
        try:
            yield
        finally:
            igraph.set_random_number_generator(random)
