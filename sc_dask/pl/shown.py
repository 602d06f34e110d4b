"""The small AnnData that a plot is drawn from: what it shows, in memory, read in one pass over X."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sc_dask import config, get, slots
from sc_dask.array.engine import run
from sc_dask.errors import MemoryBudgetError, MissingKeyError
from sc_dask.get.columns import blocks_of
from sc_dask.log import logger
from sc_dask.pl import sample
from sc_dask.pl.table import Plot

if TYPE_CHECKING:
    from anndata import AnnData

Given = Mapping[str, Any]  # the arguments of a call, with the defaults of those that are not given

_COPIES = 4  # of the values of genes while scanpy draws: its tables, their masks, and what is drawn
_OF_GROUPS = {"degree_dashed", "degree_solid"}  # colours that pl.paga computes itself


def names_in(value: Any) -> Iterator[str]:
    """Yield every text in a value: itself, or in any nesting of lists, arrays and dicts (whose keys are labels)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from names_in(part)
    elif isinstance(value, list | tuple | Set | pd.Index | pd.Series | np.ndarray) and not _is_numbers(value):
        for part in value:
            yield from names_in(part)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray | pd.Series) and (value.dtype.kind in "biufc" or value.ndim != 1)


def small(adata: AnnData, plot: Plot, given: Given) -> AnnData:
    """Return an AnnData in memory with what a plot shows.

    Its names are resolved as scanpy resolves them. Where no gene is needed, or scanpy will refuse the arguments anyway,
    X is left as it is, and nothing of it is read.

    Raises
    ------
    MissingKeyError
        A name is neither a column nor a gene; nothing was read.
    MemoryBudgetError
        The values of the genes do not fit.
    """
    wanted = _wanted(adata, plot, given)
    edges = plot.obsp and bool(given.get("edges"))
    rows = sample.cells(adata, given.get("groupby")) if plot.sampled and wanted is not None else None
    if rows is not None:
        logger.info("drawing %d of %d cells, evenly spaced in each group", len(rows), adata.n_obs)
    parts = {
        "obs": _obs(adata, plot, given, rows),
        "obsm": _entries(adata.obsm, _is_shown(plot, given), rows),
        "uns": {k: dict(v) if isinstance(v, Mapping) else v for k, v in adata.uns.items()},
    }
    if wanted is None:
        return _shell(adata, parts, edges)
    if wanted.cells is not None:
        return _of_cells(adata, wanted, parts)
    return _of_genes(adata, wanted, parts, rows, edges)


# -- what is wanted ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wanted:
    """Values that are read: places of genes in var and in raw, and of which matrices; or some cells with all genes."""

    var: np.ndarray
    raw: np.ndarray
    matrices: Set[str | None]  # names of layers; None: X
    of_raw: bool
    cells: np.ndarray | None = None


def _wanted(adata: AnnData, plot: Plot, given: Given) -> _Wanted | None:
    matrices = _matrices(adata, plot, given)
    if plot.genes in ("none", "no adata", "own") or matrices is None or not _has_results(adata, plot, given):
        return None
    if plot.genes == "all":
        raw = np.arange(0 if adata.raw is None else len(adata.raw.var_names))
        return _Wanted(np.arange(adata.n_vars), raw, matrices - {"raw"}, "raw" in matrices)
    keys = set(_keys(adata, plot, given))
    columns = set(slots.columns(adata.obs))
    var, raw, names = _places(adata, keys, given.get("gene_symbols"))
    unknown = keys - names - columns
    if unknown and plot.colors:
        unknown = {k for k in unknown if not _is_color(k)} - _OF_GROUPS - set(slots.columns(adata.var))
        cells = np.flatnonzero(get.names(adata, "obs").isin(list(unknown))) if unknown else np.zeros(0, np.int64)
        if len(cells) and not (keys - unknown) & names:
            return _Wanted(np.arange(adata.n_vars), raw, matrices - {"raw"}, False, cells)
    if unknown:
        raise MissingKeyError(
            f"neither columns of obs nor genes: {get.listed(sorted(unknown))}",
            "names of columns, or of genes" + (" of raw" if "raw" in matrices else ""),
            "look into adata.obs.columns and adata.var_names",
        )
    if not (keys & names) - columns:
        return None
    return _Wanted(var, raw, matrices - {"raw"}, "raw" in matrices)


