from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import manifold

import sc_dask as sd
from sc_dask.errors import InputError


def cells(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    return x, x[:, :2] + 0.3 * rng.normal(size=(n, 2)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_trustworthiness__of_all_cells_is_scikit_learns(k: int) -> None:
    x, coords = cells()
    ours = sd.metrics.trustworthiness(x, coords, n_neighbors=k)
    assert ours == pytest.approx(manifold.trustworthiness(x, coords, n_neighbors=k), abs=1e-6)


def test_trustworthiness__of_a_sample_is_near() -> None:
    x, coords = cells(3000)
    whole, part = (sd.metrics.trustworthiness(x, coords, n_cells=n) for n in (3000, 800))
    assert whole != part and part == pytest.approx(whole, abs=0.01)


def test_neighborhood_preservation__counts_common_neighbours() -> None:
    x, coords = cells()
    assert sd.metrics.neighborhood_preservation(x, x) == 1
    by_hand = [len(set(near(x, i, 5)) & set(near(coords, i, 5))) / 5 for i in range(400)]
    assert sd.metrics.neighborhood_preservation(x, coords, n_neighbors=5) == pytest.approx(np.mean(by_hand))


def near(x: np.ndarray, i: int, k: int) -> np.ndarray:
    distance = np.square(x - x[i]).sum(axis=1)
    distance[i] = np.inf
    return np.argsort(distance)[:k]


def test_recall__is_the_share_of_true_neighbours() -> None:
    adata = ad.AnnData(cells()[0])
    sd.pp.neighbors(adata, 11)
    assert sd.metrics.recall(adata.obsp["distances"], adata.X) == 1
    spoilt = adata.obsp["distances"].copy()
    spoilt.data[::2] += 100.0
    spoilt.indices[::2] = (np.repeat(np.arange(400), 10)[::2] + 200) % 400
    assert 0.45 < sd.metrics.recall(spoilt, adata.X) < 0.6


def test_ari_and_nmi__do_not_care_for_names() -> None:
    a = ["x", "x", "y", "y", "z"]
    assert sd.metrics.ari(a, [2, 2, 0, 0, 1]) == sd.metrics.nmi(a, [2, 2, 0, 0, 1]) == 1
    assert sd.metrics.ari(a, [0, 1, 0, 1, 0]) < 0.1


def test_modularity__is_that_of_the_clustering() -> None:
    adata = ad.AnnData(cells()[0])
    sd.pp.neighbors(adata, 11)
    sd.tl.leiden(adata, flavor="igraph")
    found = sd.metrics.modularity(adata.obsp["connectivities"], adata.obs["leiden"])
    assert found == pytest.approx(adata.uns["leiden"]["modularity"], abs=1e-6)


def test_metrics__bad_shapes_are_named() -> None:
    x, coords = cells()
    with pytest.raises(InputError, match="as many rows in both"):
        sd.metrics.trustworthiness(x, coords[1:])
    with pytest.raises(InputError, match="n_neighbors=200 of 400 cells"):
        sd.metrics.neighborhood_preservation(x, coords, n_neighbors=200)
    with pytest.raises(InputError, match="n_cells=0"):
        sd.metrics.neighborhood_preservation(x, coords, n_cells=0)
    with pytest.raises(InputError, match="3 and 2 labels"):
        sd.metrics.ari([1, 2, 3], [1, 2])
    with pytest.raises(InputError, match="a label a cell"):
        sd.metrics.modularity(sp.eye(3, format="csr"), [1, 2])
    with pytest.raises(InputError, match="unequal numbers of neighbours"):
        sd.metrics.recall(sp.csr_matrix((400, 400)), x)
