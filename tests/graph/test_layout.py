from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.manifold import trustworthiness

from sc_dask import metrics
from sc_dask.errors import InputError
from sc_dask.graph.connectivities import umap as weigh
from sc_dask.graph.knn.neighbors import knn
from sc_dask.graph.layout import METHODS, umap


def groups(gap: float = 3.0) -> tuple[sp.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 6)).astype(np.float32)
    x += gap * np.repeat(rng.normal(size=(3, 6)), 80, axis=0).astype(np.float32)
    return weigh(knn(x, 10)), x


@pytest.mark.parametrize("method", METHODS)
def test_umap__seed_decides_and_input_is_kept(method: str) -> None:
    graph, x = groups()
    before = graph.copy()
    a, b, other = (umap(graph, x, maxiter=60, random_state=seed, method=method) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.coords, b.coords)
    assert not np.array_equal(a.coords, other.coords)
    np.testing.assert_array_equal(graph.data, before.data)
    assert a.coords.dtype == np.float32 and np.isfinite(a.coords).all()
    assert trustworthiness(x, a.coords, n_neighbors=10) > 0.85


STARTS = [(s, m) for m in METHODS for s in ("spectral", "random", "pca", "coordinates")] + [("multilevel", "umap")]


@pytest.mark.parametrize(("init_pos", "method"), STARTS)
def test_umap__every_start_works_on_a_graph_in_parts(init_pos: str, method: str) -> None:
    graph, x = groups(gap=100.0)
    assert sp.csgraph.connected_components(graph)[0] == 3
    start = x[:, :3].astype(np.float64) if init_pos == "coordinates" else init_pos
    coords = umap(graph, x, n_components=3, maxiter=20, init_pos=start, method=method).coords
    assert coords.shape == (240, 3) and np.isfinite(coords).all()


def test_umap__curve_is_fitted_or_given() -> None:
    graph, x = groups()
    fitted = umap(graph, x, maxiter=1, min_dist=0.5, spread=1.0)
    assert (fitted.a, fitted.b) == pytest.approx((0.5830, 1.3342), abs=1e-3)  # umap-learn's for these
    given = umap(graph, x, maxiter=1, a=1.5, b=0.9)
    assert (given.a, given.b) == (1.5, 0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_pos": "paga"}, "init_pos='paga'"),
        ({"init_pos": "multilevel", "method": "umap-learn"}, "init_pos='multilevel'"),
        ({"method": "tsne"}, "method='tsne'"),
        ({"negative_sample_rate": 0}, "negative_sample_rate=0"),
        ({"init_pos": np.zeros((3, 2))}, r"init_pos of shape \(3, 2\)"),
        ({"n_components": 0}, "n_components=0"),
        ({"min_dist": 2.0}, "min_dist=2.0 and spread=1.0"),
        ({"random_state": None}, "random_state=None"),
        ({"n_components": 239}, "240 cells for a spectral start"),
    ],
)
def test_umap__bad_options_are_named(options: dict[str, object], message: str) -> None:
    graph, x = groups()
    with pytest.raises(InputError, match=message):
        umap(graph, x, **options)  # type: ignore[arg-type]


def test_umap__shapes_must_fit() -> None:
    graph, x = groups()
    with pytest.raises(InputError, match="239 cells in the representation"):
        umap(graph, x[1:])


def cells(n: int, seed: int = 0) -> np.ndarray:
    """Cells along curves between the centres of groups."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(12, 20))
    group, along = rng.integers(12, size=n), rng.random((n, 1))
    x = centres[group] + along * (centres[(group + 1) % 12] - centres[group]) + 0.5 * rng.normal(size=(n, 20))
    return x.astype(np.float32)


@pytest.mark.parametrize("init_pos", ["spectral", "multilevel"])
def test_umap__any_number_of_threads_gives_the_same(init_pos: str) -> None:
    x = cells(6000)
    graph = weigh(knn(x, 15))
    one, three = (umap(graph, x, maxiter=10, init_pos=init_pos, n_jobs=n).coords for n in (1, 3))
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_pos": "multilevel"},
        *(pytest.param(o, marks=pytest.mark.slow) for o in ({"min_dist": 0.1}, {"n_components": 3})),
    ],
)
def test_umap__is_as_good_as_umap_learns(options: dict[str, object]) -> None:
    x = cells(6000)
    graph = weigh(knn(x, 15))
    ours, theirs = umap(graph, x, **options), umap(graph, x, method="umap-learn", **{**options, "init_pos": "spectral"})
    assert (ours.a, ours.b) == (theirs.a, theirs.b)
    for measure in (metrics.trustworthiness, metrics.neighborhood_preservation):
        assert measure(x, ours.coords, n_cells=2000) > measure(x, theirs.coords, n_cells=2000) - 0.01


def test_umap__tells_of_its_rounds() -> None:
    graph, x = groups()
    told: list[tuple[int, int]] = []
    umap(graph, x, maxiter=7, on_epoch=lambda done, of: told.append((done, of)))
    assert told == [(i, 7) for i in range(1, 8)]
    told.clear()
    umap(graph, x, maxiter=7, init_pos="multilevel", on_epoch=lambda done, of: told.append((done, of)))
    assert told == [(i, 7) for i in range(1, 8)], "a small graph has one scale"
    told.clear()
    x = cells(5000)
    umap(weigh(knn(x, 15)), x, maxiter=7, init_pos="multilevel", on_epoch=lambda done, of: told.append((done, of)))
    assert [t[0] for t in told] == list(range(1, told[0][1] + 1)) and told[0][1] > 7
