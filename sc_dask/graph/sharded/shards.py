"""A neighbour graph in shards of neighbouring cells, each made, kept and walked by one task: no task needs all cells.

Every function here is one task for one shard. It reads and writes files of one folder, which all workers see; a file
is final only when it is whole, so a task may run twice. Cells are named by position: shard after shard, cluster after
cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sc_dask import work
from sc_dask.graph import paga
from sc_dask.graph.communities import Weighted, aggregate_rows, capped_groups
from sc_dask.graph.knn import exact, ivf
from sc_dask.graph.partition import Partition, divided, near_clusters, nearest_centroid
from sc_dask.kernels import communities, fuzzy, layout
from sc_dask.kernels import knn as kernels

_ROWS_AT_ONCE = 8192
_HALO_SHARE = 4  # cells beyond the border are compared with so many times fewer
_N_ROUNDS = 2


@dataclass(frozen=True)
class Shards:
    """Where the shards are, and what every task must know of all of them."""

    folder: str
    n_obs: int
    n_neighbors: int  # the cell itself counted
    seed: int
    coarse: NDArray[np.float32]  # centroids of coarse clusters
    shard_of: NDArray[np.int32]  # the shard of each
    starts: NDArray[np.int64]  # n_shards + 1: the first position of each
    cluster_starts: NDArray[np.int64]  # n_clusters + 1
    centroids: NDArray[np.float32]
    first_cluster: NDArray[np.int64]  # n_shards + 1

    @property
    def n(self) -> int:
        """Number of shards."""
        return int(self.shard_of.max()) + 1

    def path(self, name: str) -> Path:
        return Path(self.folder) / name

    def clusters(self) -> Partition:
        """Return the clusters; positions are their rows."""
        return Partition(np.empty(0, np.int64), self.cluster_starts, self.centroids)


def save(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays as ``<path>-<name>.npy``, each whole or not at all."""
    for name, array in arrays.items():
        partial = work.partial(path.with_name(f"{path.name}-{name}"))
        with partial.open("wb") as f:
            np.save(f, array)
        partial.replace(path.with_name(f"{path.name}-{name}.npy"))


def load(path: Path, name: str, *, in_place: bool = False) -> NDArray[Any]:
    """Read an array that ``save`` wrote; ``in_place``: looked into on disk, as if it were writable (it is not)."""
    array = np.load(path.with_name(f"{path.name}-{name}.npy"), mmap_mode="c" if in_place else None)
    return np.asarray(array)


def assign(begin: int, shared: tuple[Shards, Callable[[int, int], NDArray[np.float32]], int]) -> None:
    """Write the rows of one block of the representation to the shards that they belong to."""
    shards, read, step = shared
    rows = read(begin, min(begin + step, shards.n_obs))
    parts = range(0, rows.shape[0], _ROWS_AT_ONCE)
    label = np.concatenate([nearest_centroid(rows[a : a + _ROWS_AT_ONCE], shards.coarse) for a in parts])
    shard = shards.shard_of[label]
    for s in np.unique(shard):
        own = np.flatnonzero(shard == s)
        save(shards.path(f"assigned-{s}-{begin:012d}"), rows=rows[own], ids=begin + own, labels=label[own])


def divide(s: int, shards: Shards) -> tuple[list[int], NDArray[np.float32]]:
    """Sort the rows of a shard into clusters; return their sizes and centroids."""
    names = sorted(p.name[: -len("-ids.npy")] for p in Path(shards.folder).glob(f"assigned-{s}-*-ids.npy"))
    rows, ids, label = (
        np.concatenate([load(shards.path(n), what) for n in names]) for what in ("rows", "ids", "labels")
    )
    order, sizes, centroids = [], [], []
    for c in np.unique(label):
        own = np.flatnonzero(label == c)
        part = divided(rows[own], own, ivf.CLUSTER_SIZE, np.random.default_rng((shards.seed, int(c))))
        order.append(part[0])
        sizes += part[1]
        centroids.append(part[2])
    at = np.concatenate(order)
    save(shards.path(f"cells-{s}"), rows=rows[at], ids=ids[at])
    return sizes, np.concatenate(centroids)


