"""DotPlot, MatrixPlot and StackedViolin: scanpy's classes on what they show of an AnnData whose X may be lazy."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from sc_dask import get
from sc_dask.pl.draw import add_dendrogram, arguments, scanpy, shown

if TYPE_CHECKING:
    from anndata import AnnData

NAMES = ("DotPlot", "MatrixPlot", "StackedViolin")


@functools.cache
def class_of(name: str) -> type:
    """Return the class of a name: a subclass of scanpy's."""
    base = getattr(scanpy().pl, name)

    def __init__(self: Any, adata: AnnData, *args: Any, **kwargs: Any) -> None:
        self.whole = adata
        if not get.is_in_memory(adata):
            given = arguments(base.__init__, (self, adata, *args), kwargs)
            adata = shown(name, adata, {k: v for k, v in given.items() if k != "self"})
        base.__init__(self, adata, *args, **kwargs)

    def add_dendrogram(self: Any, *args: Any, **kwargs: Any) -> Any:
        _with_tree(self, base, args, kwargs)
        return base.add_dendrogram(self, *args, **kwargs)

    made = type(
        name,
        (base,),
        {
            "__init__": functools.wraps(base.__init__)(__init__),
            "add_dendrogram": functools.wraps(base.add_dendrogram)(add_dendrogram),
            "__module__": "sc_dask.pl",
            "__doc__": f"scanpy's ``{name}``, drawn from the genes that it shows; X and obs may be lazy.",
        },
    )
    return made


def _with_tree(plot: Any, base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Make the tree of the groups of all of the AnnData, if it is missing."""
    given = arguments(base.add_dendrogram, (plot, *args), kwargs)
    if given["show"] and len(plot.categories) > 2 and plot.adata is not plot.whole:
        add_dendrogram(plot.whole, plot.adata, plot.groupby, given["dendrogram_key"])


def keep_whole(plot: Any, adata: AnnData) -> Any:
    """Return what a plot gave with ``return_fig=True``, able to make what it needs of all of the AnnData."""
    name = type(plot).__name__
    if name in NAMES and type(plot) is getattr(scanpy().pl, name):
        plot.__class__ = class_of(name)
        plot.whole = adata
    return plot
