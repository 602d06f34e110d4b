"""``sd.concat``: the cells of many AnnData below each other, or their genes beside each other.

AnnData's own ``concat`` does everything that is small (obs, var, obsm, varm, obsp, uns), on shells without matrices; so
its rules are kept whatever they are. X, layers and raw.X are stacked lazily (`sc_dask.array.concat`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, TypeAlias

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.experimental.backed import Dataset2D
from xarray import Dataset

from sc_dask.array import beside
from sc_dask.array import concat as stacked
from sc_dask.array.blocks import RowBlocks, from_array
from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.io.blobs.store import Location, quiet
from sc_dask.io.read import read
from sc_dask.outside.anndata import named_layers
from sc_dask.slots import Column, HeldColumn, columns, is_lazy, lazy_variable, load, names

Merge = Literal["same", "unique", "first", "only"] | Callable[..., Any] | None
Item: TypeAlias = AnnData | str | os.PathLike[str] | Location


@quiet()
def concat(
    adatas: Iterable[Item] | Mapping[str, Item],
    *,
    axis: Literal["obs", "var", 0, 1] = "obs",
    join: Literal["inner", "outer"] = "inner",
    merge: Merge = None,
    uns_merge: Merge = None,
    label: str | None = None,
    keys: Iterable[Any] | None = None,
    index_unique: str | None = None,
    fill_value: float | None = None,
    pairwise: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> AnnData:
    """Concatenate AnnData along the cells or the genes as ``anndata.concat`` does, and read nothing of any X.

    X, layers and raw.X of the result are lazy: their blocks stay where they are, in files of any format, in memory, or
    behind steps and picks, and are brought to the common genes inside the task that reads them. ``sd.write`` writes
    the result in parallel.

    Parameters
    ----------
    adatas
        AnnData, lazy (``sd.read``) or in memory, or paths and URLs that ``sd.read`` opens; a mapping gives the keys.
        Matrices in memory are used, not copied.
    axis
        ``"obs"``: cells below each other; ``"var"``: genes beside each other, of the same cells.
    join
        Genes (and layers, columns of obs, keys of obsm) that all have, ``"inner"``, or that any has, ``"outer"``. With
        ``axis="var"`` cells, and columns of var. A lazy X must have its cells in the order of the first AnnData.
    merge, uns_merge
        Which columns of var, elements of varm and varp (with ``axis="var"`` of obs, obsm, obsp), and of uns are
        kept: None (none), ``"same"``, ``"unique"``,
        ``"first"``, ``"only"``, or a function of a list of mappings.
    label
        Name of a categorical column of obs (of var) that tells where a cell (a gene) comes from, by ``keys``.
    keys
        One name for each; default ``"0"``, ``"1"``, ...
    index_unique
        Joins names of cells (of genes) and keys: ``"-"`` makes ``AAAC-0``. None leaves the names.
    fill_value
        What stands where genes or layers are missing; None: 0 if any of the matrices is sparse, else NaN.
    pairwise
        Keep obsp, as blocks on the diagonal.
    storage_options
        For paths that are URLs.

    Returns
    -------
    AnnData with lazy X, layers and raw.X: csr if any part is, of the type that numpy promotes to.

    Passes: none. Memory: obs, var and the small elements of all. If every obs is lazy, that of the result is, and its
    columns are read from the files when they are used; otherwise it is in memory, as var always is.

    Raises
    ------
    InputError
        Nothing to concatenate, unknown words, repeated gene names or keys, only some have X, or an X
        is a Dask graph made elsewhere.

    Examples
    --------
    >>> import anndata as ad, numpy as np, sc_dask as sd
    >>> parts = {k: ad.AnnData(np.eye(3, dtype=np.float32)) for k in "ab"}
    >>> both = sd.concat(parts, label="sample", index_unique="-")
    >>> both.shape, both.obs_names[3], list(both.obs["sample"].cat.categories)
    ((6, 3), '0-b', ['a', 'b'])
    """
    given, keys = _keyed(adatas, keys)
    _check_words(axis, join, merge, uns_merge, fill_value)
    if storage_options and not any(_is_url(a) for a in given):
        raise InputError("found storage_options and no URL", "a URL among the paths", "leave storage_options out")
    opened = [_opened(a, k, storage_options) for a, k in zip(given, keys, strict=True)]
    along = "var" if axis in ("var", 1) else "obs"
    _check_parts(opened, keys, along)
    options: dict[str, Any] = {"merge": merge, "uns_merge": uns_merge, "label": label, "index_unique": index_unique}
    options |= {"join": join, "keys": keys, "pairwise": pairwise, "fill_value": fill_value}
    if along == "var":
        return _beside(opened, options)
    small = _small(opened, **options)
    genes = [names(a.var) for a in opened]
    slots = {s: dict(getattr(small, s)) for s in ("obsm", "varm", "obsp", "varp", "uns")}
    return AnnData(
        X=_stack([a.X for a in opened], opened, genes, small.var_names, fill_value),
        obs=_lazy_obs(opened, small.obs, join) if _all_lazy(opened) else small.obs,
        var=small.var,
        layers={
            k: _stack([a.layers.get(k) for a in opened], opened, genes, small.var_names, fill_value)
            for k in _layers(opened, join)
        },
        raw=_raw(opened, join, fill_value),
        **slots,
    )


# -- what comes in -------------------------------------------------------------------------------


def _keyed(adatas: Any, keys: Iterable[Any] | None) -> tuple[list[Any], list[Any]]:
    if isinstance(adatas, Mapping):
        if keys is not None:
            raise InputError("found keys together with a mapping, which has its own", "one of them", "leave keys out")
        keys, adatas = list(adatas.keys()), list(adatas.values())
    elif isinstance(adatas, AnnData | str | os.PathLike | Location):
        raise InputError(f"found one {type(adatas).__name__}", "a list or mapping of several", "sd.concat([a, b])")
    given = list(adatas)
    if not given:
        raise InputError("found nothing to concatenate", "at least one AnnData or path")
    names_of = [str(i) for i in range(len(given))] if keys is None else list(keys)
    if len(names_of) != len(given) or len(set(names_of)) < len(names_of):
        raise InputError(f"found the keys {names_of!r} for {len(given)} AnnData", "one for each, all different")
    return given, names_of


def _check_words(axis: Any, join: Any, merge: Any, uns_merge: Any, fill_value: Any) -> None:
    if axis not in ("obs", "var", 0, 1):
        raise InputError(f"found axis={axis!r}", "'obs' or 'var'")
    if join not in ("inner", "outer"):
        raise InputError(f"found join={join!r}", "'inner' or 'outer'")
    for word, value in (("merge", merge), ("uns_merge", uns_merge)):
        if value not in (None, "same", "unique", "first", "only") and not callable(value):
            raise InputError(f"found {word}={value!r}", "None, 'same', 'unique', 'first', 'only' or a function")
    if fill_value is not None and not isinstance(fill_value, int | float | np.number):
        raise InputError(f"found fill_value={fill_value!r}", "a number or None")


def _opened(item: Item, key: Any, storage_options: Mapping[str, Any] | None) -> AnnData:
    if isinstance(item, AnnData):
        if item.isbacked:
            raise InputError(
                f"{key!r} is backed by {item.filename}",
                "an AnnData in memory or lazy",
                f"sd.read({str(item.filename)!r})",
            )
        return item
    if not isinstance(item, str | os.PathLike | Location):
        raise InputError(f"found a {type(item).__name__} as {key!r}", "an AnnData, or a path or URL of one")
    return read(item, storage_options=storage_options if _is_url(item) else None)


def _is_url(item: Any) -> bool:
    return isinstance(item, str | os.PathLike) and not Location.parse(item).is_local


def _check_parts(opened: list[AnnData], keys: list[Any], along: str) -> None:
    other, what = ("obs", "cell") if along == "var" else ("var", "gene")
    all_equal = along == "var" and all(names(a.obs).equals(names(opened[0].obs)) for a in opened)
    for a, key in zip(opened, keys, strict=True):
        found = names(getattr(a, other))
        if not found.is_unique and not all_equal:
            twice = found[found.duplicated()][0]
            raise InputError(
                f"{other}_names of {key!r} repeat {str(twice)!r}",
                f"unique {what} names",
                f"adata.{other}_names_make_unique()",
            )
    lacking = [k for a, k in zip(opened, keys, strict=True) if a.X is None]
    if 0 < len(lacking) < len(opened):
        raise InputError(f"{lacking[0]!r} has no X and others have one", "an X in all or in none", "set adata.X")


# -- what is small -------------------------------------------------------------------------------


def _all_lazy(opened: list[AnnData]) -> bool:
    return all(is_lazy(a.obs) for a in opened)


def _table(table: Any, keys: list[str]) -> pd.DataFrame:
    """Return columns of a table, in memory or lazy, as a table in memory."""
    if not is_lazy(table):
        return table[keys]
    return pd.DataFrame({k: load(table, k) for k in keys}, index=names(table))


def _shell(adata: AnnData, obs_keys: list[str]) -> AnnData:
    """Return an AnnData without its matrices, with some columns of obs."""
    slots = {s: dict(getattr(adata, s)) for s in ("obsm", "varm", "obsp", "varp", "uns")}
    return AnnData(obs=_table(adata.obs, obs_keys), var=_table(adata.var, columns(adata.var)), **slots)


def _small(opened: list[AnnData], **options: Any) -> AnnData:
    """Concatenate all but the matrices and a lazy obs; names that repeat are told of once, by the result."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        shells = [_shell(a, [] if _all_lazy(opened) else columns(a.obs)) for a in opened]
        return anndata.concat(shells, axis="obs", **options)


