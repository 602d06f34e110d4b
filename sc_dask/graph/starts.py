"""Where a layout starts: eigenvectors of the graph, principal components, at random, or a layout of a coarser graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask.graph import optimise
from sc_dask.graph.coarsen import Scales, scales
from sc_dask.graph.order import Ordered

STARTS = ("spectral", "multilevel", "random", "pca")
_EXTENT = 10.0  # of the start along its longest axis, as in umap-learn
_NOISE = 1e-4
_SCATTER = 0.1  # of the nodes of a group about its place
# Eigenvectors are taken of a graph of at most so many nodes and carried to finer ones by averaging over neighbours.
_SMALLEST = 4096
_N_SMOOTHED = 8
# Rounds at the coarsest graph and at those between, and at all cells as a share of those without coarser ones.
_COARSE_EPOCHS, _BETWEEN_EPOCHS, _FINE_SHARE = 300, 100, 0.35
_SMALL_EPOCHS = 500  # of a graph that is coarse enough as it is
_FINE_ALPHA = 0.3  # of the learning rate: what is laid out already only needs mending


@dataclass(frozen=True)
class Placed:
    """A graph in an order of its own, its coarser scales, and what its nodes were found in, in that order if asked."""

    scales: Scales
    x: Callable[[], NDArray[np.float32]]

    @classmethod
    def of(cls, nodes: Ordered, x: Callable[[], NDArray[np.float32]], seed: int) -> Placed:
        """Coarsen a graph; ``x`` gives what its nodes were found in, in their original order."""
        return cls(scales(nodes.graph, smallest=_SMALLEST, seed=seed), lambda: nodes.from_original(x()))


def usual_rounds(n: int) -> int:
    """Return how many rounds umap-learn takes for so many nodes."""
    return 500 if n <= 10_000 else 200


def start(placed: Placed, n_components: int, init: str | NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Return first coordinates of the nodes of a graph, ``n x n_components``."""
    rng = np.random.default_rng(seed)
    if not isinstance(init, str):
        return _stretched(init)
    if init == "random":
        return rng.uniform(-_EXTENT, _EXTENT, (placed.scales.graphs[0].n, n_components)).astype(np.float32)
    if init == "pca":
        return _scaled(_pca(placed.x(), n_components), rng)
    coords = _spectral(placed, n_components, seed)
    for i in range(len(placed.scales.labels) - 1, -1, -1):
        coords = _smoothed(placed.scales.graphs[i].adjacency, coords[placed.scales.labels[i]])
    return _scaled(coords, rng)


def of_groups(
    positions: NDArray[np.floating], connectivities: sp.csr_matrix, codes: NDArray[np.integer], seed: int
) -> NDArray[np.float64]:
    """Return first coordinates of nodes about the positions of their groups, the same as scanpy's for a seed.

    A node is somewhere in the rectangle about its group's position that reaches half of the way to the best
    connected group; nodes of a group that has no connection are all at its position.

    Parameters
    ----------
    positions, connectivities
        Of the groups, ``n_groups x 2`` and ``n_groups x n_groups``.
    codes
        Group of each node.
    """
    rng = np.random.RandomState(seed)
    out = np.empty((codes.size, 2))
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(positions)))
    for g, own in enumerate(np.split(order, ends[:-1])):
        row = connectivities[[g]]
        if not row.data.any():
            out[own] = positions[g]
            continue
        row.eliminate_zeros()
        way = positions[g] - positions[row.indices[np.argmax(row.data)]]
        out[own] = positions[g] - 0.5 * way + rng.random_sample((own.size, 2)) * way
    return out


def multilevel(
    placed: Placed,
    n_components: int,
    force: optimise.Force,
    how: optimise.How,
    n_epochs: int | None,
) -> NDArray[np.float32]:
    """Lay out a coarse graph, then finer ones from there; ``n_epochs`` (None: 175 or 70) rounds of all at the end."""
    rng = np.random.default_rng(how.seed)
    at_scales = placed.scales
    last = len(at_scales.graphs) - 1
    if n_epochs is None:
        n_epochs = round(_FINE_SHARE * usual_rounds(at_scales.graphs[0].n)) if last else _SMALL_EPOCHS
    rounds = [n_epochs, *[_BETWEEN_EPOCHS] * (last - 1), *[_COARSE_EPOCHS] * (last > 0)]
    coords = _scaled(_spectral(placed, n_components, how.seed), rng)
    done = 0
    for i in range(last, -1, -1):
        if i < last:
            coords = coords[at_scales.labels[i]]
            coords += rng.normal(scale=_SCATTER, size=coords.shape).astype(np.float32)
        level = at_scales.graphs[i].adjacency if i == 0 else comparable(at_scales.graphs[i].adjacency)
        order = None if i == last else Scales(at_scales.graphs[i:], at_scales.labels[i:]).order()
        gentle = replace(force, alpha=force.alpha * (1 if i == last else _FINE_ALPHA))
        coords = optimise.optimise(level, coords, gentle, rounds[i], how, order=order, done=done, of=sum(rounds))
        done += rounds[i]
    return coords


