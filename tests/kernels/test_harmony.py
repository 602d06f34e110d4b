from __future__ import annotations

import numpy as np

from sc_dask.kernels import harmony as kernels


def test_harmony__assigns_and_sums_as_dense_numpy_does() -> None:
    rng = np.random.default_rng(0)
    n, k, b = 40, 6, 3
    x, scale = rng.normal(size=(n, 5)).astype(np.float32), rng.random(n).astype(np.float32)
    rows = np.sort(rng.choice(n, 25, replace=False)).astype(np.int64)
    batch, width = rng.integers(b, size=n).astype(np.int32), rng.uniform(0.05, 0.3, k).astype(np.float32)
    penalty, y = rng.uniform(0.5, 2, (b, k)).astype(np.float32), rng.normal(size=(k, 5)).astype(np.float32)
    z = np.empty((25, 5), np.float32)
    kernels.gather(x, scale, rows, z)
    np.testing.assert_allclose(z, x[rows] * scale[rows, None], rtol=1e-6)

    dots, highest = z @ y.T, np.empty(25, np.float32)
    raw = -2 * (1 - dots.astype(np.float64)) / width
    kernels.exponents(dots, width, highest)
    np.testing.assert_allclose(highest, raw.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(dots, raw - raw.max(axis=1, keepdims=True), rtol=1e-4, atol=1e-4)

    weights, r, sums = np.exp(dots), np.full((n, k), -1, np.float32), np.ones((b, k))
    expected = np.exp(dots.astype(np.float64)) * penalty[batch[rows]]
    total = expected.sum(axis=1)
    expected /= total[:, None]
    energy = kernels.assign(weights, highest, rows, batch, penalty, width, r, sums)
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(r[rows], weights)
    assert (np.delete(r, rows, axis=0) == -1).all()
    by_batch = np.stack([expected[batch[rows] == i].sum(axis=0) for i in range(b)])
    np.testing.assert_allclose(sums, 1 + by_batch, rtol=1e-5)
    np.testing.assert_allclose(energy, ((highest + np.log(total)) * (expected @ width)).sum(), rtol=1e-5)

    again = np.zeros((b, k))
    kernels.batch_sums(r, rows, batch, again)
    np.testing.assert_allclose(again, by_batch, rtol=1e-5)
