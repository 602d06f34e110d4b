"""Keep cells and genes by counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import get, slots
from sc_dask.array import qc
from sc_dask.errors import InputError
from sc_dask.kernels.qc import as_sums
from sc_dask.log import logger
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


def _bound(**options: float | None) -> tuple[str, float]:
    chosen = {k: v for k, v in options.items() if v is not None}
    if len(chosen) != 1:
        raise InputError(
            f"{len(chosen)} of the options {', '.join(options)} were given ({', '.join(chosen) or 'none'})",
            "exactly one",
            "call once for each",
        )
    return next(iter(chosen.items()))


def _keep(name: str, bound: float, numbers: np.ndarray, what: str) -> np.ndarray:
    """Return the mask of what stays, and say how many go."""
    keep = numbers >= bound if name.startswith("min_") else numbers <= bound
    if not keep.any():
        raise InputError(
            f"{name}={bound} keeps none of {len(keep)} {what} (found {numbers.min():g} to {numbers.max():g})"
            if len(keep)
            else f"there are no {what}",
            "a bound that keeps some",
            f"look at the numbers with inplace=False and choose {name} anew",
        )
    n_gone = int((~keep).sum())
    if n_gone:
        least, kind = ("less", name[4:]) if name.startswith("min_") else ("more", name[4:])
        unit = {"genes": "genes expressed"}.get(kind, kind)
        verb = "have" if what == "cells" else "are detected in"
        logger.info("filtered out %d %s that %s %s than %s %s", n_gone, what, verb, least, bound, unit)
    return keep


_LIBRARIES = 40 * MIB  # code of the selection
_CELL_BYTES, _COPIED_BYTES = 95, 235  # of obs: beside the pass, and while a selection copies it


def _price_of_cells(size: Size, **_: Any) -> Price:
    passes = size.passes_unless("cell sums", "cell counts")
    reading = passes * (_LIBRARIES + int(1.8 * size.blocks)) + _CELL_BYTES * size.n_obs
    return Price(passes, max(_COPIED_BYTES * size.n_obs, reading))


@priced(_price_of_cells)
def filter_cells(
    data: AnnData | Any,
    *,
    min_counts: float | None = None,
    min_genes: int | None = None,
    max_counts: float | None = None,
    max_genes: int | None = None,
    inplace: bool = True,
    copy: bool = False,
) -> AnnData | tuple[np.ndarray, np.ndarray] | None:
    """Keep cells by their counts or by their number of genes; give exactly one bound per call.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars), in memory or lazy; or the matrix alone.
    min_counts, max_counts
        Bounds of the cell's sum.
    min_genes, max_genes
        Bounds of the number of genes with a value above 0 (`calculate_qc_metrics` counts values other than 0; so does
        scanpy).
    inplace
        Subset ``data``; else return the mask and the numbers.
    copy
        Return a subset copy instead.

    Returns
    -------
    None; with ``copy`` the new AnnData; with ``inplace=False``, and of a matrix alone, the mask and the numbers
    (n_obs,).

    Writes
    ------
    obs ``n_counts`` or ``n_genes``.

    Passes: 1, or 0 after `calculate_qc_metrics` on the same X (if it has no negative value and no NaN).
    Memory: 16 bytes per cell.

    Raises
    ------
    InputError
        Not exactly one bound, or no cell would be left.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.filter_cells(adata, min_counts=1)
    >>> bool((adata.obs["n_counts"] >= 1).all())
    True
    """
    name, bound = _bound(min_counts=min_counts, min_genes=min_genes, max_counts=max_counts, max_genes=max_genes)
    adata, inplace = (get.alone(data), False) if get.is_array(data) else (data.copy() if copy else data, inplace)
    x = get.matrix(adata)
    totals, counts = qc.cell_statistics(x)
    numbers = counts if name.endswith("genes") else as_sums(totals, x.dtype)
    keep = _keep(name, bound, numbers, "cells")
    if not inplace:
        return keep, numbers
    _apply(adata, "obs", "n_genes" if name.endswith("genes") else "n_counts", numbers, keep, "pp.filter_cells")
    return adata if copy else None


def _price_of_genes(size: Size, **_: Any) -> Price:
    passes = size.passes_unless("gene sums", "gene counts")
    reading = passes * (_LIBRARIES + int(1.8 * size.blocks)) + 24 * size.n_vars * size.states + _CELL_BYTES * size.n_obs
    return Price(passes, max(_COPIED_BYTES * size.n_obs, reading))


@priced(_price_of_genes)
def filter_genes(
    data: AnnData | Any,
    *,
    min_counts: float | None = None,
    min_cells: int | None = None,
    max_counts: float | None = None,
    max_cells: int | None = None,
    inplace: bool = True,
    copy: bool = False,
) -> AnnData | tuple[np.ndarray, np.ndarray] | None:
    """Keep genes by their counts or by the number of cells that have them; give exactly one bound per call.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars), in memory or lazy; or the matrix alone.
    min_counts, max_counts
        Bounds of the gene's sum.
    min_cells, max_cells
        Bounds of the number of cells with a value above 0.
    inplace
        Subset ``data``; else return the mask and the numbers.
    copy
        Return a subset copy instead.

    Returns
    -------
    None; with ``copy`` the new AnnData; with ``inplace=False``, and of a matrix alone, the mask and the numbers
    (n_vars,).

    Writes
    ------
    var ``n_counts`` or ``n_cells``.

    Passes: 1, or 0 after `calculate_qc_metrics` on the same cells (1 more if X has negative values
    or NaN). Memory: 24 bytes per gene and thread.

    Raises
    ------
    InputError
        Not exactly one bound, or no gene would be left.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.filter_genes(adata, min_cells=3)
    >>> bool((adata.var["n_cells"] >= 3).all())
    True
    """
    name, bound = _bound(min_counts=min_counts, min_cells=min_cells, max_counts=max_counts, max_cells=max_cells)
    adata, inplace = (get.alone(data), False) if get.is_array(data) else (data.copy() if copy else data, inplace)
    x = get.matrix(adata)
    totals, counts = qc.gene_statistics(x)
    numbers = counts if name.endswith("cells") else as_sums(totals, x.dtype)
    keep = _keep(name, bound, numbers, "genes")
    if not inplace:
        return keep, numbers
    _apply(adata, "var", "n_cells" if name.endswith("cells") else "n_counts", numbers, keep, "pp.filter_genes")
    return adata if copy else None


def _apply(adata: AnnData, axis: str, key: str, numbers: np.ndarray, keep: np.ndarray, writer: str) -> None:
    writes: dict[tuple[str, str], Any] = {(axis, key): numbers}
    slots.write(adata, writes, writer=writer)
    if not keep.all():
        slots.subset(adata, axis, keep)
