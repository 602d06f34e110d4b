"""Principal component analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sc_dask import get, slots
from sc_dask.array import pca as solvers
from sc_dask.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

# the exact solvers of scanpy, whose numbers the Gram matrix gives
_EXACT = {"gram", "arpack", "covariance_eigh", "full"}
_N_COMPS = 50
Solver = Literal["gram", "randomized", "incremental", "arpack", "covariance_eigh", "full"]


class _Unset:
    def __repr__(self) -> str:
        return "'highly_variable' if present"


_UNSET = _Unset()


def pca(
    data: AnnData,
    n_comps: int | None = None,
    *,
    layer: str | None = None,
    zero_center: bool = True,
    svd_solver: Solver | None = None,
    chunked: bool = False,
    chunk_size: int | None = None,
    random_state: int = 0,
    mask_var: np.ndarray | str | None | _Unset = _UNSET,
    dtype: Any = "float32",
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Principal component analysis, without ever centring or densifying X (Pedregosa 2011, Halko 2011, Ross 2008).

    After `regress_out` and `scale` too: ``gram`` takes what they do into the matrix of the genes' products.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars), logarithmised, in memory or lazy.
    n_comps
        Number of components; None: 50, or one less than the smaller dimension.
    layer
        Layer to use instead of X.
    zero_center
        False: a truncated SVD of X as it is.
    svd_solver
        ``gram`` (the default; exact, up to some 10,000 genes; scanpy's ``arpack``, ``covariance_eigh`` and
        ``full`` are exact too and mean the same here), ``randomized`` (any number of genes, nearly exact) or
        ``incremental`` (any number of genes, close in the leading components).
    chunked, chunk_size
        scanpy's words for ``incremental`` and its tile of cells (1,000 if None).
    random_state
        Seed of ``randomized``; the others draw nothing and give the same for every seed.
    mask_var
        Genes to use: a boolean array, a column of var, or None for all; by default ``highly_variable`` if there.
    dtype
        Type of the scores: float32 or float64.
    key_added
        Name of the result instead of ``X_pca``, ``PCs`` and ``pca``.
    copy
        Return a changed copy instead.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obsm ``X_pca`` (n_obs, n_comps), varm ``PCs`` (n_vars, n_comps; zero for unused genes), uns ``pca`` with ``params``,
    ``variance`` and ``variance_ratio``.

    Passes: 1; on a cluster without a shared work-dir ``gram`` and ``incremental`` 2, ``randomized`` 4.
    Memory: ``gram`` 8 n_genes^2 bytes a thread; ``randomized`` 72 n_genes c bytes a thread and 430 n_genes c once,
    ``incremental`` 8 n_genes (chunk_size + 24 c) bytes, with c = max(n_comps, 50); one block a thread; 4 bytes per
    cell and component.

    Raises
    ------
    InputError
        ``n_comps`` is more than there are cells or genes, an option does not apply to the solver, or X is not finite.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> sd.pp.normalize_total(adata, target_sum=1e4)
    >>> sd.pp.log1p(adata)
    >>> sd.pp.pca(adata, n_comps=10)
    >>> adata.obsm["X_pca"].shape
    (200, 10)
    """
    solver = _solver(svd_solver, chunked, chunk_size, zero_center)
    adata = data.copy() if copy else data
    if isinstance(mask_var, _Unset):
        mask_var = "highly_variable" if "highly_variable" in slots.columns(adata.var) else None
    mask = get.var_mask(adata, mask_var)
    x = get.matrix(adata, layer, mask_var=mask)
    n_comps = _checked_n_comps(n_comps, x.shape)
    options: dict[str, Any] = {"dtype": np.dtype(dtype)}
    if solver == "incremental":
        options["chunk_size"] = chunk_size or max(1000, 2 * n_comps)
    else:
        options["zero_center"] = zero_center
    if solver == "randomized":
        options["random_state"] = random_state
    found = solvers.SOLVERS[solver](x, n_comps, **options)
    loadings = np.zeros((adata.n_vars, n_comps))
    loadings[slice(None) if mask is None else mask] = found.components.T
    params = {
        "zero_center": zero_center,
        "use_highly_variable": isinstance(mask_var, str) and mask_var == "highly_variable",
        "mask_var": mask_var,
        "svd_solver": solver,
    }
    if layer is not None:
        params["layer"] = layer
    uns = {"params": params, "variance": found.variance, "variance_ratio": found.variance_ratio}
    obsm_key, varm_key, uns_key = ("X_pca", "PCs", "pca") if key_added is None else (key_added,) * 3
    writes = {("obsm", obsm_key): found.scores, ("varm", varm_key): loadings, ("uns", uns_key): uns}
    slots.write(adata, writes, writer="pp.pca")
    return adata if copy else None


def _solver(svd_solver: str | None, chunked: bool, chunk_size: int | None, zero_center: bool) -> str:
    name = svd_solver or ("incremental" if chunked else "gram")
    name = "gram" if name in _EXACT else name
    if name not in solvers.SOLVERS:
        raise InputError(f"svd_solver={svd_solver!r}", f"one of: {', '.join([*solvers.SOLVERS, *sorted(_EXACT)])}")
    if chunked and name != "incremental":
        raise InputError(f"chunked=True with svd_solver={svd_solver!r}", "svd_solver='incremental' or None")
    if chunk_size is not None and name != "incremental":
        raise InputError(f"chunk_size={chunk_size} with svd_solver={name!r}", "svd_solver='incremental'")
    if name == "incremental" and not zero_center:
        raise InputError("zero_center=False with svd_solver='incremental'", "'gram' or 'randomized'")
    return name


def _checked_n_comps(n_comps: int | None, shape: tuple[int, int]) -> int:
    smaller = min(shape)
    if n_comps is None:
        n_comps = smaller - 1 if smaller <= _N_COMPS else _N_COMPS
    if not 1 <= n_comps <= smaller or shape[0] < 2:
        raise InputError(
            f"n_comps={n_comps} for {shape[0]} cells and {shape[1]} genes",
            f"a number from 1 to {smaller}" if shape[0] > 1 else "at least 2 cells",
            "choose fewer components or keep more genes and cells",
        )
    return n_comps
