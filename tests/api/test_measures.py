"""Measures of genes and labels, and tables of genes: scanpy's numbers, X lazy or in memory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pbmc(golden_dir: Path) -> ad.AnnData:
    return ad.read_h5ad(golden_dir / "pbmc68k_reduced.h5ad")


@pytest.fixture
def lazy(pbmc: ad.AnnData, tmp_path: Path) -> ad.AnnData:
    pbmc.write_zarr(tmp_path / "pbmc.zarr")
    return sd.read(tmp_path / "pbmc.zarr")


@pytest.mark.parametrize("statistic", ["morans_i", "gearys_c"])
@pytest.mark.parametrize("options", [{}, {"obsm": "X_pca"}, {"use_raw": True}])
def test_autocorrelation__is_scanpys(
    statistic: str, options: dict[str, Any], pbmc: ad.AnnData, lazy: ad.AnnData
) -> None:
    mine, theirs = getattr(sd.metrics, statistic), getattr(sc.metrics, statistic)
    wanted = theirs(pbmc, **options)
    for adata in (pbmc, lazy):
        np.testing.assert_allclose(mine(adata, **options), wanted, rtol=1e-5, atol=1e-7)
    graph, one = pbmc.obsp["connectivities"], pbmc.obs["percent_mito"].to_numpy(np.float64)
    assert mine(graph, one) == pytest.approx(theirs(graph, one), rel=1e-10)
    assert mine(pbmc, one, use_graph="connectivities") == mine(graph, one)
    several = np.stack([one, np.arange(700.0), np.ones(700)])
    found = mine(graph, sp.csr_matrix(several))
    np.testing.assert_allclose(found, theirs(graph, several), rtol=1e-9)
    assert np.isnan(found[2])


def test_autocorrelation__warns_of_constant_genes_and_refuses_other_shapes(pbmc: ad.AnnData) -> None:
    graph = pbmc.obsp["connectivities"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="1 variables were constant"):
            sd.metrics.morans_i(graph, np.ones((1, 700)))
    with pytest.raises(InputError, match=r"\(700, 700\) and values of 3 cells"):
        sd.metrics.morans_i(graph, np.ones(3))
    with pytest.raises(MissingKeyError, match="'nope' in adata.obsp"):
        sd.metrics.gearys_c(pbmc, use_graph="nope")
    with pytest.raises(InputError, match="layer and obsm together"):
        sd.metrics.gearys_c(pbmc, layer="a", obsm="X_pca")


@pytest.mark.parametrize("normalize", [True, False])
def test_confusion_matrix__is_scanpys(normalize: bool, pbmc: ad.AnnData) -> None:
    labels = pbmc.obs["louvain"].astype(str).to_numpy()
    for orig, new, data in (("bulk_labels", "louvain", pbmc.obs), (pbmc.obs["bulk_labels"], labels, None)):
        found, wanted = (m.metrics.confusion_matrix(orig, new, data, normalize=normalize) for m in (sd, sc))
        np.testing.assert_allclose(found.to_numpy(), wanted.to_numpy())
        for axis in ("index", "columns"):
            assert list(getattr(found, axis)) == list(getattr(wanted, axis))
            assert getattr(found, axis).name == getattr(wanted, axis).name
    with pytest.raises(MissingKeyError, match="'nope'"):
        sd.metrics.confusion_matrix("nope", "louvain", pbmc.obs)


def test_modularity__of_a_graph_and_of_an_anndata(pbmc: ad.AnnData, lazy: ad.AnnData) -> None:
    import igraph

    graph, labels = pbmc.obsp["connectivities"], pbmc.obs["louvain"]
    whole = sp.coo_matrix(graph)
    for directed in (True, False):
        edges = sp.triu(whole) if not directed else whole
        g = igraph.Graph(n=700, edges=np.column_stack([edges.row, edges.col]).tolist(), directed=directed)
        wanted = g.modularity(labels.cat.codes.tolist(), weights=edges.data.tolist())
        assert sd.metrics.modularity(graph, labels, is_directed=directed) == pytest.approx(wanted, abs=1e-6)
    found = sd.metrics.modularity(lazy, "louvain", mode="update")
    assert found == pytest.approx(wanted, abs=1e-6)
    assert sd.metrics.modularity(lazy, "louvain", mode="retrieve") == found
    with pytest.raises(InputError, match="is_directed"):
        sd.metrics.modularity(pbmc, "louvain", is_directed=True)


def test_var_df__is_scanpys(pbmc: ad.AnnData, lazy: ad.AnnData) -> None:
    keys = [pbmc.obs_names[50], "n_counts", pbmc.obs_names[2]]
    wanted = sc.get.var_df(pbmc, keys, [("PCs", 3)])
    for adata in (pbmc, lazy):
        pd.testing.assert_frame_equal(sd.get.var_df(adata, keys, [("PCs", 3)]), wanted)
    with pytest.raises(MissingKeyError, match="neither columns of var nor cells: nope"):
        sd.get.var_df(lazy, ["nope"])
