"""Welch's t-test of each group of cells from group moments, as ``scanpy.tl.rank_genes_groups`` has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.kernels.moments import Moments, merge_moments, variance

Method = Literal["t-test", "t-test_overestim_var"]
CorrMethod = Literal["benjamini-hochberg", "bonferroni"]


@dataclass(frozen=True)
class RankResult:
    """Statistics of the tested groups, float64; scanpy stores ``scores`` and ``logfoldchanges`` as float32."""

    groups: NDArray[np.int64]  # n_tested, codes of the groups
    scores: NDArray[np.float64]  # n_tested x n_vars
    pvals: NDArray[np.float64]  # n_tested x n_vars
    pvals_adj: NDArray[np.float64]  # n_tested x n_vars
    logfoldchanges: NDArray[np.float64]  # n_tested x n_vars, base 2
    pts: NDArray[np.float64]  # n_tested x n_vars, share of the group's cells with a value that is not 0
    pts_rest: NDArray[np.float64]  # n_tested x n_vars, the same of the cells tested against


def t_test(
    moments: Moments,
    reference: int | None = None,
    method: Method = "t-test",
    corr_method: CorrMethod = "benjamini-hochberg",
    *,
    groups: Sequence[int] | None = None,
    base: float | None = None,
) -> RankResult:
    """Return Welch's t-test of each group against the rest or a reference group.

    Parameters
    ----------
    moments
        Of logarithmised data; n_groups x n_vars. "The rest" are all cells in it, so cells without a
        label belong in a group of their own that is not in ``groups``.
    reference
        Code of the group to test against; None: all other cells.
    method
        ``"t-test_overestim_var"`` takes the group's number of cells for the others' too.
    corr_method
        Correction of the p-values for the number of genes.
    groups
        Codes of the groups to test, in order; None: all. The reference is never tested.
    base
        Base of the logarithm, None for e; enters the fold changes.

    Raises
    ------
    InputError
        A group has one cell or none, nothing is left to test against, or an option is unknown.
    """
    n_groups = len(moments.n)
    tested = [g for g in (range(n_groups) if groups is None else groups) if g != reference]
    _check(moments, tested, reference, method, corr_method)
    others = _rest(moments, tested) if reference is None else _pick(moments, np.full(len(tested), reference))
    mine = _pick(moments, np.asarray(tested, np.int64))
    scores, pvals = _welch(mine, others, method)
    return RankResult(
        groups=np.asarray(tested, np.int64),
        scores=scores,
        pvals=pvals,
        pvals_adj=adjusted(pvals, corr_method),
        logfoldchanges=fold_changes(mine.mean, others.mean, base),
        pts=mine.nnz / mine.n[:, None],
        pts_rest=others.nnz / others.n[:, None],
    )


def fold_changes(
    mean: NDArray[np.float64], others: NDArray[np.float64], base: float | None = None
) -> NDArray[np.float64]:
    """Return base-2 logarithms of the ratios of means that are not logarithmised any more, as scanpy takes them."""
    power = 1.0 if base is None else np.log(base)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # scaled data or raw counts have none
        return np.log2((np.expm1(mean * power) + 1e-9) / (np.expm1(others * power) + 1e-9))


def adjusted(pvals: NDArray[np.float64], corr_method: CorrMethod) -> NDArray[np.float64]:
    """Return p-values (last axis: tests) corrected for their number."""
    return benjamini_hochberg(pvals) if corr_method == "benjamini-hochberg" else bonferroni(pvals)


def benjamini_hochberg(pvals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values (last axis: tests, no NaN) adjusted for the false discovery rate (Benjamini, Hochberg 1995)."""
    m = pvals.shape[-1]
    order = np.argsort(pvals, axis=-1)
    raw = np.take_along_axis(pvals, order, -1) / (np.arange(1, m + 1) / m)
    lowest = np.minimum.accumulate(raw[..., ::-1], axis=-1)[..., ::-1]
    out = np.empty_like(pvals)
    np.put_along_axis(out, order, np.minimum(lowest, 1.0), -1)
    return out


def bonferroni(pvals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values (last axis: tests) times the number of tests, at most 1."""
    return np.minimum(pvals * pvals.shape[-1], 1.0)


def _welch(mine: Moments, others: Moments, method: Method) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from scipy import stats

    n_mine = mine.n[:, None]
    n_others = others.n[:, None] if method == "t-test" else n_mine
    with np.errstate(invalid="ignore", divide="ignore"):
        scores, pvals = stats.ttest_ind_from_stats(
            mine.mean,
            np.sqrt(variance(mine)),
            n_mine,
            others.mean,
            np.sqrt(variance(others)),
            n_others,
            equal_var=False,
        )
    # equal means without any variance are no difference, also where the sums left rounding errors in both
    noise = 1e-12 * np.abs(others.mean)
    spread = np.sqrt(np.maximum(variance(mine), variance(others)))
    equal = np.isnan(scores) | ((spread <= noise) & (np.abs(mine.mean - others.mean) <= noise))
    return np.where(equal, 0.0, scores), np.where(equal | np.isnan(pvals), 1.0, pvals)


def _pick(m: Moments, rows: NDArray[np.int64]) -> Moments:
    return Moments(m.n[rows], m.mean[rows], m.m2[rows], m.nnz[rows])


def _rest(m: Moments, tested: list[int]) -> Moments:
    """Return, for each tested group, the moments of all others: merged, as a subtraction would cancel."""
    n_groups = len(m.n)
    one = [_pick(m, np.array([g])) for g in range(n_groups)]
    none = Moments(np.zeros(1, np.int64), *(np.zeros((1, m.mean.shape[1]), t) for t in (float, float, np.int64)))
    before, after = [none], [none]
    for g in range(n_groups - 1):
        before.append(merge_moments(before[-1], one[g]))
        after.append(merge_moments(one[n_groups - 1 - g], after[-1]))
    rest = [merge_moments(before[g], after[n_groups - 1 - g]) for g in tested]
    return Moments(*(np.concatenate([getattr(r, f) for r in rest]) for f in ("n", "mean", "m2", "nnz")))


def _check(m: Moments, tested: list[int], reference: int | None, method: str, corr_method: str) -> None:
    if method not in ("t-test", "t-test_overestim_var"):
        raise InputError(f"found method {method!r}", "'t-test' or 't-test_overestim_var'", "choose one of them")
    if corr_method not in ("benjamini-hochberg", "bonferroni"):
        raise InputError(
            f"found corr_method {corr_method!r}", "'benjamini-hochberg' or 'bonferroni'", "choose one of them"
        )
    codes = [*tested, *([] if reference is None else [reference])]
    if any(not 0 <= g < len(m.n) for g in codes):
        raise InputError(f"found groups {codes}", f"codes from 0 to {len(m.n) - 1}", "check groups and reference")
    if not tested:
        raise InputError("found no group to test", "at least one beside the reference", "name more groups")
    if small := [g for g in codes if m.n[g] < 2]:
        raise InputError(
            f"found groups {small} with fewer than two cells", "two or more in each", "leave these groups out"
        )
    if reference is None and any(m.n[g] == m.n.sum() for g in tested):
        raise InputError("found one group with all cells", "other cells to test against", "give at least two groups")
