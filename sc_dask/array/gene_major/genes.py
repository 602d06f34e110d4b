"""Whole genes of a lazy X: a gene-major copy on disk, made in one pass, and the verb that works through it.

- ``map_cols``: a function of a tile of genes, all cells each.

The copy is a folder with one file for each row block (`files`). It is found again by what X is made of, so a
second call reads X no more; a killed one goes on with the files that are whole. With the option ``work-dir`` it stays
there, at most `KEPT` of them; without, it goes with this process. Values are kept as they are before a last normalising
step, which is made again when they are read: counts are smaller.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from sc_dask import config, work
from sc_dask.array.blocks import Reduction, RowBlocks, each_block, reduce_rows
from sc_dask.array.chunks import default_block_bytes
from sc_dask.array.engine import run
from sc_dask.array.engine.join import join
from sc_dask.array.expr import Expr
from sc_dask.array.gene_major import files
from sc_dask.array.normalize import factors
from sc_dask.array.source import Block, MemorySource
from sc_dask.errors import ScDaskWarning
from sc_dask.kernels import normalize as plain
from sc_dask.kernels import transpose
from sc_dask.work import WorkFolder

KEPT = 2  # gene-major copies of this process, or in one work-dir
_PREFIX, _LAYOUT = "sc-dask-genes-", "layout.json"
_VALUE_BYTES = 8  # a row number and a float32
_DENSITY = 0.2  # of a deep atlas: decides how many genes make a unit, before anything is read
_GATHERED_BYTES = 1 << 30  # genes brought together at once where no copy can be made

Kernel = Callable[..., Any]


def map_cols(
    kernel: Kernel, x: RowBlocks, cols: np.ndarray | None = None, *, label: str = "genes", **const: Any
) -> Any:
    """Return ``kernel(tile, **const)`` of all genes, joined along the genes.

    Parameters
    ----------
    kernel
        Takes a csc_matrix (n_obs, n_genes of the tile; rows sorted) and returns an array, or a tuple, dict or dataclass
        of arrays, whose first axis is the tile's genes. Must be picklable under a cluster.
    x
        Lazy matrix (n_obs, n_vars), sparse or dense.
    cols
        Columns to work on, increasing; None: all.
    label
        A word for progress displays.
    **const
        Given to every call, sent to a worker once.

    Passes: 1 the first time, then 0. Memory: a thread holds two blocks while the copy is made, later a tile of two
    blocks (but at least one gene). Disk: about 1 byte a non-zero of counts.

    An X in memory needs no copy. On a cluster the copy must be in a work-dir that all workers see; without one, X is
    read once to count, and again for every gibibyte of it.
    """
    cols = np.arange(x.shape[1]) if cols is None else np.asarray(cols)
    if isinstance(x.expression.source, MemorySource) or (run.client() is not None and config.get("work-dir") is None):
        return _gathered(kernel, x if len(cols) == x.shape[1] else x.select_columns(cols), label, const)
    found = _found(x)
    if found is None and len(cols) < x.shape[1]:
        x, cols = x.select_columns(cols), np.arange(len(cols))
        found = _found(x)
    copy, kept = _made(x, label) if found is None else found
    wanted = np.zeros(x.shape[1], bool)
    wanted[cols] = True
    units = [u for u in range(copy.n_units) if wanted[u :: copy.n_units].any()]
    shared = _Shared(copy, _restorer(x, kept), kernel, const, wanted)
    with _in_use(Path(copy.folder)):
        answers = run.map_tasks(_unit_task, units, shared=shared, label=label)
    parts = [part for of_unit in answers for part in of_unit]
    return _ordered(join([value for _, value in parts]), np.argsort(np.concatenate([genes for genes, _ in parts])))


def forget() -> None:
    """Remove the copies that this process made without a work-dir; a later call makes them again."""
    while _HERE:
        _HERE.popitem()[1][1].remove()


# -- the copy ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneMajor:
    """A finished copy; picklable."""

    folder: str
    bounds: np.ndarray
    n_vars: int
    n_units: int
    dtype: np.dtype[Any]
    tile_values: int

    def filled(self) -> list[int]:
        """Return the blocks with rows: those that have a file."""
        return np.flatnonzero(np.diff(self.bounds) > 0).tolist()


_HERE: OrderedDict[str, tuple[GeneMajor, WorkFolder]] = OrderedDict()  # copies that go with this process, or earlier


def _below(x: RowBlocks) -> Expr:
    """Return what is kept: X before a last step that is known how to be made again."""
    last = x.expression.last
    if last is None or last.role not in _RESTORERS or any(r.values is None for r in last.rows):
        return x.expression
    return x.expression.before(1)


def _n_units(kept: Expr) -> int:
    """Return into how many units genes are split, for a tile of two blocks each."""
    per_gene = max(kept.shape[0] * (_DENSITY if kept.is_sparse else 1.0), 1)
    n_genes = int(min(max(_tile_values() / per_gene, 1), max(kept.shape[1] // 8, 1)))
    return max(1, -(-kept.shape[1] // n_genes))


def _tile_values() -> int:
    return max(2 * default_block_bytes() // _VALUE_BYTES, 1)


def _copy_of(kept: Expr, folder: Path, n_units: int) -> GeneMajor:
    return GeneMajor(str(folder), kept.bounds, kept.shape[1], n_units, np.dtype(kept.dtype), _tile_values())


def is_made(x: RowBlocks) -> bool:
    """Tell whether the gene-major copy of ``x`` is there, so that `map_cols` needs no pass."""
    return isinstance(x.expression.source, MemorySource) or _found(x) is not None


def _found(x: RowBlocks) -> tuple[GeneMajor, Expr] | None:
    """Return a finished copy of what X is before its last step, or of X itself, and which of them it is."""
    for kept in dict.fromkeys((_below(x), x.expression)):
        token = kept.token()
        if token in _HERE and run.client() is None:
            _HERE.move_to_end(token)
            return _HERE[token][0], kept
        if config.get("work-dir") is None:
            continue
        folder = _folder(token)
        if (folder / "complete").exists():
            copy = _copy_of(kept, folder, _units_of(folder, kept))
            if all(_path(copy, i).exists() for i in copy.filled()):
                os.utime(folder)  # last used now
                return copy, kept
    return None


def _folder(token: str) -> Path:
    return Path(str(config.get("work-dir"))).absolute() / f"{_PREFIX}{token}"


def _path(copy: GeneMajor, i: int) -> Path:
    return Path(copy.folder) / f"{i}.genes"


def _units_of(folder: Path, kept: Expr) -> int:
    """Return the units of a copy that may have been begun under another block size."""
    path = folder / _LAYOUT
    if not path.exists():
        partial = work.partial(path)
        partial.write_text(json.dumps({"n_units": _n_units(kept)}))
        partial.replace(path)
    return int(json.loads(path.read_text())["n_units"])


@contextlib.contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Keep other processes from dropping a copy in a work-dir (where its disk knows locks)."""
    path = folder / _LAYOUT
    if not path.exists():
        yield
        return
    with path.open() as f:
        with contextlib.suppress(OSError):
            fcntl.flock(f, fcntl.LOCK_SH)
        yield


