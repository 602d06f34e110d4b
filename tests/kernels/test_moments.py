from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from sc_dask.errors import InputError
from sc_dask.kernels.moments import Moments, clipped_sums, merge_moments, moments, of_integers, variance


def counts(dtype=np.float64) -> np.ndarray:
    rng = np.random.default_rng(3)
    x = rng.poisson(rng.gamma(0.5, 2, 30), (50, 30)).astype(np.float64)
    x[:, 0], x[:, 1], x[:, 2] = 0, 7, 1_000_000 + rng.integers(0, 3, 50)
    return x.astype(dtype)


def as_block(x: np.ndarray, kind: str):
    return sp.csr_matrix(x) if kind == "csr" else x


GROUPS = (np.arange(50) % 4 - 1).astype(np.int32)  # -1, 0, 1, 2; group 3 has no cells


def assert_same(a: Moments, b: Moments) -> None:
    np.testing.assert_array_equal(a.n, b.n)
    np.testing.assert_array_equal(a.nnz, b.nnz)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12)
    np.testing.assert_allclose(a.m2, b.m2, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_moments__like_numpy(kind, dtype):
    x = counts(dtype)
    m = moments(as_block(x, kind))
    big = x.astype(np.float64)
    np.testing.assert_allclose(m.mean[0], big.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(variance(m)[0], big.var(axis=0, ddof=1), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(m.nnz[0], (x != 0).sum(axis=0))
    assert variance(m)[0, 0] == variance(m)[0, 1] == 0
    assert 0.1 < variance(m)[0, 2] < 2  # counts of a million that vary by one: nothing cancelled


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_moments__by_group(kind):
    x = counts()
    m = moments(as_block(x, kind), GROUPS, 4)
    for g in range(3):
        part = x[g == GROUPS]
        assert m.n[g] == len(part)
        np.testing.assert_allclose(m.mean[g], part.mean(axis=0))
        np.testing.assert_allclose(variance(m)[g], part.var(axis=0, ddof=1), atol=1e-12)
        np.testing.assert_array_equal(m.nnz[g], (part != 0).sum(axis=0))
    assert m.n[3] == 0
    assert not m.mean[3].any()
    assert not m.m2[3].any()


@pytest.mark.parametrize("base", [None, 2.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_moments__of_expm1(kind, dtype, base):
    x = np.log1p(counts()[:, 3:]).astype(dtype)
    m = moments(as_block(x, kind), transform="expm1", base=base)
    y = x.copy()
    if base is not None:
        y *= np.log(base)
    y = np.expm1(y)
    assert y.dtype == dtype
    np.testing.assert_allclose(m.mean[0], y.mean(axis=0, dtype=np.float64), rtol=1e-13)
    np.testing.assert_allclose(variance(m)[0], y.astype(np.float64).var(axis=0, ddof=1), rtol=1e-11)


def test_moments__explicit_zeros_are_zeros():
    x = sp.csr_matrix((np.array([0.0, 2.0, 4.0]), np.array([0, 0, 1]), np.array([0, 1, 3])), (2, 2))
    assert_same(moments(x), moments(x.toarray()))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=4), st.booleans())
def test_merge_moments__any_split_is_the_whole(cuts, sparse):
    x = counts()
    edges = sorted({0, 50, *cuts})
    kind = "csr" if sparse else "dense"
    parts = [moments(as_block(x[i:j], kind), GROUPS[i:j], 4) for i, j in zip(edges, edges[1:], strict=False)]
    merged = moments(as_block(x[:0], kind), GROUPS[:0], 4)
    for p in reversed(parts):
        merged = merge_moments(p, merged)
    assert_same(merged, moments(as_block(x, kind), GROUPS, 4))


def test_variance__of_one_cell_is_zero():
    assert not variance(moments(counts()[:1])).any()


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_clipped_sums__like_numpy(kind):
    x = counts(np.float32)
    clip = np.random.default_rng(0).random((4, 30)) * 5
    sums, squares = clipped_sums(as_block(x, kind), clip, GROUPS)
    for g in range(3):
        part = np.minimum(x[g == GROUPS].astype(np.float64), clip[g])
        np.testing.assert_allclose(sums[g], part.sum(axis=0))
        np.testing.assert_allclose(squares[g], (part**2).sum(axis=0))
    assert not sums[3].any()
    np.testing.assert_allclose(clipped_sums(as_block(x, kind), clip[:1])[0][0], np.minimum(x, clip[0]).sum(axis=0))


def test_moments__refuse_bad_groups_and_options():
    x = counts()
    for groups in (GROUPS[:-1], GROUPS + 2):
        with pytest.raises(InputError, match="groups"):
            moments(x, groups, 4)
    with pytest.raises(InputError, match="n_groups"):
        moments(x, None, 2)
    with pytest.raises(InputError, match="base"):
        moments(x, base=2.0)


@pytest.mark.parametrize("scale", [1, 50, 100_000])
def test_of_integers__are_the_same_bits_however_cells_are_cut(scale: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.poisson(0.3, (501, 40)) * rng.integers(1, scale + 1, (501, 40))
    groups = rng.integers(-1, 3, 501).astype(np.int32)
    found = []
    for cut in ([0, 501], [0, 3, 77, 77, 400, 501], list(range(502))):
        parts = [moments(x[lo:hi].astype(np.float32), groups[lo:hi], 3) for lo, hi in zip(cut, cut[1:], strict=False)]
        found.append(of_integers(functools.reduce(merge_moments, parts)))
    for other in found[1:]:
        for field in ("n", "mean", "m2", "nnz"):
            np.testing.assert_array_equal(getattr(other, field), getattr(found[0], field))
    for g in range(3):
        whole = x[groups == g].astype(np.float32).astype(object)  # Python's integers and fractions are exact
        sums, squares = whole.sum(axis=0), (whole**2).sum(axis=0)
        m2 = [float(Fraction(int(q)) - Fraction(int(s)) ** 2 / len(whole)) for s, q in zip(sums, squares, strict=True)]
        np.testing.assert_array_equal(found[0].mean[g], (sums / len(whole)).astype(float))
        np.testing.assert_allclose(found[0].m2[g], m2, rtol=1e-15)


def test_of_integers__leaves_sums_of_squares_beyond_certainty() -> None:
    m = Moments(np.array([2]), np.array([[1e9 + 0.5]]), np.array([[0.5]]), np.array([[2]]))
    out = of_integers(m)
    assert out.m2[0, 0] == 0.5 and out.mean[0, 0] == m.mean[0, 0]
    empty = of_integers(moments(np.zeros((0, 3), np.float32)))
    assert empty.mean.tolist() == [[0, 0, 0]] == empty.m2.tolist()
