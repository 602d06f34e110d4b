from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.manifold import trustworthiness

from sc_dask.errors import InputError
from sc_dask.graph.connectivities import umap as weigh
from sc_dask.graph.layout import umap
from sc_dask.graph.neighbors import knn


def groups(gap: float = 3.0) -> tuple[sp.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 6)).astype(np.float32)
    x += gap * np.repeat(rng.normal(size=(3, 6)), 80, axis=0).astype(np.float32)
    return weigh(knn(x, 10)), x


def test_umap__seed_decides_and_input_is_kept() -> None:
    graph, x = groups()
    before = graph.copy()
    a, b, other = (umap(graph, x, maxiter=60, random_state=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.coords, b.coords)
    assert not np.array_equal(a.coords, other.coords)
    np.testing.assert_array_equal(graph.data, before.data)
    assert a.coords.dtype == np.float32 and np.isfinite(a.coords).all()
    assert trustworthiness(x, a.coords, n_neighbors=10) > 0.85


@pytest.mark.parametrize("init_pos", ["spectral", "random", "pca", "coordinates"])
def test_umap__every_start_works_on_a_graph_in_parts(init_pos: str) -> None:
    graph, x = groups(gap=100.0)
    assert sp.csgraph.connected_components(graph)[0] == 3
    start = x[:, :3].astype(np.float64) if init_pos == "coordinates" else init_pos
    coords = umap(graph, x, n_components=3, maxiter=20, init_pos=start).coords
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
