"""Counts of any shape: so many cells, genes and non-zeros a cell. Nothing but the shape is meant to be like cells."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from sc_dask.array.source import METER, Block
from sc_dask.io.blobs.store import quiet

_PIECE = 2**22  # entries of a long vector made at a time
_TILE = 256  # rows with a seed of their own: what makes a block's place irrelevant


@dataclass(frozen=True)
class ShapeSource:
    """A ``BlockSource`` of counts with about ``per_cell`` non-zeros a row, a few genes far more frequent than most."""

    n_obs: int
    n_vars: int
    per_cell: int
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_obs, self.n_vars

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint16)

    @property
    def is_sparse(self) -> bool:
        return True

    @property
    def token(self) -> str:
        return repr(self)

    def read(self, start: int, stop: int) -> Block:
        METER.add(rows=stop - start)
        if start >= stop:
            return sp.csr_matrix((0, self.n_vars), dtype=np.uint16)
        first, last = start // _TILE, -(-stop // _TILE)
        tiles = sp.vstack([self._tile(t) for t in range(first, last)], format="csr")
        found = tiles[start - first * _TILE : stop - first * _TILE]
        found.indices, found.indptr = found.indices.astype(np.int32), found.indptr.astype(np.int32)
        return found

    def _tile(self, tile: int) -> sp.csr_matrix:
        """Draw one gene from each of ``per_cell`` strata of equal chance: sorted, and seldom the same gene twice."""
        rng = np.random.default_rng((self.seed, tile))
        at = np.arange(self.per_cell) + rng.random((_TILE, self.per_cell))
        cols = np.searchsorted(_strata(self), at).astype(np.int32).clip(max=self.n_vars - 1)
        new = np.ones(cols.shape, bool)
        new[:, 1:] = np.diff(cols, axis=1) > 0
        indptr = np.append(0, np.cumsum(new.sum(axis=1))).astype(np.int32)
        data = (1 + rng.poisson(0.8, size=int(indptr[-1]))).astype(np.uint16)
        return sp.csr_matrix((data, cols[new], indptr), shape=(_TILE, self.n_vars))


@functools.lru_cache(maxsize=4)
def _strata(source: ShapeSource) -> np.ndarray:
    """Return the running sum of the genes' chances, which come to ``per_cell``; none is above one."""
    chance = np.exp(np.random.default_rng(source.seed).normal(0, 2.0, source.n_vars))
    for _ in range(50):
        chance = np.minimum(chance * (source.per_cell / chance.sum()), 1.0)
    return np.cumsum(chance)


@quiet()
def declare(n_obs: int, n_vars: int, out: Path) -> int:
    """Make a store whose ``indptr`` is real and whose other long arrays are declared without one chunk.

    Enough for what looks at metadata and row sizes only. Returns the number of non-zeros that it claims.
    """
    import anndata as ad
    import pandas as pd
    import zarr

    root = zarr.open_group(out, mode="w", zarr_format=3)
    ad.io.write_elem(root, "/", ad.AnnData(var=pd.DataFrame(index=[f"gene{i}" for i in range(n_vars)])))
    obs = root.require_group("obs")
    del obs["_index"]
    index = obs.create_array("_index", shape=(n_obs,), dtype=str, chunks=(_PIECE,))
    index.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    x = root.create_group("X", overwrite=True)
    x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n_obs, n_vars]})
    indptr = x.create_array("indptr", shape=(n_obs + 1,), dtype="int64", chunks=(_PIECE,))
    rng, end = np.random.default_rng(0), 0
    for start in range(0, n_obs + 1, _PIECE):
        sizes = rng.poisson(1500, min(_PIECE, n_obs + 1 - start))
        sizes[0] *= start > 0  # nothing is before the first row
        indptr[start : start + len(sizes)] = end + np.cumsum(sizes)
        end += int(sizes.sum())
    for name, dtype in (("data", "uint16"), ("indices", "int32")):
        x.create_array(name, shape=(end,), dtype=dtype, chunks=(2**19,), shards=(2**23,))
    zarr.consolidate_metadata(root.store)
    return end


def write(source: ShapeSource, out: Path) -> None:
    """Write the counts to a store, with a column ``batch`` of ten values at random."""
    import anndata as ad
    import pandas as pd

    import sc_dask as sd
    from sc_dask.array.blocks import from_source

    rows = max(_TILE, 2**22 // source.per_cell // _TILE * _TILE)
    x = from_source(source, np.append(np.arange(0, source.n_obs, rows), source.n_obs))
    batch = np.random.default_rng(source.seed).integers(0, 10, source.n_obs)
    obs = pd.DataFrame({"batch": pd.Categorical.from_codes(batch, [f"batch{i}" for i in range(10)])})
    obs.index = [f"cell{i}" for i in range(source.n_obs)]
    var = pd.DataFrame(index=[f"gene{i}" for i in range(source.n_vars)])
    out.parent.mkdir(parents=True, exist_ok=True)
    sd.write(ad.AnnData(X=x, obs=obs, var=var), out)
