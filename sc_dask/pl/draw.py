"""One function for all plots: the small AnnData of what is shown, scanpy's drawing, and what it writes brought back."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sc_dask import get, slots
from sc_dask.outside import scanpy as outside
from sc_dask.pl.highest import highest_expr_genes
from sc_dask.pl.shown import small
from sc_dask.pl.table import PLOTS, POINTS, Plot

if TYPE_CHECKING:
    from types import ModuleType

    from anndata import AnnData


def _pca_overview(adata: AnnData, **params: Any) -> None:
    """Draw the three plots of components one after the other: they read different things."""
    show = params.pop("show", None)
    theirs = scanpy().pl
    for name, given in (("pca", {**params, "show": False}), ("pca_loadings", {"show": False})):
        draw(name, getattr(theirs, name), (adata,), given)
    draw("pca_variance_ratio", theirs.pca_variance_ratio, (adata,), {"show": show})


OWN: dict[str, Callable[..., Any]] = {"highest_expr_genes": highest_expr_genes, "pca_overview": _pca_overview}


def scanpy() -> ModuleType:
    """Return scanpy, which draws; without it, say how it is installed."""
    return outside.module()


def draw(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Draw a plot of scanpy from an AnnData whose X, or obs, may be lazy; the results are scanpy's.

    Parameters
    ----------
    name
        The plot, of `PLOTS`.
    function
        What draws it from an AnnData in memory.
    args, kwargs
        Of the call, the AnnData among them.
    """
    from anndata import AnnData

    from sc_dask.pl.classes import keep_whole

    given = arguments(function, args, kwargs)
    adata = next(iter(given.values()), None)
    if not isinstance(adata, AnnData) or PLOTS[name].genes == "no adata":
        return function(*args, **kwargs)
    if get.is_in_memory(adata):
        with drawn_fast(PLOTS[name], adata.n_obs):
            return function(*args, **kwargs)
    if PLOTS[name].genes == "own":
        return OWN[name](*args, **kwargs)
    part = shown(name, adata, given)
    if args:
        args = (part, *args[1:])
    else:
        kwargs = {**kwargs, next(iter(given)): part}
    before = _state(part)
    with drawn_fast(PLOTS[name], part.n_obs):
        result = function(*args, **kwargs)
    bring_back(adata, part, before)
    return keep_whole(result, adata) if given.get("return_fig") else result


def shown(name: str, adata: AnnData, given: Mapping[str, Any]) -> AnnData:
    """Return what a plot shows, and the tree of its groups, made of all of the AnnData where it is missing."""
    plot = PLOTS[name]
    part = small(adata, plot, given)  # names that are wrong come first
    wish = given.get("dendrogram_key") or given.get("dendrogram", plot.dendrogram)
    if plot.dendrogram == "always" and not given.get("dendrogram_key") and not isinstance(given.get("dendrogram"), str):
        wish = True
    groupby = given.get("groupby")
    if groupby is None and plot.genes == "ranked":
        table = adata.uns.get(given.get("key") or "rank_genes_groups", {})
        groupby = table.get("params", {}).get("groupby")
    if wish and plot.dendrogram is not None:
        add_dendrogram(adata, part, groupby, wish if isinstance(wish, str) else None)
    return part


def add_dendrogram(adata: AnnData, part: AnnData, groupby: Any, key: str | None) -> None:
    """Make the tree of the groups if uns has none, and give it to what is drawn.

    scanpy would make it of the genes that are shown, if it saw no others.
    """
    keys = [groupby] if isinstance(groupby, str) else list(groupby or [])
    if not keys or any(k not in slots.columns(adata.obs) for k in keys):
        return  # scanpy says so
    key = f"dendrogram_{'_'.join(keys)}" if key is None else key
    if key not in adata.uns:
        if len(keys) == 1 and len(get.groups(adata, keys[0], missing="drop", max_groups=None)) < 2:
            return
        from sc_dask.tl.dendrogram import dendrogram

        dendrogram(adata, groupby, key_added=key)
    slots.write(part, {("uns", key): adata.uns[key]}, writer="tl.dendrogram")


def arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, with defaults; extra ones too. The call itself may yet be refused."""
    signature = inspect.signature(function)
    names = list(signature.parameters)
    given = {k: p.default for k, p in signature.parameters.items() if p.default is not p.empty}
    given |= dict(zip(names, args, strict=False))  # more by place than scanpy takes: old calls, which it warns of
    given |= kwargs
    return {k: given[k] for k in sorted(given, key=lambda k: names.index(k) if k in names else len(names))}


# -- how it is drawn -----------------------------------------------------------------------------


@contextlib.contextmanager
def drawn_fast(plot: Plot, n_obs: int) -> Iterator[None]:
    """Make an image of the points of a plot where they are many; axes, text and legends stay as they are."""
    if not plot.points or n_obs < POINTS:
        yield
        return
    from sc_dask.pl.points import as_image

    settings = scanpy().settings
    friendly = settings._vector_friendly
    settings._vector_friendly = True
    try:
        with as_image(POINTS // 10):
            yield
    finally:
        settings._vector_friendly = friendly


# -- what it writes ------------------------------------------------------------------------------


def _state(part: AnnData) -> dict[tuple[str, str], Any]:
    """Remember what a plot may change: uns, one level deep, and the types of columns."""
    uns = {("uns", k): dict(v) if isinstance(v, Mapping) else v for k, v in part.uns.items()}
    return uns | {("obs", k): part.obs[k].dtype for k in part.obs}


def bring_back(adata: AnnData, part: AnnData, before: Mapping[tuple[str, str], Any]) -> None:
    """Write what a plot has written: colours, positions of groups, and text that it made a category of."""
    writes: dict[tuple[str, str], Any] = {}
    for key, value in part.uns.items():
        if not _is_same(before.get(("uns", key)), value):
            writes["uns", key] = value
    if not slots.is_lazy(adata.obs) and part.n_obs == adata.n_obs:
        for key in part.obs:
            dtype = part.obs[key].dtype
            if isinstance(dtype, pd.CategoricalDtype) and before.get(("obs", key)) not in (None, dtype):
                writes["obs", key] = part.obs[key].array
    if writes:
        slots.write(adata, writes, writer="pl")


def _is_same(old: Any, new: Any) -> bool:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(old[k] is new[k] for k in old)
    if old is new:
        return True
    return isinstance(old, np.ndarray | list) and isinstance(new, np.ndarray | list) and np.array_equal(old, new)
