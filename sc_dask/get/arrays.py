"""Matrices that stand alone, without an AnnData, and those of obsm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp

from sc_dask import slots
from sc_dask.array.blocks import RowBlocks, from_array
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.get.columns import listed, matrix, stored
from sc_dask.outside.anndata import named_layers

if TYPE_CHECKING:
    from anndata import AnnData


def is_array(data: Any) -> bool:
    """Tell whether this is a matrix (ndarray, sparse or Dask array) and no AnnData."""
    return isinstance(data, np.ndarray | da.Array) or sp.issparse(data)


def is_lazy(data: Any) -> bool:
    """Tell whether this is a Dask array."""
    return isinstance(data, da.Array)


def is_held(value: Any) -> bool:
    """Tell whether a value is in memory: an array, a sparse matrix or a table; or None."""
    return value is None or isinstance(value, np.ndarray | pd.DataFrame) or sp.issparse(value)


def is_in_memory(adata: AnnData) -> bool:
    """Tell whether everything of an AnnData is in memory."""
    if adata.isbacked or slots.is_lazy(adata.obs) or slots.is_lazy(adata.var):
        return False
    raw = [] if adata.raw is None else [adata.raw.X]
    tables = [t[k] for t in (adata.obsm, adata.varm, adata.obsp, adata.varp) for k in t]
    layers = [layer for _, layer in named_layers(adata)]
    return all(is_held(value) for value in [adata.X, *layers, *raw, *tables])


def alone(data: Any, *, as_float: bool = False, **given: Any) -> AnnData:
    """Return an AnnData of a matrix alone, which shares its memory; ``given`` are options that name a slot.

    ``as_float`` makes float64 of integers in memory, as scanpy does of a matrix that it is given.
    """
    from anndata import AnnData

    named = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    if named:
        raise InputError(f"{', '.join(named)} with a {type(data).__name__}", "an AnnData, which has such slots")
    if len(data.shape) != 2:
        raise InputError(f"an array of {len(data.shape)} dimensions", "a matrix, cells x genes")
    if as_float and not isinstance(data, da.Array) and data.dtype.kind in "iub":
        data = data.astype(np.float64)
    if sp.issparse(data) and data.format not in ("csr", "csc"):
        data = data.tocsr()
    return AnnData(data)


def put_back(data: Any, out: Any, *, copy: bool) -> Any:
    """Return what a function made of a matrix; values of a matrix in memory are changed in place, as scanpy does.

    That is where it can hold them: not with ``copy``, and not where its type or its zeros do not allow it.
    """
    if copy or isinstance(data, da.Array) or data.dtype != out.dtype or sp.issparse(data) != sp.issparse(out):
        return out
    if sp.issparse(data):
        if data.format != out.format:
            return out
        data.data, data.indices, data.indptr = out.data, out.indices, out.indptr
        return data
    if not data.flags.writeable:
        return out
    data[...] = out
    return data


def part(adata: AnnData, layer: str | None, obsm: str | None) -> tuple[RowBlocks, Any]:
    """Return X, a layer or an element of obsm, as lazy row blocks and as it is stored."""
    if layer is not None and obsm is not None:
        raise InputError("both layer and obsm were given", "one of them")
    if obsm is None:
        return matrix(adata, layer), stored(adata, layer)
    if obsm not in adata.obsm:
        raise MissingKeyError(f"no {obsm!r} in adata.obsm", f"one of: {listed(adata.obsm)}")
    found = adata.obsm[obsm]
    if not is_array(found):
        raise InputError(f"obsm[{obsm!r}] of type {type(found).__name__}", "an array or a sparse matrix")
    return from_array(found), found


def slot(layer: str | None, obsm: str | None) -> tuple[str, str]:
    """Return the slot of X, a layer or an element of obsm, as `slots.write` names it."""
    return ("obsm", obsm) if obsm is not None else ("layers", layer) if layer is not None else ("X", "")
