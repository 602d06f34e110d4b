from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask.array import logistic
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.testing import lazy, source_of
from tests.laws.registry import logged

OPTIONS = [
    {},
    {"groups": ["c", "a"]},
    {"groups": ["c", "a"], "reference": "b", "n_genes": 9},
    {"reference": "b", "rankby_abs": True, "C": 0.1},
    {"groups": ["b"], "reference": "a", "mask_var": "picked", "max_iter": 300},
]


def ranked_by(package: Any, adata: ad.AnnData, **options: Any) -> pd.DataFrame:
    """Scores by gene and group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn: not converged
        package.tl.rank_genes_groups(adata, "group", method="logreg", **options)
    result = adata.uns["rank_genes_groups"]
    assert set(result) == {"params", "names", "scores"}
    return pd.DataFrame({g: pd.Series(result["scores"][g], result["names"][g]) for g in result["names"].dtype.names})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logreg__is_scanpys(options: dict[str, Any]) -> None:
    import scanpy as sc

    expected = logged()
    expected.obs["group"] = expected.obs["group"].where(np.arange(90) > 4)
    adata = lazy(expected)
    found = ranked_by(sd, adata, **options)
    if "mask_var" in options:
        options = options | {"mask_var": expected.var["picked"].to_numpy()}
    theirs = ranked_by(sc, expected, **options)
    assert list(found) == list(theirs) and source_of(adata).times_read().max() == 1
    pd.testing.assert_frame_equal(found.sort_index(), theirs.sort_index(), rtol=1e-5, check_dtype=False)
    for g in found:
        names = (a.uns["rank_genes_groups"]["names"][g] for a in (adata, expected))
        assert list(next(names)) == list(next(names))


@pytest.mark.parametrize("options", OPTIONS[2:], ids=str)
def test_logreg__block_by_block_agrees(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    options = options | {"max_iter": 300}
    whole = ranked_by(sd, lazy(logged()), **options)
    monkeypatch.setattr(logistic, "IN_MEMORY_BYTES", 1000)
    adata = lazy(logged(), 3)
    found = ranked_by(sd, adata, **options)
    assert source_of(adata).times_read().max() > 5
    common = whole.index.intersection(found.index)
    assert len(common) >= 0.8 * len(whole)
    np.testing.assert_allclose(found.loc[common], whole.loc[common], atol=5e-3 * np.nanmax(np.abs(whole)))
    with pytest.raises(
        InputError, match="penalty for an X that does not fit into memory; expected one of: C, max_iter"
    ):
        ranked_by(sd, adata, penalty="l2")


def test_logreg__written_read_back_and_got(tmp_path: Path) -> None:
    import scanpy as sc

    adata = logged()
    ranked_by(sd, adata)
    adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    table = sd.get.rank_genes_groups_df(back)
    pd.testing.assert_frame_equal(
        table, sc.get.rank_genes_groups_df(back, None), check_dtype=False, check_categorical=False, check_like=True
    )
    with pytest.raises(MissingKeyError, match="no p-values or fold changes in uns"):
        sd.get.rank_genes_groups_df(back, pval_cutoff=0.1)
    with pytest.raises(MissingKeyError, match="the markers have no p-values"):
        sd.tl.marker_gene_overlap(back, {"A": ["gene1"]}, adj_pval_threshold=0.1)
    sd.tl.filter_rank_genes_groups(back, min_fold_change=0.1)
    assert 0 < len(sd.get.rank_genes_groups_df(back, key="rank_genes_groups_filtered")) < len(table)


@pytest.mark.parametrize("bound", [1000, 1 << 30])
def test_logreg__values_that_are_no_numbers(bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "IN_MEMORY_BYTES", bound)
    adata = logged()
    adata.X.data[5] = np.nan
    with pytest.raises(InputError, match="NaN or infinite values in X; expected finite numbers"):
        ranked_by(sd, lazy(adata))
