from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.kernels.scrublet import doublets, likelihoods, sums_where, to_target, valley


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_scrublet__sums_over_the_genes_of_each_batch(kind: type) -> None:
    rng = np.random.default_rng(0)
    x, codes = rng.poisson(0.7, (30, 12)).astype(np.float32), rng.integers(3, size=30).astype(np.int32)
    masks = rng.random((3, 12)) < 0.5
    found = sums_where(kind(x), codes, masks)
    np.testing.assert_allclose(found["totals"], (x * masks[codes]).sum(axis=1))
    np.testing.assert_array_equal(found["n_genes"], ((x > 0) & masks[codes]).sum(axis=1))


def test_scrublet__doublets_are_sums_and_cells_get_the_same_sum() -> None:
    rng = np.random.default_rng(0)
    x = rng.poisson(2.0, (30, 12)).astype(np.float32)
    x[4] = 0
    pairs = rng.integers(30, size=(50, 2))
    counts = sp.csr_matrix(x)
    added = doublets(counts, pairs)
    np.testing.assert_array_equal(added.toarray(), x[pairs[:, 0]] + x[pairs[:, 1]])
    kept = doublets(counts, pairs, 0.5, np.random.default_rng(0)).toarray()
    assert (kept <= added.toarray()).all() and 0.45 < kept.sum() / added.sum() < 0.55
    same = to_target(counts).toarray()
    np.testing.assert_allclose(np.delete(same, 4, axis=0).sum(axis=1), 1e6)
    assert not same[4].any() and (counts.toarray() == x).all()


def test_scrublet__a_likelihood_grows_with_simulated_neighbours() -> None:
    ld = likelihoods(np.arange(31), 30, 2.0, 0.1)
    assert (np.diff(ld) > 0).all() and ld[0] > 0 and ld[-1] < 1
    q = 21 / 32  # as many as there are among all transcriptomes: the rate that was expected
    np.testing.assert_allclose(ld[20], q * 0.05 / (0.9 - q * 0.85))


def test_scrublet__valley_lies_between_two_peaks() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.beta(2, 9, 3000), rng.beta(6, 3, 2000)])
    assert valley(x) == pytest.approx(0.4570821398167641, rel=1e-12)  # that of scikit-image's threshold_minimum
    assert valley(np.ones(20)) is None
