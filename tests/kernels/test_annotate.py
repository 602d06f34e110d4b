from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import expit

from sc_dask.errors import InputError
from sc_dask.kernels import annotate
from sc_dask.kernels.csr import col_lookup


def model(n_genes: int, n_labels: int = 3) -> annotate.Linear:
    rng = np.random.default_rng(1)
    mean, scale = rng.random(n_genes), rng.random(n_genes) * 0.2 + 0.01
    return annotate.Linear(rng.normal(size=(n_genes, n_labels)), rng.normal(size=n_labels), mean, scale)


def logged(n_obs: int = 40, n_vars: int = 30) -> np.ndarray:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.lognormal(-1, 1.5, n_vars), (n_obs, n_vars)) + 0.0
    counts[:, 3] = 0
    counts[1] = 0  # a cell without counts
    totals = counts.sum(axis=1, keepdims=True)
    return np.log1p(counts / np.where(totals == 0, 1, totals) * 1e4).astype(np.float32)


def block(x: np.ndarray) -> sp.csr_matrix:
    out = sp.csr_matrix(x)
    out.indices, out.indptr = out.indices.astype(np.int32), out.indptr.astype(np.int32)
    return out


def dense(x: np.ndarray, m: annotate.Linear) -> np.ndarray:
    z = (x.astype(np.float64) - m.mean) / m.scale
    z[z > 10] = 10
    return z @ m.coef + m.intercept


@pytest.mark.parametrize("sparse", [True, False])
def test_decisions__are_the_dense_formula(sparse: bool) -> None:
    x, m = logged(), model(30)
    z = (x - m.mean) / m.scale
    assert 0.05 < (z > 10).mean() < 0.95 and m.mean[3] != 0  # clipping matters
    np.testing.assert_allclose(annotate.decisions(block(x) if sparse else x, m), dense(x, m), rtol=1e-9, atol=1e-8)


def test_decisions__means_so_low_that_zeros_are_clipped() -> None:
    x, m = logged(), model(30)
    m = annotate.Linear(m.coef, m.intercept, m.mean - 5, m.scale)
    np.testing.assert_allclose(annotate.decisions(block(x), m), dense(x, m), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("sparse", [True, False])
def test_assign__takes_its_genes_and_tiles(sparse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotate, "_TILE_ROWS", 7)
    x = logged()
    cols = np.array([9, 2, 3, 20, 11])
    m = model(5, n_labels=9)
    keep = ("decisions", "probabilities")
    found = annotate.assign(
        block(x) if sparse else x, model=m, lookup=col_lookup(cols, 30), check=True, threshold=0.6, keep=keep
    )
    scores = dense(x[:, cols], m)
    np.testing.assert_array_equal(found["best"], scores.argmax(axis=1))
    np.testing.assert_allclose(found["confidence"], expit(scores).max(axis=1))
    np.testing.assert_array_equal(np.unpackbits(found["flags"], axis=1, count=9), expit(scores) > 0.6)
    np.testing.assert_allclose(found["decisions"], scores, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["probabilities"], expit(scores), rtol=1e-6)
    none = annotate.assign(block(x[:0]), model=model(30))
    assert {k: v.shape for k, v in none.items()} == {"best": (0,), "confidence": (0,)}


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.expm1(logged()), "cells of X sum up to .* and not to 10,000"),  # not logarithmised
        (np.log1p(np.ones((3, 4))), "cells of X sum up to 4 .of expm1."),
        (logged() - 1, "negative or infinite"),
        (logged() * np.nan, "negative or infinite"),
        (np.log1p(np.expm1(logged()) / 2), "sum up to 5,000 .* check_expression=False"),
    ],
)
def test_check__refuses_other_values(x: np.ndarray, message: str) -> None:
    for b in (x, block(x)):
        with pytest.raises(InputError, match=message):
            annotate.check_log1p(b)


def test_check__accepts_a_few_genes_less_and_empty_cells() -> None:
    x = logged()
    annotate.check_log1p(block(x))
    annotate.check_log1p(x[:0])
    annotate.check_log1p(np.log1p(np.array([[9000.0, 950.0], [0, 9990.0]])))


@pytest.mark.parametrize("sparse", [True, False])
def test_scaled__and_sampled(sparse: bool) -> None:
    x, m = logged(), model(30)
    b = block(x) if sparse else x.copy()
    expected = np.minimum((x - m.mean) / m.scale, 10)
    np.testing.assert_allclose(annotate.scaled(b, m.mean, m.scale), expected, rtol=1e-4, atol=1e-4)
    cols = np.array([4, 8])
    taken = annotate.sampled(b, lookup=col_lookup(cols, 30), n_genes=2, check=True)
    assert sp.issparse(taken)
    np.testing.assert_array_equal(taken.toarray(), x[:, cols])
    np.testing.assert_array_equal(b.toarray() if sparse else b, x)  # nothing was changed
