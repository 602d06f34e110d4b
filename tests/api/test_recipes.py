from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import InputError
from sc_dask.testing import lazy
from tests.laws.registry import deep

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("recipe_seurat", {}),
    ("recipe_seurat", {"log": False}),
    ("recipe_zheng17", {"n_top_genes": 40}),
    ("recipe_zheng17", {"n_top_genes": 40, "log": False}),
]


@pytest.mark.parametrize(("recipe", "options"), CALLS, ids=str)
@pytest.mark.parametrize("kind", ["lazy", "memory"])
def test_recipe__is_scanpys(recipe: str, options: dict[str, Any], kind: str) -> None:
    import scanpy as sc

    theirs = deep()
    if recipe == "recipe_seurat" and "log" in options:
        theirs.X = sp.csr_matrix(np.log1p(theirs.X.toarray()))
    ours = lazy(theirs, 3) if kind == "lazy" else theirs.copy()
    getattr(sc.pp, recipe)(theirs, **options)
    if "n_top_genes" in options:  # scanpy 1.11 compares with a bound in float32, which may leave out the last gene
        assert theirs.n_vars in (options["n_top_genes"] - 1, options["n_top_genes"])
        options = {**options, "n_top_genes": theirs.n_vars}
    getattr(sd.pp, recipe)(ours, **options)
    assert list(ours.var_names) == list(theirs.var_names) and 1 < ours.n_vars < deep().n_vars
    assert isinstance(ours.X, RowBlocks if kind == "lazy" else np.ndarray)
    found = ours.X.compute() if kind == "lazy" else ours.X
    np.testing.assert_allclose(found, np.asarray(theirs.X), atol=2e-5)
    for axis in ("obs", "var"):
        mine, others = getattr(ours, axis), getattr(theirs, axis)
        assert set(mine) == set(others)
        for c in others:
            np.testing.assert_allclose(mine[c], others[c], rtol=1e-5, atol=1e-6, err_msg=c)
    assert ours.uns == theirs.uns


def test_recipe__says_what_is_wrong() -> None:
    for recipe in (sd.pp.recipe_seurat, sd.pp.recipe_zheng17):
        with pytest.raises(InputError, match="plot=True; expected plot=False; next: sd.pp.highly_variable_genes"):
            recipe(lazy(deep()), plot=True)
    with pytest.raises(InputError, match="n_top_genes=0"):
        sd.pp.recipe_zheng17(lazy(deep()), n_top_genes=0)
    same = ad.AnnData(np.tile(np.arange(1, 6, dtype=np.float32), (10, 1)))
    with pytest.raises(InputError, match="found no gene that varies"):
        sd.pp.recipe_zheng17(same)
    with pytest.raises(InputError, match="min_genes=200 keeps none"):
        sd.pp.recipe_seurat(same)
