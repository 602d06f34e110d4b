from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import CountsWarning, InputError, MissingKeyError, ScDaskWarning
from sc_dask.testing import compute_counter, lazy, source_of
from tests.laws.registry import N_OBS, N_VARS, counts, logged

FLAVORS = {"seurat": logged, "cell_ranger": logged, "seurat_v3": counts, "seurat_v3_paper": counts}
COLUMNS = {
    "seurat": {"means", "dispersions", "dispersions_norm", "highly_variable"},
    "seurat_v3": {"means", "variances", "variances_norm", "highly_variable_rank", "highly_variable"},
}
COLUMNS |= {"cell_ranger": COLUMNS["seurat"], "seurat_v3_paper": COLUMNS["seurat_v3"]}
OF_BATCHES = {"highly_variable_nbatches", "highly_variable_intersection"}


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_hvg__writes_scanpys_columns(flavor: str, batch_key: str | None) -> None:
    import scanpy as sc

    adata, expected = lazy(FLAVORS[flavor]()), FLAVORS[flavor]()
    before = set(adata.var)
    options = {"flavor": flavor, "batch_key": batch_key, "n_top_genes": 20, "span": 0.3}
    assert sd.pp.highly_variable_genes(adata, **options) is None
    sc.pp.highly_variable_genes(expected, **options)
    assert set(adata.var) == set(expected.var)
    of_batches = OF_BATCHES - ({"highly_variable_intersection"} if flavor.startswith("seurat_v3") else set())
    assert set(adata.var) - before == COLUMNS[flavor] | (of_batches if batch_key else set())
    for c in set(adata.var) - before:
        assert adata.var[c].dtype.kind == expected.var[c].dtype.kind, c
    assert adata.uns["hvg"] == {"flavor": flavor} == expected.uns["hvg"]
    assert adata.var["highly_variable"].sum() == 20


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_hvg__subset_and_inplace_agree(flavor: str, batch_key: str | None) -> None:
    options = {"flavor": flavor, "batch_key": batch_key, "n_top_genes": 15}
    whole = sd.pp.highly_variable_genes(lazy(FLAVORS[flavor]()), inplace=False, **options)
    part = sd.pp.highly_variable_genes(lazy(FLAVORS[flavor]()), inplace=False, subset=True, **options)
    pd.testing.assert_frame_equal(part, whole[whole["highly_variable"]])
    adata = lazy(FLAVORS[flavor]())
    assert sd.pp.highly_variable_genes(adata, subset=True, **options) is None
    assert adata.n_vars >= 15 and list(adata.var_names) == list(part.index)  # more where the last ones are equal
    np.testing.assert_array_equal(adata.X.compute().toarray(), FLAVORS[flavor]()[:, part.index].X.toarray())


def test_hvg__a_layer_and_a_view() -> None:
    adata = lazy(counts())
    adata.layers["logged"] = logged().X
    by_layer = sd.pp.highly_variable_genes(adata, layer="logged", inplace=False)
    pd.testing.assert_frame_equal(by_layer, sd.pp.highly_variable_genes(logged(), inplace=False), rtol=1e-6)
    view = lazy(logged())[10:, 5:]
    sd.pp.highly_variable_genes(view, n_top_genes=10)
    expected = sd.pp.highly_variable_genes(logged()[10:, 5:].copy(), n_top_genes=10, inplace=False)
    assert list(view.var["highly_variable"]) == list(expected["highly_variable"])


def test_hvg__the_base_of_the_logarithm_is_undone() -> None:
    natural, two = logged(), logged()
    two.X = two.X / np.float32(np.log(2))
    natural.uns["log1p"], two.uns["log1p"] = {"base": None}, {"base": 2}
    a, b = (sd.pp.highly_variable_genes(lazy(x), inplace=False) for x in (natural, two))
    np.testing.assert_allclose(a["means"], b["means"], rtol=1e-5)
    assert list(a["highly_variable"]) == list(b["highly_variable"])


@pytest.mark.parametrize("flavor", FLAVORS)
def test_hvg__batches_cost_no_pass(flavor: str) -> None:
    adata = lazy(FLAVORS[flavor]())
    sd.pp.highly_variable_genes(adata, flavor=flavor, batch_key="batch", n_top_genes=10)
    assert source_of(adata).passes == (2 if flavor.startswith("seurat_v3") else 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [(0.5, "found fractions"), (-1.0, r"found negative values \(-1\)"), (np.nan, "found NaN")],
    ids=["fractions", "negative", "NaN"],
)
def test_hvg__seurat_v3_warns_of_what_is_no_count(values: float, message: str) -> None:
    adata = counts()
    adata.X.data[-1] = values  # in the last block: all of X is looked at
    with compute_counter() as counted, pytest.warns(CountsWarning, match=message):
        sd.pp.highly_variable_genes(lazy(adata), flavor="seurat_v3", n_top_genes=10)
    assert counted.n == 2


