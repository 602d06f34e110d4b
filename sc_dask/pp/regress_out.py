"""Regressing out unwanted sources of variation."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pandas as pd

from sc_dask import get, slots
from sc_dask.array import regress_out as lazy
from sc_dask.array.engine import run
from sc_dask.errors import InputError
from sc_dask.groups import Name, missing_values
from sc_dask.kernels.regress_out import orthonormal
from sc_dask.log import begin
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


def _price(size: Size, *, keys: str | Sequence[str], **_: Any) -> Price:
    names = [keys] if isinstance(keys, str) else list(keys)
    of_numbers = [name for name in names if name in size.numbers]
    n = len(of_numbers) + size.levels([name for name in names if name not in of_numbers])
    made = 0 if size.is_lazy else size.dense
    states = 32 * size.n_vars * n * size.states
    return Price(1, made + int(2.1 * size.blocks) + states + 24 * size.n_obs, made)


@priced(_price)
def regress_out(
    adata: AnnData,
    keys: str | Sequence[str],
    *,
    layer: str | None = None,
    n_jobs: int | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Replace X by the residuals of a linear regression on covariates of the cells (Satija 2015).

    The residuals of a lazy X are never stored: a block is corrected when somebody asks for it, only in the genes that
    are asked for, and ``pp.pca`` needs none of them. Choose genes first (``adata[:, genes]``): it costs nothing.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars), logarithmised, in memory or lazy.
    keys
        Columns of obs: one or several of numbers, or one of categories (text counts as that), whose means are taken
        away.
    layer
        Layer to use instead of X.
    n_jobs
        Threads of the pass; None: as many as Dask's. Not for a cluster.
    copy
        Return a changed copy instead.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    X or the layer (dense; float32, for float64 and integers of 8 bytes float64), lazy if it was lazy. A gene that is
    the same in all cells becomes 0, also with categories, where scanpy leaves it as it is.

    Passes: 1. Memory: 32 bytes per gene, covariate (or category) and thread, 8 bytes per cell and covariate; blocks of
    the result are as large as those of X (``sc-dask.block-bytes``). In memory the result is dense: 4 bytes per cell
    and gene.

    Raises
    ------
    MissingKeyError
        No such column or layer.
    InputError
        A covariate is constant, follows from others or has missing values; categories together with another key; X is
        not finite.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    >>> sd.pp.regress_out(adata, ["total_counts"])
    >>> abs(float(adata.X.compute().mean())) < 1e-5
    True
    """
    start = begin(f"regressing out {keys}")
    names = [keys] if isinstance(keys, str) else list(keys)
    design, codes, n_levels = _covariates(adata, names)
    with _threads(n_jobs):
        adata = adata.copy() if copy else adata
        stored = get.stored(adata, layer)
        out = get.as_stored(lazy.regressed(get.matrix(adata, layer), design, codes, n_levels), stored)
    key = ("X", "") if layer is None else ("layers", layer)
    slots.write(adata, {key: out}, writer="pp.regress_out", since=start)
    return adata if copy else None


def _threads(n_jobs: int | None) -> contextlib.AbstractContextManager[object]:
    if n_jobs is None:
        return contextlib.nullcontext()
    if n_jobs < 1:
        raise InputError(f"n_jobs={n_jobs}", "a number of threads from 1, or None")
    if run.client() is not None:
        raise InputError(f"n_jobs={n_jobs} under a Dask client", "None: the cluster's workers have threads", "drop it")
    return dask.config.set(num_workers=n_jobs)


def _covariates(adata: AnnData, names: list[str]) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Return the design of numbers, or codes and number of categories."""
    if not names:
        raise InputError("keys is empty", "columns of obs", 'for instance keys=["total_counts"]')
    columns = {name: get.column(adata, name) for name in names}
    for name, column in columns.items():
        if column.isna().any():
            raise missing_values(column, Name(name), "a value for every cell")
    numeric = [n for n, c in columns.items() if pd.api.types.is_numeric_dtype(c.dtype)]
    if len(numeric) == len(names):
        return orthonormal(_numbers(columns, names), names), None, 1
    if len(names) > 1:
        text = [n for n in names if n not in numeric]
        raise InputError(
            f"{', '.join(map(repr, text))} of categories among {len(names)} keys",
            "numbers only, or one column of categories",
            "call once for the categories and once for the numbers",
        )
    groups = get.groups(adata, names[0], missing="refuse")
    return np.empty((adata.n_obs, 0)), groups.codes, len(groups)


def _numbers(columns: dict[str, pd.Series], names: list[str]) -> np.ndarray:
    out = np.column_stack([columns[n].to_numpy(np.float64) for n in names])
    endless = [n for n, finite in zip(names, np.isfinite(out).all(axis=0), strict=True) if not finite]
    if endless:
        raise InputError(f"obs[{endless[0]!r}] has infinite values", "finite numbers", "look at the column")
    return out
