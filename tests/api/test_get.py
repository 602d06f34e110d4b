from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.array.engine import run
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.testing import lazy, source_of
from tests.laws.registry import N_OBS, N_VARS, connected, counts, logged

DENSE = counts().X.toarray()


# -- matrix --------------------------------------------------------------------------------------


def test_matrix__is_lazy_whatever_x_is() -> None:
    for kind in (np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array):
        x = sd.get.matrix(ad.AnnData(kind(DENSE)))
        assert isinstance(x, RowBlocks)
        np.testing.assert_array_equal(np.asarray(sp.csr_matrix(run.materialise(x)).toarray()), DENSE)


def test_matrix__a_lazy_x_is_itself() -> None:
    adata = lazy(counts())
    assert sd.get.matrix(adata) is adata.X
    assert sd.get.matrix(adata, "spare") is adata.layers["spare"]
    picked = sd.get.matrix(adata, mask_var="picked")
    np.testing.assert_array_equal(run.materialise(picked).toarray(), DENSE[:, ::2])
    assert source_of(adata).passes == 1


def test_matrix__raw_or_a_layer() -> None:
    adata = counts()
    adata.raw = adata.copy()
    adata.X = adata.X * 2
    np.testing.assert_array_equal(run.materialise(sd.get.matrix(adata, use_raw=True)).toarray(), DENSE)
    with pytest.raises(InputError, match="both use_raw=True and a layer"):
        sd.get.matrix(adata, "spare", use_raw=True)


