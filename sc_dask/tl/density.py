"""Densities of cells in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sc_dask import get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.graph import density
from sc_dask.log import begin
from sc_dask.names import check_new
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData


_GRID = 40 * MIB  # ten times as much where cells lie far apart


def _price(size: Size, *, groupby: str | None, **_: Any) -> Price:
    return Price(0, _GRID + 250 * size.n_obs // size.levels(groupby), 8 * size.n_obs)


@priced(_price)
def embedding_density(
    adata: AnnData,
    basis: str = "umap",
    *,
    groupby: str | None = None,
    key_added: str | None = None,
    components: str | Sequence[str] | None = None,
) -> None:
    """Measure how densely cells lie in a picture, in each group on its own, from 0 to 1.

    Parameters
    ----------
    adata
        Annotated matrix with coordinates in obsm ``X_<basis>``.
    basis
        ``umap``, ``pca``, ``tsne``, ``diffmap``, ``draw_graph_fr``, ... (``fa``: ``draw_graph_fa``).
    groupby
        Column of obs; cells without a group get 0.
    key_added
        Column of obs; None: ``<basis>_density``, or ``<basis>_density_<groupby>``.
    components
        Two dimensions, from 1: ``"1,2"`` or ``["1", "2"]``; of ``diffmap`` the steady state does not count.

    Up to 10,000 cells of a group the numbers are scanpy's (every cell with every other). Of more, they are read from a
    grid and are within 0.0001 of them, in seconds for a million cells.

    Returns
    -------
    None.

    Writes
    ------
    obs ``<key>`` (n_obs) float64; uns ``<key>_params``: ``covariate`` and ``components``.

    Passes: 0. Memory: 250 bytes a cell of the largest group, and up to 400 MB for a grid.

    Raises
    ------
    MissingKeyError
        The coordinates or the column are not there.
    InputError
        A group has fewer than three cells, or cells on a line; not two components.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.zeros((60, 1)))
    >>> adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(60, 2))
    >>> sd.tl.embedding_density(adata)
    >>> adata.obs["umap_density"].agg(["min", "max"]).tolist()
    [0.0, 1.0]
    """
    start = begin("computing density")
    basis = "draw_graph_fa" if basis.lower() == "fa" else basis.lower()
    key = key_added or (f"{basis}_density" if groupby is None else f"{basis}_density_{groupby}")
    check_new(key_added=key)
    numbers = _numbers(components)
    points = _points(adata, basis, numbers)
    if groupby is None:
        values = run.call(density.scaled, points)
    else:
        cells = get.groups(adata, groupby, missing="drop", unused="refuse", floats="refuse")
        values = np.zeros(adata.n_obs)
        for code, name in enumerate(cells.names):
            own = cells.codes == code
            values[own] = run.call(_of_group, points[own], name)
    params = {"covariate": groupby, "components": numbers}
    slots.write(
        adata, {("obs", key): values, ("uns", f"{key}_params"): params}, writer="tl.embedding_density", since=start
    )


def _of_group(points: NDArray[np.floating], name: str) -> NDArray[np.float64]:
    try:
        return density.scaled(points)
    except InputError as error:
        raise InputError(f"group {name!r}: {error.found}", error.expected, error.fix) from error


def _numbers(components: str | Sequence[str] | None) -> list[int]:
    parts = ["1", "2"] if components is None else components.split(",") if isinstance(components, str) else components
    try:
        numbers = [int(c) for c in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 2 or min(numbers) < 1:
        raise InputError(f"found components={components!r}", "two dimensions, from 1: '1,2'")
    return numbers


def _points(adata: AnnData, basis: str, numbers: list[int]) -> NDArray[np.floating]:
    key = f"X_{basis}"
    if key not in adata.obsm:
        known = ", ".join(k[2:] for k in adata.obsm if k.startswith("X_")) or "nothing yet"
        raise MissingKeyError(f"no {key!r} in adata.obsm", f"a basis, one of: {known}", "tl.umap(adata)")
    coords = adata.obsm[key]
    coords = coords.to_numpy() if isinstance(coords, pd.DataFrame) else np.asarray(coords)
    columns = [c - (basis != "diffmap") for c in numbers]
    if max(columns) >= coords.shape[1]:
        raise InputError(f"found components {numbers}", f"at most {coords.shape[1] - (basis == 'diffmap')} ({key})")
    return coords[:, columns]
