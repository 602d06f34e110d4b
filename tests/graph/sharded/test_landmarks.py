from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask import metrics
from sc_dask.errors import StoreError
from sc_dask.graph import layout
from sc_dask.graph.cluster import leiden, modularity_of
from sc_dask.graph.connectivities import umap as weigh
from sc_dask.graph.knn.neighbors import knn
from sc_dask.graph.sharded import landmarks as module
from sc_dask.graph.sharded import shards
from sc_dask.graph.sharded.landmarks import LandmarkGraph, Source, build, clusters


def in_turn(func: Callable[..., Any], items: Sequence[Any], *, shared: Any = None, label: str = "") -> list[Any]:
    return [func(item) if shared is None else func(item, shared) for item in items]


def backwards(func: Callable[..., Any], items: Sequence[Any], *, shared: Any = None, label: str = "") -> list[Any]:
    return in_turn(func, list(items)[::-1], shared=shared)[::-1]


def cells(n: int = 4000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(10, 20))
    group, along = rng.integers(10, size=n), rng.random((n, 1))
    x = centres[group] + along * (centres[(group + 1) % 10] - centres[group]) + 0.6 * rng.normal(size=(n, 20))
    return x.astype(np.float32)


def source(x: np.ndarray) -> Source:
    return Source((x.shape[0], x.shape[1]), lambda a, b: x[a:b], 700)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, LandmarkGraph]:
    x = cells()
    return x, build(source(x), 15, str(tmp_path_factory.mktemp("graph")), in_turn, shard_size=900)


def whole(graph: LandmarkGraph) -> sp.csr_matrix:
    """The graph of all cells, by position, from its shards."""
    return sp.vstack([shards._graph(s, graph.shards) for s in range(graph.shards.n)], format="csr")


def test_landmark_graph__shards_hold_every_cell_once(made: tuple[np.ndarray, LandmarkGraph]) -> None:
    x, graph = made
    assert graph.shards.n == 4
    np.testing.assert_array_equal(np.sort(graph.order), np.arange(4000))
    rows = np.concatenate([shards.load(graph.shards.path(f"cells-{s}"), "rows") for s in range(4)])
    np.testing.assert_array_equal(rows, x[graph.order])


def test_landmark_graph__neighbours_are_found_across_borders(made: tuple[np.ndarray, LandmarkGraph]) -> None:
    x, graph = made
    found = np.concatenate([shards.load(graph.shards.path(f"knn-{s}"), "indices") for s in range(4)])
    true = knn(x[graph.order], 15, method="brute").indices
    share = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(found, true, strict=True)])
    assert share > 0.95 and graph.recall > 0.95 and graph.recall == pytest.approx(share, abs=0.02)
    shard = np.searchsorted(graph.shards.starts, true, side="right")
    border = (shard != shard[:, :1]).any(axis=1)
    assert 0.02 < border.mean() < 0.9
    at_border = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(found[border], true[border], strict=True)])
    assert at_border > 0.93


def test_landmark_graph__weights_are_umaps(made: tuple[np.ndarray, LandmarkGraph]) -> None:
    x, graph = made
    found = whole(graph)
    expected = weigh(knn(x[graph.order], 15, method="brute"))
    assert abs(found - found.T).max() == 0
    both = found.multiply(expected > 0).tocsr()
    assert both.nnz > 0.95 * expected.nnz
    close = np.isclose(both[expected.nonzero()], expected[expected.nonzero()], atol=1e-4)
    assert close.mean() > 0.85, "a missed neighbour changes the weights of its cell"
    assert graph.n_edges == found.nnz


def test_landmark_graph__landmarks_are_the_exact_sum(made: tuple[np.ndarray, LandmarkGraph]) -> None:
    _, graph = made
    n = graph.landmarks.shape[0]
    member = sp.csr_matrix((np.ones(4000), (np.arange(4000), graph.groups)), shape=(4000, n))
    expected = (member.T @ whole(graph).astype(np.float64) @ member).tocsr()
    assert abs(graph.landmarks - expected).max() < 1e-9
    assert np.bincount(graph.groups).max() <= 16 and n < 1500
    labels = np.random.default_rng(0).integers(5, size=n).astype(np.int32)
    assert modularity_of(graph.landmarks, labels) == pytest.approx(modularity_of(whole(graph), labels[graph.groups]))


