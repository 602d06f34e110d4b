from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask import get
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.testing import compute_counter, lazy, source_of
from tests.laws.registry import N_OBS, N_VARS, counts, logged

KEYS = ["depth", "load"]


@pytest.mark.parametrize("keys", [KEYS, "depth", ["group"], "batch"], ids=str)
def test_regress_out__is_scanpys(keys: Any) -> None:
    import scanpy as sc

    adata, expected = lazy(logged()), logged()
    sd.pp.regress_out(adata, keys)
    sc.pp.regress_out(expected, keys)
    assert isinstance(adata.X, RowBlocks) and adata.X.dtype == np.float32
    np.testing.assert_allclose(adata.X.compute(), expected.X, atol=2e-6)
    assert adata.obs["batch"].dtype == logged().obs["batch"].dtype  # scanpy makes text categorical


def test_regress_out__a_constant_gene_is_zero() -> None:
    """scanpy returns the gene as it was where keys are categories, and zeros where they are numbers."""
    import scanpy as sc

    x = np.random.default_rng(0).random((N_OBS, 4)).astype(np.float32)
    x[:, 2] = 3
    ours, theirs = (ad.AnnData(x.copy(), obs=logged().obs) for _ in range(2))
    sd.pp.regress_out(ours, "group")
    sc.pp.regress_out(theirs, "group")
    assert (ours.X[:, 2] == 0).all() and (theirs.X[:, 2] == 3).all()
    np.testing.assert_allclose(np.delete(ours.X, 2, axis=1), np.delete(theirs.X, 2, axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (["nothing"], MissingKeyError, "no column 'nothing' in adata.obs"),
        ([], InputError, "keys is empty"),
        ("same", InputError, r"obs\['same'\] is the same in all cells"),
        (["depth", "twice"], InputError, r"obs\['twice'\] is collinear with 'depth'"),
        ("lacking", InputError, r"obs\['lacking'\] has 1 missing values"),
        ("endless", InputError, r"obs\['endless'\] has infinite values"),
        (["group", "depth"], InputError, "'group' of categories among 2 keys"),
        (["group", "batch"], InputError, "'group', 'batch' of categories among 2 keys"),
    ],
    ids=str,
)
def test_regress_out__says_what_is_wrong_before_it_reads(keys: Any, error: type[Exception], message: str) -> None:
    adata = lazy(logged())
    depth = adata.obs["depth"].to_numpy(float)
    adata.obs["same"], adata.obs["twice"] = 2.0, 7 - 2 * depth
    adata.obs["lacking"] = np.where(np.arange(N_OBS) == 5, np.nan, depth)
    adata.obs["endless"] = np.where(np.arange(N_OBS) == 5, np.inf, depth)
    with pytest.raises(error, match=message):
        sd.pp.regress_out(adata, keys)
    assert source_of(adata).rows_read == 0


def test_regress_out__n_jobs_are_threads() -> None:
    adata = lazy(logged(), 6)
    sd.pp.regress_out(adata, KEYS, n_jobs=2)
    expected = lazy(logged(), 6)
    sd.pp.regress_out(expected, KEYS)
    np.testing.assert_allclose(adata.X.compute(), expected.X.compute(), atol=1e-6)
    with pytest.raises(InputError, match="n_jobs=0"):
        sd.pp.regress_out(adata, KEYS, n_jobs=0)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, np.asarray, np.int64], ids=lambda k: k.__name__)
def test_regress_out__memory_becomes_dense_as_scanpys(kind: Any) -> None:
    import scanpy as sc

    x = counts().X.toarray().astype(np.int64 if kind is np.int64 else np.float32)
    ours, theirs = (ad.AnnData(x if kind is np.int64 else kind(x), obs=counts().obs) for _ in range(2))
    sd.pp.regress_out(ours, "load")
    sc.pp.regress_out(theirs, "load")
    assert type(ours.X) is np.ndarray is type(theirs.X) and ours.X.dtype == theirs.X.dtype
    np.testing.assert_allclose(ours.X, theirs.X, atol=1e-5)


