"""Highly variable genes from means and variances: the formulas of Seurat, Cell Ranger and Seurat v3.

Satija et al. (2015), Zheng et al. (2017), Stuart et al. (2019), in the form that scanpy gives them. X is not needed.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sc_dask.errors import InputError, ScDaskWarning

Flavor = Literal["seurat", "cell_ranger"]
FlavorV3 = Literal["seurat_v3", "seurat_v3_paper"]

# in a bin of two genes both are 1 / sqrt(2) from its mean: equal, whatever the rounding of their sums says
TIE_DECIMALS = 9
MAD_OF_NORMAL = 0.6744897501960817  # median absolute deviation of a standard normal


def dispersion_table(
    mean: NDArray[np.float64],
    var: NDArray[np.float64],
    *,
    flavor: Flavor = "seurat",
    n_top_genes: int | None = None,
    min_mean: float = 0.0125,
    max_mean: float = 3,
    min_disp: float = 0.5,
    max_disp: float = np.inf,
    n_bins: int = 20,
    expressed: NDArray[np.bool_] | None = None,
    index: pd.Index | None = None,
    log: bool | None = None,
) -> pd.DataFrame:
    """Return the dispersions of one batch and the genes that they choose.

    Parameters
    ----------
    mean, var
        float64 of n_vars (variance over ``n - 1``): of ``expm1(X)`` for ``"seurat"``, of X for ``"cell_ranger"``.
    flavor
        ``"seurat"``: logarithms of mean and dispersion, ``n_bins`` equal bins, mean and standard deviation.
        ``"cell_ranger"``: bins between percentiles, median and median absolute deviation.
    n_top_genes
        Number of genes wanted (more when the last ones are equal); the cut-offs are then not used.
    min_mean, max_mean, min_disp, max_disp
        Cut-offs (exclusive) of ``means`` and ``dispersions_norm``.
    n_bins
        Bins of ``"seurat"``.
    expressed
        bool of n_vars: genes to look at (in one of several batches, those with a count); the others
        get zeros. None: all.
    index
        Gene names; None: 0, 1, ...
    log
        Take the logarithms of mean and dispersion; None: as the flavor has it.

    Returns
    -------
    Columns ``means``, ``dispersions``, ``dispersions_norm`` (float64) and ``highly_variable`` (bool); without
    ``expressed`` also ``mean_bin``, a category. A batch in which no gene varies chooses none.

    Raises
    ------
    InputError
        The means are not finite, have too few different values for bins, or no gene varies (without ``expressed``).
    """
    _check(flavor, n_top_genes)
    keep = np.ones(len(mean), bool) if expressed is None else np.asarray(expressed, bool)
    log = flavor == "seurat" if log is None else log
    means, dispersions = _raw_dispersions(np.asarray(mean, float)[keep], np.asarray(var, float)[keep], log)
    bins = None
    if expressed is not None and not (np.asarray(var)[keep] > 0).any():
        norm, chosen = np.full(len(means), np.nan), np.zeros(len(means), bool)
    else:
        bins = _bins(pd.Series(means), flavor, n_bins)
        norm = _normalized(pd.Series(dispersions), bins, flavor)
        if n_top_genes is None:
            chosen = _in_bounds(means, np.nan_to_num(norm), min_mean, max_mean, min_disp, max_disp)
        else:
            compared = np.round(norm, TIE_DECIMALS)
            chosen = np.nan_to_num(compared, nan=-np.inf) >= _nth_highest(compared, min(n_top_genes, len(norm)))
    out = pd.DataFrame(
        {"means": np.zeros(len(keep)), "dispersions": 0.0, "dispersions_norm": 0.0, "highly_variable": False},
        index=index,
    )
    for column, found in zip(out.columns, (means, dispersions, norm, chosen), strict=True):
        filled = np.zeros(len(keep), found.dtype)
        filled[keep] = found
        out[column] = filled
    if expressed is None and bins is not None:
        names = bins.cat.set_categories(bins.cat.categories.astype(str), rename=True)
        out.insert(2, "mean_bin", pd.Series(pd.Categorical(names), out.index))
    return out


def combine_batches(
    tables: list[pd.DataFrame],
    *,
    n_top_genes: int | None = None,
    min_mean: float = 0.0125,
    max_mean: float = 3,
    min_disp: float = 0.5,
    max_disp: float = np.inf,
) -> pd.DataFrame:
    """Return the genes chosen over several batches.

    Means and dispersions are averaged over the batches (missing ones left out). With ``n_top_genes`` the
    genes chosen in most batches come first, then those with the highest normalised dispersion, then by name.

    Parameters
    ----------
    tables
        One of :func:`dispersion_table` a batch (made with ``expressed``), with equal index of gene names.
    n_top_genes, min_mean, max_mean, min_disp, max_disp
        As there; the cut-offs hold for the averages.

    Returns
    -------
    The columns of :func:`dispersion_table`, ``highly_variable_nbatches`` (int64) and
    ``highly_variable_intersection`` (bool), genes in their first order.
    """
    if not tables:
        raise InputError("found no batch", "at least one", "check batch_key")
    _check("seurat", n_top_genes)
    index = tables[0].index
    out = pd.DataFrame(index=index)
    for column in ("means", "dispersions", "dispersions_norm"):
        out[column] = _nanmean(np.stack([t[column].to_numpy() for t in tables]))
    n_batches = np.sum([t["highly_variable"].to_numpy() for t in tables], axis=0).astype(np.int64)
    if n_top_genes is None:
        out["dispersions_norm"] = out["dispersions_norm"].fillna(0)
        norm = out["dispersions_norm"].to_numpy()
        chosen = _in_bounds(out["means"].to_numpy(), norm, min_mean, max_mean, min_disp, max_disp)
    else:
        by_name = np.argsort(index.to_numpy().astype(object), kind="stable")
        norm = np.nan_to_num(out["dispersions_norm"].to_numpy(), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        order = by_name[np.lexsort((-np.round(norm[by_name], TIE_DECIMALS), -n_batches[by_name]))]
        chosen = np.zeros(len(index), bool)
        chosen[order[:n_top_genes]] = True
    out["highly_variable"] = chosen
    out["highly_variable_nbatches"] = n_batches
    out["highly_variable_intersection"] = n_batches == len(tables)
    return out


def seurat_v3_regularized(
    mean: NDArray[np.float64], var: NDArray[np.float64], span: float = 0.3
) -> NDArray[np.float64]:
    """Return the standard deviation expected at each gene's mean, from a loess fit of log variance on log mean.

    Parameters
    ----------
    mean, var
        float64 of n_vars, of the counts of one batch.
    span
        Share of the genes in each local fit.

    Returns
    -------
    float64 of n_vars; 1 where the variance is 0.

    Raises
    ------
    InputError
        The fit fails (too few genes that vary, or too many equal means).
    """
    from skmisc.loess import loess

    varies = var > 0
    n_varying = int(varies.sum())
    fitted = np.zeros(len(mean))
    try:
        near = int(n_varying * span)
        if near < 3:  # loess itself crashes the process when there is no gene in a local fit
            raise ValueError(f"{near} genes in a local fit, a parabola takes 3")
        model = loess(np.log10(mean[varies]), np.log10(var[varies]), span=span, degree=2)
        model.fit()
        fitted[varies] = model.outputs.fitted_values
    except ValueError as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise InputError(
            f"found that the loess fit of seurat_v3 fails on {n_varying} varying genes ({reason})",
            "raw counts of many genes in every batch",
            "remove rare genes, merge small batches or raise span",
        ) from error
    return np.sqrt(10**fitted)


def seurat_v3_clip(n_obs: int, mean: NDArray[np.float64], reg_std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the highest count of each gene that enters its variance: ``sqrt(n_obs)`` deviations above the mean."""
    return reg_std * np.sqrt(n_obs) + mean


