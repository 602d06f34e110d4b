"""Marker genes of groups of cells."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sc_dask import get, slots
from sc_dask.array import logistic
from sc_dask.array.blocks import RowBlocks
from sc_dask.array.gene_major.genes import map_cols
from sc_dask.array.hvg import count_moments, group_moments
from sc_dask.array.normalize import is_log_of_counts
from sc_dask.array.source import MemorySource
from sc_dask.errors import CountsWarning, InputError, MissingKeyError
from sc_dask.kernels.rank import RankResult, t_test
from sc_dask.kernels.wilcoxon import gene_ranks, wilcoxon
from sc_dask.log import begin
from sc_dask.names import check_new
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

Method = Literal["logreg", "t-test", "wilcoxon", "t-test_overestim_var"]
CorrMethod = Literal["benjamini-hochberg", "bonferroni"]


_LIBRARIES = 45 * MIB
_LOOKED_AT = 1000  # cells of an X in memory, to tell counts from logarithms


def _price(size: Size, *, groupby: str, method: str | None, max_iter: int = 100, **_: Any) -> Price:
    groups = size.n_vars * size.levels(groupby)
    if method == "logreg":  # at once if X fits, else block by block at every step
        whole = min(size.dense, 12 * size.n_values)
        if size.dense <= size.room or not size.is_lazy:
            return Price(1, _LIBRARIES + int(1.5 * size.blocks) + 2 * whole + 16 * groups)
        passes = 2 if whole <= size.room else 2 + max_iter
        return Price(passes, _LIBRARIES + int(1.5 * size.blocks) + 2 * min(whole, size.room) + 16 * groups)
    if method == "wilcoxon":
        passes = size.passes_unless("gene-major")
        return Price(passes, _LIBRARIES + int(4.2 * size.blocks) + 24 * size.n_obs + 60 * groups)
    states = (32 * size.states + 40) * groups
    return Price(1, _LIBRARIES + int(1.3 * size.blocks) + states, 24 * groups)


@priced(_price)
def rank_genes_groups(
    adata: AnnData,
    groupby: str,
    *,
    mask_var: np.ndarray | str | None = None,
    use_raw: bool | None = None,
    groups: Literal["all"] | Iterable[str] = "all",
    reference: str = "rest",
    n_genes: int | None = None,
    rankby_abs: bool = False,
    pts: bool = False,
    key_added: str | None = None,
    copy: bool = False,
    method: Method | None = None,
    corr_method: CorrMethod = "benjamini-hochberg",
    tie_correct: bool = False,
    layer: str | None = None,
    **kwds: Any,
) -> AnnData | None:
    """Rank genes by a test of each group against the rest or a reference group, or by logistic regression.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars), logarithmised, in memory or lazy.
    groupby
        Column of obs with the groups, in the order of its categories (texts: c2 before c10); cells without a value
        belong to the rest.
    mask_var
        Genes to test: a boolean array or a column of var; None: all.
    use_raw
        Use ``adata.raw``; None: if it is there and no layer is given.
    groups
        Groups to test, at least two cells each; ``"all"``.
    reference
        A group to test against, or ``"rest"``: all other cells.
    n_genes
        Number of genes to keep per group; None: all.
    rankby_abs
        Rank by the absolute score.
    pts
        Add the shares of cells with a non-zero value.
    key_added
        Name of the result instead of ``rank_genes_groups``.
    copy
        Return a changed copy instead.
    method
        ``t-test`` (the default) or ``t-test_overestim_var``: Welch's. ``wilcoxon``: the rank-sum test, exact ranks with
        the normal approximation. ``logreg``: coefficients of a logistic regression of the groups on all genes; a
        ``reference`` is one more of the groups that are compared. Of two groups only the first is named, with the
        coefficients of the second, as scanpy has it.
    corr_method
        Correction of the p-values for the number of genes.
    tie_correct
        Make the variance of ``wilcoxon`` smaller by what ties take away from it.
    layer
        Layer to use instead of X.
    kwds
        For ``logreg``: options of ``sklearn.linear_model.LogisticRegression``. It is scikit-learn's where X of these
        cells and genes takes 2 GiB at most (a quarter of the option ``memory``, if set). A larger X is read block by
        block at every step of the same minimiser of the same loss: coefficients agree to about three digits, options
        other than C, max_iter, tol and fit_intercept are refused, and max_iter bounds the passes.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    uns ``rank_genes_groups``: records ``names``, ``scores``, ``logfoldchanges`` (float32), ``pvals``, ``pvals_adj``
    with a field per group (``logreg``: names and scores); ``params``; tables ``pts`` and ``pts_rest``. Fold changes
    are NaN where a mean that is negative has none (scaled data), as scanpy has it. obs ``groupby``, if it was text,
    becomes a category.

    Passes: 1 for any number of groups (``logreg``: as above); for ``wilcoxon`` 0 once its gene-major copy is made
    (`sc_dask.array.gene_major`: about 1 byte of disk a non-zero of counts, in the option ``work-dir``, where a killed
    run goes on). Memory: 24 bytes per gene, group and thread; for ``wilcoxon`` two blocks and 16 bytes a value of the
    longest gene per thread, and 24 bytes a cell.

    Raises
    ------
    InputError
        A group has fewer than two cells, an option is unknown or does not apply, or a gene has values that are NaN or
        infinite.
    MissingKeyError
        No such column, group or layer.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(300, 50, n_groups=3, seed=0)
    >>> sd.pp.log1p(adata)
    >>> sd.tl.rank_genes_groups(adata, "true_label", method="wilcoxon", n_genes=10)
    >>> sd.get.rank_genes_groups_df(adata).shape
    (30, 6)
    """
    start = begin("ranking genes")
    check_new(key_added=key_added)
    if layer is not None and use_raw:
        raise InputError("both use_raw=True and a layer were given", "one of them")
    use_raw = (adata.raw is not None and layer is None) if use_raw is None else use_raw
    method = method or "t-test"
    _check_options(method, corr_method, tie_correct, pts, kwds)
    names, codes, tested, ref = _groups(adata, groupby, groups, reference)
    adata = adata.copy() if copy else adata
    x = get.matrix(adata, layer, use_raw=use_raw)
    genes = get.names(adata, "var", use_raw=use_raw)
    mask = _gene_mask(adata, mask_var, len(genes))
    cols = np.arange(len(genes)) if mask is None else np.flatnonzero(mask)
    genes = genes[cols]
    chosen = x.select_columns(cols)
    options: dict[str, Any] = {"corr_method": corr_method, "base": adata.uns.get("log1p", {}).get("base")}
    if method == "wilcoxon":
        found = _wilcoxon(x, cols, genes, codes, tested, ref, tie_correct=tie_correct, **options)
    elif method == "logreg":
        found = _logreg(chosen, genes, codes, _compared(tested, ref, groups, reference), kwds)
    else:
        found = _t_test(chosen, genes, codes, tested, ref, method=method, **options)
    params = {
        "groupby": groupby,
        "reference": reference,
        "method": method,
        "use_raw": use_raw,
        "layer": layer,
        "corr_method": corr_method,
    }
    if method != "logreg":
        _warn_of_counts(x, chosen.known.values)
    result = {"params": params} | _records(found, [names[g] for g in found.groups], genes, n_genes, rankby_abs)
    if pts:
        result |= _shares(found, names, genes, ref)
    writes = {("uns", key_added or "rank_genes_groups"): result, **get.text_as_category(adata, groupby)}
    slots.write(adata, writes, writer="tl.rank_genes_groups", since=start)
    return adata if copy else None


def _check_options(method: str, corr_method: str, tie_correct: bool, pts: bool, kwds: dict[str, Any]) -> None:
    methods = "t-test", "t-test_overestim_var", "wilcoxon", "logreg"
    if method not in methods:
        raise InputError(f"method={method!r}", f"one of: {', '.join(methods)}")
    if corr_method not in ("benjamini-hochberg", "bonferroni"):
        raise InputError(f"corr_method={corr_method!r}", "'benjamini-hochberg' or 'bonferroni'")
    if tie_correct and method != "wilcoxon":
        raise InputError(f"tie_correct=True with method={method!r}", "method='wilcoxon'", "leave tie_correct out")
    if kwds and method != "logreg":
        raise InputError(f"{', '.join(kwds)} with method={method!r}", "method='logreg'", "leave these options out")
    if method == "logreg" and (pts or corr_method != "benjamini-hochberg"):
        raise InputError("pts or corr_method with method='logreg'", "a test", "leave them out")


def _warn_of_counts(x: RowBlocks, known: dict[str, Any]) -> None:
    """Warn of counts where a logarithm is expected, if a pass has seen the values, or if they are in memory."""
    source = x.expression.source
    if known:
        are_counts = not known["has_nan"] and known["all_integer"] and known["min_value"] >= 0
    elif isinstance(source, MemorySource) and not x.expression.steps:
        first = source.read(0, min(source.shape[0], _LOOKED_AT))
        values = first.data if sp.issparse(first) else first
        are_counts = bool(values.size) and bool((values >= 0).all() and (values == np.floor(values)).all())
    else:
        are_counts = False
    if are_counts:
        warnings.warn(
            "It seems you use rank_genes_groups on the raw count data: all values are whole numbers; next: "
            "pp.normalize_total(adata), pp.log1p(adata)",
            CountsWarning,
            stacklevel=3,
        )


def _t_test(
    x: RowBlocks, genes: pd.Index, codes: np.ndarray, tested: list[int], ref: int | None, **options: Any
) -> RankResult:
    n_groups = int(codes.max()) + 1
    # the same pass tells whether X holds counts, but where its last step is a logarithm
    moments = group_moments(x, codes, n_groups) if is_log_of_counts(x) else count_moments(x, codes, n_groups)
    _check_finite(moments.mean + moments.m2, genes)
    return t_test(moments, ref, groups=tested, **options)


def _wilcoxon(
    x: RowBlocks,
    cols: np.ndarray,
    genes: pd.Index,
    codes: np.ndarray,
    tested: list[int],
    ref: int | None,
    **options: Any,
) -> RankResult:
    if ref is not None:  # cells of other groups need not be sorted
        codes = np.where(np.isin(codes, [*tested, ref]), codes, -1).astype(np.int32)
    n = np.bincount(codes[codes >= 0])
    ranks = map_cols(gene_ranks, x, cols, label="ranks", codes=codes, n_groups=len(n), reference=ref)
    _check_finite(ranks.sums.T, genes)
    return wilcoxon(ranks, n, tested, ref, **options)


def _compared(tested: list[int], ref: int | None, groups: Any, reference: str) -> list[int]:
    """Return the groups of a regression, in scanpy's order: the reference is one of them."""
    if ref is None:
        return tested
    if isinstance(groups, str):
        return sorted([*tested, ref])
    names = list(dict.fromkeys(str(g) for g in groups))
    at = names.index(str(reference)) if str(reference) in names else len(tested)
    return [*tested[:at], ref, *tested[at:]]


