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


def keep_class_in_views(lazy: type) -> None:
    """Let views of AnnData hold a lazy X as its own class, where anndata makes a plain Dask array of it.

    Values that are set in it (``view.X[...] = 0``) turn the view into an AnnData of its own first, as anndata's do.
    Private in anndata; without it X is a Dask array in views and their copies, and is known again by its graph.
    """
    try:
        from anndata._core.access import ElementRef
        from anndata._core.views import DaskArrayView, _SetItemMixin, as_view
    except ImportError:
        return

    class View(_SetItemMixin, lazy):  # type: ignore[misc]
        """A lazy X in a view of an AnnData."""

        def __new__(cls, x: Any, view_args: Any) -> Any:
            self = lazy.of_same(cls, x)  # type: ignore[attr-defined]
            if self is not None:
                self._view_args = ElementRef(*view_args)
            return self

    @as_view.register(lazy)
    def view_of(x: Any, view_args: Any) -> Any:
        view = View(x, view_args)
        return DaskArrayView(x, view_args) if view is None else view


def subset_inplace(adata: AnnData, axis: str, keep: Any) -> None:
    """Keep some cells (``"obs"``) or genes (``"var"``) in place (private in anndata; scanpy calls the same)."""
    if axis == "obs":
        adata._inplace_subset_obs(keep)
    else:
        adata._inplace_subset_var(keep)
