"""The kinetics of a network, against the formula in plain Python."""

from __future__ import annotations

import numpy as np

from sc_dask.kernels.sim import Network, trajectory

# gene 0: (0 and not 1) or (not 0 and 1); gene 1: no rule; gene 2: 0, at half of its level
NETWORK = Network(
    np.array([0, 2, 2, 3]),
    np.array([0, 1, 0]),
    np.array([0.1, 0.2, 0.5]),
    np.array([0, 2, 2, 3]),
    np.array([0b01, 0b10, 0b1]),
    0.25,
)


def hill(x: float, threshold: float, on: bool) -> float:
    return (x**2 if on else threshold**2) / (x**2 + threshold**2)


def test_trajectory__is_hill_kinetics_with_noise() -> None:
    start, noise = np.array([0.8, 0.1, 0.0]), np.random.default_rng(0).normal(0, 0.01, (6, 3))
    before = noise.copy()
    out = trajectory(NETWORK, start, noise)
    x = start + noise[0]
    np.testing.assert_array_equal(out[0], x)
    for t in range(1, 6):
        a, b, _ = x
        drive = hill(a, 0.1, True) * hill(b, 0.2, False) + hill(a, 0.1, False) * hill(b, 0.2, True)
        x = x + 0.25 * (np.array([drive, b, hill(a, 0.5, True)]) - x) + noise[t]
        np.testing.assert_allclose(out[t], x, rtol=1e-12)
    np.testing.assert_array_equal(noise, before)


def test_trajectory__a_rule_that_is_never_true_only_decays() -> None:
    never = Network(np.array([0, 1]), np.array([0]), np.array([0.1]), np.array([0, 0]), np.empty(0, np.int64), 0.5)
    np.testing.assert_allclose(trajectory(never, np.ones(1), np.zeros((4, 1)))[:, 0], [1, 0.5, 0.25, 0.125])


def test_trajectory__of_no_steps() -> None:
    assert trajectory(NETWORK, np.zeros(3), np.empty((0, 3))).shape == (0, 3)
