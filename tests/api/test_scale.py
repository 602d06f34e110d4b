from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.testing import lazy
from tests.laws.registry import N_OBS, logged, reduced

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cut": {"max_value": 1.5},
    "not centred": {"zero_center": False},
    "not centred, cut": {"zero_center": False, "max_value": 1.5},
    "layer": {"layer": "spare"},
    "column": {"mask_obs": "kept", "max_value": 1.5},
    "mask": {"mask_obs": np.arange(N_OBS) % 2 == 0, "zero_center": False},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_scale__is_scanpys(options: str, kind: str) -> None:
    import scanpy as sc

    given, theirs = logged(), logged()
    if kind == "dense":
        for adata in (given, theirs):
            adata.X = adata.X.toarray()
    ours = lazy(given)
    sd.pp.scale(ours, **OPTIONS[options])
    sc.pp.scale(theirs, **OPTIONS[options])
    layer = OPTIONS[options].get("layer")
    found, wanted = (x.X if layer is None else x.layers[layer] for x in (ours, theirs))
    assert isinstance(found, RowBlocks)
    stays = OPTIONS[options].get("zero_center") is False and kind == "sparse"
    assert found.expression.is_sparse == stays
    dense = [x.toarray() if sp.issparse(x) else np.asarray(x) for x in (found.compute(), wanted)]
    np.testing.assert_allclose(*dense, atol=2e-6)
    names = sorted(set(theirs.var) - set(logged().var))
    assert names == sorted(set(ours.var) - set(logged().var)) and len(names) == 2
    for c in names:
        np.testing.assert_allclose(ours.var[c], theirs.var[c], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_scale__memory_stays_in_memory(kind: Any) -> None:
    adata = ad.AnnData(kind(logged().X.toarray()))
    expected = logged()
    sd.pp.scale(adata)
    sd.pp.scale(expected, zero_center=False)
    assert type(adata.X) is np.ndarray and type(expected.X) is sp.csr_matrix
    np.testing.assert_allclose(adata.X.std(axis=0, ddof=1)[:7], 1, rtol=1e-5)


def test_scale__an_element_of_obsm() -> None:
    """scanpy 1.11 scales it too, and then fails: it writes its means, one a dimension, to var."""
    import scanpy as sc

    adata, x = reduced(), reduced().obsm["X_pca"]
    with pytest.raises(ValueError, match="Length of values"):
        sc.pp.scale(reduced(), obsm="X_pca")
    sd.pp.scale(adata, obsm="X_pca")
    np.testing.assert_allclose(adata.obsm["X_pca"], (x - x.mean(axis=0)) / x.std(axis=0, ddof=1), atol=1e-5)
    assert "mean" not in adata.var


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": "spare", "obsm": "X_other"}, InputError, "both layer and obsm"),
        ({"max_value": 0}, InputError, "max_value=0"),
        ({"obsm": "nothing"}, MissingKeyError, "no 'nothing' in adata.obsm"),
        ({"mask_obs": "nothing"}, MissingKeyError, "no column 'nothing'"),
        ({"mask_obs": "depth"}, InputError, "mask_obs of type float32"),
        ({"mask_obs": np.arange(N_OBS) == 3}, InputError, "mask_obs picks 1 cells"),
    ],
)
def test_scale__says_what_is_wrong(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sd.pp.scale(lazy(logged()), **options)
