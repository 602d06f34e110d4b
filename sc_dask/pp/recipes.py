"""Whole preprocessings of two papers, in one call each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import get, slots
from sc_dask.array.hvg import group_moments
from sc_dask.errors import InputError
from sc_dask.kernels.hvg import TIE_DECIMALS, dispersion_table
from sc_dask.kernels.moments import variance
from sc_dask.pp.filter import filter_cells, filter_genes
from sc_dask.pp.normalize import log1p, normalize_total
from sc_dask.pp.scale import scale
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


_LIBRARIES = 50 * MIB  # code of the fits


def _price_of_seurat(size: Size, **_: Any) -> Price:
    made = 0 if size.is_lazy else size.dense
    passes = 3 + size.passes_unless("cell sums", "cell counts")
    cells = 400 * size.n_obs + 24 * size.n_edges  # of obs and a graph, while cells are dropped
    reading = _LIBRARIES + int(3.2 * size.blocks) + 64 * size.n_vars * size.states
    return Price(passes, made + reading + cells, made)


@priced(_price_of_seurat)
def recipe_seurat(adata: AnnData, *, log: bool = True, plot: bool = False, copy: bool = False) -> AnnData | None:
    """Filter, normalise and scale as an early Seurat did (Satija 2015).

    Cells with 200 genes and genes in 3 cells stay; sums of 10,000; genes of high dispersion (mean 0.0125 to 3,
    normalised dispersion above 0.5); logarithm; unit variance, cut at 10. As scanpy has it, dispersions are of values
    without their logarithm where it is still to be taken (``log``), and are themselves logarithmised where it is not.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars) of counts, in memory or lazy.
    log
        Take the logarithm; False: X is logarithmised already.
    plot
        Not offered: draw the dispersions of `highly_variable_genes`.
    copy
        Return a changed copy instead.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    Cells and genes are dropped; X (dense, lazy if it was lazy), obs ``n_genes``, var ``n_cells``, ``mean``, ``std``,
    uns ``log1p``.

    Passes: 4; 1 less for what `calculate_qc_metrics` found. Memory: as `scale`.

    Raises
    ------
    InputError
        ``plot`` is set, or no cell or gene is left.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 3000, seed=1)
    >>> sd.pp.recipe_seurat(adata)
    >>> bool(0 < adata.n_vars < 3000)
    True
    """
    _no_plot(plot)
    adata = adata.copy() if copy else adata
    filter_cells(adata, min_genes=200)
    filter_genes(adata, min_cells=3)
    normalize_total(adata, target_sum=1e4)
    table = _dispersions(adata, flavor="seurat", log=not log)
    _keep(adata, table["highly_variable"].to_numpy())
    if log:
        log1p(adata)
    scale(adata, max_value=10)
    return adata if copy else None


def _price_of_zheng17(size: Size, **_: Any) -> Price:
    made = 0 if size.is_lazy else size.dense
    passes = 4 + size.passes_unless("gene sums", "gene counts")
    return Price(passes, made + 2 * size.blocks + 64 * size.n_vars * size.states + 400 * size.n_obs, made)


@priced(_price_of_zheng17)
def recipe_zheng17(
    adata: AnnData, *, n_top_genes: int = 1000, log: bool = True, plot: bool = False, copy: bool = False
) -> AnnData | None:
    """Filter, normalise and scale as the Cell Ranger R kit did (Zheng 2017).

    Genes with a count stay; equal sums; the genes whose dispersion lies farthest from that of genes of a like mean,
    above or below; equal sums again; logarithm; unit variance.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars) of counts, in memory or lazy.
    n_top_genes
        Number of genes to keep; all with a dispersion, if they are fewer. (scanpy compares with a rounded bound, which
        leaves out the last gene now and then.)
    log
        Take the logarithm.
    plot
        Not offered: draw the dispersions of `highly_variable_genes`.
    copy
        Return a changed copy instead.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    Genes are dropped; X (dense, lazy if it was lazy), obs ``n_counts_all`` (sums over their median), var ``n_counts``,
    ``mean``, ``std``, uns ``log1p``.

    Passes: 5; 1 less for what `calculate_qc_metrics` found. Memory: as `scale`.

    Raises
    ------
    InputError
        ``plot`` is set, ``n_top_genes`` is not positive, or no gene is left.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.recipe_zheng17(adata, n_top_genes=50)
    >>> adata.n_vars
    50
    """
    _no_plot(plot)
    if n_top_genes < 1:
        raise InputError(f"n_top_genes={n_top_genes}", f"a number from 1 to {adata.n_vars}")
    adata = adata.copy() if copy else adata
    filter_genes(adata, min_counts=1)
    normalize_total(adata, key_added="n_counts_all")
    table = _dispersions(adata, flavor="cell_ranger", log=False)
    _keep(adata, _farthest(table["dispersions_norm"].to_numpy(), n_top_genes))
    normalize_total(adata)
    if log:
        log1p(adata)
    scale(adata)
    return adata if copy else None


def _no_plot(plot: bool) -> None:
    if plot:
        raise InputError(
            "plot=True",
            "plot=False",
            "sd.pp.highly_variable_genes(adata), then scanpy's sc.pl.highly_variable_genes(adata)",
        )


def _dispersions(adata: AnnData, *, flavor: str, log: bool) -> pd.DataFrame:
    m = group_moments(get.matrix(adata))
    return dispersion_table(m.mean[0], variance(m)[0], flavor=flavor, log=log)  # type: ignore[arg-type]


def _farthest(norm: np.ndarray, n: int) -> np.ndarray:
    """Mark the ``n`` largest distances, and those that are equal to the last of them."""
    distance = np.round(np.abs(norm), TIE_DECIMALS)
    known = np.sort(distance[~np.isnan(distance)])
    if not len(known):
        raise InputError("found no gene that varies", "genes with different counts", "check the cells and genes")
    with np.errstate(invalid="ignore"):
        return np.asarray(distance >= known[-min(n, len(known))])


def _keep(adata: AnnData, chosen: np.ndarray) -> None:
    if not chosen.any():
        raise InputError(
            "no gene has the dispersion that the recipe asks for",
            "counts of many cells",
            "pp.highly_variable_genes(adata)",
        )
    slots.subset(adata, "var", chosen)
