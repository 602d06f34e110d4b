"""Genes that a reference or a model knows, found by name among those of new cells."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sc_dask import get
from sc_dask.errors import InputError, ScDaskWarning

if TYPE_CHECKING:
    from anndata import AnnData

_LEAST_SHARE = 0.1


def matched(adata: AnnData, wanted: pd.Index, whose: str, *, use_raw: bool = False) -> NDArray[np.int64]:
    """Return where each wanted gene stands in ``adata``, -1 for one that is not there; how many are not is warned of.

    Raises
    ------
    InputError
        Fewer than a tenth of them are there, or one of them is there twice.
    """
    names = get.names(adata, "var", use_raw=use_raw)
    twice = names[names.duplicated()].intersection(wanted)
    if len(twice):
        raise InputError(f"{_some(twice)} occurs more than once", "unique names", "adata.var_names_make_unique()")
    found = np.asarray(names.get_indexer(wanted), np.int64)
    missing = wanted[found < 0]
    if len(missing) == len(wanted) or len(wanted) - len(missing) < _LEAST_SHARE * len(wanted):
        raise InputError(
            f"{len(wanted) - len(missing)} of the {len(wanted)} genes of {whose} are in adata (missing: "
            f"{_some(missing)})",
            "names of the same kind",
            "set adata.var_names to the names that the reference has, symbols or Ensembl ids",
        )
    if len(missing):
        warnings.warn(
            f"{len(missing)} of the {len(wanted)} genes of {whose} are not in adata: {_some(missing)}",
            ScDaskWarning,
            stacklevel=4,
        )
    return found


def _some(names: pd.Index, n: int = 5) -> str:
    return ", ".join(map(str, names[:n])) + (", ..." if len(names) > n else "")
