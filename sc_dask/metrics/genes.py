"""How much neighbouring cells are alike in a gene: Moran's I and Geary's C."""

from __future__ import annotations

import warnings
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import get
from sc_dask.array.blocks import RowBlocks, from_array
from sc_dask.array.gene_major.genes import map_cols
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from sc_dask.kernels.autocorrelation import autocorrelation


def morans_i(
    adata_or_graph: Any,
    /,
    vals: Any = None,
    *,
    use_graph: str | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    obsp: str | None = None,
    use_raw: bool = False,
) -> NDArray[np.float64] | float:
    """Return Moran's I (Moran 1950) of every gene: 1 if neighbours are alike, about 0 by chance.

    Parameters
    ----------
    adata_or_graph
        AnnData with a neighbour graph, or the graph (n_obs, n_obs).
    vals
        Values of one feature (n_obs,) or of several (n_features, n_obs), instead of those of the AnnData.
    use_graph
        Key of obsp; None: ``connectivities``.
    layer, obsm, obsp, use_raw
        Which values: a layer, an element of obsm or obsp, or raw.X, instead of X.

    Returns
    -------
    One number for each feature, or one number; NaN where all values are equal (warned).

    Passes: 1 over a lazy X to make its gene-major copy, 0 where that is there. Memory: the graph, and for each thread
    two blocks of genes and 32 MiB.

    Raises
    ------
    MissingKeyError
        No such graph, layer or element.
    InputError
        Shapes do not fit.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp, sc_dask as sd
    >>> ring = sp.csr_matrix(np.roll(np.eye(4), 1, axis=1) + np.roll(np.eye(4), -1, axis=1))
    >>> sd.metrics.morans_i(ring, np.array([1.0, -1, 1, -1]))
    -1.0
    """
    return _of_genes(
        "morans_i", adata_or_graph, vals, use_graph=use_graph, layer=layer, obsm=obsm, obsp=obsp, use_raw=use_raw
    )


def gearys_c(
    adata_or_graph: Any,
    /,
    vals: Any = None,
    *,
    use_graph: str | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    obsp: str | None = None,
    use_raw: bool = False,
) -> NDArray[np.float64] | float:
    """Return Geary's C (Geary 1954) of every gene: 0 if neighbours are alike, about 1 by chance.

    Parameters, result, passes, memory and errors are those of `morans_i`.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp, sc_dask as sd
    >>> ring = sp.csr_matrix(np.roll(np.eye(4), 1, axis=1) + np.roll(np.eye(4), -1, axis=1))
    >>> sd.metrics.gearys_c(ring, np.array([1.0, -1, 1, -1]))
    1.5
    """
    return _of_genes(
        "gearys_c", adata_or_graph, vals, use_graph=use_graph, layer=layer, obsm=obsm, obsp=obsp, use_raw=use_raw
    )


def _of_genes(
    statistic: str,
    given: Any,
    vals: Any,
    *,
    use_graph: str | None,
    layer: str | None,
    obsm: str | None,
    obsp: str | None,
    use_raw: bool,
) -> NDArray[np.float64] | float:
    chosen = [name for name, value in (("layer", layer), ("obsm", obsm), ("obsp", obsp)) if value is not None]
    chosen += ["use_raw"] * use_raw
    if not isinstance(given, anndata.AnnData):
        if vals is None or chosen or use_graph is not None:
            raise InputError("found a graph without vals, or with choices of an AnnData", "a graph and vals")
        graph = given
    else:
        if len(chosen) + (vals is not None) > 1:
            raise InputError(f"found {' and '.join(chosen)} together", "one source of values")
        graph = _graph(given, use_graph)
    graph = sp.csr_matrix(graph, dtype=np.float64)
    x, is_one = _values(given, layer, obsm, obsp, use_raw) if vals is None else _given(vals)
    if graph.shape[0] != graph.shape[1] or graph.shape[0] != x.shape[0]:
        raise InputError(
            f"found a graph of shape {graph.shape} and values of {x.shape[0]} cells", "as many cells in both"
        )
    found: NDArray[np.float64] = map_cols(autocorrelation, x, label=statistic, graph=graph, statistic=statistic)
    n_constant = int(np.isnan(found).sum())
    if is_one:
        return float(found[0])
    if n_constant:
        text = f"{n_constant} variables were constant, will return nan for these."
        warnings.warn(ScDaskWarning(text), stacklevel=3)
    return found


def _graph(adata: anndata.AnnData, key: str | None) -> Any:
    if key is not None:
        if key not in adata.obsp:
            raise MissingKeyError(f"no {key!r} in adata.obsp", f"one of: {get.listed(adata.obsp)}")
        return adata.obsp[key]
    return get.graph(adata)


def _values(
    adata: anndata.AnnData, layer: str | None, obsm: str | None, obsp: str | None, use_raw: bool
) -> tuple[RowBlocks, bool]:
    for slot, key in (("obsm", obsm), ("obsp", obsp)):
        if key is None:
            continue
        held = getattr(adata, slot)
        if key not in held:
            raise MissingKeyError(f"no {key!r} in adata.{slot}", f"one of: {get.listed(held)}")
        return _blocks(held[key]), False
    return get.matrix(adata, layer, use_raw=use_raw), False


def _given(vals: Any) -> tuple[RowBlocks, bool]:
    """Return values (n_features, n_obs) as lazy rows of cells, and whether it is one feature."""
    if isinstance(vals, pd.Series | pd.DataFrame):
        vals = vals.to_numpy()
    if sp.issparse(vals):
        return from_array(vals.T.tocsr()), False
    vals = np.asarray(vals)
    if vals.ndim not in (1, 2) or vals.dtype.kind not in "fiub":
        raise InputError(
            f"found vals of type {vals.dtype} and {vals.ndim} dimensions", "numbers, one or two dimensions"
        )
    return _blocks(vals[:, None] if vals.ndim == 1 else vals.T), vals.ndim == 1


def _blocks(values: Any) -> RowBlocks:
    if isinstance(values, pd.DataFrame):
        values = values.to_numpy()
    return from_array(values if sp.issparse(values) or hasattr(values, "dask") else np.ascontiguousarray(values))
