"""``sd.Neighbors`` gives what scanpy's class gives."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scanpy as sc

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError


@pytest.fixture(scope="module")
def pbmc(golden_dir: Path) -> ad.AnnData:
    return ad.read_h5ad(golden_dir / "pbmc68k_reduced.h5ad")


def test_neighbors__takes_the_graph_of_an_anndata(pbmc: ad.AnnData) -> None:
    mine, theirs = sd.Neighbors(pbmc), sc.Neighbors(pbmc)
    assert (mine.n_neighbors, mine.knn, mine.n_dcs) == (int(np.ravel(theirs.n_neighbors)[0]), theirs.knn, theirs.n_dcs)
    assert (mine.connectivities != theirs.connectivities).nnz == 0
    assert (mine.distances != theirs.distances).nnz == 0
    for density in (True, False):
        for n in (mine, theirs):
            n.compute_transitions(density_normalize=density)
        np.testing.assert_allclose(mine.transitions_sym.toarray(), theirs.transitions_sym.toarray(), atol=1e-6)
        np.testing.assert_allclose(mine.transitions.toarray(), theirs.transitions.toarray(), rtol=1e-4, atol=1e-5)
    for n in (mine, theirs):
        n.compute_transitions()
        n.compute_eigen(n_comps=8)
    np.testing.assert_allclose(mine.eigen_values, theirs.eigen_values, atol=1e-5)
    np.testing.assert_allclose(abs(mine.eigen_basis), abs(theirs.eigen_basis), atol=1e-4)
    np.testing.assert_allclose(mine.distances_dpt[3], theirs.distances_dpt[3], rtol=1e-3, atol=1e-3)
    a, b = mine.to_igraph(), theirs.to_igraph()
    assert a.vcount() == b.vcount()
    assert sum(a.es["weight"]) == pytest.approx(mine.connectivities.sum() / 2)


def test_neighbors__computes_a_graph_and_leaves_the_anndata(pbmc: ad.AnnData) -> None:
    shell = ad.AnnData(pbmc.X, obs=pbmc.obs, var=pbmc.var, obsm={"X_pca": pbmc.obsm["X_pca"]})
    mine, theirs = sd.Neighbors(shell), sc.Neighbors(shell)
    for n in (mine, theirs):
        n.compute_neighbors(n_neighbors=10, n_pcs=20)
    assert mine.n_neighbors == theirs.n_neighbors == 10
    np.testing.assert_allclose(mine.distances.toarray(), theirs.distances.toarray(), atol=1e-3)
    np.testing.assert_allclose(mine.connectivities.toarray(), theirs.connectivities.toarray(), atol=1e-3)
    assert not shell.obsp
    assert "neighbors" not in shell.uns


def test_neighbors__says_what_comes_first(pbmc: ad.AnnData) -> None:
    empty = sd.Neighbors(ad.AnnData(np.eye(4)))
    assert empty.connectivities is empty.distances is empty.eigen_values is empty.transitions_sym is None
    for call, said in (
        (empty.compute_transitions, "compute_neighbors"),
        (empty.compute_eigen, "compute_transitions"),
        (lambda: empty.distances_dpt, "compute_eigen"),
        (lambda: empty.transitions, "compute_transitions"),
    ):
        with pytest.raises(InputError, match=said):
            call()
    with pytest.raises(MissingKeyError, match="'other'"):
        sd.Neighbors(pbmc, neighbors_key="other")
