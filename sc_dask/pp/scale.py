"""Scaling of genes to unit variance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import get, slots
from sc_dask.array import scale as lazy
from sc_dask.errors import InputError
from sc_dask.log import logger
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


def _price(size: Size, *, obsm: str | None, mask_obs: Any, zero_center: bool, **_: Any) -> Price:
    if obsm is not None:
        return Price(0, 3 * size.rep, size.rep)
    passes = 1 if mask_obs is not None else size.passes_unless("moments")
    made = 0 if size.is_lazy else size.dense if zero_center else size.decoded
    return Price(passes, made + passes * int(1.5 * size.blocks) + 24 * size.n_vars * size.states + 8 * size.n_obs, made)


@priced(_price)
def scale(
    data: AnnData | Any,
    *,
    zero_center: bool = True,
    max_value: float | None = None,
    copy: bool = False,
    layer: str | None = None,
    obsm: str | None = None,
    mask_obs: np.ndarray | str | None = None,
) -> AnnData | Any | None:
    """Bring every gene to mean 0 and variance 1.

    A lazy X stays lazy: means and deviations are kept and used when a block is asked for, only in the genes that are
    asked for. ``pp.pca`` works on X as it was before, or on tiles in cache where values are cut.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars), logarithmised, in memory or lazy; or the matrix alone.
    zero_center
        False: divide by the standard deviations only, so that a sparse X stays sparse.
    max_value
        Cut values here, and with ``zero_center`` at ``-max_value`` too.
    copy
        Return a changed copy instead.
    layer
        Layer to use instead of X.
    obsm
        Element of obsm to use instead of X; nothing is written to var.
    mask_obs
        Boolean array (n_obs,) or column of obs: moments come from these cells, and the others stay as they are.

    Returns
    -------
    None, or with ``copy`` the new AnnData; of a matrix alone the new matrix. As in scanpy, an array of floats in memory
    is changed in place too, without ``copy``.

    Writes
    ------
    X, the layer or the element of obsm (float32, for float64 and integers of 8 bytes float64), lazy if it was lazy,
    dense unless ``zero_center=False``; var ``mean`` and ``std`` (1 for a gene that does not vary, which becomes 0),
    with ``mask_obs`` ``mean of <column>`` and ``std of <column>``, or ``mean with mask`` and ``std with mask``.

    Passes: 1; 0 after ``regress_out`` of the same cells. Memory: 24 bytes per gene and thread, 4 bytes per cell; blocks
    of the result are as large as those of X. In memory the result is dense: 4 bytes per cell and gene.

    Raises
    ------
    InputError
        An option is out of range, ``mask_obs`` does not fit, or X is not finite.
    MissingKeyError
        No such layer, element of obsm or column.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.normalize_total(adata, target_sum=1e4)
    >>> sd.pp.log1p(adata)
    >>> sd.pp.scale(adata, max_value=10)
    >>> abs(float(adata.X[:, 0].compute().mean())) < 1e-5
    True
    """
    if max_value is not None and not max_value > 0:
        raise InputError(f"max_value={max_value}", "a number above 0, or None")
    if get.is_array(data):
        alone = get.alone(data, as_float=True, layer=layer, obsm=obsm)
        scale(alone, zero_center=zero_center, max_value=max_value, mask_obs=mask_obs)
        return get.put_back(data, alone.X, copy=copy)
    mask, suffix = _mask(data, mask_obs)
    adata = data.copy() if copy else data
    x, stored = get.part(adata, layer, obsm)
    if not zero_center and max_value is not None:
        logger.info("... be careful when using `max_value` without `zero_center`: low values are not cut")
    mean, std = lazy.mean_and_std(x, mask)
    out = lazy.scaled(x, mean, std, zero_center=zero_center, max_value=max_value, of_cells=mask)
    writes: dict[tuple[str, str], Any] = {get.slot(layer, obsm): get.as_stored(out, stored)}
    if obsm is None:
        writes |= {("var", f"mean{suffix}"): mean, ("var", f"std{suffix}"): np.where(std > 0, std, 1.0)}
    slots.write(adata, writes, writer="pp.scale")
    return adata if copy else None


def _mask(adata: AnnData, mask_obs: np.ndarray | str | None) -> tuple[np.ndarray | None, str]:
    """Return the cells to scale, and what the columns' names end with."""
    if mask_obs is None:
        return None, ""
    named = isinstance(mask_obs, str)
    mask = get.column(adata, str(mask_obs)).to_numpy() if named else np.asarray(mask_obs)
    if mask.dtype != bool or mask.shape != (adata.n_obs,):
        raise InputError(f"mask_obs of type {mask.dtype} and shape {mask.shape}", f"a boolean array ({adata.n_obs},)")
    if mask.sum() < 2:
        raise InputError(f"mask_obs picks {mask.sum()} cells", "at least 2")
    return mask, f" of {mask_obs}" if named else " with mask"