def seurat_v3_normalized(
    n_obs: int,
    mean: NDArray[np.float64],
    reg_std: NDArray[np.float64],
    clipped_sums: NDArray[np.float64],
    clipped_squares: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the variance of the clipped, standardised counts of one batch, float64 of n_vars."""
    about_mean = n_obs * np.square(mean) + clipped_squares - 2 * clipped_sums * mean
    return about_mean / (max(n_obs - 1, 1) * np.square(reg_std))


def seurat_v3_table(
    mean: NDArray[np.float64],
    var: NDArray[np.float64],
    normalized: NDArray[np.float64],
    *,
    n_top_genes: int = 2000,
    flavor: FlavorV3 = "seurat_v3",
    index: pd.Index | None = None,
) -> pd.DataFrame:
    """Return the genes chosen by their normalised variances.

    Parameters
    ----------
    mean, var
        float64 of n_vars, of all cells.
    normalized
        n_batches x n_vars, a row of :func:`seurat_v3_normalized` a batch.
    n_top_genes
        Number of genes wanted; ranks from there on are missing.
    flavor
        Order over batches: ``"seurat_v3"`` by median rank, then number of batches;
        ``"seurat_v3_paper"`` the other way round.
    index
        Gene names; None: 0, 1, ...

    Returns
    -------
    Columns ``means``, ``variances``, ``highly_variable_nbatches`` (int64), ``highly_variable_rank``,
    ``variances_norm`` (the mean over the batches) and ``highly_variable`` (bool).
    """
    if flavor not in ("seurat_v3", "seurat_v3_paper"):
        raise InputError(f"found flavor {flavor!r}", "'seurat_v3' or 'seurat_v3_paper'", "choose one of them")
    _check("seurat", n_top_genes)
    normalized = np.atleast_2d(normalized)
    ranks = np.argsort(np.argsort(-normalized, axis=1), axis=1).astype(np.float32)
    ranks[ranks >= n_top_genes] = np.nan
    ranks[~(normalized > 0).any(axis=1)] = np.nan  # a batch in which no gene varies chooses none
    n_batches = np.count_nonzero(~np.isnan(ranks), axis=0).astype(np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        median = np.nanmedian(ranks, axis=0)
    # missing ranks last; equal ones in the order of the genes
    last = np.nan_to_num(median, nan=np.inf)
    order = np.lexsort((-n_batches, last) if flavor == "seurat_v3" else (last, -n_batches))
    chosen = np.zeros(len(median), bool)
    chosen[order[:n_top_genes]] = True
    columns = {
        "means": mean,
        "variances": var,
        "highly_variable_nbatches": n_batches,
        "highly_variable_rank": median,
        "variances_norm": normalized.mean(axis=0),
        "highly_variable": chosen,
    }
    return pd.DataFrame(columns, index=index)


def _check(flavor: str, n_top_genes: int | None) -> None:
    if flavor not in ("seurat", "cell_ranger"):
        raise InputError(f"found flavor {flavor!r}", "'seurat' or 'cell_ranger'", "choose one of them")
    if n_top_genes is not None and n_top_genes < 1:
        raise InputError(f"found n_top_genes={n_top_genes}", "at least 1", "ask for more genes")


def _raw_dispersions(
    mean: NDArray[np.float64], var: NDArray[np.float64], log: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not np.isfinite(mean).all():
        raise InputError(
            "found means that are not finite", "logarithmised data", "run log1p first and look for NaN in X"
        )
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = var / mean
    if not log:
        return mean, dispersion
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log1p(mean), np.log(np.where(dispersion == 0, np.nan, dispersion))


def _bins(means: pd.Series, flavor: Flavor, n_bins: int) -> pd.Series:
    """Return the bin of each mean, a category of intervals.

    Percentiles stand on means. Genes of the same mean stay on one side, whatever the rounding of their sums says.
    """
    edges: Any = n_bins
    if flavor == "cell_ranger":
        means = means.map(lambda m: float(f"{m:.12g}"))
        edges = np.r_[-np.inf, np.percentile(means, np.arange(10, 105, 5)), np.inf]
    try:
        return pd.cut(means, bins=edges)
    except ValueError as error:
        raise InputError(
            f"found that the {len(means)} mean expressions cannot be put into bins ({error})",
            "expressed genes with different means",
            "remove genes without counts (pp.filter_genes(min_cells=1)) first",
        ) from error


def _normalized(dispersions: pd.Series, bins: pd.Series, flavor: Flavor) -> NDArray[np.float64]:
    """Return how far each dispersion lies above those of its bin of means."""
    grouped = dispersions.groupby(bins, observed=True)
    if flavor == "cell_ranger":
        centre = grouped.transform("median")
        away = (dispersions - centre).abs() / MAD_OF_NORMAL
        spread = away.groupby(bins, observed=True).transform("median")
    else:
        centre, spread = grouped.transform("mean"), grouped.transform("std")
        alone = spread.isna()  # one gene in the bin: its normalised dispersion is 1
        spread = spread.where(~alone, centre)
        centre = centre.where(~alone, 0.0)
    return ((dispersions - centre) / spread).to_numpy()


def _in_bounds(
    means: NDArray[np.float64],
    norm: NDArray[np.float64],
    min_mean: float,
    max_mean: float,
    min_disp: float,
    max_disp: float,
) -> NDArray[np.bool_]:
    return (means > min_mean) & (means < max_mean) & (norm > min_disp) & (norm < max_disp)


def _nth_highest(norm: NDArray[np.float64], n: int) -> float:
    known = np.sort(norm[~np.isnan(norm)])
    if len(known) == 0:
        raise InputError("found no gene that varies", "genes with different counts", "check the batches and filters")
    if n > len(known):
        warnings.warn(
            f"n_top_genes is {n} but only {len(known)} genes have a normalised dispersion: all of these are taken",
            ScDaskWarning,
            stacklevel=3,
        )
        n = len(known)
    return float(known[-n])


def _nanmean(stacked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the first axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
