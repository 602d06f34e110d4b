"""One step of the graph stage by one engine: ``python -m benchmarks.graph.job STEP X.npy FOLDER`` prints JSON.

``neighbours`` leaves its graph in FOLDER for the steps after it, so that all engines cluster and lay out the same
graph.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

_UMAP_EPOCHS = 200


def _graph(folder: str) -> sp.csr_matrix:
    return sp.load_npz(Path(folder) / "graph.npz")


def neighbours(x: np.ndarray, folder: str) -> dict[str, Any]:
    """Ours: neighbours and weights."""
    from sc_dask.graph import connectivities
    from sc_dask.graph.knn.neighbors import knn

    found = knn(x, 15)
    graph = connectivities.umap(found)
    return {"recall": found.recall, "_graph": graph}


def scanpy_neighbours(x: np.ndarray, folder: str) -> dict[str, Any]:
    """The same by scanpy: pynndescent and umap-learn's weights."""
    import anndata as ad
    import scanpy as sc

    adata = ad.AnnData(sp.csr_matrix((x.shape[0], 1), dtype=np.float32), obsm={"X_pca": x})
    _with_getnnz()
    sc.pp.neighbors(adata, use_rep="X_pca", n_neighbors=15)
    return {"_distances": adata.obsp["distances"]}


def _with_getnnz() -> None:
    """Give scipy's csr_array the method that scanpy 1.11 asks for and scipy 1.17 no longer has."""
    if not hasattr(sp.csr_array, "getnnz"):
        sp.csr_array.getnnz = lambda m, axis=None: m.nnz if axis is None else np.diff(m.indptr)


def leiden(x: np.ndarray, folder: str, flavor: str = "sc_dask") -> dict[str, Any]:
    """Two iterations of Leiden, the graph handed over included."""
    from sc_dask.graph.cluster import leiden as find

    found = find(_graph(folder), flavor=flavor, n_iterations=2)
    return {"modularity": found.modularity, "clusters": found.n_groups}


def igraph_leiden(x: np.ndarray, folder: str) -> dict[str, Any]:
    """The same by igraph."""
    return leiden(x, folder, "igraph")


def umap(x: np.ndarray, folder: str, init_pos: str = "spectral") -> dict[str, Any]:
    """200 rounds from a spectral start."""
    from sc_dask.graph.layout import umap as lay_out

    return {"_coords": lay_out(_graph(folder), x, init_pos=init_pos).coords}


def umap_multilevel(x: np.ndarray, folder: str) -> dict[str, Any]:
    """From a multilevel start."""
    return umap(x, folder, "multilevel")


def umap_learn(x: np.ndarray, folder: str) -> dict[str, Any]:
    """Do 200 rounds by umap-learn on all threads (no seed), from principal components: its quickest start."""
    from umap.umap_ import find_ab_params, simplicial_set_embedding

    a, b = find_ab_params(1.0, 0.5)
    start = (10 * x[:, :2] / np.abs(x[:, :2]).max()).astype(np.float32)
    coords, _ = simplicial_set_embedding(
        x, _graph(folder).tocoo(), 2, 1.0, a, b, 1.0, 5, _UMAP_EPOCHS, start, np.random.RandomState(0), "euclidean", {},
        False, {}, False, parallel=True,
    )  # fmt: skip
    return {"_coords": coords}


STEPS: dict[str, Callable[[np.ndarray, str], dict[str, Any]]] = {
    f.__name__: f for f in (neighbours, scanpy_neighbours, leiden, igraph_leiden, umap, umap_multilevel, umap_learn)
}


def main() -> None:
    """Run one step and measure what came of it, which is not part of its time."""
    step, path, folder = sys.argv[1:]
    warnings.simplefilter("ignore")
    x = np.load(path)
    start = time.perf_counter()
    report = STEPS[step](x, folder)
    report["step_s"] = time.perf_counter() - start
    from sc_dask import log, metrics

    report["peak_rss_bytes"] = log.peak_rss_bytes()
    if "_graph" in report:
        sp.save_npz(Path(folder) / "graph.npz", report.pop("_graph"), compressed=False)
    if "_distances" in report:
        report["recall"] = metrics.recall(report.pop("_distances"), x)
    if "_coords" in report:
        coords = report.pop("_coords")
        report["trustworthiness"] = metrics.trustworthiness(x, coords)
        report["preservation"] = metrics.neighborhood_preservation(x, coords)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
