"""A two-dimensional picture of the neighbour graph."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sc_dask import config, get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.graph import layout
from sc_dask.log import begin, rounds
from sc_dask.names import check_new
from sc_dask.price import MIB, Price, Size, priced
from sc_dask.tl.paga import first_coordinates

if TYPE_CHECKING:
    from anndata import AnnData


_LIBRARIES, _CODE = 15 * MIB, 170 * MIB
_KEPT_EDGE_BYTES, _UMAP_LEARN_EDGE_BYTES = 6, 107  # of a neighbour


def _price(size: Size, *, method: str, **_: Any) -> Price:
    kept = _LIBRARIES + _KEPT_EDGE_BYTES * size.n_edges
    other = method != "umap"  # umap-learn
    memory = kept + (12 + other * _UMAP_LEARN_EDGE_BYTES) * size.n_edges
    return Price(int(size.rep_is_x), memory + size.rep_is_x * size.rep, kept, _CODE)


@priced(_price)
def umap(
    adata: AnnData,
    *,
    min_dist: float = 0.5,
    spread: float = 1.0,
    n_components: int = 2,
    maxiter: int | None = None,
    alpha: float = 1.0,
    gamma: float = 1.0,
    negative_sample_rate: int = 5,
    init_pos: str | NDArray[Any] = "spectral",
    random_state: int = 0,
    a: float | None = None,
    b: float | None = None,
    method: str = "umap",
    key_added: str | None = None,
    neighbors_key: str = "neighbors",
    copy: bool = False,
) -> AnnData | None:
    """Lay out the neighbour graph by UMAP (McInnes, Healy & Melville 2018).

    Our own optimisation of umap-learn's objective, with the same result on any number of threads;
    ``method="umap-learn"`` gives scanpy's very coordinates, on one thread.

    Parameters
    ----------
    adata
        Annotated matrix with a graph (``pp.neighbors``) and the representation that it was made from.
    min_dist, spread
        Least distance of drawn cells, and the scale at which they spread.
    n_components
        Dimensions.
    maxiter
        Rounds of optimisation; None: 500 up to 10,000 cells, 200 above; from a ``multilevel`` start 175 and 70.
    alpha, gamma, negative_sample_rate
        Learning rate, and weight and number of the repelling samples.
    init_pos
        ``spectral``, ``random``, ``pca``, a key of obsm, coordinates (n_obs x n_components), or ``paga``: cells start
        at their groups (``tl.paga``; two dimensions). ``multilevel`` (not with umap-learn) lays out groups of cells
        first, then the cells, which takes fewer rounds on large graphs.
    random_state
        Seed.
    a, b
        The curve; None: fitted to ``min_dist`` and ``spread``.
    method
        ``umap`` or ``umap-learn``.
    key_added
        Key of obsm and uns; None: ``X_umap`` and ``umap``.
    neighbors_key
        Which graph.
    copy
        Return a changed copy.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obsm ``X_umap`` (n_obs, n_components) float32; uns ``umap``: ``params`` with ``a``, ``b`` and a ``random_state``
    that is not 0. With ``key_added``: obsm ``<key>`` and uns ``<key>``.

    On a landmark graph (``pp.neighbors``) landmarks are laid out, then all cells for ``maxiter`` rounds (None: 30)
    shard by shard.

    Passes: 0 (1 if X is the representation). Memory: about 30 bytes an edge; with umap-learn 100.

    Raises
    ------
    MissingKeyError
        The graph, its representation or, for ``paga``, the graph of groups is not there.
    InputError
        An option is unknown or shapes do not fit.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.random.default_rng(0).normal(size=(60, 5)).astype("float32"))
    >>> sd.pp.neighbors(adata, n_neighbors=5)
    >>> sd.tl.umap(adata)
    >>> adata.obsm["X_umap"].shape
    (60, 2)
    """
    start = begin("computing UMAP")
    check_new(key_added=key_added)
    if method not in layout.METHODS:
        raise InputError(f"found method={method!r}", "one of " + ", ".join(layout.METHODS))
    landmark_graph = get.landmark_graph(adata, neighbors_key)
    if isinstance(init_pos, str) and init_pos in adata.obsm:
        init_pos = get.embedding(adata, init_pos)
    elif isinstance(init_pos, str) and init_pos == "paga" and landmark_graph is None:
        init_pos = first_coordinates(adata, random_state)
    options: dict[str, Any] = {
        "n_components": n_components, "min_dist": min_dist, "spread": spread, "maxiter": maxiter, "alpha": alpha,
        "gamma": gamma, "negative_sample_rate": negative_sample_rate, "random_state": random_state, "a": a, "b": b,
        "n_jobs": config.n_threads(),
    }  # fmt: skip
    if landmark_graph is None:
        result = _of_all_cells(adata, neighbors_key, init_pos=init_pos, method=method, **options)
    elif method == "umap" and isinstance(init_pos, str) and init_pos in ("spectral", "multilevel"):
        result = layout.of_landmarks(landmark_graph, run.map_tasks, **options)
    else:
        raise InputError(
            "found a landmark graph, and a method or a start that needs a graph of all cells",
            "method='umap' and init_pos='multilevel'",
            "use pp.neighbors(compact=False) before",
        )
    stored: dict[str, Any] = {"a": result.a, "b": result.b}
    if random_state != 0:
        stored["random_state"] = random_state
    adata = adata.copy() if copy else adata
    slots.write(
        adata,
        {("obsm", key_added or "X_umap"): result.coords, ("uns", key_added or "umap"): {"params": stored}},
        writer="tl.umap",
        since=start,
    )
    return adata if copy else None


def _of_all_cells(adata: AnnData, neighbors_key: str, **options: Any) -> layout.Coordinates:
    connectivities = get.graph(adata, neighbors_key)
    params = adata.uns[neighbors_key].get("params", {})
    if params.get("method") != "umap":
        warnings.warn(
            f"the graph {neighbors_key!r} was weighed with method={params.get('method')!r}, not 'umap'",
            ScDaskWarning,
            stacklevel=3,
        )
    result: layout.Coordinates = run.call(
        layout.umap,
        connectivities,
        get.embedding(adata, params.get("use_rep"), params.get("n_pcs")),
        metric=params.get("metric", "euclidean"),
        metric_kwds=params.get("metric_kwds", {}),
        on_epoch=rounds("layout") if run.client() is None else None,
        **options,
    )
    return result
