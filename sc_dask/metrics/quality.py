"""How good a neighbour graph, a clustering or a layout is, measured on a sample of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from sc_dask import config
from sc_dask.errors import InputError
from sc_dask.graph.knn import exact
from sc_dask.graph.knn.recall import of_neighbours
from sc_dask.graph.partition import threaded
from sc_dask.groups import Name, of_column

Labels = Sequence[Any] | pd.Series | NDArray[Any]
_ROWS_AT_ONCE = 16


def recall(
    distances: sp.csr_matrix,
    x: NDArray[Any],
    *,
    n_cells: int = 1000,
    metric: str = "euclidean",
    random_state: int = 0,
) -> float:
    """Return the share of true neighbours that a graph holds; another cell at the same distance counts as found.

    Parameters
    ----------
    distances
        ``n_obs x n_obs``, as ``obsp["distances"]``: the same number of neighbours for every cell.
    x
        ``n_obs x n_dims``, what they were searched in.
    n_cells
        Cells that are searched exactly; all of them if there are fewer.

    Memory: some 300 MiB.

    Raises
    ------
    InputError
        Shapes do not fit, or cells have different numbers of neighbours.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.random.default_rng(0).normal(size=(60, 5)).astype("float32"))
    >>> sd.pp.neighbors(adata, n_neighbors=5)
    >>> sd.metrics.recall(adata.obsp["distances"], adata.X)
    1.0
    """
    n_obs = x.shape[0]
    sizes = np.diff(distances.indptr)
    if distances.shape != (n_obs, n_obs) or sizes.size == 0 or sizes.min() != sizes.max() or sizes[0] == 0:
        raise InputError(
            f"found a graph of shape {distances.shape} for {n_obs} cells, or unequal numbers of neighbours",
            "obsp['distances'] of pp.neighbors",
        )
    k = int(sizes[0])
    rows = _sample(n_obs, n_cells, random_state)
    at = (distances.indptr[rows][:, None] + np.arange(k)).ravel()
    own = np.zeros((rows.size, 1))
    found = (
        np.hstack([rows[:, None], distances.indices[at].reshape(-1, k)]).astype(np.int32),
        np.hstack([own, distances.data[at].reshape(-1, k)]).astype(np.float32),
    )
    true = exact.of_rows(x, k + 1, rows, metric=metric, n_jobs=config.n_threads())
    return of_neighbours(found, true)


def trustworthiness(
    x: NDArray[Any], coords: NDArray[Any], *, n_neighbors: int = 15, n_cells: int = 1000, random_state: int = 0
) -> float:
    """Return how far cells that are neighbours in a layout are neighbours in fact (Venna & Kaski 2001): 1 if all are.

    Of all cells it is scikit-learn's ``trustworthiness``; of a sample, its mean over the sample, with ranks among all.

    Parameters
    ----------
    x, coords
        ``n_obs x n_dims`` and ``n_obs x n_components``.
    n_neighbors
        Neighbours that count, the cell itself left out; below half of the cells.

    Memory: 16 distances to all cells a thread.

    Raises
    ------
    InputError
        Shapes do not fit, or there are too many neighbours.

    Examples
    --------
    >>> import numpy as np, sc_dask as sd
    >>> x = np.random.default_rng(0).normal(size=(200, 5))
    >>> sd.metrics.trustworthiness(x, x)
    1.0
    """
    n_obs = _checked(x, coords, n_neighbors)
    rows = _sample(n_obs, n_cells, random_state)
    threads = config.n_threads()
    drawn = exact.of_rows(np.asarray(coords), n_neighbors + 1, rows, n_jobs=threads)[0][:, 1:]
    x = np.asarray(x, dtype=np.float64 if x.dtype == np.float64 else np.float32)
    norms = np.einsum("ij,ij->i", x, x)

    def excess(a: int) -> int:
        part = slice(a, a + _ROWS_AT_ONCE)
        squared = norms - 2 * (x[rows[part]] @ x.T)
        squared[np.arange(squared.shape[0]), rows[part]] = -np.inf
        total = 0
        for row, others in zip(squared, drawn[part], strict=True):
            limits = np.sort(row[others])
            # Cells nearer than each limit, the cell itself among them: the limit's rank, from 1.
            nearer = np.cumsum(np.bincount(np.searchsorted(limits, row, side="right"), minlength=limits.size + 1))
            ranks = nearer[np.searchsorted(limits, limits, side="left")]
            total += int(np.maximum(ranks - n_neighbors, 0).sum())
        return total

    total = sum(threaded(excess, range(0, rows.size, _ROWS_AT_ONCE), threads))
    worst = rows.size * n_neighbors * (2 * n_obs - 3 * n_neighbors - 1) / 2
    return float(1 - total / worst)


def neighborhood_preservation(
    x: NDArray[Any], coords: NDArray[Any], *, n_neighbors: int = 15, n_cells: int = 1000, random_state: int = 0
) -> float:
    """Return the share of a cell's nearest neighbours that are among its nearest in a layout too, as a mean over cells.

    Parameters
    ----------
    x, coords
        ``n_obs x n_dims`` and ``n_obs x n_components``.
    n_neighbors
        Neighbours that count, the cell itself left out.

    Memory: some 300 MiB.

    Raises
    ------
    InputError
        Shapes do not fit, or there are too many neighbours.

    Examples
    --------
    >>> import numpy as np, sc_dask as sd
    >>> x = np.random.default_rng(0).normal(size=(200, 5))
    >>> sd.metrics.neighborhood_preservation(x, x)
    1.0
    """
    n_obs = _checked(x, coords, n_neighbors)
    rows = _sample(n_obs, n_cells, random_state)
    threads = config.n_threads()
    true, drawn = (exact.of_rows(np.asarray(a), n_neighbors + 1, rows, n_jobs=threads)[0][:, 1:] for a in (x, coords))
    return float((true[:, :, None] == drawn[:, None, :]).any(axis=2).mean())


def ari(a: Labels, b: Labels) -> float:
    """Return the adjusted Rand index (Hubert & Arabie 1985) of two clusterings: 1 if equal, 0 as by chance.

    Examples
    --------
    >>> import sc_dask as sd
    >>> sd.metrics.ari(["a", "a", "b"], [1, 1, 0])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_codes(a, b)))


