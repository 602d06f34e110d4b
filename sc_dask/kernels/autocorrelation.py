"""Moran's I (Moran 1950) and Geary's C (Geary 1954) of genes on a graph of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

_VALUES = 1 << 22  # of cells times genes that are made dense at once, float64


def autocorrelation(tile: Any, *, graph: sp.csr_matrix, statistic: str) -> NDArray[np.float64]:
    """Return the statistic of each column of ``tile`` (n_obs, n_genes; csc or ndarray); NaN where it is constant."""
    n_obs, n_genes = tile.shape
    out = np.full(n_genes, np.nan)
    weight = float(graph.data.sum())
    degrees = np.asarray(graph.sum(axis=0)).ravel() + np.asarray(graph.sum(axis=1)).ravel()
    step = max(1, _VALUES // max(n_obs, 1))
    for start in range(0, n_genes, step):
        part = tile[:, start : start + step]
        z = np.asarray(part.toarray() if sp.issparse(part) else part, dtype=np.float64)
        varies = (z != z[:1]).any(axis=0)
        z = z[:, varies] - z[:, varies].mean(axis=0)
        squares = np.einsum("ij,ij->j", z, z)
        products = np.einsum("ij,ij->j", z, graph @ z)
        if statistic == "morans_i":
            found = n_obs / weight * products / squares
        else:  # of the sum of w_ij (z_i - z_j)^2
            differences = degrees @ (z * z) - 2 * products
            found = (n_obs - 1) * differences / (2 * weight * squares)
        out[start : start + step][varies] = found
    return out
