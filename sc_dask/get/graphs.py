"""Representations of the cells and their neighbour graphs, read from an AnnData."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import scipy.sparse as sp
from dask.local import get_sync

from sc_dask.array.blocks import collect_rows
from sc_dask.array.engine import run
from sc_dask.errors import InputError, MissingKeyError, StoreError
from sc_dask.get.columns import in_memory, listed, matrix
from sc_dask.graph.sharded.landmarks import LandmarkGraph
from sc_dask.kernels.csr import to_dense
from sc_dask.work import WorkFolder

if TYPE_CHECKING:
    from anndata import AnnData


_BROUGHT: dict[str, WorkFolder] = {}  # graphs of buckets that this process has fetched, by URL


def embedding(adata: AnnData, use_rep: str | None = None, n_pcs: int | None = None) -> np.ndarray:
    """Return the coordinates of the cells (n_obs, n_dims) that graph functions work on.

    As scanpy chooses: ``use_rep`` if given (``"X"`` is X itself); X with ``n_pcs=0`` or with at most 50 genes;
    else ``X_pca``.
    """
    if use_rep is None and (n_pcs == 0 or adata.n_vars <= 50):
        use_rep = "X"
    if use_rep == "X":
        dense = collect_rows(to_dense, matrix(adata), dtype=np.float32)
        return np.asarray(run.compute(dense))
    if use_rep is None:
        use_rep = "X_pca"
        if use_rep not in adata.obsm:
            raise MissingKeyError("no X_pca in adata.obsm", "principal components", "pp.pca(adata)")
    if use_rep not in adata.obsm:
        raise MissingKeyError(f"no {use_rep!r} in adata.obsm", f"one of: {listed(adata.obsm)}", "pp.pca(adata)")
    x = in_memory(adata.obsm[use_rep])
    if n_pcs is not None and n_pcs:
        if n_pcs > x.shape[1]:
            raise InputError(f"n_pcs={n_pcs}", f"at most {x.shape[1]} ({use_rep})", f"pp.pca(adata, n_comps={n_pcs})")
        x = x[:, :n_pcs]
    return x


def embedding_rows(
    adata: AnnData, use_rep: str | None = None, n_pcs: int | None = None
) -> tuple[tuple[int, int], Callable[[int, int], np.ndarray], bool]:
    """Return the shape of what `embedding` returns, a function that reads some rows of it, and whether it is lazy."""
    if use_rep is None and (n_pcs == 0 or adata.n_vars <= 50):  # as `embedding` chooses
        use_rep = "X"
    lazy = adata.obsm.get(use_rep or "X_pca") if use_rep != "X" else None
    if not isinstance(lazy, da.Array):
        x = embedding(adata, use_rep, n_pcs)
        return (x.shape[0], x.shape[1]), partial(_rows, x), False
    if n_pcs:
        lazy = lazy[:, :n_pcs]
    return (lazy.shape[0], lazy.shape[1]), partial(_lazy_rows, lazy), True


def _rows(x: np.ndarray, begin: int, end: int) -> np.ndarray:
    return np.ascontiguousarray(x[begin:end], dtype=np.float32)


def _lazy_rows(x: da.Array, begin: int, end: int) -> np.ndarray:
    """Read rows in this very thread: a task must not ask the cluster that it runs on."""
    part = x[begin:end]
    blocks = get_sync(dict(part.dask), part.__dask_keys__())
    return np.ascontiguousarray(np.block([list(row) for row in blocks]), dtype=np.float32)


def landmark_graph(adata: AnnData, neighbors_key: str | None = None) -> LandmarkGraph | None:
    """Return the landmark graph of ``pp.neighbors(compact=True)``; None if it is a graph of all cells."""
    entry = adata.uns.get("neighbors" if neighbors_key is None else neighbors_key)
    if entry is None or "compact" not in entry:
        return None
    folder = str(entry["compact"]["folder"])
    return LandmarkGraph.opened(_brought(folder, adata) if "://" in folder else folder, adata.n_obs)


def _brought(url: str, adata: AnnData) -> str:
    """Bring the graph of a store in a bucket to this machine, once a process; X knows how the bucket is reached."""
    if url not in _BROUGHT:
        x = matrix(adata) if adata.X is not None else None
        location = None if x is None else x.expression.source.place
        if location is None:
            raise StoreError(
                f"the landmark graph is at {url}",
                "a lazy X that is read from the same store",
                "sd.read, or run pp.neighbors again",
            )
        fs, _ = location.fs()
        area = WorkFolder.make("graph")
        fs.get(f"{fs._strip_protocol(url)}/", f"{area}/", recursive=True)
        _BROUGHT[url] = area
    return str(_BROUGHT[url])


def graph(adata: AnnData, neighbors_key: str | None = None, obsp: str | None = None) -> sp.csr_matrix:
    """Return the connectivities (n_obs, n_obs) of a neighbour graph, or any matrix of obsp."""
    if obsp is not None and neighbors_key is not None:
        raise InputError("both obsp and neighbors_key were given", "one of them")
    if obsp is None:
        key = "neighbors" if neighbors_key is None else neighbors_key
        if key not in adata.uns:
            raise MissingKeyError(f"no {key!r} in adata.uns", "a neighbour graph", "pp.neighbors(adata)")
        if "compact" in adata.uns[key]:
            raise MissingKeyError(
                f"{key!r} is a landmark graph and not in adata.obsp",
                "a graph of all cells",
                "pp.neighbors(compact=False)",
            )
        obsp = adata.uns[key].get("connectivities_key", "connectivities")
    if obsp not in adata.obsp:
        raise MissingKeyError(f"no {obsp!r} in adata.obsp", f"one of: {listed(adata.obsp)}", "pp.neighbors(adata)")
    return sp.csr_matrix(adata.obsp[obsp])  # that of all pairs of cells is an array


def distances(adata: AnnData, neighbors_key: str | None = None) -> sp.csr_matrix:
    """Return the distances (n_obs, n_obs) to the nearest neighbours that a graph was made of."""
    key = "neighbors" if neighbors_key is None else neighbors_key
    graph(adata, key)  # says what is missing
    return graph(adata, obsp=adata.uns[key].get("distances_key", "distances"))
