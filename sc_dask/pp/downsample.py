"""Fewer counts."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import get, slots
from sc_dask.array import qc
from sc_dask.array.downsample import per_cell
from sc_dask.array.normalize import computed_totals
from sc_dask.errors import InputError
from sc_dask.kernels.downsample import share
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

_MOST = float(2**63 - 1)


def _price(size: Size, *, total_counts: int | None, **_: Any) -> Price:
    passes = 0 if total_counts is None else size.passes_unless("cell sums")
    return Price(passes, passes * int(1.5 * size.blocks) + 24 * size.n_obs, 8 * size.n_obs)


@priced(_price)
def downsample_counts(
    adata: AnnData,
    counts_per_cell: int | Collection[int] | None = None,
    total_counts: int | None = None,
    *,
    random_state: int | np.random.RandomState | None = 0,
    replace: bool = False,
    copy: bool = False,
) -> AnnData | None:
    """Draw some of the counts: so many of each cell, or so many of all cells together.

    A cell's counts are drawn by a generator of its own, so the result depends on neither blocks nor threads, and a lazy
    X draws the same whenever it is read. Numbers of counts are scanpy's and so is the distribution, but not the single
    draws: scanpy starts the same generator for every cell, whose errors then do not average out over cells.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars) of counts, in memory or lazy.
    counts_per_cell
        Most counts of a cell: one number, or one for each cell. Cells with fewer stay as they are.
    total_counts
        Most counts of all cells together.
    random_state
        Seed; None: another draw each time it is called.
    replace
        Draw with replacement.
    copy
        Return a changed copy instead.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    X (its own type; whole numbers too small for what ``replace`` may draw get a wider one), lazy if it was lazy.

    Passes: 0 on a lazy X with ``counts_per_cell``; with ``total_counts`` 1 for the cells' sums, unless
    `calculate_qc_metrics` found them. Memory: 16 bytes per cell.

    Raises
    ------
    InputError
        Not exactly one of the two numbers, a negative one, or (when it is read) an X that is no counts.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.downsample_counts(adata, counts_per_cell=100)
    >>> int(adata.X.compute().sum(axis=1).max())
    100
    """
    if (counts_per_cell is None) == (total_counts is None):
        both = "neither" if total_counts is None else "both"
        raise InputError(f"{both} of counts_per_cell and total_counts", "exactly one of them")
    adata = adata.copy() if copy else adata
    x = get.matrix(adata)
    wrong = qc.not_counts(x) if x.known.values else None
    if wrong:
        raise InputError(f"X has {wrong}", "counts", "call it before normalising")
    rng = random_state if isinstance(random_state, np.random.RandomState) else np.random.RandomState(random_state)
    seed = int(rng.randint(2**63 - 1, dtype=np.int64))
    if counts_per_cell is not None:
        targets = _targets(counts_per_cell, adata.n_obs)
    else:
        n = int(_targets(total_counts, 1)[0])
        totals = computed_totals(x)
        if totals.sum() >= 2.0**63:
            raise InputError(f"X sums to {totals.sum():g}", "counts of a sum below 2**63", "look at the largest values")
        few = totals.sum() <= n
        targets = totals.astype(np.int64) if few else share(totals, n, np.random.default_rng(seed), replace)
    out = get.as_stored(per_cell(x, targets, seed, replace), get.stored(adata))
    slots.write(adata, {("X", ""): out}, writer="pp.downsample_counts")
    return adata if copy else None


def _targets(numbers: int | Collection[int] | None, n_obs: int) -> np.ndarray:
    """Return most counts of each cell, int64 (n_obs,)."""
    targets = np.asarray(numbers)
    if targets.shape not in ((), (n_obs,)):
        raise InputError(f"counts_per_cell of shape {targets.shape}", f"a number, or one for each of {n_obs} cells")
    if targets.dtype.kind not in "iuf" or not (targets >= 0).all() or not (targets == np.floor(targets)).all():
        raise InputError("a number of counts that is negative or no integer", "whole numbers from 0 on")
    return np.broadcast_to(np.minimum(targets, _MOST), (n_obs,)).astype(np.int64)