def _logreg(x: RowBlocks, genes: pd.Index, codes: np.ndarray, compared: list[int], kwds: dict[str, Any]) -> RankResult:
    if len(compared) < 2:
        raise InputError("one group to compare by method='logreg'", "at least two", "name more groups")
    classes = np.full(int(codes.max()) + 1, -1, np.int32)
    classes[sorted(compared)] = np.arange(len(compared))
    coef = logistic.fit(x, classes[codes], kwds)
    _check_finite(coef, genes)
    shown = compared[:1] if len(compared) == 2 else compared
    scores = coef if len(compared) == 2 else coef[classes[shown]]
    none = np.empty((0, len(genes)))
    return RankResult(np.asarray(shown), scores, none, none, none, none, none)


def _check_finite(by_gene: np.ndarray, genes: pd.Index) -> None:
    """Refuse genes with a sum that is not a number (n_groups, n_genes): a test would call them no markers."""
    bad = np.flatnonzero(~np.isfinite(by_gene).all(axis=0))
    if len(bad):
        raise InputError(
            f"NaN or infinite values in {len(bad)} genes: {', '.join(map(str, genes[bad[:5]]))}",
            "finite numbers",
            "mask_var=a mask of var without them",
        )


def _shares(found: RankResult, names: list[str], genes: pd.Index, ref: int | None) -> dict[str, pd.DataFrame]:
    """Return shares of cells with the gene: of each group, and of the rest or the reference group."""
    tested = [names[g] for g in found.groups]
    if ref is None:
        groups, rest = dict(zip(tested, found.pts, strict=True)), dict(zip(tested, found.pts_rest, strict=True))
        return {"pts": pd.DataFrame(groups, index=genes), "pts_rest": pd.DataFrame(rest, index=genes)}
    shares = {g: found.pts[i] for i, g in enumerate(found.groups)} | {ref: found.pts_rest[0]}
    return {"pts": pd.DataFrame({names[g]: shares[g] for g in sorted(shares)}, index=genes)}


