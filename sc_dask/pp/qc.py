"""Quality control metrics of cells and genes."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sc_dask import get, slots
from sc_dask.array import qc
from sc_dask.errors import CountsWarning, InputError
from sc_dask.kernels.qc import as_sums
from sc_dask.names import check_new, safe, warn_name
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


# Bytes a cell: columns of obs while they are made, and while these go into obs; then what is left of them.
_CELL_BYTES, _COLUMN_BYTES, _KEPT_BYTES = 330, 470, 235


def _price(size: Size, **_: Any) -> Price:
    columns = _COLUMN_BYTES * size.n_obs  # while they go into obs
    reading = int(1.5 * size.blocks) + 24 * size.n_vars * size.states + _CELL_BYTES * size.n_obs
    return Price(1, max(columns, reading), _KEPT_BYTES * size.n_obs)


@priced(_price)
def calculate_qc_metrics(
    adata: AnnData,
    *,
    expr_type: str = "counts",
    var_type: str = "genes",
    qc_vars: Collection[str] | str = (),
    percent_top: Collection[int] | None = (50, 100, 200, 500),
    layer: str | None = None,
    use_raw: bool = False,
    inplace: bool = False,
    log1p: bool = True,
    parallel: bool | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Calculate quality control metrics of cells and genes, as scater and scanpy define them (McCarthy 2017).

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars) of counts, in memory or lazy.
    expr_type, var_type
        Words that the names of the new columns are made of.
    qc_vars
        Boolean columns of var that mark gene sets, for instance ``["mt"]``.
    percent_top
        Report the share of a cell's counts in its most abundant genes, for each of these numbers of
        genes (1 to n_vars). None: not at all.
    layer, use_raw
        Which matrix; X by default.
    inplace
        Write the columns into obs and var instead of returning them.
    log1p
        Add log(1 + x) of the metrics.
    parallel
        Deprecated, and without effect: every pass is parallel.

    Returns
    -------
    Two tables (n_obs rows and n_vars rows), or None with ``inplace``.

    Writes
    ------
    With ``inplace``: obs ``n_genes_by_counts``, ``total_counts``, ``pct_counts_in_top_50_genes``, ``total_counts_mt``,
    ``pct_counts_mt``...; var ``n_cells_by_counts``, ``mean_counts``, ``pct_dropout_by_counts``, ``total_counts``...

    Percentages of a cell without counts are NaN, as in scanpy; a warning tells how many cells, and of NaN and infinite
    values in X.

    Passes: 1. Memory: one block per thread, 8 bytes per cell and column, 24 per gene.

    Raises
    ------
    MissingKeyError
        A gene set is not a column of var.
    InputError
        ``percent_top`` is out of range, or a gene set is not boolean.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> adata.var["mt"] = adata.var_names.str.startswith("MT-")
    >>> sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
    >>> "pct_counts_mt" in adata.obs
    True
    """
    if parallel is not None:
        message = "Argument `parallel` is deprecated, and has no effect: every pass is parallel"
        warnings.warn(message, FutureWarning, stacklevel=2)
    qc_vars = [qc_vars] if isinstance(qc_vars, str) else list(qc_vars)
    tops = tuple(sorted(percent_top)) if percent_top else ()
    n_vars = adata.raw.n_vars if use_raw and adata.raw is not None else adata.n_vars
    if tops and (tops[0] < 1 or tops[-1] > n_vars):
        raise InputError(f"percent_top={list(tops)}", f"numbers from 1 to {n_vars} (n_vars)", "pass percent_top=None")
    if inplace:
        check_new(expr_type=expr_type, var_type=var_type)
        for name in qc_vars:
            warn_name(name, f"the column {name!r} of var", f"adata.var[{safe(name)!r}] = adata.var.pop({name!r})")
    masks = [_mask(adata, name, n_vars) for name in qc_vars]
    x = get.matrix(adata, layer, use_raw=use_raw)
    found = qc.metrics(x, np.array(masks, bool).reshape(len(masks), n_vars), tops)
    _warn(adata, found, has_shares=bool(tops or qc_vars), use_raw=use_raw)
    obs = _cell_table(found, qc_vars, tops, expr_type, var_type, x.dtype, log1p)
    var = _gene_table(found, x.shape[0], expr_type, x.dtype, log1p)
    if not inplace:
        return (
            pd.DataFrame(obs, index=get.names(adata)),
            pd.DataFrame(var, index=get.names(adata, "var", use_raw=use_raw)),
        )
    if use_raw and adata.raw.n_vars != adata.n_vars:
        raise InputError(
            f"use_raw=True with {adata.raw.n_vars} raw genes and {adata.n_vars} genes", "equal numbers", "inplace=False"
        )
    del found  # what the tables do not take of it
    writes: dict[tuple[str, str], Any] = {("obs", key): values for key, values in obs.items()}
    writes |= {("var", key): values for key, values in var.items()}
    slots.write(adata, writes, writer="pp.calculate_qc_metrics")
    return None


