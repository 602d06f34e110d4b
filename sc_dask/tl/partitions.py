"""What Leiden and Louvain share: which graph, which cells, and how clusters are named and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import get, slots
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.graph import cluster

if TYPE_CHECKING:
    from anndata import AnnData


def checked_resolutions(resolution: float | None | Sequence[float]) -> tuple[bool, list[float | None]]:
    """Tell whether several are wanted, and list them: numbers of at least 0, or None, none of them twice."""
    several = isinstance(resolution, Sequence | np.ndarray)
    wanted: list[Any] = list(resolution) if isinstance(resolution, Sequence | np.ndarray) else [resolution]
    numbers = [r for r in wanted if r is not None]
    good = all(isinstance(r, int | float | np.number) and not isinstance(r, bool) and r >= 0 for r in numbers)
    if not wanted or not good or len(set(wanted)) < len(wanted) or (several and None in wanted):
        raise InputError(f"found resolution={resolution!r}", "one number of at least 0, or several different ones")
    return several, wanted


def write(
    adata: AnnData,
    found: list[cluster.Partition],
    resolutions: list[float | None],
    key_added: str,
    several: bool,
    params: dict[str, Any],
    restrict_to: tuple[str, Sequence[str]] | None,
    keep: NDArray[np.bool_] | None,
    *,
    writer: str,
    since: float,
) -> None:
    """Write a column of obs and an entry of uns for each resolution."""
    written: dict[tuple[str, str], Any] = {}
    for resolution, partition in zip(resolutions, found, strict=True):
        key = f"{key_added}_{resolution:g}" if several else key_added
        groups = partition.labels.astype(str)
        if restrict_to is not None:
            groups = _renamed(adata, *restrict_to, keep=keep, groups=groups)
        written["obs", key] = _categorical(groups)
        at = params if resolution is None else {"resolution": resolution, **params}
        written["uns", key] = {"params": at, "modularity": partition.modularity}
    slots.write(adata, written, writer=writer, since=since)


def chosen_graph(
    adata: AnnData, adjacency: sp.csr_matrix | None, neighbors_key: str | None, obsp: str | None
) -> sp.csr_matrix:
    """Return the graph that was given or named."""
    if adjacency is None:
        return get.graph(adata, neighbors_key, obsp)
    if neighbors_key is not None or obsp is not None:
        raise InputError("found adjacency together with neighbors_key or obsp", "one graph")
    if not sp.issparse(adjacency) or adjacency.shape != (adata.n_obs, adata.n_obs):
        raise InputError(
            f"found an adjacency of type {type(adjacency).__name__} and shape {getattr(adjacency, 'shape', None)}",
            f"a sparse matrix of shape {(adata.n_obs, adata.n_obs)}",
        )
    return adjacency.tocsr()


def restricted(adata: AnnData, key: str, categories: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which cells are of the categories."""
    if isinstance(categories, str) or not all(isinstance(c, str) for c in categories):
        raise InputError(f"found restrict_to categories {categories!r}", "a list of strings, '1' instead of 1")
    known, of = _named(adata, key)
    missing = [c for c in categories if c not in known]
    if missing or not categories:
        raise MissingKeyError(f"no category {missing} in obs[{key!r}]", "one or more of: " + ", ".join(sorted(known)))
    return np.isin(known, list(categories))[of]


def _renamed(
    adata: AnnData, key: str, categories: Sequence[str], *, keep: NDArray[np.bool_] | None, groups: NDArray[np.str_]
) -> NDArray[Any]:
    known, of = _named(adata, key)
    out = np.asarray(known, object)[of]
    prefix = "-".join(categories) + ","
    out[keep] = [prefix + group for group in groups]
    return out


def _named(adata: AnnData, key: str) -> tuple[list[str], NDArray[np.int32]]:
    """Return the names of the groups and a code per cell; as in scanpy, cells without a value are called nan."""
    cells = get.groups(adata, key, missing="own group", max_groups=None)
    return [*cells.names, *(["nan"] if cells.n_missing else [])], cells.codes


def _categorical(groups: NDArray[Any]) -> pd.Categorical:
    from natsort import natsorted

    return pd.Categorical(groups, categories=natsorted(map(str, np.unique(groups))))
