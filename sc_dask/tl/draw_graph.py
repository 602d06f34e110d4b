"""Force-directed pictures of the neighbour graph."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.graph import force
from sc_dask.log import begin
from sc_dask.names import check_new
from sc_dask.price import MIB, Price, Size, priced
from sc_dask.tl import partitions
from sc_dask.tl.paga import first_coordinates

if TYPE_CHECKING:
    from anndata import AnnData


_DRL = 620 * MIB  # the grid of igraph's drl, for any number of cells


def _price(size: Size, *, layout: str, **_: Any) -> Price:
    pairs = 8 * size.n_obs**2 if layout == "kk" else 0
    grid = _DRL if layout == "drl" else 0
    return Price(0, 60 * size.n_edges + pairs + grid, 8 * size.n_obs, 40 * MIB)


@priced(_price)
def draw_graph(
    adata: AnnData,
    layout: str = "fa",
    *,
    init_pos: str | bool | None = None,
    root: int | None = None,
    random_state: int = 0,
    n_jobs: int | None = None,
    adjacency: sp.csr_matrix | None = None,
    key_added_ext: str | None = None,
    neighbors_key: str | None = None,
    obsp: str | None = None,
    copy: bool = False,
    **kwds: Any,
) -> AnnData | None:
    """Draw the neighbour graph by forces between cells or as a tree; the same seed gives scanpy's coordinates.

    igraph works on one thread: ``fr`` takes seconds for thousands of cells and hours for a million. ``tl.umap``
    draws large graphs.

    Parameters
    ----------
    adata
        Annotated matrix with a graph (``pp.neighbors``).
    layout
        ``fa`` (ForceAtlas2, of the package fa2-modified; without it ``fr``, with a warning), ``fr`` (Fruchterman &
        Reingold), ``grid_fr``, ``kk`` (Kamada & Kawai), ``drl``, ``lgl``, or the trees ``rt`` and ``rt_circular``.
    init_pos
        ``"paga"`` or True: cells start at their groups (``tl.paga``); or a key of obsm. None or False: at random. Only
        for ``fa``, ``fr``, ``grid_fr``, ``kk`` and ``drl``.
    root
        Cell at the root of a tree.
    random_state
        Seed.
    n_jobs
        None: no layout has more than one thread.
    adjacency
        Weights, n_obs x n_obs; instead of ``neighbors_key`` or ``obsp``.
    key_added_ext
        End of the key instead of the layout's name.
    neighbors_key, obsp
        Which graph.
    copy
        Return a changed copy.
    kwds
        More options of igraph's layout (``niter``, ``weights="weight"``); of ``fa``, ``maxiter``.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obsm ``X_draw_graph_<layout>`` (n_obs, 2) float64, for the layout that was made; uns ``draw_graph``: ``params``.

    Passes: 0. Memory: about 60 bytes an edge; ``kk`` 8 bytes for each pair of cells.

    Raises
    ------
    MissingKeyError
        The graph (a landmark graph is not of all cells), or what ``init_pos`` names, is not there.
    InputError
        An unknown layout, or an option that does not apply to it.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.random.default_rng(0).normal(size=(60, 5)).astype("float32"))
    >>> sd.pp.neighbors(adata, n_neighbors=5)
    >>> sd.tl.draw_graph(adata, "fr")
    >>> adata.obsm["X_draw_graph_fr"].shape
    (60, 2)
    """
    start = begin("drawing single-cell graph")
    check_new(key_added_ext=key_added_ext)
    if layout not in force.LAYOUTS:
        raise InputError(f"found layout={layout!r}", "one of " + ", ".join(force.LAYOUTS))
    _check(layout, init_pos, root, n_jobs, adata.n_obs)
    weights = partitions.chosen_graph(adata, adjacency, neighbors_key, obsp)
    if layout == "fa" and not force.has_force_atlas():
        warnings.warn(
            "found no package fa2-modified: the layout is 'fr' instead of 'fa'; next: pip install fa2-modified, or "
            "layout='fr'",
            ScDaskWarning,
            stacklevel=2,
        )
        layout = "fr"
    coords = run.call(
        force.layout,
        weights,
        layout,
        seed=random_state,
        init=_start(adata, init_pos, random_state),
        root=root,
        kwds=kwds,
    )
    adata = adata.copy() if copy else adata
    written = {
        ("obsm", f"X_draw_graph_{key_added_ext or layout}"): coords,
        ("uns", "draw_graph"): {"params": {"layout": layout, "random_state": random_state}},
    }
    slots.write(adata, written, writer="tl.draw_graph", since=start)
    return adata if copy else None


def _check(layout: str, init_pos: str | bool | None, root: int | None, n_jobs: int | None, n_obs: int) -> None:
    if init_pos and layout not in force.FROM_COORDINATES:
        raise InputError(f"found init_pos={init_pos!r} with layout={layout!r}", "None", "use layout='fr'")
    if root is not None and layout not in force.TREES:
        raise InputError(f"found root={root} with layout={layout!r}", "None", "use layout='rt'")
    if root is not None and not 0 <= root < n_obs:
        raise InputError(f"found root={root}", f"the number of a cell, from 0 to {n_obs - 1}")
    if n_jobs not in (None, 1):
        raise InputError(f"found n_jobs={n_jobs}", "None or 1: igraph and fa2-modified have one thread")


def _start(adata: AnnData, init_pos: str | bool | None, seed: int) -> NDArray[np.floating] | None:
    if not init_pos:
        return None
    if init_pos is True or (init_pos == "paga" and "paga" not in adata.obsm):
        return first_coordinates(adata, seed)
    coords = get.embedding(adata, init_pos)
    if coords.ndim != 2 or coords.shape[1] != 2 or not np.isfinite(coords).all():
        raise InputError(f"found {init_pos!r} of shape {coords.shape} in adata.obsm", "finite, of two dimensions")
    return coords
