"""Functions of pp that take a matrix alone, as scanpy's do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import BackedError, InputError

COUNTS = np.random.default_rng(0).poisson(1.0, (40, 30)).astype(np.float32)


def _dask(x: np.ndarray) -> da.Array:
    return da.from_array(x, chunks=(15, 30))


MEMORY: dict[str, Callable[[np.ndarray], Any]] = {
    "float32": np.copy,
    "integers": lambda x: x.astype(np.int64),
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
}
LAZY: dict[str, Callable[[np.ndarray], Any]] = {
    "dask": _dask,
    "dask of csr": lambda x: _dask(x).map_blocks(sp.csr_matrix),
    "lazy X": lambda x: sd.get.matrix(ad.AnnData(_dask(x))),
}
KINDS = MEMORY | LAZY
kinds = pytest.mark.parametrize("kind", KINDS)


def dense(x: Any) -> np.ndarray:
    x = x.compute() if isinstance(x, da.Array) else x
    return x.toarray() if sp.issparse(x) else np.asarray(x)


@kinds
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("log1p", {}),
        ("log1p", {"base": 2}),
        ("log1p", {"chunked": True, "chunk_size": 7}),
        ("sqrt", {}),
        ("scale", {}),
        ("scale", {"zero_center": False, "max_value": 2}),
        ("scale", {"mask_obs": np.arange(40) % 2 == 0}),
    ],
)
def test_arrays__values_are_scanpys(kind: str, name: str, options: dict[str, Any]) -> None:
    import scanpy as sc

    made = KINDS[kind](COUNTS)
    theirs = KINDS[kind](COUNTS) if kind in MEMORY and name != "scale" else COUNTS.astype(made.dtype)
    known = {} if "chunked" in options else options  # scanpy takes it of an AnnData only
    got, wanted = getattr(sd.pp, name)(made, **options), getattr(sc.pp, name)(theirs, **known)
    np.testing.assert_allclose(dense(got), dense(wanted), rtol=1e-5, atol=1e-6)
    assert isinstance(got, da.Array) == (kind in LAZY)
    if kind in MEMORY:
        assert got.dtype == wanted.dtype


@pytest.mark.parametrize("kind", MEMORY)
@pytest.mark.parametrize("name", ["log1p", "scale"])
@pytest.mark.parametrize("copy", [True, False])
def test_arrays__floats_in_memory_are_changed_in_place_without_copy(kind: str, name: str, copy: bool) -> None:
    made = MEMORY[kind](COUNTS)
    got = getattr(sd.pp, name)(made, copy=copy)
    in_place = not copy and kind != "integers" and not (sp.issparse(made) and name == "scale")
    assert (got is made) == in_place
    assert np.array_equal(dense(made), COUNTS) != in_place


@kinds
def test_arrays__filters_return_mask_and_numbers(kind: str) -> None:
    keep, numbers = sd.pp.filter_cells(KINDS[kind](COUNTS), min_counts=30)
    assert np.array_equal(numbers, COUNTS.sum(axis=1)) and np.array_equal(keep, COUNTS.sum(axis=1) >= 30)
    keep, numbers = sd.pp.filter_genes(KINDS[kind](COUNTS), max_cells=25)
    assert np.array_equal(numbers, (COUNTS > 0).sum(axis=0)) and np.array_equal(keep, numbers <= 25)


@kinds
@pytest.mark.parametrize("axis", ["obs", "var"])
def test_arrays__samples_are_scanpys_and_positions_say_what_was_drawn(kind: str, axis: Any) -> None:
    import scanpy as sc

    part, positions = sd.pp.sample(KINDS[kind](COUNTS), n=9, rng=3, axis=axis)
    _, wanted = sc.pp.sample(COUNTS, n=9, rng=3, axis=axis)
    assert np.array_equal(positions, wanted if kind in MEMORY else np.sort(wanted))
    assert np.array_equal(dense(part), COUNTS[positions] if axis == "obs" else COUNTS[:, positions])
    assert sd.pp.subsample(KINDS[kind](COUNTS), 0.5)[0].shape == (20, 30)


@kinds
def test_arrays__components_are_scanpys(kind: str) -> None:
    import scanpy as sc

    wanted = sc.pp.pca(COUNTS.astype(np.float64), 5, return_info=True)
    got = sd.pp.pca(KINDS[kind](COUNTS), 5, return_info=True)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(np.abs(a), np.abs(b), atol=1e-3)
    np.testing.assert_allclose(sd.pp.pca(KINDS[kind](COUNTS), 5), got[0], atol=1e-5)


@kinds
def test_arrays__normalize_total_returns_the_matrix(kind: str) -> None:
    got = sd.pp.normalize_total(KINDS[kind](COUNTS), target_sum=10)
    np.testing.assert_allclose(dense(got).sum(axis=1), 10, rtol=1e-5)


def test_arrays__options_that_name_slots_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="layer='a' with a ndarray"):
        sd.pp.log1p(COUNTS.copy(), layer="a")
    with pytest.raises(InputError, match="1 dimensions"):
        sd.pp.scale(np.ones(3))
    with pytest.raises(InputError, match="chunk_size=0"):
        sd.pp.sqrt(COUNTS, chunked=True, chunk_size=0)


def test_arrays__elements_of_obsm_are_taken_like_layers() -> None:
    adata = ad.AnnData(COUNTS.copy(), obsm={"part": COUNTS[:, :20].copy()})
    sd.pp.normalize_total(adata, obsm="part", target_sum=5)
    np.testing.assert_allclose(adata.obsm["part"].sum(axis=1), 5, rtol=1e-5)
    sd.pp.log1p(adata, obsm="part")
    assert adata.obsm["part"].sum(axis=1).max() < 5 and np.array_equal(adata.X, COUNTS)
    sd.pp.pca(adata, 4, obsm="part")
    centred = adata.obsm["part"] - adata.obsm["part"].mean(axis=0)
    np.testing.assert_allclose(centred @ adata.uns["pca"]["components"], adata.obsm["X_pca"], atol=1e-5)
    assert "PCs" not in adata.varm and adata.uns["pca"]["params"]["obsm"] == "part"
    with pytest.raises(ValueError, match="incompatible"):
        sd.pp.pca(adata, obsm="part", mask_var=np.ones(30, bool))


def test_arrays__use_highly_variable_is_mask_var_with_a_warning() -> None:
    adata = ad.AnnData(COUNTS.copy(), var={"highly_variable": np.arange(30) % 2 == 0})
    with pytest.warns(FutureWarning, match="deprecated"):
        sd.pp.pca(adata, 3, use_highly_variable=False)
    assert adata.varm["PCs"][1].any() and adata.uns["pca"]["params"]["mask_var"] is None
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="incompatible"):
        sd.pp.pca(adata, 3, use_highly_variable=True, mask_var=None)


def test_arrays__a_sample_of_a_backed_file_is_in_memory(tmp_path: Any) -> None:
    adata = ad.AnnData(COUNTS.copy())
    adata.filename = tmp_path / "a.h5ad"
    part = sd.pp.sample(adata, n=9, rng=0, copy=True)
    assert not part.isbacked and part.shape == (9, 30)
    with pytest.raises(NotImplementedError, match="copy=True"):
        sd.pp.sample(adata, n=9)
    with pytest.raises(BackedError, match="sd.read"):
        sd.pp.sqrt(ad.read_h5ad(tmp_path / "a.h5ad", backed="r"))
