"""What becomes of marker tables: genes filtered out of them, and their overlap with known markers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from sc_dask import get, slots
from sc_dask.array.hvg import group_moments
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from sc_dask.kernels.rank import fold_changes
from sc_dask.names import check_new
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

OverlapMethod = Literal["overlap_count", "overlap_coef", "jaccard"]
_DEFAULT_TOP = 100  # scanpy's
FILTERED = ""  # the name of a gene that was filtered out


def _price_of_filter(size: Size, *, groupby: str | None, **_: Any) -> Price:
    passes = size.passes_unless("shares")
    states = 32 * size.n_vars * size.levels(groupby or "groups of the result") * size.states
    return Price(passes, passes * (int(1.3 * size.blocks) + states))


@priced(_price_of_filter)
def filter_rank_genes_groups(
    adata: AnnData,
    *,
    key: str | None = None,
    groupby: str | None = None,
    use_raw: bool | None = None,
    key_added: str = "rank_genes_groups_filtered",
    min_in_group_fraction: float = 0.25,
    min_fold_change: float = 1,
    max_out_group_fraction: float = 0.5,
    compare_abs: bool = False,
) -> None:
    """Take genes out of a marker table that few cells of the group, or many others, have, or that change little.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars) with the result of ``tl.rank_genes_groups``; X in memory or lazy.
    key
        Name of the result; None: ``rank_genes_groups``.
    groupby, use_raw
        Groups of cells and matrix that shares and fold changes are taken of; None: those of the result.
    key_added
        Name of the new result.
    min_in_group_fraction, max_out_group_fraction
        A gene stays if more than this share of the group's cells has it, and less than that of all others.
    min_fold_change
        A gene stays if its log2 fold change is above.
    compare_abs
        Compare the absolute fold change.

    Returns
    -------
    None.

    Writes
    ------
    uns ``rank_genes_groups_filtered``: the result with empty names instead of those filtered out, at the same places,
    and always with the tables ``pts`` and ``pts_rest``.

    scanpy puts NaN there, which no format of AnnData takes in a record. An empty text is written and read back by all
    of them; scanpy's getter joins names with ``pts`` and so drops it, and its plots take their genes from that getter.
    ``get.rank_genes_groups_df`` drops it too.

    Passes: 0 where the result was made against the rest with ``pts=True``, else 1 over the genes of the table.
    Memory: 24 bytes per gene, group and thread.

    Raises
    ------
    MissingKeyError
        No such result, column, group or gene.
    InputError
        The result has no names in common with the matrix.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(300, 50, n_groups=3, seed=0)
    >>> sd.pp.log1p(adata)
    >>> sd.tl.rank_genes_groups(adata, "true_label", pts=True)
    >>> sd.tl.filter_rank_genes_groups(adata, min_fold_change=0.5, max_out_group_fraction=1)
    >>> markers = sd.get.rank_genes_groups_df(adata, key="rank_genes_groups_filtered")
    """
    check_new(key_added=key_added)
    result = _result(adata, "rank_genes_groups" if key is None else key)
    params = result["params"]
    groupby = str(params["groupby"]) if groupby is None else groupby
    use_raw = bool(params["use_raw"]) if use_raw is None else use_raw
    same = (params["groupby"], params["reference"], bool(params["use_raw"])) == (groupby, "rest", use_raw)
    names = {g: np.asarray(result["names"][g]).astype(str) for g in result["names"].dtype.names}
    changes: Mapping[str, np.ndarray] = {}
    if same and {"logfoldchanges", "pts_rest"} <= set(result):
        shares = {t: result[t] for t in ("pts", "pts_rest")}
    else:
        shares, of_all = _compared(adata, names, groupby, use_raw, None if use_raw else params.get("layer"))
        changes = {g: of_all[g].reindex(names[g]).to_numpy() for g in names}
    if same and "logfoldchanges" in result:
        changes = {g: np.asarray(result["logfoldchanges"][g]) for g in names}
    new = {}
    for g, genes in names.items():
        change = np.abs(changes[g]) if compare_abs else changes[g]
        inside, outside = (shares[t][g].reindex(genes).to_numpy() for t in ("pts", "pts_rest"))
        stays = (inside > min_in_group_fraction) & (outside < max_out_group_fraction) & (change > min_fold_change)
        new[g] = np.where(stays, genes, FILTERED)
    filtered = {**result, **shares, "names": _text_records(new)}
    slots.write(adata, {("uns", key_added): filtered}, writer="tl.filter_rank_genes_groups")


def _result(adata: AnnData, key: str) -> dict[str, Any]:
    if key not in adata.uns:
        raise MissingKeyError(f"no {key!r} in adata.uns", "a marker table", "tl.rank_genes_groups(adata, groupby)")
    return dict(adata.uns[key])


def _text_records(fields: Mapping[str, np.ndarray]) -> np.recarray:
    width = max(a.dtype.itemsize // 4 for a in fields.values())
    n = len(next(iter(fields.values())))
    records = np.empty(n, dtype=[(g, f"<U{max(width, 1)}") for g in fields])
    for g, values in fields.items():
        records[g] = values
    return records.view(np.recarray)


def _compared(
    adata: AnnData, names: Mapping[str, np.ndarray], groupby: str, use_raw: bool, layer: str | None
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Return shares of cells with each gene, of each group and of all others, and log2 fold changes between them."""
    cells = get.groups(adata, groupby, missing="own group", unused="keep")
    known = cells.names
    missing = [g for g in names if g not in known]
    if missing:
        raise MissingKeyError(f"no groups {', '.join(missing)} in obs[{groupby!r}]", f"one of: {', '.join(known)}")
    wanted = pd.Index(np.unique(np.concatenate(list(names.values()))))
    wanted = wanted[wanted != FILTERED]
    x = get.matrix(adata, layer, use_raw=use_raw)
    at = get.names(adata, "var", use_raw=use_raw).get_indexer(wanted)
    if (at < 0).any():
        absent = ", ".join(map(str, wanted[at < 0][:8]))
        raise MissingKeyError(f"no genes {absent} in the matrix", "the genes that were ranked", "another use_raw")
    moments = group_moments(x.select_columns(at), cells.codes, len(known) + 1)
    n, chosen = moments.n[:, None], [known.index(g) for g in names]
    sums, nnz = moments.mean * n, moments.nnz
    others = np.maximum(n.sum() - n, 1)
    base = adata.uns.get("log1p", {}).get("base")
    changed = fold_changes(moments.mean, (sums.sum(axis=0) - sums) / others, base)
    inside, outside = nnz / np.maximum(n, 1), (nnz.sum(axis=0) - nnz) / others
    tables = [pd.DataFrame(a[chosen].T, index=wanted, columns=list(names)) for a in (inside, outside, changed)]
    return {"pts": tables[0], "pts_rest": tables[1]}, tables[2]


