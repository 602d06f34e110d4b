"""The neighbour graph of the cells."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import config, get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError
from sc_dask.graph import connectivities
from sc_dask.graph.knn.neighbors import EXACT_BELOW, EXACT_BELOW_OTHERWISE, IVF_METRICS, KNN
from sc_dask.graph.knn.neighbors import knn as search
from sc_dask.graph.sharded.landmarks import LandmarkGraph
from sc_dask.names import check_new
from sc_dask.pp import landmarks as choice
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

_SEARCHES = {None: "auto", "ivf": "ivf", "pynndescent": "pynndescent", "sklearn": "brute"}
_NO_KWDS: Mapping[str, Any] = MappingProxyType({})


_LIBRARIES, _PYNNDESCENT, _INDEX = 60 * MIB, 265 * MIB, 95 * MIB  # code; the same and an index of pynndescent
_KEPT_EDGE_BYTES = 12  # of a neighbour, both directions


def _price(size: Size, *, n_neighbors: int, metric: str, **_: Any) -> Price:
    edges = 2 * size.n_obs * n_neighbors
    exact = size.n_obs < EXACT_BELOW.get(metric, EXACT_BELOW_OTHERWISE)
    other = not exact and metric not in IVF_METRICS  # pynndescent
    kept = _LIBRARIES + _KEPT_EDGE_BYTES * edges + other * _PYNNDESCENT
    return Price(int(size.rep_is_x), kept + 2 * size.rep + other * _INDEX, kept)


@priced(_price)
def neighbors(
    adata: AnnData,
    n_neighbors: int = 15,
    n_pcs: int | None = None,
    *,
    use_rep: str | None = None,
    knn: bool = True,
    method: str = "umap",
    transformer: str | None = None,
    metric: str = "euclidean",
    metric_kwds: Mapping[str, Any] = _NO_KWDS,
    random_state: int = 0,
    key_added: str | None = None,
    copy: bool = False,
    min_recall: float = 0.95,
    compact: bool | str = "auto",
) -> AnnData | None:
    """Find every cell's nearest neighbours and weigh them into a graph.

    Exact up to 32,768 cells (4,096 if not euclidean), above approximate with a measured recall: by clusters of cells
    and neighbours of neighbours (Jegou, Douze & Schmid 2011; Dong, Moses & Li 2011); metrics other than
    ``euclidean``, ``cosine`` and ``correlation`` by pynndescent.

    Parameters
    ----------
    adata
        Annotated matrix with ``obsm["X_pca"]`` or at most 50 genes.
    n_neighbors
        Neighbours of a cell, itself counted, at least 2; more than there are cells becomes half of them (warned).
    n_pcs
        Use so many columns of the representation; 0 stands for X.
    use_rep
        Key of obsm, or ``"X"``; None: ``X_pca``, else an X of at most 50 genes.
    knn
        True only: a graph without a cut-off would hold ``n_obs x n_obs`` weights.
    method
        Weights: ``umap`` (McInnes, Healy & Melville 2018), ``gauss`` (Haghverdi et al. 2016) or ``jaccard`` (Levine et
        al. 2015).
    transformer
        Search: None (chosen by size), ``ivf`` (ours), ``pynndescent`` or ``sklearn`` (exact).
    metric, metric_kwds
        Distance (``sc_dask.graph.knn.neighbors.METRICS``) and its options.
    random_state
        Seed of the search.
    key_added
        Name of the graph; None: ``neighbors``.
    copy
        Return a changed copy.
    min_recall
        Share of the true neighbours of 1,000 cells that must be found; the search goes on while it can.
    compact
        Group the cells into landmarks and keep the graph of all cells in shards in the work-dir, so that no process
        holds all of it. ``auto``: of a lazy representation, beyond 5 million cells, or if the graph would not fit the
        budget ``sc-dask.memory``. Euclidean distance and ``umap`` weights only.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obsp ``distances`` (n_obs, n_obs) float32, ``n_neighbors - 1`` a row; obsp ``connectivities`` (n_obs, n_obs)
    float32, symmetric; uns ``neighbors``: ``connectivities_key``, ``distances_key`` and ``params`` with ``recall``
    and ``knn_method``. With ``key_added``: obsp ``<key>_distances``, ``<key>_connectivities`` and uns ``<key>``. A
    landmark graph writes nothing to obsp, but obs ``landmark`` (``<key>_landmark``) int32, and uns ``neighbors``:
    ``compact`` with ``folder``, ``n_landmarks``, ``n_shards`` and ``inner_weight``, the share of weight within
    landmarks.

    Passes: 0 (1 if X is the representation). Memory: the representation twice and 80 bytes per cell and neighbour;
    a landmark graph 12 bytes a cell and, of each worker, three times 250,000 rows of the representation.

    Raises
    ------
    MissingKeyError
        There is no representation.
    InputError
        It is not finite, or an option is unknown or does not apply.
    RecallWarning
        (warned) The recall stayed below ``min_recall``.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.random.default_rng(0).normal(size=(60, 5)).astype("float32"))
    >>> sd.pp.neighbors(adata, n_neighbors=5)
    >>> adata.obsp["distances"].nnz, adata.uns["neighbors"]["params"]["recall"]
    (240, 1.0)
    """
    check_new(key_added=key_added)
    if not knn:
        raise InputError("found knn=False", "knn=True: a graph without a cut-off does not scale", "raise n_neighbors")
    if method not in connectivities.METHODS:
        raise InputError(f"found method={method!r}", "one of " + ", ".join(connectivities.METHODS))
    if not (transformer is None or isinstance(transformer, str)) or transformer not in _SEARCHES:
        raise InputError(f"found transformer={transformer!r}", "None, 'ivf', 'pynndescent' or 'sklearn'")
    params: dict[str, Any] = {
        "n_neighbors": n_neighbors,
        "method": method,
        "random_state": random_state,
        "metric": metric,
    }
    options = {"metric_kwds": dict(metric_kwds) or None, "use_rep": use_rep, "n_pcs": n_pcs}
    params |= {key: value for key, value in options.items() if value is not None}
    prefix = "" if key_added is None else f"{key_added}_"
    if choice.wanted(adata, compact, n_neighbors, use_rep, n_pcs):
        if metric != "euclidean" or method != "umap" or transformer not in (None, "ivf"):
            raise InputError(
                f"found metric={metric!r}, method={method!r}, transformer={transformer!r} of a landmark graph",
                "euclidean, umap and None",
                "use compact=False",
            )
        graph = choice.made(adata, n_neighbors, use_rep, n_pcs, min_recall, random_state)
        adata = adata.copy() if copy else adata
        _write_landmarks(adata, graph, params, prefix, key_added)
        return adata if copy else None
    x = get.embedding(adata, use_rep, n_pcs)
    found, weights = run.call(
        _graph,
        x,
        n_neighbors,
        method,
        metric=metric,
        metric_kwds=dict(metric_kwds),
        method_of_search=_SEARCHES[transformer],
        random_state=random_state,
        min_recall=min_recall,
        n_jobs=config.n_threads(),  # of pynndescent, other threads find other neighbours: not the worker's number
    )
    params |= {"n_neighbors": found.n_neighbors, "recall": found.recall, "knn_method": found.method}
    keys = {"connectivities_key": f"{prefix}connectivities", "distances_key": f"{prefix}distances"}
    adata = adata.copy() if copy else adata
    slots.write(
        adata,
        {
            ("uns", key_added or "neighbors"): {**keys, "params": params},
            ("obsp", keys["distances_key"]): connectivities.distances_matrix(found),
            ("obsp", keys["connectivities_key"]): weights,
        },
        writer="pp.neighbors",
    )
    return adata if copy else None


def _write_landmarks(
    adata: AnnData, graph: LandmarkGraph, params: dict[str, Any], prefix: str, key_added: str | None
) -> None:
    info = {
        "folder": graph.shards.folder,
        "n_landmarks": int(graph.landmarks.shape[0]),
        "n_shards": graph.shards.n,
        "inner_weight": graph.inner_weight(),
    }
    params = {**params, "recall": graph.recall, "knn_method": "ivf"}
    slots.write(
        adata,
        {
            ("uns", key_added or "neighbors"): {"params": params, "compact": info},
            ("obs", f"{prefix}landmark"): graph.to_cells(graph.groups),
        },
        writer="pp.neighbors",
    )


def _graph(
    x: NDArray[Any], n_neighbors: int, weigh: str, *, method_of_search: str, **options: Any
) -> tuple[KNN, sp.csr_matrix]:
    """Search and weigh in one place, so that the neighbours travel once."""
    found = search(x, n_neighbors, method=method_of_search, **options)
    return found, connectivities.METHODS[weigh](found)
