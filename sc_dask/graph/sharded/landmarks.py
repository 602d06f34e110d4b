"""The landmark graph: cells grouped into landmarks, so that an atlas of any size has a graph that fits in memory.

Cells are assigned to shards of neighbours (``graph.sharded.shards``); neighbours are searched, weighed and grouped
shard by shard, on whatever runs ``map_tasks``. The landmark graph is the exact sum of the cells' weights, so its
modularity is that of the cells when groups stay together. Clusters and positions are computed on it, and mended by the
cells' own edges, shard by shard.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import work
from sc_dask.errors import StoreError
from sc_dask.graph import optimise, starts
from sc_dask.graph.communities import by_size, communities
from sc_dask.graph.knn import ivf, recall
from sc_dask.graph.order import ordered
from sc_dask.graph.partition import coarse_centroids
from sc_dask.graph.sharded import shards
from sc_dask.graph.sharded.shards import Shards
from sc_dask.kernels import layout as kernels

SHARD_SIZE = 250_000
_SAMPLE_A_CLUSTER = 256
_MAX_TIMES = 3  # that a search is repeated, each time with twice the candidates
_MANY_CELLS = 4_000_000  # from here on, larger groups
_N_SWEEPS = 3
_CELL_EPOCHS, _CELL_ALPHA, _SCATTER = 30, 0.3, 0.1


class MapTasks(Protocol):
    """Runs a function of every item and of one thing that all share; ``sc_dask.array.engine.run.map_tasks``."""

    def __call__(
        self, func: Callable[..., Any], items: Sequence[Any], *, shared: Any = None, label: str = "tasks"
    ) -> list[Any]: ...


@dataclass(frozen=True)
class Source:
    """Rows of a representation, read block by block."""

    shape: tuple[int, int]
    read: Callable[[int, int], NDArray[np.float32]]  # picklable; first row and the one behind the last
    rows_a_block: int


@dataclass(frozen=True)
class LandmarkGraph:
    """A graph in shards and its landmarks."""

    shards: Shards
    order: NDArray[np.int64]  # n_obs: the cell at each position
    groups: NDArray[np.int32]  # n_obs: the landmark of the cell at each position
    landmarks: sp.csr_matrix  # n_landmarks x n_landmarks, float64: sums of weights, inner ones on the diagonal
    first_group: NDArray[np.int64]  # n_shards + 1
    recall: float
    n_edges: int

    def saved(self) -> LandmarkGraph:
        """Leave in the folder what `opened` needs, and return the same."""
        m, path = self.landmarks, self.shards.path("compact")
        shards.save(path, order=self.order, first_group=self.first_group)
        shards.save(path, indptr=m.indptr, indices=m.indices, data=m.data)
        info = {"recall": self.recall, "n_edges": self.n_edges}
        whole = self.shards.path("compact.json")
        partial = work.partial(whole)
        plan = {f.name: getattr(self.shards, f.name) for f in fields(Shards) if f.name != "folder"}
        arrays = {name: value for name, value in plan.items() if isinstance(value, np.ndarray)}
        shards.save(self.shards.path("plan"), **arrays)
        partial.write_text(json.dumps({**info, **{n: v for n, v in plan.items() if n not in arrays}}))
        partial.replace(whole)
        return self

    @classmethod
    def opened(cls, folder: str, n_obs: int) -> LandmarkGraph:
        """Open the graph of a folder.

        Raises
        ------
        StoreError
            It is not there, or of other cells.
        """
        path = Path(folder)
        try:
            info = json.loads((path / "compact.json").read_text())
        except OSError as error:
            raise StoreError(
                f"the landmark graph {folder} is gone",
                "a folder that this machine sees",
                "read its store with sd.read, or run pp.neighbors again",
            ) from error
        if info["n_obs"] != n_obs:
            raise StoreError(
                f"the landmark graph is of {info['n_obs']} cells, not of {n_obs}",
                "the same cells",
                "run pp.neighbors again",
            )
        share, n_edges = info.pop("recall"), info.pop("n_edges")
        arrays = {f.name for f in fields(Shards)} - set(info) - {"folder"}
        stored: dict[str, Any] = {name: shards.load(path / "plan", name) for name in arrays}
        plan = Shards(folder=folder, **info, **stored)
        order, first, indptr, indices, data = (
            shards.load(path / "compact", name) for name in ("order", "first_group", "indptr", "indices", "data")
        )
        landmarks = sp.csr_matrix((data, indices, indptr), shape=(int(first[-1]), int(first[-1])))
        return cls(plan, order, shards.load(path / "all", "groups"), landmarks, first, share, n_edges)

    def inner_weight(self) -> float:
        """Return the share of all weight that lies within landmarks, and so cannot be cut."""
        return float(self.landmarks.diagonal().sum() / self.landmarks.sum())

    def to_cells(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return one row a position in the order of the cells."""
        out = np.empty_like(values)
        out[self.order] = values
        return out


