"""Coordinates for drawing: UMAP of a weighted graph, by umap-learn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError

STARTS = ("spectral", "random", "pca")
_NO_KWDS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Layout:
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
) -> Layout:
    """Return the UMAP layout (McInnes, Healy & Melville 2018) of a graph; the same seed gives the same coordinates.

    One thread does the optimisation: umap-learn's parallel one is not reproducible.

    Parameters
    ----------
    connectivities
        ``n_obs x n_obs`` weights, symmetric.
    x
        ``n_obs x n_dims``, what the neighbours were searched in; it places the unconnected parts of a graph
        (``init_pos="spectral"``) or all cells (``init_pos="pca"``) at the start.
    maxiter
        Rounds of optimisation; None: 500 up to 10,000 cells, 200 above.
    init_pos
        ``spectral``, ``random``, ``pca``, or ``n_obs x n_components`` coordinates.
    a, b
        The curve; None: fitted to ``min_dist`` and ``spread``.
    metric, metric_kwds
        Of ``x``.

    Memory: about 100 bytes an edge.

    Raises
    ------
    InputError
        Shapes do not fit, an option is unknown, or there are too few cells for a spectral start.
    """
    init = _checked_start(connectivities, x, n_components, init_pos)
    if not isinstance(random_state, int | np.integer):
        raise InputError(f"found random_state={random_state!r}", "an integer")
    if min_dist > spread:
        raise InputError(f"found min_dist={min_dist} and spread={spread}", "min_dist of at most spread")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Tensorflow not installed")
        from umap.umap_ import find_ab_params, simplicial_set_embedding

    if a is None or b is None:
        a, b = find_ab_params(spread, min_dist)
    n_epochs = maxiter if maxiter is not None else (500 if connectivities.shape[0] <= 10000 else 200)
    coords, _ = simplicial_set_embedding(
        data=x,
        graph=connectivities.tocoo(copy=True),  # umap-learn zeroes weak edges in place
        n_components=n_components,
        initial_alpha=alpha,
        a=a,
        b=b,
        gamma=gamma,
        negative_sample_rate=negative_sample_rate,
        n_epochs=n_epochs,
        init=init,
        random_state=np.random.RandomState(random_state),
        metric=metric,
        metric_kwds=dict(metric_kwds),
        densmap=False,
        densmap_kwds={},
        output_dens=False,
        verbose=False,
    )
    return Layout(np.asarray(coords, dtype=np.float32), float(a), float(b))


def _checked_start(
    connectivities: sp.csr_matrix, x: NDArray[Any], n_components: int, init_pos: str | NDArray[Any]
) -> str | NDArray[np.float32]:
    n_obs = connectivities.shape[0]
    if connectivities.shape != (n_obs, n_obs) or x.shape[0] != n_obs:
        raise InputError(
            f"found a graph of shape {connectivities.shape} and {x.shape[0]} cells in the representation",
            "as many cells in both",
            "run pp.neighbors again",
        )
    if n_components < 1:
        raise InputError(f"found n_components={n_components}", "at least 1")
    if not isinstance(init_pos, str):
        init = np.asarray(init_pos, dtype=np.float32)
        if init.shape != (n_obs, n_components) or not np.isfinite(init).all():
            raise InputError(f"found init_pos of shape {init.shape}", f"{(n_obs, n_components)}, finite")
        return init
    if init_pos not in STARTS:
        raise InputError(f"found init_pos={init_pos!r}", "coordinates or one of " + ", ".join(STARTS))
    if init_pos == "spectral" and n_obs <= n_components + 1:
        raise InputError(
            f"found {n_obs} cells for a spectral start in {n_components} dimensions",
            f"at least {n_components + 2} cells",
            'use init_pos="random"',
        )
    return init_pos
