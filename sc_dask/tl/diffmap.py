"""Diffusion maps of the neighbour graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sc_dask import get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError
from sc_dask.graph import diffusion
from sc_dask.log import begin
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


def _price(size: Size, *, n_comps: int, **_: Any) -> Price:
    return Price(0, 20 * size.n_edges + 8 * (2 * n_comps + 1) * size.n_obs, 4 * n_comps * size.n_obs, 105 * MIB)


@priced(_price)
def diffmap(
    adata: AnnData,
    n_comps: int = 15,
    *,
    neighbors_key: str | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Find the diffusion components of the neighbour graph (Coifman & Lafon 2006; Haghverdi 2015).

    The same as scanpy's up to the sign of a component, and up to rotation of components with equal eigenvalues (a graph
    in parts has one of 1 for each part).

    Parameters
    ----------
    adata
        Annotated matrix with a graph (``pp.neighbors``).
    n_comps
        Number of components, above 2; the first is the steady state and tells nothing.
    neighbors_key
        Which graph.
    random_state
        Seed of the vector that the search begins with.
    copy
        Return a changed copy.

    On a landmark graph (``pp.neighbors``) the walk between landmarks is taken, in which cells of a landmark are one.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obsm ``X_diffmap`` (n_obs, n_comps) float32; uns ``diffmap_evals`` (n_comps) float32, falling.

    Passes: 0. Memory: 20 bytes an edge and ``8 * (2 * n_comps + 1)`` bytes a cell, never cells times cells (200,000
    cells of 15 neighbours: 165 MB and 11 s of one core); on a landmark graph of a landmark each.

    Raises
    ------
    MissingKeyError
        The graph is not there.
    InputError
        ``n_comps`` is at most 2, the graph is not symmetric, or the search does not converge.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.random.default_rng(0).normal(size=(60, 5)).astype("float32"))
    >>> sd.pp.neighbors(adata, n_neighbors=5)
    >>> sd.tl.diffmap(adata, n_comps=4)
    >>> adata.obsm["X_diffmap"].shape
    (60, 4)
    """
    start = begin("computing Diffusion Maps")
    if n_comps <= 2:
        raise InputError(f"found n_comps={n_comps}", "more than 2")
    found = spectrum(adata, n_comps, neighbors_key, random_state)
    adata = adata.copy() if copy else adata
    written = {("obsm", "X_diffmap"): found.vectors, ("uns", "diffmap_evals"): found.values}
    slots.write(adata, written, writer="tl.diffmap", since=start)
    return adata if copy else None


def spectrum(adata: AnnData, n_comps: int, neighbors_key: str | None, random_state: int) -> diffusion.Spectrum:
    """Return the diffusion components of the cells."""
    landmark_graph = get.landmark_graph(adata, neighbors_key)
    if landmark_graph is None:
        weights = get.graph(adata, neighbors_key)
        found: diffusion.Spectrum = run.call(diffusion.diffmap, weights, n_comps, random_state=random_state)
        return found
    sizes = np.bincount(landmark_graph.groups, minlength=landmark_graph.landmarks.shape[0])
    found = run.call(diffusion.diffmap, landmark_graph.landmarks, n_comps, random_state=random_state, sizes=sizes)
    return diffusion.Spectrum(found.values, landmark_graph.to_cells(found.vectors[landmark_graph.groups]))


def components(adata: AnnData, neighbors_key: str | None) -> NDArray[np.int32] | None:
    """Return the connected part of the graph that each cell is in; None if it is in one piece."""
    from scipy.sparse.csgraph import connected_components

    landmark_graph = get.landmark_graph(adata, neighbors_key)
    weights = get.graph(adata, neighbors_key) if landmark_graph is None else landmark_graph.landmarks
    n, labels = connected_components(weights, directed=False)
    if n == 1:
        return None
    return labels if landmark_graph is None else landmark_graph.to_cells(labels[landmark_graph.groups])
