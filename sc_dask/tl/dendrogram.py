"""Trees of groups of cells."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sc_dask import get, slots
from sc_dask.array.hvg import group_moments
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.log import begin
from sc_dask.names import check_new
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

_CORRELATIONS = ("pearson", "kendall", "spearman")
_AS_SCANPY: dict[str, Any] = {"order": "natural", "unused": "refuse", "floats": "refuse"}
_SMALL = 50  # genes: up to here X itself is compared, as in scanpy


def _price(size: Size, *, groupby: Any, var_names: Any, **_: Any) -> Price:
    reads = var_names is not None or size.rep_is_x
    states = 32 * size.n_vars * size.levels(groupby) * size.states
    return Price(int(reads), int(1.5 * size.blocks) + states if reads else 2 * size.rep)


@priced(_price)
def dendrogram(
    adata: AnnData,
    groupby: str | Sequence[str],
    *,
    n_pcs: int | None = None,
    use_rep: str | None = None,
    var_names: Sequence[str] | None = None,
    use_raw: bool | None = None,
    cor_method: str = "pearson",
    linkage_method: str = "complete",
    optimal_ordering: bool = False,
    key_added: str | None = None,
    inplace: bool = True,
) -> dict[str, Any] | None:
    """Join groups of cells to a tree by the correlation of their means.

    Parameters
    ----------
    adata
        Annotated matrix.
    groupby
        Column of obs, or several, whose combinations are the groups; cells without a value are left out.
    n_pcs, use_rep
        Columns of ``X_pca`` to use, or another key of obsm; ``"X"`` (or at most 50 genes) is X itself.
    var_names
        Genes to compare instead.
    use_raw
        With ``var_names``: genes of ``adata.raw``; None: if it is there.
    cor_method
        ``pearson``, ``kendall`` or ``spearman``.
    linkage_method
        Of ``scipy.cluster.hierarchy.linkage``.
    optimal_ordering
        Order leaves so that neighbours are alike.
    key_added
        Key of uns; None: ``dendrogram_<groupby>``.
    inplace
        Write the result; else return it.

    Returns
    -------
    None, or the result unless ``inplace``.

    Writes
    ------
    uns ``dendrogram_<groupby>``: ``linkage``, ``correlation_matrix`` (n_groups, n_groups), ``categories_ordered``,
    ``categories_idx_ordered``, ``dendrogram_info`` and what was asked for.

    Passes: 0 of an embedding; 1 of genes or X, for all groups at once. Memory: 24 bytes per gene, group and thread.

    Raises
    ------
    MissingKeyError
        A column, gene or representation is not there.
    InputError
        One group only, a group without cells, groups that have no correlation, or an option that does not apply.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.repeat([[0, 1, 5], [5, 1, 0], [0, 2, 5]], 20, axis=0).astype("float32"))
    >>> adata.obs["kind"] = np.repeat(["a", "b", "c"], 20)
    >>> sd.tl.dendrogram(adata, "kind")
    >>> adata.uns["dendrogram_kind"]["categories_ordered"]
    ['b', 'a', 'c']
    """
    start = begin("computing dendrogram")
    if cor_method not in _CORRELATIONS:
        raise InputError(f"found cor_method={cor_method!r}", "one of " + ", ".join(_CORRELATIONS))
    if var_names is not None and (use_rep is not None or n_pcs is not None):
        raise InputError("found var_names together with use_rep or n_pcs", "one of them")
    if var_names is None and use_raw:
        raise InputError("found use_raw=True without var_names", "genes", "var_names=list(adata.raw.var_names)")
    keys = [groupby] if isinstance(groupby, str) else list(groupby)
    key = key_added or f"dendrogram_{'_'.join(keys)}"
    if inplace:
        check_new(key_added=key)
    names, codes = _groups(adata, keys, by_product=var_names is not None)
    if var_names is not None:
        means = _of_genes(adata, var_names, use_raw, codes, len(names))
    else:
        means = _of_embedding(adata, use_rep, n_pcs, codes, len(names))
    correlation = pd.DataFrame(means.T).corr(method=cor_method).clip(-1, 1).to_numpy()  # type: ignore[arg-type]
    result = {
        **_tree(correlation, names, linkage_method, optimal_ordering),
        "groupby": keys,
        "use_rep": use_rep,
        "cor_method": cor_method,
        "linkage_method": linkage_method,
        "correlation_matrix": correlation,
    }
    if not inplace:
        return result
    slots.write(adata, {("uns", key): result}, writer="tl.dendrogram", since=start)
    return None


def _groups(adata: AnnData, keys: list[str], *, by_product: bool) -> tuple[list[Any], NDArray[np.int32]]:
    """Return names of the groups and a code per cell (-1: none).

    As in scanpy, combinations stand in the order of their parts for genes, in that of the alphabet otherwise.
    """
    if not keys:
        raise InputError("found no groupby", "a column of obs")
    if len(keys) == 1:
        cells = get.groups(adata, keys[0], missing="drop", min_groups=2, **_AS_SCANPY)
        return list(cells.values if cells.is_category else cells.names), cells.codes
    parts = [get.groups(adata, key, missing="refuse", **_AS_SCANPY) for key in keys]
    joined = pd.Series(np.asarray(parts[0].names, object)[parts[0].codes])
    for part in parts[1:]:
        joined = joined + "_" + np.asarray(part.names, object)[part.codes]
    there = set(joined)
    if len(there) < 2:
        raise InputError(f"found one group of {', '.join(keys)}", "at least 2", "choose another column")
    ordered = ("_".join(names) for names in product(*(p.names for p in parts)))
    names = list(dict.fromkeys(n for n in ordered if n in there)) if by_product else sorted(there)
    return names, pd.Categorical(joined, categories=names).codes.astype(np.int32)


def _of_genes(
    adata: AnnData, var_names: Sequence[str], use_raw: bool | None, codes: NDArray[np.int32], n_groups: int
) -> NDArray[np.float64]:
    raw = adata.raw is not None if use_raw is None else use_raw
    x = get.matrix(adata, use_raw=raw)
    genes = pd.Index([var_names] if isinstance(var_names, str) else list(var_names))
    known = get.names(adata, "var", use_raw=raw)
    missing = genes.difference(known)
    if len(missing) or not len(genes):
        raise MissingKeyError(
            f"not among the genes{' of raw' if raw else ''}: {', '.join(missing[:8])}",
            "names of genes",
            f"look into adata.{'raw.' if raw else ''}var_names",
        )
    twice = known[known.duplicated()].intersection(genes)
    if len(twice):
        raise InputError(f"{twice[0]} occurs more than once", "unique names", "adata.var_names_make_unique()")
    return group_moments(x.select_columns(np.sort(known.get_indexer(genes.unique()))), codes, n_groups).mean


def _of_embedding(
    adata: AnnData, use_rep: str | None, n_pcs: int | None, codes: NDArray[np.int32], n_groups: int
) -> NDArray[np.float64]:
    if use_rep == "X" or (use_rep is None and (n_pcs == 0 or adata.n_vars <= _SMALL)):
        return group_moments(get.matrix(adata), codes, n_groups).mean
    x = get.embedding(adata, use_rep, n_pcs)
    there = codes >= 0
    sums = [np.bincount(codes[there], x[there, d], n_groups) for d in range(x.shape[1])]
    return np.column_stack(sums) / np.bincount(codes[there], minlength=n_groups)[:, None]


def _tree(correlation: NDArray[np.float64], names: list[Any], method: str, optimal: bool) -> dict[str, Any]:
    from scipy.cluster import hierarchy

    far = 1 - correlation[np.triu_indices(len(names), 1)]
    if not np.isfinite(far).all():
        raise InputError(
            "found groups whose means have no correlation: all values of one are equal",
            "means that differ between genes or components",
            "use more genes, or another use_rep",
        )
    try:
        linkage = hierarchy.linkage(far, method=method, optimal_ordering=optimal)
    except ValueError as error:
        raise InputError(f"found linkage_method={method!r} ({error})", "a method of scipy's linkage") from error
    info = hierarchy.dendrogram(linkage, labels=names, no_plot=True)
    return {
        "linkage": linkage,
        "categories_ordered": info["ivl"],
        "categories_idx_ordered": info["leaves"],
        "dendrogram_info": info,
    }