def _drop_older(folder: Path) -> None:
    """Leave room for one more copy in the work-dir: those that were not used for longest go, if nobody reads them."""
    others = [p for p in folder.parent.glob(f"{_PREFIX}*") if (p / _LAYOUT).exists() and p != folder]
    for old in sorted(others, key=lambda p: p.stat().st_mtime, reverse=True)[KEPT - 1 :]:
        with contextlib.suppress(OSError), (old / _LAYOUT).open() as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old)


def _made(x: RowBlocks, label: str) -> tuple[GeneMajor, Expr]:
    """Make a copy, or finish one that was begun."""
    kept, lasting = _below(x), config.get("work-dir") is not None
    token = kept.token()
    if not lasting:
        while len(_HERE) >= KEPT:
            _HERE.popitem(last=False)[1][1].remove()
        area = WorkFolder.make("genes")  # goes with an error, too
        copy = _copy_of(kept, area.path, _n_units(kept))
        _write_missing(copy, kept, label)
        _HERE[token] = copy, area
        return copy, kept
    folder = _folder(token)
    folder.mkdir(parents=True, exist_ok=True)
    copy = _copy_of(kept, folder, _units_of(folder, kept))
    with _in_use(folder):
        _drop_older(folder)
        _write_missing(copy, kept, label)
        (folder / "complete").touch()
    return copy, kept