@pytest.mark.filterwarnings("error::sc_dask.errors.CountsWarning")
def test_hvg__seurat_v3_checks_only_when_asked() -> None:
    adata = counts()
    adata.X.data[0] = 0.5
    sd.pp.highly_variable_genes(lazy(adata), flavor="seurat_v3", n_top_genes=10, check_values=False)
    sd.pp.highly_variable_genes(lazy(counts()), flavor="seurat_v3", n_top_genes=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flavor": "monocle"}, "flavor='monocle'; expected one of: seurat, cell_ranger, seurat_v3"),
        ({"n_top_genes": 0}, "n_top_genes=0; expected a number from 1 to 60"),
        ({"n_top_genes": 10, "max_mean": 4}, "max_mean together with n_top_genes"),
        ({"flavor": "seurat_v3", "min_disp": 0.4}, "min_disp together with flavor='seurat_v3'"),
        ({"flavor": "seurat_v3", "n_bins": 10}, "n_bins=10 with flavor='seurat_v3'"),
        ({"span": 0.5}, "span=0.5 with flavor='seurat'"),
    ],
    ids=str,
)
def test_hvg__options_that_do_not_apply(options: dict[str, Any], message: str) -> None:
    adata = lazy(logged())
    with pytest.raises(InputError, match=message):
        sd.pp.highly_variable_genes(adata, **options)
    assert source_of(adata).rows_read == 0


def test_hvg__batch_key_has_a_batch_for_every_cell() -> None:
    adata = lazy(logged())
    with pytest.raises(MissingKeyError, match="no column 'sample' in adata.obs; expected one of: group, batch"):
        sd.pp.highly_variable_genes(adata, batch_key="sample")
    adata.obs["sample"] = ["a", None] * 45
    with pytest.raises(InputError, match="obs\\['sample'\\] has \\d+ missing values"):
        sd.pp.highly_variable_genes(adata, batch_key="sample")
    assert source_of(adata).rows_read == 0


def test_hvg__values_that_are_not_finite() -> None:
    adata = logged()
    adata.X.data[3] = np.nan
    with pytest.raises(InputError, match="means that are not finite"):
        sd.pp.highly_variable_genes(lazy(adata))


def test_hvg__counts_not_logarithmised_are_told() -> None:
    adata = counts()
    adata.X = adata.X * 1000
    with pytest.raises(InputError, match="expected logarithmised data"):
        sd.pp.highly_variable_genes(lazy(adata))


def test_hvg__genes_that_nobody_has() -> None:
    adata = ad.AnnData(np.zeros((20, N_VARS), np.float32))
    for flavor in ("seurat", "cell_ranger", "seurat_v3"):
        with pytest.raises(InputError):
            sd.pp.highly_variable_genes(lazy(adata), flavor=flavor, n_top_genes=5)


@pytest.mark.parametrize("flavor", [*FLAVORS, "pearson_residuals"])
@pytest.mark.parametrize("n_last", [1, 9])
def test_hvg__a_batch_in_which_nothing_varies_chooses_no_gene(flavor: str, n_last: int) -> None:
    """scanpy fails, or takes rounding errors of such a batch for choices: the choices of the others decide."""
    adata = FLAVORS.get(flavor, counts)()
    adata.obs["of"] = pd.Categorical(np.where(np.arange(N_OBS) < N_OBS - n_last, adata.obs["batch"], "still"))
    x = adata.X.toarray()
    x[-n_last:] = x[-1]
    adata.X, adata.layers["dense"] = sp.csr_matrix(x), x
    rest = adata[:-n_last].copy()
    rest.obs["of"] = rest.obs["of"].cat.remove_unused_categories()
    found = lazy(adata.copy())
    clip = {"clip": 5.0} if flavor == "pearson_residuals" else {}
    with pytest.warns(ScDaskWarning, match=rf"no gene varies in 1 of 3 batches.*'still' \({n_last} cells\)"):
        sd.pp.highly_variable_genes(found, flavor=flavor, batch_key="of", n_top_genes=20, **clip)
    sd.pp.highly_variable_genes(rest, flavor=flavor, batch_key="of", n_top_genes=20, **clip)  # tested against scanpy's
    np.testing.assert_array_equal(found.var["highly_variable_nbatches"], rest.var["highly_variable_nbatches"])
    assert found.var["highly_variable"].sum() == 20
    surely = rest.var["highly_variable"].to_numpy()
    if flavor in ("seurat", "cell_ranger"):  # ties are broken by a mean in which genes without counts are zeros
        surely = rest.var["highly_variable_nbatches"].to_numpy() == 2
    assert found.var["highly_variable"].to_numpy()[surely].all()


def test_hvg__no_batch_varies() -> None:
    adata = logged()
    adata.obs["own"] = pd.Categorical(np.arange(N_OBS).astype(str))
    for flavor in ("seurat", "cell_ranger", "seurat_v3"):
        with pytest.raises(InputError, match="no gene varies in any batch"):
            sd.pp.highly_variable_genes(adata.copy(), flavor=flavor, batch_key="own", n_top_genes=9, check_values=False)


def test_hvg__errors_name_the_batch() -> None:
    adata = counts()
    adata.obs["of"] = pd.Categorical(np.where(np.arange(N_OBS) < N_OBS - 2, "many", "two"))
    with pytest.raises(InputError, match=r"batch 'two' \(2 cells\): .*loess"):
        sd.pp.highly_variable_genes(adata, flavor="seurat_v3", batch_key="of", n_top_genes=9)


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger"])
def test_hvg__the_table_has_scanpys_bins(flavor: str) -> None:
    import scanpy as sc

    adata, twin = logged(), lazy(logged())
    theirs = sc.pp.highly_variable_genes(adata, flavor=flavor, inplace=False)
    ours = sd.pp.highly_variable_genes(twin, flavor=flavor, inplace=False)
    assert list(ours) == list(theirs) and ours["mean_bin"].dtype.name == theirs["mean_bin"].dtype.name == "category"
    np.testing.assert_array_equal(ours["mean_bin"].cat.codes, theirs["mean_bin"].cat.codes)
    sd.pp.highly_variable_genes(twin, flavor=flavor)
    assert "mean_bin" not in twin.var
