from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import CountsWarning, InputError
from sc_dask.testing import lazy, source_of
from tests.laws.registry import counts, logged

EMPTY = 7  # the gene that nobody has


@pytest.mark.parametrize("options", [{}, {"theta": 10, "clip": 2.0}, {"layer": "spare"}, {"theta": np.inf}], ids=str)
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_normalize__is_scanpys_but_for_genes_without_counts(options: dict[str, Any]) -> None:
    """scanpy gives NaN to cells and genes without counts, which no later step takes."""
    import scanpy as sc

    ours, theirs = lazy(counts()), counts()
    sd.pp.normalize_pearson_residuals(ours, **options)
    sc.experimental.pp.normalize_pearson_residuals(theirs, **options)
    found, wanted = (x.layers["spare"] if "layer" in options else x.X for x in (ours, theirs))
    assert isinstance(found, RowBlocks) and found.dtype == np.float32
    wanted = np.asarray(wanted)
    assert np.isnan(wanted[:, EMPTY]).all()
    np.testing.assert_allclose(found.compute(), np.nan_to_num(wanted), atol=2e-5)
    key = "pearson_residuals_normalization"
    assert ours.uns[key] == theirs.uns[key]


def test_normalize__in_memory_and_not_in_place() -> None:
    adata = ad.AnnData(sp.csc_matrix(counts().X))
    found = sd.pp.normalize_pearson_residuals(adata, inplace=False)
    assert found is not None and type(found["X"]) is np.ndarray and found["computed_on"] == "adata.X"
    assert sp.issparse(adata.X)
    sd.pp.normalize_pearson_residuals(adata)
    np.testing.assert_array_equal(adata.X, found["X"])


def test_normalize__reads_nothing_after_qc_and_its_pca_reads_once() -> None:
    adata = lazy(counts())
    sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    source_of(adata).forget()
    sd.pp.normalize_pearson_residuals(adata)
    assert source_of(adata).passes == 0
    sd.pp.pca(adata, n_comps=5)
    assert source_of(adata).passes == 1
    x = adata.X.compute().astype(np.float64)
    _, _, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    assert np.abs((vt[:5].T * adata.varm["PCs"]).sum(axis=0)).min() > 0.999999


def test_normalize__warns_and_refuses() -> None:
    with pytest.warns(CountsWarning, match="expects counts, but found fractions"):
        sd.pp.normalize_pearson_residuals(lazy(logged()))
    for options, message in (
        ({"theta": 0}, "theta=0"),
        ({"clip": -1}, "clip=-1"),
        ({"copy": True, "inplace": False}, "copy=True"),
    ):
        with pytest.raises(InputError, match=message):
            sd.pp.normalize_pearson_residuals(lazy(counts()), **options)


def tables(ours: dict[str, Any], theirs: dict[str, Any] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    import scanpy as sc

    theirs = ours if theirs is None else theirs
    found = sd.pp.highly_variable_genes(lazy(counts()), flavor="pearson_residuals", inplace=False, **ours)
    wanted = sc.experimental.pp.highly_variable_genes(counts(), flavor="pearson_residuals", inplace=False, **theirs)
    assert found is not None
    return found, wanted


@pytest.mark.parametrize(
    "options",
    [{}, {"theta": 10, "clip": 2.0, "chunksize": 7}, {"batch_key": "batch", "clip": 3.0}, {"subset": True}],
    ids=str,
)
def test_hvg__residual_variances_are_scanpys(options: dict[str, Any]) -> None:
    found, wanted = tables({"n_top_genes": 20, **options})
    assert set(found) == set(wanted) and found["highly_variable"].sum() == 20
    pd.testing.assert_frame_equal(found, wanted[list(found)], check_dtype=False, rtol=1e-5)


def test_hvg__every_batch_has_its_own_bound() -> None:
    """scanpy 1.11 takes the root of the first batch's number of cells for all batches: another order, other genes."""
    found, wanted = tables({"n_top_genes": 20, "batch_key": "batch"})
    batch = counts().obs["batch"].to_numpy()
    alone = [
        sd.pp.highly_variable_genes(
            counts()[batch == b].copy(), flavor="pearson_residuals", n_top_genes=20, inplace=False
        )["residual_variances"]
        for b in np.unique(batch)
    ]  # fmt: skip
    np.testing.assert_allclose(found["residual_variances"], np.mean(alone, axis=0), rtol=1e-9)
    first = tables({"n_top_genes": 20, "batch_key": "batch", "clip": np.sqrt((batch == batch.min()).sum())})[0]
    np.testing.assert_allclose(first["residual_variances"], wanted["residual_variances"], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flavor": "pearson_residuals"}, "without n_top_genes"),
        ({"flavor": "pearson_residuals", "n_top_genes": 5, "theta": 0}, "theta=0"),
        ({"flavor": "pearson_residuals", "n_top_genes": 5, "chunksize": 0}, "chunksize=0"),
        ({"flavor": "pearson_residuals", "n_top_genes": 5, "n_bins": 3}, "n_bins=3"),
        ({"flavor": "pearson_residuals", "n_top_genes": 5, "span": 0.5}, "span=0.5"),
        ({"flavor": "pearson_residuals", "n_top_genes": 5, "min_mean": 0.5}, "min_mean together"),
        ({"flavor": "seurat", "theta": 10}, "a model only with pearson_residuals"),
        ({"flavor": "seurat_v3", "chunksize": 10}, "a model only with pearson_residuals"),
    ],
    ids=str,
)
def test_hvg__options_that_do_not_apply_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sd.pp.highly_variable_genes(lazy(counts()), **options)
