"""Labels and embeddings of a reference for new cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sc_dask import config, get, slots
from sc_dask.array.blocks import RowBlocks, collect_rows
from sc_dask.array.engine import run
from sc_dask.array.pca.components import scores_of
from sc_dask.array.score import gene_means
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.graph import ingest as placing
from sc_dask.graph.layout import curve
from sc_dask.graph.transfer import Labels
from sc_dask.kernels.csr import to_dense
from sc_dask.log import begin
from sc_dask.names import safe, warn_name
from sc_dask.price import MIB, Price, Size, priced
from sc_dask.tl.genes import matched

if TYPE_CHECKING:
    from anndata import AnnData

_EMBEDDINGS = ("umap", "pca")
_MIN_DIST, _SPREAD = 0.5, 1.0  # of tl.umap


def _price(size: Size, **_: Any) -> Price:
    return Price(1, int(2.1 * size.blocks) + 5 * size.rep, size.rep, 70 * MIB)


@priced(_price)
def ingest(
    adata: AnnData,
    adata_ref: AnnData,
    *,
    obs: str | Iterable[str] | None = None,
    embedding_method: str | Iterable[str] = ("umap", "pca"),
    labeling_method: str | Iterable[str] = "knn",
    neighbors_key: str | None = None,
    inplace: bool = True,
    **kwargs: Any,
) -> AnnData | None:
    """Map labels and embeddings of a reference to new cells: components, neighbours there, majority, positions.

    Parameters
    ----------
    adata
        New cells, in memory or lazy. Genes are matched by name; those that the reference has more of are warned of
        and count as their mean.
    adata_ref
        Reference with ``pp.pca``, ``pp.neighbors`` and, for ``"umap"``, ``tl.umap``, and with the X (or the layer) that
        its components were made from: new cells are centred at its mean.
    obs
        Columns of ``adata_ref.obs`` to map, categorical.
    embedding_method
        ``"umap"`` and ``"pca"``, or one of them.
    labeling_method
        ``"knn"``.
    neighbors_key
        Entry of ``adata_ref.uns`` with the settings of the neighbours; None: ``neighbors``.
    inplace
        False: return a changed copy.
    kwargs
        ``k``: neighbours (None: as many as in the reference's graph); ``random_state``: seed (0).

    Returns
    -------
    None, or without ``inplace`` the new AnnData.

    Writes
    ------
    obs columns of ``obs`` (n_obs) category: of the most neighbours, of equals the first; obsm ``X_pca`` (n_obs,
    n_comps) float32, centred at the mean of the reference (as scanpy from 1.12 on; 1.11 takes the mean of the new
    cells, so that cells of one type get the labels of others); obsm ``X_umap`` (n_obs, n_components) float32: the
    weighted mean of the neighbours' positions, then rounds of our layout with the reference fixed (scanpy's come
    from umap-learn and differ in detail).

    Passes: 1 (0 if neither components nor X are needed), and 1 over the reference's genes with a loading unless their
    means are known. Memory: 4 bytes per cell and component, the reference's
    representation twice, 16 bytes per cell and neighbour; one block a thread.

    Raises
    ------
    MissingKeyError
        The reference lacks a column, its components, X, the settings of its neighbours or its layout.
    InputError
        Too few genes of the reference are there, or an option is unknown.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> ref = anndata.AnnData(np.random.default_rng(0).normal(size=(60, 5)), {"kind": ["a"] * 60})
    >>> sd.pp.neighbors(ref, n_neighbors=5)
    >>> new = anndata.AnnData(np.zeros((2, 5)))
    >>> sd.tl.ingest(new, ref, obs="kind", embedding_method=())
    >>> new.obs["kind"].tolist()
    ['a', 'a']
    """
    start = begin("mapping cells onto the reference")
    wanted, columns = _listed(embedding_method), [] if obs is None else _listed(obs)
    k, seed = _options(wanted, columns, labeling_method, kwargs)
    for name in columns:
        warn_name(
            name, f"the column {name!r} of the reference", f"adata_ref.obs[{safe(name)!r}] = adata_ref.obs[{name!r}]"
        )
    space = _space(adata_ref, neighbors_key)
    known = {c: get.groups(adata_ref, c, missing="drop", unused="keep", max_groups=None) for c in columns}
    layout = _layout(adata_ref) if "umap" in wanted else None
    writes: dict[tuple[str, str], Any] = {}
    scores = None
    if "pca" in wanted or (space.use_rep == "X_pca" and (columns or layout)):
        scores = _projected(adata, adata_ref)
        if "pca" in wanted:
            writes["obsm", "X_pca"] = scores
    if columns or layout:
        labels, where, _ = run.call(
            placing.ingested,
            _coordinates(adata, adata_ref, space, scores),
            get.embedding(adata_ref, space.use_rep, space.n_pcs),
            [Labels(groups.codes, len(groups)) for groups in known.values()],
            layout,
            n_neighbors=space.n_neighbors if k is None else k,
            metric=space.metric,
            seed=seed,
            n_jobs=config.n_threads(),
        )
        for (name, groups), codes in zip(known.items(), labels, strict=True):
            writes["obs", name] = pd.Categorical.from_codes(codes, groups.values)
        if where is not None:
            writes["obsm", "X_umap"] = where
    adata = adata if inplace else adata.copy()
    slots.write(adata, writes, writer="tl.ingest", since=start)
    return None if inplace else adata


def _listed(words: str | Iterable[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


def _options(
    embeddings: list[str], columns: list[str], labeling: str | Iterable[str], kwargs: Mapping[str, Any]
) -> tuple[int | None, int]:
    """Return the number of neighbours and the seed, if everything is known."""
    unknown = [e for e in embeddings if e not in _EMBEDDINGS]
    if unknown:
        raise InputError(f"found embedding_method={unknown}", "'umap' and 'pca'")
    methods = _listed(labeling)
    if set(methods) != {"knn"} or len(methods) not in (1, len(columns)):
        raise InputError(f"found labeling_method={labeling!r} for obs={columns}", "'knn'")
    if len(set(columns)) < len(columns):
        raise InputError(f"found obs={columns}", "different columns")
    foreign = set(kwargs) - {"k", "random_state"}
    if foreign:
        raise InputError(f"found the options {', '.join(sorted(foreign))}", "k and random_state")
    return kwargs.get("k"), int(kwargs.get("random_state") or 0)


@dataclass(frozen=True)
class _Space:
    """Where the reference's neighbours were searched."""

    use_rep: str
    n_pcs: int | None
    n_neighbors: int
    metric: str


