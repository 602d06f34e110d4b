"""An atlas of any size from real cells: it keeps their manifold and labels and has a noise of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from sc_dask import config, get
from sc_dask.array.blocks import Lazy, from_source
from sc_dask.array.engine import run
from sc_dask.array.source import METER, Block, BlockSource
from sc_dask.errors import InputError
from sc_dask.kernels.csr import canonical
from sc_dask.kernels.upscale import draw_cells

if TYPE_CHECKING:
    from anndata import AnnData

_TILE = 512  # rows with a seed of their own: what makes a block's place irrelevant


@dataclass(frozen=True, eq=False)
class UpscaledSource(BlockSource):
    """New cells as a ``BlockSource``; holds the real counts (csr) and their neighbours (n_cells, k)."""

    n_obs: int
    counts: sp.csr_matrix
    near: np.ndarray
    n_parents: int
    keep: float
    seed: int
    token: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_obs, int(self.counts.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint16)

    @property
    def is_sparse(self) -> bool:
        return True

    def _tile(self, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, tile))
        c = self.counts
        return draw_cells(rng, _TILE, c.data, c.indices, c.indptr, self.near, self.n_parents, self.keep, self.shape[1])

    def read(self, start: int, stop: int) -> Block:
        METER.add(rows=stop - start)
        if start >= stop:
            return sp.csr_matrix((0, self.shape[1]), dtype=np.uint16)
        data, indices, sizes = [], [], []
        for tile in range(start // _TILE, (stop - 1) // _TILE + 1):
            d, i, p, _ = self._tile(tile)
            lo, hi = max(start - tile * _TILE, 0), min(stop - tile * _TILE, _TILE)
            data.append(d[p[lo] : p[hi]])
            indices.append(i[p[lo] : p[hi]])
            sizes.append(np.diff(p[lo : hi + 1]))
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
        return canonical(np.concatenate(data), np.concatenate(indices), indptr, self.shape[1])

    def parents(self) -> np.ndarray:
        """Return the row of the first parent of every cell, int32 (n_obs,); draws all cells."""
        tiles = range(-(-self.n_obs // _TILE))
        return np.concatenate([self._tile(t)[3] for t in tiles])[: self.n_obs]


def upscale(
    source: AnnData,
    n_obs: int,
    *,
    label: str | None = None,
    n_parents: int = 4,
    keep: float = 0.8,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> AnnData:
    """Make an atlas of any size from real counts.

    Each new cell sums the counts of one real cell and of ``n_parents - 1`` of its 19 nearest neighbours (in the
    principal components of the log-normalised variable genes), each count kept with probability ``keep`` times a
    log-normal depth, plus a few ambient counts. The same for the same arguments, wherever blocks are cut.

    Parameters
    ----------
    source
        Real counts (n_cells, n_vars), at least 20 cells; small enough for memory.
    n_obs
        Number of cells to make.
    label
        Column of ``source.obs`` to hand down as ``true_label``.
    n_parents, keep, seed
        See above.
    out, overwrite, storage_options
        Write to this zarr store and open it; None: X is made where it is used.

    Returns
    -------
    AnnData (n_obs, n_vars) with lazy X (uint16 counts), obs ``true_label`` and ``parent`` when ``label`` is given.

    Passes: ``out`` 2 (one counts non-zeros). Memory: the source, and a block per thread.

    Raises
    ------
    InputError
        Too few cells, or options out of range.
    """
    if source.n_obs < 20:
        raise InputError(f"found {source.n_obs} source cells", "at least 20")
    if n_obs < 1 or n_parents < 1 or not 0 < keep <= 1:
        raise InputError(f"found n_obs={n_obs}, n_parents={n_parents}, keep={keep}", "positive numbers, keep at most 1")
    counts = run.compute(Lazy(get.matrix(source), _as_int32, "rows"), label="source")
    near = _neighbours(source)
    token = hashlib.sha256(repr((n_obs, n_parents, keep, seed)).encode())
    for a in (counts.data, counts.indices, counts.indptr, near):
        token.update(np.ascontiguousarray(a).tobytes())
    made = UpscaledSource(n_obs, counts, near, n_parents, keep, seed, f"upscaled-{token.hexdigest()[:32]}")
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_obs)])
    if label is not None:
        parents = made.parents()
        values = get.column(source, label)
        obs = obs.assign(true_label=pd.Categorical(values.to_numpy()[parents]), parent=parents)
    per_cell = max(1.0, counts.nnz / source.n_obs * n_parents * keep)
    budget = config.n_bytes("block-bytes") or 2**25
    rows = max(1, int(budget / (8 * per_cell)))
    x = from_source(made, np.append(np.arange(0, n_obs, rows), n_obs))
    adata = ad.AnnData(X=x, obs=obs, var=pd.DataFrame(index=source.var_names))
    if out is None:
        return adata
    from sc_dask.io.read import read
    from sc_dask.io.write import write

    write(adata, out, overwrite=overwrite, storage_options=storage_options)
    return read(out, storage_options=storage_options)


def _as_int32(block: Block) -> sp.csr_matrix:
    out = sp.csr_matrix(block)
    if (out.data < 0).any() or (out.data != np.floor(out.data)).any():
        raise InputError("the source's X holds negative values or fractions", "counts")
    out = sp.csr_matrix((out.data.astype(np.int32), out.indices, out.indptr), shape=out.shape)
    out.eliminate_zeros()
    return out


def _neighbours(source: AnnData) -> np.ndarray:
    """Return the 19 nearest neighbours of every source cell, int32 (n_cells, 19)."""
    from sklearn.neighbors import NearestNeighbors

    from sc_dask.array import hvg, normalize
    from sc_dask.array.pca import solvers
    from sc_dask.kernels.hvg import dispersion_table
    from sc_dask.kernels.moments import variance

    x = normalize.log1p(normalize.normalize(get.matrix(source), normalize.totals_of(get.matrix(source)), 1e4), None)
    m = hvg.group_moments(x, expm1=True)
    n_top = min(2000, source.n_vars)
    table = dispersion_table(m.mean[0], variance(m)[0], n_top_genes=n_top, index=source.var_names)
    chosen = x.select_columns(np.flatnonzero(table["highly_variable"].to_numpy()))
    scores = solvers.exact(chosen, min(50, *chosen.shape)).scores
    found = NearestNeighbors(n_neighbors=20).fit(scores).kneighbors(scores, return_distance=False)
    return np.ascontiguousarray(found[:, 1:], np.int32)
