from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask import blas
from sc_dask.array import spill
from sc_dask.array.blocks import fold_rows
from sc_dask.array.engine import run
from sc_dask.array.pca import incremental
from sc_dask.array.pca import solvers as pca
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
    assert source_of(x).passes == 1


def known_spectrum(n_obs: int, variances: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return cells whose sample covariance has exactly these eigenvalues, about a mean far from 0."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(n_obs, len(variances)))
    u = np.linalg.qr(u - u.mean(axis=0))[0]
    v = np.linalg.qr(rng.normal(size=(len(variances),) * 2))[0]
    return (u * np.sqrt(variances * (n_obs - 1))) @ v.T + rng.uniform(0, 5, len(variances))


def flat_tail(n: int) -> np.ndarray:
    """Return variances like those of genes: a few large ones, then ever more that hardly differ."""
    return 30 / np.arange(1, n + 1) ** 1.5 + 1.3 * np.exp(-np.arange(n) / 150)


def assert_close(found: pca.PCA, exact: pca.PCA, cosine: float, rtol: float, n_first: int = 20) -> None:
    cosines = np.abs((found.components * exact.components).sum(axis=1))
    assert cosines[:n_first].min() > cosine
    np.testing.assert_allclose(found.variance, exact.variance, rtol=rtol)
    np.testing.assert_allclose(found.variance_ratio, exact.variance_ratio, rtol=rtol)


def assert_orthonormal(found: pca.PCA, tol: float = 1e-9) -> None:
    k = len(found.components)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(k), atol=tol)


@pytest.mark.parametrize("center", [True, False])
def test_randomized__a_flat_tail(center: bool) -> None:
    variances = flat_tail(1000)
    x = lazy(known_spectrum(1500, variances), 4)
    found = pca.randomized(x, 50, zero_center=center, dtype=np.float64)
    assert_close(found, pca.exact(x, 50, zero_center=center), cosine=0.9999, rtol=1e-4)
    if center:
        np.testing.assert_allclose(found.variance, variances[:50], rtol=1e-4)
        np.testing.assert_allclose(found.variance_ratio, variances[:50] / variances.sum(), rtol=1e-4)
        covariance = np.cov(found.scores.T)  # the scores are those of the variances, and uncorrelated
        np.testing.assert_allclose(covariance, np.diag(found.variance), atol=1e-9 * variances[0])
    assert_orthonormal(found)


@pytest.mark.parametrize(("n_obs", "n_vars", "passes"), [(1000, 950, 4), (500, 950, 3), (100, 950, 2), (600, 450, 2)])
def test_randomized__passes_where_nothing_can_be_laid_aside(
    n_obs: int, n_vars: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "possible", lambda x: False)
    data = low_rank(n_obs, n_vars, noise=0.1)
    x = lazy(data, 3)
    found = pca.randomized(x, 4)
    assert source_of(x).passes == passes
    assert_pca(found, data, True, tol=1e-4)


def test_randomized__60_000_genes() -> None:
    data = sp.random(150, 60_000, density=0.01, format="csr", dtype=np.float32, random_state=0)
    data[:60] *= 3
    found = pca.randomized(lazy(data), 5, dtype=np.float64)
    dense = data.toarray().astype(np.float64)
    dense -= dense.mean(axis=0)
    values, left = np.linalg.eigh(dense @ dense.T)
    np.testing.assert_allclose(found.variance, values[::-1][:5] / 149, rtol=1e-9)
    np.testing.assert_allclose(found.variance_ratio, values[::-1][:5] / values.sum(), rtol=1e-9)
    rotated = np.abs((left[:, ::-1][:, :5] * found.scores).sum(axis=0)) / np.linalg.norm(found.scores, axis=0)
    np.testing.assert_allclose(rotated, 1, rtol=1e-4)


def test_randomized__a_seed_is_a_result() -> None:
    data = known_spectrum(1200, flat_tail(1000))
    one, same, other = (pca.randomized(lazy(data), 20, random_state=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.scores, same.scores)
    assert (one.scores != other.scores).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [[0, 1200], [0, 1, 2, 31, 31, 90, 1200], list(range(0, 1201, 60))], ids=len)
