"""Clusters of cells by the Leiden algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import scipy.sparse as sp

from sc_dask import get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError
from sc_dask.graph import cluster
from sc_dask.graph.sharded.landmarks import clusters
from sc_dask.log import begin
from sc_dask.names import check_new
from sc_dask.price import Price, Size, priced
from sc_dask.tl import partitions

if TYPE_CHECKING:
    from anndata import AnnData

_PACKAGES: dict[str, tuple[str, ...]] = {
    "leidenalg": ("igraph", "leidenalg"),
    "igraph": ("igraph",),
    "sc_dask": ("sc-dask",),
}


def _price(size: Size, *, flavor: str, **_: Any) -> Price:
    return Price(0, cluster.memory(flavor, size.n_edges), 16 * size.n_obs)


@priced(_price)
def leiden(
    adata: AnnData,
    resolution: float | None | Sequence[float] = 1,
    *,
    restrict_to: tuple[str, Sequence[str]] | None = None,
    random_state: int = 0,
    key_added: str = "leiden",
    adjacency: sp.csr_matrix | None = None,
    directed: bool | None = None,
    use_weights: bool = True,
    n_iterations: int = -1,
    partition_type: type | None = None,
    neighbors_key: str | None = None,
    obsp: str | None = None,
    copy: bool = False,
    flavor: str = "leidenalg",
    **clustering_args: Any,
) -> AnnData | None:
    """Cluster the cells of a neighbour graph (Traag 2019); the same graph and seed give the labels that scanpy gives.

    Parameters
    ----------
    adata
        Annotated matrix with a graph (``pp.neighbors``).
    resolution
        Higher gives more clusters; None for a ``partition_type`` that takes none. Of several, the graph is handed over
        once, and each has a key of its own: ``leiden_0.5``, ``leiden_1``.
    restrict_to
        ``(column, categories)``: divide only these cells further; their clusters are named
        ``<categories>,<cluster>``, and the column ``leiden_R``.
    random_state
        Seed.
    key_added
        Column of obs, and key of uns.
    adjacency
        Weights, n_obs x n_obs; instead of ``neighbors_key`` or ``obsp``.
    directed, use_weights
        How the graph is read; None: directed for ``leidenalg``, undirected for the others.
    n_iterations
        -1: until nothing improves.
    partition_type
        A partition class of leidenalg.
    neighbors_key, obsp
        Which graph.
    copy
        Return a changed copy.
    flavor
        ``leidenalg``, ``igraph``, or ``sc_dask``: our own, as good by modularity, several times faster and with a
        fraction of the memory, but with other labels than scanpy's.
    clustering_args
        More options of ``leidenalg.find_partition`` or ``igraph.Graph.community_leiden``; of ``sc_dask``,
        ``initial_membership``.

    On a landmark graph (``pp.neighbors``) ``flavor="sc_dask"`` alone works, without ``restrict_to``: landmarks are
    clustered, then cells move where they gain, shard by shard.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obs ``key_added`` (n_obs) category, strings in natural order; uns ``key_added``: ``params``, and ``modularity``
    of the clusters at resolution 1. With several resolutions: ``<key_added>_<resolution>`` of each.

    Passes: 0. Memory: about 150 bytes an edge, 25 with ``flavor="sc_dask"``.

    Raises
    ------
    MissingKeyError
        The graph, or the column or category of ``restrict_to``, is not there.
    InputError
        An option does not apply to the flavor, or two graphs are named.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.repeat([[0.0], [9.0]], 30, axis=0) + np.linspace(0, 1, 60)[:, None])
    >>> sd.pp.neighbors(adata, n_neighbors=25)
    >>> sd.tl.leiden(adata, resolution=0.2)
    >>> adata.obs["leiden"].value_counts().to_dict()
    {'0': 30, '1': 30}
    """
    start = begin("running Leiden clustering")
    check_new(key_added=key_added)
    several, resolutions = partitions.checked_resolutions(resolution)
    landmark_graph = get.landmark_graph(adata, neighbors_key) if adjacency is None and obsp is None else None
    keep = None if restrict_to is None else partitions.restricted(adata, *restrict_to)
    if landmark_graph is not None:
        _check_landmarks(flavor, restrict_to, directed, use_weights, partition_type, clustering_args)
        found = [
            cluster.Partition(
                *clusters(
                    landmark_graph, run.map_tasks, resolution=float(r), n_iterations=n_iterations, seed=random_state
                )
            )
            for r in (1.0 if r is None else r for r in resolutions)
        ]
    else:
        weights = partitions.chosen_graph(adata, adjacency, neighbors_key, obsp)
        found = run.call(
            cluster.leiden_at,
            weights if keep is None else weights[keep][:, keep],
            resolutions,
            flavor=flavor,
            directed=directed,
            use_weights=use_weights,
            n_iterations=n_iterations,
            random_state=random_state,
            partition_type=partition_type,
            clustering_args=clustering_args,
        )
    params = {
        "random_state": random_state,
        "n_iterations": n_iterations,
        "flavor": flavor,
        "versions": slots.versions(*_PACKAGES[flavor]),
    }
    name = "leiden_R" if restrict_to is not None and key_added == "leiden" else key_added
    adata = adata.copy() if copy else adata
    partitions.write(
        adata, found, resolutions, name, several, params, restrict_to, keep, writer="tl.leiden", since=start
    )
    return adata if copy else None


def _check_landmarks(flavor: str, *without: Any) -> None:
    restrict_to, directed, use_weights, partition_type, clustering_args = without
    if flavor != "sc_dask" or restrict_to or directed or not use_weights or partition_type or clustering_args:
        raise InputError(
            f"found a landmark graph and flavor={flavor!r}, or options that need a graph of all cells",
            "flavor='sc_dask' with resolution, n_iterations and random_state",
            'use flavor="sc_dask", or pp.neighbors(compact=False) before',
        )
