"""Which cells a heatmap shows where there are more than it has room for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sc_dask import slots
from sc_dask.pl.table import CELLS

if TYPE_CHECKING:
    from anndata import AnnData

_AT_LEAST = 50  # cells of a small group


def cells(adata: AnnData, groupby: Any, most: int = CELLS) -> np.ndarray | None:
    """Return the places of the cells that are drawn, increasing; None: all.

    Each group keeps its share, but at least 50 cells (or all it has), evenly spaced in the order of the cells. The
    same cells each time.
    """
    if adata.n_obs <= most:
        return None
    keys = [groupby] if isinstance(groupby, str) else list(groupby or [])
    keys = [key for key in keys if key in slots.columns(adata.obs)]
    values = [slots.load(adata.obs, key) for key in keys]
    codes = np.zeros(adata.n_obs, np.int64)
    for column in values:
        if not pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
            codes = codes * (column.nunique(dropna=False) + 1) + pd.factorize(column, use_na_sentinel=False)[0]
    order = np.argsort(codes, kind="stable")
    sizes = np.unique(codes, return_counts=True)[1]
    kept = np.minimum(sizes, np.maximum(_AT_LEAST, sizes * most // adata.n_obs))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    chosen = [start + np.arange(n) * size // n for start, size, n in zip(starts, sizes, kept, strict=True)]
    return np.sort(order[np.concatenate(chosen)])
