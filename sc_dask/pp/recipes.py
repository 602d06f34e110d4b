"""Whole preprocessings of two papers, in one call each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import get, slots
from sc_dask.array import normalize as lazy
from sc_dask.array.hvg import group_moments
from sc_dask.array.pca import solvers
from sc_dask.array.scale import scaled
from sc_dask.errors import InputError
from sc_dask.kernels.hvg import TIE_DECIMALS, dispersion_table
from sc_dask.kernels.moments import variance
from sc_dask.log import begin
from sc_dask.pp.filter import filter_cells, filter_genes
from sc_dask.pp.normalize import log1p, normalize_total
from sc_dask.pp.scale import scale
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


_MAX_FRACTION, _NOT_ZERO = 0.05, 1e-4  # of a cell in one gene; what keeps a division from zero
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


def _price_of_weinreb17(size: Size, *, svd_solver: str, n_pcs: int, **_: Any) -> Price:
    pca = solvers.MEMORY[_solver_of(svd_solver, size.n_vars)](size, n_pcs, None)
    passes = 3 + size.passes_unless("cell sums") + (1 if size.spills else 4 if svd_solver == "randomized" else 2)
    return Price(passes, pca + 3 * size.blocks + 64 * size.n_vars * size.states + 400 * size.n_obs, size.rep)


@priced(_price_of_weinreb17)
def recipe_weinreb17(
    adata: AnnData,
    *,
    log: bool = True,
    mean_threshold: float = 0.01,
    cv_threshold: int = 2,
    n_pcs: int = 50,
    svd_solver: str = "randomized",
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Normalise, choose genes that vary, and find principal components, as Weinreb 2017 did.

    Logarithm; equal sums of the genes that have no more than 5 % of any cell; genes of a high coefficient of variation;
    components of their standard scores.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars) of counts, in memory or lazy. (scanpy refuses sparse matrices; here they become
        dense nowhere.)
    log
        Take the logarithm first.
    mean_threshold, cv_threshold
        Genes stay whose mean and whose standard deviation by mean are above.
    n_pcs
        Number of principal components.
    svd_solver, random_state
        As of `pca`.
    copy
        Return a changed copy instead.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    Genes are dropped; X (normalised, sparse or lazy as it was), obsm ``X_pca``, uns ``log1p``.

    Passes: 5; 1 less if the cells' sums are known, 3 more where blocks cannot be spilled. Memory: as `pca`.

    Raises
    ------
    InputError
        No gene is left, or not more cells and genes than components.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.recipe_weinreb17(adata, n_pcs=5, cv_threshold=1)
    >>> adata.obsm["X_pca"].shape
    (200, 5)
    """
    solver = _solver_of(svd_solver, adata.n_vars)
    if not 1 <= n_pcs <= min(adata.shape):
        raise InputError(f"n_pcs={n_pcs} for {adata.n_obs} cells and {adata.n_vars} genes", "no more than these")
    adata = adata.copy() if copy else adata
    start = begin("running recipe weinreb17")
    if log:
        log1p(adata)
    x = get.matrix(adata)
    totals, _ = lazy.totals_without(x, _MAX_FRACTION)
    out = get.as_stored(lazy.normalize(x, totals, float(lazy.computed_totals(x).mean())), get.stored(adata))
    slots.write(adata, {("X", ""): out}, writer="pp.recipe_weinreb17")
    x = get.matrix(adata)
    m = group_moments(x)
    mean, std = m.mean[0], np.sqrt(m.m2[0] / max(x.shape[0], 1))
    chosen = (mean > mean_threshold) & (std / (mean + _NOT_ZERO) > cv_threshold)
    _keep(adata, chosen)
    scores = scaled(x.select_columns(np.flatnonzero(chosen)), mean[chosen], std[chosen] + _NOT_ZERO)
    if not 1 <= n_pcs <= min(scores.shape):
        raise InputError(f"n_pcs={n_pcs} for {scores.shape[0]} cells and {scores.shape[1]} genes", "no more than these")
    how = {"random_state": random_state} if solver == "randomized" else {}
    found = solvers.SOLVERS[solver](scores, n_pcs, dtype=np.dtype("float32"), **how)
    slots.write(adata, {("obsm", "X_pca"): found.scores}, writer="pp.recipe_weinreb17", since=start)
    return adata if copy else None


def _solver_of(name: str, n_genes: int) -> str:
    name = solvers.cheaper(n_genes) if name in ("auto", "arpack") else name
    if name in ("full", "covariance_eigh"):
        name = "gram"
    if name not in ("gram", "randomized"):
        raise InputError(f"svd_solver={name!r}", "one of: auto, arpack, full, covariance_eigh, gram, randomized")
    return name


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
