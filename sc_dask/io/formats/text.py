"""Text: Matrix Market (``.mtx``), tables of cells by genes (``.csv``, ``.tsv``, ``.txt``) and umi_tools' long tables.

A text file can only be read from its beginning, so it is streamed once into a spill (``io/formats/spill.py``) whose row
blocks can then be read in any order. Entries of a Matrix Market file come in any order (10x writes by cell, the
standard by column); they are split into buckets of rows on local disk first, and each bucket is sorted in memory.

Results equal ``anndata.io.read_mtx``, ``read_csv``, ``read_text`` and ``read_umi_tools``, with X as csr:
whole numbers up to 2**53 stay exact, others become float32 as there.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from sc_dask.array.blocks import from_source
from sc_dask.errors import FormatError
from sc_dask.io.blobs.store import Location, open_file
from sc_dask.io.formats.spill import Spill
from sc_dask.outside.pandas import exact_floats
from sc_dask.work import WorkFolder

CHUNK_ENTRIES = 1 << 20  # entries of a Matrix Market file parsed at once
BUCKET_ENTRIES = 2 << 20  # entries sorted in memory at once (16 bytes each)
TABLE_BYTES = 32 << 20  # decoded rows of a table held at once
ENTRY = np.dtype([("row", "<i4"), ("col", "<i4"), ("value", "<f8")])


@contextlib.contextmanager
def open_stream(location: Location) -> Iterator[Any]:
    """Open a file for reading its bytes, decompressed if they begin as gzip's or bzip2's; damage: `FormatError`."""
    try:
        with open_file(location) as raw:
            head = raw.read(3)
            raw.seek(0)
            if head.startswith(b"\x1f\x8b"):
                with gzip.open(raw, "rb") as f:
                    yield f
            elif head == b"BZh":
                with bz2.open(raw, "rb") as f:
                    yield f
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, pd.errors.ParserError) as e:
        raise FormatError(f"{location} is damaged: {e}", "a whole text file", "fetch or write the file again") from e


# -- Matrix Market -------------------------------------------------------------------------------


@dataclass(frozen=True)
class MtxHeader:
    """The first lines of a Matrix Market file."""

    layout: str  # "coordinate" or "array"
    field: str
    symmetry: str
    n_rows: int
    n_cols: int
    n_entries: int


def read_header(f: IO[bytes], location: Location) -> MtxHeader:
    """Read up to the line of sizes.

    Raises
    ------
    FormatError
        When it is not a Matrix Market file of real, integer or pattern values.
    """
    words = f.readline().decode("utf-8", "replace").lower().split()
    if len(words) != 5 or words[0] not in ("%%matrixmarket", "%matrixmarket") or words[1] != "matrix":
        raise FormatError(f"{location}: first line {' '.join(words)[:80]!r}", "'%%MatrixMarket matrix ...'")
    layout, value, symmetry = words[2:]
    allowed = (
        layout in ("coordinate", "array")
        and value in ("real", "double", "integer", "unsigned-integer", "pattern")
        and symmetry in ("general", "symmetric", "skew-symmetric")
        and not (layout == "array" and (value == "pattern" or symmetry != "general"))
    )
    if not allowed:
        raise FormatError(
            f"{location}: a Matrix Market file of kind {' '.join(words[2:])!r}",
            "coordinate (real, integer or pattern; general or symmetric), or array general",
        )
    line = f.readline()
    while line and (line.startswith(b"%") or not line.strip()):
        line = f.readline()
    try:
        sizes = [int(w) for w in line.split()]
        n_rows, n_cols = sizes[:2]
        n_entries = n_rows * n_cols if layout == "array" else sizes[2]
        if min(sizes) < 0:
            raise ValueError(sizes)
    except (ValueError, IndexError) as e:
        raise FormatError(f"{location}: line of sizes {line[:80]!r}", "rows, columns and entries") from e
    return MtxHeader(layout, value, symmetry, n_rows, n_cols, n_entries)


def _entries(
    f: IO[bytes], header: MtxHeader, location: Location
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (row, column, value) in chunks, from 0, exactly as many as the header says."""
    names = ["value"] if header.layout == "array" else ["row", "col", "value"][: 2 if header.field == "pattern" else 3]
    dtype = {"row": np.int64, "col": np.int64, "value": np.int64 if "integer" in header.field else np.float64}
    n_seen, first = 0, f.peek(1).split(b"\n")[0] if hasattr(f, "peek") else b""
    if first.strip() and not first.startswith(b"%") and len(first.split()) > len(names):  # pandas would drop the rest
        raise FormatError(f"{location}: the first entry is {first[:80]!r}", f"{len(names)} numbers a line")
    try:
        chunks = pd.read_csv(
            f,
            sep=r"\s+",
            header=None,
            names=names,
            index_col=False,
            comment="%",
            dtype={n: dtype[n] for n in names},
            na_filter=False,
            chunksize=CHUNK_ENTRIES,
            **exact_floats(),
        )
        for chunk in chunks:
            n = len(chunk)
            if header.layout == "array":  # column after column
                at = np.arange(n_seen, n_seen + n)
                row, col = at % max(1, header.n_rows), at // max(1, header.n_rows)
            else:
                row, col = chunk["row"].to_numpy() - 1, chunk["col"].to_numpy() - 1
            value = np.ones(n) if header.field == "pattern" else chunk["value"].to_numpy(np.float64)
            n_seen += n
            if n and (row.min() < 0 or col.min() < 0 or row.max() >= header.n_rows or col.max() >= header.n_cols):
                raise FormatError(
                    f"{location}: an entry before number {n_seen} is outside {header.n_rows} x {header.n_cols}",
                    "rows and columns from 1 to the sizes in the header",
                )
            yield row, col, value
    except pd.errors.EmptyDataError:
        pass
    except (ValueError, OverflowError) as e:
        raise FormatError(f"{location}: after entry {n_seen}: {e}", "numbers only") from e
    if n_seen != header.n_entries:
        raise FormatError(
            f"{location}: {n_seen} entries", f"{header.n_entries}, as its header says", "fetch the file again"
        )


