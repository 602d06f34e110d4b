from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.kernels import incremental

X = np.random.default_rng(0).poisson(1.0, (40, 9)).astype(np.float32) + np.arange(9, dtype=np.float32)


def fitted(cut: list[int], tile_rows: int, n_kept: int = 9, kind: type | None = None) -> incremental.IncrementalState:
    state = incremental.start(9)
    for lo, hi in zip(cut, cut[1:], strict=False):
        state = incremental.update(state, X[lo:hi] if kind is None else kind(X[lo:hi]), n_kept, tile_rows)
    return incremental.finish(state, n_kept)


@pytest.mark.parametrize("tile_rows", [1, 7, 40, 100])
def test_update__with_all_components_is_the_svd(tile_rows: int) -> None:
    state = fitted([0, 40], tile_rows)
    lengths = np.linalg.norm(state.scaled, axis=1)
    components, variance, total = state.scaled / lengths[:, None], lengths**2 / 39, state.m2.sum() / 39
    centred = X - X.mean(axis=0, dtype=np.float64)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(variance, s**2 / 39, rtol=1e-6)
    np.testing.assert_allclose(np.abs((components * vt).sum(axis=1)), 1, rtol=1e-6)
    np.testing.assert_allclose(total, centred.var(axis=0, ddof=1).sum())


@pytest.mark.parametrize("kind", [None, sp.csr_matrix])
def test_update__tiles_do_not_follow_blocks(kind: type | None) -> None:
    whole = fitted([0, 40], 7, 3)
    for cut in ([0, 1, 13, 13, 14, 40], list(range(41)), [0, 39, 40]):
        other = fitted(cut, 7, 3, kind)
        assert other.n == 40
        np.testing.assert_allclose(other.mean, X.mean(axis=0, dtype=np.float64))
        np.testing.assert_allclose(np.abs(other.scaled), np.abs(whole.scaled), atol=1e-9)
        np.testing.assert_allclose(other.m2, whole.m2)


def test_update__what_is_kept_is_the_best_of_a_tile() -> None:
    wide = np.random.default_rng(1).normal(size=(12, 30)) + 3
    for x in (X.astype(np.float64), wide):  # the Gram matrix of the columns, and of the rows
        state = incremental.update(incremental.start(x.shape[1]), x, 4, len(x))
        _, s, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        assert state.scaled.shape == (4, x.shape[1])
        np.testing.assert_allclose(np.linalg.norm(state.scaled, axis=1), s[:4])
        np.testing.assert_allclose(np.abs((state.scaled * vt[:4]).sum(axis=1)), s[:4])


def test_update__carrying_more_loses_less() -> None:
    x = np.random.default_rng(2).normal(size=(300, 60)) * 0.97 ** np.arange(60)
    exact = np.linalg.svd(x - x.mean(axis=0))[1][:5] ** 2 / 299
    lost = []
    for n_kept in (5, 10, 20, 40):
        state = incremental.finish(incremental.update(incremental.start(60), x, n_kept, 40), n_kept)
        lost.append(1 - np.linalg.norm(state.scaled, axis=1)[:5] ** 2 / 299 / exact)
    assert all((a >= b).all() for a, b in zip(lost, lost[1:], strict=False))
    assert (lost[0] > 0.05).any() and (lost[-1] < 0.02).all()


def test_update__a_tile_is_filled_in_pieces() -> None:
    x = np.random.default_rng(3).poisson(0.3, (700, 9)).astype(np.float32)
    for kind in (np.asarray, sp.csr_matrix):
        state = incremental.update(incremental.start(9), kind(x), 9, 700)
        assert not state.remainder
        np.testing.assert_allclose(state.mean, x.mean(axis=0, dtype=np.float64))
        np.testing.assert_allclose(state.m2, x.var(axis=0, dtype=np.float64) * 700)


def test_update__changes_neither_state_nor_block() -> None:
    block = X[:10].copy()
    state = incremental.update(incremental.start(9), block, 3, 4)
    scaled, remainder = state.scaled.copy(), [h.copy() for h in state.remainder]
    assert state.n == 8 and sum(len(h) for h in remainder) == 2
    incremental.update(state, block, 3, 4)
    np.testing.assert_array_equal(block, X[:10])
    np.testing.assert_array_equal(state.scaled, scaled)
    assert all((a == b).all() for a, b in zip(state.remainder, remainder, strict=True))
    block[:] = 0  # what is remainder is a copy: the reader may use its memory again
    assert all((a == b).all() for a, b in zip(state.remainder, remainder, strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_update__values_that_are_not_finite_show_at_the_end() -> None:
    bad = X.copy()
    bad[3, 2] = np.nan
    state = incremental.finish(incremental.update(incremental.start(9), bad, 3, 7), 3)
    assert np.isnan(state.m2).any() and np.isnan(state.scaled).all()
