"""Depth normalisation and logarithm."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import get, slots
from sc_dask.array import normalize as lazy
from sc_dask.array.expr import RowVector
from sc_dask.errors import CountsWarning, InputError
from sc_dask.log import begin, finished, logger
from sc_dask.names import check_new
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


def _in_memory(size: Size) -> int:
    """Return the bytes of a copy of an X in memory, as csr of float32 and as it comes."""
    return 0 if size.is_lazy else 2 * size.decoded


def _price(
    size: Size,
    *,
    target_sum: float | None,
    exclude_highly_expressed: bool,
    key_added: str | None,
    inplace: bool,
    obsm: str | None,
    **_: Any,
) -> Price:
    if obsm is not None:
        return Price(0, 3 * size.rep, size.rep)
    if exclude_highly_expressed:
        passes = 2 + size.passes_unless("cell sums")
    else:
        passes = size.passes_unless("cell sums") if target_sum is None or key_added is not None or not inplace else 0
    return Price(passes, _in_memory(size) + min(passes, 1) * int(1.5 * size.blocks) + 16 * size.n_obs, 8 * size.n_obs)


@priced(_price)
def normalize_total(
    adata: AnnData | Any,
    *,
    target_sum: float | None = None,
    exclude_highly_expressed: bool = False,
    max_fraction: float = 0.05,
    key_added: str | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    inplace: bool = True,
    copy: bool = False,
) -> AnnData | dict[str, Any] | Any | None:
    """Bring every cell to the same sum, as scanpy, Seurat and Cell Ranger do (Zheng 2017).

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars) of counts, in memory or lazy; or the matrix alone.
    target_sum
        Sum of every cell afterwards; None: the median of the sums before, of cells that have any.
    exclude_highly_expressed
        Leave genes with more than ``max_fraction`` of the sum of any one cell out of the sums (Weinreb 2017).
    max_fraction
        Between 0 and 1; see there.
    key_added
        Column of obs for the factors (sum / target_sum).
    layer, obsm
        Layer, or element of obsm, to normalise instead of X.
    inplace
        Replace the matrix; else return it and the factors.
    copy
        Return a changed copy instead.

    Returns
    -------
    None; with ``copy`` the new AnnData; with ``inplace=False`` a dict of ``X`` and ``norm_factor``; of a matrix alone
    the new matrix.

    Writes
    ------
    X, the layer or the element of obsm (float32; float64 stays), lazy if it was lazy; obs ``key_added``.

    Passes: 0 on a lazy X with ``target_sum`` given and written in place (sums are taken as blocks pass); else 1 unless
    `calculate_qc_metrics` found them; 2 more (3) with ``exclude_highly_expressed``. Memory: 8 bytes per cell.

    Raises
    ------
    InputError
        ``max_fraction`` or ``target_sum`` out of range, or options that exclude each other.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.normalize_total(adata, target_sum=1e4)
    >>> float(adata.X[:5].compute().sum(axis=1)[0, 0].round())
    10000.0
    """
    check_new(key_added=key_added)
    if copy and not inplace:
        raise InputError("copy=True with inplace=False", "one of them")
    if get.is_array(adata):
        alone = get.alone(adata, key_added=key_added, layer=layer, obsm=obsm)
        how: dict[str, Any] = {"exclude_highly_expressed": exclude_highly_expressed, "max_fraction": max_fraction}
        found = normalize_total(alone, target_sum=target_sum, inplace=inplace, **how)
        return alone.X if inplace else found
    if not 0 <= max_fraction <= 1:
        raise InputError(f"max_fraction={max_fraction}", "a number from 0 to 1")
    if target_sum is not None and not target_sum > 0:
        raise InputError(f"target_sum={target_sum}", "a number above 0, or None for the median")
    adata = adata.copy() if copy else adata
    start = begin("normalizing counts per cell")
    x, stored = get.part(adata, layer, obsm)
    totals: RowVector | np.ndarray
    if exclude_highly_expressed:
        totals, dominant = lazy.totals_without(x, max_fraction)
        names = get.names(adata, "var")[dominant].tolist() if obsm is None else np.flatnonzero(dominant).tolist()
        logger.info(
            "The following highly-expressed genes are not considered during normalization factor computation:\n%s",
            names,
        )
    elif target_sum is None or key_added is not None or not inplace:
        totals = lazy.computed_totals(x)
    else:
        totals = lazy.totals_of(x)
    if target_sum is None:
        target_sum = _median(np.asarray(totals))
    known = totals.values if isinstance(totals, RowVector) else totals
    if known is not None and (known == 0).any():
        warnings.warn(f"{(known == 0).sum()} cells have zero counts: they stay zero", CountsWarning, stacklevel=2)
    if known is not None and not np.isfinite(known).all():
        bad = np.flatnonzero(~np.isfinite(known))
        warnings.warn(
            f"{len(bad)} cells have NaN or infinite values ({get.listed(get.names(adata)[bad[:3]])}): they have no "
            "sum; next: look at the file, or leave these cells out",
            CountsWarning,
            stacklevel=2,
        )
    out = get.as_stored(lazy.normalize(x, totals, target_sum), stored)
    if not inplace:
        finished(start)
        return {"X": out, "norm_factor": np.asarray(known) / target_sum}
    writes: dict[tuple[str, str], Any] = {get.slot(layer, obsm): out}
    if key_added is not None:
        writes["obs", key_added] = np.asarray(known) / target_sum
    slots.write(adata, writes, writer="pp.normalize_total", since=start)
    return adata if copy else None


def _median(totals: np.ndarray) -> float:
    """Return the median over cells with counts, as scanpy from 1.12 on (1.11: over all cells of a csr matrix)."""
    totals = totals[totals > 0]
    median = float(np.median(totals)) if len(totals) else 0.0
    if not median > 0:
        raise InputError(
            "the median of the cells' sums is 0", "cells with counts", "pp.filter_cells(adata, min_counts=1)"
        )
    return median


def _price_of_log1p(size: Size, **_: Any) -> Price:
    return Price(0, _in_memory(size))


@priced(_price_of_log1p)
def log1p(
    data: AnnData | Any,
    *,
    base: float | None = None,
    copy: bool = False,
    chunked: bool | None = None,
    chunk_size: int | None = None,
    layer: str | None = None,
    obsm: str | None = None,
) -> AnnData | Any | None:
    """Take log(1 + X), natural or to a base.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars), in memory or lazy; or the matrix alone.
    base
        Base of the logarithm, above 0 and not 1; None: natural.
    copy
        Return a changed copy instead.
    chunked, chunk_size
        Every X is worked on in blocks here: they change nothing.
    layer, obsm
        Layer, or element of obsm, to change instead of X.

    Returns
    -------
    None, or with ``copy`` the new AnnData; of a matrix alone the new matrix. As in scanpy, a matrix of floats in memory
    is changed in place too, without ``copy``.

    Writes
    ------
    X, the layer or the element of obsm (float32; float64 stays), lazy if it was; uns ``log1p`` = ``{"base": base}``.

    Passes: 0 on a lazy X. Memory: none.

    Raises
    ------
    InputError
        A base that is no base of a logarithm, or an option that names a slot with a matrix alone.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.log1p(adata, base=2)
    >>> adata.uns["log1p"]
    {'base': 2}
    """
    if base is not None and (not base > 0 or base == 1):
        raise InputError(f"base={base}", "a number above 0 and not 1, or None")
    check_chunks(chunked, chunk_size)
    if get.is_array(data):
        alone = get.alone(data, as_float=True, layer=layer, obsm=obsm)
        log1p(alone, base=base)
        return get.put_back(data, alone.X, copy=copy)
    adata = data.copy() if copy else data
    if "log1p" in adata.uns:
        warnings.warn("X seems to be log-transformed already: adata.uns['log1p'] is set", CountsWarning, stacklevel=2)
    x, stored = get.part(adata, layer, obsm)
    out = get.as_stored(lazy.log1p(x, base), stored)
    slots.write(adata, {get.slot(layer, obsm): out, ("uns", "log1p"): {"base": base}}, writer="pp.log1p")
    return adata if copy else None


def _price_of_sqrt(size: Size, **_: Any) -> Price:
    return Price(0, _in_memory(size))


@priced(_price_of_sqrt)
def sqrt(
    data: AnnData | Any, *, copy: bool = False, chunked: bool = False, chunk_size: int | None = None
) -> AnnData | Any | None:
    """Take the square root of X.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars), in memory or lazy, or the matrix alone; negative values become NaN.
    copy
        Return a changed copy instead.
    chunked, chunk_size
        Every X is worked on in blocks here: they change nothing.

    Returns
    -------
    None, or with ``copy`` the new AnnData; of a matrix alone the new matrix.

    Writes
    ------
    X (float32; float64 stays), lazy if it was lazy.

    Passes: 0 on a lazy X. Memory: none.

    Raises
    ------
    MissingKeyError
        There is no X.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.sqrt(adata)
    >>> adata.X.dtype
    dtype('float32')
    """
    check_chunks(chunked, chunk_size)
    if get.is_array(data):
        alone = get.alone(data, as_float=True)
        sqrt(alone)
        return alone.X
    adata = data.copy() if copy else data
    out = get.as_stored(lazy.sqrt(get.matrix(adata)), get.stored(adata))
    slots.write(adata, {("X", ""): out}, writer="pp.sqrt")
    return adata if copy else None


def check_chunks(chunked: bool | None, chunk_size: int | None) -> None:
    """Refuse a number of cells that is none; how many cells make a block changes no number here."""
    if chunk_size is not None and not chunk_size > 0:
        raise InputError(f"chunk_size={chunk_size} with chunked={chunked}", "a number of cells above 0, or None")
