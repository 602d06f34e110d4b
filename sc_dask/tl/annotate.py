"""Cell types by a linear model, cell by cell, and by the vote of small clusters."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sc_dask import get, slots
from sc_dask.array.blocks import collect_rows
from sc_dask.array.engine import run
from sc_dask.errors import InputError
from sc_dask.graph import cluster
from sc_dask.graph.sharded.landmarks import clusters
from sc_dask.groups import Name, of_column
from sc_dask.io.model import AnnotationModel, read_model
from sc_dask.kernels.annotate import Linear, assign
from sc_dask.kernels.csr import col_lookup
from sc_dask.names import check_new
from sc_dask.price import Price, Size, priced
from sc_dask.tl.genes import matched
from sc_dask.tl.vote import resolution_for, voted

if TYPE_CHECKING:
    from anndata import AnnData

Clusters = str | Sequence[Any] | NDArray[Any] | pd.Series
_MODES = ("best match", "prob match")
_KEPT = ("decisions", "probabilities")


def _price(size: Size, **_: Any) -> Price:
    return Price(1, int(3 * size.blocks) + 12 * size.n_obs)


@priced(_price)
def annotate(
    adata: AnnData,
    model: AnnotationModel | str | os.PathLike[str],
    *,
    majority_voting: bool = False,
    over_clustering: Clusters | None = None,
    mode: Literal["best match", "prob match"] = "best match",
    p_thres: float = 0.5,
    min_prop: float = 0,
    keep: Collection[Literal["decisions", "probabilities"]] = (),
    layer: str | None = None,
    use_raw: bool = False,
    check_expression: bool = True,
    neighbors_key: str | None = None,
    key_added: str | None = None,
) -> None:
    """Name the type of every cell by logistic regression, as CellTypist does (Dominguez Conde et al. 2022).

    Parameters
    ----------
    adata
        Annotated matrix, counts brought to 10,000 a cell and logarithmised, in memory or lazy.
    model
        Of ``tl.train_annotation``, ``sd.read_model`` or ``sc_dask.io.celltypist.read_celltypist``; or the path of one
        that sc_dask wrote. Genes are matched by name; those that are missing are warned of and left out.
    majority_voting
        Also give all cells of a small cluster the label of most of them.
    over_clustering
        These clusters: a column of obs, or a value for each cell. None: our Leiden of the neighbour graph at a
        resolution of 5 (below 5,000 cells) to 30 (above 200,000).
    mode
        ``best match``: the label of the highest score. ``prob match``: all labels more probable than ``p_thres``, as
        ``"A|B"``, or ``"Unassigned"``.
    p_thres
        Of ``prob match``.
    min_prop
        Clusters in which the most frequent label has a smaller share become ``"Heterogeneous"``.
    keep
        Matrices to keep: ``decisions`` and ``probabilities``, 4 bytes per cell and label each.
    layer, use_raw
        Which matrix.
    check_expression
        Refuse X if the first cells of a block do not sum up to 10,000.
    neighbors_key
        Graph of the over-clustering.
    key_added
        Names become ``<key_added>_predicted_labels`` and so on.

    Returns
    -------
    None.

    Writes
    ------
    obs ``predicted_labels`` (n_obs) category; obs ``conf_score`` float64, the highest probability (labels are judged
    one by one, so they need not add up to 1); with ``majority_voting`` obs ``over_clustering`` and
    ``majority_voting``; obsm ``decisions`` and ``probabilities`` (n_obs, n_labels) float32 if kept; uns ``annotate``:
    ``params``, ``labels``, ``n_genes`` and ``n_missing``.

    Passes: 1. Memory: one block a thread and half as much again, 12 bytes a cell.

    Raises
    ------
    InputError
        X is not logarithmised, fewer than a tenth of the model's genes are there, or an option does not apply.
    MissingKeyError
        No such layer or column, or no graph to cluster.
    FormatError
        The file is no model of sc_dask.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> x = np.log1p(np.array([[9e3, 1e3], [2e3, 8e3]]))
    >>> adata = anndata.AnnData(x, {"kind": ["a", "b"]})
    >>> sd.tl.annotate(adata, sd.tl.train_annotation(adata, "kind"))
    >>> adata.obs["predicted_labels"].tolist()
    ['a', 'b']
    """
    check_new(key_added=key_added)
    _check(majority_voting, over_clustering, mode, p_thres, min_prop, keep)
    model = model if isinstance(model, AnnotationModel) else read_model(model)
    small = _given(adata, over_clustering) if over_clustering is not None else None
    if majority_voting and small is None and get.landmark_graph(adata, neighbors_key) is None:
        get.graph(adata, neighbors_key)  # missing: said before X is read
    x = get.matrix(adata, layer, use_raw=use_raw)
    at = matched(adata, pd.Index(model.features), "the model", use_raw=use_raw)
    linear = _linear(model, at >= 0)
    options: dict[str, Any] = {"model": linear, "keep": tuple(keep)}
    options["threshold"] = p_thres if mode == "prob match" else None
    if check_expression:
        options |= {"check": True, "lookup": col_lookup(at[at >= 0], x.shape[1])}
    else:  # the choice of genes goes before normalising
        x = x.select_columns(at[at >= 0])
    found = run.compute(collect_rows(assign, x, **options), label="annotate")
    labels = _labels(found, model.classes)
    prefix = "" if key_added is None else f"{key_added}_"
    writes: dict[tuple[str, str], Any] = {
        ("obs", f"{prefix}predicted_labels"): labels,
        ("obs", f"{prefix}conf_score"): found["confidence"],
    }
    writes |= {("obsm", f"{prefix}{name}"): found[name] for name in keep}
    if majority_voting:
        small = _over_clusters(adata, neighbors_key) if small is None else small
        writes["obs", f"{prefix}over_clustering"] = small
        writes["obs", f"{prefix}majority_voting"] = voted(labels, small, min_prop)
    params = {"mode": mode, "p_thres": p_thres, "majority_voting": majority_voting, "min_prop": min_prop}
    info = {"n_genes": int((at >= 0).sum()), "n_missing": int((at < 0).sum()), "labels": model.classes.astype(str)}
    writes["uns", f"{prefix}annotate"] = {"params": params, **info}
    slots.write(adata, writes, writer="tl.annotate")


def _check(
    majority_voting: bool, over_clustering: Any, mode: str, p_thres: float, min_prop: float, keep: Collection[str]
) -> None:
    if mode not in _MODES:
        raise InputError(f"found mode={mode!r}", "'best match' or 'prob match'")
    if not 0 <= p_thres <= 1 or (mode == "best match" and p_thres != 0.5):
        raise InputError(f"found p_thres={p_thres!r} with mode={mode!r}", "0 to 1, and mode='prob match'")
    if not 0 <= min_prop <= 1:
        raise InputError(f"found min_prop={min_prop!r}", "a share between 0 and 1")
    if not majority_voting and (over_clustering is not None or min_prop):
        raise InputError("found over_clustering or min_prop without majority_voting", "majority_voting=True")
    if isinstance(keep, str) or set(keep) - set(_KEPT):
        raise InputError(f"found keep={keep!r}", "a list of 'decisions' and 'probabilities'")


def _linear(model: AnnotationModel, there: NDArray[np.bool_]) -> Linear:
    coef = np.ascontiguousarray(model.coef[:, there].T)
    return Linear(coef, model.intercept, model.mean[there], model.scale[there])


def _labels(found: dict[str, NDArray[Any]], classes: NDArray[np.str_]) -> pd.Categorical:
    """Return the labels, categories in alphabetical order; of several, joined by ``|``."""
    if "flags" not in found:
        return pd.Categorical(classes[found["best"]])
    which, codes = np.unique(found["flags"], axis=0, return_inverse=True)
    sets = np.unpackbits(which, axis=1, count=len(classes)).astype(bool)
    names = np.array(["|".join(classes[s]) or "Unassigned" for s in sets], dtype=object)
    return pd.Categorical(names[codes.ravel()])


def _given(adata: AnnData, over_clustering: Clusters) -> pd.Categorical:
    if isinstance(over_clustering, str):
        found = get.groups(adata, over_clustering, missing="drop", max_groups=None)
    else:
        values = over_clustering if isinstance(over_clustering, pd.Series) else pd.Series(np.asarray(over_clustering))
        found = of_column(values, Name("over_clustering", axis=None), missing="drop", max_groups=None)
    if len(found.codes) != adata.n_obs or found.n_missing:
        raise InputError(
            f"found an over_clustering of {len(found.codes)} cells, {found.n_missing} of them in no cluster",
            f"a cluster for each of {adata.n_obs} cells",
        )
    names: Any = found.names
    return pd.Categorical.from_codes(found.codes, names, ordered=found.ordered)


def _over_clusters(adata: AnnData, neighbors_key: str | None) -> pd.Categorical:
    resolution = resolution_for(adata.n_obs)
    landmark_graph = get.landmark_graph(adata, neighbors_key)
    if landmark_graph is not None:
        labels = clusters(landmark_graph, run.map_tasks, resolution=resolution, n_iterations=2, seed=0)[0]
    else:
        graph = get.graph(adata, neighbors_key)
        labels = run.call(cluster.leiden_at, graph, [resolution], flavor="sc_dask", n_iterations=2)[0].labels
    return pd.Categorical.from_codes(labels, pd.Index(np.arange(int(labels.max()) + 1).astype(str)))
