from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.graph import diffusion
from sc_dask.graph.connectivities import umap as weigh
from sc_dask.graph.knn.neighbors import knn


def graph(n: int = 150, gap: float = 0.0) -> sp.csr_matrix:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[n // 2 :, 0] += gap
    return weigh(knn(x, 8))


def dense_walk(w: np.ndarray) -> np.ndarray:
    density = w.sum(axis=0)
    k = w / np.outer(density, density)
    return k / np.sqrt(np.outer(k.sum(axis=0), k.sum(axis=0)))


def test_diffmap__is_the_eigenbasis_of_the_walk() -> None:
    w = graph()
    before = w.copy()
    walk = dense_walk(w.toarray().astype(np.float64))
    np.testing.assert_allclose(diffusion.transitions(w).toarray(), walk, rtol=1e-12)
    values, vectors = np.linalg.eigh(walk)
    got = diffusion.diffmap(w, 6)
    assert got.values.dtype == got.vectors.dtype == np.float32
    np.testing.assert_allclose(got.values, values[::-1][:6], atol=1e-6)
    np.testing.assert_allclose(np.abs((got.vectors * vectors[:, ::-1][:, :6]).sum(axis=0)), 1, atol=1e-5)
    assert (w != before).nnz == 0
    assert diffusion.diffmap(w, 500).values.size == 149  # as many as there can be


def test_diffmap__in_patches_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    w = graph()
    plain = diffusion.diffmap(w, 6)
    for module in ("order", "diffusion"):
        monkeypatch.setattr(f"sc_dask.graph.{module}.WORTH_IT", 10)
    patched = diffusion.diffmap(w, 6)
    np.testing.assert_allclose(patched.values, plain.values, atol=1e-6)
    np.testing.assert_allclose(np.abs((patched.vectors * plain.vectors).sum(axis=0)), 1, atol=1e-5)


def test_diffmap__of_twins_lumped_is_that_of_the_cells() -> None:
    w = graph(80)
    twins = sp.kron(w, np.ones((2, 2)), format="csr")  # cells 2i and 2i + 1 have the same neighbours
    lumped = diffusion.diffmap((4 * w).tocsr(), 5, sizes=np.full(80, 2))
    cells = diffusion.diffmap(twins, 5)
    np.testing.assert_allclose(lumped.values, cells.values, atol=1e-6)
    np.testing.assert_allclose(np.abs((lumped.vectors.repeat(2, axis=0) * cells.vectors).sum(axis=0)), 1, atol=1e-5)


def test_diffmap__parts_and_lonely_cells() -> None:
    w = graph(gap=100.0).tolil()
    w[3, :] = w[:, 3] = 0
    w = w.tocsr()
    w.eliminate_zeros()
    got = diffusion.diffmap(w, 5)
    assert (got.values[:2] > 1 - 1e-6).all() and got.values[2] < 0.9999  # two parts
    assert np.isfinite(got.vectors).all() and np.abs(got.vectors[3]).max() < 1e-6
    component = sp.csgraph.connected_components(w)[1].astype(np.int32)
    distances = diffusion.Distances(got, component)
    same = component == component[0]
    assert np.isfinite(distances[0][same]).all() and np.isinf(distances[0][~same]).all()
    time = diffusion.pseudotime(distances, 0)
    assert time[0] == 0 and time[same].max() == 1
    assert diffusion.pseudotime(distances, 3)[3] == 0  # a lonely root


def test_diffmap__wants_a_symmetric_graph() -> None:
    w = graph().tolil()
    w[0, 149] = 0.5
    with pytest.raises(InputError, match="not symmetric"):
        diffusion.diffmap(w.tocsr(), 5)