def _price_of_overlap(size: Size, **_: Any) -> Price:
    return Price(0, 0)


@priced(_price_of_overlap)
def marker_gene_overlap(
    adata: AnnData,
    reference_markers: Mapping[str, Iterable[str]],
    *,
    key: str = "rank_genes_groups",
    method: OverlapMethod = "overlap_count",
    normalize: Literal["reference", "data"] | None = None,
    top_n_markers: int | None = None,
    adj_pval_threshold: float | None = None,
    key_added: str = "marker_gene_overlap",
    inplace: bool = False,
) -> pd.DataFrame | None:
    """Compare the markers of groups with known markers.

    Parameters
    ----------
    adata
        Annotated matrix with the result of ``tl.rank_genes_groups``.
    reference_markers
        Known markers of each cell type.
    key
        Name of the result.
    method
        ``overlap_count``: common genes. ``overlap_coef``: common genes over the smaller number. ``jaccard``: common
        genes over all of both.
    normalize
        Divide the count by the number of known markers (``reference``) or of the group's markers (``data``).
    top_n_markers
        Take so many genes of each group; None with no threshold: 100.
    adj_pval_threshold
        Take instead as many as have an adjusted p-value below.
    key_added
        Name in uns, with ``inplace``.
    inplace
        Write the table instead of returning it.

    Returns
    -------
    Table, a row for each cell type and a column for each group; with ``inplace`` None.

    Writes
    ------
    With ``inplace``, uns ``marker_gene_overlap``: the table.

    Passes: 0. Memory: the genes' names.

    Raises
    ------
    MissingKeyError
        No such result, or none with p-values.
    InputError
        An option is unknown or does not apply.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(300, 50, n_groups=3, seed=0)
    >>> sd.pp.log1p(adata)
    >>> sd.tl.rank_genes_groups(adata, "true_label")
    >>> sd.tl.marker_gene_overlap(adata, {"mine": adata.var_names[:5]}, top_n_markers=50).to_numpy().tolist()
    [[5.0, 5.0, 5.0]]
    """
    check_new(key_added=key_added)
    result = _result(adata, key)
    _check_overlap(result, method, normalize, top_n_markers, adj_pval_threshold)
    if isinstance(reference_markers, str) or any(isinstance(v, str) for v in dict(reference_markers).values()):
        raise InputError("markers that are one text", "a list or set of genes for each cell type", "['CD79A']")
    known = {str(k): {str(gene) for gene in v} for k, v in reference_markers.items()}
    mine = {g: _top(result, g, top_n_markers, adj_pval_threshold) for g in result["names"].dtype.names}
    score = _OVERLAPS[method]
    found = np.array([[score(a, b) for b in mine.values()] for a in known.values()], float)
    if normalize == "reference":
        found = found / np.array([max(len(a), 1) for a in known.values()])[:, None]
    elif normalize == "data":
        found = found / np.array([max(len(b), 1) for b in mine.values()])
    table = pd.DataFrame(found.reshape(len(known), len(mine)), index=list(known), columns=list(mine))
    if not inplace:
        return table
    slots.write(adata, {("uns", key_added): table}, writer="tl.marker_gene_overlap")
    return None


