"""Normalisation to analytic Pearson residuals."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import get, slots
from sc_dask.array import pearson as lazy
from sc_dask.array import qc
from sc_dask.errors import CountsWarning, InputError
from sc_dask.kernels.pearson import check_model
from sc_dask.log import begin
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


def _price(size: Size, *, obsm: str | None, **_: Any) -> Price:
    if obsm is not None:
        return Price(0, 3 * size.rep, size.rep)
    passes = size.passes_unless("cell sums", "gene sums")
    made = 0 if size.is_lazy else size.dense
    return Price(passes, made + int(1.5 * size.blocks) + 24 * size.n_vars * size.states + 16 * size.n_obs, made)


@priced(_price)
def normalize_pearson_residuals(
    adata: AnnData,
    *,
    theta: float = 100,
    clip: float | None = None,
    check_values: bool = True,
    layer: str | None = None,
    obsm: str | None = None,
    inplace: bool = True,
    copy: bool = False,
) -> AnnData | dict[str, Any] | None:
    """Replace counts by their residuals from a negative binomial model of cell and gene sums (Lause 2021).

    The residuals of a lazy X are never stored: a block is made when somebody asks for it, only in the genes that are
    asked for, and ``pp.pca`` makes tiles of it in cache. Choose genes afterwards: the model needs the sums of all.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars) of counts, in memory or lazy.
    theta
        Overdispersion of all genes, above 0; infinite: a Poisson model.
    clip
        Cut residuals at plus and minus this; None: the root of the number of cells; infinite: not at all.
    check_values
        Warn if X does not hold counts.
    layer, obsm
        Layer, or element of obsm, to use instead of X.
    inplace
        Replace the matrix; else return it and the settings.
    copy
        Return a changed copy instead.

    Returns
    -------
    None; with ``copy`` the new AnnData; with ``inplace=False`` a dict of ``X``, ``theta``, ``clip``, ``computed_on``.

    Writes
    ------
    X, layer or element of obsm (dense; float32, for float64 and integers of 8 bytes float64), lazy if it was; uns
    ``pearson_residuals_normalization``. Cells and genes without counts become 0, where scanpy gives NaN.

    Passes: 1, or 0 after `calculate_qc_metrics` on the same X. Memory: 8 bytes per cell, 24 per gene and thread; in
    memory the result is dense: 4 bytes per cell and gene.

    Raises
    ------
    InputError
        ``theta`` or ``clip`` out of range, or options that exclude each other.
    MissingKeyError
        No such layer or element of obsm.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.normalize_pearson_residuals(adata)
    >>> bool(abs(adata.X.compute()).max() <= 200**0.5)
    True
    """
    start = begin("computing analytic Pearson residuals")
    if copy and not inplace:
        raise InputError("copy=True with inplace=False", "one of them")
    check_model(theta, clip)
    adata = adata.copy() if copy else adata
    x, stored = get.part(adata, layer, obsm)
    residuals = lazy.normalized(x, float(theta), np.sqrt(x.shape[0]) if clip is None else float(clip))
    found = qc.not_counts(x) if check_values else None
    if found:
        warnings.warn(f"normalize_pearson_residuals expects counts, but found {found}", CountsWarning, stacklevel=2)
    out = get.as_stored(residuals, stored)
    settings = {"theta": theta, "clip": clip, "computed_on": layer or obsm or "adata.X"}
    if not inplace:
        return {"X": out, **settings}
    writes: dict[tuple[str, str], Any] = {
        get.slot(layer, obsm): out,
        ("uns", "pearson_residuals_normalization"): settings,
    }
    slots.write(adata, writes, writer="pp.normalize_pearson_residuals", since=start)
    return adata if copy else None
