"""Communities of a weighted graph: Leiden (Traag 2019) and Louvain (Blondel 2008).

leidenalg and igraph give the labels that scanpy gives; our own (``graph.communities``) works on the CSR matrix itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.graph.communities import communities
from sc_dask.graph.igraph_rng import of_igraph
from sc_dask.kernels import communities as kernels
from sc_dask.price import MIB

FLAVORS = ("leidenalg", "igraph", "sc_dask")
LOUVAIN_FLAVORS = ("igraph", "sc_dask")
_NO_ARGS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Partition:
    """A community for every node, and how much more weight lies inside them than by chance."""

    labels: NDArray[np.int32]  # n_obs, from 0, as the package numbers them
    modularity: float

    @property
    def n_groups(self) -> int:
        return int(np.unique(self.labels).size)


Find = Callable[[float | None], Any]  # resolution -> a community for every node


def memory(flavor: str, n_edges: int) -> int:
    """Return the bytes that clustering takes, most of them for edges as igraph and leidenalg keep them."""
    if flavor == "sc_dask":
        return 8 * MIB + 12 * n_edges
    return 40 * MIB + (280 if flavor == "leidenalg" else 213) * n_edges


def leiden(adjacency: sp.csr_matrix, *, resolution: float | None = 1.0, **options: Any) -> Partition:
    """Return the Leiden communities at one resolution; the options are those of ``leiden_at``."""
    return leiden_at(adjacency, [resolution], **options)[0]


def leiden_at(
    adjacency: sp.csr_matrix,
    resolutions: Sequence[float | None],
    *,
    flavor: str = "leidenalg",
    directed: bool | None = None,
    use_weights: bool = True,
    n_iterations: int = -1,
    random_state: int = 0,
    partition_type: type | None = None,
    clustering_args: Mapping[str, Any] = _NO_ARGS,
) -> list[Partition]:
    """Return the Leiden communities of a graph at each resolution; the graph is handed over once.

    Same graph, seed and package give the labels that scanpy gives.

    Parameters
    ----------
    adjacency
        ``n_obs x n_obs`` weights; stored zeros are no edges.
    resolutions
        Higher gives more communities; None for a ``partition_type`` that takes none.
    flavor
        ``leidenalg`` (directed unless ``directed=False``), ``igraph`` (undirected, objective modularity) or ``sc_dask``
        (ours: undirected, modularity, no second graph; a directed matrix counts both directions).
    n_iterations
        -1: until nothing improves.
    partition_type
        A partition class of leidenalg; None: ``RBConfigurationVertexPartition``.
    clustering_args
        More options for ``leidenalg.find_partition`` or ``igraph.Graph.community_leiden``; of ``sc_dask``,
        ``initial_membership``.

    Memory: about 150 bytes an edge inside igraph and leidenalg (leidenalg: Python's list of weights, 32 bytes an
    edge, is among them); of ``sc_dask`` 25.

    Raises
    ------
    InputError
        The matrix is not square, holds a weight that is not finite, or an option does not apply to the flavor.
    """
    _check(adjacency, random_state)
    _check_flavor(flavor, directed, partition_type)
    directed = flavor == "leidenalg" and (directed is None or directed)
    args = dict(clustering_args)
    if flavor == "sc_dask":
        graph = _symmetric(adjacency, use_weights)
        find = _own(graph, n_iterations, int(random_state), args)
        return _partitions(find, resolutions, lambda labels: modularity_of(graph, labels))
    edges, weights = _edges(adjacency)
    args["n_iterations"] = n_iterations
    if use_weights:
        args["weights"] = weights
    prepare = {"leidenalg": _leidenalg, "igraph": _igraph}[flavor]
    find = prepare(edges, adjacency.shape[0], directed, int(random_state), partition_type, args)
    measure = weights if use_weights else None
    try:
        return _partitions(
            find, resolutions, lambda labels: modularity(edges, measure, labels, directed=bool(directed))
        )
    except TypeError as error:
        if not clustering_args:
            raise
        raise InputError(f"found options {list(clustering_args)} ({error})", f"options that {flavor} takes") from error


def louvain_at(
    adjacency: sp.csr_matrix,
    resolutions: Sequence[float | None],
    *,
    flavor: str = "igraph",
    use_weights: bool = False,
    random_state: int = 0,
) -> list[Partition]:
    """Return the Louvain communities (Blondel 2008) of a graph at each resolution; the graph is handed over once.

    Parameters
    ----------
    adjacency
        ``n_obs x n_obs`` weights, read undirected; stored zeros are no edges.
    resolutions
        Higher gives more communities; None: 1.
    flavor
        ``igraph`` or ``sc_dask`` (ours).

    Memory: as ``leiden_at``.

    Raises
    ------
    InputError
        As ``leiden_at``.
    """
    _check(adjacency, random_state)
    if flavor not in LOUVAIN_FLAVORS:
        raise InputError(f"found flavor={flavor!r}", "one of " + ", ".join(LOUVAIN_FLAVORS))
    seed = int(random_state)
    if flavor == "igraph":
        edges, weights = _edges(adjacency)
        measure = weights if use_weights else None
        find = _multilevel(edges, adjacency.shape[0], measure, seed)
        return _partitions(find, resolutions, lambda labels: modularity(edges, measure, labels, directed=False))
    graph = _symmetric(adjacency, use_weights)

    def own(resolution: float | None) -> Any:
        gamma = 1.0 if resolution is None else resolution
        return communities(graph, resolution=gamma, n_iterations=1, seed=seed, refined=False)

    return _partitions(own, resolutions, lambda labels: modularity_of(graph, labels))


def _partitions(
    find: Find, resolutions: Sequence[float | None], quality: Callable[[NDArray[np.int32]], float]
) -> list[Partition]:
    found = (np.asarray(find(resolution), dtype=np.int32) for resolution in resolutions)
    return [Partition(labels, quality(labels)) for labels in found]


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


def modularity_of(graph: sp.csr_matrix, labels: NDArray[np.int32]) -> float:
    """Return the modularity of a labelling of a symmetric graph, at resolution 1; nothing is copied.

    Parameters
    ----------
    graph
        ``n x n``, both directions of each pair; inner weights of aggregated nodes on the diagonal.
    labels
        ``n``, from 0.
    """
    inside, strengths = kernels.inner_weight(graph.indptr, graph.indices, graph.data, labels, int(labels.max()) + 1)
    total = float(strengths.sum())
    return float("nan") if total == 0 else float(inside / total - np.square(strengths / total).sum())


def _leidenalg(
    edges: NDArray[Any],
    n_obs: int,
    directed: bool,
    seed: int,
    partition_type: type | None,
    args: dict[str, Any],
) -> Find:
    import igraph
    import leidenalg

    graph = igraph.Graph(n=n_obs, edges=edges, directed=directed)
    kind = partition_type or leidenalg.RBConfigurationVertexPartition

    def find(resolution: float | None) -> Any:
        at = {} if resolution is None else {"resolution_parameter": resolution}
        return leidenalg.find_partition(graph, kind, seed=seed, **at, **args).membership

    return find


def _igraph(
    edges: NDArray[Any],
    n_obs: int,
    directed: bool,
    seed: int,
    partition_type: type | None,
    args: dict[str, Any],
) -> Find:
    import igraph

    args.setdefault("objective_function", "modularity")
    graph = igraph.Graph(n=n_obs, edges=edges, directed=directed)

    def find(resolution: float | None) -> Any:
        at = {} if resolution is None else {"resolution": resolution}
        with of_igraph(_Generator(seed)):
            return graph.community_leiden(**at, **args).membership

    return find


def _own(graph: sp.csr_matrix, n_iterations: int, seed: int, args: dict[str, Any]) -> Find:
    initial = args.pop("initial_membership", None)
    if args:
        raise InputError(f"found options {list(args)}", "initial_membership, or none, with flavor='sc_dask'")
    if initial is not None:
        initial = np.unique(np.asarray(initial), return_inverse=True)[1].astype(np.int32)
        if initial.shape != (graph.shape[0],):
            raise InputError(f"found initial_membership of shape {initial.shape}", f"{(graph.shape[0],)}")

    def find(resolution: float | None) -> Any:
        gamma = 1.0 if resolution is None else float(resolution)
        return communities(graph, resolution=gamma, n_iterations=n_iterations, seed=seed, initial=initial)

    return find


def _multilevel(edges: NDArray[Any], n_obs: int, weights: NDArray[np.float64] | None, seed: int) -> Find:
    import igraph

    graph = igraph.Graph(n=n_obs, edges=edges, directed=False)

    def find(resolution: float | None) -> Any:
        with of_igraph(_Generator(seed)):
            return graph.community_multilevel(
                weights=weights, resolution=1.0 if resolution is None else resolution
            ).membership

    return find


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


def _edges(adjacency: sp.csr_matrix) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return ``n_edges x 2`` nodes and their weights in stored order; both directions of a pair stay, as in scanpy."""
    coo = adjacency.tocoo(copy=False)
    there = coo.data != 0
    edges = np.column_stack([coo.row[there], coo.col[there]])
    return edges, coo.data[there].astype(np.float64)


