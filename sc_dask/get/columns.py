"""X, columns and tables of an AnnData, as the rest of the package takes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp

from sc_dask import slots
from sc_dask.array.blocks import RowBlocks, collect_rows, from_array
from sc_dask.array.engine import batch, run
from sc_dask.array.gene_major import genes as gene_major
from sc_dask.array.source import MemorySource
from sc_dask.errors import BackedError, InputError, MissingKeyError
from sc_dask.groups import Groups, Name, of_column
from sc_dask.kernels.csr import to_dense
from sc_dask.outside.anndata import named_layers

if TYPE_CHECKING:
    from anndata import AnnData


_ROWS = 10_000  # of a backed X, read together


def listed(names: Iterable[Any], n: int = 8) -> str:
    """Return the first names, for a message."""
    names = [str(x) for x in names]
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "") if names else "nothing"


def in_memory(value: Any) -> np.ndarray:
    """Return an element of obsm as an ndarray, whatever holds it."""
    return value.toarray() if sp.issparse(value) else np.asarray(value)


def stored(adata: AnnData, layer: str | None = None, *, use_raw: bool = False) -> Any:
    """Return X, a layer or raw X as it is stored (array, sparse matrix or lazy)."""
    if use_raw:
        if adata.raw is None:
            raise MissingKeyError("use_raw=True but adata.raw is not set", "adata.raw", "adata.raw = adata")
        if layer is not None:
            raise InputError("both use_raw=True and a layer were given", "one of them")
        return adata.raw.X
    if layer is not None and layer not in adata.layers:
        raise MissingKeyError(f"no layer {layer!r}", f"one of: {listed(k for k, _ in named_layers(adata))}")
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
    blocks = blocks_of(stored(adata, layer, use_raw=use_raw))
    mask = var_mask(adata, mask_var)
    return blocks if mask is None else blocks.select_columns(np.flatnonzero(mask))


def blocks_of(x: Any) -> RowBlocks:
    """Return a matrix as lazy row blocks, whatever it is stored as; nothing is read."""
    if not isinstance(x, np.ndarray | da.Array) and not sp.issparse(x):
        raise BackedError(
            f"a matrix of type {type(x).__name__}",
            "an ndarray, a scipy sparse matrix or a Dask array",
            "read the file with sd.read(path) instead of backed mode",
        )
    return from_array(np.asarray(x) if isinstance(x, np.ndarray) and type(x) is not np.ndarray else x)


def var_mask(adata: AnnData, mask_var: np.ndarray | str | None) -> np.ndarray | None:
    """Return a boolean mask (n_vars,) from an array or a column name; None stays None."""
    if mask_var is None:
        return None
    if isinstance(mask_var, str):
        if mask_var not in slots.columns(adata.var):
            raise MissingKeyError(
                f"no column {mask_var!r} in adata.var",
                f"one of: {listed(slots.columns(adata.var))}",
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
        raise MissingKeyError(f"no column {key!r} in adata.{axis}", f"one of: {listed(slots.columns(table))}")
    return slots.load(table, key)


def names(adata: AnnData, axis: str = "obs", *, use_raw: bool = False) -> pd.Index:
    """Return the names of the cells (``axis="obs"``) or the genes (``"var"``; with ``use_raw`` those of raw)."""
    return slots.names(adata.raw.var if use_raw else adata.obs if axis == "obs" else adata.var)


def groups(adata: AnnData, key: str, *, axis: str = "obs", **choices: Any) -> Groups:
    """Return the groups of a column of obs or var; `sc_dask.groups.of_column` tells the rules and the choices."""
    table = adata.obs if axis == "obs" else adata.var
    return of_column(column(adata, key, axis=axis), Name(key, axis, slots.is_lazy(table)), **choices)


def text_as_category(adata: AnnData, key: str) -> dict[tuple[str, str], Any]:
    """Return a column of obs that holds text as the category that scanpy makes of it, to be written; else nothing.

    Not in a batch, where another call may read the column.
    """
    if batch.participant() is not None:
        return {}
    values = column(adata, key)
    if pd.api.types.infer_dtype(values, skipna=True) != "string":
        return {}
    found = groups(adata, key, missing="drop", order="natural", max_groups=None)
    if len(found) >= len(values):
        return {}
    # AnnData names categories by a list, so that pandas chooses their type, whatever the type of the column
    return {("obs", key): pd.Categorical.from_codes(found.codes, pd.Index(found.names))}


def batches(adata: AnnData, batch_key: str | None) -> tuple[np.ndarray | None, list[Any]]:
    """Return the codes (int32, n_obs) and names of the batches; one batch without a key."""
    if batch_key is None:
        return None, [None]
    found = groups(adata, batch_key, missing="refuse")
    return found.codes, list(found.names)


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
        Pairs of an obsm key and a column number (of a table: a column's name, or its number).
    layer, use_raw
        Where the values of genes come from.

    Returns
    -------
    Table (n_obs, n_keys), index obs_names. Passes: 1 over X if a gene is asked for, else 0.

    Raises
    ------
    MissingKeyError
        A key is neither a column nor a gene, or is both, or a gene of several.

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
    genes, positions = _positions(list(dict.fromkeys(keys)), columns, names, ("obs", "gene"))
    out = {}
    if genes:
        values = gene_values(adata, np.array(positions), layer=layer, use_raw=use_raw)
        out = {g: values[:, i] for i, g in enumerate(genes)}
    values_of = {k: slots.load(adata.obs, k) if k in columns else out[k] for k in keys}
    table = pd.DataFrame(values_of, index=slots.names(adata.obs))
    table = table[keys]  # a key that is asked for twice gives two columns
    for key, i in obsm_keys:
        table[f"{key}-{i}"] = _embedding_column(adata, "obsm", key, i)
    return table


def var_df(
    adata: AnnData,
    keys: Collection[str] = (),
    varm_keys: Iterable[tuple[str, int]] = (),
    *,
    layer: str | None = None,
) -> pd.DataFrame:
    """Return values of genes: columns of var, cells, and columns of varm, as a table.

    Parameters
    ----------
    adata
        Annotated matrix; X may be lazy.
    keys
        Columns of var, or cells (of obs_names).
    varm_keys
        Pairs of a varm key and a column number.
    layer
        Where the values of cells come from; None: X.

    Returns
    -------
    Table (n_vars, n_keys), index var_names. Passes: only the blocks of the cells that are asked for.

    Raises
    ------
    MissingKeyError
        A key is neither a column nor a cell, or is both, or a cell of several.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.get.var_df(adata, [adata.obs_names[0]]).shape
    (300, 1)
    """
    keys = [keys] if isinstance(keys, str) else list(keys)
    columns = slots.columns(adata.var)
    cells, positions = _positions(list(dict.fromkeys(keys)), columns, slots.names(adata.obs), ("var", "cell"))
    out = {}
    if cells:
        order = np.argsort(positions)
        x = blocks_of(stored(adata, layer)).select_rows(np.array(positions)[order])
        values = in_memory(run.materialise(x))
        out = {cells[at]: values[i] for i, at in enumerate(order)}
    values_of = {k: slots.load(adata.var, k) if k in columns else out[k] for k in keys}
    table = pd.DataFrame(values_of, index=slots.names(adata.var))[keys]
    for key, i in varm_keys:
        table[f"{key}-{i}"] = _embedding_column(adata, "varm", key, i)
    return table


def _positions(
    keys: list[str], columns: Collection[str], names: pd.Index, said: tuple[str, str]
) -> tuple[list[str], list[int]]:
    """Return the keys that are genes (or cells), and their places; ``said`` is the table and what a name is."""
    table, what = said
    genes: list[str] = []
    missing: list[str] = []
    for key in keys:
        if key in columns and key in names:
            raise MissingKeyError(
                f"{key!r} is both a column of {table} and a {what}", "an unambiguous key", "rename the column"
            )
        if key not in columns:
            (genes if key in names else missing).append(key)
    if missing:
        raise MissingKeyError(
            f"neither columns of {table} nor {what}s: {listed(missing)}", f"keys of {table} or {what} names"
        )
    positions = [np.atleast_1d(np.flatnonzero(names == g)) for g in genes]
    twice = [g for g, at in zip(genes, positions, strict=True) if len(at) > 1]
    if twice:
        axis = "var" if what == "gene" else "obs"
        raise MissingKeyError(
            f"{listed(twice)} occurs more than once", "unique names", f"adata.{axis}_names_make_unique()"
        )
    return genes, [int(at[0]) for at in positions]


def gene_values(
    adata: AnnData,
    positions: np.ndarray,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Return the values of some genes (n_obs or n_rows, n_genes), dense.

    1 pass over X, or over the rows; none where there is a gene-major copy. X of a backed AnnData is read row by row,
    too.
    """
    x = stored(adata, layer, use_raw=use_raw)
    if adata.isbacked and not isinstance(x, np.ndarray | da.Array) and not sp.issparse(x):
        starts = range(0, max(x.shape[0], 1), _ROWS)
        values = np.concatenate([in_memory(x[start : start + _ROWS][:, positions]) for start in starts])
        return values if rows is None else values[rows]
    blocks = blocks_of(x)
    if not isinstance(blocks.expression.source, MemorySource) and gene_major.is_made(blocks):
        cols, back = np.unique(positions, return_inverse=True)
        values = gene_major.map_cols(_dense_genes, blocks, cols, label="genes")[back].T
        return values if rows is None else values[rows]
    blocks = blocks if rows is None else blocks.select_rows(rows)
    return run.compute(collect_rows(to_dense, blocks.select_columns(positions), dtype=None), label="genes")


def _dense_genes(tile: sp.csc_matrix) -> np.ndarray:
    return tile.T.toarray()


def _embedding_column(adata: AnnData, slot: str, key: str, i: Any) -> Any:
    """Return a column of an element of obsm or varm; that of a table by its name, or by its number."""
    held = getattr(adata, slot)
    if key not in held:
        raise MissingKeyError(f"no {key!r} in adata.{slot}", f"one of: {listed(held)}")
    values = held[key]
    if isinstance(values, pd.DataFrame):
        if i not in values and not isinstance(i, int | np.integer):
            raise MissingKeyError(f"no column {i!r} in {slot}[{key!r}]", f"one of: {listed(values)}")
        return values[i] if i in values else values.iloc[:, i]
    return in_memory(values[:, [i]])[:, 0]


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
            raise MissingKeyError(f"no group {g!r} in uns[{key!r}]", f"one of: {listed(known)}")
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
