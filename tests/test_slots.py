from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from sc_dask import slots
from sc_dask.errors import InputError


def adata() -> ad.AnnData:
    return ad.AnnData(np.ones((4, 3), np.float32))


def test_write__refuses_what_is_not_declared() -> None:
    a = adata()
    with pytest.raises(KeyError, match="is not declared for pp.pca"):
        slots.write(a, {("obs", "n_genes"): np.ones(4)}, writer="pp.pca")
    with pytest.raises(KeyError, match="is not declared for any function"):
        slots.write(a, {("obsp", "nonsense"): np.ones((4, 4))})
    assert "n_genes" not in a.obs and not a.obsp


def test_write__makes_a_view_an_object_of_its_own() -> None:
    a = adata()
    view = a[:2]
    slots.write(view, {("obs", "n_genes"): np.array([1, 2])}, writer="pp.filter_cells")
    assert not view.is_view and view.obs["n_genes"].tolist() == [1, 2] and "n_genes" not in a.obs


def test_subset__knows_two_axes() -> None:
    a = adata()
    slots.subset(a, "var", np.array([True, False, True]))
    slots.subset(a, "obs", np.array([True, False, True, True]))
    assert a.shape == (3, 2)
    with pytest.raises(InputError, match="axis 'layers'; expected 'obs' or 'var'"):
        slots.subset(a, "layers", np.ones(3, bool))


def test_slot__matches_names_that_users_choose() -> None:
    slot = next(s for s in slots.SLOTS if s.key == "pct_{}_in_top_{}_{}")
    assert slot.matches("obs", "pct_counts_in_top_50_genes")
    assert not slot.matches("var", "pct_counts_in_top_50_genes") and not slot.matches("obs", "pct_counts")


def test_versions__of_what_is_not_installed() -> None:
    found = slots.versions("numpy", "no-such-package")
    assert found == {"numpy": np.__version__, "no-such-package": "unknown"}
