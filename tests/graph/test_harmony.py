from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans

from sc_dask.graph import harmony as engine


def cells(n: int = 600, n_dims: int = 8) -> tuple[np.ndarray, list[np.ndarray]]:
    """Four groups of cells, with what three donors and two protocols add to each."""
    rng = np.random.default_rng(1)
    group, donor, protocol = rng.integers(4, size=n), rng.integers(3, size=n), rng.integers(2, size=n)
    centres, shifts = 6 * rng.normal(size=(4, n_dims)), 1.5 * rng.normal(size=(3, 4, n_dims))
    x = centres[group] + shifts[donor, group] + protocol[:, None] + rng.normal(size=(n, n_dims))
    return x, [donor, protocol]


def options(n_batches: int, k: int = 20, **given: Any) -> engine.HarmonyOptions:
    numbers = {"theta": np.full(n_batches, 2.0), "lamb": np.ones(n_batches), "sigma": np.linspace(0.08, 0.12, k)}
    steps = {"max_iter_harmony": 4, "max_iter_kmeans": 20, "epsilon_cluster": 1e-5, "epsilon_harmony": 1e-4}
    return engine.HarmonyOptions(**(numbers | steps | {"block_size": 0.05, "random_state": 3} | given))


def published(x: np.ndarray, phi: np.ndarray, o: engine.HarmonyOptions) -> tuple[np.ndarray, list[int], list[float]]:
    """The updates of Korsunsky et al. (2019), dense and in float64, with harmonypy's random draws."""
    rng = np.random.RandomState(o.random_state)
    n, k, share = len(x), len(o.sigma), phi.mean(axis=0)
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = KMeans(k, n_init=10, max_iter=25, random_state=o.random_state).fit(z).cluster_centers_

    def softmax(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance = 2 * (1 - z @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T)
        scaled = -distance / o.sigma
        return distance, np.exp(scaled - scaled.max(axis=1, keepdims=True))

    def objective(r: np.ndarray, distance: np.ndarray) -> float:
        observed, expected = phi.T @ r, np.outer(share, r.sum(axis=0))
        crowded = phi @ (o.theta[:, None] * np.log((observed + 1) / (expected + 1)))
        entropy = np.where(r > 0, r * np.log(np.where(r > 0, r, 1)), 0)
        return float((r * distance + o.sigma * entropy + o.sigma * r * crowded).sum())

    distance, r = softmax(y)
    r /= r.sum(axis=1, keepdims=True)
    found, by_iteration, rounds = [objective(r, distance)], [], []
    by_iteration.append(found[-1])
    for _ in range(o.max_iter_harmony):
        for i in range(o.max_iter_kmeans):
            distance, free = softmax(r.T @ z)
            order = np.arange(n)
            rng.shuffle(order)
            for block in np.array_split(order, round(1 / o.block_size)):
                rest = np.delete(np.arange(n), block)
                observed, expected = phi[rest].T @ r[rest], np.outer(share, r[rest].sum(axis=0))
                own = free[block] * (phi[block] @ ((expected + 1) / (observed + 1)) ** o.theta[:, None])
                r[block] = own / own.sum(axis=1, keepdims=True)
            found.append(objective(r, distance))
            if i > 3 and abs(sum(found[-4:-1]) - sum(found[-3:])) < o.epsilon_cluster * abs(sum(found[-4:-1])):
                break
        rounds.append(i + 1)
        by_iteration.append(found[-1])
        whole, corrected = np.column_stack([np.ones(n), phi]), x.copy()
        for c in range(k):
            weighted = whole * r[:, c, None]
            effect = np.linalg.solve(weighted.T @ whole + np.diag([0, *o.lamb]), weighted.T @ x)
            effect[0] = 0
            corrected -= weighted @ effect
        z = corrected / np.linalg.norm(corrected, axis=1, keepdims=True)
        if (by_iteration[-2] - by_iteration[-1]) / abs(by_iteration[-2]) < o.epsilon_harmony:
            break
    return corrected, rounds, by_iteration


@pytest.mark.parametrize("n_keys", [1, 2])
def test_harmony__equals_the_published_updates(n_keys: int) -> None:
    x, codes = cells()
    keys = engine.batches(codes[:n_keys])
    phi = np.column_stack([np.eye(c.max() + 1)[c] for c in codes[:n_keys]])
    expected, rounds, objectives = published(x, phi, options(phi.shape[1]))
    found = engine.harmony(x, keys, options(phi.shape[1]), n_jobs=2)
    assert list(found.rounds) == rounds
    np.testing.assert_allclose(found.objectives, objectives, rtol=1e-5)
    np.testing.assert_allclose(found.x, expected, atol=1e-4)
    assert abs(expected - x).max() > 1  # there was something to correct


def test_harmony__is_the_same_on_any_number_of_threads() -> None:
    x, codes = cells(5000)
    keys, short = engine.batches(codes), options(5, max_iter_harmony=1, max_iter_kmeans=2, block_size=0.5)
    before = x.copy()
    one, three = (engine.harmony(x, keys, short, n_jobs=n) for n in (1, 3))
    np.testing.assert_array_equal(one.x, three.x)
    np.testing.assert_array_equal(x, before)


def test_harmony__starts_from_a_sample_of_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codes = cells(2000)
    wanted = options(3)
    whole = engine.harmony(x, engine.batches(codes[:1]), wanted, n_jobs=1).x
    monkeypatch.setattr(engine, "N_START", 500)
    sampled = engine.harmony(x, engine.batches(codes[:1]), wanted, n_jobs=1).x
    assert min(np.corrcoef(whole[:, j], sampled[:, j])[0, 1] for j in range(8)) > 0.99
    assert not np.array_equal(whole, sampled)


def test_harmony__leaves_a_cell_without_direction_finite() -> None:
    x, codes = cells()
    x[5] = 0
    x32 = x.astype(np.float32)
    found = engine.harmony(x32, engine.batches(codes[:1]), options(3, max_iter_harmony=2), n_jobs=1)
    assert np.isfinite(found.x).all()
    np.testing.assert_array_equal(x32, x.astype(np.float32))


def test_batches__combine_keys() -> None:
    keys = engine.batches([np.array([0, 1, 1, 0, 1]), np.array([2, 0, 1, 2, 1])])
    np.testing.assert_array_equal(keys.design[keys.of][:, :2].argmax(axis=1), [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(keys.design[keys.of][:, 2:].argmax(axis=1), [2, 0, 1, 2, 1])
    assert len(keys.design) == 3
    np.testing.assert_allclose(keys.share, [0.4, 0.6, 0.2, 0.4, 0.4])
