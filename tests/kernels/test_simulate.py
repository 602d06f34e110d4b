from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sc_dask.kernels.simulate import alias_table, sample_cells


def draw(n_cells: int, depth: float, p: np.ndarray, shape: np.ndarray, seed: int = 0) -> np.ndarray:
    """Dense counts of cells of one profile without mitochondrial genes."""
    threshold, alias = alias_table(p)
    data, indices, indptr = sample_cells(
        np.random.Generator(np.random.PCG64(seed)),
        np.zeros(n_cells, np.int64),
        np.full(n_cells, depth),
        np.zeros(n_cells),
        p[None].astype(np.float32),
        threshold[None],
        alias[None],
        np.empty(0),
        shape,
    )
    dense = np.zeros((n_cells, len(p)))
    for i in range(n_cells):
        row = indices[indptr[i] : indptr[i + 1]]
        assert (np.diff(row) > 0).all()
        dense[i, row] = data[indptr[i] : indptr[i + 1]]
    assert (data > 0).all()
    return dense


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_alias_table__gives_back_the_probabilities(n: int) -> None:
    p = np.random.default_rng(n).lognormal(0, 3, n)
    p /= p.sum()
    threshold, alias = alias_table(p)
    back = threshold.astype(float)
    np.add.at(back, alias, 1 - threshold.astype(float))
    np.testing.assert_allclose(back / n, p, atol=1e-7)


@pytest.mark.parametrize(("mu", "r"), [(0.02, 0.5), (0.7, 2.0), (5.0, 1.0), (40.0, 3.0), (200.0, 2.5)])
def test_sample_cells__is_negative_binomial(mu: float, r: float) -> None:
    # three genes, the one looked at has mean mu: its counts against scipy's distribution, bin by bin
    p = np.array([0.25, 0.25, 0.5])
    counts = draw(20_000, mu / 0.25, p, np.array([5.0, r, 1.0]))[:, 1]
    law = stats.nbinom(r, r / (r + mu))
    edges = np.unique(law.ppf(np.linspace(0, 1, 12)[1:-1]))
    bins = np.searchsorted(edges, counts, side="left")
    expected = np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]])) * len(counts)
    found = np.bincount(bins, minlength=len(expected))
    keep = expected > 5
    assert keep.sum() >= 2
    chi2 = ((found - expected)[keep] ** 2 / expected[keep]).sum()
    assert stats.chi2(keep.sum() - 1).sf(chi2) > 1e-3
    # and not Poisson
    assert counts.var() / mu == pytest.approx(1 + mu / r, rel=0.15)


def test_sample_cells__same_state_same_cells() -> None:
    p, shape = np.full(50, 0.02), np.full(50, 2.0)
    assert (draw(10, 30.0, p, shape, 3) == draw(10, 30.0, p, shape, 3)).all()
    assert (draw(10, 30.0, p, shape, 3) != draw(10, 30.0, p, shape, 4)).any()


def test_sample_cells__no_cells_and_no_depth() -> None:
    p, shape = np.full(5, 0.2), np.full(5, 2.0)
    assert draw(0, 10.0, p, shape).shape == (0, 5)
    assert draw(3, 0.0, p, shape).sum() == 0
