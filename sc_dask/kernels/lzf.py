"""LZF (h5py's fast compression), decoded without h5py's lock. Format: LibLZF, Marc Lehmann."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from sc_dask.errors import FormatError


def decompress(raw: bytes | memoryview, n_bytes: int) -> NDArray[np.uint8]:
    """Return the ``n_bytes`` bytes that an LZF stream holds.

    Raises
    ------
    FormatError
        If the stream is damaged or holds another number of bytes.
    """
    out = np.empty(n_bytes, np.uint8)
    n = _decompress(np.frombuffer(raw, np.uint8), out)
    if n != n_bytes:
        raise FormatError("an LZF chunk is damaged", f"a stream of {n_bytes} bytes", "fetch the file again")
    return out


@numba.njit(nogil=True, cache=True)
def _decompress(src: NDArray[np.uint8], dst: NDArray[np.uint8]) -> int:
    """Fill ``dst``; return the bytes written, or -1 when the stream runs out of either array."""
    i, o, n_in, n_out = 0, 0, len(src), len(dst)
    while i < n_in:
        control = np.int64(src[i])
        i += 1
        if control < 32:  # a run of control + 1 literal bytes
            n = control + 1
            if i + n > n_in or o + n > n_out:
                return -1
            for _ in range(n):
                dst[o] = src[i]
                i += 1
                o += 1
            continue
        n = control >> 5
        if n == 7:
            if i >= n_in:
                return -1
            n += np.int64(src[i])
            i += 1
        if i >= n_in:
            return -1
        back = o - ((control & 31) << 8) - np.int64(src[i]) - 1
        i += 1
        n += 2
        if back < 0 or o + n > n_out:
            return -1
        for _ in range(n):  # byte by byte: the copy may overlap what it writes
            dst[o] = dst[back]
            o += 1
            back += 1
    return o