class JoinedColumn(Column):
    """A column of many lazy tables below each other; a table without it counts as missing values."""

    def __init__(self, tables: list[Any], key: str) -> None:
        self._tables, self._key = tables, key
        self.shape = (sum(len(names(t)) for t in tables),)

    def values(self) -> Any:
        """Read the column of every table and join them as AnnData does."""
        return self._joined([_table(t, [k for k in columns(t) if k == self._key]) for t in self._tables])

    @cached_property
    def dtype(self) -> Any:
        """The type of the column; reads what the types of its parts need."""
        one = pd.RangeIndex(1)
        parts = []
        for t in self._tables:
            dtype = t.ds.variables[self._key].dtype if self._key in columns(t) else None
            fill = 0 if isinstance(dtype, np.dtype) and dtype.kind in "biu" else None
            parts.append(pd.DataFrame({} if dtype is None else {self._key: pd.Series(fill, one, dtype)}, one))
        found = self._joined(parts).dtype
        return np.dtype(object) if isinstance(found, pd.StringDtype) else found

    def _joined(self, parts: list[pd.DataFrame]) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Observation names are not unique|Transforming to str index)")
            column = anndata.concat([AnnData(obs=p) for p in parts], join="outer").obs[self._key]
        return column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array


def _lazy_obs(opened: list[AnnData], obs: pd.DataFrame, join: str) -> Dataset2D:
    """Return a lazy obs: the columns that all (or any) have, those of ``obs``, and its names."""
    tables = [a.obs for a in opened]
    every = list(dict.fromkeys(k for t in tables for k in columns(t)))
    kept = every if join == "outer" else [k for k in every if all(k in columns(t) for t in tables)]
    dim = "_index" if "_index" not in kept else "_names"
    found: dict[str, Column] = {k: JoinedColumn(tables, k) for k in kept if k not in obs}
    found |= {str(k): HeldColumn(obs[k].array) for k in obs}  # the label
    table = Dataset2D(Dataset({k: lazy_variable(dim, c) for k, c in found.items()}, coords={dim: obs.index}))
    table.is_backed = True
    return table


