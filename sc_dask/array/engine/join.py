"""What blocks gave for their rows, put together along the rows."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp


class RowOutput:
    """An array of all rows that the threads of this process write their blocks into: none is held twice.

    Made by the first block that has an ndarray to give; what is not one is for `join`.
    """

    def __init__(self, n_rows: int) -> None:
        self._n_rows, self._lock = n_rows, threading.Lock()
        self.array: np.ndarray | None = None

    def takes(self, part: Any, start: int) -> bool:
        """Write rows ``start:start + len(part)``; False where ``part`` is no ndarray."""
        if type(part) is not np.ndarray or part.ndim == 0:
            return False
        with self._lock:
            if self.array is None:
                self.array = np.empty((self._n_rows, *part.shape[1:]), part.dtype)
        if (part.dtype, part.shape[1:]) != (self.array.dtype, self.array.shape[1:]):
            raise ValueError(f"a block gave {part.dtype}{part.shape[1:]}, another {self.array.dtype}")
        self.array[start : start + len(part)] = part
        return True


def join(parts: Sequence[Any]) -> Any:
    """Join per-block results (arrays, csr matrices, dataclasses, tuples or dicts of them) along the rows."""
    first = parts[0]
    if is_dataclass(first) and not isinstance(first, type):
        return type(first)(*(join([getattr(p, f.name) for p in parts]) for f in fields(first)))
    if isinstance(first, dict):
        return {k: join([p[k] for p in parts]) for k in first}
    if isinstance(first, tuple):
        joined = [join([p[i] for p in parts]) for i in range(len(first))]
        return type(first)(*joined) if hasattr(first, "_fields") else tuple(joined)
    if sp.issparse(first):
        return first if len(parts) == 1 else sp.vstack(parts, format="csr")
    return first if len(parts) == 1 else np.concatenate(parts)
