"""Pseudotime and branches along diffusion components."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sc_dask import slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from sc_dask.graph import diffusion
from sc_dask.graph.branching import Branches, branches
from sc_dask.log import begin
from sc_dask.price import MIB, Price, Size, price_of, priced
from sc_dask.tl.diffmap import components, diffmap, spectrum

if TYPE_CHECKING:
    from anndata import AnnData

_DEFAULT_COMPS = 15  # of tl.diffmap


def _price(size: Size, *, n_dcs: int, n_branchings: int, **_: Any) -> Price:
    memory = (4 * n_dcs + 60 * min(1, n_branchings) + 16) * size.n_obs
    first = Price() if "diffmap" in size.known else price_of(diffmap, size)
    return Price(0, memory + first.memory, 8 * size.n_obs + first.kept, 75 * MIB + first.code)


@priced(_price)
def dpt(
    adata: AnnData,
    n_dcs: int = 10,
    *,
    n_branchings: int = 0,
    min_group_size: float = 0.01,
    allow_kendall_tau_shift: bool = True,
    neighbors_key: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Order cells by diffusion distance from a root, and find branches (Haghverdi 2016; Wolf 2019).

    Parameters
    ----------
    adata
        Annotated matrix with diffusion components (``tl.diffmap``), the graph they were made from, and the number of
        the root cell in ``adata.uns["iroot"]``.
    n_dcs
        Diffusion components to use.
    n_branchings
        Splits to look for; each gives three branches, and the cells that are undecided between them.
    min_group_size
        Groups of no more cells are not split; below 1 a share of all cells.
    allow_kendall_tau_shift
        Move a split that would leave nearly nothing behind it.
    neighbors_key
        Which graph; cells that it does not connect with the root are infinitely far.
    copy
        Return a changed copy.

    Without ``tl.diffmap`` before, its 15 components are made first. Without a root, branches have no order.

    Returns
    -------
    None, or with ``copy`` the new AnnData.

    Writes
    ------
    obs ``dpt_pseudotime`` (n_obs) float32, the farthest cell at 1. With branchings: obs ``dpt_groups`` category,
    ``dpt_order`` (place of the cell in the order) and ``dpt_order_indices`` (cell at the place), uns
    ``dpt_changepoints`` (places where a group begins) and ``dpt_grouptips`` (n_groups, 2), the ends of each group.

    Passes: 0. Memory: ``4 * n_dcs`` bytes a cell; with branchings 4 more for each end of a group (some ten a split)
    and 60 for each cell of the group that is split, never cells times cells. Time of a split grows with
    ``n * log(n)**2``.

    Raises
    ------
    MissingKeyError
        The graph or the root is not there.
    InputError
        There are fewer components than ``n_dcs``, the root is no cell, or a group is too small to be split.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> adata = anndata.AnnData(np.linspace(0, 1, 60, dtype="float32")[:, None] * [1, 2, 3])
    >>> sd.pp.neighbors(adata, n_neighbors=5); sd.tl.diffmap(adata, 5)
    >>> adata.uns["iroot"] = 0
    >>> sd.tl.dpt(adata, 5); adata.obs["dpt_pseudotime"].agg(["min", "max"]).tolist()
    [0.0, 1.0]
    """
    start = begin("computing Diffusion Pseudotime")
    root = _root(adata, n_branchings)
    written: dict[tuple[str, str], Any] = {}
    if "X_diffmap" in adata.obsm:
        found = diffusion.Spectrum(np.asarray(adata.uns["diffmap_evals"]), np.asarray(adata.obsm["X_diffmap"]))
    else:
        warnings.warn("no X_diffmap in adata.obsm: tl.diffmap(adata) is done first", ScDaskWarning, stacklevel=2)
        found = spectrum(adata, _DEFAULT_COMPS, neighbors_key, 0)
        written = {("obsm", "X_diffmap"): found.vectors, ("uns", "diffmap_evals"): found.values}
    if not 1 <= n_dcs <= len(found.values):
        raise InputError(
            f"found n_dcs={n_dcs}", f"from 1 to {len(found.values)} (X_diffmap)", f"tl.diffmap(adata, n_comps={n_dcs})"
        )
    used = diffusion.Spectrum(found.values[:n_dcs], found.vectors[:, :n_dcs])
    min_size = min_group_size if min_group_size >= 1 else int(min_group_size * adata.n_obs)
    result = run.call(
        _found, used, components(adata, neighbors_key), root, n_branchings, min_size, allow_kendall_tau_shift
    )
    adata = adata.copy() if copy else adata
    slots.write(adata, written | _written(*result), writer="tl.dpt", since=start)
    return adata if copy else None


def _found(
    used: diffusion.Spectrum, component: Any, root: int | None, n_branchings: int, min_size: float, allow_shift: bool
) -> tuple[Any, Branches | None]:
    distances = diffusion.Distances(used, component)
    time = None if root is None else diffusion.pseudotime(distances, root)
    if not n_branchings:
        return time, None
    found = branches(distances, n_branchings, root=root, pseudotime=time, min_size=min_size, allow_shift=allow_shift)
    if found.shifted:
        warnings.warn(
            "a split left nearly nothing behind it and was moved; next: allow_kendall_tau_shift=False keeps it",
            ScDaskWarning,
            stacklevel=3,
        )
    return time, found


def _written(time: Any, found: Branches | None) -> dict[tuple[str, str], Any]:
    out: dict[tuple[str, str], Any] = {} if time is None else {("obs", "dpt_pseudotime"): time}
    if found is None:
        return out
    place = np.empty(found.order.size, np.int64)
    place[found.order] = np.arange(found.order.size)
    names = pd.Index([str(i) for i in range(found.n)])
    return out | {
        ("obs", "dpt_groups"): pd.Categorical.from_codes(found.labels, names),
        ("obs", "dpt_order"): place,
        ("obs", "dpt_order_indices"): found.order.astype(np.int64),
        ("uns", "dpt_changepoints"): found.changepoints.astype(np.int64),
        ("uns", "dpt_grouptips"): found.tips.astype(np.int64),
    }


def _root(adata: AnnData, n_branchings: int) -> int | None:
    if "iroot" not in adata.uns:
        if not n_branchings:
            raise MissingKeyError(
                "no 'iroot' in adata.uns",
                "the number of the cell where the process begins",
                'adata.uns["iroot"] = adata.obs_names.get_loc("name of the cell")',
            )
        warnings.warn("no 'iroot' in adata.uns: groups are found, but no pseudotime", ScDaskWarning, stacklevel=3)
        return None
    root = np.asarray(adata.uns["iroot"])  # files hold it as an array, some of length 1
    if root.size != 1 or root.dtype.kind not in "iu" or not 0 <= root.item() < adata.n_obs:
        raise InputError(
            f"found uns['iroot']={adata.uns['iroot']!r}", f"the number of a cell, from 0 to {adata.n_obs - 1}"
        )
    return int(root.item())
