"""The label of most cells of a cluster, for all of its cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

HETEROGENEOUS = "Heterogeneous"


def voted(labels: pd.Categorical, clusters: pd.Categorical, min_prop: float) -> pd.Categorical:
    """Return the most frequent label of each cell's cluster, of equals the first in the alphabet, as CellTypist does.

    Clusters in which it is less frequent than ``min_prop`` become ``"Heterogeneous"``.
    """
    names = np.asarray(labels.categories)
    order = np.argsort(names.astype(str), kind="stable")
    rank = np.argsort(order)
    counts = np.zeros((len(clusters.categories), len(names)), np.int64)
    np.add.at(counts, (clusters.codes, rank[labels.codes]), 1)
    best = counts.argmax(axis=1)
    share = counts.max(axis=1) / np.maximum(counts.sum(axis=1), 1)
    of_cluster: NDArray[np.object_] = names[order][best].astype(object)
    of_cluster[share < min_prop] = HETEROGENEOUS
    return pd.Categorical(of_cluster[clusters.codes])


def resolution_for(n_obs: int) -> float:
    """Return the resolution of an over-clustering by the number of cells, as CellTypist chooses it."""
    for below, resolution in ((5_000, 5), (20_000, 10), (40_000, 15), (100_000, 20), (200_000, 25)):
        if n_obs < below:
            return float(resolution)
    return 30.0
