"""Plots: scanpy's, with its names, arguments and results, of an AnnData whose X and obs may be lazy.

A plot reads what it shows: its genes in one pass over X (none where there is a gene-major copy), columns of obs,
positions, results. They go to scanpy's own drawing (``pip install 'sc-dask[plot]'``). What it keeps (colours, trees of
groups, positions of PAGA) is written into the AnnData. An AnnData in memory goes to scanpy as it is. From 100,000 cells
on points become one image, between axes and text that stay vectors in PDF and SVG. ``docs/plots.md`` lists what each
plot reads.
"""

from __future__ import annotations

import functools
from typing import Any

from sc_dask.errors import MissingPackageError
from sc_dask.pl.table import PLOTS

__all__ = sorted(PLOTS)

_AS_THEY_ARE = ("palettes", "set_rcParams_defaults", "set_rcParams_scanpy", "dogplot")


def __getattr__(name: str) -> Any:
    if name not in PLOTS:
        raise AttributeError(f"module 'sc_dask.pl' has no plot {name!r}; its plots: {', '.join(__all__)}")
    from sc_dask.pl import classes, draw

    try:
        theirs = draw.scanpy().pl
    except MissingPackageError as error:
        return functools.partial(_fail, error)
    if not hasattr(theirs, name):
        raise AttributeError(f"the scanpy that is installed has no plot {name!r}; next: pip install --upgrade scanpy")
    if name in classes.NAMES:
        value: Any = classes.class_of(name)
    elif name in _AS_THEY_ARE:
        value = getattr(theirs, name)
    else:
        value = _plot(name, getattr(theirs, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)


def _fail(error: Exception, *args: Any, **kwargs: Any) -> Any:
    raise error


def _plot(name: str, theirs: Any) -> Any:
    """Return the plot of a name, with scanpy's signature."""

    @functools.wraps(theirs)
    def plot(*args: Any, **kwargs: Any) -> Any:
        from sc_dask.pl.draw import draw

        return draw(name, theirs, args, kwargs)

    plot.__module__ = "sc_dask.pl"
    plot.__doc__ = (
        f"Draw ``scanpy.pl.{name}``, with its arguments and results; X and obs may be lazy.\n\n"
        f"    Reads: {PLOTS[name].reads}. Needs scanpy (``pip install 'sc-dask[plot]'``), whose documentation tells "
        "the arguments.\n    "
    )
    return plot
