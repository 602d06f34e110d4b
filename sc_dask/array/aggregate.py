"""Aggregates of groups of cells, or of genes, in as few passes as memory allows."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from sc_dask import config
from sc_dask.array.blocks import Reduction, RowBlocks, collect_rows, each_block, reduce_rows
from sc_dask.array.engine import run, segments
from sc_dask.array.source import Block
from sc_dask.kernels import aggregate as kernels
from sc_dask.log import logger

DEFAULT_BYTES = 1 << 30  # for a state, and for the values that medians want, where no budget is set
SUMS: Reduction[kernels.Sums, kernels.Totals] = Reduction(
    kernels.sums, kernels.merge, kernels.finish, updated_copy=kernels.update, update_inplace=kernels.absorb
)


def of_rows(
    x: RowBlocks, codes: np.ndarray, n_groups: int, wanted: Collection[str], dof: int = 1
) -> dict[str, np.ndarray]:
    """Return functions of the rows of each group, each (n_groups, n_vars).

    Parameters
    ----------
    x
        Lazy matrix (n_obs, n_vars).
    codes
        Group of each row (int32, -1: in none).
    n_groups
        Number of groups.
    wanted
        Names from ``kernels.aggregate.FUNCTIONS``.
    dof
        Variances are sums of squared deviations over ``n - dof``.

    Passes: 1 for any number of groups while 16 bytes (``sum`` and ``mean``) to 40 (``median``) per group, gene and
    thread fit half the memory budget (1 GiB without one), else one for each tile of genes that does. ``median``
    reads again, once for each tile of genes whose non-zeros fit, and only those genes that more than half of some
    group's cells have.
    """
    codes = np.asarray(codes, np.int32)
    held = segments.states_held(x.expression.n_blocks, run.n_workers())
    per_gene = 8 * max(n_groups, 1) * (kernels.depth_of(wanted) + 1) * (held + 1)
    width = max(1, _budget() // per_gene)
    tiles = [np.arange(lo, min(lo + width, x.shape[1])) for lo in range(0, max(x.shape[1], 1), width)]
    if len(tiles) > 1:
        logger.info("aggregates of %d groups: %d passes, %d genes each", n_groups, len(tiles), width)
    found = [_tile(x.select_columns(cols), codes, n_groups, wanted, dof) for cols in tiles]
    if len(found) == 1:
        return found[0]
    return {f: np.concatenate([part[f] for part in found], axis=1) for f in found[0]}


def _budget() -> int:
    memory = config.n_bytes("memory")
    return DEFAULT_BYTES if memory is None else memory // 2


def _tile(x: RowBlocks, codes: np.ndarray, n_groups: int, wanted: Collection[str], dof: int) -> dict[str, np.ndarray]:
    depth = kernels.depth_of(wanted)
    totals = run.compute(reduce_rows(SUMS, x, codes, n_groups=n_groups, depth=depth), label="aggregate")
    n = np.bincount(codes[codes >= 0], minlength=n_groups)
    out = kernels.functions(totals, n, wanted, dof)
    if "median" in wanted:
        out["median"] = _medians(x, codes, totals, n)
    return out


def _medians(x: RowBlocks, codes: np.ndarray, totals: kernels.Totals, n: np.ndarray) -> np.ndarray:
    """Find the medians that are not zero among their values, a tile of genes a pass."""
    out, wanted = kernels.medians(totals, n)
    genes = np.flatnonzero(wanted.any(axis=0))
    if not len(genes):
        return out
    n_values = np.where(wanted, totals.nonzero, 0).sum(axis=0)[genes].astype(np.int64)
    # found values with their places, and the same sorted by place
    tile = (np.cumsum(n_values) - n_values) * (4 + 2 * np.result_type(x.dtype, np.float32).itemsize) // _budget()
    tiles = np.split(genes, np.flatnonzero(np.diff(tile)) + 1)
    logger.info("medians: %d genes have non-zero ones, %d more passes", len(genes), len(tiles))
    for cols in tiles:
        open_ = wanted[:, cols]
        places, *numbers = kernels.needed(totals.picked(cols), n, open_)
        lazy = each_block(kernels.collect, x.select_columns(cols), codes, places=places)
        part = out[:, cols]
        part[open_] = kernels.select(run.compute(lazy, label="medians"), *numbers)
        out[:, cols] = part
    return out


def of_cols(
    x: RowBlocks, codes: np.ndarray, n_groups: int, wanted: Collection[str], dof: int = 1
) -> dict[str, np.ndarray]:
    """Return functions of the columns of each group, each (n_obs, n_groups); 1 pass.

    Parameters are those of `of_rows`, with a code for each column.
    """
    const = {"codes": np.asarray(codes, np.int32), "n_groups": n_groups, "wanted": tuple(wanted), "dof": dof}
    return run.compute(collect_rows(_of_cols, x, **const), label="aggregate")


def _of_cols(
    block: Block, *, codes: np.ndarray, n_groups: int, wanted: tuple[str, ...], dof: int
) -> dict[str, np.ndarray]:
    transposed = block.T.tocsr() if hasattr(block, "tocsr") else np.ascontiguousarray(block.T)
    found = kernels.of_block(transposed, codes, n_groups, wanted, dof)
    return {f: np.ascontiguousarray(values.T) for f, values in found.items()}
