"""Simulated cells: a generator for any number of them.

The generator is a reader like any other (`SimulatedSource`): X is made block by block where it is used.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from sc_dask import config
from sc_dask.array import blocks
from sc_dask.array.source import METER, Block, BlockSource
from sc_dask.errors import InputError
from sc_dask.kernels.simulate import alias_table, sample_cells

MITOCHONDRIAL = tuple(
    f"MT-{g}" for g in ("ND1", "ND2", "CO1", "CO2", "ATP8", "ATP6", "CO3", "ND3", "ND4L", "ND4", "ND5", "ND6", "CYB")
)
_COUNT_TILE, _CELL_TILE = 64, 1024  # rows with a seed of their own: what makes a block's place irrelevant
_GENES, _CELLS, _COUNTS = range(3)  # streams of random numbers under one seed


@dataclass(frozen=True)
class _Model:
    """What all cells share; ``n_profiles = n_groups * n_batches``, a group's batches side by side."""

    p: np.ndarray  # (n_profiles, n_nuclear) float32, rows sum to one
    threshold: np.ndarray  # (n_profiles, n_nuclear) float32
    alias: np.ndarray  # (n_profiles, n_nuclear) int32
    mt_p: np.ndarray  # (n_mt,)
    shape: np.ndarray  # (n_vars,)
    marker_of: np.ndarray  # (n_vars,) group, or -1
    group_share: np.ndarray  # (n_groups,) sums to one
    log_depth: np.ndarray  # (n_profiles,) log of the profile's mean library size


@dataclass(frozen=True)
class _Cells:
    """What is true of some cells."""

    group: np.ndarray
    batch: np.ndarray
    depth: np.ndarray  # expected counts
    mt_share: np.ndarray  # expected part of them that is mitochondrial


@dataclass(frozen=True)
class SimulatedSource(BlockSource):
    """Simulated counts as a ``BlockSource``: any rows on any worker, the same wherever blocks are cut.

    Fields are the arguments of `simulate`. Each process keeps ``12 * n_groups * n_batches * n_vars`` bytes of gene
    profiles per simulation (the last four).
    """

    n_obs: int
    n_vars: int
    n_groups: int
    n_batches: int
    seed: int
    mean_counts: float
    marker_fold: float
    batch_sd: float
    ambient: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_obs, self.n_vars

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    @property
    def is_sparse(self) -> bool:
        return True

    @property
    def token(self) -> str:
        return f"simulated-{hashlib.sha256(repr(self).encode()).hexdigest()[:32]}"

    @property
    def n_mt(self) -> int:
        """Number of mitochondrial genes, the last columns: 13 as in man, fewer among fewer than 260 genes."""
        return min(len(MITOCHONDRIAL), self.n_vars // 20)

    def read(self, start: int, stop: int) -> Block:
        if start >= stop:
            return sp.csr_matrix((0, self.n_vars), dtype=np.float32)
        model, n_mt = _model(self), self.n_mt
        # whole tiles, also where cells end: a tile's cells share one stream
        first, last = start // _COUNT_TILE * _COUNT_TILE, -(-stop // _COUNT_TILE) * _COUNT_TILE
        cells = _cells(self, first, last)
        profile_of = cells.group * self.n_batches + cells.batch
        mt_depth = cells.depth * cells.mt_share if n_mt else np.zeros_like(cells.depth)
        depth = cells.depth - mt_depth
        parts = [
            sample_cells(
                _rng(self.seed, _COUNTS, (first + lo) // _COUNT_TILE),
                profile_of[lo : lo + _COUNT_TILE],
                depth[lo : lo + _COUNT_TILE],
                mt_depth[lo : lo + _COUNT_TILE],
                model.p,
                model.threshold,
                model.alias,
                model.mt_p,
                model.shape,
            )
            for lo in range(0, last - first, _COUNT_TILE)
        ]
        METER.add(rows=stop - start)
        return _rows(parts, start - first, stop - first, self.n_vars)


def _rows(parts: Sequence[tuple[np.ndarray, ...]], start: int, stop: int, n_vars: int) -> sp.csr_matrix:
    """Join the csr arrays of tiles and keep rows ``start:stop``."""
    sizes = [np.zeros(1, np.int64), *(np.diff(indptr) for _, _, indptr in parts)]
    indptr = np.cumsum(np.concatenate(sizes))
    lo, hi = indptr[start], indptr[stop]
    data = np.concatenate([np.empty(0, np.float32), *(p[0] for p in parts)])[lo:hi]
    indices = np.concatenate([np.empty(0, np.int32), *(p[1] for p in parts)])[lo:hi]
    indptr = (indptr[start : stop + 1] - lo).astype(np.int32)
    return sp.csr_matrix((data, indices, indptr), shape=(stop - start, n_vars), copy=False)


def _rng(seed: int, *stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=stream)))


