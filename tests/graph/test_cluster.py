from __future__ import annotations

import random

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.graph.cluster import FLAVORS, leiden, modularity


def blocks(n_groups: int = 4, size: int = 30, seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray]:
    """A symmetric weighted graph, dense inside groups and thin between them."""
    truth = np.repeat(np.arange(n_groups), size)
    rng = np.random.default_rng(seed)
    p = np.where(truth[:, None] == truth, 0.4, 0.01)
    upper = np.triu((rng.random(p.shape) < p) * rng.random(p.shape), 1).astype(np.float32)
    return sp.csr_matrix(upper + upper.T), truth


@pytest.mark.parametrize("flavor", FLAVORS)
def test_leiden__finds_planted_groups(flavor: str) -> None:
    graph, truth = blocks()
    found = leiden(graph, flavor=flavor)
    assert found.labels.dtype == np.int32 and found.n_groups == 4
    assert len(set(zip(truth, found.labels, strict=True))) == 4


@pytest.mark.parametrize("flavor", FLAVORS)
def test_leiden__seed_decides_and_leaves_other_generators_alone(flavor: str) -> None:
    graph, _ = blocks(8, 20, seed=1)
    random.seed(5)
    expected = random.random()
    random.seed(5)
    a, b = (leiden(graph, flavor=flavor, resolution=2.0, random_state=7).labels for _ in range(2))
    assert random.random() == expected
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_leiden__more_resolution_more_groups(flavor: str) -> None:
    graph, _ = blocks()
    n = [leiden(graph, flavor=flavor, resolution=r).n_groups for r in (0.01, 1.0, 10.0)]
    assert n[0] < n[1] < n[2]


def test_leiden__stored_zeros_are_no_edges_and_lone_cells_are_alone() -> None:
    graph, _ = blocks(2)
    wide = sp.csr_matrix((graph.data, graph.indices, np.append(graph.indptr, graph.indptr[-1])), shape=(61, 61))
    zeros = sp.csr_matrix(
        (np.append(wide.data, 0), np.append(wide.indices, 0), np.append(wide.indptr[:-1], wide.nnz + 1))
    )
    zeros = sp.csr_matrix(zeros, shape=(61, 61))
    found = leiden(zeros)
    np.testing.assert_array_equal(found.labels, leiden(wide).labels)
    assert (found.labels == found.labels[60]).sum() == 1


def test_leiden__options_reach_the_package() -> None:
    import leidenalg

    graph, _ = blocks()
    assert leiden(graph, use_weights=False).modularity != leiden(graph).modularity
    assert leiden(graph, resolution=None, partition_type=leidenalg.ModularityVertexPartition).n_groups == 4
    cpm = leiden(graph, flavor="igraph", resolution=10.0, clustering_args={"objective_function": "CPM"})
    assert cpm.n_groups == 120
    start = {"initial_membership": np.arange(120) % 2}
    assert not np.array_equal(leiden(graph, clustering_args=start).labels, leiden(graph).labels)
    with pytest.raises(InputError, match="found options .'beta_'.*options that igraph takes"):
        leiden(graph, flavor="igraph", clustering_args={"beta_": 1})


@pytest.mark.parametrize("directed", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_modularity__equals_igraph(directed: bool, weighted: bool) -> None:
    import igraph

    rng = np.random.default_rng(0)
    edges = rng.integers(0, 20, (200, 2))
    edges = edges[edges[:, 0] != edges[:, 1]]
    weights = rng.random(len(edges)) if weighted else None
    labels = rng.integers(0, 4, 20).astype(np.int32)
    theirs = igraph.Graph(n=20, edges=edges, directed=directed).modularity(labels.tolist(), weights=weights)
    assert modularity(edges, weights, labels, directed=directed) == pytest.approx(theirs, abs=1e-12)


def test_modularity__of_no_edges_is_nan() -> None:
    assert np.isnan(leiden(sp.csr_matrix((3, 3), dtype=np.float32)).modularity)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flavor": "louvain"}, "flavor='louvain'"),
        ({"flavor": "igraph", "directed": True}, "directed=True"),
        ({"flavor": "igraph", "partition_type": int}, "partition_type"),
        ({"random_state": None}, "random_state=None"),
    ],
)
def test_leiden__bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        leiden(blocks()[0], **options)  # type: ignore[arg-type]


def test_leiden__bad_graphs_are_named() -> None:
    with pytest.raises(InputError, match="not square and sparse"):
        leiden(sp.csr_matrix((3, 4)))
    with pytest.raises(InputError, match="NaN or infinity"):
        leiden(sp.csr_matrix(np.array([[0, np.nan], [1, 0]])))
    with pytest.raises(InputError, match="without cells"):
        leiden(sp.csr_matrix((0, 0)))
