"""Highly variable genes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from sc_dask import get, slots
from sc_dask.array import hvg, qc
from sc_dask.errors import CountsWarning, InputError
from sc_dask.kernels import hvg as tables
from sc_dask.kernels.moments import variance

if TYPE_CHECKING:
    from anndata import AnnData

Flavor = Literal["seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper"]
_CUTOFFS = {"min_disp": 0.5, "max_disp": np.inf, "min_mean": 0.0125, "max_mean": 3}


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
    check_values: bool = True,
) -> pd.DataFrame | None:
    """Mark genes that vary more than others of a like mean (Satija 2015, Zheng 2017, Stuart 2019).

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars): logarithmised for ``seurat`` and ``cell_ranger``, counts for ``seurat_v3``.
    layer
        Layer to use instead of X.
    n_top_genes
        Number of genes to keep; required in effect by ``seurat_v3`` (2,000 if None), else instead of the cut-offs.
    min_disp, max_disp, min_mean, max_mean
        Cut-offs of the normalised dispersion and the mean; not used with ``n_top_genes``.
    span
        Share of genes in the local fit of variance on mean (``seurat_v3``).
    n_bins
        Bins of means (``seurat``).
    flavor
        ``seurat``, ``cell_ranger``, ``seurat_v3`` or ``seurat_v3_paper``.
    subset
        Keep only the chosen genes.
    inplace
        Write into var; else return the table.
    batch_key
        Column of obs: genes are chosen in every batch alone and the choices are joined.
    check_values
        Warn if counts are not integers (``seurat_v3``); checked in the same pass.

    Returns
    -------
    None, or with ``inplace=False`` the table (n_vars rows; only chosen ones with ``subset``).

    Writes
    ------
    var ``highly_variable``, ``means``, ``dispersions``, ``dispersions_norm``; for ``seurat_v3`` ``variances``,
    ``variances_norm``, ``highly_variable_rank``; with ``batch_key`` ``highly_variable_nbatches`` and
    ``highly_variable_intersection``; uns ``hvg``.

    Passes: 1; ``seurat_v3`` 2. Any number of batches costs no more. Memory: 24 bytes per gene, batch and thread.

    Raises
    ------
    InputError
        An option that the flavor does not have, or values that are not finite.
    """
    v3 = flavor in ("seurat_v3", "seurat_v3_paper")
    if flavor not in ("seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper"):
        raise InputError(f"flavor={flavor!r}", "'seurat', 'cell_ranger', 'seurat_v3' or 'seurat_v3_paper'")
    if n_top_genes is not None and n_top_genes < 1:
        raise InputError(f"n_top_genes={n_top_genes}", f"a number from 1 to {adata.n_vars}")
    cutoffs = {"min_disp": min_disp, "max_disp": max_disp, "min_mean": min_mean, "max_mean": max_mean}
    changed = [k for k, v in cutoffs.items() if v != _CUTOFFS[k]]
    if changed and (v3 or n_top_genes is not None):
        reason = f"flavor={flavor!r}" if v3 else "n_top_genes"
        raise InputError(f"{', '.join(changed)} together with {reason}", "either a number of genes or cut-offs")
    if v3 and n_bins != 20:
        raise InputError(f"n_bins={n_bins} with flavor={flavor!r}", "no bins: it fits a curve", "drop n_bins")
    if not v3 and span != 0.3:
        raise InputError(f"span={span} with flavor={flavor!r}", "a span only with seurat_v3", "drop span")
    if v3:
        table = _by_curve(adata, layer, n_top_genes or 2000, span, flavor, batch_key, check_values)
    else:
        table = _by_bins(adata, layer, n_top_genes, cutoffs, n_bins, flavor, batch_key)
    if not inplace:
        return table[table["highly_variable"]] if subset else table
    _write(adata, table, flavor)
    if subset:
        slots.subset(adata, "var", table["highly_variable"].to_numpy())
    return None


def _write(adata: AnnData, table: pd.DataFrame, flavor: str) -> None:
    if "dispersions_norm" in table:
        table = table.assign(dispersions_norm=table["dispersions_norm"].astype(np.float32))
    writes: dict[tuple[str, str], Any] = {("uns", "hvg"): {"flavor": flavor}}
    writes |= {("var", str(c)): table[c].to_numpy() for c in table}
    slots.write(adata, writes, writer="pp.highly_variable_genes")


def _by_bins(
    adata: AnnData,
    layer: str | None,
    n_top_genes: int | None,
    cutoffs: dict[str, float],
    n_bins: int,
    flavor: Any,
    batch_key: str | None,
) -> pd.DataFrame:
    codes, names = get.batches(adata, batch_key)
    base = adata.uns.get("log1p", {}).get("base")
    x = get.matrix(adata, layer)
    seurat = flavor == "seurat"
    m = hvg.group_moments(x, codes, len(names), expm1=seurat, base=base if seurat else None)
    var = variance(m)
    per_batch = [
        tables.dispersion_table(
            m.mean[i],
            var[i],
            flavor=flavor,
            n_top_genes=n_top_genes,
            n_bins=n_bins,
            expressed=None if batch_key is None else m.nnz[i] > 0,
            index=get.names(adata, "var"),
            **cutoffs,
        )
        for i in range(len(names))
    ]
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
    expected = np.stack([tables.seurat_v3_regularized(m.mean[i], var[i], span) for i in range(len(names))])
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
