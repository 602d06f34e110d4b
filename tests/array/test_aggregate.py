from __future__ import annotations

import dask
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.array import aggregate
from sc_dask.kernels.aggregate import FUNCTIONS, of_block
from sc_dask.log import stage
from sc_dask.testing import lazy, source_of

RNG = np.random.default_rng(1)
X = sp.csr_matrix(RNG.poisson(RNG.lognormal(0.3, 1, 30), (80, 30)).astype(np.float32))
CODES = RNG.integers(-1, 3, 80).astype(np.int32)


@pytest.mark.parametrize("memory", [None, "20kB", "6kB"])
@pytest.mark.parametrize("dense", [False, True], ids=["csr", "dense"])
def test_of_rows__tiles_of_genes_give_the_same(memory: str | None, dense: bool) -> None:
    x = lazy(X.toarray() if dense else X, 5)
    with dask.config.set({"sc-dask.memory": memory, "num_workers": 2}), stage("aggregate") as s:
        found = aggregate.of_rows(x, CODES, 3, FUNCTIONS)
    expected = of_block(X, CODES, 3, FUNCTIONS)
    assert list(found) == list(expected)
    for f in FUNCTIONS:
        np.testing.assert_allclose(found[f], expected[f], rtol=1e-13, err_msg=f)
    assert source_of(x).passes == round(s.passes)
    assert (source_of(x).passes == 2) if memory is None else (source_of(x).passes > 2)


def test_of_rows__one_pass_without_medians_and_none_more_where_all_are_zero() -> None:
    x = lazy(X, 5)
    aggregate.of_rows(x, CODES, 3, ("sum", "mean", "var", "count_nonzero"))
    assert source_of(x).passes == 1
    rare = lazy(X.multiply(RNG.random(X.shape) < 0.2).tocsr(), 5)
    found = aggregate.of_rows(rare, CODES, 3, ("median",))
    assert source_of(rare).passes == 1 and not found["median"].any()


@pytest.mark.parametrize("dense", [False, True], ids=["csr", "dense"])
def test_of_cols__groups_of_genes(dense: bool) -> None:
    codes = RNG.integers(-1, 2, 30).astype(np.int32)
    x = lazy(X.toarray() if dense else X, 5)
    found = aggregate.of_cols(x, codes, 2, FUNCTIONS, dof=0)
    expected = of_block(X.T.tocsr(), codes, 2, FUNCTIONS, dof=0)
    assert source_of(x).passes == 1
    for f in FUNCTIONS:
        np.testing.assert_allclose(found[f], expected[f].T, rtol=1e-13, err_msg=f)