def test_matrix__views_are_found_again_with_their_facts() -> None:
    adata = lazy(counts())
    sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    view = adata[adata.obs["total_counts"] > 100]
    assert type(view.X) is not type(adata.X) or view.X is not adata.X
    x = sd.get.matrix(view)
    assert isinstance(x, RowBlocks) and set(x.known.rows) == {"totals", "n_genes"}
    np.testing.assert_array_equal(x.known.rows["totals"], view.obs["total_counts"])
    copied = sd.get.matrix(view.copy())
    np.testing.assert_array_equal(copied.known.rows["totals"], view.obs["total_counts"])
    assert source_of(adata).passes == 1


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_matrix__takes_what_anndata_reads_lazily(kind: str, tmp_path: Path) -> None:
    import zarr
    from anndata.experimental import read_elem_lazy

    x = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[kind](DENSE)
    ad.io.write_elem(group := zarr.open_group(tmp_path / "x.zarr", mode="w"), "X", x)
    chunks = {"csr": (20, N_VARS), "csc": (N_OBS, 25), "dense": (20, 25)}[kind]
    adata = logged()
    expected = adata.copy()
    adata.X = read_elem_lazy(group["X"], chunks=chunks)
    expected.X = sp.csr_matrix(DENSE)
    assert isinstance(adata.X, da.Array) and not isinstance(adata.X, RowBlocks)
    for step in (
        lambda a: sd.pp.calculate_qc_metrics(a, percent_top=(5,), inplace=True),
        lambda a: sd.pp.filter_cells(a, min_genes=30),
        lambda a: sd.pp.filter_genes(a, min_cells=10),
        lambda a: sd.pp.normalize_total(a, target_sum=1e4),
        sd.pp.log1p,
        lambda a: sd.pp.highly_variable_genes(a, n_top_genes=20),
        lambda a: sd.pp.pca(a, n_comps=4),
        lambda a: sd.tl.rank_genes_groups(a, "group"),
    ):
        step(adata)
        step(expected)
    assert isinstance(adata.X, RowBlocks)
    assert list(adata.var["highly_variable"]) == list(expected.var["highly_variable"])
    np.testing.assert_allclose(adata.obsm["X_pca"], expected.obsm["X_pca"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(adata.uns["rank_genes_groups"]["names"], expected.uns["rank_genes_groups"]["names"])


def test_matrix__backed_mode_is_refused(tmp_path: Path) -> None:
    counts().write_h5ad(tmp_path / "x.h5ad")
    adata = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.raises(InputError, match=r"next: read the file with sd.read\(path\) instead of backed mode"):
        sd.get.matrix(adata)
    adata.file.close()


# -- obs_df --------------------------------------------------------------------------------------


def test_obs_df__is_scanpys() -> None:
    import scanpy as sc

    adata = counts()
    adata.var["symbol"] = [f"s{i}" for i in range(N_VARS)]
    adata.raw = adata.copy()
    for keys, options in (
        (["group", "gene3", "batch", "gene1"], {}),
        (["gene3"], {"layer": "spare"}),
        (["s4", "group"], {"gene_symbols": "symbol"}),
        (["gene5"], {"use_raw": True}),
        ([], {"obsm_keys": [("X_other", 1)]}),
        (["batch"], {}),
    ):
        ours, theirs = (get.obs_df(adata, keys, **options) for get in (sd.get, sc.get))
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)
    pd.testing.assert_frame_equal(sd.get.obs_df(lazy(adata), ["gene3"]), sd.get.obs_df(adata, ["gene3"]))


def test_obs_df__one_pass_for_genes_and_none_for_columns() -> None:
    adata = lazy(counts())
    sd.get.obs_df(adata, ["group"], [("X_other", 0)])
    assert source_of(adata).rows_read == 0
    sd.get.obs_df(adata, ["gene9", "gene2", "group"])
    assert source_of(adata).passes == 1
    assert list(sd.get.obs_df(adata, "gene9")) == ["gene9"]


def test_obs_df__obsm_may_be_a_table() -> None:
    adata = counts()
    adata.obsm["table"] = pd.DataFrame({"u": np.arange(N_OBS), "v": 1.0}, index=adata.obs_names)
    assert sd.get.obs_df(adata, obsm_keys=[("table", 0)])["table-0"].tolist() == list(range(N_OBS))


def test_obs_df__keys_that_are_not_there_or_unclear() -> None:
    adata = lazy(counts())
    with pytest.raises(MissingKeyError, match="neither columns of obs nor genes: nope, other"):
        sd.get.obs_df(adata, ["group", "nope", "other"])
    with pytest.raises(MissingKeyError, match="no 'X_umap' in adata.obsm; expected one of: X_other"):
        sd.get.obs_df(adata, obsm_keys=[("X_umap", 0)])
    adata.obs["gene1"] = 0
    with pytest.raises(KeyError, match="'gene1' is both a column of obs and a gene"):
        sd.get.obs_df(adata, ["gene1"])
    adata.var_names = ["twice", "twice", *adata.var_names[2:]]
    with pytest.raises(InputError, match=r"more than once.*var_names_make_unique"):
        sd.get.obs_df(adata, ["twice"])
    assert source_of(adata).rows_read == 0


# -- rank_genes_groups_df ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"group": "a"},
        {"group": ["a", "c"]},
        {"group": None},
        {"group": "b", "pval_cutoff": 0.1},
        {"group": None, "log2fc_min": 0.1, "log2fc_max": 0.9},
        {"group": "a", "gene_symbols": "symbol"},
    ],
    ids=str,
)
@pytest.mark.parametrize("pts", [True, False])
def test_rank_genes_groups_df__is_scanpys(options: dict[str, Any], pts: bool) -> None:
    import scanpy as sc

    adata = logged()
    adata.var["symbol"] = [f"s{i}" for i in range(N_VARS)]
    sd.tl.rank_genes_groups(adata, "group", pts=pts)
    ours, theirs = (get.rank_genes_groups_df(adata, **options) for get in (sd.get, sc.get))
    assert len(ours) and set(ours) == set(theirs)
    pd.testing.assert_frame_equal(ours[theirs.columns], theirs, check_dtype=False, check_categorical=False)


def test_rank_genes_groups_df__shares_of_the_group_and_the_rest() -> None:
    adata = logged()
    sd.tl.rank_genes_groups(adata, "group", pts=True)
    table = sd.get.rank_genes_groups_df(adata, "a").set_index("names")
    for name, cells in (("pct_nz_group", adata.obs["group"] == "a"), ("pct_nz_reference", adata.obs["group"] != "a")):
        np.testing.assert_allclose(table[name].reindex(adata.var_names), (DENSE[cells] > 0).mean(axis=0))
    sd.tl.rank_genes_groups(adata, "group", reference="b", pts=True)
    assert set(adata.uns["rank_genes_groups"]["pts"]) == {"a", "b", "c"}  # the reference's own shares are there