def _places(adata: AnnData, keys: Set[str], symbols: str | None) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """Return the places of named genes in var and raw, and which of the names are of genes."""
    by_symbol: set[str] = set()
    found: set[str] = set()
    places = []
    for table in (adata.var, None if adata.raw is None else adata.raw.var):
        if table is None:
            places.append(np.zeros(0, np.int64))
            continue
        names = slots.names(table)
        here = names.isin(list(keys | by_symbol))
        found |= set(names[here]) & keys
        if symbols is not None and symbols in slots.columns(table):
            alias = pd.Index(slots.load(table, symbols))
            of_alias = alias.isin(list(keys))
            by_symbol |= set(names[of_alias])  # scanpy looks for these names in raw
            found |= set(alias[of_alias])
            here |= of_alias
        places.append(np.flatnonzero(here))
    return places[0], places[1], found


def _is_color(key: str) -> bool:
    from matplotlib.colors import is_color_like

    return bool(is_color_like(key))


def _matrices(adata: AnnData, plot: Plot, given: Given) -> set[str | None] | None:
    """Return which matrices scanpy takes values of genes from (None: X); None where it refuses the arguments."""
    has_raw, use_raw = adata.raw is not None, given.get("use_raw")
    layers = given.get("layer") if "layer" in given else given.get("layers")
    each = list(layers) if isinstance(layers, list | tuple) else list(names_in(layers))  # of x, y and color
    named = {None if k == "X" else k for k in each}
    if plot.genes == "all" and "use_raw" not in given:
        return {None}
    if plot.raw == "there":
        graph = (given.get("paga_graph_params") or {}).get("use_raw", True)
        of: set[str | None] = {"raw"} if has_raw and given.get("use_raw", True) else {None}
        return of if graph else of | {None}
    if plot.raw == "ranked" and use_raw is None and not named:
        table = adata.uns.get(_table_key(given), {})
        use_raw = bool(table.get("params", {}).get("use_raw", False))
    if use_raw is None:
        use_raw = has_raw and (not named or "layers" in given)  # pl.scatter refuses layers beside a raw
    if use_raw and (not has_raw or named - {None}):
        return None
    return {"raw"} if use_raw else named or {None}


def _table_key(given: Given) -> str:
    return given.get("key") or "rank_genes_groups"


def _keys(adata: AnnData, plot: Plot, given: Given) -> Iterator[str]:
    for argument in plot.keys:
        yield from names_in(given.get(argument))
    if plot.genes != "ranked" or any(given.get(argument) is not None for argument in plot.keys):
        return
    table = adata.uns.get(_table_key(given))
    if table is None:
        return
    groups = given.get("groups")
    wanted = list(table["names"].dtype.names) if groups is None else groups
    n_genes = 10 if given.get("n_genes") is None else given["n_genes"]
    for group in [wanted] if isinstance(wanted, str) and plot.raw == "ranked" else wanted:
        if group not in table["names"].dtype.names:
            continue  # scanpy says so
        if plot.raw == "ranked":
            yield from names_in(list(table["names"][group][:n_genes]))
            continue
        symbols = given.get("gene_symbols")
        best = get.rank_genes_groups_df(
            adata, group, key=_table_key(given), gene_symbols=symbols, log2fc_min=given.get("min_logfoldchange")
        )
        genes = best[symbols or "names"].dropna().tolist()
        yield from names_in(genes[n_genes:] if n_genes < 0 else genes[:n_genes])


def _bases(plot: Plot, given: Given) -> list[str]:
    asked = given.get(plot.basis) if plot.basis is not None else None
    return list(plot.bases) if asked is None else [str(asked)]


def _has_results(adata: AnnData, plot: Plot, given: Given) -> bool:
    """Tell whether positions and results are there; without them scanpy raises its error before it looks at genes."""
    wanted = [_table_key(given)] if plot.genes == "ranked" else plot.uns
    bases = _bases(plot, given)
    return all(key in adata.uns for key in wanted) and (not bases or any(_is_basis(k, bases) for k in adata.obsm))


def _is_basis(key: str, bases: list[str]) -> bool:
    patterns = [re.escape(b).replace(r"\{\}", ".+") for b in bases]
    return any(re.fullmatch(f"(X_)?{pattern}", key) for pattern in patterns)


def _is_shown(plot: Plot, given: Given) -> Any:
    """Return a function that tells which keys of obsm are read, where they are lazy."""
    bases = _bases(plot, given)
    arrows = [f"{what}_{basis}" for what in ("velocity", "Delta") for basis in bases] if given.get("arrows") else []
    return lambda key: _is_basis(key, [*bases, *arrows])


# -- parts ---------------------------------------------------------------------------------------


