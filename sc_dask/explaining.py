"""What a call will cost, before it runs."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp
from dask.base import is_dask_collection
from pandas.api.types import is_numeric_dtype

from sc_dask import config, get, slots
from sc_dask.array import spill
from sc_dask.array.blocks import from_array
from sc_dask.array.engine import run, segments
from sc_dask.array.gene_major import genes
from sc_dask.array.logistic import in_memory_bytes
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.get.columns import listed
from sc_dask.io.write import write
from sc_dask.kernels.compiled import are_compiled
from sc_dask.price import MIB, Size, price_of, readable

if TYPE_CHECKING:
    from anndata import AnnData

    from sc_dask.array.blocks import RowBlocks

MODULES = ("pp", "tl")
_MARGIN = 1.06
_READING, _COMPILING = 55 * MIB, 130 * MIB  # code of a pass; of kernels that are compiled for the first time


@dataclass(frozen=True)
class Explanation:
    """What a call costs.

    Parameters
    ----------
    function
        Its name, ``pp.pca``.
    passes
        How often each row of X is read, at most.
    bytes_read
        Bytes that are read from storage for that; None where the size on disk is not known.
    tasks
        Tasks of the Dask graphs of these passes.
    memory
        Bytes that the call takes at its peak, above ``held``.
    held
        Bytes that this process holds now.
    kept
        Bytes of the results that stay.
    budget
        The option ``sc-dask.memory``; None: there is none.
    writes
        Slots that it may write, ``obsm['X_pca']``; ``*`` stands for a name that the arguments decide.
    """

    function: str
    passes: int
    bytes_read: int | None
    tasks: int
    memory: int
    held: int
    kept: int
    budget: int | None
    writes: tuple[str, ...]

    @property
    def peak(self) -> int:
        """Bytes of this process at the peak of the call."""
        return self.held + self.memory

    def __str__(self) -> str:
        read = "" if self.bytes_read is None or not self.passes else f", {readable(self.bytes_read)} from storage"
        lines = [f"sc_dask.{self.function}", f"passes over X   {self.passes}{read}"]
        if self.passes:
            lines.append(f"tasks           {self.tasks:,}")
        memory, held, peak = (readable(n) for n in (self.memory, self.held, self.peak))
        lines.append(f"memory          {memory} beside {held} now: {peak} at the peak")
        if self.budget is not None:
            fits = "fits" if self.peak <= self.budget else "DOES NOT FIT"
            lines[-1] += f"; {fits} the budget of {readable(self.budget)} (sc-dask.memory)"
        lines.append(f"stays           {readable(self.kept)}")
        if self.writes:
            text = f"may write       {', '.join(self.writes)}"
            lines += textwrap.wrap(text, 100, subsequent_indent=" " * 16, break_on_hyphens=False)
        return "\n".join(lines)

    __repr__ = __str__


def explain(adata: AnnData, function: str, /, **arguments: Any) -> Explanation:
    """Say what a call will cost before it runs: passes over X, bytes read, tasks, memory; nothing of X is read.

    Parameters
    ----------
    adata
        Annotated matrix, in memory or lazy.
    function
        Name of a public function: ``"pp.pca"``, ``"tl.rank_genes_groups"``, ``"write"``, with or without ``sc_dask.``
        before it.
    **arguments
        The arguments of the call, as the function takes them.

    Returns
    -------
    Explanation, with ``passes``, ``bytes_read``, ``tasks``, ``memory``, ``held``, ``peak``, ``kept`` and ``writes``;
    printed, it is a short table. Memory is meant from above (docs/decisions/071).

    Passes: 0. Memory: none; of a csc X in memory its rows.

    Raises
    ------
    InputError
        There is no such function, or it does not take these arguments.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.explain(adata, "pp.calculate_qc_metrics", inplace=True).passes
    1
    >>> sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    >>> sd.explain(adata, "pp.filter_cells", min_genes=10).passes
    0
    """
    name = function.removeprefix("sc_dask.").removeprefix("sd.").removeprefix("sc.")
    called = _function(name, function)
    try:
        bound = inspect.signature(called).bind(adata, **arguments)
    except TypeError as err:
        raise InputError(f"{name}: {err}", "arguments that it takes", f"help(sc_dask.{name})") from None
    bound.apply_defaults()
    given = dict(list(bound.arguments.items())[1:])
    given |= given.pop("kwds", None) or {}
    size, stored = size_of(adata, given)
    price = price_of(called, size, **given)
    n_blocks = max(1, -(-size.decoded // max(1, size.block)))
    tasks = price.passes * (2 * len(segments.cut(n_blocks)) - 1)
    code = price.code + (_READING if price.passes else 0) + (0 if are_compiled() else _COMPILING)
    memory = int(_MARGIN * price.memory) + code
    writes = tuple(dict.fromkeys(_named(s.attr, s.key) for s in slots.of(name)))
    return Explanation(
        function=name,
        passes=price.passes,
        bytes_read=None if stored is None else price.passes * stored,
        tasks=tasks,
        memory=memory,
        held=psutil.Process().memory_info().rss,
        kept=price.kept,
        budget=config.n_bytes("memory"),
        writes=writes,
    )


def _named(attr: str, key: str) -> str:
    return f"{attr}[{key.replace('{}', '*')!r}]" if key else attr


def _function(name: str, asked: str) -> Any:
    if name == "write":
        return write
    module, _, function = name.partition(".")
    known = importlib.import_module(f"sc_dask.{module}").__all__ if module in MODULES else []
    if function not in known:
        raise InputError(
            f"found no function {asked!r}",
            f"'pp.' or 'tl.' and one of: {listed(known)}" if known else "a name such as 'pp.pca' or 'tl.leiden'",
            "dir(sc_dask.pp)",
        )
    return getattr(importlib.import_module(f"sc_dask.{module}"), function)


def size_of(adata: AnnData, arguments: dict[str, Any]) -> tuple[Size, int | None]:
    """Return what a call with these arguments works on, and the bytes of X on disk; only metadata are read."""
    x, like = _matrix(adata, arguments)
    named = {key: get.column(adata, key) for key in _named_columns(adata, arguments)}
    common: dict[str, Any] = {
        "n_obs": adata.n_obs,
        "numbers": frozenset(key for key, column in named.items() if is_numeric_dtype(column)),
        "room": in_memory_bytes(),
        "levels_of": {key: _n_levels(column) for key, column in named.items()},
        "genes": _n_chosen(adata, arguments),
        "n_edges": _n_edges(adata, arguments),
        "compiled": are_compiled(),
    }
    common["n_comps"], common["rep_is_x"] = _representation(adata, arguments)
    common["needs_pca"] = not (arguments.get("use_rep") or common["rep_is_x"] or "X_pca" in adata.obsm)
    of_results = _known_of_table(adata, arguments) | ({"diffmap"} if "X_diffmap" in adata.obsm else set())
    if x is None:
        return Size(n_vars=adata.n_vars, n_values=0, known=of_results, **common), None
    is_lazy = is_dask_collection(like)
    threads = run.n_workers() if run.client() is None else max(1, run.n_workers() // max(1, run.n_processes()))
    n_values, value_bytes, index_bytes = _values(x, like)
    n_blocks = max(1, x.expression.n_blocks)
    decoded = max(1, n_values * (value_bytes + index_bytes))
    streams = min(threads, n_blocks)
    size = Size(
        n_vars=x.shape[1],
        n_values=n_values,
        value_bytes=value_bytes,
        index_bytes=index_bytes,
        block=min(decoded, max(1, -(-decoded // n_blocks))) if n_blocks > 1 else decoded,
        streams=streams,
        states=segments.states_held(n_blocks, streams),
        is_lazy=is_lazy,
        known=_known(x) | of_results,
        spills=spill.possible(x) if is_lazy else True,
        **common,
    )
    return size, x.expression.source.stored_bytes()


def _matrix(adata: AnnData, arguments: dict[str, Any]) -> tuple[RowBlocks | None, Any]:
    layer, use_raw = arguments.get("layer"), arguments.get("use_raw", False)
    if use_raw is None:  # as scanpy chooses
        use_raw = layer is None and adata.raw is not None
    if adata.isbacked and not use_raw and layer is None:
        return None, None
    try:
        like = get.stored(adata, layer, use_raw=bool(use_raw) and adata.raw is not None)
        return from_array(like), like
    except MissingKeyError:
        if layer is not None:
            raise
        return None, None


def _values(x: RowBlocks, like: Any) -> tuple[int, int, int]:
    """Return the stored values of X, and bytes of a value and of a column number in a decoded block."""
    source = x.expression.source
    if not source.is_sparse:
        return x.shape[0] * x.shape[1], np.dtype(source.dtype).itemsize, 0
    if sp.issparse(like):
        return int(like.nnz), like.dtype.itemsize, 4
    per_row = source.row_nnz()
    if per_row is None:
        budget = config.n_bytes("block-bytes") or 48 * 2**20
        n_values = x.expression.n_blocks * budget // (np.dtype(source.dtype).itemsize + 4)
        return min(n_values, x.shape[0] * x.shape[1]), np.dtype(source.dtype).itemsize, 4
    kept = per_row if x.expression.rows is None else per_row[x.expression.rows]
    return int(kept.sum()), np.dtype(source.dtype).itemsize, 4


def _known(x: RowBlocks) -> frozenset[str]:
    rows, cols = x.known.rows, x.known.cols
    told = {
        "cell sums": "totals" in rows,
        "cell counts": "n_genes" in rows,
        "gene sums": "totals" in cols,
        "gene counts": "n_cells" in cols,
        "moments": "m2" in cols,
        "values": bool(x.known.values),
        "gene-major": genes.is_made(x),
    }
    return frozenset(name for name, known in told.items() if known)


def _known_of_table(adata: AnnData, arguments: dict[str, Any]) -> frozenset[str]:
    """Tell whether a marker table holds the shares of cells, of the groups and the matrix that the call asks for."""
    table = adata.uns.get(str(arguments.get("key") or "rank_genes_groups"), {})
    params = table.get("params", {}) if isinstance(table, Mapping) else {}
    same = params.get("reference") == "rest"
    for name in ("groupby", "use_raw"):
        same = same and (arguments.get(name) is None or arguments[name] == params.get(name))
    return frozenset({"shares"}) if same and "pts_rest" in table else frozenset()


def _named_columns(adata: AnnData, arguments: dict[str, Any]) -> list[str]:
    """Return the columns of obs that the arguments name."""
    columns = slots.columns(adata.obs)
    named = []
    for value in arguments.values():
        words = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
        named += [w for w in words if isinstance(w, str) and w in columns]
    return named


def _n_levels(column: pd.Series) -> int:
    return int(len(column.cat.categories) if hasattr(column, "cat") else column.nunique())


def _n_chosen(adata: AnnData, arguments: dict[str, Any]) -> int:
    mask = arguments.get("mask_var", "highly_variable")
    if mask is None:
        return adata.n_vars
    if isinstance(mask, str) or type(mask).__name__ == "_Unset":
        key = mask if isinstance(mask, str) else "highly_variable"
        if key not in slots.columns(adata.var):
            return adata.n_vars
        mask = get.var_mask(adata, key)
    return int(np.asarray(mask).sum())


def _representation(adata: AnnData, arguments: dict[str, Any]) -> tuple[int, bool]:
    """Return the columns of the representation that the call works on, and whether it is X itself."""
    rep, n_pcs = arguments.get("use_rep") or arguments.get("basis") or arguments.get("obsm"), arguments.get("n_pcs")
    if "neighbors_key" in arguments and rep is None:  # that of the graph
        params = adata.uns.get(arguments["neighbors_key"] or "neighbors", {}).get("params", {})
        rep, n_pcs = params.get("use_rep"), params.get("n_pcs", n_pcs)
    if rep == "X" or n_pcs == 0 or (rep is None and adata.n_vars <= 50):
        return adata.n_vars, True
    for key in (rep, f"X_{rep}", "X_pca"):
        if isinstance(key, str) and key in adata.obsm:
            width = int(adata.obsm[key].shape[1])
            return (min(width, n_pcs) if n_pcs else width), False
    return 50, False


def _n_edges(adata: AnnData, arguments: dict[str, Any]) -> int:
    """Return the neighbours of all cells, both directions."""
    key = arguments.get("neighbors_key") or "neighbors"
    entry = adata.uns.get(key, {})
    weights = adata.obsp.get(entry.get("connectivities_key", "connectivities"))
    if weights is not None and hasattr(weights, "nnz"):
        return int(weights.nnz)
    return 2 * adata.n_obs * int(entry.get("params", {}).get("n_neighbors", 15))
