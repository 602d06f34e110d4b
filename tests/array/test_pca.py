from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.array import pca, run
from sc_dask.array.blocks import fold_rows
from sc_dask.errors import InputError
from sc_dask.testing import lazy, source_of

N_OBS, N_VARS, K = 200, 40, 6
KINDS = {"sparse": sp.csr_matrix, "dense": np.asarray}


def low_rank(n_obs: int = N_OBS, n_vars: int = N_VARS, noise: float = 0.01) -> np.ndarray:
    """K strong directions of falling strength, many zeros, means far from 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_obs, K)) * (2.0 ** -np.arange(K)) @ rng.normal(size=(K, n_vars)) + 1.0
    x += noise * rng.normal(size=x.shape)
    x[:, 5] = 0
    return x.astype(np.float32)


def by_svd(x: np.ndarray, k: int, center: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, components and variances as scanpy defines them."""
    x = x.astype(np.float64)
    centred = x - x.mean(axis=0) if center else x
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    scores = centred @ vt[:k].T
    return scores, vt[:k], s[:k] ** 2 / (len(x) - 1) if center else scores.var(axis=0)


def assert_pca(found: pca.PCA, x: np.ndarray, center: bool, tol: float) -> None:
    scores, components, variance = by_svd(x, len(found.variance), center)
    signs = np.sign((found.components * components).sum(axis=1))
    np.testing.assert_allclose(found.components * signs[:, None], components, atol=tol)
    np.testing.assert_allclose(found.scores * signs, scores, atol=tol * np.abs(scores).max())
    np.testing.assert_allclose(found.variance, variance, rtol=max(tol, 1e-6))
    total = x.astype(np.float64).var(axis=0, ddof=1 if center else 0).sum()
    np.testing.assert_allclose(found.variance_ratio, variance / total, rtol=max(tol, 1e-6))
    largest = np.abs(found.components).argmax(axis=1)
    assert (found.components[np.arange(len(largest)), largest] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("float64_flops", [1e11, 0], ids=["float64", "float32"])
def test_exact__is_the_svd(kind: str, center: bool, float64_flops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "_FLOAT64_FLOPS", float64_flops)
    data = low_rank()
    x = lazy(KINDS[kind](data), 5)
    found = pca.exact(x, K, zero_center=center)
    assert found.scores.dtype == np.float32 and found.scores.shape == (N_OBS, K)
    assert_pca(found, data, center, tol=1e-6 if float64_flops else 1e-4)
    assert source_of(x).passes == 1


def test_exact__more_genes_than_cells() -> None:
    data = low_rank(20, 60, noise=0.1)
    assert_pca(pca.exact(lazy(data), 4, dtype=np.float64), data, True, tol=1e-6)


def test_exact__a_large_mean_costs_no_digits() -> None:
    data = low_rank()
    far = pca.exact(lazy(data.astype(np.float64) + 1e4), K, dtype=np.float64)
    assert_pca(far, data.astype(np.float64) + 1e4, True, tol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("center", [True, False])
def test_randomized__finds_strong_directions(kind: str, center: bool) -> None:
    data = low_rank()
    x = lazy(KINDS[kind](data), 5)
    assert_pca(pca.randomized(x, K, zero_center=center), data, center, tol=1e-4)
    assert source_of(x).passes == 4


def test_randomized__a_seed_is_a_result() -> None:
    data = low_rank(noise=1.0)
    one, same, other = (pca.randomized(lazy(data), 3, random_state=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.scores, same.scores)
    assert (one.scores != other.scores).any()


@pytest.mark.parametrize("kind", KINDS)
def test_incremental__with_one_tile_is_the_svd(kind: str) -> None:
    data = low_rank()
    x = lazy(KINDS[kind](data), 5)
    assert_pca(pca.incremental(x, K, chunk_size=N_OBS), data, True, tol=1e-6)
    assert source_of(x).passes == 1


def test_incremental__with_many_tiles_finds_strong_directions() -> None:
    data = low_rank()
    found = pca.incremental(lazy(data, 7), K, chunk_size=30)
    _, components, variance = by_svd(data, K, True)
    assert np.abs((found.components * components).sum(axis=1)).min() > 0.9999
    np.testing.assert_allclose(found.variance, variance, rtol=1e-3)
    np.testing.assert_allclose(found.scores.mean(axis=0), 0, atol=1e-5)  # the mean is exact


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [[0, N_OBS], [0, 1, 2, 31, 31, 90, N_OBS], list(range(N_OBS + 1))], ids=len)
def test_incremental__tiles_do_not_follow_blocks(kind: str, cut: list[int]) -> None:
    data = low_rank(noise=1.0)
    expected = pca.incremental(lazy(data, 4), K, chunk_size=30, dtype=np.float64)
    found = pca.incremental(lazy(KINDS[kind](data), bounds=cut), K, chunk_size=30, dtype=np.float64)
    np.testing.assert_allclose(found.components, expected.components, atol=1e-9)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-8)


def test_incremental__a_tile_holds_more_cells_than_components() -> None:
    with pytest.raises(InputError, match="chunk_size=5; expected at least n_comps=6"):
        pca.incremental(lazy(low_rank()), 6, chunk_size=5)


def test_fold__is_never_merged() -> None:
    with pytest.raises(AssertionError, match="one lane"):
        pca.FOLD.merge(None, None)
    x = lazy(low_rank(), 5)
    with dask.config.set(scheduler="threads", num_workers=4):
        state: Any = run.compute(fold_rows(pca.FOLD, x, n_comps=3, tile_rows=40))
    assert state.n == N_OBS


@pytest.mark.parametrize("solver", pca.SOLVERS)
def test_solvers__no_variance_is_no_nan(solver: str) -> None:
    found = pca.SOLVERS[solver](lazy(np.full((30, 8), 2, np.float32)), 3)
    assert np.isfinite(found.scores).all() and np.isfinite(found.components).all()
    np.testing.assert_allclose(found.variance, 0, atol=1e-10)
    assert np.isfinite(found.variance_ratio).all()
