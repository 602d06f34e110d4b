"""Test kit: a source that counts what is read of it, lazy matrices cut anywhere, a count of passes, and strategies.

Meant for tests of code that builds on sc_dask as much as for its own. Nothing here is needed at run time;
``hypothesis`` is imported inside the strategies only.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import anndata as ad
import numpy as np
import scipy.sparse as sp
from dask.base import tokenize

from sc_dask import slots
from sc_dask.array.blocks import RowBlocks, canonical_whole, from_source
from sc_dask.array.engine import run
from sc_dask.array.source import METER, Block, BlockSource, MemorySource
from sc_dask.outside.anndata import named_layers

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


class CountingSource(BlockSource):
    """A `BlockSource` that counts how often each range of rows is read.

    Parameters
    ----------
    source
        Another source, which meters its bytes itself, or a matrix in memory (ndarray or scipy sparse, n_obs x
        n_vars), whose blocks count their own bytes.

    Notes
    -----
    Safe in many threads. A pickled copy counts for itself from zero: on processes, trust the figures of a
    ``log.stage``, which workers send back.
    """

    def __init__(self, source: Any) -> None:
        if isinstance(source, np.ndarray):
            source = MemorySource(np.ascontiguousarray(source), f"counting-{tokenize(source)}")
        elif sp.issparse(source):
            source = MemorySource(canonical_whole(source.tocsr()), f"counting-{tokenize(source)}")
        self.source: BlockSource = source
        self.reads: Counter[tuple[int, int]] = Counter()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return CountingSource, (self.source,)

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def is_sparse(self) -> bool:
        return self.source.is_sparse

    @property
    def token(self) -> str:
        return self.source.token

    def read(self, start: int, stop: int) -> Block:
        with self._lock:
            self.reads[start, stop] += 1
        block = self.source.read(start, stop)
        if isinstance(self.source, MemorySource):
            METER.add(rows=stop - start, n_bytes=_n_bytes(block))
        return block

    @property
    def rows_read(self) -> int:
        """Rows handed out so far, each as often as it was."""
        return sum((stop - start) * n for (start, stop), n in self.reads.items())

    @property
    def passes(self) -> float:
        """Rows handed out so far over all rows."""
        return self.rows_read / max(self.shape[0], 1)

    def times_read(self) -> np.ndarray:
        """Return how often each row was handed out, int64 (n_obs,)."""
        out = np.zeros(self.shape[0], np.int64)
        for (start, stop), n in self.reads.items():
            out[start:stop] += n
        return out

    def forget(self) -> None:
        """Start counting at zero."""
        with self._lock:
            self.reads.clear()


def _n_bytes(block: Block) -> int:
    if sp.issparse(block):
        return int(block.data.nbytes + block.indices.nbytes + block.indptr.nbytes)
    return int(block.nbytes)


def lazy(data: Any, n_blocks: int = 4, *, bounds: Sequence[int] | np.ndarray | None = None) -> Any:
    """Return a lazy twin of something in memory, whose reads are counted (`source_of`).

    Parameters
    ----------
    data
        A matrix (n_obs, n_vars; ndarray or scipy sparse), or an AnnData with X and layers in memory.
    n_blocks
        Cut into so many blocks of nearly equal size.
    bounds
        Cut here instead: row numbers from 0 to n_obs, not decreasing; equal neighbours make an empty block.

    Returns
    -------
    RowBlocks, or a new AnnData with lazy X and layers (everything else copied).
    """
    if not isinstance(data, ad.AnnData):
        cut = np.linspace(0, data.shape[0], n_blocks + 1).astype(np.int64) if bounds is None else np.asarray(bounds)
        return from_source(CountingSource(data), cut)
    out = data.copy()  # what is read stays as it is now, whatever becomes of ``data``
    writes: dict[tuple[str, str], Any] = {}
    for key, layer in named_layers(out):
        writes["layers", key] = lazy(layer, n_blocks, bounds=bounds)
    if out.X is not None:
        writes["X", ""] = lazy(out.X, n_blocks, bounds=bounds)
    slots.write(out, writes)
    return out


def source_of(data: Any) -> CountingSource:
    """Return the counting source behind a lazy matrix, or behind X of an AnnData."""
    x = data.X if isinstance(data, ad.AnnData) else data
    if not isinstance(x, RowBlocks) or not isinstance(x.expression.source, CountingSource):
        raise TypeError(f"no counting source behind a {type(x).__name__}")
    return x.expression.source


@dataclass
class Computes:
    """What was computed while a `compute_counter` was open: one label per graph handed to a scheduler."""

    labels: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        """How many graphs were computed."""
        return len(self.labels)


@contextlib.contextmanager
def compute_counter() -> Iterator[Computes]:
    """Count what sc_dask computes in the ``with`` block, in any thread."""
    counted, execute = Computes(), run._run

    def counting(executor: Any, job: Any) -> Any:
        counted.labels.append(job.label)
        return execute(executor, job)

    with mock.patch.object(run, "_run", counting):
        yield counted


# -- hypothesis ----------------------------------------------------------------------------------


def count_matrices(
    *, max_obs: int = 30, max_vars: int = 12, max_count: int = 1_000_000, dtype: Any = np.float32
) -> SearchStrategy[sp.csr_matrix]:
    """Return a strategy for small count matrices (csr): empty rows and columns, one huge count, no rows at all."""
    from hypothesis import strategies as st

    @st.composite
    def draw_matrix(draw: Any) -> sp.csr_matrix:
        shape = draw(st.integers(0, max_obs)), draw(st.integers(1, max_vars))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        dense = rng.poisson(draw(st.sampled_from([0.0, 0.05, 0.5, 3.0])), shape).astype(dtype)
        if dense.size and draw(st.booleans()):
            dense[rng.integers(shape[0]), rng.integers(shape[1])] = draw(st.integers(0, max_count))
        out = sp.csr_matrix(dense)
        out.indices, out.indptr = out.indices.astype(np.int32), out.indptr.astype(np.int32)
        return out

    return draw_matrix()


def row_bounds(n_obs: int, *, max_blocks: int = 8) -> SearchStrategy[np.ndarray]:
    """Return a strategy for cuts of ``n_obs`` rows (int64, from 0 to n_obs), with empty blocks among them."""
    from hypothesis import strategies as st

    inner = st.lists(st.integers(0, n_obs), max_size=max_blocks - 1)
    return inner.map(lambda cuts: np.array([0, *sorted(cuts), n_obs], np.int64))