def _symmetric(adjacency: sp.csr_matrix, use_weights: bool) -> sp.csr_matrix:
    """Return the graph with both directions of each pair; one of a pair alone counts half in each direction."""
    graph = adjacency.tocsr()
    if (graph.data == 0).any():
        graph = graph.copy()
        graph.eliminate_zeros()
    if not use_weights:
        graph = sp.csr_matrix((np.ones(graph.nnz, np.float32), graph.indices, graph.indptr), shape=graph.shape)
    if not kernels.is_symmetric(graph.indptr, graph.indices, graph.data):
        graph = ((graph + graph.T) / 2).tocsr()
    return graph


def _check_flavor(flavor: str, directed: bool | None, partition_type: type | None) -> None:
    if flavor not in FLAVORS:
        raise InputError(f"found flavor={flavor!r}", "one of " + ", ".join(FLAVORS))
    if flavor != "leidenalg" and directed:
        raise InputError(f"found directed=True with flavor={flavor!r}", "an undirected graph", 'use flavor="leidenalg"')
    if flavor != "leidenalg" and partition_type is not None:
        raise InputError(
            f"found partition_type with flavor={flavor!r}",
            "None",
            'use flavor="leidenalg", or objective_function with flavor="igraph"',
        )


def _check(adjacency: sp.csr_matrix, random_state: int) -> None:
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
