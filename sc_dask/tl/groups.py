"""Groups of cells: columns of obs as categories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sc_dask import get
from sc_dask.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData


def categories(adata: AnnData, key: str, *, at_least: int = 1, complete: bool = False) -> pd.Categorical:
    """Return a column of obs as categories; text is made categories in natural order, as AnnData does.

    Parameters
    ----------
    at_least
        Number of categories.
    complete
        Every cell must have one.

    Raises
    ------
    MissingKeyError
        No such column.
    InputError
        Numbers, too few groups, a group without cells, or cells without a group.
    """
    column = get.column(adata, key)
    if isinstance(column.dtype, pd.CategoricalDtype):
        found = pd.Categorical(column)
    elif pd.api.types.is_float_dtype(column.dtype) or pd.api.types.is_complex_dtype(column.dtype):
        raise InputError(
            f"obs[{key!r}] holds numbers of type {column.dtype}", "groups", "pd.cut makes groups of numbers"
        )
    else:
        found = _naturally(column)
    empty = found.categories[np.bincount(found.codes[found.codes >= 0], minlength=len(found.categories)) == 0]
    if len(empty):
        raise InputError(
            f"groups of obs[{key!r}] without cells: {', '.join(map(str, empty))}",
            "cells in every group",
            f"adata.obs[{key!r}] = adata.obs[{key!r}].cat.remove_unused_categories()",
        )
    if len(found.categories) < at_least:
        raise InputError(
            f"obs[{key!r}] has {len(found.categories)} group(s)", f"at least {at_least}", "choose another column"
        )
    if complete and (found.codes < 0).any():
        raise InputError(
            f"{(found.codes < 0).sum()} cells have no value in obs[{key!r}]", "a group for every cell", "leave them out"
        )
    return found


def _naturally(column: pd.Series) -> pd.Categorical:
    from natsort import natsorted

    text = column.astype(object).where(column.notna(), None)
    names = natsorted({str(v) for v in text if v is not None})
    return pd.Categorical([None if v is None else str(v) for v in text], categories=names)