def _obs(adata: AnnData, plot: Plot, given: Given, rows: np.ndarray | None) -> pd.DataFrame:
    """Return obs; of a lazy one the columns that the call names, and those that the plot reads by itself."""
    obs = adata.obs
    if slots.is_lazy(obs):
        named = {name for value in given.values() for name in names_in(value)}
        own = [re.escape(column).replace(r"\{\}", ".+") for column in (*plot.obs, *_stored_columns(adata, given))]
        columns = [c for c in slots.columns(obs) if c in named or any(re.fullmatch(pattern, str(c)) for pattern in own)]
        obs = pd.DataFrame({c: slots.load(obs, c) for c in columns}, index=slots.names(obs))
    else:
        obs = pd.DataFrame(obs)
    return obs if rows is None else obs.iloc[rows]


def _stored_columns(adata: AnnData, given: Given) -> Iterator[str]:
    """Yield columns of obs that results in uns name: what they were made of."""
    uns = adata.uns
    places = ((_table_key(given), ("params", "groupby")), ("paga", ("groups",)), ("scrublet", ("batched_by",)))
    for key, where in places:
        found = uns.get(key)
        for step in where:
            found = found.get(step) if isinstance(found, Mapping) else None
        if found is not None:
            yield str(found)
    for key, value in uns.items():
        if key.endswith("_density_params") or re.search(r"_density_.+_params$", key):
            yield str(value.get("covariate"))


def _entries(table: Any, is_shown: Any, rows: np.ndarray | None = None) -> dict[str, Any]:
    """Return what is in memory of obsm and its like, and of what is lazy the shown keys, read."""
    out = {}
    for key in table:
        value = table[key]
        if not get.is_held(value):
            if not is_shown(key):
                continue
            value = run.materialise(blocks_of(value)) if hasattr(value, "dask") else slots.in_memory(value)
        out[key] = value if rows is None else value.iloc[rows] if isinstance(value, pd.DataFrame) else value[rows]
    return out


def _made(**parts: Any) -> AnnData:
    from anndata import AnnData

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
        return AnnData(**parts)


def _shell(adata: AnnData, parts: dict[str, Any], edges: bool) -> AnnData:
    """Return everything but values: X stays as it is, lazy."""
    raw = adata.raw
    return _made(
        X=None if adata.isbacked else adata.X,
        var=pd.DataFrame(slots.in_memory(adata.var)),
        varm=_entries(adata.varm, lambda key: True),
        obsp=_entries(adata.obsp, lambda key: edges),
        raw=None if raw is None or adata.isbacked else {"X": raw.X, "var": slots.in_memory(raw.var)},
        **parts,
    )


def _of_genes(adata: AnnData, wanted: _Wanted, parts: dict[str, Any], rows: np.ndarray | None, edges: bool) -> AnnData:
    """Return the cells with some genes; what is not read is absent, or NaN where it must have a shape."""
    n_obs = len(parts["obs"])
    check_room(n_obs, len(wanted.raw) if wanted.of_raw else len(wanted.var), len(wanted.matrices) + wanted.of_raw)
    read = {k: get.gene_values(adata, wanted.var, layer=k, rows=rows) for k in wanted.matrices}
    raw = None
    if adata.raw is not None:
        x = np.broadcast_to(np.float32(np.nan), (n_obs, len(wanted.raw)))
        if wanted.of_raw:
            x = get.gene_values(adata, wanted.raw, use_raw=True, rows=rows)
        raw = {"X": x, "var": slots.in_memory(adata.raw.var).iloc[wanted.raw]}
    return _made(
        X=read.pop(None, None),
        layers=read,
        var=pd.DataFrame(slots.in_memory(adata.var)).iloc[wanted.var],
        obsp=_entries(adata.obsp, lambda key: edges) if rows is None else {},
        raw=raw,
        **parts,
    )


def _of_cells(adata: AnnData, wanted: _Wanted, parts: dict[str, Any]) -> AnnData:
    """Return some cells with all genes: `pl.scatter` of two cells."""
    check_room(len(wanted.cells), adata.n_vars, len(wanted.matrices))  # type: ignore[arg-type]
    read = {k: get.gene_values(adata, wanted.var, layer=k, rows=wanted.cells) for k in wanted.matrices}
    parts = parts | {"obs": parts["obs"].iloc[wanted.cells], "obsm": {}}
    return _made(X=read.pop(None, None), layers=read, var=pd.DataFrame(slots.in_memory(adata.var)), **parts)


def check_room(n_obs: int, n_genes: int, n_matrices: int) -> None:
    """Refuse values of genes that do not fit in memory while they are drawn."""
    needed, room = _COPIES * 4 * n_obs * n_genes * n_matrices, config.room()
    if needed > room:
        raise MemoryBudgetError(
            f"found {n_genes:,} genes of {n_obs:,} cells, which take about {needed / 2**30:.1f} GiB to draw",
            f"at most {room / 2**30:.1f} GiB",
            "draw fewer genes, or a sample: sd.pp.sample(adata, n=100_000)",
        )
