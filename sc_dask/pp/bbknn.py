"""A neighbour graph in which every batch has its share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import config, get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError
from sc_dask.graph import bbknn as engine
from sc_dask.graph import connectivities
from sc_dask.graph.knn.neighbors import IVF_METRICS
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


def _price(size: Size, *, batch_key: str, neighbors_within_batch: int, **_: Any) -> Price:
    edges = size.n_obs * neighbors_within_batch * size.levels(batch_key)
    return Price(0, 3 * size.rep + 80 * edges, 24 * edges, 75 * MIB)


@priced(_price)
def bbknn(
    adata: AnnData,
    *,
    batch_key: str = "batch",
    use_rep: str = "X_pca",
    approx: bool = True,
    metric: str = "euclidean",
    copy: bool = False,
    neighbors_within_batch: int = 3,
    n_pcs: int = 50,
    trim: int | None = None,
    set_op_mix_ratio: float = 1.0,
    local_connectivity: float = 1,
) -> AnnData | None:
    """Find every cell's nearest neighbours in each batch and weigh them into a graph (BBKNN; Polanski et al. 2020).

    In place of `neighbors`, where batches should mix.

    Parameters
    ----------
    adata
        Annotated matrix with ``obsm[use_rep]``.
    batch_key
        Column of obs with the batches, of at least ``neighbors_within_batch`` cells each.
    use_rep
        Key of obsm.
    approx
        Search batches above 32,768 cells by clusters, with a recall of 0.95 or more; False: exactly.
    metric
        ``euclidean``, ``cosine`` or ``correlation``.
    copy
        Return a changed copy.
    neighbors_within_batch
        Neighbours of a cell in each batch; in its own, itself counted.
    n_pcs
        Use so many columns of the representation, or all if there are fewer.
    trim
        Keep so many of a cell's strongest pairs; 0: all; None: ten times its neighbours.
    set_op_mix_ratio
        1: weights of pairs of which either cell has the other as a neighbour; 0: of which both; or between.
    local_connectivity
        Neighbours of a cell that weigh 1.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obsp ``distances`` (n_obs, n_obs) float32, obsp ``connectivities`` (n_obs, n_obs) float32, symmetric; uns
    ``neighbors``: ``connectivities_key``, ``distances_key`` and ``params`` with ``recall``, ``knn_method`` and
    ``bbknn``.

    Passes: 0. Memory: the representation and the largest batch twice, and 80 bytes per cell and neighbour (of all
    batches).

    Raises
    ------
    MissingKeyError
        No such column or representation.
    InputError
        A batch of too few cells, components that are not finite, or an option that is unknown or out of range.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 100, seed=1)
    >>> adata.obs["batch"] = ["a", "b"] * 100
    >>> sd.pp.pca(adata, n_comps=10)
    >>> sd.pp.bbknn(adata)
    >>> adata.uns["neighbors"]["params"]["n_neighbors"], adata.obsp["distances"].nnz
    (6, 1000)
    """
    batches = get.groups(adata, batch_key, missing="refuse")
    k = neighbors_within_batch
    if not isinstance(k, int | np.integer) or k < 1 or k * len(batches) < 2:
        raise InputError(
            f"found neighbors_within_batch={k!r} for {len(batches)} batches", "at least two neighbours in all"
        )
    batches.check_sizes(int(k))
    if metric not in IVF_METRICS:
        raise InputError(f"found metric={metric!r}", "one of " + ", ".join(IVF_METRICS))
    trim = 10 * k * len(batches) if trim is None else trim
    if trim < 0 or n_pcs < 1 or not 0 <= set_op_mix_ratio <= 1 or not local_connectivity >= 1:
        raise InputError(
            f"found trim={trim}, n_pcs={n_pcs}, set_op_mix_ratio={set_op_mix_ratio}, "
            f"local_connectivity={local_connectivity}",
            "trim not below 0, n_pcs and local_connectivity at least 1, a share from 0 to 1",
        )
    x = get.embedding(adata, use_rep)[:, :n_pcs]
    found, weights = run.call(
        engine.graph, x, batches.codes, int(k), int(trim), set_op_mix_ratio, float(local_connectivity),
        metric=metric, exact=not approx, n_jobs=config.n_threads(),
    )  # fmt: skip
    params: dict[str, Any] = {
        "n_neighbors": found.n_neighbors,
        "method": "umap",
        "metric": metric,
        "n_pcs": x.shape[1],
        "use_rep": use_rep,
        "recall": found.recall,
        "knn_method": found.method,
        "bbknn": {"batch_key": batch_key, "neighbors_within_batch": int(k), "trim": int(trim)},
    }
    keys = {"connectivities_key": "connectivities", "distances_key": "distances"}
    adata = adata.copy() if copy else adata
    slots.write(
        adata,
        {
            ("uns", "neighbors"): {**keys, "params": params},
            ("obsp", "distances"): connectivities.distances_matrix(found),
            ("obsp", "connectivities"): weights,
        },
        writer="pp.bbknn",
    )
    return adata if copy else None
