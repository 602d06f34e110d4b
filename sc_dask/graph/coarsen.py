"""A graph at several scales: groups of nodes that belong together become the nodes of the next, coarser graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.graph.communities import Weighted, capped_groups

_STALLED = 0.8  # a level that keeps more of its nodes than this is not worth having


@dataclass(frozen=True)
class Scales:
    """Graphs from fine to coarse; ``labels[i]`` says the node of graph ``i + 1`` that holds each of graph ``i``."""

    graphs: tuple[Weighted, ...]
    labels: tuple[NDArray[np.int32], ...]

    def order(self) -> NDArray[np.int64]:
        """Return the nodes of the finest graph by their groups at every scale: neighbours are near in memory."""
        if not self.labels:
            return np.arange(self.graphs[0].n, dtype=np.int64)
        rank = np.arange(self.graphs[-1].n, dtype=np.int64)
        for labels in reversed(self.labels):
            order = np.argsort(rank[labels], kind="stable")
            rank = np.empty(order.size, np.int64)
            rank[order] = np.arange(order.size)
        return order

    def means(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the mean of ``x`` (a row for each node of the finest graph) over the nodes of each graph."""
        means = [x]
        for graph, labels in zip(self.graphs[1:], self.labels, strict=True):
            finer = means[-1]
            sizes = self.graphs[len(means) - 1].sizes
            sums = np.column_stack(
                [np.bincount(labels, finer[:, d] * sizes, minlength=graph.n) for d in range(finer.shape[1])]
            )
            means.append((sums / graph.sizes[:, None]).astype(np.float32))
        return means


def scales(adjacency: sp.csr_matrix, *, smallest: int, times: int = 16, seed: int = 0) -> Scales:
    """Coarsen a symmetric graph until it has at most ``smallest`` nodes, or cannot be coarsened further.

    Parameters
    ----------
    times
        Groups of the next scale hold at most so many times as many cells as those of this one.

    Memory: about as much as the graph once more.
    """
    graphs, all_labels = [Weighted.of(adjacency)], []
    size = 1
    while graphs[-1].n > smallest:
        size *= times
        labels = capped_groups(graphs[-1], size, resolution=1.0, seed=seed)
        coarser = int(labels.max()) + 1
        if coarser > _STALLED * graphs[-1].n:
            break
        all_labels.append(labels)
        graphs.append(graphs[-1].joined(labels))
    return Scales(tuple(graphs), tuple(all_labels))