def _write_missing(copy: GeneMajor, kept: Expr, label: str) -> None:
    missing = copy.filled()
    if any(_path(copy, i).exists() for i in missing):  # of a run that was killed
        whole = run.map_tasks(_is_whole, missing, shared=copy, label="check")
        missing = [i for i, ok in zip(missing, whole, strict=True) if not ok]
    if not missing:
        return
    x = RowBlocks(kept)
    some = x.select_rows(np.concatenate([np.arange(copy.bounds[i], copy.bounds[i + 1]) for i in missing]))
    numbers = np.arange(x.expression.n_blocks)
    if some is not x:
        numbers, bounds = np.asarray(missing), np.concatenate([[0], np.cumsum(np.diff(copy.bounds)[missing])])
        some = some if np.array_equal(some.expression.bounds, bounds) else some.rebounded(bounds)
    run.compute(each_block(_write_block, some, folder=copy.folder, numbers=numbers, n_units=copy.n_units), label=label)


def _is_whole(i: int, copy: GeneMajor) -> bool:
    shape = int(copy.bounds[i + 1] - copy.bounds[i]), copy.n_vars
    return files.is_whole(_path(copy, i), shape, copy.n_units)


def _write_block(block: Block, index: int, *, folder: str, numbers: np.ndarray, n_units: int) -> None:
    if block.shape[0]:
        files.write(block, Path(folder) / f"{numbers[index]}.genes", n_units)


# -- making the last step again ------------------------------------------------------------------

Restorer = Callable[[np.ndarray, np.ndarray], np.ndarray]  # values as kept and their rows -> values of X


def _logs_of_scaled(dtype: Any, totals: np.ndarray, target_sum: float, base: float | None) -> Restorer:
    by, like = factors(totals, target_sum), np.empty(0, dtype)
    return partial(_log_scaled, by=by, base=base, known=transpose.small_logs(by, base, like))


def _log_scaled(
    data: np.ndarray, rows: np.ndarray, *, by: np.ndarray, base: float | None, known: np.ndarray
) -> np.ndarray:
    out = np.empty(len(data), known.dtype)
    transpose.scaled_log1p(data, rows, by, 1.0 if base is None else 1.0 / float(np.log(base)), known, out)
    return out


def _scaled_by(dtype: Any, totals: np.ndarray, target_sum: float) -> Restorer:
    return partial(_scale, by=factors(totals, target_sum), dtype=dtype)


def _scale(data: np.ndarray, rows: np.ndarray, *, by: np.ndarray, dtype: Any) -> np.ndarray:
    out = np.empty(len(data), dtype)
    transpose.scaled(data, rows, by, out)
    return out


def _logs(dtype: Any, base: float | None) -> Restorer:
    return partial(_log, base=base)


def _log(data: np.ndarray, rows: np.ndarray, *, base: float | None) -> np.ndarray:
    return np.asarray(plain.log1p(data, base))