@pytest.fixture
def corrected() -> ad.AnnData:
    with dask.config.set({"sc-dask.block-bytes": 16 * N_VARS * 4}):
        adata = lazy(logged(), 2)
        sd.pp.regress_out(adata, KEYS)
        sd.pp.scale(adata, max_value=2)
    return adata


def test_corrected__blocks_are_cut_and_everything_works_on_them(corrected: ad.AnnData, tmp_path: Path) -> None:
    import scanpy as sc

    expected = logged()
    sc.pp.regress_out(expected, KEYS)
    sc.pp.scale(expected, max_value=2)
    assert max(corrected.X.chunks[0]) <= 16
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(corrected.to_memory().X, expected.X, **close)
    sd.write(corrected, tmp_path / "out.zarr")
    back = ad.read_zarr(tmp_path / "out.zarr")
    assert type(back.X) is np.ndarray
    np.testing.assert_allclose(back.X, expected.X, **close)
    table = get.obs_df(corrected, ["gene9", "depth", "gene2"])
    np.testing.assert_allclose(table[["gene9", "gene2"]], expected[:, ["gene9", "gene2"]].X, **close)
    sd.tl.rank_genes_groups(corrected, "group")
    sc.tl.rank_genes_groups(expected, "group", method="t-test")
    for c in ("scores", "pvals"):
        for g in "abc":
            found, wanted = (
                x.uns["rank_genes_groups"][c][g][np.argsort(x.uns["rank_genes_groups"]["names"][g])]
                for x in (corrected, expected)
            )
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    sd.pp.neighbors(corrected, n_neighbors=10, use_rep="X")
    sc.pp.neighbors(expected, n_neighbors=10, use_rep="X")
    assert (corrected.obsp["distances"].toarray() > 0).sum() == (expected.obsp["distances"].toarray() > 0).sum()
    np.testing.assert_allclose(corrected.obsp["distances"].sum(), expected.obsp["distances"].sum(), rtol=1e-4)


def test_corrected__genes_before_or_after_are_the_same(corrected: ad.AnnData) -> None:
    genes = ["gene30", "gene1", "gene11"]
    first = lazy(logged())[:, genes].copy()
    sd.pp.regress_out(first, KEYS)
    sd.pp.scale(first, max_value=2)
    after = corrected[:, genes].copy()
    assert isinstance(after.X, RowBlocks)
    np.testing.assert_allclose(first.X.compute(), after.X.compute(), atol=1e-6)


def test_corrected__pca_of_chosen_genes_makes_no_dense_block(corrected: ad.AnnData, monkeypatch: Any) -> None:
    import scanpy as sc

    expected = logged()
    sc.pp.regress_out(expected, KEYS)
    sc.pp.scale(expected)
    adata = lazy(logged())
    sd.pp.regress_out(adata, KEYS)
    sd.pp.scale(adata)
    monkeypatch.setattr("sc_dask.kernels.regress_out._correct_csr", None)  # nobody may correct
    with compute_counter() as counted:
        sd.pp.pca(adata, n_comps=6, mask_var="picked")
    assert counted.n == 2
    sc.pp.pca(expected, n_comps=6, mask_var="picked", svd_solver="full")
    cosines = (adata.varm["PCs"] * expected.varm["PCs"]).sum(axis=0)
    assert np.abs(cosines).min() > 0.9999
    np.testing.assert_allclose(adata.obsm["X_pca"] * np.sign(cosines), expected.obsm["X_pca"], atol=1e-3)


def test_scale__after_regress_out_reads_nothing() -> None:
    adata = lazy(logged())
    sd.pp.regress_out(adata, KEYS)
    rows = source_of(adata).rows_read
    sd.pp.scale(adata)
    assert source_of(adata).rows_read == rows