def test_randomized__blocks_do_not_matter(kind: str, cut: list[int]) -> None:
    data = known_spectrum(1200, flat_tail(1000))
    expected = pca.randomized(lazy(data, 4), 10, dtype=np.float64)
    found = pca.randomized(lazy(KINDS[kind](data), bounds=cut), 10, dtype=np.float64)
    np.testing.assert_allclose(found.components, expected.components, atol=1e-8)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-7)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-10)


def test_randomized__a_large_mean_costs_no_digits() -> None:
    data = known_spectrum(1200, flat_tail(1000))
    near, far = (pca.randomized(lazy(x), 5, dtype=np.float64) for x in (data, data + 1e6))
    np.testing.assert_allclose(far.variance, near.variance, rtol=1e-7)
    np.testing.assert_allclose(far.variance_ratio, near.variance_ratio, rtol=1e-7)
    np.testing.assert_allclose(far.components, near.components, atol=1e-5)


APPROXIMATE = {"randomized": {}, "incremental": {"chunk_size": 50}}


@pytest.mark.parametrize("solver", APPROXIMATE)
@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (9, 9), (120, 3), (2, 50)], ids=str)
def test_approximate__as_many_components_as_there_can_be(solver: str, shape: tuple[int, int]) -> None:
    data = np.random.default_rng(0).poisson(2.0, shape).astype(np.float32)
    k = min(shape)
    found = pca.SOLVERS[solver](lazy(data, 2), k, dtype=np.float64, **APPROXIMATE[solver])
    _, _, variance = by_svd(data, k, True)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-9, atol=1e-12 * variance[0])
    assert_orthonormal(found)
    np.testing.assert_allclose(found.variance_ratio.sum(), 1)


@pytest.mark.parametrize("solver", APPROXIMATE)
def test_approximate__fewer_directions_than_components(solver: str) -> None:
    rng = np.random.default_rng(0)
    data = np.repeat(rng.normal(size=(2, 40)), 50, axis=0) + np.ones(40)  # two kinds of cell
    data[:, 10:20] = data[:, :10]  # the same gene twice
    data[:, 30] = 7
    found = pca.SOLVERS[solver](lazy(data, 3), 4, dtype=np.float64, **APPROXIMATE[solver])
    scores, _, variance = by_svd(data, 1, True)
    np.testing.assert_allclose(found.variance, [variance[0], 0, 0, 0], atol=1e-9 * variance[0])
    np.testing.assert_allclose(np.abs(found.scores[:, 0]), np.abs(scores[:, 0]))
    np.testing.assert_allclose(found.scores[:, 1:], 0, atol=1e-6)
    np.testing.assert_allclose(found.components[0, 30], 0, atol=1e-12)
    assert_orthonormal(found)


@pytest.mark.parametrize("solver", APPROXIMATE)
def test_approximate__on_pbmc3k(solver: str, pbmc3k_filtered: Any) -> None:
    import scanpy as sc

    sc.pp.normalize_total(pbmc3k_filtered, target_sum=1e4)
    sc.pp.log1p(pbmc3k_filtered)
    sc.pp.highly_variable_genes(pbmc3k_filtered)
    data = pbmc3k_filtered.X[:, pbmc3k_filtered.var["highly_variable"].to_numpy()].tocsr()
    exact = pca.exact(lazy(data, 3), 50)
    found = pca.SOLVERS[solver](lazy(data, 3), 50)
    if solver == "randomized":
        assert_close(found, exact, cosine=0.99999, rtol=5e-5)
    else:
        assert_close(found, exact, cosine=0.999, rtol=2e-3)
        assert_closer_than_sklearn(found, exact, data, 1000)


