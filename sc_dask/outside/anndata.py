"""anndata: what its versions do differently, and the private names that in-place functions need."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from sc_dask.outside.dask import plain

if TYPE_CHECKING:
    from anndata import AnnData


_NOTHING: Mapping[str, Any] = MappingProxyType({})


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

    write_lazy(View)

    @as_view.register(lazy)
    def view_of(x: Any, view_args: Any) -> Any:
        view = View(x, view_args)
        return DaskArrayView(x, view_args) if view is None else view


def write_lazy(lazy: type) -> None:
    """Let ``AnnData.write_h5ad`` and ``write_zarr`` write a lazy X of ours, as they write Dask arrays.

    anndata chooses a writer by the exact class, and by then has emptied the target; both are private in anndata. Of a
    sparse Dask array it writes all indices as int64; here they are int32 where the stored values (`Expr.most_values`)
    and the columns can be counted so, as in every other matrix of AnnData.
    """
    import h5py
    import zarr
    from anndata._io.specs.registry import _REGISTRY, IOSpec
    from anndata.io import sparse_dataset
    from scipy import sparse

    def as_array(f: Any, k: str, elem: Any, *, _writer: Any, dataset_kwargs: Any = _NOTHING) -> None:
        _writer.write_elem(f, k, plain(elem), dataset_kwargs=dataset_kwargs)

    def as_csr(f: Any, k: str, elem: Any, *, _writer: Any, dataset_kwargs: Any = _NOTHING) -> None:
        narrow = max(elem.expression.most_values(), elem.shape[1]) <= np.iinfo(np.int32).max
        bounds = elem.expression.bounds.tolist()

        def block(i: int) -> Any:
            x = sparse.csr_matrix(elem[bounds[i] : bounds[i + 1]].to_memory())
            x.indices, x.indptr = (a.astype(np.int32 if narrow else np.int64) for a in (x.indices, x.indptr))
            return x

        _writer.write_elem(f, k, block(0), dataset_kwargs=dataset_kwargs)
        stored = sparse_dataset(f[k])
        for i in range(1, len(bounds) - 1):
            stored.append(block(i))

    for group in (h5py.Group, zarr.Group):
        _REGISTRY.register_write(group, (lazy, sparse.csr_matrix), IOSpec("csr_matrix", "0.1.0"))(as_csr)
        _REGISTRY.register_write(group, lazy, IOSpec("array", "0.2.0"))(as_array)


def write_whole(replace: Callable[[str, Path], AbstractContextManager[Path | None]]) -> None:
    """Let ``AnnData.write_h5ad`` and ``write_zarr`` leave a file as it is until its successor is whole.

    Of an AnnData with Dask arrays, which may be read from the very file, and whose values may turn out to be
    unreadable. ``replace(format, target)`` is a context that gives a place beside the target; None: write in place.
    """
    import anndata

    for name, kind in (("write_h5ad", "h5ad"), ("write_zarr", "zarr")):
        _wrap(anndata.AnnData, name, kind, replace)
    anndata.AnnData.write = anndata.AnnData.write_h5ad  # the same under another name


def _wrap(cls: Any, name: str, kind: str, replace: Any) -> None:
    original = getattr(cls, name)

    @functools.wraps(original)
    def write(self: Any, target: Any = None, *args: Any, **kwargs: Any) -> Any:
        named = "filename" if kind == "h5ad" else "store"
        target = kwargs.pop(named, target)
        is_path = isinstance(target, str | os.PathLike) and "://" not in str(target)
        if not is_path or self.isbacked or not _has_dask(self):
            return original(self, *(() if target is None else (target,)), *args, **kwargs)
        with replace(kind, Path(target)) as place:
            return original(self, target if place is None else place, *args, **kwargs)

    setattr(cls, name, write)


def _has_dask(adata: AnnData) -> bool:
    mappings = (adata.obsm, adata.varm, adata.obsp, adata.varp)
    values = [adata.X, *(v for _, v in named_layers(adata)), *(v for m in mappings for v in m.values())]
    if adata.raw is not None:
        values.append(adata.raw.X)
    return any(isinstance(v, da.Array) for v in values)


def subset_inplace(adata: AnnData, axis: str, keep: Any) -> None:
    """Keep some cells (``"obs"``) or genes (``"var"``) in place (private in anndata; scanpy calls the same)."""
    if axis == "obs":
        adata._inplace_subset_obs(keep)
    else:
        adata._inplace_subset_var(keep)