def test_rank_genes_groups_df__what_is_not_there() -> None:
    adata = logged()
    with pytest.raises(MissingKeyError, match="no 'rank_genes_groups' in adata.uns.*tl.rank_genes_groups"):
        sd.get.rank_genes_groups_df(adata)
    sd.tl.rank_genes_groups(adata, "group")
    with pytest.raises(MissingKeyError, match="no group 'z' in uns.* expected one of: a, b, c"):
        sd.get.rank_genes_groups_df(adata, ["a", "z"])


# -- embedding and graph -------------------------------------------------------------------------


def test_embedding__chooses_as_scanpy_does() -> None:
    adata = connected()
    np.testing.assert_array_equal(sd.get.embedding(adata), adata.obsm["X_pca"])
    np.testing.assert_array_equal(sd.get.embedding(adata, n_pcs=2), adata.obsm["X_pca"][:, :2])
    np.testing.assert_array_equal(sd.get.embedding(adata, "X_other"), adata.obsm["X_other"])
    np.testing.assert_array_equal(sd.get.embedding(lazy(adata), "X"), adata.X.toarray())
    np.testing.assert_array_equal(sd.get.embedding(lazy(counts()[:, :40].copy())), DENSE[:, :40])


def test_embedding__what_is_not_there() -> None:
    with pytest.raises(MissingKeyError, match=r"no X_pca in adata.obsm.*pp.pca\(adata\)"):
        sd.get.embedding(counts())
    adata = connected()
    with pytest.raises(MissingKeyError, match="no 'X_nope' in adata.obsm; expected one of: X_other, X_pca"):
        sd.get.embedding(adata, "X_nope")
    with pytest.raises(InputError, match=r"n_pcs=9; expected at most 5 \(X_pca\)"):
        sd.get.embedding(adata, n_pcs=9)


def test_graph__by_key_or_by_matrix() -> None:
    adata = connected()
    assert (sd.get.graph(adata) != adata.obsp["connectivities"]).nnz == 0
    assert (sd.get.graph(adata, obsp="distances") != adata.obsp["distances"]).nnz == 0
    with pytest.raises(InputError, match="both obsp and neighbors_key"):
        sd.get.graph(adata, "neighbors", "distances")
    with pytest.raises(MissingKeyError, match=r"no 'mine' in adata.uns.*pp.neighbors\(adata\)"):
        sd.get.graph(adata, "mine")
    with pytest.raises(MissingKeyError, match="no 'nope' in adata.obsp; expected one of: distances, connectivities"):
        sd.get.graph(adata, obsp="nope")


@pytest.mark.parametrize("kind", ["memory", "lazy", "csr", "csc", "dense"])
@pytest.mark.parametrize(
    "asked",
    [
        {"keys": ["group", "gene3", "group", "gene3", "gene1"]},
        {"keys": ["B", "depth"], "gene_symbols": "symbol"},
        {"keys": ["load"], "obsm_keys": [("sparse", 1), ("X_other", 0), ("table", "q")]},
    ],
    ids=["twice", "repeated symbols", "obsm"],
)
def test_obs_df__takes_the_keys_that_scanpy_takes(kind: str, asked: dict[str, Any], tmp_path: Path) -> None:
    import scanpy as sc

    adata = counts()
    adata.var["symbol"] = ["A", "A", "B", *adata.var_names[3:]]
    adata.obsm["sparse"] = sp.csr_matrix(adata.X[:, :3])
    adata.obsm["table"] = pd.DataFrame(np.arange(2.0 * N_OBS).reshape(-1, 2), adata.obs_names, ["p", "q"])
    expected = sc.get.obs_df(adata, **asked)
    if kind == "lazy":
        adata = lazy(adata)
    elif kind != "memory":  # backed
        adata.X = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda x: x.toarray()}[kind](adata.X)
        adata.write_h5ad(tmp_path / "x.h5ad")
        adata = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    found = sd.get.obs_df(adata, **asked)
    assert list(found) == list(expected) and found.index.tolist() == expected.index.tolist()
    for i in range(found.shape[1]):
        assert found.iloc[:, i].tolist() == expected.iloc[:, i].tolist()
        assert found.iloc[:, i].dtype == expected.iloc[:, i].dtype or kind != "memory"


def test_obs_df__a_symbol_of_several_genes_is_refused_as_in_scanpy() -> None:
    adata = counts()
    adata.var["symbol"] = ["A", "A", *adata.var_names[2:]]
    with pytest.raises(KeyError, match="A occurs more than once"):
        sd.get.obs_df(adata, ["A"], gene_symbols="symbol")