_OVERLAPS: dict[str, Callable[[set[str], set[str]], float]] = {
    "overlap_count": lambda a, b: len(a & b),
    "overlap_coef": lambda a, b: len(a & b) / max(min(len(a), len(b)), 1),
    "jaccard": lambda a, b: len(a & b) / max(len(a | b), 1),
}


def _check_overlap(
    result: dict[str, Any], method: str, normalize: str | None, top: int | None, threshold: float | None
) -> None:
    if method not in _OVERLAPS:
        raise InputError(f"method={method!r}", f"one of: {', '.join(_OVERLAPS)}")
    if normalize not in ("reference", "data", None):
        raise InputError(f"normalize={normalize!r}", "'reference', 'data' or None")
    if normalize is not None and method != "overlap_count":
        raise InputError(f"normalize={normalize!r} with method={method!r}", "method='overlap_count'")
    if top is not None and threshold is not None:
        raise InputError("both top_n_markers and adj_pval_threshold were given", "one of them")
    if top is not None and top < 1:
        raise InputError(f"top_n_markers={top}", "at least 1")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"adj_pval_threshold={threshold}", "a number from 0 to 1")
    if threshold is not None and "pvals_adj" not in result:
        raise MissingKeyError("the markers have no p-values", "another method than 'logreg'", "top_n_markers=100")


def _top(result: dict[str, Any], group: str, top: int | None, threshold: float | None) -> set[str]:
    """Return the names of a group's markers, without those that a filter took out."""
    n = _DEFAULT_TOP if top is None else top
    if threshold is not None:
        n = int((np.asarray(result["pvals_adj"][group]) < threshold).sum())
        if n == 0:
            warnings.warn(ScDaskWarning(f"no marker of group {group!r} has a p-value below {threshold}"), stacklevel=3)
    names = np.asarray(result["names"][group])[:n]
    return {str(name) for name in names if isinstance(name, str | bytes) and name != FILTERED}
