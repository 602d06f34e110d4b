"""Two functions that scanpy keeps for old scripts: `normalize_per_cell` and `filter_genes_dispersion`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import get, slots
from sc_dask.array import normalize as lazy
from sc_dask.array import qc
from sc_dask.array.hvg import group_moments
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from sc_dask.kernels.hvg import TIE_DECIMALS, dispersion_table
from sc_dask.kernels.moments import variance
from sc_dask.kernels.qc import as_sums
from sc_dask.log import begin, finished, logger
from sc_dask.names import check_new
from sc_dask.outside.anndata import named_layers
from sc_dask.price import Price, Size, priced

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_FIELDS = ("gene_subset", "means", "dispersions", "dispersions_norm")


def _price_per_cell(size: Size, *, layers: Any, **_: Any) -> Price:
    passes = size.passes_unless("cell sums", "cell counts")
    made = 0 if size.is_lazy else 2 * size.decoded
    return Price(passes, made + int(1.8 * size.blocks) + 250 * size.n_obs, 8 * size.n_obs)


@priced(_price_per_cell)
def normalize_per_cell(
    data: AnnData | Any,
    *,
    counts_per_cell_after: float | None = None,
    counts_per_cell: np.ndarray | None = None,
    key_n_counts: str = "n_counts",
    copy: bool = False,
    layers: str | Iterable[str] = (),
    use_rep: str | None = None,
    min_counts: int = 1,
) -> AnnData | Any | None:
    """Bring every cell to the same sum and drop cells without counts; `normalize_total` is what new scripts use.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars) of counts, in memory or lazy; or the matrix alone.
    counts_per_cell_after
        Sum of every cell afterwards; None: the median of the sums before.
    counts_per_cell
        Sums before, one for each cell, if they are known: no cell is dropped then.
    key_n_counts
        Column of obs for the sums before.
    copy
        Return a changed copy instead.
    layers
        Layers to normalise too, or ``"all"``.
    use_rep
        To which sum layers are brought: ``"after"`` to ``counts_per_cell_after``, ``"X"`` to the median of X, None each
        to its own median.
    min_counts
        Cells with a lower sum are dropped.

    Returns
    -------
    None, or with ``copy`` the new AnnData; of a matrix alone the new matrix with ``copy``, else None (a matrix of
    floats in memory is changed in place, which needs ``counts_per_cell``).

    Writes
    ------
    Cells are dropped; X and the layers (float32; float64 stays), lazy if they were lazy; obs ``key_n_counts``.

    Passes: 1, or 0 after `calculate_qc_metrics` or with ``counts_per_cell``; 1 more over each of the layers. Memory: 16
    bytes per cell.

    Raises
    ------
    InputError
        A wrong ``use_rep``, sums that do not fit or are not above 0, or no cell would be left.
    MissingKeyError
        No such layer.

    Examples
    --------
    >>> import warnings, sc_dask as sd
    >>> warnings.simplefilter("ignore", FutureWarning)  # the name is of old scripts
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.normalize_per_cell(adata, counts_per_cell_after=1e4)
    >>> float(adata.X[:5].compute().sum(axis=1)[0, 0].round())
    10000.0
    """
    check_new(key_n_counts=key_n_counts)
    _deprecated("normalize_per_cell", "pp.filter_cells and pp.normalize_total")
    if use_rep not in (None, "after", "X"):
        raise InputError(f"use_rep={use_rep!r}", '`use_rep` should be "after", "X" or None')
    if counts_per_cell_after is not None and not counts_per_cell_after > 0:
        raise InputError(f"counts_per_cell_after={counts_per_cell_after}", "a sum above 0, or None for the median")
    if get.is_array(data):
        return _matrix_per_cell(data, counts_per_cell_after, counts_per_cell, min_counts, copy)
    adata = data.copy() if copy else data
    known = [key for key, _ in named_layers(adata)]
    chosen = known if isinstance(layers, str) and layers == "all" else [layers] if isinstance(layers, str) else layers
    chosen = list(chosen)
    if lost := set(chosen) - set(known):
        raise MissingKeyError(f"no layers {get.listed(sorted(lost))}", f"some of: {get.listed(known)}")
    start = begin("normalizing by total count per cell")
    writes: dict[tuple[str, str], Any] = {}
    if counts_per_cell is None:
        sums, keep = _kept_cells(adata, min_counts)
        slots.write(adata, {("obs", key_n_counts): sums}, writer="pp.normalize_per_cell")
        if not keep.all():
            slots.subset(adata, "obs", keep)
            sums = sums[keep]
    else:
        sums = _checked_sums(counts_per_cell, adata.n_obs)
    writes["X", ""] = _per_cell(adata, None, sums, counts_per_cell_after)
    after = {None: None, "after": counts_per_cell_after, "X": float(np.median(sums))}[use_rep]
    for layer in chosen:
        totals = lazy.computed_totals(get.matrix(adata, layer))
        writes["layers", layer] = _per_cell(adata, layer, totals, after)
    slots.write(adata, writes, writer="pp.normalize_per_cell", since=start)
    return adata if copy else None


def _kept_cells(adata: AnnData, min_counts: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells' sums and which of them are high enough."""
    x = get.matrix(adata)
    sums = as_sums(qc.cell_statistics(x)[0], x.dtype)
    keep = sums >= min_counts
    if not keep.any():
        raise InputError(f"min_counts={min_counts} keeps none of {len(keep)} cells", "a bound that keeps some")
    if not keep.all():
        logger.info("filtered out %d cells that have less than %s counts", (~keep).sum(), min_counts)
    return sums, keep


