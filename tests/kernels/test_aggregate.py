from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.kernels import aggregate as kernels
from sc_dask.kernels.aggregate import FUNCTIONS

N_GROUPS = 4  # the last one has no cells
RNG = np.random.default_rng(0)
GROUPS = RNG.integers(-1, 3, 60).astype(np.int32)
COUNTS = RNG.poisson(RNG.lognormal(0, 1, 12), (60, 12)).astype(np.float32)
COUNTS[5, 2], COUNTS[:, 4] = 70_000, 0
VALUES = {
    "counts": COUNTS,
    "uint16": np.minimum(COUNTS, 60_000).astype(np.uint16),
    "negative": RNG.normal(0, 2, (60, 12)) * (RNG.random((60, 12)) < 0.7),
    "large": 1e7 + RNG.normal(0, 1e-2, (60, 12)),
    "below": -(COUNTS.astype(np.float64)),
}
KINDS: dict[str, Any] = {"csr": sp.csr_matrix, "dense": np.ascontiguousarray}


def expected(x: np.ndarray, function: str, g: int) -> np.ndarray:
    own = x[g == GROUPS].astype(np.float64)
    if function == "count_nonzero":
        return np.count_nonzero(own, axis=0)
    if not len(own) and function != "sum":
        return np.full(x.shape[1], np.nan)
    return own.var(axis=0, ddof=1) if function == "var" else getattr(np, function)(own, axis=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", VALUES)
def test_of_block__is_numpys(values: str, kind: str) -> None:
    x = VALUES[values]
    found = kernels.of_block(KINDS[kind](x), GROUPS, N_GROUPS, FUNCTIONS)
    for f in FUNCTIONS:
        for g in range(N_GROUPS):
            np.testing.assert_allclose(found[f][g], expected(x, f, g), rtol=1e-9 if values == "large" else 1e-12,
                                       atol=1e-12, err_msg=f"{f} of {g}")  # fmt: skip
        exact = f in ("count_nonzero", "median") or (f == "sum" and values in ("counts", "uint16", "below"))
        if exact:
            np.testing.assert_array_equal(found[f][:3], [expected(x, f, g) for g in range(3)])


@pytest.mark.parametrize("f", FUNCTIONS)
def test_of_block__one_function_alone_is_the_same(f: str) -> None:
    alone = kernels.of_block(sp.csr_matrix(COUNTS), GROUPS, N_GROUPS, (f,))
    together = kernels.of_block(sp.csr_matrix(COUNTS), GROUPS, N_GROUPS, FUNCTIONS)
    assert list(alone) == [f]
    np.testing.assert_array_equal(alone[f], together[f])


def test_of_block__explicit_zeros_are_none() -> None:
    x = sp.csr_matrix(COUNTS)
    x.data[::3] = 0
    found = kernels.of_block(x, GROUPS, N_GROUPS, FUNCTIONS)
    dense = kernels.of_block(x.toarray(), GROUPS, N_GROUPS, FUNCTIONS)
    for f in FUNCTIONS:
        np.testing.assert_allclose(found[f], dense[f], rtol=1e-12, err_msg=f)


def test_of_block__a_nan_is_in_all_but_the_number_of_non_zeros() -> None:
    x = np.array([[np.nan, 1], [2, 3]])
    found = kernels.of_block(x, np.zeros(2, np.int32), 1, FUNCTIONS)
    for f in ("sum", "mean", "median", "var"):
        assert np.isnan(found[f][0, 0]) and not np.isnan(found[f][0, 1])
    assert found["count_nonzero"].tolist() == [[2, 2]]


def test_functions__too_few_cells_have_no_variance() -> None:
    x = np.array([[1.0], [4.0], [6.0]])
    groups = np.array([0, 1, 1], np.int32)
    for dof, var in ((0, [0, 1]), (1, [np.nan, 2]), (2, [np.nan, np.nan])):
        np.testing.assert_array_equal(kernels.of_block(x, groups, 2, ("var",), dof)["var"].ravel(), var)


def test_absorb__small_counts_never_overflow_their_fields() -> None:
    """More cells of one group than the fields hold, all with the largest small count."""
    n = 3 * kernels._MOST_CELLS + 5
    x = sp.csr_matrix(np.full((n, 1), kernels._SMALL - 1, np.uint8))
    groups = np.zeros(n, np.int32)
    s = kernels.sums(x[: n // 2], groups[: n // 2], n_groups=1, depth=3)
    t = kernels.finish(kernels.absorb(s, x[n // 2 :], groups[n // 2 :]))
    assert t.of.tolist() == [[[255.0 * n, n, 0]]]


def test_merge__keeps_integers_exact_about_other_shifts() -> None:
    x = RNG.integers(0, 2**20, (40, 3)).astype(np.float64)
    groups = np.zeros(40, np.int32)
    parts = [kernels.sums(x[lo : lo + 10] + lo, groups[:10], n_groups=1, depth=3) for lo in range(0, 40, 10)]
    assert len({tuple(p.shift) for p in parts}) == 4
    t = kernels.finish(kernels.merge(kernels.merge(parts[0], parts[1]), kernels.merge(parts[2], parts[3])))
    whole = x + np.arange(0, 40, 10).repeat(10)[:, None]
    np.testing.assert_array_equal(t.sum[0], whole.sum(axis=0))
    np.testing.assert_allclose(t.squares[0], whole.var(axis=0) * 40, rtol=1e-14)