def nmi(a: Labels, b: Labels) -> float:
    """Return the normalised mutual information of two clusterings (by the mean of both entropies): 1 if equal.

    Examples
    --------
    >>> import sc_dask as sd
    >>> round(sd.metrics.nmi(["a", "a", "b"], [1, 1, 0]), 6)
    1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_codes(a, b)))


def _codes(a: Labels, b: Labels) -> tuple[NDArray[Any], NDArray[Any]]:
    if len(a) != len(b) or len(a) == 0:
        raise InputError(f"found {len(a)} and {len(b)} labels", "two clusterings of the same cells")
    return coded(a, "a"), coded(b, "b")


def coded(labels: Labels, name: str) -> NDArray[np.int32]:
    """Return a code per cell; cells without a label are one cluster more."""
    column = labels if isinstance(labels, pd.Series) else pd.Series(np.asarray(labels))
    return of_column(column, Name(name, axis=None), missing="own group", max_groups=None).codes


def _sample(n_obs: int, n_cells: int, random_state: int) -> NDArray[np.intp]:
    if n_cells < 1:
        raise InputError(f"found n_cells={n_cells}", "at least 1")
    if n_cells >= n_obs:
        return np.arange(n_obs)
    return np.sort(np.random.default_rng(random_state).choice(n_obs, n_cells, replace=False))


def _checked(x: ArrayLike, coords: ArrayLike, n_neighbors: int) -> int:
    shapes = np.shape(x), np.shape(coords)
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][0] != shapes[1][0]:
        raise InputError(f"found shapes {shapes[0]} and {shapes[1]}", "as many rows in both")
    if not 1 <= n_neighbors < shapes[0][0] / 2:
        raise InputError(
            f"found n_neighbors={n_neighbors} of {shapes[0][0]} cells", "at least 1, below half of the cells"
        )
    return int(shapes[0][0])