def _groups(
    adata: AnnData, groupby: str, groups: Literal["all"] | Iterable[str], reference: str
) -> tuple[list[str], np.ndarray, list[int], int | None]:
    """Return names of all groups, a code per cell (one more for cells without), tested groups and the reference."""
    cells = get.groups(adata, groupby, missing="own group", order="natural", empty_name="refuse")
    names = cells.names
    if isinstance(groups, str) and groups != "all":
        raise InputError(f"groups={groups!r}", "'all' or a list of groups", f"groups=[{groups!r}]")
    wanted = names if isinstance(groups, str) else [str(g) for g in groups]
    for g in [*wanted, *([] if reference == "rest" else [str(reference)])]:
        if g not in names:
            raise MissingKeyError(f"no group {g!r} in obs[{groupby!r}]", f"one of: {', '.join(names)}")
    ref = None if reference == "rest" else names.index(str(reference))
    tested = [g for g in dict.fromkeys(names.index(g) for g in wanted) if g != ref]
    cells.check_sizes(2, of=[*tested, *([] if ref is None else [ref])])
    if not tested or (ref is None and adata.n_obs - cells.sizes[tested[0]] < 1):
        raise InputError(
            f"nothing to compare: obs[{groupby!r}] has the groups {', '.join(names)}", "at least two groups"
        )
    return names, cells.codes, tested, ref


