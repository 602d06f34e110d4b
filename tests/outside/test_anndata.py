"""What anndata's versions do differently, and what private names of it we use."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from sc_dask.array.blocks import RowBlocks
from sc_dask.outside.anndata import make_actual, named_layers, subset_inplace
from sc_dask.slots import subset
from sc_dask.testing import lazy


def cells() -> ad.AnnData:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    return ad.AnnData(x, layers={"twice": 2 * x})


def test_named_layers__x_is_none_of_them() -> None:
    assert [name for name, _ in named_layers(cells())] == ["twice"]
    assert dict(named_layers(ad.AnnData(np.eye(2)))) == {}


def test_make_actual__a_view_becomes_its_own_and_its_parent_stays() -> None:
    parent = cells()
    view = parent[1:3]
    make_actual(view)
    assert not view.is_view
    view.obs["new"] = 1
    assert "new" not in parent.obs and view.shape == (2, 3)
    make_actual(parent)
    assert parent.shape == (4, 3)


def test_subset_inplace__cells_and_genes() -> None:
    adata = cells()
    subset_inplace(adata, "obs", np.array([True, False, True, True]))
    subset_inplace(adata, "var", np.array([2, 0]))
    np.testing.assert_array_equal(adata.X, [[2, 0], [8, 6], [11, 9]])
    np.testing.assert_array_equal(adata.layers["twice"], 2 * adata.X)


@pytest.mark.parametrize("how", ["view", "copy of a view", "subset", "copy of a copy"])
def test_lazy_x__keeps_its_class(how: str) -> None:
    adata = lazy(cells(), 2)
    found = adata[[0, 2, 3]]
    if how == "subset":
        subset(adata, "obs", np.array([True, False, True, True]))
        found = adata
    for _ in range(how.count("copy")):
        found = found.copy()
    assert isinstance(found.X, RowBlocks) and isinstance(found.layers["twice"], RowBlocks)
    np.testing.assert_array_equal(found.X.compute(), cells().X[[0, 2, 3]])
