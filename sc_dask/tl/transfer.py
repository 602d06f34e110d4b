"""Labels and numbers of a reference for new cells, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sc_dask import config, get, slots
from sc_dask.array.engine import run
from sc_dask.errors import InputError
from sc_dask.graph import transfer
from sc_dask.names import check_new
from sc_dask.price import MIB, Price, Size, priced

if TYPE_CHECKING:
    from anndata import AnnData

UNKNOWN = "unknown"


def _price(size: Size, *, obs: Any, **_: Any) -> Price:
    n = 1 if isinstance(obs, str) else len(obs)
    return Price(0, 4 * size.rep + 16 * n * size.n_obs, 8 * n * size.n_obs, 70 * MIB)


@priced(_price)
def transfer_labels(
    adata: AnnData,
    adata_ref: AnnData,
    obs: str | Sequence[str],
    *,
    use_rep: str = "X_pca",
    n_neighbors: int = 15,
    weights: Literal["gaussian", "uniform", "distance"] = "gaussian",
    threshold: float | None = 0.5,
    metric: str = "euclidean",
    key_added: str | Sequence[str] | None = None,
    min_recall: float = 0.95,
    random_state: int = 0,
) -> None:
    """Give new cells the labels of their nearest reference cells, and say how sure that is (Sikkema et al. 2023).

    Both need a common representation: ``tl.ingest(adata, adata_ref, embedding_method="pca")`` projects new cells on the
    components of a reference; an integrated one (scANVI, Harmony) may be better.

    Parameters
    ----------
    adata
        New cells with ``obsm[use_rep]``.
    adata_ref
        Reference cells with ``obsm[use_rep]`` and the columns.
    obs
        Columns of ``adata_ref.obs``, all served by one search. Numbers are averaged, everything else is voted on.
    use_rep
        Key of obsm, the same space in both.
    n_neighbors
        Reference cells that each new cell asks.
    weights
        What a neighbour at distance d counts: ``gaussian``: ``exp(-d^2 / (2 s^2))`` with the median distance of the
        cell's own neighbours as s; ``uniform``: the same for all; ``distance``: 1 / d.
    threshold
        Labels more uncertain than this become ``"unknown"``; None: none does. 0.5: the best label has less than half
        of the weight. The human lung cell atlas took 0.2 at 50 neighbours.
    metric
        ``euclidean``, ``cosine`` or ``correlation``.
    key_added
        Names of the results, one for each of ``obs``; None: the same names.
    min_recall
        Share of true neighbours that must be found where the search is not exact (beyond 32,768 reference cells).
    random_state
        Seed of that search.

    Returns
    -------
    None.

    Writes
    ------
    obs ``<key>`` (n_obs): category of strings, or float64 for a column of numbers; obs ``<key>_uncertainty`` float64: 1
    less the label's share of the weight (a neighbour without a label counts as none of them), or the weighted
    standard deviation of the numbers; uns ``transfer_labels``: ``params`` with the measured ``recall``.

    Passes: 0. Memory: both representations twice, and 16 bytes a new cell and column; neighbours are used block by
    block.

    Raises
    ------
    MissingKeyError
        A column or the representation is not there.
    InputError
        The representations do not fit each other or are not finite, or an option is out of its range.
    RecallWarning
        (warned) The recall stayed below ``min_recall``.

    Examples
    --------
    >>> import anndata, numpy as np, sc_dask as sd
    >>> at = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> ref = anndata.AnnData(np.zeros((4, 1)), {"kind": list("aabb")}, obsm={"X_pca": at})
    >>> new = anndata.AnnData(np.zeros((1, 1)), obsm={"X_pca": np.array([[4.9]])})
    >>> sd.tl.transfer_labels(new, ref, "kind", n_neighbors=2)
    >>> new.obs["kind"].tolist(), new.obs["kind_uncertainty"].tolist()
    (['b'], [0.0])
    """
    columns = [obs] if isinstance(obs, str) else list(obs)
    keys = columns if key_added is None else [key_added] if isinstance(key_added, str) else list(key_added)
    check_new(key_added=keys)
    _check(columns, keys, weights, threshold, min_recall)
    known = [_of_reference(adata_ref, c) for c in columns]
    transferred, how = run.call(
        transfer.transfer,
        get.embedding(adata, use_rep),
        get.embedding(adata_ref, use_rep),
        [k[0] for k in known],
        n_neighbors=n_neighbors,
        weights=weights,
        metric=metric,
        min_recall=min_recall,
        seed=random_state,
        n_jobs=config.n_threads(),
    )
    params = {"obs": columns, "use_rep": use_rep, "n_neighbors": n_neighbors, "weights": weights, "metric": metric}
    params |= {"random_state": random_state, "recall": how.recall, "knn_method": how.method}
    if threshold is not None:
        params["threshold"] = threshold
    writes: dict[tuple[str, str], Any] = {("uns", "transfer_labels"): {"params": params}}
    for key, (_, categories), found in zip(keys, known, transferred, strict=True):
        values = found.values if categories is None else _labels(found, categories, threshold)
        writes |= {("obs", key): values, ("obs", f"{key}_uncertainty"): found.uncertainty}
    slots.write(adata, writes, writer="tl.transfer_labels")


def _check(columns: list[str], keys: list[str], weights: str, threshold: float | None, min_recall: float) -> None:
    if not columns or len(set(columns)) < len(columns):
        raise InputError(f"found obs={columns}", "one or more different columns of adata_ref.obs")
    if len(keys) != len(columns) or len(set(keys)) < len(keys):
        raise InputError(f"found key_added={keys} for obs={columns}", "as many different names as columns")
    if weights not in transfer.WEIGHTS:
        raise InputError(f"found weights={weights!r}", "one of " + ", ".join(transfer.WEIGHTS))
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"found threshold={threshold!r}", "a number from 0 to 1, or None")
    if not 0 <= min_recall <= 1:
        raise InputError(f"found min_recall={min_recall!r}", "a share between 0 and 1")


def _of_reference(adata_ref: AnnData, key: str) -> tuple[transfer.Labels | transfer.Numbers, pd.Index | None]:
    """Return a column as the search takes it, and its labels, if it is none of numbers."""
    values = get.column(adata_ref, key)
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        return transfer.Numbers(values.to_numpy(np.float64, na_value=np.nan)), None
    groups = get.groups(adata_ref, key, missing="drop", unused="keep", max_groups=None)
    return transfer.Labels(groups.codes, len(groups)), groups.values.astype(str)


def _labels(found: transfer.Transferred, categories: pd.Index, threshold: float | None) -> pd.Categorical:
    """Return the labels in the order of the reference; uncertain ones, or those of no neighbour, become unknown."""
    codes: NDArray[np.int32] = found.values
    if threshold is None:
        return pd.Categorical.from_codes(codes, categories)
    names = list(categories) if UNKNOWN in categories else [*categories, UNKNOWN]
    doubtful = (found.uncertainty > threshold) | (codes < 0)
    cat = pd.Categorical.from_codes(np.where(doubtful, names.index(UNKNOWN), codes), pd.Index(names))
    return cat if doubtful.any() else cat.set_categories(categories)
