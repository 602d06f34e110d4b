from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu, rankdata, tiecorrect

from sc_dask.kernels.wilcoxon import gene_ranks, wilcoxon

CODES = np.repeat([0, 1, 2, 3], [40, 25, 12, 43]).astype(np.int32)[np.random.default_rng(1).permutation(120)]
SIZES = np.bincount(CODES)


def data() -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.gamma(0.7, 2, 12), (120, 12)).astype(np.float64)
    x[:, 0], x[:, 1] = 0, 5  # the same in all cells
    x[:, 2] = rng.normal(size=120)  # no ties
    x[:, 3] *= -1
    x[:, 4] = np.round(rng.normal(size=120) * (x[:, 4] > 0), 1)  # both signs, zeros and ties
    return x


def ranked(x: np.ndarray, in_group: np.ndarray) -> tuple[float, float]:
    ranks, n = rankdata(x), in_group.sum()
    return ranks[in_group].sum() - n * (n + 1) / 2, (1 - tiecorrect(ranks)) * (len(x) ** 3 - len(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("reference", [None, 2])
def test_gene_ranks__are_scipys(dtype: type, reference: int | None) -> None:
    x = data().astype(dtype)
    found = gene_ranks(sp.csc_matrix(x), CODES, 4, reference)
    for g in range(4):
        kept = np.full(120, True) if reference is None else np.isin(CODES, [g, reference])
        if g == reference:
            continue
        expected = [ranked(x[kept, j], CODES[kept] == g) for j in range(12)]
        np.testing.assert_allclose(found.u[:, g], [u for u, _ in expected])
        np.testing.assert_allclose(
            found.ties[:, 0 if reference is None else g], [t for _, t in expected], rtol=1e-9, atol=1e-6
        )
        np.testing.assert_allclose(found.sums[:, g], x[g == CODES].sum(axis=0), rtol=1e-12, atol=1e-5)
        np.testing.assert_array_equal(found.nnz[:, g], (x[g == CODES] != 0).sum(axis=0))


def test_gene_ranks__cells_left_out_and_explicit_zeros() -> None:
    x, codes = data().astype(np.float32), np.where(CODES == 3, -1, CODES).astype(np.int32)
    whole = gene_ranks(sp.csc_matrix(x[codes >= 0]), codes[codes >= 0], 3)
    tile = sp.csc_matrix(np.ones_like(x))
    tile.data[:] = x.T.ravel()
    tile.data[tile.data == 0] = -0.0
    found = gene_ranks(tile, codes, 3)
    for field in ("u", "ties", "sums", "nnz"):
        np.testing.assert_array_equal(getattr(found, field), getattr(whole, field))


def test_gene_ranks__many_values_of_every_size() -> None:
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(5000, 2)) * 10.0 ** rng.integers(-30, 30, (5000, 2))).astype(np.float32)
    codes = rng.integers(0, 3, 5000).astype(np.int32)
    found = gene_ranks(sp.csc_matrix(x), codes, 3)
    for j in range(2):
        for g in range(3):
            assert found.u[j, g] == pytest.approx(ranked(x[:, j], codes == g)[0], rel=1e-12)


@pytest.mark.parametrize("tie_correct", [False, True])
def test_wilcoxon__is_mann_and_whitneys(tie_correct: bool) -> None:
    x = data()
    ranks = gene_ranks(sp.csc_matrix(x), CODES, 4, 1)
    found = wilcoxon(ranks, SIZES, [0, 3], 1, tie_correct=tie_correct)
    for i, g in enumerate([0, 3]):
        # scipy always corrects for ties; where there are none both are the same
        genes = range(2, 12) if tie_correct else [2]
        expected = [
            mannwhitneyu(x[g == CODES, j], x[CODES == 1, j], method="asymptotic", use_continuity=False).pvalue
            for j in genes
        ]
        np.testing.assert_allclose(found.pvals[i, list(genes)], expected, rtol=1e-9)
    assert (found.scores[:, :2] == 0).all() and (found.pvals[:, :2] == 1).all()
    np.testing.assert_allclose(found.pts[0], (x[CODES == 0] != 0).mean(axis=0))


def test_wilcoxon__the_rest_keeps_small_means_beside_large_ones() -> None:
    x = np.where(CODES[:, None] == 0, 10.0, 1e-7)
    found = wilcoxon(gene_ranks(sp.csc_matrix(x), CODES, 4), SIZES, [0])
    expected = np.log2((np.expm1(10.0) + 1e-9) / (np.expm1(1e-7) + 1e-9))
    assert found.logfoldchanges[0, 0] == pytest.approx(expected, rel=1e-12)
