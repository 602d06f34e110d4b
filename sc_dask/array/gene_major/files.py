"""One file for each row block of a gene-major copy: its non-zeros sorted by gene, in compressed units of genes.

Unit u of U holds the genes u, u + U, u + 2U, ...: frequent genes stand side by side in the order of names, and so they
are split evenly. A file is: header, a table with a row for each unit, a checksum of both, and the units. A unit is:
the number of values of each of its genes (int32), steps from row to row, values; the last two by blosc.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from sc_dask import work
from sc_dask.array.source import METER, Block
from sc_dask.errors import StoreError
from sc_dask.kernels.transpose import by_gene, by_unit

_HEADER = struct.Struct("<8sqqqq")  # magic, rows, columns, units, bytes of the file
_MAGIC = b"scdgene1"
_ENTRY = np.dtype([("at", "<i8"), ("steps", "<i8"), ("values", "<i8"), ("kind", "<u4"), ("crc", "<u4")])
_NARROW = (np.uint8, np.uint16)  # kinds 0 and 1; 2 is the type of the values themselves


@dataclass(frozen=True)
class Unit:
    """What one block has of one unit of genes."""

    counts: np.ndarray  # int32, values of each gene
    steps: np.ndarray  # int32, from row to row
    values: np.ndarray


def unit_genes(unit: int, n_units: int, n_vars: int) -> np.ndarray:
    """Return the columns of a unit."""
    return np.arange(unit, n_vars, n_units)


def write(block: Block, path: Path, n_units: int) -> None:
    """Write a block; the name is final only when the file is whole."""
    n_obs, n_vars = block.shape
    bounds, cells, values = by_unit(block, n_units)
    table, at = np.zeros(n_units, _ENTRY), _HEADER.size + n_units * _ENTRY.itemsize + 4
    partial = work.partial(path)
    codec = _codec()
    try:
        with partial.open("wb") as f:
            f.seek(at)
            for u in range(n_units):
                one = slice(int(bounds[u]), int(bounds[u + 1]))
                counts, steps, of_unit = by_gene(cells[one], values[one], len(range(u, n_vars, n_units)))
                kind, narrow = _narrow(of_unit)
                parts = [counts.tobytes(), _packed(codec, steps), _packed(codec, narrow)]
                raw = b"".join(parts)
                table[u] = (at, len(parts[1]), len(parts[2]), kind, google_crc32c.value(raw))
                f.write(raw)
                at += len(raw)
            head = _HEADER.pack(_MAGIC, n_obs, n_vars, n_units, at) + table.tobytes()
            f.seek(0)
            f.write(head + struct.pack("<I", google_crc32c.value(head)))
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_whole(path: Path, shape: tuple[int, int], n_units: int) -> bool:
    """Tell whether a file is there and every byte of it is what was written."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return False
    end = _HEADER.size + n_units * _ENTRY.itemsize
    if len(raw) < end + 4 or _HEADER.unpack_from(raw) != (_MAGIC, *shape, n_units, len(raw)):
        return False
    if google_crc32c.value(raw[:end]) != struct.unpack_from("<I", raw, end)[0]:
        return False
    table = np.frombuffer(raw, _ENTRY, n_units, _HEADER.size)
    bounds = [*table["at"].tolist(), len(raw)]
    return all(google_crc32c.value(raw[bounds[u] : bounds[u + 1]]) == table["crc"][u] for u in range(n_units))


def read_raw(path: Path, unit: int, n_genes: int) -> tuple[bytes, np.void]:
    """Return one unit as it is stored, checked, and its row of the table.

    Raises
    ------
    StoreError
        The file is gone, or not what was written.
    """
    try:
        with path.open("rb", buffering=0) as f:
            entry = np.frombuffer(os.pread(f.fileno(), _ENTRY.itemsize, _HEADER.size + unit * _ENTRY.itemsize), _ENTRY)[
                0
            ]
            size = 4 * n_genes + int(entry["steps"]) + int(entry["values"])
            raw = os.pread(f.fileno(), size, int(entry["at"]))
    except FileNotFoundError as e:
        raise StoreError(
            f"{path} of the gene-major copy is gone", "a work-dir that every worker sees", "run again"
        ) from e
    except (IndexError, ValueError) as e:  # shorter than its table
        raise _damaged(path) from e
    if len(raw) != size or google_crc32c.value(raw) != entry["crc"]:
        raise _damaged(path)
    METER.add(n_bytes=len(raw))
    return raw, entry


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{path} of the gene-major copy is damaged", "the bytes that were written", f"rm {path}, run again"
    )


def decoded(raw: bytes, entry: np.void, n_genes: int, n_obs: int, dtype: np.dtype[Any]) -> Unit:
    """Return what `read_raw` gave as arrays; ``n_obs`` is the number of rows of the block."""
    wide = n_obs > 2**16 or n_genes > 2**16
    codec, at = _codec(), 4 * n_genes
    end = at + int(entry["steps"])
    counts = counts_of(raw, n_genes)
    n = int(counts.sum())
    steps = _unpacked(codec, raw[at:end], np.dtype(np.uint32 if wide else np.uint16), n)
    kind = np.dtype((*_NARROW, dtype)[int(entry["kind"])])
    values = _unpacked(codec, raw[end:], kind, n)
    return Unit(counts, steps.astype(np.int32), values.astype(dtype, copy=False))


def counts_of(raw: bytes, n_genes: int) -> np.ndarray:
    """Return how many values each gene has in what `read_raw` gave."""
    return np.frombuffer(raw, np.int32, n_genes)


def _codec() -> Any:
    from numcodecs import Blosc

    return Blosc(cname="lz4", clevel=1, shuffle=Blosc.BITSHUFFLE)


def _packed(codec: Any, a: np.ndarray) -> bytes:
    """Compress; filled up to eight values, as blosc leaves out its bitshuffle otherwise (1.3 bytes a step, not 0.5)."""
    return bytes(codec.encode(np.pad(a, (0, -len(a) % 8)))) if a.size else b""


def _unpacked(codec: Any, raw: bytes, dtype: np.dtype[Any], n: int) -> np.ndarray:
    return np.frombuffer(codec.decode(raw) if raw else b"", dtype)[:n]


def _narrow(values: np.ndarray) -> tuple[int, np.ndarray]:
    """Return values in the smallest type that holds them exactly, and the number of that type."""
    for kind, dtype in enumerate(_NARROW):
        if np.dtype(dtype).itemsize >= values.dtype.itemsize:
            break
        if _fits(values[:64], dtype) and _fits(values, dtype):  # most floats are told by a few
            return kind, values.astype(dtype)
    return len(_NARROW), values


def _fits(values: np.ndarray, dtype: Any) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(np.array_equal(values.astype(dtype), values))
