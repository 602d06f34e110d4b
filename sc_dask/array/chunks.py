"""Rows per block from a byte budget: sparse rows are cut by their non-zeros, dense ones by their width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from sc_dask import config
from sc_dask.errors import InputError

MAX_ROWS = 2**20  # so that per-row state of a block stays small where rows are nearly empty
MAX_NNZ = 2**31 - 1  # a block's indptr is int32


def default_block_bytes() -> int:
    """Return the byte budget of one decoded block (the option ``sc-dask.block-bytes``)."""
    value = config.n_bytes("block-bytes")
    if value is None or value < 1:
        raise InputError(
            f"found {value!r} as the option sc-dask.block-bytes",
            "a size in bytes",
            'dask.config.set({"sc-dask.block-bytes": "48MiB"})',
        )
    return value


def cut_rows(indptr: np.ndarray, block_bytes: int, bytes_per_nonzero: int = 8) -> np.ndarray:
    """Cut sparse rows into blocks by their non-zeros.

    Every block takes as many rows as fit; a block is over the budget only when one row alone is.
    A block has at most `MAX_ROWS` rows and, unless one row alone has more, 2**31 - 1 non-zeros.

    Parameters
    ----------
    indptr
        int64, shape (n_obs + 1,): non-zeros before each row, not decreasing.
    block_bytes
        Budget of one decoded block, in bytes.
    bytes_per_nonzero
        Bytes of one stored value and its column (float32 + int32: 8).

    Returns
    -------
    Row bounds, int64, shape (n_blocks + 1,), from 0 to n_obs.

    Raises
    ------
    InputError
        If the budget is not positive.
    """
    return cut_row_pieces([np.asarray(indptr)], block_bytes, bytes_per_nonzero)


def cut_row_pieces(pieces: Iterable[np.ndarray], block_bytes: int, bytes_per_nonzero: int = 8) -> np.ndarray:
    """Do what `cut_rows` does for an indptr that comes in consecutive pieces, so that it need not fit in memory.

    The bounds do not depend on how the indptr was cut into pieces.
    """
    if block_bytes < 1 or bytes_per_nonzero < 1:
        raise InputError(
            f"found a block budget of {block_bytes} bytes at {bytes_per_nonzero} bytes a non-zero", "positive numbers"
        )
    budget = min(max(block_bytes // bytes_per_nonzero, 1), MAX_NNZ)
    bounds = [0]
    last: np.ndarray | None = None  # entry n_seen of the indptr, repeated in front of the next piece
    n_seen = 0
    first_nnz = 0  # non-zeros before the open block
    for piece in pieces:
        if not len(piece):
            continue
        if last is None:
            first_nnz = int(piece[0])
        else:
            piece = np.concatenate([last, piece])
        for bound, nnz in _bounds_in(piece, n_seen, bounds[-1], first_nnz, budget):
            bounds.append(bound)
            first_nnz = nnz
        n_seen += len(piece) - 1
        last = piece[-1:]
    if bounds[-1] < n_seen or len(bounds) == 1:
        bounds.append(n_seen)
    return np.asarray(bounds, dtype=np.int64)


def _bounds_in(
    piece: np.ndarray, position: int, opened: int, opened_nnz: int, budget: int
) -> Iterator[tuple[int, int]]:
    """Yield the bounds that indptr entries ``position:position + len(piece)`` decide, with the non-zeros before each.

    A block closes at the last entry within the budget, which is known only once a later entry is over it.
    """
    end = position + len(piece)
    while True:
        over = position + int(np.searchsorted(piece, opened_nnz + budget, side="right"))
        if over >= end and opened + MAX_ROWS >= end:
            return
        opened = max(min(over - 1, opened + MAX_ROWS), opened + 1)
        opened_nnz = int(piece[opened - position])
        yield opened, opened_nnz


def cut_dense(n_obs: int, n_vars: int, itemsize: int, block_bytes: int, row_chunk: int = 1) -> np.ndarray:
    """Cut dense rows into equal blocks within a byte budget.

    Parameters
    ----------
    n_obs, n_vars, itemsize
        Rows, columns and bytes of one value.
    block_bytes
        Budget of one decoded block, in bytes; one row may be larger.
    row_chunk
        Rows of one chunk on disk; blocks are multiples of it when one fits in the budget, so that
        no chunk is decoded twice.

    Returns
    -------
    Row bounds, int64, shape (n_blocks + 1,), from 0 to n_obs.
    """
    if block_bytes < 1:
        raise InputError(f"found a block budget of {block_bytes} bytes", "a positive number")
    rows = max(min(block_bytes // max(n_vars * itemsize, 1), MAX_ROWS, MAX_NNZ // max(n_vars, 1)), 1)
    if 1 < row_chunk <= rows:
        rows -= rows % row_chunk
    bounds = np.arange(0, n_obs, rows, dtype=np.int64)
    return np.append(bounds if n_obs else [0], n_obs).astype(np.int64)


def cut_finer(bounds: np.ndarray, most: int) -> np.ndarray:
    """Cut blocks of more than ``most`` rows into equal parts; what was cut before stays cut, empty blocks too."""
    pieces = [bounds[:1]]
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        n = max(1, -(-(stop - start) // most))
        pieces.append(start + (stop - start) * np.arange(1, n + 1) // n)
    return np.concatenate(pieces).astype(np.int64)
