"""Graphs of groups of cells, and where cells start a layout by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.graph import force, starts
from sc_dask.graph import paga as abstraction
from sc_dask.graph.sharded import landmarks
from sc_dask.groups import Groups
from sc_dask.log import begin
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


def _price(size: Size, **_: Any) -> Price:
    return Price(0, 30 * min(4_000_000, size.n_edges) + 16 * size.n_obs)


@priced(_price)
def paga(
    adata: AnnData,
    groups: str | None = None,
    *,
    use_rna_velocity: bool = False,
    model: str = "v1.2",
    neighbors_key: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Measure how groups of cells are connected beyond chance (Wolf 2019), with scanpy's numbers.

    Parameters
    ----------
    adata
        Annotated matrix with a graph (``pp.neighbors``).
    groups
        Column of obs; None: ``leiden``, or else ``louvain``.
    use_rna_velocity
        Find the directions in which cells go between groups, from the graph in ``adata.uns["velocity_graph"]`` (n_obs,
        n_obs; an edge from a cell to where it goes).
    model
        ``v1.2``: edges to nearest neighbours over those expected by chance; ``v1.0``: weighed edges over the sizes.
    neighbors_key
        Which graph; a landmark graph (``pp.neighbors``) too, whose edges are counted shard by shard.
    copy
        Return a changed copy.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    uns ``paga``: ``connectivities`` and ``connectivities_tree`` (n_groups, n_groups; csr, float64) and ``groups``; uns
    ``<groups>_sizes`` (n_groups). With velocity: ``transitions_confidence`` (entry i, j: from j to i) is added.
    Positions of an earlier ``pl.paga`` go, since they are not of this result.

    Passes: 0. Memory: 30 bytes for each of four million edges at a time; no second graph.

    Raises
    ------
    MissingKeyError
        The graph, the column or the velocity graph is not there.
    InputError
        One group only, cells without a group, groups without cells, or an unknown model.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.arange(60, dtype="float32")[:, None])
    >>> adata.obs["third"] = np.repeat(["a", "b", "c"], 20)
    >>> sd.pp.neighbors(adata, n_neighbors=5); sd.tl.paga(adata, "third")
    >>> adata.uns["paga"]["connectivities"].toarray()[0].round(2).tolist()
    [0.0, 0.11, 0.0]
    """
    start = begin("running PAGA")
    if model not in abstraction.MODELS:
        raise InputError(f"found model={model!r}", "one of " + ", ".join(abstraction.MODELS))
    groups = _key(adata) if groups is None else groups
    cells = _groups(adata, groups, min_groups=2)
    codes, sizes = cells.codes, cells.sizes
    entry = dict(adata.uns["paga"]) if adata.uns.get("paga", {}).get("groups") == groups else {}
    written: dict[tuple[str, str], Any] = {("uns", "paga"): entry}
    n_neighbors = _n_neighbors(adata, neighbors_key)
    if use_rna_velocity:
        counts = run.call(abstraction.edge_counts, _velocity(adata), codes, codes, sizes.size)
        entry["transitions_confidence"] = abstraction.transitions(counts, sizes, n_neighbors)
    else:
        counts = _counts(adata, neighbors_key, codes, sizes.size, nearest=model == "v1.2")
        found = abstraction.MODELS[model](counts, sizes, n_neighbors)
        entry.pop("pos", None)
        entry |= {"connectivities": found.connectivities, "connectivities_tree": found.tree}
        written["uns", f"{groups}_sizes"] = sizes
    entry["groups"] = groups
    adata = adata.copy() if copy else adata
    slots.write(adata, written, writer="tl.paga", since=start)
    return adata if copy else None


def first_coordinates(adata: AnnData, seed: int) -> NDArray[np.float64]:
    """Return where cells start a layout: about their groups' positions, those of ``pl.paga`` or else laid out here."""
    entry = adata.uns.get("paga", {})
    if "connectivities" not in entry or "groups" not in entry:
        raise MissingKeyError(
            "init_pos='paga' but no connectivities in adata.uns['paga']", "a graph of groups", "tl.paga(adata)"
        )
    weights = sp.csr_matrix(entry["connectivities"])
    cells = _groups(adata, entry["groups"])
    if len(cells) != weights.shape[0]:
        raise InputError(
            f"uns['paga'] is of {weights.shape[0]} groups, obs[{entry['groups']!r}] has {len(cells)}",
            "the same groups",
            f"tl.paga(adata, {entry['groups']!r})",
        )
    positions = np.asarray(entry["pos"]) if "pos" in entry else force.of_groups(weights)
    return starts.of_groups(positions, weights, cells.codes, seed)


def _groups(adata: AnnData, key: str, **choices: Any) -> Groups:
    return get.groups(adata, key, missing="refuse", order="natural", unused="refuse", floats="refuse", **choices)


def _key(adata: AnnData) -> str:
    for key in ("leiden", "louvain"):
        if key in slots.columns(adata.obs):
            return key
    raise MissingKeyError("neither 'leiden' nor 'louvain' in adata.obs", "groups of cells", "tl.leiden(adata)")


def _counts(
    adata: AnnData, neighbors_key: str | None, codes: NDArray[np.int32], n_groups: int, *, nearest: bool
) -> sp.csr_matrix:
    graph = get.landmark_graph(adata, neighbors_key)
    if graph is not None:
        return landmarks.edge_counts(graph, run.map_tasks, codes, n_groups, nearest=nearest)
    edges = get.distances(adata, neighbors_key) if nearest else get.graph(adata, neighbors_key)
    return run.call(abstraction.edge_counts, edges, codes, codes, n_groups)


def _n_neighbors(adata: AnnData, neighbors_key: str | None) -> int:
    key = "neighbors" if neighbors_key is None else neighbors_key
    if key not in adata.uns:
        raise MissingKeyError(f"no {key!r} in adata.uns", "a neighbour graph", "pp.neighbors(adata)")
    return int(np.ravel(adata.uns[key]["params"]["n_neighbors"])[0])  # older scanpy stored an array of one number


def _velocity(adata: AnnData) -> sp.csr_matrix:
    if "velocity_graph" not in adata.uns:
        raise MissingKeyError(
            "no 'velocity_graph' in adata.uns", "a directed graph of cells (n_obs x n_obs)", "use_rna_velocity=False"
        )
    graph = adata.uns["velocity_graph"]
    if not sp.issparse(graph) or graph.shape != (adata.n_obs, adata.n_obs):
        raise InputError(
            f"found a velocity_graph of type {type(graph).__name__} and shape {getattr(graph, 'shape', None)}",
            f"a sparse matrix of shape {(adata.n_obs, adata.n_obs)}",
        )
    graph = sp.csr_matrix(graph, copy=True)
    graph.eliminate_zeros()
    return graph
