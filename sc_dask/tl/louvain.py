"""Clusters of cells by the Louvain algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import scipy.sparse as sp

from sc_dask import slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError
from sc_dask.graph import cluster
from sc_dask.log import begin
from sc_dask.names import check_new
from sc_dask.price import Price, Size, priced
from sc_dask.tl import partitions

if TYPE_CHECKING:
    from anndata import AnnData

_PACKAGES = {"igraph": "igraph", "sc_dask": "sc-dask"}


def _price(size: Size, *, flavor: str, **_: Any) -> Price:
    return Price(0, cluster.memory(flavor, size.n_edges), 16 * size.n_obs)


@priced(_price)
def louvain(
    adata: AnnData,
    resolution: float | None | Sequence[float] = None,
    *,
    random_state: int = 0,
    restrict_to: tuple[str, Sequence[str]] | None = None,
    key_added: str = "louvain",
    adjacency: sp.csr_matrix | None = None,
    flavor: str = "igraph",
    directed: bool = True,
    use_weights: bool = False,
    partition_type: Any = None,
    partition_kwargs: Mapping[str, Any] = MappingProxyType({}),
    neighbors_key: str | None = None,
    obsp: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Cluster the cells of a neighbour graph (Blondel et al. 2008); ``tl.leiden`` is the better method.

    Parameters
    ----------
    adata
        Annotated matrix with a graph (``pp.neighbors``).
    resolution
        Higher gives more clusters; None: 1. Of several, the graph is handed over once, and each has a key of its own:
        ``louvain_0.5``, ``louvain_1``.
    random_state
        Seed.
    restrict_to
        ``(column, categories)``: divide only these cells further; their clusters are named
        ``<categories>,<cluster>``, and the column ``louvain_R``.
    key_added
        Column of obs, and key of uns.
    adjacency
        Weights, n_obs x n_obs; instead of ``neighbors_key`` or ``obsp``.
    flavor
        ``igraph``, or ``sc_dask``: our own, the fastest. scanpy's default, ``vtraag``, needs the package louvain, which
        is no longer kept.
    directed
        Changes nothing: a neighbour graph has both directions of each edge, and ``igraph`` reads it undirected.
    partition_type, partition_kwargs
        Of the package louvain: refused.
    use_weights
        Whether edges count by weight; scanpy's default is that they do not.
    neighbors_key, obsp
        Which graph.
    copy
        Return a changed copy.

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
    >>> sd.tl.louvain(adata, resolution=0.2)
    >>> adata.obs["louvain"].value_counts().to_dict()
    {'0': 30, '1': 30}
    """
    start = begin("running Louvain clustering")
    check_new(key_added=key_added)
    if flavor == "vtraag" or partition_type is not None or partition_kwargs:
        raise InputError(
            f"found flavor={flavor!r}, partition_type={partition_type!r}",
            "flavor='igraph' or 'sc_dask', and no partition_type: the package louvain is no longer kept",
            "tl.leiden(adata) is the better method",
        )
    weights = partitions.chosen_graph(adata, adjacency, neighbors_key, obsp)
    keep = None if restrict_to is None else partitions.restricted(adata, *restrict_to)
    several, resolutions = partitions.checked_resolutions(resolution)
    found = run.call(
        cluster.louvain_at,
        weights if keep is None else weights[keep][:, keep],
        resolutions,
        flavor=flavor,
        use_weights=use_weights,
        random_state=random_state,
    )
    params = {"random_state": random_state, "flavor": flavor, "versions": slots.versions(_PACKAGES[flavor])}
    name = "louvain_R" if restrict_to is not None and key_added == "louvain" else key_added
    adata = adata.copy() if copy else adata
    partitions.write(
        adata, found, resolutions, name, several, params, restrict_to, keep, writer="tl.louvain", since=start
    )
    return adata if copy else None
