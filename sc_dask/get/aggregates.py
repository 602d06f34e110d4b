"""Sums, means, counts, variances and medians by group."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from sc_dask import slots
from sc_dask.array import aggregate as aggregates
from sc_dask.array.blocks import RowBlocks, from_array
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.get.columns import column, listed, matrix
from sc_dask.get.columns import groups as groups_of
from sc_dask.kernels.aggregate import FUNCTIONS

if TYPE_CHECKING:
    from anndata import AnnData

AggType = Literal["count_nonzero", "mean", "sum", "var", "median"]


def aggregate(
    adata: AnnData,
    by: str | Collection[str],
    func: AggType | Iterable[AggType],
    *,
    axis: Literal["obs", 0, "var", 1] | None = None,
    mask: np.ndarray | str | None = None,
    dof: int = 1,
    layer: str | None = None,
    obsm: str | None = None,
    varm: str | None = None,
) -> AnnData:
    """Return sums, means, variances, medians or numbers of non-zeros of groups of cells (pseudobulk) or of genes.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars), in memory or lazy.
    by
        Column with the groups, or several: each combination that occurs is a group. Cells (genes) without a value take
        no part.
    func
        ``"sum"``, ``"mean"``, ``"var"``, ``"count_nonzero"``, ``"median"``, or several.
    axis
        ``"obs"`` (0) groups cells, ``"var"`` (1) genes; None: genes with ``varm``, else cells.
    mask
        Cells (genes) that take part: a boolean array or a column. The others count nowhere, which means and medians of
        scanpy forget; a group without any keeps its row, of sums 0.
    dof
        Variances are sums of squared deviations over ``n - dof``; NaN in groups of no more cells.
    layer, obsm, varm
        What to aggregate instead of X.

    Returns
    -------
    AnnData with a row for each group (named by its keys, joined by ``_``), obs of the keys and ``n_obs_aggregated``,
    var as it was, and a layer for each function: float64, exact for integers up to 2**53, so that ``sum`` of counts
    is counts; ``count_nonzero`` int64. With ``axis="var"`` all of this transposed.

    Passes: 1 for any number of groups and functions; more where 16 to 40 bytes per group, gene and thread do not fit
    half the memory budget (1 GiB without one). ``median``: 1 more, or one for each tile of genes whose non-zeros fit
    that budget; only genes that half a group's cells have are read. Memory: that, and 8 bytes per group, gene and
    function.

    Raises
    ------
    InputError
        An unknown function, a key without values, a mask that keeps nothing, or options that exclude each other.
    MissingKeyError
        No such column, layer or entry of obsm or varm.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> adata.obs["half"] = ["first"] * 100 + ["second"] * 100
    >>> sd.get.aggregate(adata, "half", ["sum", "mean"]).layers["sum"].shape
    (2, 300)
    """
    from anndata import AnnData

    wanted = _functions(func)
    if sum(key is not None for key in (layer, obsm, varm)) > 1:
        raise InputError("more than one of layer, obsm and varm", "one of them")
    transposed = _transposed(axis, obsm, varm)
    which = "var" if transposed else "obs"
    codes, groups = _groups(adata, [by] if isinstance(by, str) else list(by), which, mask)
    options: tuple[Any, ...] = (codes, len(groups), wanted, dof)
    if obsm is None and varm is None:
        x, columns = matrix(adata, layer), slots.in_memory(adata.obs if transposed else adata.var)
        layers = aggregates.of_cols(x, *options) if transposed else aggregates.of_rows(x, *options)
        layers = {f: values.T for f, values in layers.items()} if transposed else layers
    else:
        x, columns = _entry(adata, "varm" if transposed else "obsm", varm if transposed else obsm)
        layers = aggregates.of_rows(x, *options)
    found = AnnData(layers=layers, obs=groups, var=columns)
    return found.T.copy() if transposed else found


def _functions(func: AggType | Iterable[AggType]) -> list[str]:
    wanted: list[str] = [func] if isinstance(func, str) else list(dict.fromkeys(func))
    unknown = [f for f in wanted if f not in FUNCTIONS]
    if unknown or not wanted:
        raise InputError(f"func {listed(unknown)}", f"some of: {listed(FUNCTIONS)}")
    return wanted


def _transposed(axis: Any, obsm: str | None, varm: str | None) -> bool:
    """Tell whether genes are grouped."""
    numbers = {None: varm is not None, "obs": False, 0: False, "var": True, 1: True}
    if axis not in numbers:
        raise InputError(f"axis={axis!r}", "'obs' (0) or 'var' (1)")
    transposed = numbers[axis]
    if (obsm is not None and transposed) or (varm is not None and not transposed):
        name, fit = ("obsm", "obs") if transposed else ("varm", "var")
        raise InputError(f"{name} with axis={axis!r}", f"axis={fit!r}")
    return transposed


def _groups(adata: AnnData, by: list[str], axis: str, mask: np.ndarray | str | None) -> tuple[np.ndarray, pd.DataFrame]:
    """Return a code per cell (-1: left out) and a table of the groups: keys and ``n_obs_aggregated``."""
    if not by:
        raise InputError("by is empty", "a column")
    of = {key: groups_of(adata, key, axis=axis, missing="drop", max_groups=None) for key in by}
    table = pd.DataFrame({key: g.categorical() for key, g in of.items()})
    mask = column(adata, mask, axis=axis).to_numpy() if isinstance(mask, str) else mask
    keep = np.ones(len(table), bool) if mask is None else np.asarray(mask)
    if keep.dtype != bool or keep.shape != (len(table),):
        raise InputError(f"mask of type {keep.dtype} and shape {keep.shape}", f"a boolean array ({len(table)},)")
    if not keep.any():
        raise InputError(f"{'no' if mask is None else 'mask keeps no'} {axis} to aggregate", "at least one")
    missing = table.isna().any(axis=1).to_numpy()
    if missing.all():
        raise InputError(f"{axis}[{listed(by)}] has no value", "a group for some")
    codes = np.full(len(table), -1, np.int32)
    grouped = table[~missing].groupby(by, observed=True, sort=True)
    codes[~missing] = grouped.ngroup()
    groups = grouped.head(1).sort_values(by, kind="stable").reset_index(drop=True)
    groups = groups.apply(lambda c: c.cat.remove_unused_categories())
    groups.index = pd.Index(["_".join(map(str, row)) for row in groups.itertuples(index=False)])
    if groups.index.has_duplicates:
        twice = groups.index[groups.index.duplicated()]
        raise InputError(f"several groups are called {listed(twice)}", "keys without '_'", "rename the categories")
    codes = np.where(keep, codes, -1).astype(np.int32)
    groups["n_obs_aggregated"] = np.bincount(codes[codes >= 0], minlength=len(groups))
    return codes, groups


def _entry(adata: AnnData, attr: str, key: Any) -> tuple[RowBlocks, pd.DataFrame]:
    """Return an entry of obsm or varm as row blocks, and a table with the names of its columns."""
    entries = getattr(adata, attr)
    if key not in entries:
        raise MissingKeyError(f"no {key!r} in adata.{attr}", f"one of: {listed(entries)}")
    values = entries[key]
    names_ = values.columns if isinstance(values, pd.DataFrame) else pd.RangeIndex(values.shape[1])
    values = values.to_numpy() if isinstance(values, pd.DataFrame) else values
    return from_array(values), pd.DataFrame(index=names_.astype(str))