@pytest.mark.parametrize("solver", APPROXIMATE)
def test_approximate__on_kang(solver: str, data_dir: Any) -> None:
    import anndata as ad
    import scanpy as sc

    adata = ad.read_h5ad(data_dir / "kang" / "kang_12k_1287genes_counts.h5ad")
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    data = sp.csr_matrix(adata.X[:4000])
    exact = pca.exact(lazy(data, 3), 30)
    found = pca.SOLVERS[solver](lazy(data, 3), 30)
    if solver == "randomized":
        assert_close(found, exact, cosine=0.9999, rtol=3e-4)
    else:
        assert_close(found, exact, cosine=0.99, rtol=1e-2)


def assert_closer_than_sklearn(found: pca.PCA, exact: pca.PCA, data: sp.csr_matrix, chunk_size: int) -> None:
    from sklearn.decomposition import IncrementalPCA

    k = len(exact.variance)
    with blas.one_thread():
        theirs = IncrementalPCA(k, batch_size=chunk_size).fit(data.toarray().astype(np.float64))
    ours_cos, their_cos = (
        np.abs((c * exact.components).sum(axis=1))[:20] for c in (found.components, theirs.components_)
    )
    assert ours_cos.min() > their_cos.min() and np.median(ours_cos) >= np.median(their_cos)
    ours_off, their_off = (np.abs(v / exact.variance - 1) for v in (found.variance, theirs.explained_variance_))
    assert (ours_off < their_off).all()


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


def test_incremental__a_flat_tail() -> None:
    variances = flat_tail(1000)
    x = lazy(known_spectrum(1500, variances), 4)
    found, exact = pca.incremental(x, 30, chunk_size=500, dtype=np.float64), pca.exact(x, 30)
    assert_close(found, exact, cosine=0.99, rtol=1e-2)
    covariance = np.cov(found.scores.T)
    np.testing.assert_allclose(covariance, np.diag(found.variance), atol=1e-9 * variances[0])
    assert_orthonormal(found)


def test_incremental__60_000_genes() -> None:
    data = sp.random(300, 60_000, density=0.01, format="csr", dtype=np.float32, random_state=0)
    data[:60] *= 3
    found = pca.incremental(lazy(data), 5, chunk_size=120, dtype=np.float64)
    dense = data.toarray().astype(np.float64)
    dense -= dense.mean(axis=0)
    values = np.linalg.eigvalsh(dense @ dense.T)[::-1]
    np.testing.assert_allclose(found.variance, values[:5] / 299, rtol=0.1)
    assert (found.variance <= values[:5] / 299 * (1 + 1e-9)).all()
    np.testing.assert_allclose(found.variance_ratio, found.variance * 299 / values.sum())


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
def test_approximate__any_scheduler_gives_the_same(scheduler: str) -> None:
    data = known_spectrum(300, flat_tail(250))
    with dask.config.set(scheduler="synchronous"):
        expected = [pca.SOLVERS[s](lazy(data, 5), 10, dtype=np.float64, **o) for s, o in APPROXIMATE.items()]
    with dask.config.set(scheduler=scheduler, num_workers=3):
        found = [pca.SOLVERS[s](lazy(data, 5), 10, dtype=np.float64, **o) for s, o in APPROXIMATE.items()]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.components, b.components, atol=1e-9)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-8)


def test_fold__is_never_merged() -> None:
    with pytest.raises(AssertionError, match="in order"):
        incremental.FOLD.merge(None, None)
    x = lazy(low_rank(), 5)
    with dask.config.set(scheduler="threads", num_workers=4):
        state: Any = run.compute(fold_rows(incremental.FOLD, x, n_kept=3, tile_rows=40))
    assert state.n == N_OBS


@pytest.mark.parametrize("solver", pca.SOLVERS)
def test_solvers__no_variance_is_no_nan(solver: str) -> None:
    found = pca.SOLVERS[solver](lazy(np.full((30, 8), 2, np.float32)), 3)
    assert np.isfinite(found.scores).all() and np.isfinite(found.components).all()
    np.testing.assert_allclose(found.variance, 0, atol=1e-10)
    assert np.isfinite(found.variance_ratio).all()
