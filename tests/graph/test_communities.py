from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.graph.cluster import leiden, louvain_at, modularity_of
from sc_dask.graph.coarsen import scales
from sc_dask.graph.communities import Weighted, aggregate, by_size, capped_groups, communities
from sc_dask.graph.connectivities import umap as weigh
from sc_dask.graph.knn.neighbors import knn
from sc_dask.kernels import communities as kernels


def cells(n: int = 1200, seed: int = 0) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    centres = 2.5 * rng.normal(size=(8, 10))
    x = centres[rng.integers(8, size=n)] + rng.normal(size=(n, 10))
    return weigh(knn(x.astype(np.float32), 15))


@pytest.mark.parametrize("resolution", [0.3, 1.0, 3.0])
def test_communities__are_as_good_as_igraphs(resolution: float) -> None:
    graph = cells()
    theirs = [
        quality(graph, leiden(graph, flavor="igraph", resolution=resolution, random_state=s).labels, resolution)
        for s in range(5)
    ]
    ours = [quality(graph, communities(graph, resolution=resolution, seed=s), resolution) for s in range(5)]
    assert np.median(ours) > np.median(theirs) - 0.002


def quality(graph: sp.csr_matrix, labels: np.ndarray, resolution: float) -> float:
    member = sp.csr_matrix((np.ones(labels.size), (np.arange(labels.size), labels)))
    between = (member.T @ graph.astype(np.float64) @ member).toarray()
    total = between.sum()
    return float(np.trace(between) / total - resolution * np.square(between.sum(axis=1) / total).sum())


def test_communities__no_move_of_a_cell_improves_the_result() -> None:
    graph = cells(400)
    labels = communities(graph, seed=1)
    best = quality(graph, labels, 1.0)
    for i in range(0, 400, 7):
        for c in np.unique(labels[graph.indices[graph.indptr[i] : graph.indptr[i + 1]]]):
            moved = labels.copy()
            moved[i] = c
            assert quality(graph, moved, 1.0) <= best + 1e-9


def test_communities__are_connected() -> None:
    graph = cells()
    labels = communities(graph, resolution=2.0, seed=3)
    for c in range(labels.max() + 1):
        own = np.flatnonzero(labels == c)
        assert sp.csgraph.connected_components(graph[own][:, own])[0] == 1


def test_communities__seed_decides() -> None:
    graph = cells()
    a, b, other = (communities(graph, resolution=4.0, seed=s) for s in (5, 5, 6))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, other)
    assert (np.diff(np.bincount(a)) <= 0).all(), "numbered by falling size"


def test_communities__of_lone_cells_and_of_nothing() -> None:
    np.testing.assert_array_equal(communities(sp.csr_matrix((3, 3), dtype=np.float32)), [0, 1, 2])
    pair = sp.csr_matrix(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32))
    np.testing.assert_array_equal(communities(pair), [0, 0, 1])


def test_communities__begin_from_what_is_given() -> None:
    graph = cells()
    first = communities(graph, seed=0)
    again = communities(graph, seed=9, initial=first)
    assert modularity_of(graph, again) >= modularity_of(graph, first) - 1e-12


def test_aggregate__is_the_exact_sum() -> None:
    graph = cells(300)
    labels = np.random.default_rng(1).integers(0, 20, 300).astype(np.int32)
    member = sp.csr_matrix((np.ones(300), (np.arange(300), labels)), shape=(300, 20))
    expected = (member.T @ graph.astype(np.float64) @ member).toarray()
    found = aggregate(graph, labels)
    assert found.has_canonical_format and found.dtype == np.float64
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-12)


def test_aggregate__keeps_modularity() -> None:
    graph = cells(600)
    groups = capped_groups(Weighted.of(graph), 12, resolution=1.0, seed=0)
    coarse = aggregate(graph, groups)
    labels = communities(coarse, seed=0)
    assert modularity_of(coarse, labels) == pytest.approx(modularity_of(graph, labels[groups]), abs=1e-9)


@pytest.mark.parametrize("max_size", [1, 5, 40])
def test_capped_groups__stay_within_the_bound(max_size: int) -> None:
    groups = capped_groups(Weighted.of(cells()), max_size, resolution=1.0, seed=0)
    sizes = np.bincount(groups)
    assert sizes.max() <= max_size and sizes.min() >= 1
    assert sizes.mean() > min(5, 0.4 * max_size)


def test_scales__orders_cells_by_group() -> None:
    graph = cells()
    found = scales(graph, smallest=20, times=8)
    assert [g.n for g in found.graphs] == sorted((g.n for g in found.graphs), reverse=True)
    assert all(g.strengths.sum() == pytest.approx(graph.sum(), rel=1e-6) for g in found.graphs)
    order = found.order()
    np.testing.assert_array_equal(np.sort(order), np.arange(1200))
    top = np.arange(found.graphs[-1].n)
    for labels in reversed(found.labels):
        top = top[labels]
    assert (np.diff(top[order]) >= 0).all(), "cells of one coarsest group stand together"
    x = np.random.default_rng(0).normal(size=(1200, 3)).astype(np.float32)
    np.testing.assert_allclose(
        found.means(x)[-1], [x[top == c].mean(axis=0) for c in range(found.graphs[-1].n)], atol=1e-5
    )


def test_by_size__numbers_by_falling_size() -> None:
    np.testing.assert_array_equal(by_size(np.array([3, 1, 1, 7, 7], np.int32)), [2, 0, 0, 1, 1])


def test_is_symmetric__sees_a_single_entry() -> None:
    graph = cells(200)
    assert kernels.is_symmetric(graph.indptr, graph.indices, graph.data)
    changed = graph.copy()
    changed.data[17] *= 1.01
    assert not kernels.is_symmetric(changed.indptr, changed.indices, changed.data)
    upper = sp.triu(graph, format="csr")
    assert not kernels.is_symmetric(upper.indptr, upper.indices, upper.data)


@pytest.mark.parametrize("flavor", ["igraph", "sc_dask"])
def test_louvain__finds_groups_at_several_resolutions(flavor: str) -> None:
    graph = cells()
    few, many = louvain_at(graph, [0.3, 4.0], flavor=flavor, use_weights=True)
    assert few.n_groups < many.n_groups
    assert few.modularity == pytest.approx(modularity_of(graph, few.labels), abs=1e-6)