def _same(data: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return data


_RESTORERS: dict[str, Callable[..., Restorer]] = {
    "logarithm of scaled": _logs_of_scaled,
    "scaling": _scaled_by,
    "logarithm": _logs,
}


def _restorer(x: RowBlocks, kept: Expr) -> Restorer:
    if kept is x.expression:
        return _same
    last = x.expression.steps[-1]
    return _RESTORERS[last.role](last.dtype, *(r.values for r in last.rows), **last.const)


# -- working through it --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shared:
    copy: GeneMajor
    restore: Restorer
    kernel: Kernel
    const: dict[str, Any]
    wanted: np.ndarray


def _unit_task(unit: int, s: _Shared) -> list[tuple[np.ndarray, Any]]:
    """Return (genes, what the kernel made of them) for the wanted genes of a unit, a tile at a time."""
    copy = s.copy
    genes = files.unit_genes(unit, copy.n_units, copy.n_vars)
    stored = [files.read_raw(_path(copy, i), unit, len(genes)) for i in copy.filled()]
    counts = np.zeros(len(genes), np.int64)
    for raw, _ in stored:
        counts += files.counts_of(raw, len(genes))
    out = []
    for lo, hi in _runs(np.where(s.wanted[genes], counts, -1), copy.tile_values):
        tile = _tile(copy, stored, counts, lo, hi, s.restore)
        out.append((genes[lo:hi], s.kernel(tile, **s.const)))
        del tile
    return out


def _runs(counts: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Return runs of wanted genes (those that are not negative), of at most so many values or one gene each."""
    runs: list[tuple[int, int]] = []
    total = 0
    for j in np.flatnonzero(counts >= 0).tolist():
        n = int(counts[j])
        if runs and runs[-1][1] == j and total + n <= most:
            runs[-1] = (runs[-1][0], j + 1)
            total += n
        else:
            runs.append((j, j + 1))
            total = n
    return runs


def _tile(copy: GeneMajor, stored: list[Any], counts: np.ndarray, lo: int, hi: int, restore: Restorer) -> sp.csc_matrix:
    indptr = np.concatenate([[0], np.cumsum(counts[lo:hi])])
    rows, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], copy.dtype)
    at = indptr[:-1].copy()
    for (raw, entry), i in zip(stored, copy.filled(), strict=True):
        first, stop = int(copy.bounds[i]), int(copy.bounds[i + 1])
        unit = files.decoded(raw, entry, len(counts), stop - first, copy.dtype)
        k = slice(int(unit.counts[:lo].sum()), int(unit.counts[:hi].sum()))
        transpose.append(unit.counts[lo:hi], unit.steps[k], unit.values[k], first, at, rows, data)
    shape = int(copy.bounds[-1]), hi - lo
    out = sp.csc_matrix((restore(data, rows), rows, indptr.astype(np.int32)), shape=shape, copy=False)
    out.has_sorted_indices = out.has_canonical_format = True
    return out


def _ordered(value: Any, order: np.ndarray) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(_ordered(getattr(value, f.name), order) for f in fields(value)))
    if isinstance(value, dict):
        return {k: _ordered(v, order) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_ordered(v, order) for v in value)
    return value[order]


# -- without a copy ------------------------------------------------------------------------------


def _gene_bytes(block: Block) -> np.ndarray:
    n = block.getnnz(axis=0) if sp.issparse(block) else np.full(block.shape[1], block.shape[0])
    return np.asarray(n, np.int64) * (4 + block.dtype.itemsize)


GENE_BYTES: Reduction[np.ndarray, np.ndarray] = Reduction(_gene_bytes, np.add)


def _gathered(kernel: Kernel, x: RowBlocks, label: str, const: dict[str, Any]) -> Any:
    """Bring as many genes as fit into memory together at a time."""
    most = x.shape[0] * (4 + x.dtype.itemsize)
    if most * x.shape[1] <= _GATHERED_BYTES:
        size = np.full(x.shape[1], most)
    else:
        size = run.compute(reduce_rows(GENE_BYTES, x), label=label)
    runs = _runs(size, _GATHERED_BYTES)
    if len(runs) > 1 and not isinstance(x.expression.source, MemorySource):
        warnings.warn(
            ScDaskWarning(
                f"X is read {len(runs) + 1} times: the workers have no work-dir for a gene-major copy; expected a "
                'folder that all of them see; next: dask.config.set({"sc-dask.work-dir": folder})'
            ),
            stacklevel=2,
        )
    found = []
    for lo, hi in runs:
        whole = run.materialise(x.select_columns(np.arange(lo, hi)), label=label)
        tile = sp.csc_matrix(whole) if sp.issparse(whole) else whole
        parts = [_part(tile, a, b) for a, b in _runs(size[lo:hi], max(_tile_values() * _VALUE_BYTES, 1))]
        found += run.map_tasks(_call, parts, shared=(kernel, const), label=label)
    return join(found)


def _part(tile: Any, lo: int, hi: int) -> sp.csc_matrix:
    return tile[:, lo:hi] if sp.issparse(tile) else sp.csc_matrix(np.asarray(tile[:, lo:hi]))


def _call(tile: sp.csc_matrix, shared: tuple[Kernel, dict[str, Any]]) -> Any:
    kernel, const = shared
    return kernel(tile, **const)
