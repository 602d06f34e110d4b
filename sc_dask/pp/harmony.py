"""Principal components without batches: Harmony."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import config, get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.graph import harmony as engine
from sc_dask.graph.knn.neighbors import check_finite
from sc_dask.log import begin
from sc_dask.names import check_new
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

# harmonypy's options and defaults.
_DEFAULTS: dict[str, Any] = {
    "theta": None,
    "lamb": None,
    "sigma": 0.1,
    "nclust": None,
    "tau": 0,
    "block_size": 0.05,
    "max_iter_harmony": 10,
    "max_iter_kmeans": 20,
    "epsilon_cluster": 1e-5,
    "epsilon_harmony": 1e-4,
    "random_state": 0,
}
_CELLS_A_CLUSTER, _MOST_CLUSTERS = 30, 100


def _price(size: Size, **_: Any) -> Price:
    return Price(0, 6 * size.rep + 4 * 100 * size.n_obs, size.rep, 40 * MIB)


@priced(_price)
def harmony_integrate(
    adata: AnnData,
    key: str | Sequence[str],
    *,
    basis: str = "X_pca",
    adjusted_basis: str = "X_pca_harmony",
    **kwargs: Any,
) -> None:
    """Take what tells batches apart off the principal components, by Harmony (Korsunsky et al. 2019).

    Up to 20,000 cells the result is that of harmonypy 0.0.10 for the same seed, but for rounding to float32; beyond,
    the first centroids are those of 20,000 cells. It does not depend on the number of threads.

    Parameters
    ----------
    adata
        Annotated matrix with ``obsm[basis]``.
    key
        Column of obs with the batches, or several.
    basis
        Key of obsm: principal components (n_obs, n_comps).
    adjusted_basis
        Key of obsm for the result.
    kwargs
        harmonypy's: ``theta`` (1: how much a cluster avoids being of one batch) and ``lamb`` (1, above 0: ridge of the
        correction), each one number, one per key or one per batch; ``sigma`` (0.1: width of the soft clusters, or one
        per cluster), ``nclust`` (``n_obs / 30``, at most 100), ``tau`` (0: cells a cluster below which a small batch is
        left in peace), ``block_size`` (0.05 of the cells are assigned at a time), ``max_iter_harmony`` (10),
        ``max_iter_kmeans`` (20), ``epsilon_cluster`` (1e-5), ``epsilon_harmony`` (1e-4), ``random_state`` (0).

    Returns
    -------
    None.

    Writes
    ------
    obsm ``adjusted_basis``, ``X_pca_harmony`` (n_obs, n_comps) float32.

    Passes: 0. Memory: 4 bytes per cell and component, and per cell and cluster (1.3 million cells, 50 components, 100
    clusters: 780 MB).

    Raises
    ------
    MissingKeyError
        No such column or representation.
    InputError
        Missing batches, one batch only, components that are not finite, an option that is unknown or out of range.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 100, seed=1)
    >>> adata.obs["run"] = ["a", "b"] * 100
    >>> sd.pp.pca(adata, n_comps=10)
    >>> sd.pp.harmony_integrate(adata, "run")
    >>> adata.obsm["X_pca_harmony"].shape
    (200, 10)
    """
    start = begin("integrating batches by Harmony")
    check_new(adjusted_basis=adjusted_basis)
    names = [key] if isinstance(key, str) else list(key)
    if not names or len(set(names)) < len(names):
        raise InputError(f"found key={key!r}", "a column of obs, or several different ones")
    codes, sizes = [], []
    for name in names:
        levels = get.groups(adata, name, missing="refuse", min_groups=2)
        codes.append(levels.codes)
        sizes.append(len(levels))
    if basis not in adata.obsm:
        raise MissingKeyError(f"no {basis!r} in adata.obsm", f"one of: {', '.join(adata.obsm)}", "pp.pca(adata)")
    x = get.in_memory(adata.obsm[basis])
    check_finite(x)
    keys = engine.batches(codes)
    found = run.call(engine.harmony, x, keys, _options(kwargs, keys, sizes), n_jobs=config.n_threads())
    slots.write(adata, {("obsm", adjusted_basis): found.x}, writer="pp.harmony_integrate", since=start)


def _options(kwargs: dict[str, Any], keys: engine.Batches, sizes: list[int]) -> engine.HarmonyOptions:
    unknown = set(kwargs) - set(_DEFAULTS)
    if unknown:
        raise InputError(f"found the options {', '.join(sorted(unknown))}", f"some of: {', '.join(_DEFAULTS)}")
    o = _DEFAULTS | kwargs
    n_obs = len(keys.of)
    n_clusters = o["nclust"]
    if n_clusters is None:
        n_clusters = max(1, min(round(n_obs / _CELLS_A_CLUSTER), _MOST_CLUSTERS))
    for name, value, right in (
        ("nclust", n_clusters, 1 <= n_clusters <= n_obs),
        ("tau", o["tau"], o["tau"] >= 0),
        ("block_size", o["block_size"], 0 < o["block_size"] <= 1),
        ("max_iter_harmony", o["max_iter_harmony"], o["max_iter_harmony"] >= 1),
        ("max_iter_kmeans", o["max_iter_kmeans"], o["max_iter_kmeans"] >= 1),
    ):
        if not right:
            raise InputError(f"found {name}={value!r}", "a number in its range", "see the docstring")
    theta = _per_batch("theta", 1 if o["theta"] is None else o["theta"], sizes)
    if o["tau"] > 0:
        theta = theta * (1 - np.exp(-((keys.share * n_obs / (n_clusters * o["tau"])) ** 2)))
    lamb = _per_batch("lamb", 1 if o["lamb"] is None else o["lamb"], sizes)
    sigma = np.asarray(o["sigma"], np.float64)
    sigma = np.repeat(sigma, n_clusters) if sigma.ndim == 0 else sigma
    if sigma.shape != (n_clusters,) or not (sigma > 0).all() or not (lamb > 0).all() or not (theta >= 0).all():
        raise InputError(
            f"found sigma={o['sigma']!r}, lamb={o['lamb']!r}, theta={o['theta']!r}",
            f"sigma (one or {n_clusters}) and lamb above 0, theta not below 0",
        )
    names = ("block_size", "max_iter_harmony", "max_iter_kmeans", "epsilon_cluster", "epsilon_harmony", "random_state")
    return engine.HarmonyOptions(theta, lamb, sigma, **{name: o[name] for name in names})


def _per_batch(name: str, value: Any, sizes: list[int]) -> np.ndarray:
    """Return a number for every batch: given once, by key or by batch."""
    values = np.asarray(value, np.float64)
    if values.ndim == 0:
        return np.repeat(values, sum(sizes))
    if values.shape == (len(sizes),):
        return np.repeat(values, sizes)
    if values.shape == (sum(sizes),):
        return values
    raise InputError(f"found {name}={value!r}", f"one number, {len(sizes)} (keys) or {sum(sizes)} (batches)")
