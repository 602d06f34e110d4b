"""Pearson residuals (Lause, Berens & Kobak 2021), under the names that scanpy has for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import get, pp
from sc_dask.errors import InputError
from sc_dask.outside.anndata import named_layers
from sc_dask.pp import normalize_pearson_residuals

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = [
    "highly_variable_genes",
    "normalize_pearson_residuals",
    "normalize_pearson_residuals_pca",
    "recipe_pearson_residuals",
]


def highly_variable_genes(
    adata: AnnData,
    *,
    theta: float = 100,
    clip: float | None = None,
    n_top_genes: int | None = None,
    batch_key: str | None = None,
    chunksize: int = 1000,
    flavor: str = "pearson_residuals",
    check_values: bool = True,
    layer: str | None = None,
    subset: bool = False,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Choose genes by the variance of their residuals: ``pp.highly_variable_genes(flavor="pearson_residuals")``.

    Parameters
    ----------
    theta, clip
        Overdispersion of all genes, and where residuals are cut (None: the root of the number of cells).
    n_top_genes
        How many genes; needed.
    chunksize
        Blocks are cut by bytes here, so this has no effect on the result, as in scanpy.
    flavor
        ``"pearson_residuals"``.

    The other parameters, what is written, passes and errors are those of `sc_dask.pp.highly_variable_genes`.
    """
    del chunksize
    if flavor != "pearson_residuals":
        raise InputError(f"found flavor={flavor!r}", "'pearson_residuals'", "use pp.highly_variable_genes")
    if n_top_genes is None:
        raise InputError("found no n_top_genes", "how many genes are chosen", "n_top_genes=2000")
    return pp.highly_variable_genes(
        adata,
        flavor="pearson_residuals",
        theta=theta,
        clip=clip,
        n_top_genes=n_top_genes,
        batch_key=batch_key,
        check_values=check_values,
        layer=layer,
        subset=subset,
        inplace=inplace,
    )


def normalize_pearson_residuals_pca(
    adata: AnnData,
    *,
    theta: float = 100,
    clip: float | None = None,
    n_comps: int | None = 50,
    random_state: int = 0,
    kwargs_pca: dict[str, Any] | None = None,
    mask_var: np.ndarray | str | None = "highly_variable",
    use_highly_variable: bool | None = None,
    check_values: bool = True,
    inplace: bool = True,
) -> AnnData | None:
    """Compute principal components of Pearson residuals of the chosen genes; X stays as it is.

    Parameters
    ----------
    theta, clip, check_values
        As in `normalize_pearson_residuals`.
    n_comps, random_state, kwargs_pca
        For ``pp.pca``.
    mask_var
        Genes that are used: a mask or a column of var; the column ``highly_variable`` may be missing, then all are.
    use_highly_variable
        True or False: with or without that column.
    inplace
        Write obsm ``X_pca``, varm ``PCs``, uns ``pca`` and ``pearson_residuals_normalization``; else return an AnnData
        of the residuals with them.

    Passes and memory are those of `normalize_pearson_residuals` and ``pp.pca``.
    """
    from anndata import AnnData

    from sc_dask import slots

    if use_highly_variable is not None:
        mask_var = "highly_variable" if use_highly_variable else None
    elif isinstance(mask_var, str) and mask_var == "highly_variable" and mask_var not in slots.columns(adata.var):
        mask_var = None
    mask = get.var_mask(adata, mask_var)
    kept = slots.names(adata.var) if mask is None else slots.names(adata.var)[mask]
    obs, var = slots.in_memory(adata.obs), slots.in_memory(adata.var).loc[kept]
    shell = AnnData(get.matrix(adata, mask_var=mask), obs=obs.copy(), var=var)
    normalize_pearson_residuals(shell, theta=theta, clip=clip, check_values=check_values)
    pp.pca(shell, n_comps=n_comps, mask_var=None, random_state=random_state, **(kwargs_pca or {}))
    if not inplace:
        return shell
    loadings = shell.varm["PCs"]
    if mask is not None:
        loadings = np.zeros((adata.n_vars, loadings.shape[1]), loadings.dtype)
        loadings[mask] = shell.varm["PCs"]
    settings = {**shell.uns["pearson_residuals_normalization"], "computed_on": "adata.X"}
    slots.write(adata, {("uns", "pearson_residuals_normalization"): settings})
    slots.write(
        adata,
        {
            ("obsm", "X_pca"): shell.obsm["X_pca"],
            ("varm", "PCs"): loadings,
            ("uns", "pca"): {**shell.uns["pca"], "mask_var": mask_var if isinstance(mask_var, str) else None},
        },
        writer="pp.pca",
    )
    return None


def recipe_pearson_residuals(
    adata: AnnData,
    *,
    n_top_genes: int = 1000,
    theta: float = 100,
    clip: float | None = None,
    batch_key: str | None = None,
    chunksize: int = 1000,
    n_comps: int | None = 50,
    random_state: int = 0,
    kwargs_pca: dict[str, Any] | None = None,
    check_values: bool = True,
    inplace: bool = True,
) -> tuple[AnnData, pd.DataFrame] | None:
    """Choose genes by Pearson residuals, and compute principal components of the residuals of these.

    `highly_variable_genes`, then `normalize_pearson_residuals_pca`, with their parameters. With ``inplace=False``
    the AnnData of the residuals and the table of genes are returned, and nothing is written.
    """
    target = adata if inplace else _shallow(adata)
    highly_variable_genes(
        target,
        n_top_genes=n_top_genes,
        theta=theta,
        clip=clip,
        batch_key=batch_key,
        chunksize=chunksize,
        check_values=check_values,
        inplace=True,
    )
    found = normalize_pearson_residuals_pca(
        target,
        theta=theta,
        clip=clip,
        n_comps=n_comps,
        random_state=random_state,
        kwargs_pca=kwargs_pca,
        check_values=False,
        inplace=inplace,
    )
    if inplace or found is None:
        return None
    kinds = ("highly", "means", "vari", "resid")
    added = [c for c in target.var.columns if c not in adata.var.columns or c.startswith(kinds)]
    return found, target.var[added]


def _shallow(adata: AnnData) -> AnnData:
    from anndata import AnnData

    from sc_dask import slots

    layers = dict(named_layers(adata))
    return AnnData(adata.X, obs=slots.in_memory(adata.obs), var=slots.in_memory(adata.var).copy(), layers=layers)
