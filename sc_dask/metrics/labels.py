"""Clusterings held against each other and against a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from natsort import natsorted

from sc_dask import get, slots
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.graph import cluster
from sc_dask.metrics.quality import Labels, coded


def confusion_matrix(
    orig: str | Labels, new: str | Labels, data: Any = None, *, normalize: bool = True
) -> pd.DataFrame:
    """Return how many cells of each original label have each new one.

    Parameters
    ----------
    orig, new
        Labels (n_obs,), or names of columns of ``data``. Cells without a label are left out.
    data
        Table of cells, for instance ``adata.obs``.
    normalize
        Return shares of each original label.

    Returns
    -------
    Table, original labels by new ones: categories in their order, others sorted.

    Raises
    ------
    InputError
        The two have different lengths.
    MissingKeyError
        No such column.

    Examples
    --------
    >>> import sc_dask as sd
    >>> sd.metrics.confusion_matrix(["a", "a", "b"], ["x", "y", "y"], normalize=False).to_numpy().tolist()
    [[1, 1], [0, 1]]
    """
    columns = [_labels(labels, data) for labels in (orig, new)]
    if len(columns[0]) != len(columns[1]):
        raise InputError(f"found {len(columns[0])} and {len(columns[1])} labels", "two clusterings of the same cells")
    names = [_names(c) for c in columns]
    codes = [pd.Categorical(c, categories=n).codes.astype(np.int64) for c, n in zip(columns, names, strict=True)]
    kept = (codes[0] >= 0) & (codes[1] >= 0)
    shape = (len(names[0]), len(names[1]))
    counts = np.bincount(codes[0][kept] * shape[1] + codes[1][kept], minlength=shape[0] * shape[1]).reshape(shape)
    table: Any = counts
    if normalize:
        sums = counts.sum(axis=1, keepdims=True)
        table = np.divide(counts, sums, out=np.zeros(shape), where=sums > 0)
    said = ("Original labels", "New Labels")
    titles = [name if c.name is None else c.name for c, name in zip(columns, said, strict=True)]
    index, header = (pd.Index(n, name=t) for n, t in zip(names, titles, strict=True))
    return pd.DataFrame(table, index=index, columns=header)


def _labels(labels: str | Labels, data: Any) -> pd.Series:
    if not isinstance(labels, str):
        return pd.Series(labels)
    if data is None or labels not in slots.columns(data):
        found = "no table" if data is None else get.listed(slots.columns(data))
        raise MissingKeyError(f"no column {labels!r}", f"one of: {found}", "give data=adata.obs")
    return slots.load(data, labels) if slots.is_lazy(data) else data[labels]


def _names(labels: pd.Series) -> list[Any]:
    if isinstance(labels.dtype, pd.CategoricalDtype):
        return list(labels.cat.categories)
    return list(natsorted(labels.dropna().unique()))


def modularity(
    adata_or_connectivities: Any,
    /,
    labels: str | Labels | Sequence[Any] = "leiden",
    *,
    neighbors_key: str | None = None,
    is_directed: bool | None = None,
    mode: Literal["calculate", "update", "retrieve"] = "calculate",
) -> float:
    """Return the modularity (Newman 2004) of a clustering of a graph, at resolution 1.

    Parameters
    ----------
    adata_or_connectivities
        AnnData with a neighbour graph, or the graph (n_obs, n_obs), both directions of each pair.
    labels
        A label per cell, or (of an AnnData) a column of obs.
    neighbors_key
        Which graph of the AnnData.
    is_directed
        Of a graph: whether its edges have a direction; None: no.
    mode
        Of an AnnData: ``"calculate"``, ``"update"`` (and keep it in ``uns[labels]["modularity"]``) or ``"retrieve"``
        what is kept there.

    Raises
    ------
    InputError
        Shapes do not fit, or choices exclude each other.
    MissingKeyError
        No such column or graph, or nothing is kept.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp, sc_dask as sd
    >>> two_pairs = sp.csr_matrix(np.kron(np.eye(2), [[0, 1], [1, 0]]))
    >>> sd.metrics.modularity(two_pairs, [0, 0, 1, 1])
    0.5
    """
    if mode not in ("calculate", "update", "retrieve"):
        raise InputError(f"found mode={mode!r}", "'calculate', 'update' or 'retrieve'")
    if isinstance(adata_or_connectivities, anndata.AnnData):
        if is_directed:
            raise InputError("found is_directed=True for an AnnData", "False: its graph has both directions")
        return _of_adata(adata_or_connectivities, labels, neighbors_key, mode)
    if isinstance(labels, str) or mode != "calculate" or neighbors_key is not None:
        raise InputError("found a graph with choices of an AnnData", "a graph and a label per cell")
    return _of_graph(sp.csr_matrix(adata_or_connectivities), labels, bool(is_directed))


def _of_adata(adata: anndata.AnnData, labels: Any, neighbors_key: str | None, mode: str) -> float:
    if mode != "calculate" and not isinstance(labels, str):
        raise InputError(f"found mode={mode!r} with labels that have no name", "a column of obs")
    if mode == "retrieve":
        kept = adata.uns.get(labels, {})
        if "modularity" not in kept:
            raise MissingKeyError(f"no modularity in uns[{labels!r}]", "that of tl.leiden", "use mode='calculate'")
        return float(kept["modularity"])
    values = get.column(adata, labels) if isinstance(labels, str) else labels
    found = _of_graph(get.graph(adata, neighbors_key), values, is_directed=False)
    if mode == "update":
        slots.write(adata, {("uns", labels): {**adata.uns.get(labels, {}), "modularity": found}}, writer="tl.leiden")
    return found


def _of_graph(graph: Any, labels: Any, is_directed: bool) -> float:
    codes = coded(labels, "labels")
    if graph.shape != (codes.size, codes.size):
        raise InputError(f"found {codes.size} labels for a graph of shape {graph.shape}", "a label a cell")
    if not is_directed:
        return float(cluster.modularity_of(graph.tocsr(), codes))
    weights = graph.tocsr().astype(np.float64)
    total = weights.sum()
    n = int(codes.max()) + 1
    of_group = sp.csr_matrix((np.ones(codes.size), (np.arange(codes.size), codes)), shape=(codes.size, n))
    inside = (of_group.T @ weights @ of_group).diagonal().sum()
    out, into = (np.bincount(codes, np.asarray(weights.sum(axis=a)).ravel(), n) for a in (1, 0))
    return float(inside / total - out @ into / total**2)
