from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp

from sc_dask.errors import InputError
from sc_dask.kernels import qc


def counts(dtype=np.float32, high: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(1)
    x = rng.poisson(rng.gamma(0.3, 2, 60), (40, 60)) + (rng.random((40, 60)) < high) * rng.integers(
        200, 1_000_000, (40, 60)
    )
    x[5], x[:, 7] = 0, 0
    return x.astype(dtype)


def as_block(x: np.ndarray, kind: str):
    return sp.csr_matrix(x) if kind == "csr" else x


MASKS = np.zeros((2, 60), bool)
MASKS[0, :9] = True
MASKS[1, 5:30] = True


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32, np.float64])
def test_cell_and_gene_metrics__like_numpy(kind, dtype):
    x = counts(dtype)
    keep = x.copy()
    cells, genes = qc.cell_and_gene_metrics(as_block(x, kind), MASKS, (1, 20, 5, 60))
    big = x.astype(np.float64)
    np.testing.assert_array_equal(cells.totals, big.sum(axis=1))
    np.testing.assert_array_equal(cells.n_genes, (x != 0).sum(axis=1))
    np.testing.assert_array_equal(cells.qc_totals, big @ MASKS.T)
    ranked = np.sort(big, axis=1)[:, ::-1]
    np.testing.assert_array_equal(
        cells.top_totals, np.stack([ranked[:, :k].sum(axis=1) for k in (1, 20, 5, 60)], axis=1)
    )
    np.testing.assert_array_equal(genes.totals, big.sum(axis=0))
    np.testing.assert_array_equal(genes.n_cells, (x != 0).sum(axis=0))
    assert (genes.n_obs, genes.max_value, genes.min_value) == (40, x.max(), x.min())
    assert genes.all_integer
    assert not genes.has_nan
    np.testing.assert_array_equal(x, keep)


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_top_totals__of_any_values(kind):
    for x in (counts(np.float64, high=0.2), counts() + 0.25 * (counts() > 0), counts() - 2.0 * (counts() > 3)):
        ranked = np.sort(x.astype(np.float64), axis=1)[:, ::-1]
        got = qc.cell_metrics(as_block(x, kind), MASKS, (3, 30, 60)).top_totals
        np.testing.assert_allclose(got, np.stack([ranked[:, :k].sum(axis=1) for k in (3, 30, 60)], axis=1), rtol=1e-12)


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_metrics__equal_scanpy(kind):
    a = ad.AnnData(as_block(counts(), kind))
    a.var["mt"] = MASKS[0]
    sc.pp.calculate_qc_metrics(a, qc_vars=["mt"], percent_top=(5, 20), log1p=False, inplace=True)
    cells, genes = qc.cell_and_gene_metrics(a.X, MASKS[:1], (5, 20))
    full = cells.totals > 0
    share = 100 * cells.top_totals[full] / cells.totals[full, None]
    np.testing.assert_allclose(cells.totals, a.obs["total_counts"], rtol=1e-6)
    np.testing.assert_array_equal(cells.n_genes, a.obs["n_genes_by_counts"])
    np.testing.assert_allclose(cells.qc_totals[:, 0], a.obs["total_counts_mt"], rtol=1e-6)
    np.testing.assert_allclose(
        share, a.obs[["pct_counts_in_top_5_genes", "pct_counts_in_top_20_genes"]][full], rtol=1e-6
    )
    np.testing.assert_array_equal(genes.n_cells, a.var["n_cells_by_counts"])
    np.testing.assert_allclose(genes.totals, a.var["total_counts"], rtol=1e-6)


def test_metrics__explicit_zeros_do_not_count():
    x = sp.csr_matrix((np.array([0.0, 3.0]), np.array([0, 1]), np.array([0, 2, 2])), (2, 2))
    cells, genes = qc.cell_and_gene_metrics(x, np.zeros((0, 2), bool))
    assert cells.n_genes.tolist() == [1, 0]
    assert genes.n_cells.tolist() == [0, 1]
    assert qc.row_counts(x).tolist() == [1, 0]
    assert qc.col_counts(x).tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize(
    ("value", "integer", "nan", "low", "high"),
    [
        (2.5, False, False, 0, 4),
        (np.nan, False, True, 0, 4),
        (np.inf, False, False, 0, np.inf),
        (-3.0, True, False, -3, 4),
    ],
)
def test_gene_metrics__facts(kind, value, integer, nan, low, high):
    x = np.array([[0, 4.0], [value, 1]])
    g = qc.gene_metrics(as_block(x, kind))
    assert (g.all_integer, g.has_nan, g.min_value, g.max_value) == (integer, nan, low, high)


def test_gene_metrics__full_block_has_no_implicit_zero():
    g = qc.gene_metrics(sp.csr_matrix(np.full((3, 2), 5, np.uint8)))
    assert (g.min_value, g.max_value) == (5, 5)


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_merge_gene_metrics__any_split_is_the_whole(kind):
    x = counts(high=0.1)
    parts = [qc.gene_metrics(as_block(x[i:j], kind)) for i, j in ((30, 40), (0, 0), (0, 1), (1, 30))]
    merged = parts[0]
    for p in parts[1:]:
        merged = qc.merge_gene_metrics(merged, p)
    whole = qc.gene_metrics(as_block(x, kind))
    np.testing.assert_array_equal(merged.totals, whole.totals)
    np.testing.assert_array_equal(merged.n_cells, whole.n_cells)
    assert (merged.n_obs, merged.max_value, merged.min_value) == (40, whole.max_value, whole.min_value)


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_totals_and_counts__like_numpy(kind, dtype):
    x = np.minimum(counts(), 255).astype(dtype)
    b = as_block(x, kind)
    np.testing.assert_array_equal(qc.row_totals(b), x.astype(float).sum(axis=1))
    np.testing.assert_array_equal(qc.col_totals(b), x.astype(float).sum(axis=0))
    np.testing.assert_array_equal(qc.row_counts(b), (x != 0).sum(axis=1))
    np.testing.assert_array_equal(qc.col_counts(b), (x != 0).sum(axis=0))
    np.testing.assert_array_equal(qc.row_positives(b), (x > 0).sum(axis=1))
    np.testing.assert_array_equal(qc.col_positives(b), (x > 0).sum(axis=0))
    assert qc.row_totals(b).dtype == qc.col_totals(b).dtype == np.float64
    assert qc.row_counts(b).dtype == qc.col_counts(b).dtype == np.int64


def test_metrics__refuse_bad_options():
    with pytest.raises(InputError, match="percent_top"):
        qc.cell_metrics(counts(), MASKS, (61,))
    with pytest.raises(InputError, match="masks"):
        qc.cell_metrics(counts(), MASKS[:, :5])
