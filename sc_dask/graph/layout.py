"""Coordinates for drawing: UMAP of a weighted graph, by our own optimisation or by umap-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import config
from sc_dask.errors import InputError
from sc_dask.graph import optimise, starts
from sc_dask.graph.order import ordered
from sc_dask.graph.sharded.landmarks import LandmarkGraph, MapTasks
from sc_dask.graph.sharded.landmarks import layout as landmark_layout

METHODS = ("umap", "umap-learn")
_NO_KWDS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Coordinates:
    """Coordinates, and the curve ``1 / (1 + a d^(2b))`` they were drawn with."""

    coords: NDArray[np.float32]  # n_obs x n_components
    a: float
    b: float


def umap(
    connectivities: sp.csr_matrix,
    x: NDArray[Any],
    *,
    n_components: int = 2,
    min_dist: float = 0.5,
    spread: float = 1.0,
    maxiter: int | None = None,
    alpha: float = 1.0,
    gamma: float = 1.0,
    negative_sample_rate: int = 5,
    init_pos: str | NDArray[Any] = "spectral",
    random_state: int = 0,
    a: float | None = None,
    b: float | None = None,
    metric: str = "euclidean",
    metric_kwds: Mapping[str, Any] = _NO_KWDS,
    method: str = "umap",
    n_jobs: int | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
) -> Coordinates:
    """Return the UMAP layout (McInnes, Healy & Melville 2018) of a graph; the same seed gives the same coordinates.

    ``method="umap"`` is our own optimisation of the same objective: each node moves by its own edges from where all
    stood after the last round, on any number of threads with the same result. ``umap-learn`` gives scanpy's
    coordinates, on one thread.

    Parameters
    ----------
    connectivities
        ``n_obs x n_obs`` weights, symmetric.
    x
        ``n_obs x n_dims``, what the neighbours were searched in; it places the unconnected parts of a graph
        (``init_pos="spectral"``) or all cells (``init_pos="pca"``) at the start.
    maxiter
        Rounds of optimisation; None: 500 up to 10,000 cells, 200 above; from a ``multilevel`` start 175 and 70.
    init_pos
        ``spectral``, ``multilevel`` (not with umap-learn), ``random``, ``pca``, or ``n_obs x n_components``
        coordinates.
    a, b
        The curve; None: fitted to ``min_dist`` and ``spread``.
    metric, metric_kwds
        Of ``x``; umap-learn only.
    n_jobs
        Threads; None: those of ``sc_dask.config``.
    on_epoch
        Called with the rounds done and the rounds in all.

    Memory: about 30 bytes an edge; umap-learn 100.

    Raises
    ------
    InputError
        Shapes do not fit, an option is unknown, or there are too few cells for a spectral start.
    """
    if method not in METHODS:
        raise InputError(f"found method={method!r}", "one of " + ", ".join(METHODS))
    init = _checked_start(connectivities, x, n_components, init_pos, method)
    a, b = _checked(n_components, min_dist, spread, negative_sample_rate, random_state, a, b)
    n_obs = connectivities.shape[0]
    n_epochs = maxiter if maxiter is not None else starts.usual_rounds(n_obs)
    if method == "umap-learn":
        options = {
            "initial_alpha": alpha, "gamma": gamma, "negative_sample_rate": negative_sample_rate, "n_epochs": n_epochs,
            "init": init, "random_state": np.random.RandomState(random_state), "metric": metric,
            "metric_kwds": dict(metric_kwds),
        }  # fmt: skip
        return Coordinates(_by_umap_learn(connectivities, x, n_components, a, b, options), float(a), float(b))
    force = optimise.Force(float(a), float(b), float(gamma), int(negative_sample_rate), float(alpha))
    how = optimise.How(int(random_state), config.n_threads() if n_jobs is None else int(n_jobs), on_epoch)
    nodes = ordered(connectivities)
    placed = starts.Placed.of(nodes, lambda: x, how.seed)
    if isinstance(init, str) and init == "multilevel":
        coords = starts.multilevel(placed, n_components, force, how, maxiter)
    else:
        first = starts.start(
            placed, n_components, init if isinstance(init, str) else nodes.from_original(init), how.seed
        )
        coords = optimise.optimise(nodes.graph, first, force, n_epochs, how, order=placed.scales.order())
    return Coordinates(nodes.to_original(coords), float(a), float(b))


def of_landmarks(
    graph: LandmarkGraph,
    map_tasks: MapTasks,
    *,
    n_components: int = 2,
    min_dist: float = 0.5,
    spread: float = 1.0,
    maxiter: int | None = None,
    alpha: float = 1.0,
    gamma: float = 1.0,
    negative_sample_rate: int = 5,
    random_state: int = 0,
    a: float | None = None,
    b: float | None = None,
    n_jobs: int | None = None,
) -> Coordinates:
    """Return the UMAP layout of a landmark graph: of its landmarks, then ``maxiter`` rounds (None: 30) of its cells."""
    a, b = _checked(n_components, min_dist, spread, negative_sample_rate, random_state, a, b)
    force = optimise.Force(a, b, float(gamma), int(negative_sample_rate), float(alpha))
    how = optimise.How(int(random_state), config.n_threads() if n_jobs is None else int(n_jobs))
    return Coordinates(landmark_layout(graph, map_tasks, n_components, force, how, maxiter), a, b)


def _checked(
    n_components: int,
    min_dist: float,
    spread: float,
    negative_sample_rate: int,
    random_state: int,
    a: float | None,
    b: float | None,
) -> tuple[float, float]:
    """Return the curve, given or fitted, if all numbers are within their ranges."""
    if n_components < 1:
        raise InputError(f"found n_components={n_components}", "at least 1")
    if not isinstance(random_state, int | np.integer):
        raise InputError(f"found random_state={random_state!r}", "an integer")
    if min_dist > spread:
        raise InputError(f"found min_dist={min_dist} and spread={spread}", "min_dist of at most spread")
    if negative_sample_rate < 1:
        raise InputError(f"found negative_sample_rate={negative_sample_rate}", "at least 1")
    if a is None or b is None:
        return curve(spread, min_dist)
    return float(a), float(b)


def curve(spread: float, min_dist: float) -> tuple[float, float]:
    """Return ``a`` and ``b`` of the curve nearest to 1 up to ``min_dist``, and to ``exp(-d / spread)`` from there.

    As umap-learn fits it: least squares on 300 distances up to three times ``spread``.
    """
    from scipy.optimize import curve_fit

    d = np.linspace(0, spread * 3, 300)
    wanted = np.where(d < min_dist, 1.0, np.exp(-(d - min_dist) / spread))
    (a, b), _ = curve_fit(lambda d, a, b: 1.0 / (1.0 + a * d ** (2 * b)), d, wanted)
    return float(a), float(b)


def _by_umap_learn(
    connectivities: sp.csr_matrix, x: NDArray[Any], n_components: int, a: float, b: float, options: dict[str, Any]
) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Tensorflow not installed")
        from umap.umap_ import simplicial_set_embedding

    coords, _ = simplicial_set_embedding(
        data=x,
        graph=connectivities.tocoo(copy=True),  # umap-learn zeroes weak edges in place
        n_components=n_components,
        a=a,
        b=b,
        densmap=False,
        densmap_kwds={},
        output_dens=False,
        verbose=False,
        **options,
    )
    return np.asarray(coords, dtype=np.float32)


def _checked_start(
    connectivities: sp.csr_matrix, x: NDArray[Any], n_components: int, init_pos: str | NDArray[Any], method: str
) -> str | NDArray[np.float32]:
    n_obs = connectivities.shape[0]
    if connectivities.shape != (n_obs, n_obs) or x.shape[0] != n_obs:
        raise InputError(
            f"found a graph of shape {connectivities.shape} and {x.shape[0]} cells in the representation",
            "as many cells in both",
            "run pp.neighbors again",
        )
    if not isinstance(init_pos, str):
        init = np.asarray(init_pos, dtype=np.float32)
        if init.shape != (n_obs, n_components) or not np.isfinite(init).all():
            raise InputError(f"found init_pos of shape {init.shape}", f"{(n_obs, n_components)}, finite")
        return init
    known = [s for s in starts.STARTS if method == "umap" or s != "multilevel"]
    if init_pos not in known:
        raise InputError(f"found init_pos={init_pos!r}", "coordinates or one of " + ", ".join(known))
    if init_pos in ("spectral", "multilevel") and n_obs <= n_components + 1:
        raise InputError(
            f"found {n_obs} cells for a {init_pos} start in {n_components} dimensions",
            f"at least {n_components + 2} cells",
            'use init_pos="random"',
        )
    return init_pos