def build(
    source: Source,
    n_neighbors: int,
    folder: str,
    map_tasks: MapTasks,
    *,
    min_recall: float = 0.95,
    group_size: int | None = None,
    shard_size: int = SHARD_SIZE,
    seed: int = 0,
) -> LandmarkGraph:
    """Search, weigh and group the cells of a representation; the number of workers does not change the result.

    Parameters
    ----------
    source
        ``n_obs x n_dims`` rows, finite.
    n_neighbors
        Of a cell, itself counted.
    folder
        Empty, and seen by all workers.
    group_size
        Most cells of a landmark; None: 16, of more than 4 million cells 64, of more than 64 million 256.
    shard_size
        About so many cells in a shard.

    Memory: 12 bytes a cell and the landmark graph (some 30 edges of 12 bytes a landmark); of a task, three times the
    rows of a shard and 25 bytes a neighbour of them.
    """
    n_obs = source.shape[0]
    size = min(shard_size, max(1, n_obs // 2))
    plan = _assigned(source, n_neighbors, folder, map_tasks, max(1, round(n_obs / size)), seed)
    every = range(plan.n)
    share = _searched(plan, map_tasks, min_recall)
    mean = float(np.mean([shards.load(plan.path(f"knn-{s}"), "distances", in_place=True).mean() for s in every]))
    map_tasks(shards.weigh, every, shared=(plan, mean), label="weigh")
    n_edges = sum(map_tasks(shards.join, every, shared=plan, label="join"))
    _dropped(plan, "edges-*")
    if group_size is None:
        group_size = 16 if n_obs <= _MANY_CELLS else 64 if n_obs <= 16 * _MANY_CELLS else 256
    counts = map_tasks(shards.group, every, shared=(plan, group_size), label="group")
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    own = [shards.load(plan.path(f"groups-{s}"), "labels") + np.int32(first[s]) for s in every]
    groups = np.concatenate(own)
    shards.save(plan.path("all"), groups=groups)
    map_tasks(shards.aggregate, every, shared=(plan, first), label="landmarks")
    parts = [_landmarks(plan, s, first) for s in every]
    order = np.concatenate([shards.load(plan.path(f"cells-{s}"), "ids") for s in every])
    return LandmarkGraph(plan, order, groups, sp.vstack(parts, format="csr"), first, share, n_edges)


def _dropped(plan: Shards, pattern: str) -> None:
    """Delete what later steps do not need."""
    for path in Path(plan.folder).glob(pattern):
        path.unlink()


def _landmarks(plan: Shards, s: int, first: NDArray[np.int64]) -> sp.csr_matrix:
    indptr, indices, data = (shards.load(plan.path(f"landmarks-{s}"), n) for n in ("indptr", "indices", "data"))
    return sp.csr_matrix((data, indices, indptr), shape=(indptr.size - 1, int(first[-1])))


def _assigned(source: Source, n_neighbors: int, folder: str, map_tasks: MapTasks, n_shards: int, seed: int) -> Shards:
    n_obs, n_dims = source.shape
    rng = np.random.default_rng(seed)
    n_coarse = max(n_shards, round((n_obs / ivf.CLUSTER_SIZE) ** 0.5))
    sample = _sample(source, min(n_obs, _SAMPLE_A_CLUSTER * n_coarse), rng)
    coarse = coarse_centroids(sample, n_coarse, rng)
    counts = np.bincount(shards.nearest_centroid(sample, coarse), minlength=coarse.shape[0])
    shard_of = _halved(coarse, counts, n_shards)
    empty = np.zeros(0, np.int64)
    plan = Shards(
        folder, n_obs, n_neighbors, seed, coarse, shard_of, empty, empty, np.empty((0, n_dims), np.float32), empty
    )
    step = source.rows_a_block
    map_tasks(shards.assign, range(0, n_obs, step), shared=(plan, source.read, step), label="assign")
    divided = map_tasks(shards.divide, range(plan.n), shared=plan, label="divide")
    _dropped(plan, "assigned-*")
    sizes = [np.asarray(d[0], np.int64) for d in divided]
    return replace(
        plan,
        starts=np.concatenate([[0], np.cumsum([s.sum() for s in sizes])]).astype(np.int64),
        cluster_starts=np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64),
        centroids=np.concatenate([d[1] for d in divided]),
        first_cluster=np.concatenate([[0], np.cumsum([s.size for s in sizes])]).astype(np.int64),
    )


def _sample(source: Source, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return about ``n`` rows, some of every block or of as many blocks as there are rows wanted."""
    n_obs, step = source.shape[0], source.rows_a_block
    begins = np.arange(0, n_obs, step)
    chosen = np.sort(rng.choice(begins, min(begins.size, 32), replace=False))
    share = -(-n // chosen.size)
    parts = []
    for begin in chosen:
        rows = source.read(int(begin), min(int(begin) + step, n_obs))
        parts.append(rows[rng.choice(rows.shape[0], min(share, rows.shape[0]), replace=False)])
    return np.concatenate(parts)


def _halved(coarse: NDArray[np.float32], counts: NDArray[np.int64], n_shards: int) -> NDArray[np.int32]:
    """Return a shard for every coarse cluster: halves along the longest direction, halved again, with equal cells."""
    shard_of = np.zeros(coarse.shape[0], np.int32)
    todo = [(np.arange(coarse.shape[0]), n_shards)]
    done = 0
    while todo:
        own, n = todo.pop()
        if n == 1 or own.size == 1:
            shard_of[own] = done
            done += 1
            continue
        centred = coarse[own] - coarse[own].mean(axis=0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        own = own[np.argsort(centred @ axes[0], kind="stable")]
        before = np.cumsum(counts[own] + 1e-9)
        left = n // 2
        cut = int(np.clip(np.searchsorted(before, before[-1] * left / n) + 1, 1, own.size - 1))
        todo += [(own[cut:], n - left), (own[:cut], left)]
    return shard_of


def _searched(plan: Shards, map_tasks: MapTasks, min_recall: float) -> float:
    """Find all neighbours, more thoroughly until the share of true ones is enough; return the share."""
    every = range(plan.n)
    sample = recall.sample(plan.n_obs, plan.seed).astype(np.int64)
    queries = map_tasks(shards.sampled, [(plan, sample)], label="sample")[0]
    distances = map_tasks(shards.nearest, every, shared=(plan, sample, queries), label="recall")
    k = plan.n_neighbors - 1
    true = np.sort(np.concatenate(distances, axis=1), axis=1)[:, :k]
    n_candidates = ivf.first_candidates(plan.n_obs, plan.n_neighbors)
    for _ in range(_MAX_TIMES):
        found = map_tasks(shards.search, every, shared=(plan, n_candidates, sample), label="neighbours")
        share = recall.of_distances(np.concatenate(found)[:, 1:], true)
        if share >= min_recall:
            break
        n_candidates *= 2
    return share


def clusters(
    graph: LandmarkGraph, map_tasks: MapTasks, *, resolution: float = 1.0, n_iterations: int = -1, seed: int = 0
) -> tuple[NDArray[np.int32], float]:
    """Return Leiden communities of the cells and their modularity: those of the landmarks, then mended cell by cell.

    Memory: on the driver 8 bytes a cell and the landmark graph twice.
    """
    total = float(graph.landmarks.sum())
    label = communities(graph.landmarks, resolution=resolution, n_iterations=n_iterations, seed=seed)
    labels = label[graph.groups]
    every, plan = range(graph.shards.n), graph.shards
    for _ in range(_N_SWEEPS):
        _, strengths = _weights(graph, labels, map_tasks)
        shared = (plan, strengths, resolution, total)
        moved = map_tasks(shards.local_move, every, shared=shared, label="local moves")
        labels = np.concatenate([m[0] for m in moved])
        if sum(m[1] for m in moved) < 1e-4 * labels.size:
            break
    labels = by_size(labels)
    inside, strengths = _weights(graph, labels, map_tasks)
    return graph.to_cells(labels), float(inside / total - np.square(strengths / total).sum())


def _weights(graph: LandmarkGraph, labels: NDArray[np.int32], map_tasks: MapTasks) -> tuple[float, NDArray[np.float64]]:
    plan = graph.shards
    shards.save(plan.path("all"), labels=labels)
    n_groups = int(labels.max()) + 1
    parts = map_tasks(shards.weight_of, range(plan.n), shared=(plan, n_groups), label="weights")
    return sum(p[0] for p in parts), np.sum([p[1] for p in parts], axis=0)


def edge_counts(
    graph: LandmarkGraph, map_tasks: MapTasks, codes: NDArray[np.int32], n_groups: int, *, nearest: bool
) -> sp.csr_matrix:
    """Count the edges of the cells between groups: those to nearest neighbours (directed), or all that have a weight.

    ``codes``: the group of each cell. Memory: on the driver 4 bytes a cell.
    """
    shards.save(graph.shards.path("all"), labels=codes[graph.order].astype(np.int32))
    parts = map_tasks(
        shards.edge_counts, range(graph.shards.n), shared=(graph.shards, n_groups, nearest), label="edges"
    )
    return sum(parts[1:], start=parts[0]).tocsr()


def layout(
    graph: LandmarkGraph,
    map_tasks: MapTasks,
    n_components: int,
    force: optimise.Force,
    how: optimise.How,
    n_epochs: int | None = None,
) -> NDArray[np.float32]:
    """Return UMAP coordinates of the cells: a layout of the landmarks, then rounds of the cells shard by shard.

    Memory: on the driver 12 bytes a cell and component, and what the layout of the landmarks takes.
    """
    plan, every = graph.shards, range(graph.shards.n)
    nodes = ordered(starts.comparable(graph.landmarks))

    def means() -> NDArray[np.float32]:
        return np.concatenate(map_tasks(shards.means, every, shared=(plan, graph.first_group), label="means"))

    placed = starts.Placed.of(nodes, means, how.seed)
    coords = nodes.to_original(starts.multilevel(placed, n_components, force, how, None))[graph.groups]
    coords += np.random.default_rng(how.seed).normal(scale=_SCATTER, size=coords.shape).astype(np.float32)
    n_epochs = _CELL_EPOCHS if n_epochs is None else n_epochs
    map_tasks(shards.rates, every, shared=(plan, n_epochs), label="rates")
    tables = kernels.tables(force.a, force.b, force.gamma)
    for t in range(n_epochs):
        shards.save(plan.path(f"round-{t}"), coords=coords)
        alpha = force.alpha * _CELL_ALPHA * (1 - t / n_epochs)
        shared = (plan, t, tables, alpha, force.n_negative)
        coords = np.concatenate(map_tasks(shards.step, every, shared=shared, label="layout"))
        plan.path(f"round-{t}-coords.npy").unlink()
    _dropped(plan, "rates-*")
    return graph.to_cells(coords)