def _checked_sums(sums: Any, n_obs: int) -> np.ndarray:
    sums = np.asarray(sums, np.float64)
    if sums.shape != (n_obs,) or not (sums >= 0).all():
        raise InputError(f"counts_per_cell of shape {sums.shape}", f"{n_obs} sums from 0 on")
    return sums


def _per_cell(adata: AnnData, layer: str | None, sums: np.ndarray, after: float | None) -> Any:
    after = float(np.median(sums)) if after is None else after
    if not after > 0:
        raise InputError(f"cells would be brought to the sum {after:g}", "a sum above 0", "counts_per_cell_after=1e4")
    x = get.matrix(adata, layer)
    # a cell without counts keeps its values, whatever the sums say
    return get.as_stored(lazy.normalize(x, np.where(sums == 0, 1.0, sums), after), get.stored(adata, layer))


def _matrix_per_cell(data: Any, after: float | None, sums: Any, min_counts: float, copy: bool) -> Any:
    alone = get.alone(data)
    if sums is None:
        if not copy:
            raise InputError("a matrix alone, without counts_per_cell: Can only be run with copy=True", "copy=True")
        sums, keep = _kept_cells(alone, min_counts)
        if not keep.all():
            slots.subset(alone, "obs", keep)
            sums = sums[keep]
    out = _per_cell(alone, None, _checked_sums(sums, alone.n_obs), after)
    if copy:
        return out
    if get.put_back(data, out, copy=False) is not data:
        raise InputError(f"a {type(data).__name__} of {data.dtype}, which cannot be changed in place", "copy=True")
    return None


def _price_of_dispersion(size: Size, **_: Any) -> Price:
    return Price(1, int(1.5 * size.blocks) + 64 * size.n_vars * size.states + 235 * size.n_obs)