# -- beside each other ---------------------------------------------------------------------------


def _beside(opened: list[AnnData], options: dict[str, Any]) -> AnnData:
    """Concatenate along the genes: what is small by AnnData, X and layers lazily."""
    join, fill_value = options["join"], options["fill_value"]
    # without a rule for what all cells have, none of it is kept
    shells = [_shell(a, [] if options["merge"] is None else columns(a.obs)) for a in opened]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variable names are not unique")
        small = anndata.concat(shells, axis="var", **options)
    cells = [names(a.obs) for a in opened]
    if any(a.raw is not None for a in opened):
        warnings.warn(ScDaskWarning("raw is left out: with axis='var' there is no raw of the result"), stacklevel=4)
    slots = {s: dict(getattr(small, s)) for s in ("obsm", "varm", "obsp", "varp", "uns")}
    return AnnData(
        X=_side_by_side([a.X for a in opened], opened, cells, small.obs_names, fill_value),
        obs=small.obs,
        var=small.var,
        layers={
            k: _side_by_side([a.layers.get(k) for a in opened], opened, cells, small.obs_names, fill_value)
            for k in _layers(opened, join)
        },
        **slots,
    )


def _side_by_side(
    matrices: list[Any], opened: list[AnnData], cells: list[pd.Index], wanted: pd.Index, fill_value: float | None
) -> RowBlocks | None:
    """Put X or a layer beside each other; None where there is no matrix at all."""
    if all(m is None for m in matrices):
        return None
    parts = _parts(matrices, [a.n_vars for a in opened], cells, wanted)
    return beside.concat([beside.Part(*part) for part in parts], len(wanted), fill=fill_value)