def _mask(adata: AnnData, name: str, n_vars: int) -> np.ndarray:
    values = get.column(adata, name, axis="var").to_numpy()
    if values.dtype != bool:
        raise InputError(f"var[{name!r}] of type {values.dtype}", "a boolean column")
    if len(values) != n_vars:
        raise InputError(f"var[{name!r}] has {len(values)} genes, the matrix {n_vars}", "equal numbers")
    return values


def _warn(adata: AnnData, found: qc.QC, *, has_shares: bool, use_raw: bool) -> None:
    """Warn of cells and genes whose figures are no numbers, from the sums that are there."""
    totals, genes = found.cells.totals, found.genes.totals
    cells = np.flatnonzero(~np.isfinite(totals))
    if len(cells):
        bad = np.flatnonzero(~np.isfinite(genes))
        warnings.warn(
            f"X has NaN or infinite values in {len(cells)} cells ({get.listed(get.names(adata)[cells[:3]])}) and "
            f"{len(bad)} genes ({get.listed(get.names(adata, 'var', use_raw=use_raw)[bad[:3]])}): so are their "
            "metrics; next: look at the file, or leave these out",
            CountsWarning,
            stacklevel=3,
        )
    n_empty = int((totals == 0).sum())
    if n_empty and has_shares:
        warnings.warn(
            f"{n_empty} cells have no counts: their percentages are NaN; next: pp.filter_cells(adata, min_counts=1)",
            CountsWarning,
            stacklevel=3,
        )


def _log1p(values: np.ndarray) -> np.ndarray:
    """Return log(1 + x); NaN below -1, which only a matrix without counts has."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log1p(values)


def _sums(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return sums in the type that summing ``dtype`` gives: integers stay exact integers."""
    return as_sums(values, dtype) if dtype.kind in "iub" or dtype == np.float32 else values


def _cell_table(
    found: qc.QC,
    qc_vars: list[str],
    tops: tuple[int, ...],
    expr_type: str,
    var_type: str,
    dtype: np.dtype[Any],
    log1p: bool,
) -> dict[str, np.ndarray]:
    cells = found.cells
    totals = _sums(cells.totals, dtype)
    out: dict[str, np.ndarray] = {f"n_{var_type}_by_{expr_type}": cells.n_genes}
    if log1p:
        out[f"log1p_n_{var_type}_by_{expr_type}"] = _log1p(cells.n_genes)
    out[f"total_{expr_type}"] = totals
    if log1p:
        out[f"log1p_total_{expr_type}"] = _log1p(totals)
    with np.errstate(divide="ignore", invalid="ignore"):
        for i, n in enumerate(tops):
            out[f"pct_{expr_type}_in_top_{n}_{var_type}"] = cells.top_totals[:, i] / cells.totals * 100
        for i, name in enumerate(qc_vars):
            of_set = _sums(cells.qc_totals[:, i], dtype)
            out[f"total_{expr_type}_{name}"] = of_set
            if log1p:
                out[f"log1p_total_{expr_type}_{name}"] = _log1p(of_set)
            out[f"pct_{expr_type}_{name}"] = of_set / totals * 100
    return out


def _gene_table(found: qc.QC, n_obs: int, expr_type: str, dtype: np.dtype[Any], log1p: bool) -> dict[str, np.ndarray]:
    genes = found.genes
    totals, means = _sums(genes.totals, dtype), genes.totals / max(n_obs, 1)
    out = {f"n_cells_by_{expr_type}": genes.n_cells, f"mean_{expr_type}": means}
    if log1p:
        out[f"log1p_mean_{expr_type}"] = _log1p(means)
    out[f"pct_dropout_by_{expr_type}"] = (1 - genes.n_cells / max(n_obs, 1)) * 100
    out[f"total_{expr_type}"] = totals
    if log1p:
        out[f"log1p_total_{expr_type}"] = _log1p(totals)
    return out