def _mirrored(
    entries: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]], sign: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for row, col, value in entries:
        yield row, col, value
        off = row != col
        yield col[off], row[off], sign * value[off]


def stream_mtx(location: Location, spill: Spill, *, transpose: bool) -> tuple[int, int]:
    """Stream a Matrix Market file into ``spill`` and return the shape of X.

    Parameters
    ----------
    location, spill
        From where to where.
    transpose
        True when the file is genes by cells, as 10x writes it; False for cells by genes.

    Memory: ``CHUNK_ENTRIES`` parsed plus ``BUCKET_ENTRIES`` sorted (about 100 MB); local disk: 16 bytes an entry.
    """
    with open_stream(location) as f:
        header = read_header(f, location)
        n_obs, n_vars = (header.n_cols, header.n_rows) if transpose else (header.n_rows, header.n_cols)
        n_entries = header.n_entries * (1 if header.symmetry == "general" else 2)
        entries = _entries(f, header, location)
        if header.symmetry != "general":
            entries = _mirrored(entries, -1.0 if header.symmetry == "skew-symmetric" else 1.0)
        if header.layout == "array":
            entries = ((r[v != 0], c[v != 0], v[v != 0]) for r, c, v in entries)
        with Buckets(n_obs, n_vars, n_entries) as buckets:
            for row, col, value in entries:
                buckets.add(*((col, row) if transpose else (row, col)), value)
            for block in buckets.blocks():
                spill.append(block)
    return n_obs, n_vars


