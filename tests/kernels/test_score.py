from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.kernels import score
from sc_dask.kernels.normalize import normalize_log1p

RNG = np.random.default_rng(0)
COUNTS = sp.csr_matrix(RNG.poisson(RNG.lognormal(0, 2, 40), (30, 40)).astype(np.float32))
COUNTS[3, 7] = 700


def test_control_genes__come_from_the_bins_of_the_set_and_are_not_in_it() -> None:
    means = RNG.permutation(100).astype(float)
    listed = np.array([3, 50])
    drawn, empty = score.control_genes(
        means, listed, np.random.RandomState(0), ctrl_size=4, n_bins=11, ctrl_as_ref=False
    )
    bins = (np.argsort(np.argsort(means)) + 1) // 10
    assert empty == [] and not np.isin(listed, drawn).any()
    assert len(drawn) == 4 * len(set(bins[listed])) and set(bins[drawn]) == set(bins[listed])


@pytest.mark.parametrize("ctrl_as_ref", [True, False])
def test_control_genes__a_small_bin_is_taken_whole(ctrl_as_ref: bool) -> None:
    options = {"ctrl_size": 50, "n_bins": 3, "ctrl_as_ref": ctrl_as_ref}
    drawn, _ = score.control_genes(np.arange(10.0), np.array([0, 1]), np.random.RandomState(0), **options)
    assert drawn.tolist() == [2, 3]  # ranks 1 to 4 in bin 0, less the set


def test_control_genes__few_genes_share_one_bin() -> None:
    drawn, _ = score.control_genes(
        np.arange(5.0), np.array([0]), np.random.RandomState(0), ctrl_size=9, n_bins=25, ctrl_as_ref=True
    )
    assert drawn.tolist() == [1, 2, 3, 4]


def test_control_genes__a_bin_of_the_set_alone_is_told() -> None:
    drawn, empty = score.control_genes(
        np.arange(4.0), np.array([0]), np.random.RandomState(0), ctrl_size=9, n_bins=5, ctrl_as_ref=False
    )
    assert drawn.tolist() == [] and empty == [1.0]


def test_control_genes__rounding_does_not_tell_equal_means_apart_and_nan_is_in_no_bin() -> None:
    means = np.array([0.1 + 0.2, 0.3, 1.0, np.nan, 2.0, 3.0])
    assert means[0] != means[1]
    drawn, _ = score.control_genes(
        means, np.array([1]), np.random.RandomState(0), ctrl_size=9, n_bins=6, ctrl_as_ref=False
    )
    assert drawn.tolist() == [0]


@pytest.mark.parametrize("kind", [sp.csr_matrix, lambda x: x.toarray()], ids=["csr", "dense"])
def test_group_sums__are_those_of_the_genes(kind: object) -> None:
    genes, member = score.members([np.array([5, 2]), np.array([2, 30, 7])])
    lookup = np.full(40, -1, np.int32)
    lookup[genes] = np.arange(len(genes))
    x = COUNTS.toarray()
    expected = np.stack([x[:, [5, 2]].sum(axis=1), x[:, [2, 30, 7]].sum(axis=1)], axis=1)
    assert genes.tolist() == [2, 5, 7, 30]
    np.testing.assert_array_equal(score.group_sums(kind(COUNTS), lookup, member), expected)  # type: ignore[operator]


@pytest.mark.parametrize("base", [None, 2.0])
def test_log_sums__are_those_of_normalised_values(base: float | None) -> None:
    assert COUNTS.max() > 64  # beyond the table of logarithms
    factors = RNG.uniform(0.1, 10, 30)
    x = normalize_log1p(COUNTS, factors, base)
    np.testing.assert_allclose(
        score.log_col_totals(COUNTS, factors, base), x.toarray().sum(axis=0, dtype=float), rtol=1e-12
    )
    genes, member = score.members([np.arange(20), np.arange(10, 40)])
    lookup = np.arange(40, dtype=np.int32)
    np.testing.assert_array_equal(
        score.log_group_sums(COUNTS, factors, lookup, member, base), score.group_sums(x, lookup, member)
    )


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_nan_sums__are_those_of_the_other_values(kind: Any) -> None:
    x = np.random.default_rng(0).poisson(1.0, (20, 6)).astype(np.float32)
    x[3, 2] = x[5, 2] = x[7, 4] = np.nan
    member = np.eye(6)[:, [2, 4]] + np.eye(6)[:, [0, 0]]
    there = ~np.isnan(x)
    found = score.nan_group_sums(kind(x), member)
    np.testing.assert_allclose(found, np.hstack([np.nan_to_num(x) @ member, there @ member]))
    np.testing.assert_allclose(score.nan_col_totals(kind(x)), [np.nansum(x, axis=0), (~there).sum(axis=0)])