def _gene_mask(adata: AnnData, mask_var: np.ndarray | str | None, n_genes: int) -> np.ndarray | None:
    mask = get.var_mask(adata, mask_var)
    if mask is not None and len(mask) != n_genes:
        raise InputError(f"mask_var has {len(mask)} genes, the matrix {n_genes}", "equal numbers", "use_raw=False")
    return mask


def _records(
    found: RankResult, groups: list[str], genes: pd.Index, n_genes: int | None, rankby_abs: bool
) -> dict[str, Any]:
    """Return the statistics as records with a field per group, best gene first."""
    by = np.abs(found.scores) if rankby_abs else found.scores
    n = by.shape[1] if n_genes is None else min(n_genes, by.shape[1])
    order = np.argsort(-by, axis=1, kind="stable")[:, :n]
    text = genes.to_numpy().astype(str)  # fixed width: readable from every format
    out: dict[str, Any] = {}
    for name, values, kind in (
        ("names", np.broadcast_to(text, by.shape), text.dtype),
        ("scores", found.scores, np.float32),
        ("pvals", found.pvals, np.float64),
        ("pvals_adj", found.pvals_adj, np.float64),
        ("logfoldchanges", found.logfoldchanges, np.float32),
    ):
        if not len(values):  # a regression tests nothing
            continue
        records = np.empty(n, dtype=[(g, kind) for g in groups])
        for i, g in enumerate(groups):
            records[g] = values[i][order[i]]
        out[name] = records.view(np.recarray) if name == "names" else records
    return out
