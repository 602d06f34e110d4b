"""The neighbour graph of the cells."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import config, get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.graph import connectivities, dense
from sc_dask.graph.knn import given
from sc_dask.graph.knn.neighbors import EXACT_BELOW, EXACT_BELOW_OTHERWISE, IVF_METRICS, check_options
from sc_dask.graph.knn.neighbors import knn as search
from sc_dask.graph.sharded.landmarks import LandmarkGraph
from sc_dask.log import begin, finished
from sc_dask.names import check_new
from sc_dask.pp import landmarks as choice
from sc_dask.pp.pca import pca
from sc_dask.price import MIB, Price, Size, price_of, priced

if TYPE_CHECKING:
    from anndata import AnnData

_SEARCHES = {None: "auto", "ivf": "ivf", "pynndescent": "pynndescent", "sklearn": "brute"}
_SMALL = 50  # an X of so many genes needs no PCA
_NO_KWDS: Mapping[str, Any] = MappingProxyType({})


_LIBRARIES, _PYNNDESCENT, _INDEX = 60 * MIB, 265 * MIB, 95 * MIB  # code; the same and an index of pynndescent
_KEPT_EDGE_BYTES = 12  # of a neighbour, both directions


def _price(
    size: Size, *, n_neighbors: int, n_pcs: int | None, metric: Any, knn: bool, distances: Any, **_: Any
) -> Price:
    edges = 2 * size.n_obs * n_neighbors
    kept = _LIBRARIES + _KEPT_EDGE_BYTES * edges
    if not knn:
        return Price(int(size.rep_is_x), kept + 40 * size.n_obs**2, 16 * size.n_obs**2)
    if distances is not None:
        return Price(0, 2 * kept, kept)
    before = price_of(pca, size, n_comps=n_pcs) if size.needs_pca else Price(int(size.rep_is_x))
    exact = size.n_obs < EXACT_BELOW.get(metric, EXACT_BELOW_OTHERWISE)
    other = not exact and metric not in IVF_METRICS  # pynndescent
    kept += other * _PYNNDESCENT
    return Price(before.passes, max(before.memory, kept + 2 * size.rep + other * _INDEX), kept)


@priced(_price)
def neighbors(
    adata: AnnData,
    n_neighbors: int = 15,
    n_pcs: int | None = None,
    *,
    distances: NDArray[Any] | sp.spmatrix | None = None,
    use_rep: str | None = None,
    knn: bool = True,
    method: str = "umap",
    transformer: Any = None,
    metric: str | Callable[..., float] | None = "euclidean",
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
        Annotated matrix with ``obsm["X_pca"]`` or at most 50 genes; else `pca` is run first (warned).
    n_neighbors
        Neighbours of a cell, itself counted, at least 2; more than there are cells becomes half of them (warned).
    n_pcs
        Use so many columns of the representation; 0 stands for X.
    distances
        Distances of cells (n_obs, n_obs), dense or sparse, to make a graph of: nothing is searched.
    use_rep
        Key of obsm, or ``"X"``; None: ``X_pca``, else an X of at most 50 genes.
    knn
        False: all pairs of cells get a weight, and distances and weights are arrays (n_obs, n_obs); with
        ``method="gauss"`` only, and for some thousand cells.
    method
        Weights: ``umap`` (McInnes, Healy & Melville 2018), ``gauss`` (Haghverdi et al. 2016) or ``jaccard`` (Levine et
        al. 2015).
    transformer
        Search: None (chosen by size), ``ivf`` (ours), ``pynndescent`` or ``sklearn`` (exact); or an object like
        scikit-learn's ``KNeighborsTransformer``, whose own options count.
    metric, metric_kwds
        Distance (``sc_dask.graph.knn.neighbors.METRICS``) and its options. Other distances of scikit-learn, and
        functions of two rows, are searched exactly, among at most 50,000 cells. None: ``euclidean``.
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
    landmarks. Where `pca` must be run: obsm ``X_pca``, varm ``PCs`` and uns ``pca``, as there.

    Passes: 0 (1 if X is the representation, 2 if `pca` must be run). Memory: the representation twice
    and 80 bytes per cell and neighbour; a landmark graph 12 bytes a cell and, of each worker, three times 250,000 rows
    of the representation; with ``knn=False`` 40 bytes for each pair of cells.

    Raises
    ------
    MissingKeyError
        There is no such representation.
    MemoryBudgetError
        ``knn=False``, and all pairs of cells do not fit.
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
    if distances is not None:
        ignored = {"use_rep": use_rep, "n_pcs": n_pcs, "metric_kwds": dict(metric_kwds) or None}
        _warn_ignored(ignored | {"knn": knn or False, "transformer": transformer, "random_state": random_state or None})
        transformer, knn = None, True
    metric = "euclidean" if metric is None and distances is None else metric
    _check(method, knn, transformer, metric)
    start = begin("computing neighbors" if distances is None else "computing connectivities")
    adata = adata.copy() if copy else adata
    if distances is None:
        assert metric is not None  # it is with distances alone
        if not knn:
            dense.check(adata.n_obs, n_neighbors)
        elif transformer is None or isinstance(transformer, str):
            check_options(adata.n_obs, n_neighbors, metric, metric_kwds, _SEARCHES[transformer], min_recall)
        _fall_back_to_pca(adata, use_rep, n_pcs)
    named = {"metric": metric if isinstance(metric, str | None) else getattr(metric, "__name__", str(metric))}
    params: dict[str, Any] = {"n_neighbors": n_neighbors, "method": method, "random_state": random_state, **named}
    options = {"metric_kwds": dict(metric_kwds) or None, "use_rep": use_rep, "n_pcs": n_pcs}
    params |= {key: value for key, value in options.items() if value is not None}
    prefix = "" if key_added is None else f"{key_added}_"
    if distances is None and knn and choice.wanted(adata, compact, n_neighbors, use_rep, n_pcs):
        if metric != "euclidean" or method != "umap" or transformer not in (None, "ivf"):
            raise InputError(
                f"found metric={metric!r}, method={method!r}, transformer={transformer!r} of a landmark graph",
                "euclidean, umap and None",
                "use compact=False",
            )
        graph = choice.made(adata, n_neighbors, use_rep, n_pcs, min_recall, random_state)
        _write_landmarks(adata, graph, params, prefix, key_added)
        finished(start)
        return adata if copy else None
    if distances is not None:
        made = _of_distances(distances, n_neighbors, method)
    else:
        x = get.embedding(adata, use_rep, n_pcs)
        how: dict[str, Any] = {"metric": metric, "metric_kwds": dict(metric_kwds)}
        if not knn:
            made = run.call(_of_all_pairs, x, n_neighbors, **how)
        elif transformer is not None and not isinstance(transformer, str):
            made = run.call(_of_transformer, x, transformer, method)
        else:
            # of pynndescent, other threads find other neighbours: not the worker's number
            how |= {"random_state": random_state, "min_recall": min_recall, "n_jobs": config.n_threads()}
            made = run.call(_searched, x, n_neighbors, method, method_of_search=_SEARCHES[transformer], **how)
    params |= made.params
    keys = {"connectivities_key": f"{prefix}connectivities", "distances_key": f"{prefix}distances"}
    writes = {
        ("uns", key_added or "neighbors"): {**keys, "params": params},
        ("obsp", keys["distances_key"]): made.distances,
        ("obsp", keys["connectivities_key"]): made.weights,
    }
    slots.write(adata, writes, writer="pp.neighbors", since=start)
    return adata if copy else None


def _check(method: str, knn: bool, transformer: Any, metric: Any) -> None:
    if method not in connectivities.METHODS:
        raise InputError(f"found method={method!r}", "one of " + ", ".join(connectivities.METHODS))
    if not (hasattr(transformer, "fit_transform") or transformer is None or isinstance(transformer, str)):
        raise InputError(f"found transformer={transformer!r}", "a name, or an object with fit_transform")
    if isinstance(transformer, str) and transformer not in _SEARCHES:
        raise InputError(f"found transformer={transformer!r}", "None, 'ivf', 'pynndescent' or 'sklearn'")
    if not knn and (method != "gauss" or transformer is not None):
        raise InputError(
            f"found method={method!r}, transformer={transformer!r} with knn=False",
            "method='gauss' and no transformer",
            "knn=True, and raise n_neighbors",
        )
    if not (metric is None or isinstance(metric, str) or callable(metric)):
        raise InputError(f"found metric={metric!r}", "a name or a function of two rows")


def _warn_ignored(options: Mapping[str, Any]) -> None:
    ignored = sorted(name for name, value in options.items() if value is not None and value is not True)
    if ignored:
        warnings.warn(f"Parameter(s) ignored if `distances` is given: {', '.join(ignored)}", ScDaskWarning, 3)


def _fall_back_to_pca(adata: AnnData, use_rep: str | None, n_pcs: int | None) -> None:
    """Run `pca` where a graph of X_pca is meant and there is none, as scanpy does."""
    if use_rep is not None or n_pcs == 0 or adata.n_vars <= _SMALL or "X_pca" in adata.obsm:
        return
    warnings.warn(
        f"there is no X_pca, and X has {adata.n_vars} dimensions: falling back to pp.pca with its defaults; next: "
        "pp.pca(adata) first, or use_rep='X' if X itself is meant",
        ScDaskWarning,
        stacklevel=3,
    )
    pca(adata, n_pcs)


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


@dataclass(frozen=True)
class _Made:
    """A graph as it is written, and what is noted of its making."""

    distances: Any
    weights: Any
    params: dict[str, Any]


def _searched(x: NDArray[Any], n_neighbors: int, weigh: str, *, method_of_search: str, **options: Any) -> _Made:
    """Search and weigh in one place, so that the neighbours travel once."""
    found = search(x, n_neighbors, method=method_of_search, **options)
    params = {"n_neighbors": found.n_neighbors, "recall": found.recall, "knn_method": found.method}
    return _Made(connectivities.distances_matrix(found), connectivities.METHODS[weigh](found), params)


def _of_transformer(x: NDArray[Any], transformer: Any, weigh: str) -> _Made:
    found, matrix = given.of_transformer(transformer, x)
    params = {"n_neighbors": found.n_neighbors, "knn_method": type(transformer).__name__}
    return _Made(matrix, connectivities.METHODS[weigh](found), params)


def _of_all_pairs(x: NDArray[Any], n_neighbors: int, **options: Any) -> _Made:
    pairs = dense.distances(x, **options)
    return _Made(pairs, dense.gauss(pairs, n_neighbors), {"knn_method": "all pairs"})


def _of_distances(distances: NDArray[Any] | sp.spmatrix, n_neighbors: int, weigh: str) -> _Made:
    """Weigh what was given; zeros on the diagonal are nobody's neighbours."""
    if sp.issparse(distances):
        matrix = sp.csr_matrix(distances, copy=True)
        matrix.setdiag(0)
        matrix.eliminate_zeros()
        found = given.of_distances(matrix, n_neighbors)
        return _Made(matrix, connectivities.METHODS[weigh](found), {"knn_method": "given"})
    matrix = np.array(distances)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise InputError(f"found distances of type {type(distances).__name__}", "a matrix of numbers, cells x cells")
    found = given.of_distances(matrix, n_neighbors)
    np.fill_diagonal(matrix, 0)
    if weigh == "gauss":
        weights = dense.gauss(matrix, n_neighbors, neighbours=found.indices[:, 1:])
    else:
        weights = connectivities.METHODS[weigh](found)
    return _Made(matrix, weights, {"knn_method": "given"})