def search(s: int, shared: tuple[Shards, int, NDArray[np.int64]]) -> NDArray[np.float32]:
    """Find the neighbours of a shard's cells, also beyond its border; return the distances of the sampled ones."""
    shards, n_candidates, sample = shared
    k = shards.n_neighbors - 1
    local, positions, near = _surroundings(s, shards, n_candidates)
    n_own = int(shards.starts[s + 1] - shards.starts[s])
    lists = ivf.within_clusters(local[0], local[1], near, k, 1)
    for _ in range(_N_ROUNDS):
        ivf.descended(local[0], lists, 1)
    n = positions.size
    indices, distances = np.empty((n, k + 1), np.int32), np.empty((n, k + 1), np.float32)
    kernels.finalize(local[0], lists.indices, np.arange(n), 0, n_own, indices, distances)
    indices = indices[:n_own]
    missing = indices < 0
    indices = positions[np.where(missing, 0, indices)].astype(np.int32)
    indices[missing] = -1
    save(shards.path(f"knn-{s}"), indices=indices, distances=distances[:n_own])
    own = sample[(sample >= shards.starts[s]) & (sample < shards.starts[s + 1])] - shards.starts[s]
    return distances[own]


def _surroundings(
    s: int, shards: Shards, n_candidates: int
) -> tuple[tuple[NDArray[np.float32], Partition], NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return rows and clusters of a shard and of what is near it, their positions, and the near clusters of each."""
    p = shards.clusters()
    own = np.arange(shards.first_cluster[s], shards.first_cluster[s + 1])
    near = near_clusters(p, n_candidates, n_jobs=1, of=own)
    foreign = np.setdiff1d(np.concatenate(near), own)
    near += near_clusters(p, max(shards.n_neighbors, n_candidates // _HALO_SHARE), n_jobs=1, of=foreign)
    local = np.concatenate([own, foreign])
    number = np.full(p.n_clusters, -1, np.int64)
    number[local] = np.arange(local.size)
    near = [number[row][number[row] >= 0] for row in near]
    sizes = p.starts[local + 1] - p.starts[local]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    positions = np.repeat(p.starts[local] - starts[:-1], sizes) + np.arange(starts[-1])
    return (_rows_at(positions, shards), Partition(positions, starts, p.centroids[local])), positions, near


def _rows_at(positions: NDArray[np.int64], shards: Shards) -> NDArray[np.float32]:
    out = np.empty((positions.size, shards.coarse.shape[1]), np.float32)
    shard = np.searchsorted(shards.starts, positions, side="right") - 1
    for s in np.unique(shard):
        own = np.flatnonzero(shard == s)
        out[own] = load(shards.path(f"cells-{s}"), "rows", in_place=True)[positions[own] - shards.starts[s]]
    return out


def sampled(shared: tuple[Shards, NDArray[np.int64]]) -> NDArray[np.float32]:
    """Return the rows at some positions."""
    return _rows_at(shared[1], shared[0])


def nearest(s: int, shared: tuple[Shards, NDArray[np.int64], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the distances of sampled cells to the nearest of a shard's cells."""
    shards, sample, queries = shared
    rows = load(shards.path(f"cells-{s}"), "rows")
    inside = (sample >= shards.starts[s]) & (sample < shards.starts[s + 1])
    own = np.where(inside, sample - shards.starts[s], -1)
    return exact.nearest(rows, queries, shards.n_neighbors - 1, own=own)[1]


def weigh(s: int, shared: tuple[Shards, float]) -> None:
    """Weigh a shard's edges as UMAP does, and leave those to other shards for them."""
    shards, mean = shared
    first = int(shards.starts[s])
    indices, distances = (load(shards.path(f"knn-{s}"), what) for what in ("indices", "distances"))
    weights = np.empty(distances.shape, np.float32)
    fuzzy.weights(indices, distances, first, float(np.log2(shards.n_neighbors)), mean, weights)
    keep = (weights > 0) & (indices >= 0)
    source = np.repeat(np.arange(first, first + indices.shape[0], dtype=np.int32), keep.sum(axis=1))
    target, weights = indices[keep], weights[keep]
    shard = np.searchsorted(shards.starts, target, side="right") - 1
    for t in range(shards.n):
        to = shard == t
        if to.any():
            save(shards.path(f"edges-{s}-{t}"), source=source[to], target=target[to], weight=weights[to])


def join(s: int, shards: Shards) -> int:
    """Join both directions of a shard's edges as ``a + b - ab``; return how many there are."""
    first, n_own = int(shards.starts[s]), int(shards.starts[s + 1] - shards.starts[s])
    shape = (n_own, shards.n_obs)

    def gathered(names: list[tuple[int, int]], row: str, column: str) -> sp.csr_matrix:
        there = [shards.path(f"edges-{a}-{b}") for a, b in names]
        there = [p for p in there if p.with_name(f"{p.name}-source.npy").exists()]
        parts = [[load(p, what) for p in there] for what in (row, column, "weight")]
        rows, columns, data = (np.concatenate(part) if part else np.empty(0, np.int32) for part in parts)
        return sp.csr_matrix((data.astype(np.float32), (rows - first, columns)), shape=shape)

    out = gathered([(s, t) for t in range(shards.n)], "source", "target")
    back = gathered([(t, s) for t in range(shards.n)], "target", "source")
    joined = (out + back - out.multiply(back)).tocsr()
    joined.eliminate_zeros()
    joined.sort_indices()
    indptr, columns = joined.indptr.astype(np.int64), joined.indices.astype(np.int32)
    save(shards.path(f"graph-{s}"), indptr=indptr, indices=columns, data=joined.data)
    return int(joined.nnz)


def _graph(s: int, shards: Shards) -> sp.csr_matrix:
    path = shards.path(f"graph-{s}")
    indptr, indices, data = (load(path, name, in_place=True) for name in ("indptr", "indices", "data"))
    graph = sp.csr_matrix((indptr.size - 1, shards.n_obs), dtype=np.float32)
    graph.indptr, graph.indices, graph.data = indptr, indices, data
    return graph


def group(s: int, shared: tuple[Shards, int]) -> int:
    """Group a shard's cells with neighbours of the same shard, at most so many; return the number of groups."""
    shards, most = shared
    first, n_own = int(shards.starts[s]), int(shards.starts[s + 1] - shards.starts[s])
    rows = _graph(s, shards)
    inner = (rows.indices >= first) & (rows.indices < first + n_own)
    sizes = np.concatenate([[0], np.cumsum(inner)])[rows.indptr]
    graph = Weighted.of(
        sp.csr_matrix((rows.data[inner], rows.indices[inner] - np.int32(first), sizes), shape=(n_own, n_own))
    )
    label = np.arange(n_own, dtype=np.int32)
    size = 1
    while size < most:
        size = min(most, 16 * size)
        coarser = capped_groups(graph, size, resolution=1.0, seed=shards.seed)
        label = coarser[label]
        if size < most:
            graph = graph.joined(coarser)
    save(shards.path(f"groups-{s}"), labels=label)
    return int(label.max()) + 1


def aggregate(s: int, shared: tuple[Shards, NDArray[np.int64]]) -> None:
    """Add up the weights from a shard's groups to all groups."""
    shards, first_group = shared
    own = load(shards.path(f"groups-{s}"), "labels")
    labels = load(shards.path("all"), "groups", in_place=True)
    n = int(first_group[s + 1] - first_group[s])
    sums = aggregate_rows(_graph(s, shards), own, n, labels, int(first_group[-1]), 1)
    save(shards.path(f"landmarks-{s}"), indptr=sums.indptr, indices=sums.indices, data=sums.data)


def means(s: int, shared: tuple[Shards, NDArray[np.int64]]) -> NDArray[np.float32]:
    """Return the mean rows of a shard's groups."""
    shards, first_group = shared
    own = load(shards.path(f"groups-{s}"), "labels")
    rows = load(shards.path(f"cells-{s}"), "rows")
    n = int(first_group[s + 1] - first_group[s])
    sums = np.column_stack([np.bincount(own, rows[:, d], n) for d in range(rows.shape[1])])
    return (sums / np.bincount(own, minlength=n)[:, None]).astype(np.float32)


def local_move(s: int, shared: tuple[Shards, NDArray[np.float64], float, float]) -> tuple[NDArray[np.int32], int]:
    """Return the communities where a shard's cells gain most while all others stay, and how many would move."""
    shards, community_strengths, resolution, total = shared
    rows = _graph(s, shards)
    labels = load(shards.path("all"), "labels", in_place=True)
    out = np.empty(rows.shape[0], np.int32)
    strengths = communities.sums_of_rows(rows.indptr, rows.data)
    n_moves = communities.move_to_best(
        rows.indptr, rows.indices, rows.data, strengths, labels, int(shards.starts[s]), community_strengths,
        resolution, total, out,
    )  # fmt: skip
    return out, int(n_moves)


def weight_of(s: int, shared: tuple[Shards, int]) -> tuple[float, NDArray[np.float64]]:
    """Return the weight of a shard's edges within communities, and the strengths of the communities' cells in it."""
    shards, n_groups = shared
    rows = _graph(s, shards)
    labels = load(shards.path("all"), "labels", in_place=True)
    first, end = shards.starts[s], shards.starts[s + 1]
    own = np.ascontiguousarray(labels[first:end])
    strengths = np.bincount(own, communities.sums_of_rows(rows.indptr, rows.data), n_groups).astype(np.float64)
    same = labels[rows.indices] == np.repeat(own, np.diff(rows.indptr))
    return float(rows.data[same].sum(dtype=np.float64)), strengths


def edge_counts(s: int, shared: tuple[Shards, int, bool]) -> sp.csr_matrix:
    """Count the edges from a shard's cells between labelled groups: those to the nearest neighbours, or all weighed."""
    shards, n_groups, nearest = shared
    labels = load(shards.path("all"), "labels", in_place=True)
    if nearest:
        indices = load(shards.path(f"knn-{s}"), "indices", in_place=True)[:, 1:]
        there = indices >= 0
        indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        shape = (indices.shape[0], shards.n_obs)
        rows = sp.csr_matrix((np.ones(indptr[-1], np.int8), indices[there], indptr), shape=shape)
    else:
        rows = _graph(s, shards)
    own = labels[shards.starts[s] : shards.starts[s + 1]]
    return paga.edge_counts(rows, own, labels, n_groups)


def rates(s: int, shared: tuple[Shards, int]) -> None:
    """Prepare a shard's edges for so many rounds of layout."""
    shards, n_epochs = shared
    rows = _graph(s, shards)
    keep = rows.data >= 1.0 / max(1, n_epochs)  # the heaviest weight is 1
    indptr = np.concatenate([[0], np.cumsum(keep)])[rows.indptr].astype(np.int64)
    scale = 1 << layout.RATE_BITS
    rate = np.minimum(np.rint(rows.data[keep] * scale), scale - 1).astype(np.uint16)
    save(shards.path(f"rates-{s}"), indptr=indptr, indices=rows.indices[keep], rates=rate)


def step(
    s: int, shared: tuple[Shards, int, tuple[NDArray[np.float32], NDArray[np.float32]], float, int]
) -> NDArray[np.float32]:
    """Return where a shard's cells stand after one more round of layout, the others being where they were."""
    shards, t, tables, alpha, n_negative = shared
    path = shards.path(f"rates-{s}")
    indptr, indices, rate = (load(path, name, in_place=True) for name in ("indptr", "indices", "rates"))
    old = load(shards.path(f"round-{t}"), "coords", in_place=True)
    first, end = int(shards.starts[s]), int(shards.starts[s + 1])
    rng = np.random.default_rng((shards.seed, t, s))
    shuffled = np.ascontiguousarray(old[rng.integers(old.shape[0], size=min(old.shape[0], 1 << 18))])
    new = np.empty_like(old)
    move = layout.epoch_in_plane if old.shape[1] == 2 else layout.epoch
    move(indptr, indices, rate, old, shuffled, new, *tables, first, end, t, alpha, n_negative, shards.seed, first)
    return new[first:end].copy()