class Buckets:
    """Entries in any order, split into files of consecutive rows and returned as csr blocks; equal places are added."""

    def __init__(self, n_obs: int, n_vars: int, n_entries: int) -> None:
        n_buckets = max(1, -(-n_entries // BUCKET_ENTRIES))
        self._rows = max(1, -(-n_obs // n_buckets))
        self._shape = (n_obs, n_vars)
        self._folder = WorkFolder.make("entries")

    def __enter__(self) -> Buckets:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.remove()

    def _path(self, bucket: int) -> Path:
        return self._folder.path / f"{bucket}.bin"

    def add(self, row: np.ndarray, col: np.ndarray, value: np.ndarray) -> None:
        """Deal out a chunk of entries."""
        if not len(row):
            return
        bucket = row // self._rows
        order = np.argsort(bucket, kind="stable")
        packed = np.empty(len(row), ENTRY)
        packed["row"], packed["col"], packed["value"] = row[order] % self._rows, col[order], value[order]
        ids, starts = np.unique(bucket[order], return_index=True)
        for i, lo, hi in zip(ids, starts, [*starts[1:], len(row)], strict=True):
            with self._path(int(i)).open("ab") as f:
                f.write(packed[lo:hi].tobytes())

    def blocks(self) -> Iterator[sp.csr_matrix]:
        """Yield the rows in order, a bucket at a time."""
        n_obs, n_vars = self._shape
        for i, start in enumerate(range(0, n_obs, self._rows)):
            path = self._path(i)
            packed = np.fromfile(path, ENTRY) if path.exists() else np.empty(0, ENTRY)
            shape = (min(self._rows, n_obs - start), n_vars)
            block = sp.csr_matrix((packed["value"], (packed["row"], packed["col"])), shape=shape)
            block.sum_duplicates()
            path.unlink(missing_ok=True)
            yield block


def read_mtx(location: Location, spill: Spill) -> AnnData:
    """Read a Matrix Market file, as it lies (its rows are the observations), as ``anndata.io.read_mtx`` does."""
    n_obs, n_vars = stream_mtx(location, spill, transpose=False)
    source = spill.finish(n_obs, n_vars)
    return AnnData(from_source(source, source.cuts()))


# -- tables --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableHead:
    """What the first lines of a table say about the rest."""

    skip_lines: int  # lines before the first row of numbers
    n_fields: int  # of a row, the name included
    col_names: list[str]
    has_row_names: bool


# what stands above names, not above values
_CORNERS = {"barcode", "barcodes", "cell", "cells", "cell_barcode", "cell_id", "cellid", "cell_name", "gene", "genes"}
_CORNERS |= {"gene_id", "gene_name", "gene_symbol", "id", "index", "name", "names", "obs", "obs_names", "sample"}
_CORNERS |= {"samples", "symbol", "var_names"}


def _is_number(word: str) -> bool:
    """Tell whether a field is a number: ``007`` is a name, as is what stands in quotes."""
    digits = word.strip().lstrip("+-")
    if digits[:1] == "0" and digits[1:2].isdigit():
        return False
    try:
        float(word)
    except ValueError:
        return False
    return True


def _fields(line: str, delimiter: str | None) -> list[str]:
    """Return the fields of a line, quotes kept; a delimiter in quotes is text."""
    if delimiter is None or '"' not in line:
        return line.split(delimiter)
    found, quoted = [""], False
    for part in re.split(f'("|{re.escape(delimiter)})', line):
        quoted ^= part == '"'
        if part == delimiter and not quoted:
            found.append("")
        else:
            found[-1] += part
    return found


def _unquoted(field: str) -> str:
    field = field.strip()
    return field[1:-1].replace('""', '"') if len(field) > 1 and field[0] == field[-1] == '"' else field.strip('"')


def read_head(
    lines: Iterator[str],
    delimiter: str | None,
    first_column_names: bool | None,
    location: Any,
    first_row_names: bool | None = None,
) -> TableHead:
    """Find column names, row names and the first row of numbers by anndata's rules (``anndata.io.read_text``).

    The first line holds column names if its last field is no number, its first one is empty, or it has one field less
    than the second line, or if ``first_row_names`` says so; else the last comment line does, else columns are
    numbered. The first column holds row names if one of the first two rows begins with something that is no number, if
    the first line begins with an empty field or has one less, or if ``first_column_names`` says so.

    Raises
    ------
    FormatError
        It is no table; or it cannot be told whether numbers in the first line or column are names.
    """
    comments, rows = _first_rows(lines, delimiter, location)
    top = _unquoted(rows[0][1][0]).lower()
    is_short = len(rows) > 1 and len(rows[0][1]) == len(rows[1][1]) - 1
    is_cornered = len(rows) > 1 and (top == "" or is_short)
    header = None
    if first_row_names or (
        first_row_names is None and (not _is_number(rows[0][1][-1]) or is_cornered or top == "unnamed: 0")
    ):
        header = rows.pop(0)[1]
    if not rows:
        raise FormatError(f"{location}: a line of names and no rows", "a table of cells by genes")
    named = bool(first_column_names) or any(not _is_number(r[0]) for _, r in rows[:2])
    if header is not None and is_cornered and first_column_names is None:
        named = True
    if first_row_names is None and header is None and not comments:
        _refuse_numbers_as_names(rows[0][1], top, location)
    n_fields = len(rows[0][1])
    if first_column_names is None and not named and header is not None and len(header) == n_fields and top in _CORNERS:
        raise FormatError(
            f"{location}: the first column is called {top!r} and holds numbers",
            "to know whether they are names of cells",
            "give first_column_names=True if they are, False if it is a gene",
        )
    n_vars = n_fields - named
    if n_vars < 1:
        raise FormatError(f"{location}: names and no numbers", "a table of cells by genes")
    if header is None:
        header = comments[-1].split() if comments else [str(i) for i in range(n_vars)]
    if len(header) > n_vars:
        header = header[1:]
    if len(header) != n_vars:
        raise FormatError(f"{location}: {len(header)} column names and {n_vars} columns", "a name for each column")
    return TableHead(rows[0][0], n_fields, [_unquoted(h) for h in header], named)


def _first_rows(
    lines: Iterator[str], delimiter: str | None, location: Any
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the comments and the first three rows, each with the number of its line."""
    comments: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    for i, line in enumerate(lines):
        line = line.rstrip("\r\n").removeprefix("\ufeff" if i == 0 else "")
        if not line:
            continue
        if not rows and line.startswith("#"):
            comments.append(line.lstrip("# "))
            continue
        if not rows and delimiter is not None and delimiter not in line:
            raise FormatError(
                f"{location}: no delimiter {delimiter!r} in the first line",
                "a table of cells by genes",
                "give delimiter=",
            )
        rows.append((i, _fields(line, delimiter)))
        if len(rows) == 3:
            break
    if not rows:
        raise FormatError(f"{location}: no lines", "a table of cells by genes")
    return [c for c in comments if c], rows


def _refuse_numbers_as_names(row: list[str], top: str, location: Any) -> None:
    """Refuse a first row that may be names of genes: whole numbers, each of another value, after a name."""
    values = [v.strip() for v in row[1:]]
    if _is_number(row[0]) or not all(v.isdigit() for v in values):
        return
    if top in _CORNERS or (len(values) > 1 and len(set(values)) == len(values)):
        raise FormatError(
            f"{location}: the first line is {top!r} and whole numbers, no two of which are equal",
            "to know whether they are names of genes",
            f"give first_row_names=True if they are, False if it is a cell called {_unquoted(row[0])!r}",
        )


def read_table(
    location: Location,
    spill: Spill,
    *,
    delimiter: str | None = ",",
    first_column_names: bool | None = None,
    first_row_names: bool | None = None,
) -> AnnData:
    """Read a table of cells by genes, as ``anndata.io.read_csv`` (a delimiter) or ``read_text`` (None: white space) do.

    A first line ``gene cell count`` makes it a long table of umi_tools (see `read_umi_tools`).

    Memory: ``TABLE_BYTES`` of decoded rows, several times over while they are parsed.

    Raises
    ------
    FormatError
        Rows of unequal length, text or nothing where a number should be, NaN.
    """
    with open_stream(location) as f:
        first = [line.decode() for line in chain.from_iterable([f.readline()] for _ in range(1))]
        if first[0].split() == ["gene", "cell", "count"]:
            return read_umi_tools(location, spill)
        lines = (line.decode() for line in f)
        head = read_head(chain(first, lines), delimiter, first_column_names, location, first_row_names)
    n_vars = len(head.col_names)
    names: list[np.ndarray] = []
    n_obs = 0
    with open_stream(location) as f:
        for _ in range(head.skip_lines):
            f.readline()
        for chunk in _table_chunks(f, head, delimiter, location):
            if head.has_row_names:
                names.append(chunk.iloc[:, 0].to_numpy(dtype=object))
            values = chunk.iloc[:, int(head.has_row_names) :].to_numpy(np.float64)
            if np.isnan(values).any():
                at = n_obs + int(np.flatnonzero(np.isnan(values).any(axis=1))[0])
                raise FormatError(f"{location}: row {at} has a missing value or NaN", f"{n_vars} numbers in each row")
            spill.append(sp.csr_matrix(values))
            n_obs += len(values)
    source = spill.finish(n_obs, n_vars)
    obs_names = np.concatenate(names) if names else np.arange(n_obs).astype(str)
    obs = pd.DataFrame(index=pd.Index(obs_names.astype(str).astype(object)))
    return AnnData(
        from_source(source, source.cuts()), obs=obs, var=pd.DataFrame(index=pd.Index(head.col_names, dtype=object))
    )


def _table_chunks(f: Any, head: TableHead, delimiter: str | None, location: Location) -> Iterator[pd.DataFrame]:
    dtype: dict[Any, Any] = dict.fromkeys(range(head.n_fields), np.float64)
    if head.has_row_names:
        dtype[0] = str
    keep: dict[Any, list[str]] = {i: [] for i in range(head.n_fields)}  # nothing is taken for a missing value
    try:
        yield from pd.read_csv(
            f,
            sep=r"\s+" if delimiter is None else delimiter,
            header=None,
            names=list(range(head.n_fields)),
            index_col=False,
            dtype=dtype,
            keep_default_na=False,
            na_values=keep,
            chunksize=max(1, TABLE_BYTES // (8 * head.n_fields)),
            **exact_floats(),
            low_memory=False,
        )
    except (ValueError, pd.errors.ParserError) as e:
        raise FormatError(f"{location}: {e}", f"{head.n_fields} fields in each row, numbers after the name") from e


def read_umi_tools(location: Location, spill: Spill) -> AnnData:
    """Read a long table ``gene, cell, count`` as ``anndata.io.read_umi_tools`` does; names are sorted.

    The file is read twice: first for the names.
    """

    def chunks(columns: list[str]) -> Iterator[pd.DataFrame]:
        with open_stream(location) as f:
            kinds = {"gene": str, "cell": str, "count": np.int64}
            try:
                yield from pd.read_csv(
                    f,
                    sep="\t",
                    usecols=columns,
                    dtype={c: kinds[c] for c in columns},
                    chunksize=CHUNK_ENTRIES,
                    na_filter=False,
                )
            except ValueError as e:
                raise FormatError(f"{location}: {e}", "columns gene, cell and count, separated by tabs") from e

    genes, cells, n_entries = set[str](), set[str](), 0
    for chunk in chunks(["gene", "cell"]):
        genes.update(chunk["gene"].unique())
        cells.update(chunk["cell"].unique())
        n_entries += len(chunk)
    var = pd.DataFrame(index=pd.Index(sorted(genes), name="gene", dtype=object))
    obs = pd.DataFrame(index=pd.Index(sorted(cells), name="cell", dtype=object))
    with Buckets(len(obs), len(var), n_entries) as buckets:
        for chunk in chunks(["gene", "cell", "count"]):
            row, col = obs.index.get_indexer(pd.Index(chunk["cell"])), var.index.get_indexer(pd.Index(chunk["gene"]))
            buckets.add(row, col, chunk["count"].to_numpy(np.float64))
        for block in buckets.blocks():
            spill.append(block)
    source = spill.finish(len(obs), len(var))
    return AnnData(from_source(source, source.cuts()), obs=obs, var=var)
