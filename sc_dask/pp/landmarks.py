"""When neighbours become a landmark graph, and the making of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import is_dask_collection

from sc_dask import config, get
from sc_dask.array.engine import run
from sc_dask.errors import InputError
from sc_dask.graph.knn import recall
from sc_dask.graph.knn.neighbors import check_finite
from sc_dask.graph.sharded.landmarks import LandmarkGraph, Source, build
from sc_dask.work import WorkFolder

if TYPE_CHECKING:
    from anndata import AnnData

# Beyond so many cells one machine walks a graph of all cells too slowly for anybody to wait.
_TOO_MANY = 5_000_000
_CELL_BYTES, _EDGE_BYTES = 150, 60  # of a graph of all cells while it is made and used
_ROWS_A_BLOCK = 65_536


def wanted(adata: AnnData, choice: bool | str, n_neighbors: int, use_rep: str | None, n_pcs: int | None) -> bool:
    """Tell whether to make a landmark graph: as asked, or by size, budget and where the representation is."""
    if isinstance(choice, bool):
        return choice
    if choice != "auto":
        raise InputError(f"found compact={choice!r}", "True, False or 'auto'")
    of_x = use_rep == "X" or (use_rep is None and (n_pcs == 0 or adata.n_vars <= 50))
    if of_x or (use_rep or "X_pca") not in adata.obsm:
        return False
    budget = config.n_bytes("memory")
    n_bytes = adata.n_obs * (_CELL_BYTES + 2 * n_neighbors * _EDGE_BYTES)
    too_large = budget is not None and n_bytes > budget
    return too_large or adata.n_obs > _TOO_MANY or is_dask_collection(adata.obsm[use_rep or "X_pca"])


def made(
    adata: AnnData, n_neighbors: int, use_rep: str | None, n_pcs: int | None, min_recall: float, seed: int
) -> LandmarkGraph:
    """Make the landmark graph in a folder of the work-dir."""
    shape, read, lazy = get.embedding_rows(adata, use_rep, n_pcs)
    if not 2 <= n_neighbors <= shape[0] // 2:
        raise InputError(
            f"found n_neighbors={n_neighbors} of {shape[0]} cells", "from 2 to half of the cells", "use compact=False"
        )
    lasting = config.get("work-dir") is not None  # a place of the user's: results may be written elsewhere and name it
    if not lasting and run.client() is not None:
        raise InputError(
            "found a cluster and no work-dir",
            "a folder that all workers see",
            'dask.config.set({"sc-dask.work-dir": ...})',
        )
    area = WorkFolder.make("graph", lasting=lasting)
    area.keep()
    folder = str(area)
    checked = partial(_finite, read)
    tasks = run.map_tasks
    graph = build(
        Source(shape, checked, _ROWS_A_BLOCK), n_neighbors, folder, tasks, min_recall=min_recall, seed=seed
    ).saved()
    recall.warn_below(min_recall, graph.recall, stacklevel=3)
    return graph


def _finite(read: Any, begin: int, end: int) -> np.ndarray:
    rows = read(begin, end)
    check_finite(rows, begin)
    return rows
