"""Gene values without batch effects: ComBat."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sc_dask import get, slots
from sc_dask.array.combat import adjusted
from sc_dask.errors import InputError
from sc_dask.groups import Name, missing_values
from sc_dask.log import begin
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


def _price(size: Size, *, key: str, covariates: Collection[str] | None, **_: Any) -> Price:
    made = 0 if size.is_lazy else size.dense
    states = (32 + 8 * len(covariates or ())) * size.n_vars * size.levels(key) * size.states
    return Price(1, made + int(1.5 * size.blocks) + states + 24 * size.n_obs, made)


@priced(_price)
def combat(
    adata: AnnData, key: str = "batch", *, covariates: Collection[str] | None = None, inplace: bool = True
) -> Any:
    """Take off what batches add to each gene and multiply its spread by (ComBat; Johnson, Li & Rabinovic 2007).

    The effects on a gene are shrunk towards those on the other genes (parametric empirical Bayes). Genes that do not
    vary within batches stay as they are and have no say about the others.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars), logarithmised, in memory or lazy.
    key
        Column of obs with the batches, at least two cells each.
    covariates
        Columns of obs whose effects are to stay: numbers, or categories.
    inplace
        Replace X; else return the result.

    Returns
    -------
    None; with ``inplace=False`` the matrix, lazy if X is.

    Writes
    ------
    X (float32; float64 stays), dense, lazy if it was lazy: then its blocks are made when they are needed, and of the
    genes that are needed. obs ``key`` becomes a category if it was text.

    Passes: 1. Memory: 24 bytes (and 8 for each covariate) per gene, batch and thread; an X in memory becomes dense.

    Raises
    ------
    MissingKeyError
        No such column.
    InputError
        A batch of one cell, one batch only, covariates that follow from the batches or from each other, missing or
        infinite values.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 100, seed=1)
    >>> adata.obs["batch"] = ["a", "b"] * 100
    >>> sd.pp.log1p(adata)
    >>> sd.pp.combat(adata)
    >>> adata.X.shape, str(adata.X.dtype)
    ((200, 100), 'float32')
    """
    start = begin("computing combat")
    batches = get.groups(adata, key, missing="refuse", min_groups=2, min_cells=2)
    wanted = list(covariates or ())
    if isinstance(covariates, str) or key in wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"covariates={covariates!r} with key={key!r}", "different columns of obs, without the key")
    stored = get.stored(adata)
    x = adjusted(get.matrix(adata), batches.codes, len(batches), _design(adata, wanted))
    out = get.as_stored(x, stored)
    if not inplace:
        return out
    slots.write(adata, {("X", ""): out, **get.text_as_category(adata, key)}, writer="pp.combat", since=start)
    return None


def _design(adata: AnnData, names: list[str]) -> np.ndarray:
    """Return the covariates as numbers (n_obs, n_covariates): categories as indicators of all but the first."""
    columns: list[Any] = []
    for name in names:
        column = get.column(adata, name)
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            if column.isna().any():
                raise missing_values(column, Name(name), "a number for every cell")
            columns.append(column.to_numpy(np.float64))
            if not np.isfinite(columns[-1]).all():
                raise InputError(f"obs[{name!r}] has infinite values", "finite numbers")
        else:
            levels = get.groups(adata, name, missing="refuse")
            columns += [(levels.codes == i).astype(np.float64) for i in range(1, len(levels))]
    return np.stack(columns, axis=1) if columns else np.empty((adata.n_obs, 0))
