"""The only reader of AnnData: matrices as lazy row blocks, embeddings, graphs and tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp
from dask.local import get_sync

from sc_dask import slots
from sc_dask.array import aggregate as aggregates
from sc_dask.array import run
from sc_dask.array.blocks import RowBlocks, collect_rows, from_array
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.graph.compact import Compact
from sc_dask.kernels.aggregate import FUNCTIONS
from sc_dask.kernels.csr import to_dense
from sc_dask.outside.anndata import named_layers

if TYPE_CHECKING:
    from anndata import AnnData

AggType = Literal["count_nonzero", "mean", "sum", "var", "median"]


def _listed(names: Iterable[Any], n: int = 8) -> str:
    names = [str(x) for x in names]
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "") if names else "nothing"


def stored(adata: AnnData, layer: str | None = None, *, use_raw: bool = False) -> Any:
    """Return X, a layer or raw X as it is stored (array, sparse matrix or lazy)."""
    if use_raw:
        if adata.raw is None:
            raise MissingKeyError("use_raw=True but adata.raw is not set", "adata.raw", "adata.raw = adata")
        if layer is not None:
            raise InputError("both use_raw=True and a layer were given", "one of them")
        return adata.raw.X
    if layer is not None and layer not in adata.layers:
        raise MissingKeyError(f"no layer {layer!r}", f"one of: {_listed(k for k, _ in named_layers(adata))}")
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        raise MissingKeyError("adata.X is None", "a matrix", "pass layer=... or set adata.X")
    return x


def matrix(
    adata: AnnData, layer: str | None = None, *, use_raw: bool = False, mask_var: np.ndarray | str | None = None
) -> RowBlocks:
    """Return X, a layer or raw X as lazy row blocks, whatever it is stored as.

    Parameters
    ----------
    adata
        Annotated matrix; X in memory (ndarray, csr, csc) or lazy (``sd.read``, any Dask array).
    layer, use_raw
        Which matrix.
    mask_var
        Keep these genes: a boolean array (n_vars,) or the name of a boolean column of var.

    Returns
    -------
    Lazy matrix (n_obs, n_vars or n_kept). Nothing is read.
    """
    x = stored(adata, layer, use_raw=use_raw)
    if not isinstance(x, np.ndarray | da.Array) and not sp.issparse(x):
        raise InputError(
            f"a matrix of type {type(x).__name__}",
            "an ndarray, a scipy sparse matrix or a Dask array",
            "read the file with sd.read(path) instead of backed mode",
        )
    blocks = from_array(np.asarray(x) if isinstance(x, np.ndarray) and type(x) is not np.ndarray else x)
    mask = var_mask(adata, mask_var)
    return blocks if mask is None else blocks.pick_cols(np.flatnonzero(mask))


def var_mask(adata: AnnData, mask_var: np.ndarray | str | None) -> np.ndarray | None:
    """Return a boolean mask (n_vars,) from an array or a column name; None stays None."""
    if mask_var is None:
        return None
    if isinstance(mask_var, str):
        if mask_var not in slots.columns(adata.var):
            raise MissingKeyError(
                f"no column {mask_var!r} in adata.var",
                f"one of: {_listed(slots.columns(adata.var))}",
                "pp.highly_variable_genes(adata)",
            )
        mask_var = slots.load(adata.var, mask_var).to_numpy()
    mask = np.asarray(mask_var)
    if mask.dtype != bool or mask.shape != (adata.n_vars,):
        raise InputError(f"mask_var of type {mask.dtype} and shape {mask.shape}", f"a boolean array ({adata.n_vars},)")
    if not mask.any():
        raise InputError("mask_var keeps no gene", "at least one True")
    return mask


def as_stored(x: RowBlocks, like: Any) -> Any:
    """Return a lazy result in the type of what it was made from: lazy stays lazy, memory comes back as it was.

    What became dense on the way stays dense.
    """
    if isinstance(like, da.Array):
        return x
    out = run.materialise(x)
    if sp.issparse(like) and sp.issparse(out):
        return type(like)(out)
    return np.asarray(out)


def column(adata: AnnData, key: str, *, axis: str = "obs") -> pd.Series:
    """Return a column of obs or var; of a lazy table only this column is read."""
    table = adata.obs if axis == "obs" else adata.var
    if key not in slots.columns(table):
        raise MissingKeyError(f"no column {key!r} in adata.{axis}", f"one of: {_listed(slots.columns(table))}")
    return slots.load(table, key)


def names(adata: AnnData, axis: str = "obs", *, use_raw: bool = False) -> pd.Index:
    """Return the names of the cells (``axis="obs"``) or the genes (``"var"``; with ``use_raw`` those of raw)."""
    return slots.names(adata.raw.var if use_raw else adata.obs if axis == "obs" else adata.var)


def batches(adata: AnnData, batch_key: str | None) -> tuple[np.ndarray | None, list[Any]]:
    """Return the codes (int32, n_obs) and names of the batches; one batch without a key."""
    if batch_key is None:
        return None, [None]
    values = column(adata, batch_key)
    if values.isna().any():
        raise InputError(f"obs[{batch_key!r}] has missing values", "a batch for every cell")
    cat = pd.Categorical(values).remove_unused_categories()
    return np.asarray(cat.codes, np.int32), list(cat.categories)


def embedding(adata: AnnData, use_rep: str | None = None, n_pcs: int | None = None) -> np.ndarray:
    """Return the coordinates of the cells (n_obs, n_dims) that graph functions work on.

    As scanpy chooses: ``use_rep`` if given (``"X"`` is X itself); X with ``n_pcs=0`` or with at most 50 genes;
    else ``X_pca``.
    """
    if use_rep is None and (n_pcs == 0 or adata.n_vars <= 50):
        use_rep = "X"
    if use_rep == "X":
        dense = collect_rows(to_dense, matrix(adata), dtype=np.float32)
        return np.asarray(run.compute(dense))
    if use_rep is None:
        use_rep = "X_pca"
        if use_rep not in adata.obsm:
            raise MissingKeyError("no X_pca in adata.obsm", "principal components", "pp.pca(adata)")
    if use_rep not in adata.obsm:
        raise MissingKeyError(f"no {use_rep!r} in adata.obsm", f"one of: {_listed(adata.obsm)}", "pp.pca(adata)")
    x = np.asarray(adata.obsm[use_rep])
    if n_pcs is not None and n_pcs:
        if n_pcs > x.shape[1]:
            raise InputError(f"n_pcs={n_pcs}", f"at most {x.shape[1]} ({use_rep})", f"pp.pca(adata, n_comps={n_pcs})")
        x = x[:, :n_pcs]
    return x


def embedding_rows(
    adata: AnnData, use_rep: str | None = None, n_pcs: int | None = None
) -> tuple[tuple[int, int], Callable[[int, int], np.ndarray], bool]:
    """Return the shape of what `embedding` returns, a function that reads some rows of it, and whether it is lazy."""
    lazy = adata.obsm.get(use_rep or "X_pca") if use_rep != "X" and n_pcs != 0 else None
    if not isinstance(lazy, da.Array):
        x = embedding(adata, use_rep, n_pcs)
        return (x.shape[0], x.shape[1]), partial(_rows, x), False
    if n_pcs:
        lazy = lazy[:, :n_pcs]
    return (lazy.shape[0], lazy.shape[1]), partial(_lazy_rows, lazy), True


def _rows(x: np.ndarray, begin: int, end: int) -> np.ndarray:
    return np.ascontiguousarray(x[begin:end], dtype=np.float32)


def _lazy_rows(x: da.Array, begin: int, end: int) -> np.ndarray:
    """Read rows in this very thread: a task must not ask the cluster that it runs on."""
    part = x[begin:end]
    blocks = get_sync(dict(part.dask), part.__dask_keys__())
    return np.ascontiguousarray(np.block([list(row) for row in blocks]), dtype=np.float32)


def compact_graph(adata: AnnData, neighbors_key: str | None = None) -> Compact | None:
    """Return the compact graph of ``pp.neighbors(compact=True)``; None if the graph is not compact."""
    entry = adata.uns.get("neighbors" if neighbors_key is None else neighbors_key)
    if entry is None or "compact" not in entry:
        return None
    return Compact.opened(str(entry["compact"]["folder"]), adata.n_obs)


def graph(adata: AnnData, neighbors_key: str | None = None, obsp: str | None = None) -> sp.csr_matrix:
    """Return the connectivities (n_obs, n_obs) of a neighbour graph, or any matrix of obsp."""
    if obsp is not None and neighbors_key is not None:
        raise InputError("both obsp and neighbors_key were given", "one of them")
    if obsp is None:
        key = "neighbors" if neighbors_key is None else neighbors_key
        if key not in adata.uns:
            raise MissingKeyError(f"no {key!r} in adata.uns", "a neighbour graph", "pp.neighbors(adata)")
        if "compact" in adata.uns[key]:
            raise MissingKeyError(
                f"the graph {key!r} is compact and not in adata.obsp",
                "a graph of all cells",
                "pp.neighbors(compact=False)",
            )
        obsp = adata.uns[key].get("connectivities_key", "connectivities")
    if obsp not in adata.obsp:
        raise MissingKeyError(f"no {obsp!r} in adata.obsp", f"one of: {_listed(adata.obsp)}", "pp.neighbors(adata)")
    return adata.obsp[obsp].tocsr()


def distances(adata: AnnData, neighbors_key: str | None = None) -> sp.csr_matrix:
    """Return the distances (n_obs, n_obs) to the nearest neighbours that a graph was made of."""
    key = "neighbors" if neighbors_key is None else neighbors_key
    graph(adata, key)  # says what is missing
    return graph(adata, obsp=adata.uns[key].get("distances_key", "distances"))


def obs_df(
    adata: AnnData,
    keys: Collection[str] = (),
    obsm_keys: Iterable[tuple[str, int]] = (),
    *,
    layer: str | None = None,
    gene_symbols: str | None = None,
    use_raw: bool = False,
) -> pd.DataFrame:
    """Return values of cells: columns of obs, genes, and columns of obsm, as a table.

    Parameters
    ----------
    adata
        Annotated matrix; X may be lazy.
    keys
        Columns of obs, or genes (of var_names, or of the column ``gene_symbols`` of var).
    obsm_keys
        Pairs of an obsm key and a column number.
    layer, use_raw
        Where the values of genes come from.

    Returns
    -------
    Table (n_obs, n_keys), index obs_names. Passes: 1 over X if a gene is asked for, else 0.

    Raises
    ------
    MissingKeyError
        A key is neither a column nor a gene, or is both.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.get.obs_df(adata, [adata.var_names[0], "true_label"]).shape
    (200, 2)
    """
    keys = [keys] if isinstance(keys, str) else list(keys)
    var = adata.raw.var if use_raw and adata.raw is not None else adata.var
    names = pd.Index(slots.load(var, gene_symbols)) if gene_symbols is not None else slots.names(var)
    columns = slots.columns(adata.obs)
    genes: list[str] = []
    missing: list[str] = []
    for key in keys:
        if key in columns and key in names:
            raise InputError(f"{key!r} is both a column of obs and a gene", "an unambiguous key", "rename the column")
        if key not in columns:
            (genes if key in names else missing).append(key)
    if missing:
        raise MissingKeyError(f"neither columns of obs nor genes: {_listed(missing)}", "keys of obs or gene names")
    out = {}
    if genes:
        twice = names[names.duplicated()].intersection(pd.Index(genes))
        if len(twice):
            raise InputError(f"{_listed(twice)} occurs more than once", "unique names", "adata.var_names_make_unique()")
        positions = names.get_indexer(pd.Index(genes))
        lazy = collect_rows(to_dense, matrix(adata, layer, use_raw=use_raw).pick_cols(positions), dtype=None)
        values = run.compute(lazy)
        out = {g: values[:, i] for i, g in enumerate(genes)}
    values_of = {k: slots.load(adata.obs, k) if k in columns else out[k] for k in keys}
    table = pd.DataFrame(values_of, index=slots.names(adata.obs))
    for key, i in obsm_keys:
        if key not in adata.obsm:
            raise MissingKeyError(f"no {key!r} in adata.obsm", f"one of: {_listed(adata.obsm)}")
        values = adata.obsm[key]
        table[f"{key}-{i}"] = values.iloc[:, i] if isinstance(values, pd.DataFrame) else np.asarray(values)[:, i]
    return table


def aggregate(
    adata: AnnData,
    by: str | Collection[str],
    func: AggType | Iterable[AggType],
    *,
    axis: Literal["obs", 0, "var", 1] | None = None,
    mask: np.ndarray | str | None = None,
    dof: int = 1,
    layer: str | None = None,
    obsm: str | None = None,
    varm: str | None = None,
) -> AnnData:
    """Return sums, means, variances, medians or numbers of non-zeros of groups of cells (pseudobulk) or of genes.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars), in memory or lazy.
    by
        Column with the groups, or several: each combination that occurs is a group.
    func
        ``"sum"``, ``"mean"``, ``"var"``, ``"count_nonzero"``, ``"median"``, or several.
    axis
        ``"obs"`` (0) groups cells, ``"var"`` (1) genes; None: genes with ``varm``, else cells.
    mask
        Cells (genes) that take part: a boolean array or a column. The others count nowhere, which means and medians of
        scanpy forget; a group without any keeps its row, of sums 0.
    dof
        Variances are sums of squared deviations over ``n - dof``; NaN in groups of no more cells.
    layer, obsm, varm
        What to aggregate instead of X.

    Returns
    -------
    AnnData with a row for each group (named by its keys, joined by ``_``), obs of the keys and ``n_obs_aggregated``,
    var as it was, and a layer for each function: float64, exact for integers up to 2**53, so that ``sum`` of counts
    is counts; ``count_nonzero`` int64. With ``axis="var"`` all of this turned.

    Passes: 1 for any number of groups and functions; more where 16 to 40 bytes per group, gene and thread do not fit
    half the memory budget (1 GiB without one). ``median``: 1 more, or one for each tile of genes whose non-zeros fit
    that budget; only genes that half a group's cells have are read. Memory: that, and 8 bytes per group, gene and
    function.

    Raises
    ------
    InputError
        An unknown function, a key with missing values, a mask that keeps nothing, or options that exclude each other.
    MissingKeyError
        No such column, layer or entry of obsm or varm.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> adata.obs["half"] = ["first"] * 100 + ["second"] * 100
    >>> sd.get.aggregate(adata, "half", ["sum", "mean"]).layers["sum"].shape
    (2, 300)
    """
    from anndata import AnnData

    wanted = _functions(func)
    if sum(key is not None for key in (layer, obsm, varm)) > 1:
        raise InputError("more than one of layer, obsm and varm", "one of them")
    turned = _turned(axis, obsm, varm)
    which = "var" if turned else "obs"
    codes, groups = _groups(adata, [by] if isinstance(by, str) else list(by), which, mask)
    options: tuple[Any, ...] = (codes, len(groups), wanted, dof)
    if obsm is None and varm is None:
        x, columns = matrix(adata, layer), slots.in_memory(adata.obs if turned else adata.var)
        layers = aggregates.of_cols(x, *options) if turned else aggregates.of_rows(x, *options)
        layers = {f: values.T for f, values in layers.items()} if turned else layers
    else:
        x, columns = _entry(adata, "varm" if turned else "obsm", varm if turned else obsm)
        layers = aggregates.of_rows(x, *options)
    found = AnnData(layers=layers, obs=groups, var=columns)
    return found.T.copy() if turned else found


def _functions(func: AggType | Iterable[AggType]) -> list[str]:
    wanted: list[str] = [func] if isinstance(func, str) else list(dict.fromkeys(func))
    unknown = [f for f in wanted if f not in FUNCTIONS]
    if unknown or not wanted:
        raise InputError(f"func {_listed(unknown)}", f"some of: {_listed(FUNCTIONS)}")
    return wanted


def _turned(axis: Any, obsm: str | None, varm: str | None) -> bool:
    """Tell whether genes are grouped."""
    numbers = {None: varm is not None, "obs": False, 0: False, "var": True, 1: True}
    if axis not in numbers:
        raise InputError(f"axis={axis!r}", "'obs' (0) or 'var' (1)")
    turned = numbers[axis]
    if (obsm is not None and turned) or (varm is not None and not turned):
        name, fit = ("obsm", "obs") if turned else ("varm", "var")
        raise InputError(f"{name} with axis={axis!r}", f"axis={fit!r}")
    return turned


def _groups(adata: AnnData, by: list[str], axis: str, mask: np.ndarray | str | None) -> tuple[np.ndarray, pd.DataFrame]:
    """Return a code per cell (-1: left out) and a table of the groups: keys and ``n_obs_aggregated``."""
    if not by:
        raise InputError("by is empty", "a column")
    table = pd.DataFrame({key: pd.Categorical(column(adata, key, axis=axis)) for key in by})
    mask = column(adata, mask, axis=axis).to_numpy() if isinstance(mask, str) else mask
    keep = np.ones(len(table), bool) if mask is None else np.asarray(mask)
    if keep.dtype != bool or keep.shape != (len(table),):
        raise InputError(f"mask of type {keep.dtype} and shape {keep.shape}", f"a boolean array ({len(table)},)")
    if not keep.any():
        raise InputError(f"{'no' if mask is None else 'mask keeps no'} {axis} to aggregate", "at least one")
    missing = table.isna().any(axis=1).to_numpy()
    if (missing & keep).any():
        raise InputError(
            f"{(missing & keep).sum()} missing values in {axis}[{_listed(by)}]",
            "a group for each",
            f"leave them out: mask=adata.{axis}[{by[0]!r}].notna().to_numpy()",
        )
    codes = np.full(len(table), -1, np.int32)
    grouped = table[~missing].groupby(by, observed=True, sort=True)
    codes[~missing] = grouped.ngroup()
    groups = grouped.head(1).sort_values(by, kind="stable").reset_index(drop=True)
    groups = groups.apply(lambda c: c.cat.remove_unused_categories())
    groups.index = pd.Index(["_".join(map(str, row)) for row in groups.itertuples(index=False)])
    if groups.index.has_duplicates:
        twice = groups.index[groups.index.duplicated()]
        raise InputError(f"several groups are called {_listed(twice)}", "keys without '_'", "rename the categories")
    codes = np.where(keep, codes, -1).astype(np.int32)
    groups["n_obs_aggregated"] = np.bincount(codes[codes >= 0], minlength=len(groups))
    return codes, groups


def _entry(adata: AnnData, attr: str, key: Any) -> tuple[RowBlocks, pd.DataFrame]:
    """Return an entry of obsm or varm as row blocks, and a table with the names of its columns."""
    entries = getattr(adata, attr)
    if key not in entries:
        raise MissingKeyError(f"no {key!r} in adata.{attr}", f"one of: {_listed(entries)}")
    values = entries[key]
    names_ = values.columns if isinstance(values, pd.DataFrame) else pd.RangeIndex(values.shape[1])
    values = values.to_numpy() if isinstance(values, pd.DataFrame) else values
    return from_array(values), pd.DataFrame(index=names_.astype(str))


def rank_genes_groups_df(
    adata: AnnData,
    group: str | Iterable[str] | None = None,
    *,
    key: str = "rank_genes_groups",
    pval_cutoff: float | None = None,
    log2fc_min: float | None = None,
    log2fc_max: float | None = None,
    gene_symbols: str | None = None,
) -> pd.DataFrame:
    """Return the result of ``tl.rank_genes_groups`` as a table, best gene first.

    Returns
    -------
    Columns ``group`` (if several), ``names``, ``scores``, ``logfoldchanges``, ``pvals``, ``pvals_adj`` and, where
    they were computed, ``pct_nz_group`` and ``pct_nz_reference``. Genes that ``tl.filter_rank_genes_groups`` took out
    (empty names, or NaN where scanpy did) are left out.

    Raises
    ------
    MissingKeyError
        No such result or group, or a cutoff of values that its method does not give.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.normalize_total(adata, target_sum=1e4)
    >>> sd.pp.log1p(adata)
    >>> sd.tl.rank_genes_groups(adata, "true_label")
    >>> sd.get.rank_genes_groups_df(adata, adata.obs["true_label"].cat.categories[0]).shape[0]
    300
    """
    if key not in adata.uns:
        raise MissingKeyError(f"no {key!r} in adata.uns", "a marker table", "tl.rank_genes_groups(adata, groupby)")
    result = adata.uns[key]
    known = list(result["names"].dtype.names)
    groups = known if group is None else [group] if isinstance(group, str) else list(group)
    for g in groups:
        if g not in known:
            raise MissingKeyError(f"no group {g!r} in uns[{key!r}]", f"one of: {_listed(known)}")
    columns = [c for c in ("names", "scores", "logfoldchanges", "pvals", "pvals_adj") if c in result]
    if "pvals" not in columns and any(c is not None for c in (pval_cutoff, log2fc_min, log2fc_max)):
        raise MissingKeyError(f"no p-values or fold changes in uns[{key!r}]", "another method than 'logreg'")
    tables = []
    for g in groups:
        t = pd.DataFrame({c: np.asarray(result[c][g]) for c in columns})
        t = t[t["names"].notna() & (t["names"] != "")]
        t.insert(0, "group", g)
        for name, col in (("pts", "pct_nz_group"), ("pts_rest", "pct_nz_reference")):
            if name in result:
                t[col] = result[name][g].reindex(t["names"]).to_numpy()
        tables.append(t)
    table = pd.concat(tables, ignore_index=True)
    table["group"] = pd.Categorical(table["group"], categories=groups)
    if pval_cutoff is not None:
        table = table[table["pvals_adj"] < pval_cutoff]
    if log2fc_min is not None:
        table = table[table["logfoldchanges"] > log2fc_min]
    if log2fc_max is not None:
        table = table[table["logfoldchanges"] < log2fc_max]
    if gene_symbols is not None:
        table = table.join(slots.load(adata.var, gene_symbols), on="names")
    if len(groups) == 1:
        table = table.drop(columns="group")
    return table.reset_index(drop=True)
