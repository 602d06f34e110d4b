from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.kernels import hvg
from sc_dask.kernels.moments import clipped_sums, moments, variance
from sc_dask.kernels.normalize import normalize_log1p
from sc_dask.kernels.qc import row_totals
from tests.exact import exact_batch_moments


def counts(n_obs: int = 150, n_vars: int = 400, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.4, 1.5, n_vars) * rng.gamma(2, 0.5, (n_obs, 1)) * rng.gamma(1.0, 1.0, (n_obs, n_vars))
    a = ad.AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    a.X[:, 5] = 0
    a.X.eliminate_zeros()
    a.var_names = [f"g{i}" for i in rng.permutation(n_vars)]  # an order that is not the one of the names
    a.obs["batch"] = pd.Categorical(rng.choice(["x", "y", "z"], n_obs, p=[0.5, 0.3, 0.2]))
    return a


def logged(base: float | None = None, **kwargs: int) -> ad.AnnData:
    a = counts(**kwargs)
    sc.pp.normalize_total(a, target_sum=1e3)
    sc.pp.log1p(a, base=base)
    return a


def table(a: ad.AnnData, flavor: str, codes: np.ndarray | None = None, **options: object) -> pd.DataFrame:
    n = 1 if codes is None else codes.max() + 1
    transform = "expm1" if flavor == "seurat" else "identity"
    base = a.uns["log1p"]["base"] if flavor == "seurat" else None
    m = moments(a.X, codes, n, transform, base)
    var = variance(m)
    expressed = [None] if codes is None else m.nnz > 0
    tables = [
        hvg.dispersion_table(m.mean[b], var[b], flavor=flavor, expressed=expressed[b], index=a.var_names, **options)
        for b in range(n)
    ]
    options.pop("n_bins", None)
    return tables[0] if codes is None else hvg.combine_batches(tables, **options)


def assert_equal(got: pd.DataFrame, want: pd.DataFrame) -> None:
    want = want[list(got.columns)].loc[got.index]
    pd.testing.assert_frame_equal(got, want, rtol=1e-5, atol=5e-6, check_names=False)  # scanpy squares in float32
    assert 0 < got["highly_variable"].sum() < len(got)


OPTIONS = [
    {},
    {"n_top_genes": 50},
    {"n_top_genes": 300, "n_bins": 7},
    {"min_mean": 0.1, "max_mean": 4, "min_disp": 0.2, "max_disp": 2.0, "n_bins": 15},
]


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("base", [None, 2])
def test_dispersion_table__equals_scanpy(flavor, options, base):
    a = logged(base)
    want = sc.pp.highly_variable_genes(a, flavor=flavor, inplace=False, **options)
    got = table(a, flavor, **options)
    if "mean_bin" in want:
        np.testing.assert_array_equal(got["mean_bin"].cat.codes, want["mean_bin"].cat.codes)
        # scanpy 1.11 calls the bins by intervals, 1.12 by their texts
        assert list(got["mean_bin"].cat.categories) == list(want["mean_bin"].cat.categories.astype(str))
    assert_equal(got.drop(columns="mean_bin"), want.drop(columns="mean_bin"))


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_combine_batches__equals_scanpy(flavor, options, seed):
    a = logged(seed=seed)
    want = sc.pp.highly_variable_genes(a, flavor=flavor, batch_key="batch", inplace=False, **options)
    got = table(a, flavor, a.obs["batch"].cat.codes.to_numpy().astype(np.int32), **options)
    assert (moments(a.X, a.obs["batch"].cat.codes.to_numpy(), 3).nnz == 0).sum() > 5  # genes missing from a batch
    assert_equal(got, want)


def test_combine_batches__equal_genes_in_the_order_of_their_names():
    frame = pd.DataFrame(
        {"means": 1.0, "dispersions": 1.0, "dispersions_norm": [0.0, np.nan, 0.0, 0.0], "highly_variable": False},
        index=["b", "d", "c", "a"],
    )
    got = hvg.combine_batches([frame, frame], n_top_genes=2)
    assert got["highly_variable"].tolist() == [True, False, False, True]
    assert hvg.combine_batches([frame, frame], n_top_genes=3)["highly_variable"].tolist() == [True, False, True, True]
    assert got["dispersions_norm"].isna().tolist() == [False, True, False, False]
    assert hvg.combine_batches([frame])["dispersions_norm"].tolist() == [0, 0, 0, 0]


def test_dispersion_table__takes_all_equal_genes_at_the_cut():
    mean = np.tile([0.5, 1.0, 2.0, 4.0], 6)
    var = mean * np.tile([1.0, 2.0, 2.0, 3.0], 6) + np.repeat([0, 0, 1, 1, 1, 1], 4)
    got = hvg.dispersion_table(mean, var, n_top_genes=10)
    norm = got["dispersions_norm"].round(9)  # genes of a like formula are equal but for rounding
    assert got["highly_variable"].sum() == (norm >= norm.nlargest(10).iloc[-1]).sum() > 10
    assert got["dispersions_norm"].nunique() > norm.nunique()


