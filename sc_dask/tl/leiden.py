"""Clusters of cells by the Leiden algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import get, slots
from sc_dask.array import run
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.graph import cluster

if TYPE_CHECKING:
    from anndata import AnnData


def leiden(
    adata: AnnData,
    resolution: float | None = 1,
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
        Higher gives more clusters; None for a ``partition_type`` that takes none.
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
        How the graph is read; None: directed for ``leidenalg``, undirected for ``igraph``.
    n_iterations
        -1: until nothing improves.
    partition_type
        A partition class of leidenalg.
    neighbors_key, obsp
        Which graph.
    copy
        Return a changed copy.
    flavor
        ``leidenalg`` or ``igraph``.
    clustering_args
        More options of ``leidenalg.find_partition`` or ``igraph.Graph.community_leiden``.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obs ``key_added`` (n_obs) category, strings in natural order; uns ``key_added``: ``params``, and ``modularity``
    of the clusters at resolution 1.

    Passes: 0. Memory: about 150 bytes an edge.

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
    weights = _adjacency(adata, adjacency, neighbors_key, obsp)
    keep = None if restrict_to is None else _restricted(adata, *restrict_to)
    partition = run.call(
        cluster.leiden,
        weights if keep is None else weights[keep][:, keep],
        resolution=resolution,
        flavor=flavor,
        directed=directed,
        use_weights=use_weights,
        n_iterations=n_iterations,
        random_state=random_state,
        partition_type=partition_type,
        clustering_args=clustering_args,
    )
    groups = partition.labels.astype(str)
    if restrict_to is not None:
        key_added = "leiden_R" if key_added == "leiden" else key_added
        groups = _renamed(adata, *restrict_to, keep=keep, groups=groups)
    params = {
        "resolution": resolution,
        "random_state": random_state,
        "n_iterations": n_iterations,
        "flavor": flavor,
        "versions": slots.versions("igraph", *(["leidenalg"] if flavor == "leidenalg" else [])),
    }
    adata = adata.copy() if copy else adata
    slots.write(
        adata,
        {
            ("obs", key_added): _categorical(groups),
            ("uns", key_added): {"params": params, "modularity": partition.modularity},
        },
        writer="tl.leiden",
    )
    return adata if copy else None


def _adjacency(
    adata: AnnData, adjacency: sp.csr_matrix | None, neighbors_key: str | None, obsp: str | None
) -> sp.csr_matrix:
    if adjacency is None:
        return get.graph(adata, neighbors_key, obsp)
    if neighbors_key is not None or obsp is not None:
        raise InputError("found adjacency together with neighbors_key or obsp", "one graph")
    if not sp.issparse(adjacency) or adjacency.shape != (adata.n_obs, adata.n_obs):
        raise InputError(
            f"found an adjacency of type {type(adjacency).__name__} and shape {getattr(adjacency, 'shape', None)}",
            f"a sparse matrix of shape {(adata.n_obs, adata.n_obs)}",
        )
    return adjacency.tocsr()


def _restricted(adata: AnnData, key: str, categories: Sequence[str]) -> NDArray[np.bool_]:
    column = get.column(adata, key)
    if isinstance(categories, str) or not all(isinstance(c, str) for c in categories):
        raise InputError(f"found restrict_to categories {categories!r}", "a list of strings, '1' instead of 1")
    known = set(column.astype(str).unique())
    missing = [c for c in categories if c not in known]
    if missing or not categories:
        raise MissingKeyError(f"no category {missing} in obs[{key!r}]", "one or more of: " + ", ".join(sorted(known)))
    return column.astype(str).isin(categories).to_numpy()


def _renamed(
    adata: AnnData, key: str, categories: Sequence[str], *, keep: NDArray[np.bool_] | None, groups: NDArray[np.str_]
) -> NDArray[Any]:
    out = get.column(adata, key).astype(str).to_numpy(dtype=object)
    prefix = "-".join(categories) + ","
    out[keep] = [prefix + group for group in groups]
    return out


def _categorical(groups: NDArray[Any]) -> pd.Categorical:
    from natsort import natsorted

    return pd.Categorical(groups, categories=natsorted(map(str, np.unique(groups))))
