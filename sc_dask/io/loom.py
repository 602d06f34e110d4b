"""``sd.read_loom``: a loom file in place, with anndata's options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from anndata import AnnData

from sc_dask import slots
from sc_dask.array.types import as_type
from sc_dask.errors import InputError
from sc_dask.io.blobs.store import Location, Place
from sc_dask.io.formats import loom
from sc_dask.outside.anndata import named_layers

OPTIONS: tuple[str, ...] = (
    *("X_name", "obs_names", "var_names", "cleanup", "dtype", "sparse"),
    *("obsm_names", "varm_names", "obsm_mapping", "varm_mapping"),
)


def read_loom(
    filename: Place,
    *,
    sparse: bool = True,
    cleanup: bool = False,
    X_name: str = "spliced",
    obs_names: str = "CellID",
    obsm_names: Mapping[str, Iterable[str]] | None = None,
    var_names: str = "Gene",
    varm_names: Mapping[str, Iterable[str]] | None = None,
    dtype: Any = "float32",
    obsm_mapping: Mapping[str, Iterable[str]] | None = None,
    varm_mapping: Mapping[str, Iterable[str]] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> AnnData:
    """Open a loom file in place, as ``anndata.io.read_loom``.

    Parameters
    ----------
    filename
        A path or URL.
    sparse
        X and layers are sparse in any case; False is refused.
    cleanup
        Move columns of obs and var that have one value only into uns (``loom-obs``, ``loom-var``).
    X_name
        The layer that becomes X, if there is one.
    obs_names, var_names
        Attributes that name cells and genes.
    obsm_mapping, varm_mapping
        Columns of obs and var that become one element of obsm and varm. ``obsm_names`` and ``varm_names`` are their
        older names.
    dtype
        Type of X.
    storage_options
        For a URL's filesystem.

    Passes: none. Memory: names and attributes.

    Raises
    ------
    FormatError
        It is not a loom file, or lengths disagree.
    """
    if not sparse:
        raise InputError("found sparse=False", "a sparse X", "adata.X.toarray() where it fits into memory")
    place = Location.parse(filename, storage_options)
    adata = loom.read(place, obs_names=obs_names, var_names=var_names, X_name=X_name)
    adata = _gathered(adata, obsm_mapping or obsm_names or {}, varm_mapping or varm_names or {}, cleanup)
    return with_type(adata, dtype)


def _gathered(
    adata: AnnData, obsm: Mapping[str, Iterable[str]], varm: Mapping[str, Iterable[str]], cleanup: bool
) -> AnnData:
    """Return the AnnData with columns put together, and constant ones moved to uns."""
    tables = {"obs": adata.obs.copy(), "var": adata.var.copy()}
    parts = {"obs": dict(adata.obsm), "var": dict(adata.varm)}
    uns: dict[str, Any] = {}
    for axis, mapping in (("obs", obsm), ("var", varm)):
        for key, keys in mapping.items():
            names = list(keys)
            missing = [n for n in names if n not in tables[axis]]
            if missing:
                raise InputError(f"there is no {axis} attribute {missing[0]!r}", f"one of {list(tables[axis])}")
            parts[axis][key] = tables[axis][names].to_numpy()
            tables[axis] = tables[axis].drop(columns=names)
    if cleanup:
        for axis in ("obs", "var"):
            single = [k for k in tables[axis] if tables[axis][k].nunique() == 1]
            uns[f"loom-{axis}"] = {k: tables[axis][k].iloc[0] for k in single}
            tables[axis] = tables[axis].drop(columns=single)
    if not (obsm or varm or cleanup):
        return adata
    layers = dict(named_layers(adata))
    return AnnData(adata.X, tables["obs"], tables["var"], uns, obsm=parts["obs"], varm=parts["var"], layers=layers)


def with_type(adata: AnnData, dtype: Any) -> AnnData:
    """Return the AnnData with X of a type, lazily."""
    wanted = np.dtype(dtype)
    if adata.X is not None and adata.X.dtype != wanted:
        slots.write(adata, {("X", ""): as_type(adata.X, wanted)})
    return adata
