from __future__ import annotations

import numpy as np
import pytest

from sc_dask.kernels import kendall


@pytest.mark.parametrize("n", [1, 12, 64, 65, 131, 700])
def test_concordance__counts_pairs_as_a_double_loop(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.integers(0, n, (2, n)).astype(np.float32)  # with ties
    b[: n // 5] = n  # many of one value, as cells that cannot be reached
    pairs = [int((np.sign(a[:i] - a[i]) * np.sign(b[:i] - b[i])).sum()) for i in range(n)]
    assert kendall.concordance(a, b).tolist() == pairs


def test_split__is_where_the_two_correlations_differ_most() -> None:
    from scipy.stats import kendalltau

    rng = np.random.default_rng(0)
    a = np.concatenate([np.linspace(0, 1, 40), np.linspace(1, 2, 60)]) + rng.normal(scale=0.01, size=100)
    b = np.concatenate([np.linspace(0, 1, 40), np.linspace(1, 0, 60)]) + rng.normal(scale=0.01, size=100)
    by_place = [kendalltau(a[: i + 1], b[: i + 1])[0] - kendalltau(a[i + 1 :], b[i + 1 :])[0] for i in range(5, 94)]
    assert kendall.split(a, b) == 5 + int(np.argmax(by_place)) == pytest.approx(40, abs=3)
    assert kendall.split(a[:12], b[:12]) == 5
