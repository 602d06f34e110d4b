"""The atlas made from real cells: the same wherever blocks are cut, close to its source, with its labels."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.errors import InputError


@pytest.fixture(scope="module")
def source() -> ad.AnnData:
    lazy = sd.datasets.simulate(300, 400, n_groups=3, seed=3)
    made = ad.AnnData(lazy.X.compute(), obs=lazy.obs.copy(), var=lazy.var[[]].copy())
    return made


def test_upscale__blocks_do_not_matter(source: ad.AnnData) -> None:
    atlas = sd.datasets.upscale(source, 1_500, label="true_label", seed=5)
    whole = atlas.X.compute()
    cut = atlas.X.rebounded(np.array([0, 1, 511, 512, 513, 1_300, 1_500])).compute()
    assert (whole != cut).nnz == 0
    assert whole.dtype == np.uint16 and whole.shape == (1_500, 400)


def test_upscale__keeps_means_and_labels(source: ad.AnnData) -> None:
    atlas = sd.datasets.upscale(source, 3_000, label="true_label", n_parents=2, seed=1)
    made = np.asarray(atlas.X.compute().mean(axis=0)).ravel()
    real = np.asarray(source.X.mean(axis=0)).ravel()
    assert np.corrcoef(made, real)[0, 1] > 0.99
    shares = atlas.obs["true_label"].value_counts(normalize=True).sort_index()
    wanted = source.obs["true_label"].value_counts(normalize=True).sort_index()
    assert np.abs(shares - wanted).max() < 0.04
    assert (source.obs["true_label"].to_numpy()[atlas.obs["parent"]] == atlas.obs["true_label"]).all()


def test_upscale__seeds_and_store(source: ad.AnnData, tmp_path) -> None:
    a = sd.datasets.upscale(source, 700, seed=1)
    b = sd.datasets.upscale(source, 700, seed=2, out=tmp_path / "b.zarr")
    same = sd.datasets.upscale(source, 700, seed=2)
    assert (a.X.compute() != b.X.compute()).nnz > 0
    assert (same.X.compute() != b.X.compute()).nnz == 0


def test_upscale__refuses(source: ad.AnnData) -> None:
    with pytest.raises(InputError, match="at least 20"):
        sd.datasets.upscale(source[:10].copy(), 100)
    with pytest.raises(InputError, match="keep"):
        sd.datasets.upscale(source, 100, keep=0)
    half = source.copy()
    half.X = half.X * 0.5
    with pytest.raises(InputError, match="fractions"):
        sd.datasets.upscale(half, 100)
