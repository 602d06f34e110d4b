"""Principal component analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sc_dask import config, get, slots
from sc_dask.array.pca import solvers
from sc_dask.errors import InputError, MemoryBudgetError
from sc_dask.names import check_new
from sc_dask.price import Price, Size, priced, readable

if TYPE_CHECKING:
    from anndata import AnnData

# solvers of scanpy: those that decompose the matrix of the genes' products, and those that choose by what it costs
_EXACT, _AUTO = {"gram", "covariance_eigh", "full"}, {"auto", "arpack"}
_N_COMPS = 50
Solver = Literal["auto", "gram", "randomized", "incremental", "arpack", "covariance_eigh", "full"]


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
    **_: Any,
) -> Price:
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
        ``auto`` (the default, and what scanpy's ``arpack`` means here): ``gram`` up to 4,000 genes, else
        ``randomized``. ``gram`` is exact, as are scanpy's ``covariance_eigh`` and ``full``, which mean the same here;
        its time grows as n_genes^3. ``randomized`` (any number of genes) is nearly exact,
        ``incremental`` (any number of genes) close in the leading components.
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
    _solver(svd_solver, chunked, chunk_size, zero_center, data.n_vars)
    adata = data.copy() if copy else data
    if isinstance(mask_var, _Unset):
        mask_var = "highly_variable" if "highly_variable" in slots.columns(adata.var) else None
    mask = get.var_mask(adata, mask_var)
    x = get.matrix(adata, layer, mask_var=mask)
    n_comps = _checked_n_comps(n_comps, x.shape)
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