def test_clusters__are_as_good_as_those_of_all_cells(made: tuple[np.ndarray, LandmarkGraph]) -> None:
    _, graph = made
    everything = whole(graph)
    full = [leiden(everything, flavor="sc_dask", random_state=s) for s in range(5)]
    ours = [clusters(graph, in_turn, seed=s) for s in range(5)]
    assert np.median([q for _, q in ours]) > 0.99 * np.median([p.modularity for p in full])
    labels, quality = ours[0]
    assert quality == pytest.approx(modularity_of(everything, labels[graph.order]), abs=1e-6)
    seeds = [metrics.ari(a.labels, b.labels) for a in full for b in full if a is not b]
    across = [metrics.ari(a[graph.order], b.labels) for a, _ in ours for b in full]
    assert np.median(across) > np.median(seeds) - 0.05


def test_layout__is_nearly_as_good_as_that_of_all_cells(made: tuple[np.ndarray, LandmarkGraph]) -> None:
    x, graph = made
    full = layout.umap(weigh(knn(x, 15)), x).coords
    ours = layout.of_landmarks(graph, in_turn).coords
    assert ours.shape == (4000, 2) and np.isfinite(ours).all()
    trust = [metrics.trustworthiness(x, c, n_cells=4000) for c in (ours, full)]
    assert trust[0] > trust[1] - 0.02
    assert not list(graph.shards.path("").glob("round-*"))
    solid = layout.of_landmarks(graph, in_turn, n_components=3, maxiter=2).coords
    assert solid.shape == (4000, 3) and np.isfinite(solid).all()


def test_landmark_graph__the_order_of_tasks_changes_nothing(
    tmp_path: Path, made: tuple[np.ndarray, LandmarkGraph]
) -> None:
    x, graph = made
    again = build(source(x), 15, str(tmp_path), backwards, shard_size=900)
    np.testing.assert_array_equal(again.order, graph.order)
    np.testing.assert_array_equal(again.groups, graph.groups)
    assert (again.landmarks != graph.landmarks).nnz == 0
    a, b = clusters(again, backwards, seed=1), clusters(graph, in_turn, seed=1)
    np.testing.assert_array_equal(a[0], b[0])


def test_landmark_graph__a_task_may_run_twice(tmp_path: Path, made: tuple[np.ndarray, LandmarkGraph]) -> None:
    def twice(func: Callable[..., Any], items: Sequence[Any], *, shared: Any = None, label: str = "") -> list[Any]:
        in_turn(func, items, shared=shared)
        return in_turn(func, items, shared=shared)

    x, graph = made
    again = build(source(x), 15, str(tmp_path), twice, shard_size=900)
    assert (again.landmarks != graph.landmarks).nnz == 0


def test_landmark_graph__is_opened_where_it_was_left(made: tuple[np.ndarray, LandmarkGraph]) -> None:
    _, graph = made
    back = LandmarkGraph.opened(graph.saved().shards.folder, 4000)
    np.testing.assert_array_equal(back.groups, graph.groups)
    assert (back.landmarks != graph.landmarks).nnz == 0 and back.recall == graph.recall
    np.testing.assert_array_equal(clusters(back, in_turn)[0], clusters(graph, in_turn)[0])
    with pytest.raises(StoreError, match="of 4000 cells, not of 3999"):
        LandmarkGraph.opened(graph.shards.folder, 3999)
    with pytest.raises(StoreError, match=r"is gone.*run pp.neighbors again"):
        LandmarkGraph.opened(graph.shards.folder + "-elsewhere", 4000)


@pytest.mark.parametrize("kind", ["equal", "islands"])
def test_landmark_graph__of_degenerate_cells(tmp_path: Path, kind: str) -> None:
    x = np.repeat(np.arange(30, dtype=np.float32)[:, None] * 50, 40, axis=0) @ np.ones((1, 4), np.float32)
    if kind == "islands":
        x += np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    graph = build(source(x), 10, str(tmp_path), in_turn, shard_size=400)
    assert graph.recall > 0.95
    labels, _ = clusters(graph, in_turn)
    assert metrics.ari(labels, np.repeat(np.arange(30), 40)) > 0.3
    assert np.isfinite(layout.of_landmarks(graph, in_turn, maxiter=3).coords).all()


def test_landmark_graph__larger_groups_of_more_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY_CELLS", 1000)
    x = cells(3000)
    graph = build(source(x), 15, str(tmp_path), in_turn)
    sizes = np.bincount(graph.groups)
    assert 16 < sizes.max() <= 64