def _parts(
    matrices: list[Any], sizes: list[int], names_of: list[pd.Index], wanted: pd.Index
) -> Iterator[tuple[RowBlocks | None, int, np.ndarray | None]]:
    """Yield each matrix, its size along the axis, and where the wanted names are on the other (None: as they are)."""
    for m, size, own in zip(matrices, sizes, names_of, strict=True):
        at = None if own.equals(wanted) else own.get_indexer(wanted).astype(np.int64)
        yield None if m is None else from_array(m), size, at


# -- what is large -------------------------------------------------------------------------------


def _layers(opened: list[AnnData], join: str) -> list[str]:
    every = list(dict.fromkeys(k for a in opened for k, _ in named_layers(a)))
    return every if join == "outer" else [k for k in every if all(k in a.layers for a in opened)]


def _stack(
    matrices: list[Any],
    opened: list[AnnData],
    genes: list[pd.Index],
    wanted: pd.Index,
    fill_value: float | None,
) -> RowBlocks | None:
    """Stack X or a layer; None where there is no matrix at all."""
    if all(m is None for m in matrices):
        return None
    parts = _parts(matrices, [a.n_obs for a in opened], genes, wanted)
    return stacked.concat([stacked.Part(*part) for part in parts], len(wanted), fill=fill_value)


def _raw(opened: list[AnnData], join: str, fill_value: float | None) -> dict[str, Any] | None:
    has = [a.raw is not None for a in opened]
    if not all(has):
        if any(has):
            warnings.warn(ScDaskWarning("only some AnnData have raw: the result has none"), stacklevel=4)
        return None
    raws = [a.raw for a in opened]
    shells = [AnnData(obs=pd.DataFrame(index=names(a.obs)), var=a.raw.var, varm=dict(a.raw.varm)) for a in opened]
    small = _small(shells, join=join)
    genes = [r.var_names for r in raws]
    x = _stack([r.X for r in raws], opened, genes, small.var_names, fill_value)
    return {"X": x, "var": small.var, "varm": dict(small.varm)}