def test_dispersion_table__more_genes_wanted_than_there_are():
    a = logged()
    varying = np.count_nonzero(variance(moments(a.X)))
    with pytest.warns(ScDaskWarning, match=f"400 but only {varying}"):
        got = table(a, "seurat", n_top_genes=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = sc.pp.highly_variable_genes(a, n_top_genes=1000, inplace=False)
    np.testing.assert_array_equal(got["highly_variable"], want["highly_variable"])
    assert 0 < got["highly_variable"].sum() == varying < 400


def v3(a: ad.AnnData, codes: np.ndarray | None, n_top_genes: int, flavor: str, span: float = 0.3) -> pd.DataFrame:
    n = 1 if codes is None else codes.max() + 1
    whole, m = moments(a.X), moments(a.X, codes, n)
    var = variance(m)
    std = np.stack([hvg.seurat_v3_regularized(m.mean[b], var[b], span) for b in range(n)])
    clip = np.stack([hvg.seurat_v3_clip(m.n[b], m.mean[b], std[b]) for b in range(n)])
    sums, squares = clipped_sums(a.X, clip, codes)
    norm = np.stack([hvg.seurat_v3_normalized(m.n[b], m.mean[b], std[b], sums[b], squares[b]) for b in range(n)])
    return hvg.seurat_v3_table(
        whole.mean[0], variance(whole)[0], norm, n_top_genes=n_top_genes, flavor=flavor, index=a.var_names
    )


@pytest.mark.parametrize("flavor", ["seurat_v3", "seurat_v3_paper"])
@pytest.mark.parametrize("batch_key", [None, "batch"])
@pytest.mark.parametrize("n_top_genes", [40, 250])
def test_seurat_v3__equals_scanpy(flavor, batch_key, n_top_genes, monkeypatch):
    exact_batch_moments(monkeypatch)
    a = counts()
    want = sc.pp.highly_variable_genes(a, flavor=flavor, n_top_genes=n_top_genes, batch_key=batch_key, inplace=False)
    codes = None if batch_key is None else a.obs["batch"].cat.codes.to_numpy().astype(np.int32)
    got = v3(a, codes, n_top_genes, flavor)
    if batch_key is None:
        assert got.pop("highly_variable_nbatches").max() == 1
    assert_equal(got, want)
    assert got["highly_variable"].sum() == n_top_genes


def test_seurat_v3__dense_equals_sparse():
    a = counts()
    d = ad.AnnData(a.X.toarray(), var=a.var)
    pd.testing.assert_frame_equal(v3(a, None, 40, "seurat_v3"), v3(d, None, 40, "seurat_v3"))


def test_seurat_v3__says_why_loess_fails():
    few, same = np.array([1.0, 2.0]), np.ones(100)
    for mean in (few, same):
        with pytest.raises(InputError, match="loess"):
            hvg.seurat_v3_regularized(mean, np.linspace(1, 2, len(mean)))
    with pytest.raises(InputError, match="0 varying genes"):
        hvg.seurat_v3_regularized(same, np.zeros(100))


def test_hvg__refuses_what_has_no_answer():
    ok = np.linspace(0.1, 3, 50)
    with pytest.raises(InputError, match="flavor"):
        hvg.dispersion_table(ok, ok, flavor="seurat_v3")
    with pytest.raises(InputError, match="n_top_genes"):
        hvg.dispersion_table(ok, ok, n_top_genes=0)
    with pytest.raises(InputError, match="not finite"):
        hvg.dispersion_table(np.where(ok > 2, np.inf, ok), ok)
    with pytest.raises(InputError, match="bins"):
        hvg.dispersion_table(np.zeros(50), np.zeros(50), flavor="cell_ranger", n_top_genes=5)
    with pytest.raises(InputError, match="no gene that varies"):
        hvg.dispersion_table(ok, np.zeros(50), n_top_genes=5)
    with pytest.raises(InputError, match="batch"):
        hvg.combine_batches([])
    with pytest.raises(InputError, match="flavor"):
        hvg.seurat_v3_table(ok, ok, ok, flavor="seurat")


@pytest.mark.parametrize(
    ("flavor", "file", "options"),
    [
        ("seurat", "seurat_hvg.csv", {"min_mean": 0.0125, "max_mean": 3, "min_disp": 0.5}),
        ("cell_ranger", "cell_ranger_hvg.csv", {"n_top_genes": 100}),
    ],
)
def test_dispersion_table__equals_what_r_and_cell_ranger_made(data_dir: Path, flavor, file, options):
    want = pd.read_csv(data_dir / "golden" / file)
    reduced = ad.read_h5ad(data_dir / "golden" / "pbmc68k_reduced.h5ad")
    x = reduced.raw.X.astype(np.float32)
    logs = normalize_log1p(x, 1e4 / row_totals(x))
    m = moments(logs, transform="expm1" if flavor == "seurat" else "identity")
    got = hvg.dispersion_table(m.mean[0], variance(m)[0], flavor=flavor, **options)
    np.testing.assert_array_equal(got["highly_variable"], want["highly_variable"])
    for column in ("means", "dispersions", "dispersions_norm"):
        np.testing.assert_allclose(got[column], want[column], rtol=2e-5, atol=2e-5)
