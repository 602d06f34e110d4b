"""Force-directed and tree layouts of a graph, by igraph or ForceAtlas2, with scanpy's numbers for the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.graph.igraph_rng import of_igraph

LAYOUTS = ("fr", "drl", "kk", "grid_fr", "lgl", "rt", "rt_circular", "fa")
FROM_COORDINATES = ("fr", "drl", "kk", "grid_fr", "fa")
TREES = ("rt", "rt_circular")
_NO_KWDS: Mapping[str, Any] = MappingProxyType({})
_FORCE_ATLAS = "fa2_modified"
_WEAKEST = 0.01  # of the connections of groups that pull, as scanpy draws them


def has_force_atlas() -> bool:
    """Tell whether the package of ForceAtlas2 is there."""
    return find_spec(_FORCE_ATLAS) is not None


def layout(
    adjacency: sp.csr_matrix,
    kind: str,
    *,
    seed: int = 0,
    init: NDArray[np.floating] | None = None,
    root: int | None = None,
    kwds: Mapping[str, Any] = _NO_KWDS,
) -> NDArray[np.float64]:
    """Return coordinates of the nodes of a graph, ``n_obs x 2``.

    Parameters
    ----------
    adjacency
        ``n_obs x n_obs``; both directions of a pair are edges of their own, as in scanpy.
    kind
        One of ``LAYOUTS``.
    init
        First coordinates; None: at random.
    root
        Of a tree layout; None: igraph chooses.
    kwds
        More options of igraph's layout, or ``maxiter`` of ForceAtlas2.

    Memory: about 60 bytes an edge in igraph; ``kk`` 8 bytes for each pair of cells.

    Raises
    ------
    InputError
        The layout does not take an option.
    """
    if init is None:
        init = np.random.RandomState(seed).random_sample((adjacency.shape[0], 2))
    if kind == "fa":
        return _force_atlas(adjacency, init, dict(kwds))
    options = dict(kwds)
    if kind in FROM_COORDINATES:
        options["seed"] = np.asarray(init, np.float64).tolist()
    if kind in TREES:
        options["root"] = None if root is None else [int(root)]
    if kind == "grid_fr":  # its own name is gone from igraph 0.10 on
        kind, options["grid"] = "fr", True
    graph = _graph(adjacency, weighed="weights" in options)
    try:
        with of_igraph(random.Random(seed)):
            coords = graph.layout(kind, **options).coords
    except TypeError as error:
        raise InputError(
            f"found options {list(kwds)} ({error})", f"options that igraph's layout {kind!r} takes"
        ) from error
    return np.array(coords, dtype=np.float64)


def of_groups(connectivities: sp.csr_matrix, seed: int = 0) -> NDArray[np.float64]:
    """Return positions of connected groups (``uns["paga"]``), those that ``scanpy.pl.paga`` gives them by default."""
    strong = connectivities.tocsr().copy()
    strong.data[strong.data < _WEAKEST] = 0
    strong.eliminate_zeros()
    n = strong.shape[0]
    if n == 1:
        return np.array([[0.5, 0.5]])
    rng = np.random.RandomState(seed)
    own = random.Random(rng.bytes(8))
    options: dict[str, Any] = {"seed": rng.random_sample((n, 2)).tolist()}
    if strong.nnz:
        options["weights"] = "weight"
    with of_igraph(own):
        coords = np.array(_graph(strong, weighed=strong.nnz > 0).layout("fr", **options).coords)
    return coords * [1, -1]


def _graph(adjacency: sp.csr_matrix, *, weighed: bool) -> Any:
    import igraph

    coo = adjacency.tocoo(copy=False)
    there = coo.data != 0
    graph = igraph.Graph(n=adjacency.shape[0], edges=np.column_stack([coo.row[there], coo.col[there]]), directed=False)
    if weighed:  # a Python float for every edge: only where a layout asks for it
        graph.es["weight"] = coo.data[there].tolist()
    return graph


def _force_atlas(adjacency: sp.csr_matrix, init: NDArray[np.floating], kwds: dict[str, Any]) -> NDArray[np.float64]:
    from importlib import import_module

    n_rounds = kwds.pop("maxiter", kwds.pop("iterations", 500))
    if kwds:
        raise InputError(f"found options {list(kwds)}", "maxiter, or none, of the layout 'fa'")
    force = import_module(_FORCE_ATLAS).ForceAtlas2(
        outboundAttractionDistribution=False,
        linLogMode=False,
        adjustSizes=False,
        edgeWeightInfluence=1.0,
        jitterTolerance=1.0,
        barnesHutOptimize=True,
        barnesHutTheta=1.2,
        multiThreaded=False,
        scalingRatio=2.0,
        strongGravityMode=False,
        gravity=1.0,
        verbose=False,
    )
    return np.array(force.forceatlas2(adjacency, pos=np.asarray(init), iterations=n_rounds), dtype=np.float64)