def _spectral(placed: Placed, n_components: int, seed: int) -> NDArray[np.float32]:
    """Return eigenvectors of the coarsest graph; of one in parts, principal components, which tell the parts apart."""
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    coarsest = placed.scales.graphs[-1]
    n = coarsest.n

    def by_components() -> NDArray[np.float32]:
        return _pca(placed.scales.means(placed.x())[-1], n_components)

    if n <= n_components + 1 or connected_components(coarsest.adjacency, directed=False)[0] > 1:
        return by_components()
    scale = sp.diags_array(1 / np.sqrt(coarsest.strengths))
    operator = (scale @ coarsest.adjacency.astype(np.float64) @ scale).tocsr()
    if n < 64:
        _, vectors = np.linalg.eigh(operator.toarray())
        return vectors[:, -2 : -n_components - 2 : -1].astype(np.float32)
    # The trivial eigenvector and some noise, so that Lanczos begins the same every time.
    first = np.sqrt(coarsest.strengths)
    first = first / np.linalg.norm(first) + np.random.default_rng(seed).normal(scale=0.1 / np.sqrt(n), size=n)
    n_wanted = n_components + 1
    try:
        values, vectors = eigsh(
            operator, n_wanted, which="LA", v0=first, tol=1e-4, ncv=min(n - 1, max(60, 2 * n_wanted + 1)), maxiter=2000
        )
    except ArpackNoConvergence:
        return by_components()
    chosen = vectors[:, np.argsort(-values)[1:]] * np.sqrt(coarsest.strengths.mean() / coarsest.strengths)[:, None]
    return np.asarray(chosen, dtype=np.float32)


def _smoothed(adjacency: sp.csr_matrix, coords: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average coordinates over neighbours some times: eigenvectors of a coarser graph become smooth."""
    strengths = np.maximum(np.asarray(adjacency.sum(axis=1)).ravel(), np.finfo(np.float32).tiny)[:, None]
    for _ in range(_N_SMOOTHED):
        coords = ((coords + (adjacency @ coords) / strengths) / 2).astype(np.float32)
    return coords


def _pca(x: NDArray[np.float32], n_components: int) -> NDArray[np.float32]:
    centred = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    gram = (centred.T @ centred).astype(np.float64)
    _, axes = np.linalg.eigh(gram)
    coords = np.zeros((x.shape[0], n_components), np.float32)
    n = min(n_components, x.shape[1])
    coords[:, :n] = centred @ axes[:, ::-1][:, :n].astype(np.float32)
    return coords


def _scaled(coords: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Scale to umap-learn's extent, add a little noise so that no two nodes coincide, and stretch."""
    largest = float(np.abs(coords).max()) or 1.0
    coords = coords * np.float32(_EXTENT / largest)
    return _stretched(coords + rng.normal(scale=_NOISE, size=coords.shape).astype(np.float32))


def _stretched(coords: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move every axis to 0 ... 10, as umap-learn does with every start."""
    low, high = coords.min(axis=0), coords.max(axis=0)
    return (_EXTENT * (coords - low) / np.where(high > low, high - low, 1)).astype(np.float32)


def comparable(adjacency: sp.csr_matrix) -> sp.csr_matrix:
    """Weigh edges between groups by the strengths of both: groups differ in size, and so do sums of weights."""
    graph = adjacency.tocoo()
    there = graph.row != graph.col
    row, col, data = graph.row[there], graph.col[there], graph.data[there]
    largest = np.zeros(adjacency.shape[0])
    np.maximum.at(largest, row, data)
    data = data / np.sqrt(largest[row] * largest[col])
    return sp.csr_matrix((np.minimum(data, 1).astype(np.float32), (row, col)), shape=adjacency.shape)
