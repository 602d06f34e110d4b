"""``sd.explain``: what a call costs, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError, MissingKeyError
from sc_dask.log import stage
from sc_dask.testing import lazy, source_of
from tests.laws.registry import connected, counts, logged


def test_explain__passes_fall_with_what_is_known() -> None:
    adata = lazy(counts())
    assert sd.explain(adata, "pp.filter_cells", min_genes=3).passes == 1
    assert sd.explain(adata, "pp.normalize_total").passes == 1
    assert sd.explain(adata, "pp.normalize_total", target_sum=1e4).passes == 0
    sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    assert sd.explain(adata, "pp.filter_cells", min_genes=3).passes == 0
    assert sd.explain(adata, "pp.normalize_total").passes == 0
    assert sd.explain(adata, "pp.normalize_total", layer="spare").passes == 1
    sd.tl.rank_genes_groups(adata, "group", method="wilcoxon")
    assert sd.explain(adata, "tl.rank_genes_groups", groupby="group", method="wilcoxon").passes == 0


def test_explain__bytes_are_those_that_are_read(tmp_path: Path) -> None:
    made = sd.datasets.simulate(3000, 500, seed=0, out=tmp_path / "x.zarr")
    made.to_memory().write_h5ad(tmp_path / "x.h5ad")
    for name in ("x.zarr", "x.h5ad"):
        adata = sd.read(tmp_path / name)
        told = sd.explain(adata, "pp.calculate_qc_metrics", percent_top=None, inplace=True)
        with stage("qc") as s:
            sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
        assert told.bytes_read == pytest.approx(s.bytes_read, rel=0.1)


def test_explain__memory_grows_with_what_costs() -> None:
    def memory(adata: ad.AnnData, function: str, **arguments: Any) -> int:
        return sd.explain(adata, function, **arguments).memory

    rng = np.random.default_rng(0)
    wide = lazy(ad.AnnData(sp.csr_matrix(rng.poisson(0.2, (50, 3000)).astype(np.float32))))
    few = np.arange(3000) < 500
    assert memory(wide, "pp.pca", mask_var=few) < memory(wide, "pp.pca", mask_var=None)
    assert memory(wide, "pp.pca", mask_var=None) > 4 * 8 * 3000**2
    adata = lazy(logged())
    adata.obs["cell"] = [f"c{i}" for i in range(adata.n_obs)]
    many, three = (memory(adata, "tl.rank_genes_groups", groupby=key) for key in ("cell", "group"))
    assert many > three
    graph = lazy(connected())
    assert memory(graph, "tl.leiden", flavor="sc_dask") < memory(graph, "tl.leiden", flavor="leidenalg")


def test_explain__what_is_made_dense_of_an_x_in_memory_stays() -> None:
    in_memory, on_disk = (sd.explain(a, "pp.regress_out", keys=["depth"]) for a in (logged(), lazy(logged())))
    assert (in_memory.kept, on_disk.kept) == (4 * 90 * 60, 0)


def test_explain__says_whether_it_fits_the_budget() -> None:
    adata = lazy(counts())
    assert "budget" not in str(sd.explain(adata, "pp.log1p"))
    with dask.config.set({"sc-dask.memory": "1TiB"}):
        assert "; fits the budget of 1024.00 GiB" in str(sd.explain(adata, "pp.log1p"))
    with dask.config.set({"sc-dask.memory": "1MiB"}):
        told = sd.explain(adata, "pp.log1p")
    assert "DOES NOT FIT the budget of 1 MiB" in str(told) and told.peak > told.budget == 2**20


def test_explain__says_what_is_written() -> None:
    told = sd.explain(lazy(logged()), "sc_dask.pp.pca", n_comps=4)
    assert {"obsm['X_pca']", "varm['PCs']", "uns['pca']"} <= set(told.writes)
    assert "obsm['X_pca']" in str(told) and max(map(len, str(told).splitlines())) <= 110


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("pp.nope", {}, r"found no function 'pp.nope'; expected 'pp.' or 'tl.' and one of"),
        ("pca", {}, r"found no function 'pca'; expected a name such as 'pp.pca'"),
        ("os.system", {}, r"found no function 'os.system'"),
        ("pp.pca", {"ncomps": 3}, r"pp.pca: got an unexpected keyword argument 'ncomps'.*help\(sc_dask.pp.pca\)"),
        ("pp.combat", {"key": "batch", "covariates": 3, "more": 1}, "unexpected keyword argument 'more'"),
    ],
)
def test_explain__what_is_not_there(function: str, arguments: dict[str, Any], message: str) -> None:
    adata = lazy(logged())
    with pytest.raises(InputError, match=message):
        sd.explain(adata, function, **arguments)
    assert source_of(adata).rows_read == 0


def test_explain__is_of_raw_where_scanpy_takes_raw() -> None:
    adata = lazy(logged())
    adata.raw = logged()
    adata = adata[:, :20].copy()
    for function, more in (
        ("tl.rank_genes_groups", {"groupby": "group"}),
        ("tl.score_genes", {"gene_list": ["gene1"]}),
    ):
        default, raw, x = (sd.explain(adata, function, **more, use_raw=u).memory for u in (None, True, False))
        assert default == raw != x


def test_explain__logistic_regression_that_does_not_fit() -> None:
    adata = lazy(logged())
    assert sd.explain(adata, "tl.rank_genes_groups", groupby="group", method="logreg").passes == 1
    with dask.config.set({"sc-dask.memory": "10kB"}):
        told = sd.explain(adata, "tl.rank_genes_groups", groupby="group", method="logreg", max_iter=7)
    assert told.passes == 9


def test_explain__umap_of_x_and_dpt_without_a_map() -> None:
    adata = lazy(logged())
    sd.pp.neighbors(adata, 10, use_rep="X")
    assert sd.explain(adata, "tl.umap").passes == 1
    before = sd.explain(adata, "tl.dpt").memory
    sd.tl.diffmap(adata)
    assert sd.explain(adata, "tl.dpt").memory < before


def test_explain__numbers_are_no_groups() -> None:
    adata = lazy(logged())
    adata.obs["n"] = np.arange(adata.n_obs)
    one = [sd.explain(adata, "pp.regress_out", keys=keys).memory for keys in ("n", ["n"], ["depth"])]
    assert len(set(one)) == 1 and sd.explain(adata, "pp.regress_out", keys=["group"]).memory > one[0]
    listed = sd.explain(adata, "pp.pca", n_comps=3, mask_var=[i < 9 for i in range(60)]).memory
    assert listed < sd.explain(adata, "pp.pca", n_comps=3, mask_var=None).memory


def test_explain__backed(tmp_path: Path) -> None:
    connected().write_h5ad(tmp_path / "x.h5ad")
    assert sd.explain(ad.read_h5ad(tmp_path / "x.h5ad", backed="r"), "tl.leiden").passes == 0


def test_explain__writing_a_store() -> None:
    told = sd.explain(lazy(logged()), "write", path="x.zarr")
    assert told.passes == 2 and told.writes == ()


def test_explain__a_layer_that_is_not_there_and_no_x() -> None:
    with pytest.raises(MissingKeyError, match="no layer 'nope'"):
        sd.explain(lazy(logged()), "pp.pca", layer="nope")
    adata = connected()
    adata.X = None
    assert sd.explain(adata, "tl.umap").passes == 0
