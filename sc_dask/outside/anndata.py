"""anndata: what its versions do differently, and the private names that in-place functions need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData


def named_layers(adata: AnnData) -> Iterator[tuple[str, Any]]:
    """Yield name and value of every layer but X: from anndata 0.13 on X is the layer ``None`` as well."""
    for key in adata.layers:
        if key is not None:
            yield key, adata.layers[key]


def make_actual(adata: AnnData) -> None:
    """Turn a view into an AnnData of its own, in place (private in anndata; its setters do the same)."""
    if adata.is_view:
        adata._init_as_actual(adata.copy())


def subset_inplace(adata: AnnData, axis: str, keep: Any) -> None:
    """Keep some cells (``"obs"``) or genes (``"var"``) in place (private in anndata; scanpy calls the same)."""
    if axis == "obs":
        adata._inplace_subset_obs(keep)
    else:
        adata._inplace_subset_var(keep)
