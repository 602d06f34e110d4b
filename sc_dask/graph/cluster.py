"""Communities of a weighted graph: Leiden (Traag 2019) by leidenalg or igraph, with the labels that scanpy gives."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError

FLAVORS = ("leidenalg", "igraph")
_NO_ARGS: Mapping[str, Any] = MappingProxyType({})
# igraph has one random generator per process.
_IGRAPH_RNG = threading.Lock()


@dataclass(frozen=True)
class Partition:
    """A community for every node, and how much more weight lies inside them than by chance."""

    labels: NDArray[np.int32]  # n_obs, from 0, as the package numbers them
    modularity: float

    @property
    def n_groups(self) -> int:
        return int(np.unique(self.labels).size)


def leiden(
    adjacency: sp.csr_matrix,
    *,
    resolution: float | None = 1.0,
    flavor: str = "leidenalg",
    directed: bool | None = None,
    use_weights: bool = True,
    n_iterations: int = -1,
    random_state: int = 0,
    partition_type: type | None = None,
    clustering_args: Mapping[str, Any] = _NO_ARGS,
) -> Partition:
    """Return the Leiden communities of a graph; same graph, seed and package give the labels that scanpy gives.

    Parameters
    ----------
    adjacency
        ``n_obs x n_obs`` weights; stored zeros are no edges.
    resolution
        Higher gives more communities; None for a ``partition_type`` that takes none.
    flavor
        ``leidenalg`` (directed unless ``directed=False``) or ``igraph`` (undirected, faster, objective modularity).
    n_iterations
        -1: until nothing improves.
    partition_type
        A partition class of leidenalg; None: ``RBConfigurationVertexPartition``.
    clustering_args
        More options for ``leidenalg.find_partition`` or ``igraph.Graph.community_leiden``.

    Memory: about 150 bytes an edge inside igraph and leidenalg.

    Raises
    ------
    InputError
        The matrix is not square, holds a weight that is not finite, or an option does not apply to the flavor.
    """
    _check(adjacency, flavor, directed, partition_type, random_state)
    directed = flavor == "leidenalg" and (directed is None or directed)
    edges, weights = _edges(adjacency)
    args = dict(clustering_args)
    args["n_iterations"] = n_iterations
    if use_weights:
        args["weights"] = weights
    find = {"leidenalg": _leidenalg, "igraph": _igraph}[flavor]
    try:
        membership = find(edges, adjacency.shape[0], directed, resolution, int(random_state), partition_type, args)
    except TypeError as error:
        if not clustering_args:
            raise
        raise InputError(f"found options {list(clustering_args)} ({error})", f"options that {flavor} takes") from error
    labels = np.asarray(membership, dtype=np.int32)
    return Partition(labels, modularity(edges, weights if use_weights else None, labels, directed=directed))


def modularity(
    edges: NDArray[Any], weights: NDArray[np.float64] | None, labels: NDArray[np.int32], *, directed: bool
) -> float:
    """Return the modularity (Newman 2004; Leicht & Newman 2008 when directed) of a labelling, at resolution 1.

    Parameters
    ----------
    edges
        ``n_edges x 2`` node numbers.
    weights
        ``n_edges``, or None for 1 each.
    labels
        ``n_obs``, from 0.
    """
    w = np.ones(len(edges)) if weights is None else weights
    total = float(w.sum())
    if total == 0:
        return float("nan")
    n_groups = int(labels.max()) + 1
    source, target = labels[edges[:, 0]], labels[edges[:, 1]]
    out = np.bincount(source, w, n_groups) / total
    into = np.bincount(target, w, n_groups) / total
    if not directed:
        out = into = (out + into) / 2
    return float(w[source == target].sum() / total - out @ into)


def _leidenalg(
    edges: NDArray[Any],
    n_obs: int,
    directed: bool,
    resolution: float | None,
    seed: int,
    partition_type: type | None,
    args: dict[str, Any],
) -> Any:
    import igraph
    import leidenalg

    if resolution is not None:
        args["resolution_parameter"] = resolution
    graph = igraph.Graph(n=n_obs, edges=edges, directed=directed)
    return leidenalg.find_partition(
        graph, partition_type or leidenalg.RBConfigurationVertexPartition, seed=seed, **args
    ).membership


def _igraph(
    edges: NDArray[Any],
    n_obs: int,
    directed: bool,
    resolution: float | None,
    seed: int,
    partition_type: type | None,
    args: dict[str, Any],
) -> Any:
    import igraph

    if resolution is not None:
        args["resolution"] = resolution
    args.setdefault("objective_function", "modularity")
    graph = igraph.Graph(n=n_obs, edges=edges, directed=directed)
    with _igraph_random_state(seed):
        return graph.community_leiden(**args).membership


class _Generator:
    """What igraph asks of a random generator, drawn from numpy's as scanpy does, so that labels are the same."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.RandomState(seed)

    def getrandbits(self, k: int) -> int:
        return int(self._rng.tomaxint()) & ((1 << k) - 1)

    def randint(self, a: int, b: int) -> int:
        return int(self._rng.randint(a, b + 1))

    def random(self) -> float:
        return float(self._rng.random())

    def gauss(self, mean: float, sd: float) -> float:
        return float(self._rng.normal(mean, sd))


@contextmanager
def _igraph_random_state(seed: int) -> Iterator[None]:
    import random

    import igraph

    with _IGRAPH_RNG:
        igraph.set_random_number_generator(_Generator(seed))
        try:
            yield
        finally:
            igraph.set_random_number_generator(random)


def _edges(adjacency: sp.csr_matrix) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return ``n_edges x 2`` nodes and their weights in stored order; both directions of a pair stay, as in scanpy."""
    coo = adjacency.tocoo(copy=False)
    there = coo.data != 0
    edges = np.column_stack([coo.row[there], coo.col[there]])
    return edges, coo.data[there].astype(np.float64)


def _check(
    adjacency: sp.csr_matrix, flavor: str, directed: bool | None, partition_type: type | None, random_state: int
) -> None:
    if flavor not in FLAVORS:
        raise InputError(f"found flavor={flavor!r}", "one of " + ", ".join(FLAVORS))
    if flavor == "igraph" and directed:
        raise InputError("found directed=True with flavor='igraph'", "an undirected graph", 'use flavor="leidenalg"')
    if flavor == "igraph" and partition_type is not None:
        raise InputError(
            "found partition_type with flavor='igraph'", "None", 'use flavor="leidenalg" or pass objective_function'
        )
    if not isinstance(random_state, int | np.integer):
        raise InputError(f"found random_state={random_state!r}", "an integer")
    if not sp.issparse(adjacency) or adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
        raise InputError(
            "found an adjacency that is not square and sparse", "n_obs x n_obs csr weights", "run pp.neighbors"
        )
    if adjacency.shape[0] == 0:
        raise InputError("found a graph without cells", "at least 1 cell")
    if not np.isfinite(adjacency.data).all():
        raise InputError(
            "found NaN or infinity among the weights of the graph", "finite weights", "run pp.neighbors again"
        )