@priced(_price_of_dispersion)
def filter_genes_dispersion(
    data: AnnData | Any,
    *,
    flavor: str = "seurat",
    min_disp: float | None = None,
    max_disp: float | None = None,
    min_mean: float | None = None,
    max_mean: float | None = None,
    n_bins: int = 20,
    n_top_genes: int | None = None,
    log: bool = True,
    subset: bool = True,
    copy: bool = False,
) -> AnnData | np.recarray | None:
    """Keep genes of high dispersion for their mean, of X as it is; `highly_variable_genes` is what new scripts use.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars), not logarithmised unless ``log=False``, in memory or lazy; or a matrix.
    flavor
        ``seurat`` (Satija 2015) or ``cell_ranger`` (Zheng 2017).
    min_disp, max_disp, min_mean, max_mean
        Cut-offs of normalised dispersion (None: above 0.5) and mean (None: between 0.0125 and 3).
    n_bins
        Bins of ``seurat`` (scanpy takes 20 of an AnnData, whatever is asked for).
    n_top_genes
        Number of genes to keep; cut-offs are ignored then, with a warning.
    log
        Take the logarithms of mean and dispersion.
    subset
        Keep these genes only; else mark them.
    copy
        Return a changed copy instead.

    Returns
    -------
    None, or with ``copy`` the new AnnData; of a matrix alone a record array of ``gene_subset``, ``means``,
    ``dispersions`` and ``dispersions_norm``.

    Writes
    ------
    var ``means``, ``dispersions``, ``dispersions_norm`` (float32) and, without ``subset``, ``highly_variable``.

    Passes: 1. Memory: 64 bytes per gene and thread.

    Raises
    ------
    InputError
        An unknown flavor, no gene varies, or none would be left.

    Examples
    --------
    >>> import warnings, sc_dask as sd
    >>> warnings.simplefilter("ignore", FutureWarning)  # the name is of old scripts
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.filter_genes_dispersion(adata, n_top_genes=50)
    >>> adata.n_vars
    50
    """
    _deprecated("filter_genes_dispersion", "pp.highly_variable_genes")
    if flavor not in ("seurat", "cell_ranger"):
        raise InputError(f"flavor={flavor!r}", '`flavor` needs to be "seurat" or "cell_ranger"')
    bounds = {"min_disp": min_disp, "max_disp": max_disp, "min_mean": min_mean, "max_mean": max_mean}
    if n_top_genes is not None and any(bound is not None for bound in bounds.values()):
        message = "If you pass `n_top_genes`, all cutoffs are ignored: of min_disp, max_disp, min_mean and max_mean"
        warnings.warn(message, ScDaskWarning, stacklevel=2)
    is_array = get.is_array(data)
    adata = get.alone(data) if is_array else data.copy() if copy else data
    start = begin("extracting highly variable genes")
    m = group_moments(get.matrix(adata))
    how: dict[str, Any] = {"flavor": flavor, "log": log, "n_bins": n_bins}
    table = dispersion_table(m.mean[0], variance(m)[0], n_top_genes=n_top_genes, **how)
    chosen = _chosen(table, flavor, n_top_genes, bounds)
    numbers = [table[name].to_numpy(np.float32) for name in _FIELDS[1:]]
    if flavor == "cell_ranger":
        numbers[2] = np.abs(numbers[2])
    if is_array:
        finished(start)
        out = np.empty(len(chosen), dtype=[(name, bool if name == "gene_subset" else np.float32) for name in _FIELDS])
        for name, values in zip(_FIELDS, (chosen, *numbers), strict=True):
            out[name] = values
        return out.view(np.recarray)
    if subset and not chosen.any():
        raise InputError("no gene lies within the cut-offs", "cut-offs that keep some", "subset=False, and look at var")
    writes: dict[tuple[str, str], Any] = {("var", k): v for k, v in zip(_FIELDS[1:], numbers, strict=True)}
    if not subset:
        writes["var", "highly_variable"] = chosen
    slots.write(adata, writes, writer="pp.filter_genes_dispersion", since=start)
    if subset and not chosen.all():
        slots.subset(adata, "var", chosen)
    return adata if copy else None


def _chosen(table: pd.DataFrame, flavor: str, n_top: int | None, bounds: dict[str, float | None]) -> np.ndarray:
    """Return the genes within the bounds, or the best; ``cell_ranger`` counts the distance, above or below."""
    norm = table["dispersions_norm"].to_numpy()
    norm = np.abs(norm) if flavor == "cell_ranger" else norm
    if n_top is not None:
        norm = np.round(norm, TIE_DECIMALS)
        known = np.sort(norm[~np.isnan(norm)])
        if not len(known) or n_top < 1:
            raise InputError(f"n_top_genes={n_top} of {len(known)} genes that vary", "at least one of each")
        with np.errstate(invalid="ignore"):
            return np.asarray(norm >= known[-min(n_top, len(known))])
    defaults = {"min_disp": 0.5, "max_disp": np.inf, "min_mean": 0.0125, "max_mean": 3}
    b = {name: defaults[name] if bound is None else bound for name, bound in bounds.items()}
    norm, means = np.nan_to_num(norm), table["means"].to_numpy()
    within = (means > b["min_mean"]) & (means < b["max_mean"]) & (norm > b["min_disp"]) & (norm < b["max_disp"])
    return np.asarray(within)


def _deprecated(name: str, instead: str) -> None:
    warnings.warn(f"The function {name} is deprecated; next: {instead}", FutureWarning, stacklevel=3)
