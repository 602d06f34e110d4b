"""Highly variable genes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from sc_dask import get, slots
from sc_dask.array import hvg, pearson, qc
from sc_dask.errors import CountsWarning, InputError, ScDaskWarning
from sc_dask.kernels import hvg as tables
from sc_dask.kernels.moments import variance
from sc_dask.kernels.pearson import check_model
from sc_dask.log import begin
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

Flavor = Literal["seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper", "pearson_residuals"]
_FLAVORS = ("seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper", "pearson_residuals")
_CUTOFFS = {"min_disp": 0.5, "max_disp": np.inf, "min_mean": 0.0125, "max_mean": 3}


_LIBRARIES = 50 * MIB  # code and tables of the fits


def _price(size: Size, *, flavor: str, batch_key: str | None, **_: Any) -> Price:
    passes = 1 if flavor in ("seurat", "cell_ranger") else 2
    states = 56 * size.n_vars * size.states * size.levels(batch_key)
    return Price(passes, _LIBRARIES + int(1.5 * size.blocks) + states, 64 * size.n_vars)


@priced(_price)
def highly_variable_genes(
    adata: AnnData,
    *,
    layer: str | None = None,
    n_top_genes: int | None = None,
    min_disp: float = 0.5,
    max_disp: float = np.inf,
    min_mean: float = 0.0125,
    max_mean: float = 3,
    span: float = 0.3,
    n_bins: int = 20,
    flavor: Flavor = "seurat",
    subset: bool = False,
    inplace: bool = True,
    batch_key: str | None = None,
    filter_unexpressed_genes: bool | None = None,
    check_values: bool = True,
    theta: float = 100,
    clip: float | None = None,
    chunksize: int = 1000,
) -> pd.DataFrame | None:
    """Mark genes that vary more than others of a like mean (Satija 2015, Zheng 2017, Stuart 2019, Lause 2021).

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars): logarithmised for ``seurat`` and ``cell_ranger``, counts for the others.
    layer
        Layer to use instead of X.
    n_top_genes
        Number of genes to keep; required by ``pearson_residuals`` and in effect by ``seurat_v3`` (2,000 if None), else
        instead of the cut-offs.
    min_disp, max_disp, min_mean, max_mean
        Cut-offs of the normalised dispersion and the mean; not used with ``n_top_genes``.
    span
        Share of genes in the local fit of variance on mean (``seurat_v3``).
    n_bins
        Bins of means (``seurat``).
    flavor
        ``seurat``, ``cell_ranger``, ``seurat_v3``, ``seurat_v3_paper`` or ``pearson_residuals`` (scanpy's
        ``experimental.pp``).
    subset
        Keep only the chosen genes.
    inplace
        Write into var; else return the table.
    batch_key
        Column of obs: genes are chosen in every batch alone and the choices are joined. A batch in which no gene varies
        (one cell, say) chooses none, with a warning.
    filter_unexpressed_genes
        Leave genes without a count out of the bins of ``seurat`` and ``cell_ranger``; None: of batches only.
    check_values
        Warn if counts are not integers (all flavors of counts); checked in the same pass.
    theta, clip
        Overdispersion of the model and bound of its residuals (``pearson_residuals``; None: the root of the number of
        cells of a batch. scanpy 1.11 keeps the first batch's bound for all).
    chunksize
        Genes whose residuals are looked at together (``pearson_residuals``).

    Returns
    -------
    None, or with ``inplace=False`` the table (n_vars rows; only chosen ones with ``subset``). It has what is written
    and, for ``seurat`` and ``cell_ranger`` without ``batch_key``, ``mean_bin``: the bin of each mean.

    Writes
    ------
    var ``highly_variable``, ``means``, ``dispersions``, ``dispersions_norm``; for ``seurat_v3`` ``variances``,
    ``variances_norm``, ``highly_variable_rank``; for ``pearson_residuals`` ``variances``, ``residual_variances``,
    ``highly_variable_rank``; with ``batch_key`` ``highly_variable_nbatches`` and
    ``highly_variable_intersection``; uns ``hvg``.

    Passes: 1; ``seurat_v3`` and ``pearson_residuals`` 2. Any number of batches costs no more.
    Memory: 24 bytes per gene, batch and thread; ``pearson_residuals`` 40.

    Raises
    ------
    InputError
        An option that the flavor does not have, or values that are not finite.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.normalize_total(adata, target_sum=1e4)
    >>> sd.pp.log1p(adata)
    >>> sd.pp.highly_variable_genes(adata, n_top_genes=50)
    >>> int(adata.var["highly_variable"].sum())
    50
    """
    start = begin("extracting highly variable genes")
    v3, residuals = flavor in ("seurat_v3", "seurat_v3_paper"), flavor == "pearson_residuals"
    if flavor not in _FLAVORS:
        raise InputError(f"flavor={flavor!r}", f"one of: {', '.join(_FLAVORS)}")
    if n_top_genes is not None and n_top_genes < 1:
        raise InputError(f"n_top_genes={n_top_genes}", f"a number from 1 to {adata.n_vars}")
    cutoffs = {"min_disp": min_disp, "max_disp": max_disp, "min_mean": min_mean, "max_mean": max_mean}
    changed = [k for k, v in cutoffs.items() if v != _CUTOFFS[k]]
    if changed and (v3 or residuals or n_top_genes is not None):
        reason = f"flavor={flavor!r}" if v3 or residuals else "n_top_genes"
        raise InputError(f"{', '.join(changed)} together with {reason}", "either a number of genes or cut-offs")
    if (v3 or residuals) and n_bins != 20:
        raise InputError(f"n_bins={n_bins} with flavor={flavor!r}", "no bins: it has none", "drop n_bins")
    if not v3 and span != 0.3:
        raise InputError(f"span={span} with flavor={flavor!r}", "a span only with seurat_v3", "drop span")
    model = {"theta": theta, "clip": clip, "chunksize": chunksize}
    if (v3 or residuals) and filter_unexpressed_genes is not None:
        raise InputError(f"filter_unexpressed_genes with flavor={flavor!r}", "a flavor with bins", "drop it")
    if not residuals and model != {"theta": 100, "clip": None, "chunksize": 1000}:
        raise InputError(
            f"{', '.join(model)} with flavor={flavor!r}", "a model only with pearson_residuals", "drop them"
        )
    if residuals:
        table = _by_residuals(adata, layer, n_top_genes, batch_key, check_values, theta, clip, chunksize)
    elif v3:
        table = _by_curve(adata, layer, n_top_genes or 2000, span, flavor, batch_key, check_values)
    else:
        if batch_key is not None and filter_unexpressed_genes is False:
            message = (
                "filter_unexpressed_genes=False is ignored with batch_key: a batch leaves genes without counts out"
            )
            warnings.warn(message, ScDaskWarning, stacklevel=2)
        only_expressed = batch_key is not None or bool(filter_unexpressed_genes)
        table = _by_bins(adata, layer, n_top_genes, cutoffs, n_bins, flavor, batch_key, only_expressed)
    if not inplace:
        return table[table["highly_variable"]] if subset else table
    _write(
        adata, table, {"flavor": flavor, "computed_on": layer or "adata.X"} if residuals else {"flavor": flavor}, start
    )
    if subset:
        slots.subset(adata, "var", table["highly_variable"].to_numpy())
    return None


@contextlib.contextmanager
def _of_batch(name: Any, n_obs: int) -> Iterator[None]:
    """Name the batch in errors."""
    try:
        yield
    except InputError as error:
        if name is None:
            raise
        raise InputError(f"batch {name!r} ({n_obs} cells): {error.found}", error.expected, error.fix) from error


def _warn_of(names: list[Any], n: np.ndarray, var: np.ndarray, n_top_genes: int | None) -> None:
    """Warn of batches that can choose no gene; an error if these are all, and a number of genes is wanted."""
    still = [f"{name!r} ({cells} cells)" for name, cells, v in zip(names, n, var, strict=True) if not (v > 0).any()]
    if not still or names == [None]:
        return
    if len(still) == len(names) and n_top_genes is not None:
        raise InputError("no gene varies in any batch", "genes with different counts", "check batch_key and filters")
    listed = ", ".join(still[:5]) + (", ..." if len(still) > 5 else "")
    message = f"no gene varies in {len(still)} of {len(names)} batches, which choose none: {listed}"
    warnings.warn(message, ScDaskWarning, stacklevel=4)


def _write(adata: AnnData, table: pd.DataFrame, uns: dict[str, str], start: float) -> None:
    table = table.drop(columns="mean_bin", errors="ignore")
    if "dispersions_norm" in table:
        table = table.assign(dispersions_norm=table["dispersions_norm"].astype(np.float32))
    writes: dict[tuple[str, str], Any] = {("uns", "hvg"): uns}
    writes |= {("var", str(c)): table[c].to_numpy() for c in table}
    slots.write(adata, writes, writer="pp.highly_variable_genes", since=start)


def _by_bins(
    adata: AnnData,
    layer: str | None,
    n_top_genes: int | None,
    cutoffs: dict[str, Any],
    n_bins: int,
    flavor: Any,
    batch_key: str | None,
    only_expressed: bool,
) -> pd.DataFrame:
    codes, names = get.batches(adata, batch_key)
    base = adata.uns.get("log1p", {}).get("base")
    x = get.matrix(adata, layer)
    seurat = flavor == "seurat"
    m = hvg.group_moments(x, codes, len(names), expm1=seurat, base=base if seurat else None)
    var = variance(m)
    _warn_of(names, m.n, var, n_top_genes)
    options: dict[str, Any] = {"flavor": flavor, "n_top_genes": n_top_genes, "n_bins": n_bins, **cutoffs}
    options["index"] = get.names(adata, "var")
    per_batch = []
    for i, name in enumerate(names):
        expressed = m.nnz[i] > 0 if only_expressed else None
        with _of_batch(name, int(m.n[i])):
            per_batch.append(tables.dispersion_table(m.mean[i], var[i], expressed=expressed, **options))
    return per_batch[0] if batch_key is None else tables.combine_batches(per_batch, n_top_genes=n_top_genes, **cutoffs)


def _by_curve(
    adata: AnnData,
    layer: str | None,
    n_top_genes: int,
    span: float,
    flavor: Any,
    batch_key: str | None,
    check_values: bool,
) -> pd.DataFrame:
    codes, names = get.batches(adata, batch_key)
    x = get.matrix(adata, layer)
    m = hvg.count_moments(x, codes, len(names))
    found = qc.not_counts(x) if check_values else None
    if found:
        warnings.warn(f"flavor={flavor!r} expects counts, but found {found}", CountsWarning, stacklevel=3)
    var = variance(m)
    _warn_of(names, m.n, var, n_top_genes)
    expected = np.ones(var.shape)
    for i, name in enumerate(names):
        if batch_key is None or (var[i] > 0).any():
            with _of_batch(name, int(m.n[i])):
                expected[i] = tables.seurat_v3_regularized(m.mean[i], var[i], span)
    clip = np.stack([tables.seurat_v3_clip(int(m.n[i]), m.mean[i], expected[i]) for i in range(len(names))])
    sums, squares = hvg.clipped(x, clip, codes)
    normalized = np.stack(
        [
            tables.seurat_v3_normalized(int(m.n[i]), m.mean[i], expected[i], sums[i], squares[i])
            for i in range(len(names))
        ]
    )
    all_cells = hvg.whole(m)
    table = tables.seurat_v3_table(
        all_cells.mean[0],
        variance(all_cells)[0],
        normalized,
        n_top_genes=n_top_genes,
        flavor=flavor,
        index=get.names(adata, "var"),
    )
    return table if batch_key is not None else table.drop(columns="highly_variable_nbatches")


def _by_residuals(
    adata: AnnData,
    layer: str | None,
    n_top_genes: int | None,
    batch_key: str | None,
    check_values: bool,
    theta: float,
    clip: float | None,
    chunksize: int,
) -> pd.DataFrame:
    check_model(theta, clip)
    if n_top_genes is None:
        raise InputError("flavor='pearson_residuals' without n_top_genes", "a number of genes", "n_top_genes=2000")
    if chunksize < 1:
        raise InputError(f"chunksize={chunksize}", "a number of genes from 1")
    codes, names = get.batches(adata, batch_key)
    x = get.matrix(adata, layer)
    found = pearson.residual_variances(x, codes, len(names), float(theta), clip, chunksize)
    _warn_of(names, found.moments.n, found.residual, n_top_genes)
    wrong = qc.not_counts(x) if check_values else None
    if wrong:
        warnings.warn(f"flavor='pearson_residuals' expects counts, but found {wrong}", CountsWarning, stacklevel=3)
    whole = hvg.whole(found.moments)
    table = tables.seurat_v3_table(
        whole.mean[0],
        variance(whole)[0],
        found.residual,
        n_top_genes=n_top_genes,
        flavor="seurat_v3_paper",  # of genes chosen in as many batches, those of the best median rank
        index=get.names(adata, "var"),
    ).rename(columns={"variances_norm": "residual_variances"})
    if batch_key is None:
        return table.drop(columns="highly_variable_nbatches")
    return table.assign(highly_variable_intersection=table["highly_variable_nbatches"] == len(names))