def _space(adata_ref: AnnData, neighbors_key: str | None) -> _Space:
    key = neighbors_key or "neighbors"
    if key not in adata_ref.uns:
        raise MissingKeyError(f"no {key!r} in adata_ref.uns", "settings of its neighbours", "pp.neighbors(adata_ref)")
    params = adata_ref.uns[key]["params"]
    n_pcs = params.get("n_pcs")
    small = n_pcs == 0 or (adata_ref.n_vars <= 50 and n_pcs is None)
    use_rep = params.get("use_rep") or ("X" if small else "X_pca")
    return _Space(
        str(use_rep), n_pcs or None, int(np.ravel(params["n_neighbors"])[0]), str(params.get("metric", "euclidean"))
    )


def _layout(adata_ref: AnnData) -> tuple[NDArray[Any], float, float]:
    if "X_umap" not in adata_ref.obsm:
        raise MissingKeyError(
            "no 'X_umap' in adata_ref.obsm", "a layout", "tl.umap(adata_ref), or embedding_method='pca'"
        )
    params = adata_ref.uns.get("umap", {}).get("params", {})
    a, b = (params["a"], params["b"]) if {"a", "b"} <= set(params) else curve(_SPREAD, _MIN_DIST)
    return np.asarray(adata_ref.obsm["X_umap"]), float(a), float(b)


def _places(adata: AnnData, adata_ref: AnnData, used: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where the used genes of the reference stand; case does not matter in the same order, as in scanpy."""
    names, others = get.names(adata, "var"), get.names(adata_ref, "var")
    if names.str.upper().equals(others.str.upper()):
        return np.flatnonzero(used)
    return matched(adata, others[used], "the reference")


def _projected(adata: AnnData, adata_ref: AnnData) -> NDArray[np.float32]:
    """Return the new cells along the reference's components: one pass over the genes that have a loading."""
    if "PCs" not in adata_ref.varm or "pca" not in adata_ref.uns:
        raise MissingKeyError("no components in adata_ref", "varm['PCs'] and uns['pca']", "pp.pca(adata_ref)")
    loadings = np.asarray(adata_ref.varm["PCs"], np.float64)
    used = np.asarray(loadings.any(axis=1))
    at = _places(adata, adata_ref, used)
    x = get.matrix(adata).select_columns(at[at >= 0])
    params = adata_ref.uns["pca"].get("params", {})
    mean = None
    if params.get("zero_center", True):
        mean = gene_means(_of_components(adata_ref, params).select_columns(np.flatnonzero(used)))[0][at >= 0]
    return np.asarray(scores_of(x, loadings[used][at >= 0].T, mean, np.float32))


def _of_components(adata_ref: AnnData, params: Mapping[str, Any]) -> RowBlocks:
    """Return what the reference's components were made from."""
    layer = params.get("layer")
    try:
        return get.matrix(adata_ref, None if layer is None else str(layer))
    except MissingKeyError as err:
        raise MissingKeyError(
            f"adata_ref lacks the matrix of its components: {err.found}",
            "its X, whose mean new cells are centred at",
            "keep X in the reference, or pp.pca(adata_ref, zero_center=False)",
        ) from err


def _coordinates(adata: AnnData, adata_ref: AnnData, space: _Space, scores: NDArray[Any] | None) -> NDArray[Any]:
    """Return the new cells in the space of the reference's neighbours."""
    if scores is not None and space.use_rep == "X_pca":
        return scores[:, : space.n_pcs]
    if space.use_rep != "X":
        return get.embedding(adata, space.use_rep, space.n_pcs)
    at = _places(adata, adata_ref, np.ones(adata_ref.n_vars, bool))
    if (at < 0).any():
        raise InputError("genes of the reference are missing in adata", "all of them: neighbours were searched in X")
    x = get.matrix(adata)
    return np.asarray(run.compute(collect_rows(to_dense, x.select_columns(at), dtype=np.float32), label="load"))
