"""All of an AnnData as one flat dictionary of arrays, and how two of them differ."""

from __future__ import annotations

from typing import Any

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp

from sc_dask.outside.anndata import named_layers

Flat = dict[tuple[str, str], Any]  # ("obsm", "X_pca") -> value


def slots_of(adata: ad.AnnData) -> Flat:
    """Return every slot as it stands; X is ``("X", "")``."""
    out: Flat = {("X", ""): adata.X, ("names", "obs"): adata.obs_names, ("names", "var"): adata.var_names}
    for frame in ("obs", "var"):
        out |= {(frame, c): getattr(adata, frame)[c] for c in getattr(adata, frame)}
    for attr in ("obsm", "varm", "obsp", "varp", "uns"):
        out |= {(attr, k): v for k, v in getattr(adata, attr).items()}
    out |= {("layers", k): v for k, v in named_layers(adata)}
    return out


def leaves(value: Any, path: str = "") -> dict[str, np.ndarray]:
    """Return the plain arrays that a slot's value is made of."""
    if isinstance(value, da.Array):
        value = value.compute(scheduler="sync")
    if isinstance(value, dict):
        return {
            p: leaf
            for k, v in value.items()
            if k not in ("versions", "folder")
            for p, leaf in leaves(v, f"{path}/{k}").items()
        }
    if isinstance(value, pd.DataFrame):
        parts = {f"{path}/index": np.asarray(value.index.astype(str))}
        return parts | {p: leaf for c in value for p, leaf in leaves(value[c], f"{path}/{c}").items()}
    if isinstance(value, pd.Series | pd.Index | pd.Categorical):
        if isinstance(value.dtype, pd.CategoricalDtype):
            return {path: np.asarray(value).astype(str), f"{path}/categories": np.asarray(value.dtype.categories, str)}
        value = value.to_numpy()
    if sp.issparse(value):
        value = value.toarray()
    value = np.asarray(value)
    if value.dtype.names:
        return {f"{path}/{n}": np.asarray(value[n]) for n in value.dtype.names}
    return {path: value.astype(str) if value.dtype == object else value}


def differ(a: np.ndarray, b: np.ndarray, rtol: float) -> bool:
    """Tell whether two arrays differ: floats by more than ``rtol`` of the largest number, all else at all."""
    if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
        return True
    if a.dtype.kind != "f" or rtol == 0:
        return not np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    finite = np.abs(b[np.isfinite(b)])
    return not np.allclose(a, b, rtol=rtol, atol=rtol * finite.max(initial=0), equal_nan=True)


def differences(a: ad.AnnData, b: ad.AnnData, rtol: float = 0) -> list[str]:
    """Return the names of all slots, parts and types in which two AnnData differ."""
    left, right = ({"/".join(k): leaves(v) for k, v in slots_of(x).items()} for x in (a, b))
    out = [f"{k} is on one side only" for k in left.keys() ^ right.keys()]
    for k in left.keys() & right.keys():
        out += [f"{k}{p} is on one side only" for p in left[k].keys() ^ right[k].keys()]
        out += [f"{k}{p}" for p in left[k].keys() & right[k].keys() if differ(left[k][p], right[k][p], rtol)]
    return sorted(out)
