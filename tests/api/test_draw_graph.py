from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError, ScDaskWarning
from sc_dask.graph import force
from tests.api.test_paga import groups_in_a_row


@pytest.fixture(scope="module")
def _adata() -> ad.AnnData:
    adata = groups_in_a_row(200)
    sd.pp.neighbors(adata, 8)
    sd.tl.paga(adata, "part")
    adata.uns["paga"]["pos"] = force.of_groups(adata.uns["paga"]["connectivities"])  # scanpy wants them
    return adata


@pytest.fixture
def adata(_adata: ad.AnnData) -> ad.AnnData:
    return _adata.copy()


CASES: list[dict[str, Any]] = [
    {"layout": "fr"},
    {"layout": "fr", "init_pos": "paga", "random_state": 5},
    {"layout": "fr", "init_pos": "X_two", "weights": "weight", "niter": 50},
    {"layout": "drl", "init_pos": True},
    {"layout": "kk"},
    {"layout": "lgl"},
    {"layout": "rt", "root": 7},
    {"layout": "rt_circular", "key_added_ext": "round"},
]


@pytest.mark.parametrize("options", CASES, ids=lambda o: o["layout"])
def test_draw_graph__is_scanpys_for_the_same_seed(adata: ad.AnnData, options: dict[str, Any]) -> None:
    import scanpy as sc

    adata.obsm["X_two"] = adata.obsm["X_pca"][:, :2].copy()
    theirs = adata.copy()
    sc.tl.draw_graph(theirs, **options)
    sd.tl.draw_graph(adata, **options)
    key = f"X_draw_graph_{options.get('key_added_ext', options['layout'])}"
    np.testing.assert_array_equal(adata.obsm[key], theirs.obsm[key])
    assert adata.uns["draw_graph"] == theirs.uns["draw_graph"]


def test_draw_graph__grid_fr_works_where_scanpys_name_is_gone(adata: ad.AnnData) -> None:
    sd.tl.draw_graph(adata, "grid_fr")  # scanpy 1.11 with igraph 0.10 or later: KeyError
    sd.tl.draw_graph(adata, "fr", grid=True)
    np.testing.assert_array_equal(adata.obsm["X_draw_graph_grid_fr"], adata.obsm["X_draw_graph_fr"])


def test_draw_graph__leaves_chance_to_others_alone(adata: ad.AnnData) -> None:
    import random

    random.seed(1)
    expected = random.Random(1).random()
    sd.tl.draw_graph(adata, "fr", niter=2)
    assert random.random() == expected


def test_draw_graph__fa_is_fr_without_its_package(adata: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(force, "has_force_atlas", lambda: False)
    with pytest.warns(ScDaskWarning, match="fa2-modified"):
        sd.tl.draw_graph(adata, niter=20)
    assert "X_draw_graph_fr" in adata.obsm and "X_draw_graph_fa" not in adata.obsm
    assert adata.uns["draw_graph"]["params"] == {"layout": "fr", "random_state": 0}


def test_draw_graph__fa_is_given_to_its_package(adata: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    class ForceAtlas2:
        def __init__(self, **options: Any) -> None:
            assert options["barnesHutTheta"] == 1.2

        def forceatlas2(self, graph: Any, pos: np.ndarray, iterations: int) -> list[tuple[float, float]]:
            assert graph.shape == (200, 200)
            return [(x * iterations, y) for x, y in pos]

    package = types.ModuleType("fa2_modified")
    package.ForceAtlas2 = ForceAtlas2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fa2_modified", package)
    monkeypatch.setattr(force, "has_force_atlas", lambda: True)
    sd.tl.draw_graph(adata, maxiter=3)
    first = np.random.RandomState(0).random_sample((200, 2))
    np.testing.assert_array_equal(adata.obsm["X_draw_graph_fa"], first * [3, 1])
    with pytest.raises(InputError, match="found options.*niter"):
        sd.tl.draw_graph(adata, niter=3)


def test_draw_graph__parts_and_lonely_cells(adata: ad.AnnData) -> None:
    weights = adata.obsp["connectivities"].tolil()
    weights[:100, 100:] = weights[100:, :100] = 0
    weights[3, :] = weights[:, 3] = 0
    for layout in ("fr", "drl", "lgl", "rt"):
        sd.tl.draw_graph(adata, layout, adjacency=weights.tocsr())
        assert np.isfinite(adata.obsm[f"X_draw_graph_{layout}"]).all()


def test_draw_graph__missing_and_wrong_things_are_named(adata: ad.AnnData, tmp_path: Path) -> None:
    for found, options in {
        "layout='circle'": {"layout": "circle"},
        "init_pos='paga' with layout='rt'": {"layout": "rt", "init_pos": "paga"},
        "root=3 with layout='fr'": {"layout": "fr", "root": 3},
        "root=200.*from 0 to 199": {"layout": "rt", "root": 200},
        "n_jobs=4": {"layout": "fr", "n_jobs": 4},
        "found options.*nonsense": {"layout": "fr", "nonsense": 1},
        "no 'X_three' in adata.obsm": {"layout": "fr", "init_pos": "X_three"},
        r"'X_pca' of shape \(200, 4\)": {"layout": "fr", "init_pos": "X_pca"},
        "no 'other' in adata.uns.*pp.neighbors": {"layout": "fr", "neighbors_key": "other"},
    }.items():
        with pytest.raises(InputError, match=found):
            sd.tl.draw_graph(adata, **options)
    del adata.uns["paga"]
    with pytest.raises(MissingKeyError, match=r"init_pos='paga'.*tl.paga"):
        sd.tl.draw_graph(adata, "fr", init_pos="paga")
    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
        sd.pp.neighbors(adata, 8, use_rep="X_pca", compact=True)
    with pytest.raises(MissingKeyError, match=r"is a landmark graph.*compact=False"):
        sd.tl.draw_graph(adata, "fr")
