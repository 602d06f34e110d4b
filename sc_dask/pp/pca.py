"""Principal component analysis."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sc_dask import config, get, slots
from sc_dask.array.pca import solvers
from sc_dask.errors import InputError, MemoryBudgetError
from sc_dask.log import begin, logger
from sc_dask.names import check_new
from sc_dask.price import Price, Size, priced, readable

if TYPE_CHECKING:
    from anndata import AnnData

# solvers of scanpy: those that decompose the matrix of the genes' products, and those that choose by what it costs
_EXACT, _AUTO = {"gram", "covariance_eigh", "full", "tsqr", "lobpcg"}, {"auto", "arpack"}
_N_COMPS = 50
Solver = Literal["auto", "gram", "randomized", "incremental", "arpack", "covariance_eigh", "full", "tsqr", "lobpcg"]


class _Unset:
    def __repr__(self) -> str:
        return "'highly_variable' if present"


_UNSET = _Unset()


def _price(
    size: Size,
    *,
    n_comps: int | None,
    svd_solver: str | None,
    chunked: bool,
    chunk_size: int | None,
    zero_center: bool,
    obsm: str | None,
    **_: Any,
) -> Price:
    if obsm is not None:
        return Price(0, 3 * size.rep, size.rep)
    solver = _solver(svd_solver, chunked, chunk_size, zero_center, size.genes)
    k = n_comps or _N_COMPS
    passes = 1 if size.spills else 4 if solver == "randomized" else 2
    work = solvers.MEMORY[solver](size, k, chunk_size)
    # a block, what is left of it when cells were dropped, and the chosen genes of it, unpacked and packed
    chosen = 2.9 * size.genes / size.n_vars if size.genes < size.n_vars else 1.7
    blocks = int((1.2 + chosen) * size.blocks)
    scores = 4 * size.n_obs * k
    return Price(passes, work + blocks + scores, scores)


@priced(_price)
def pca(
    data: AnnData | Any,
    n_comps: int | None = None,
    *,
    layer: str | None = None,
    obsm: str | None = None,
    zero_center: bool = True,
    svd_solver: Solver | None = None,
    chunked: bool = False,
    chunk_size: int | None = None,
    random_state: int = 0,
    return_info: bool = False,
    mask_var: np.ndarray | str | None | _Unset = _UNSET,
    use_highly_variable: bool | None = None,
    dtype: Any = "float32",
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | np.ndarray | tuple[np.ndarray, ...] | None:
    """Principal component analysis, without ever centring or densifying X (Pedregosa 2011, Halko 2011, Ross 2008).

    After `regress_out` and `scale` too: ``gram`` takes what they do into the matrix of the genes' products.

    Parameters
    ----------
    data
        Annotated matrix (n_obs, n_vars), logarithmised, in memory or lazy; or the matrix alone.
    n_comps
        Number of components; None: 50, or one less than the smaller dimension.
    layer, obsm
        Layer, or element of obsm, to use instead of X.
    zero_center
        False: a truncated SVD of X as it is.
    svd_solver
        ``auto`` (the default, and what scanpy's ``arpack`` means here): ``gram`` up to 4,000 genes, else
        ``randomized``. ``gram`` is exact, as are scanpy's ``covariance_eigh``, ``full``, ``tsqr`` and ``lobpcg``, which
        mean the same here; its time grows as n_genes^3. ``randomized`` (any number of genes) is nearly exact,
        ``incremental`` (any number of genes) close in the leading components.
    chunked, chunk_size
        scanpy's words for ``incremental`` and its tile of cells (1,000 if None).
    random_state
        Seed of ``randomized``; the others draw nothing and give the same for every seed.
    return_info
        Of a matrix alone: return loadings, shares of variance and variances as well.
    mask_var
        Genes to use: a boolean array, a column of var, or None for all; by default ``highly_variable`` if there.
    use_highly_variable
        Deprecated: True is ``mask_var="highly_variable"``, False ``mask_var=None``.
    dtype
        Type of the scores: float32 or float64.
    key_added
        Name of the result instead of ``X_pca``, ``PCs`` and ``pca``.
    copy
        Return a changed copy instead.

    Returns
    -------
    None, or with ``copy`` the new AnnData; of a matrix alone the scores (n_obs, n_comps), with ``return_info`` a tuple
    of them, the loadings (n_comps, n_vars), the shares of variance and the variances.

    Writes
    ------
    obsm ``X_pca`` (n_obs, n_comps), varm ``PCs`` (n_vars, n_comps; zero for unused genes), uns ``pca`` with ``params``,
    ``variance`` and ``variance_ratio``. With ``obsm`` the loadings are uns ``pca``: ``components``.

    Passes: 1 (0 of an element of obsm); on a cluster without a shared work-dir ``gram`` and ``incremental`` 2,
    ``randomized`` 4. Memory: ``gram`` 8 n_genes^2 bytes a thread; ``randomized`` 72 n_genes c bytes a thread and 430
    n_genes c once, ``incremental`` 8 n_genes (chunk_size + 24 c) bytes, with c = max(n_comps, 50); one block a thread;
    4 bytes per cell and component.

    Raises
    ------
    InputError
        ``n_comps`` is more than there are cells or genes, an option does not apply to the solver, or X is not finite.
    MemoryBudgetError
        The Gram matrix of so many genes does not fit.

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
    check_new(key_added=key_added)
    if get.is_array(data):
        alone = get.alone(data, layer=layer, obsm=obsm, key_added=key_added)
        how: dict[str, Any] = {"zero_center": zero_center, "svd_solver": svd_solver, "random_state": random_state}
        how |= {"chunked": chunked, "chunk_size": chunk_size, "dtype": dtype}
        pca(alone, n_comps, mask_var=mask_var, use_highly_variable=use_highly_variable, **how)
        result, scores = alone.uns["pca"], np.asarray(alone.obsm["X_pca"])
        more = (alone.varm["PCs"].T, result["variance_ratio"], result["variance"])
        return (scores, *more) if return_info else scores
    _solver(svd_solver, chunked, chunk_size, zero_center, data.n_vars)
    mask_var = _mask_of(data, mask_var, use_highly_variable, obsm)
    start = begin("computing PCA")
    adata = data.copy() if copy else data
    mask = get.var_mask(adata, mask_var)
    x = get.matrix(adata, layer, mask_var=mask) if obsm is None else get.part(adata, layer, obsm)[0]
    n_comps = _checked_n_comps(n_comps, x.shape)
    logger.info("    with n_comps=%d", n_comps)
    solver = _solver(svd_solver, chunked, chunk_size, zero_center, x.shape[1])
    if solver == "gram":
        _check_room(x.shape[1])
    options: dict[str, Any] = {"dtype": np.dtype(dtype)}
    if solver == "incremental":
        options["chunk_size"] = chunk_size or max(1000, 2 * n_comps)
    else:
        options["zero_center"] = zero_center
    if solver == "randomized":
        options["random_state"] = random_state
    found = solvers.SOLVERS[solver](x, n_comps, **options)
    params = {
        "zero_center": zero_center,
        "use_highly_variable": isinstance(mask_var, str) and mask_var == "highly_variable",
        "mask_var": mask_var,
        "svd_solver": solver,
    }
    params |= {key: value for key, value in (("layer", layer), ("obsm", obsm)) if value is not None}
    uns = {"params": params, "variance": found.variance, "variance_ratio": found.variance_ratio}
    obsm_key, varm_key, uns_key = ("X_pca", "PCs", "pca") if key_added is None else (key_added,) * 3
    writes: dict[tuple[str, str], Any] = {("obsm", obsm_key): found.scores, ("uns", uns_key): uns}
    if obsm is not None:
        uns["components"] = found.components.T
    else:
        loadings = np.zeros((adata.n_vars, n_comps))
        loadings[slice(None) if mask is None else mask] = found.components.T
        writes["varm", varm_key] = loadings
    slots.write(adata, writes, writer="pp.pca", since=start)
    return adata if copy else None


def _mask_of(
    adata: AnnData,
    mask_var: np.ndarray | str | None | _Unset,
    use_highly_variable: bool | None,
    obsm: str | None,
) -> np.ndarray | str | None:
    """Return which genes are used, of the argument, of the deprecated one, or of what is there."""
    unset = isinstance(mask_var, _Unset)
    if use_highly_variable is not None:
        instead = 'mask_var="highly_variable"' if use_highly_variable else "mask_var=None"
        warnings.warn(
            f"Argument `use_highly_variable` is deprecated, consider using the mask argument: {instead}",
            FutureWarning,
            stacklevel=3,
        )
        if not unset:
            raise InputError("use_highly_variable and mask_var: These arguments are incompatible", instead)
        mask_var = "highly_variable" if use_highly_variable else None
    elif isinstance(mask_var, _Unset):
        there = obsm is None and "highly_variable" in slots.columns(adata.var)
        mask_var = "highly_variable" if there else None
    if obsm is not None and mask_var is not None:
        raise InputError("Argument `mask_var` is incompatible with `obsm`", "one of them")
    return mask_var


def _solver(svd_solver: str | None, chunked: bool, chunk_size: int | None, zero_center: bool, n_genes: int) -> str:
    name = svd_solver or ("incremental" if chunked else "auto")
    if name in _AUTO:
        name = solvers.cheaper(n_genes)
    name = "gram" if name in _EXACT else name
    if name not in solvers.SOLVERS:
        known = dict.fromkeys([*solvers.SOLVERS, *sorted(_AUTO), *sorted(_EXACT)])
        raise InputError(f"svd_solver={svd_solver!r}", f"one of: {', '.join(known)}")
    if chunked and name != "incremental":
        raise InputError(f"chunked=True with svd_solver={svd_solver!r}", "svd_solver='incremental' or None")
    if chunk_size is not None and name != "incremental":
        raise InputError(f"chunk_size={chunk_size} with svd_solver={name!r}", "svd_solver='incremental'")
    if name == "incremental" and not zero_center:
        raise InputError("zero_center=False with svd_solver='incremental'", "'gram' or 'randomized'")
    return name


def _check_room(n_genes: int) -> None:
    """Refuse a Gram matrix that would not fit in memory, before X is read."""
    needed, room = 4 * 8 * n_genes**2, config.room()
    if needed > room:
        raise MemoryBudgetError(
            f"the Gram matrix of {n_genes:,} genes needs {readable(needed)}",
            f"at most {readable(room)} (the option sc-dask.memory, or what is free)",
            "svd_solver='randomized', or choose genes first: sc_dask.pp.highly_variable_genes(adata)",
        )


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
