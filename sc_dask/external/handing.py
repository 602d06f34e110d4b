"""How a call is handed over to scanpy's wrapper of another library, which works in memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from sc_dask import get, slots
from sc_dask.errors import InputError
from sc_dask.outside import scanpy

# what works on obs or obsm alone, so that X may stay where it is
WITHOUT_X = {"pp.hashsolo", "pp.scanorama_integrate", "tl.phenograph", "tl.trimap"}


def handed_over(kind: str, name: str) -> Callable[..., Any]:
    """Return a function that calls ``scanpy.external.<kind>.<name>``.

    An AnnData in memory is handed over as it is. Of a lazy one, functions that need no X get everything else, and what
    they write comes back; the others are refused.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        theirs = getattr(scanpy.module(f"external.{kind}"), name)
        lazy = [a for a in (*args, *kwargs.values()) if isinstance(a, AnnData) and not get.is_in_memory(a)]
        if not lazy:
            return theirs(*args, **kwargs)
        if f"{kind}.{name}" not in WITHOUT_X:
            raise InputError(
                f"external.{kind}.{name} works in memory, and X (or obs) is lazy or backed",
                "an AnnData in memory",
                f"some = adata[cells, genes].to_memory(), then external.{kind}.{name}(some, ...)",
            )
        return _on_shell(theirs, lazy[0], args, kwargs)

    call.__name__ = call.__qualname__ = name
    call.__module__ = f"sc_dask.external.{kind}"
    call.__doc__ = f"Call ``scanpy.external.{kind}.{name}`` with the library that it needs.\n\n" + (
        "X may be lazy: it is not read." if f"{kind}.{name}" in WITHOUT_X else "The AnnData must be in memory."
    )
    if scanpy.is_imported():
        call.__signature__ = inspect.signature(getattr(scanpy.module(f"external.{kind}"), name))  # type: ignore[attr-defined]
    return call


def _on_shell(theirs: Callable[..., Any], adata: AnnData, args: Any, kwargs: Any) -> Any:
    kept = {s: dict(getattr(adata, s)) for s in ("obsm", "varm", "obsp", "varp", "uns")}
    shell = AnnData(obs=slots.in_memory(adata.obs).copy(), var=slots.in_memory(adata.var).copy(), **kept)
    before = {s: dict(getattr(shell, s)) for s in ("obs", "var", *kept)}
    args = tuple(shell if a is adata else a for a in args)
    kwargs = {k: shell if a is adata else a for k, a in kwargs.items()}
    found = theirs(*args, **kwargs)
    writes: dict[tuple[str, str], Any] = {}
    for slot, held in before.items():
        for key, value in dict(getattr(shell, slot)).items():
            if key not in held or not _same(held[key], value):
                writes[slot, key] = value.array if isinstance(value, pd.Series) else value
    slots.write(adata, writes, writer="external")
    return adata if found is shell else found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, pd.Series) and isinstance(b, pd.Series):
        return a.equals(b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all()))
    return a is b