@functools.lru_cache(maxsize=4)
def _model(source: SimulatedSource) -> _Model:
    rng = _rng(source.seed, _GENES)
    n_mt, n_groups, n_batches = source.n_mt, source.n_groups, source.n_batches
    n_nuclear = source.n_vars - n_mt
    # a few genes make most of the molecules: 2.0 gives 2,000 genes of 20,000 from 5,000 molecules
    abundance = np.exp(rng.normal(0, 2.0, n_nuclear))
    shape = np.exp(rng.normal(np.log(2.5), 0.4, source.n_vars))
    group_share = 0.7 * rng.dirichlet(np.full(n_groups, 4.0)) + 0.3 / n_groups

    n_markers = min(max(10, n_nuclear // 50), n_nuclear // n_groups)
    markers = rng.permutation(n_nuclear)[: n_markers * n_groups].reshape(n_groups, n_markers)
    marker_of = np.full(source.n_vars, -1)
    groups = np.tile(abundance, (n_groups, 1))
    for k, genes in enumerate(markers):
        marker_of[genes] = k
        # a marker is seen, not one of the many genes that hardly any cell shows
        groups[k, genes] = np.maximum(abundance[genes], np.quantile(abundance, 0.85))
        groups[k, genes] *= source.marker_fold * np.exp(rng.normal(0, 0.4, n_markers))
    groups /= groups.sum(1, keepdims=True)
    groups = (1 - source.ambient) * groups + source.ambient * (group_share @ groups)

    batches = np.exp(rng.normal(0, source.batch_sd, (n_batches, n_nuclear)))
    batches = batches if n_batches > 1 else np.ones_like(batches)
    p = (groups[:, None, :] * batches[None]).reshape(-1, n_nuclear)
    p /= p.sum(1, keepdims=True)
    tables = [alias_table(row) for row in p]

    log_depth = (rng.normal(0, 0.2, (n_groups, 1)) + rng.normal(0, 0.2, (1, n_batches)) * (n_batches > 1)).ravel()
    mean_depth = np.repeat(group_share / n_batches, n_batches) @ np.exp(log_depth)
    return _Model(
        p=p.astype(np.float32),
        threshold=np.stack([t[0] for t in tables]),
        alias=np.stack([t[1] for t in tables]),
        mt_p=rng.dirichlet(np.full(n_mt, 3.0)) if n_mt else np.empty(0),
        shape=shape,
        marker_of=marker_of,
        group_share=group_share,
        log_depth=log_depth + np.log(source.mean_counts / mean_depth),
    )


def _cells(source: SimulatedSource, start: int, stop: int) -> _Cells:
    """Return what is true of cells ``start:stop``."""
    model = _model(source)
    edges = np.cumsum(model.group_share)[:-1]
    tiles = []
    for tile in range(start // _CELL_TILE, -(-stop // _CELL_TILE)):
        rng = _rng(source.seed, _CELLS, tile)
        group = np.searchsorted(edges, rng.random(_CELL_TILE), side="right")
        batch = rng.integers(0, source.n_batches, _CELL_TILE)
        sd = 0.35
        log_depth = model.log_depth[group * source.n_batches + batch] + rng.normal(-(sd**2) / 2, sd, _CELL_TILE)
        mt_share = np.minimum(np.exp(rng.normal(np.log(0.025), 0.5, _CELL_TILE)), 0.6)
        tiles.append((group, batch, np.exp(log_depth), mt_share))
    lo = start // _CELL_TILE * _CELL_TILE
    joined = (np.concatenate(parts)[start - lo : stop - lo] for parts in zip(*tiles, strict=True))
    return _Cells(*joined)


def _genes_per_cell(source: SimulatedSource) -> float:
    """Return the expected number of non-zeros of a cell of average depth, from above."""
    model = _model(source)
    share = np.repeat(model.group_share / source.n_batches, source.n_batches)
    mu = (share @ model.p) * source.mean_counts
    r = model.shape[: len(mu)]
    return float(-np.expm1(-r * np.log1p(mu / r)).sum() + source.n_mt)


def _checked(source: SimulatedSource) -> SimulatedSource:
    def refuse(found: str, expected: str, fix: str) -> None:
        raise InputError(f"found {found}", expected, fix)

    for name in ("n_obs", "n_vars", "n_groups", "n_batches"):
        if getattr(source, name) < 1:
            refuse(f"{name}={getattr(source, name)}", "at least 1", f"simulate(..., {name}=...)")
    if source.n_groups > source.n_vars - source.n_mt:
        refuse(
            f"{source.n_groups} groups of {source.n_vars} genes", "a marker gene for each group", "ask for more genes"
        )
    if source.seed < 0:
        refuse(f"seed={source.seed}", "a number that is not negative", "simulate(..., seed=0)")
    if not source.mean_counts > 0 or not np.isfinite(source.mean_counts):
        refuse(f"mean_counts={source.mean_counts}", "a number above 0", "simulate(..., mean_counts=5000)")
    if not source.marker_fold >= 1:
        refuse(f"marker_fold={source.marker_fold}", "a factor of at least 1", "simulate(..., marker_fold=4)")
    if not source.batch_sd >= 0:
        refuse(f"batch_sd={source.batch_sd}", "a number that is not negative", "simulate(..., batch_sd=0.25)")
    if not 0 <= source.ambient < 1:
        refuse(f"ambient={source.ambient}", "a share in [0, 1)", "simulate(..., ambient=0.02)")
    return source


def _obs(source: SimulatedSource) -> pd.DataFrame:
    cells = _cells(source, 0, source.n_obs)
    groups = pd.Index([f"group_{k}" for k in range(source.n_groups)])
    batches = pd.Index([f"batch_{k}" for k in range(source.n_batches)])
    columns = {
        "true_label": pd.Categorical.from_codes(cells.group, groups),
        "batch": pd.Categorical.from_codes(cells.batch, batches),
        "true_depth": cells.depth,
    }
    width = len(str(source.n_obs - 1))
    return pd.DataFrame(columns, index=pd.Index([f"cell_{i:0{width}d}" for i in range(source.n_obs)], dtype=object))


def _var(source: SimulatedSource) -> pd.DataFrame:
    n_nuclear = source.n_vars - source.n_mt
    width = len(str(n_nuclear - 1))
    names = [*(f"gene_{i:0{width}d}" for i in range(n_nuclear)), *MITOCHONDRIAL[: source.n_mt]]
    groups = pd.Index([f"group_{k}" for k in range(source.n_groups)])
    columns = {"true_marker_of": pd.Categorical.from_codes(_model(source).marker_of, groups)}
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def simulate(
    n_obs: int,
    n_vars: int = 20_000,
    *,
    n_groups: int = 8,
    n_batches: int = 1,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    mean_counts: float | None = None,
    marker_fold: float = 4.0,
    batch_sd: float = 0.25,
    ambient: float = 0.02,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> ad.AnnData:
    """Make counts of cells in groups and batches, of any size, with the truth beside them.

    Library sizes are log-normal, counts gamma-Poisson (negative binomial) as in Splatter (Zappia et al. 2017,
    doi:10.1186/s13059-017-1305-0). A group raises its own marker genes, a batch multiplies every gene by a
    log-normal factor and has its own depth, ambient molecules mix a little of the average cell into each, and the last
    columns are mitochondrial genes with a share of the molecules that varies between cells. Each cell's counts follow
    from ``seed`` and its row alone: neither the block size nor the number of threads nor ``n_obs`` changes them.

    Parameters
    ----------
    n_obs, n_vars
        Cells and genes, of which up to 13 are mitochondrial (``MT-...``).
    n_groups, n_batches
        Cell types, of unequal size, and batches, of equal size, mixed at random over the rows.
    seed
        Not negative.
    out
        Path or URL of a zarr store to write; None makes nothing but a description.
    mean_counts
        Mean molecules per cell; None: a quarter of ``n_vars`` (a cell then shows about a tenth of them), at least 500.
    marker_fold
        Typical factor (>= 1) by which a group raises its markers; 1 makes groups alike but for seldom seen genes.
    batch_sd
        Standard deviation of a batch's log factor per gene; of no effect with one batch.
    ambient
        Share [0, 1) of a cell's molecules that come from the average cell.
    overwrite, storage_options
        For ``out``, as in ``sc_dask.write``.

    Returns
    -------
    AnnData with lazy float32 csr X; ``obs``: ``true_label``, ``batch`` (categorical), ``true_depth`` (expected
    counts); ``var``: ``true_marker_of`` (categorical, missing where no marker); ``uns["simulation"]``: the
    arguments. With ``out``: the same, read from the store.

    Passes: none; with ``out`` two: one counts non-zeros, one writes. Memory: one block per thread,
    ``12 * n_groups * n_batches * n_vars`` bytes of profiles per process, and obs.

    Raises
    ------
    InputError
        An argument is out of its range.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(1000, 500, n_groups=3, seed=1)
    >>> adata.shape, list(adata.obs["true_label"].cat.categories)
    ((1000, 500), ['group_0', 'group_1', 'group_2'])
    """
    mean_counts = max(500, n_vars / 4) if mean_counts is None else mean_counts
    sizes = (int(n_obs), int(n_vars), int(n_groups), int(n_batches), int(seed))
    source = _checked(SimulatedSource(*sizes, float(mean_counts), float(marker_fold), float(batch_sd), float(ambient)))
    x = blocks.from_source(source, _bounds(source))
    adata = ad.AnnData(x, obs=_obs(source), var=_var(source), uns={"simulation": asdict(source)})
    if out is None:
        return adata
    from sc_dask.io.read import read
    from sc_dask.io.write import write

    options = dict(storage_options) if storage_options else None
    write(adata, out, storage_options=options, overwrite=overwrite, narrow=True)
    return read(out, storage_options=options)


def _bounds(source: SimulatedSource) -> np.ndarray:
    """Cut rows to the byte budget, at whole tiles."""
    budget = config.n_bytes("block-bytes")
    assert budget is not None
    n_rows = max(1, int(budget / (8 * _genes_per_cell(source))) // _COUNT_TILE) * _COUNT_TILE
    return np.append(np.arange(0, source.n_obs, n_rows), source.n_obs)
