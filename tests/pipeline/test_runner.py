"""A run from counts to markers: what it writes, from which inputs, and by which options."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError
from sc_dask.outside.anndata import named_layers
from tests.laws.compare import differences
from tests.pipeline.runs import (
    BLOCK_BYTES,
    NAMES,
    READ_IN_PLACE,
    SETTINGS,
    WRITERS,
    Finished,
    counts_in_memory,
    left_over,
    run_small,
    with_settings,
)

SLOTS = {
    "obs": {
        "batch", "leiden", "log1p_n_genes_by_counts", "log1p_total_counts", "log1p_total_counts_mt", "n_genes",
        "n_genes_by_counts", "pct_counts_in_top_20_genes", "pct_counts_in_top_50_genes", "pct_counts_mt",
        "total_counts", "total_counts_mt", "true_depth", "true_label",
    },
    "var": {
        "dispersions", "dispersions_norm", "highly_variable", "log1p_mean_counts", "log1p_total_counts", "mean_counts",
        "means", "mt", "n_cells", "n_cells_by_counts", "pct_dropout_by_counts", "total_counts", "true_marker_of",
    },
    "obsm": {"X_pca", "X_umap"},
    "varm": {"PCs"},
    "obsp": {"connectivities", "distances"},
    "uns": {
        "hvg", "leiden", "leiden_colors", "log1p", "neighbors", "pca", "rank_genes_groups", "sc_dask", "simulation",
        "umap",
    },
    "layers": {"counts"},
    "varp": set(),
}  # fmt: skip


# -- what is written -----------------------------------------------------------------------------


def test_run__report(finished: Finished) -> None:
    report = json.loads(Path(finished.result.json).read_text(), parse_constant=pytest.fail)
    assert report == finished.result.report
    assert set(report) == {
        "version", "versions", "input", "input_state", "output", "run", "files", "n_obs", "n_vars", "n_clusters",
        "recall", "warnings", "stages", "total",
    }  # fmt: skip
    assert report["versions"]["anndata"] == ad.__version__ and report["versions"]["sc-dask"] == sd.__version__
    stages = {s["name"]: s for s in report["stages"]}
    assert tuple(stages) == NAMES
    for s in stages.values():
        more = {"n_obs", "n_vars"} if s["name"] != "figures" else set()
        more |= {"kept"} if s["name"] == "filter" else set()
        assert set(s) == {"name", "seconds", "passes", "bytes_read", "peak_rss_bytes", "params", "warnings"} | more
        assert s["peak_rss_bytes"] > 50e6
        assert s["passes"] > 0 or s["bytes_read"] == 0
    assert stages["qc"]["params"]["percent_top"] == [20, 50]
    assert stages["pca"]["params"] == {"n_comps": 10, "svd_solver": "auto", "random_state": 0}
    assert stages["hvg"]["params"]["max_disp"] == "inf"
    to_pca = sum(stages[n]["passes"] for n in ("qc", "filter", "normalize", "hvg", "pca"))
    assert stages["qc"]["passes"] == stages["hvg"]["passes"] == stages["pca"]["passes"] == 1
    assert to_pca <= 4
    assert stages["markers"]["passes"] == 1
    assert stages["write"]["passes"] <= 2
    counts = ad.read_zarr(finished.source).X.toarray()
    cells = (counts > 0).sum(axis=1) >= 40
    genes = (counts[cells] > 0).sum(axis=0) >= 3
    shapes = [(s["n_obs"], s["n_vars"]) for s in (*stages["filter"]["kept"], stages["qc"], report)]
    assert [k["bound"] for k in stages["filter"]["kept"]] == ["min_genes 40", "min_cells 3"]
    assert shapes == [(cells.sum(), 300), (cells.sum(), genes.sum()), (420, 300), (cells.sum(), genes.sum())]
    assert report["recall"] == 1 and report["n_clusters"] == finished.adata.obs["leiden"].nunique()
    assert report["warnings"] == []
    total = report["total"]
    assert total["bytes_read"] > 0
    assert set(total) == {"seconds", "passes", "bytes_read", "peak_rss_bytes"}
    assert total["passes"] == pytest.approx(sum(s["passes"] for s in stages.values()))
    assert total["bytes_read"] == sum(s["bytes_read"] for s in stages.values())
    assert total["peak_rss_bytes"] == max(s["peak_rss_bytes"] for s in stages.values())
    assert total["seconds"] >= sum(s["seconds"] for s in stages.values())


def test_run__slots_are_scanpys(finished: Finished) -> None:
    adata = finished.adata
    assert {slot: set(getattr(adata, slot).keys()) - {None} for slot in SLOTS} == SLOTS
    assert sp.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert isinstance(adata.obs["leiden"].dtype, pd.CategoricalDtype)
    about = adata.uns["sc_dask"]
    assert about["version"] == sd.__version__
    assert about["input"] == str(finished.source)
    assert sd.pipeline.Settings.of(json.loads(about["settings"])) == sd.pipeline.Settings.of(SETTINGS)


def test_run__scanpy_works_on_the_result(finished: Finished) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import scanpy as sc

    adata = finished.adata
    table = sc.get.rank_genes_groups_df(adata, None)
    assert set(table["group"]) == set(adata.obs["leiden"].cat.categories)
    gene = table["names"][0]
    assert sc.get.obs_df(adata, ["leiden", gene]).shape == (adata.n_obs, 2)
    sc.pl.umap(adata, color=["leiden", "pct_counts_mt"], show=False)
    sc.pl.rank_genes_groups(adata, show=False)
    sc.pl.pca_variance_ratio(adata, show=False)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, key_added="again", directed=False)
    quality = [sd.metrics.modularity(adata.obsp["connectivities"], adata.obs[k]) for k in ("leiden", "again")]
    assert quality[0] > quality[1] - 0.01


def test_run__counts_are_those_of_the_input(finished: Finished) -> None:
    adata = finished.adata
    counts = ad.read_zarr(finished.source)[adata.obs_names, adata.var_names].X
    assert (adata.layers["counts"] != counts).nnz == 0 and adata.layers["counts"].dtype == counts.dtype
    assert {s["name"]: s["passes"] for s in finished.result.report["stages"]}["write"] < 1.6
    import scanpy as sc

    again = ad.AnnData(counts.astype(np.float32), obs=adata.obs[[]], var=adata.var[[]])
    sc.pp.normalize_total(again, target_sum=1e4)
    sc.pp.log1p(again)
    assert abs(again.X - adata.X).max() < 1e-5


def test_run__colours_are_scanpys(finished: Finished) -> None:
    from scanpy.plotting import palettes

    from sc_dask.pipeline.figures import default_colors

    n = finished.adata.obs["leiden"].nunique()
    assert list(finished.adata.uns["leiden_colors"]) == palettes.default_20[:n]
    for palette in (palettes.default_20, palettes.default_28, palettes.default_102):
        assert list(default_colors(len(palette))) == [c.lower() for c in palette]
    assert len(set(default_colors(300))) == 300


@pytest.mark.usefixtures("no_figures")
def test_run__counts_may_be_left_out(store: Path, finished: Finished, tmp_path: Path) -> None:
    result = run_small(store, tmp_path / "result.zarr", settings=with_settings(write={"counts": False}))
    adata, expected = ad.read_zarr(result.store), finished.adata
    del adata.uns["sc_dask"], expected.uns["sc_dask"], expected.layers["counts"]
    assert differences(adata, expected) == []


@pytest.mark.usefixtures("no_figures")
def test_run__counts_of_the_input_stay(old: Path, store: Path, tmp_path: Path) -> None:
    settings = with_settings(input={"layer": "whole"}, qc={"mt_prefix": "NONE"})
    adata = ad.read_zarr(old)
    adata.layers["whole"] = adata.layers["counts"] * 2
    adata.write_zarr(tmp_path / "two.zarr")
    result = run_small(tmp_path / "two.zarr", tmp_path / "out" / "result.zarr", settings=settings)
    made = ad.read_zarr(result.store)
    assert (made.layers["counts"] != ad.read_zarr(store)[made.obs_names, made.var_names].X).nnz == 0
    said = json.loads(Path(result.json).read_text())["warnings"]
    assert len(said) == 2
    assert said[0].startswith("qc: no gene name starts with 'NONE'")
    assert said[1].startswith("write: layers['counts'] of the input stays")


def test_run__files_beside_the_store(finished: Finished) -> None:
    assert left_over(finished.folder) == set()
    assert {p.name for p in (finished.folder / "figures").iterdir()} == {
        "hvg_scatter.png", "markers_dotplot.png", "pca_variance_ratio.png", "qc_scatter.png", "qc_violins.png",
        "umap_leiden.png", "umap_qc.png",
    }  # fmt: skip
    assert {Path(p) for p in finished.result.figures} == set((finished.folder / "figures").iterdir())
    table = pd.read_csv(str(finished.result.markers))
    expected = sd.get.rank_genes_groups_df(finished.adata)
    assert list(table) == list(expected)
    assert list(table["names"]) == list(expected["names"])
    np.testing.assert_allclose(table["scores"], expected["scores"], rtol=1e-5)
    assert table.groupby("group").size().eq(100).all()


def test_run__is_the_verbs_in_turn(finished: Finished) -> None:
    adata = ad.read_zarr(finished.source)
    adata.var["mt"] = adata.var_names.str.startswith("MT-")
    sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=(20, 50), inplace=True)
    sd.pp.filter_cells(adata, min_genes=40)
    sd.pp.filter_genes(adata, min_cells=3)
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata)
    sd.pp.pca(adata, n_comps=10)
    sd.pp.neighbors(adata)
    sd.tl.leiden(adata, flavor="sc_dask", n_iterations=2)
    sd.tl.umap(adata, maxiter=20, init_pos="multilevel")
    sd.tl.rank_genes_groups(adata, "leiden", n_genes=100, pts=True)
    result = finished.adata
    del result.uns["sc_dask"], result.uns["leiden_colors"], result.layers["counts"]
    names = [x.uns["rank_genes_groups"].pop("names") for x in (result, adata)]
    for group in adata.obs["leiden"].cat.categories:  # the last bits of scores decide the order of like ones
        assert len(set(names[0][group]) & set(names[1][group])) >= 98
    # told apart: None or 1 and its float; 20 rounds of UMAP magnify the last bits of X_pca
    apart = {"uns/log1p/base", "uns/leiden/params/resolution", "obsm/X_umap"}
    assert [
        d for d in differences(result, adata, rtol=1e-4) if d not in apart and not d.startswith("uns/pca/params")
    ] == []


@pytest.mark.usefixtures("no_figures")
def test_run__listener_is_told_of_stages_and_blocks(store: Path, tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    blocks = set()

    class Listener:
        def on_stage(self, stage: sd.log.Stage) -> None:
            told.append(("stage", stage.name))
            blocks.add(sd.config.n_bytes("block-bytes"))

        def on_end(self, stage: sd.log.Stage) -> None:
            told.append(("end", stage.name))

        def on_pass(self, stage: str, label: str, n_blocks: int) -> None:
            told.append(("pass", stage, label, n_blocks))

        def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None:
            told.append(("block", stage, done, n_blocks))

    options = {"listener": Listener(), "memory": 2**33, "json_path": tmp_path / "reports" / "a.json"}
    result = run_small(store, tmp_path / "out" / "result.zarr", **options)
    assert [t[1] for t in told if t[0] == "stage"] == [t[1] for t in told if t[0] == "end"] == list(NAMES)
    ((_, _, label, n_blocks),) = [t for t in told if t[:2] == ("pass", "qc")]
    assert label == "qc"
    assert n_blocks > 3
    assert [t[2:] for t in told if t[:2] == ("block", "qc")] == [(i, n_blocks) for i in range(1, n_blocks + 1)]
    assert blocks == {BLOCK_BYTES}
    assert sd.config.n_bytes("block-bytes") == 48 * 2**20
    assert result.json == str(tmp_path / "reports" / "a.json")
    assert json.loads(Path(result.json).read_text()) == result.report
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("kind", ["counts", "none"])
def test_run__what_x_holds(kind: str, store: Path, finished: Finished, tmp_path: Path) -> None:
    result = run_small(store, tmp_path / "result.zarr", settings=with_settings(write={"x": kind}))
    adata, normalized = ad.read_zarr(result.store), finished.adata
    assert "log1p" not in adata.uns
    if kind == "none":
        assert adata.X is None
        assert {s["name"]: s["passes"] for s in result.report["stages"]}["write"] == 0
    else:
        counts = counts_in_memory(store)[adata.obs_names, adata.var_names].X
        assert (counts != adata.X).nnz == 0
    assert not dict(named_layers(adata))
    assert (adata.obs["leiden"] == normalized.obs["leiden"]).all()
    np.testing.assert_array_equal(adata.obsm["X_pca"], normalized.obsm["X_pca"])


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawing out where only the store matters."""
    monkeypatch.setattr("sc_dask.pipeline.runner.make_figures", lambda adata: {})


QUICK_KINDS = ("h5ad", "h5ad csc", "10x h5", "10x mtx")

# -- inputs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run of the counts with nothing but names, which all formats can hold."""
    folder = tmp_path_factory.mktemp("bare")
    counts_in_memory(store).write_zarr(folder / "counts.zarr")
    result = run_small(folder / "counts.zarr", folder / "out" / "result.zarr")
    return Finished(result, folder / "counts.zarr", folder / "out")


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("kind", [k if k in QUICK_KINDS else pytest.param(k, marks=pytest.mark.slow) for k in WRITERS])
def test_run__every_format_gives_the_same(kind: str, bare: Finished, tmp_path: Path) -> None:
    source = WRITERS[kind](ad.read_zarr(bare.source), tmp_path)
    result = run_small(source, tmp_path / "out" / "result.zarr")
    names = tuple(s["name"] for s in result.report["stages"])
    assert names == (NAMES if kind in READ_IN_PLACE else ("convert", *NAMES))
    adata, expected = ad.read_zarr(result.store), bare.adata
    for other in (adata, expected):
        del other.uns["sc_dask"]
    for column in ("gene_ids", "feature_types", "genome"):
        adata.var.pop(column) if column in adata.var else None
    adata.obs.index.name = adata.var.index.name = None
    if kind == "h5ad dense":
        adata.X = sp.csr_matrix(adata.X)
    for frame in ("obs", "var"):  # of integers where the format has them
        getattr(adata, frame)["total_counts"] = getattr(adata, frame)["total_counts"].astype(np.float32)
    adata.obs["total_counts_mt"] = adata.obs["total_counts_mt"].astype(np.float32)
    for x in (adata, expected):  # of the type that the file has
        x.layers["counts"] = sp.csr_matrix(x.layers["counts"]).astype(np.float32)
    names = [x.uns["rank_genes_groups"].pop("names") for x in (adata, expected)]
    assert [names[0][g][0] for g in names[0].dtype.names] == [names[1][g][0] for g in names[1].dtype.names]
    # blocks are cut at other cells: the last bits of float sums differ
    assert [d for d in differences(adata, expected, rtol=1e-4) if d != "obsm/X_umap"] == []
    assert left_over(tmp_path / "out") == set()


def test_run__pbmc3k(pbmc3k_dir: Path, tmp_path: Path) -> None:
    settings = {
        "filter": {"min_genes": 200, "min_cells": 3, "max_genes": 2499, "max_pct_mt": 4.9999},
        "umap": {"maxiter": 20},
    }
    result = sd.pipeline.run(pbmc3k_dir, tmp_path / "result.zarr", settings=settings)
    adata = ad.read_zarr(result.store)
    assert adata.shape == (2638, 13714)
    assert adata.var["highly_variable"].sum() == 1838
    assert sum(s["passes"] for s in result.report["stages"][1:6]) <= 4
    assert 6 <= adata.obs["leiden"].nunique() <= 10


# -- options -------------------------------------------------------------------------------------


@pytest.fixture
def old(store: Path, tmp_path: Path) -> Path:
    """A store that an earlier analysis has left: other X, counts in a layer and in raw, columns and slots."""
    adata = ad.read_zarr(store)
    del adata.uns["simulation"]
    adata.raw = adata
    adata.layers["counts"] = adata.X.copy()
    adata.layers["halves"] = adata.X / 2
    adata = adata[:, 10:].copy()
    adata.X = sp.csr_matrix(np.log1p(adata.X.astype(np.float32)))
    adata.obs["leiden"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, "x", "y"))
    adata.uns |= {
        "log1p": {"base": None},
        "leiden_colors": np.array(["#111111", "#222222"]),
        "rank_genes_groups": {"params": {"groupby": "leiden"}},
        "mine": np.arange(3),
    }
    adata.var["highly_variable_nbatches"] = 7
    adata.obsm["X_pca"] = np.zeros((adata.n_obs, 3))
    adata.obsm["mine"] = np.arange(adata.n_obs)[:, None] * 1.0
    adata.write_zarr(tmp_path / "old.zarr")
    return tmp_path / "old.zarr"


@pytest.mark.usefixtures("no_figures")
def test_run__layer_of_an_analysed_store(old: Path, store: Path, tmp_path: Path) -> None:
    result = run_small(old, tmp_path / "out" / "result.zarr", settings=with_settings(input={"layer": "counts"}))
    adata = ad.read_zarr(result.store)
    part = ad.read_zarr(store)[:, 10:].copy()
    del part.uns["simulation"]
    part.write_zarr(tmp_path / "part.zarr")
    fresh = run_small(tmp_path / "part.zarr", tmp_path / "fresh" / "result.zarr")
    assert adata.raw is None
    assert set(dict(named_layers(adata))) == {"counts", "halves"}
    counts = ad.read_zarr(store)[adata.obs_names, adata.var_names].X
    assert (adata.layers["counts"] != counts).nnz == 0
    assert list(adata.uns["mine"]) == [0, 1, 2]
    assert adata.obsm["mine"][:, 0].tolist() == [float(i) for i in range(420) if f"cell_{i:03d}" in adata.obs_names]
    for key in ("layers", "uns", "obsm"):
        for name in ("counts", "halves", "mine"):
            getattr(adata, key).pop(name, None)
    expected = ad.read_zarr(fresh.store)
    del expected.layers["counts"]
    del adata.uns["sc_dask"], expected.uns["sc_dask"]
    assert differences(adata, expected) == []  # highly_variable_nbatches and the rest are gone


@pytest.mark.usefixtures("no_figures")
def test_run__raw_of_an_analysed_store(old: Path, finished: Finished, tmp_path: Path) -> None:
    result = run_small(old, tmp_path / "out" / "result.zarr", settings=with_settings(input={"use_raw": True}))
    adata, expected = ad.read_zarr(result.store), finished.adata
    assert adata.raw is None
    del adata.uns["sc_dask"], expected.uns["sc_dask"], adata.uns["mine"], adata.obsm["mine"], expected.uns["simulation"]
    assert differences(adata, expected) == []


@pytest.mark.usefixtures("no_figures")
def test_run__old_clusters_as_batches(old: Path, tmp_path: Path) -> None:
    settings = with_settings(input={"layer": "counts"}, hvg={"batch_key": "leiden"})
    adata = ad.read_zarr(run_small(old, tmp_path / "out" / "result.zarr", settings=settings).store)
    assert set(adata.var["highly_variable_nbatches"]) <= {0, 1, 2}
    assert not {"x", "y"} & set(adata.obs["leiden"])


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("sections", "passes"),
    [
        pytest.param({"hvg": {"flavor": "seurat_v3", "n_top_genes": 100}}, {"hvg": 2}, marks=pytest.mark.slow),
        ({"hvg": {"flavor": "seurat_v3", "n_top_genes": 100, "batch_key": "batch"}}, {"hvg": 2}),
        pytest.param(
            {"hvg": {"flavor": "cell_ranger", "n_top_genes": 100, "batch_key": "batch"}},
            {"hvg": 1},
            marks=pytest.mark.slow,
        ),
        ({"normalize": {"target_sum": None}}, {"normalize": 1, "hvg": 1}),
        ({"pca": {"svd_solver": "randomized", "random_state": 5}}, {"pca": 1}),
        ({"filter": {"min_genes": None, "min_cells": None}}, {"filter": 0}),
        ({"qc": {"mt_prefix": "gene_00", "percent_top": []}}, {"qc": 1}),
    ],
)
def test_run__options_reach_the_verbs(sections: dict, passes: dict, store: Path, tmp_path: Path) -> None:
    result = run_small(store, tmp_path / "result.zarr", settings=with_settings(**sections))
    measured = {s["name"]: s["passes"] for s in result.report["stages"]}
    for name, n in passes.items():
        assert measured[name] <= n
    adata = ad.read_zarr(result.store)
    plan = sd.pipeline.plan(sd.io.info.info(store), sd.pipeline.Settings.of(with_settings(**sections)))
    for st in plan.stages:
        assert measured[st.name] <= st.passes + 1e-6, st.name
    if "hvg" in sections:
        assert adata.uns["hvg"]["flavor"] == sections["hvg"]["flavor"]
        assert adata.var["highly_variable"].sum() == 100
        assert ("highly_variable_nbatches" in adata.var) == ("batch_key" in sections["hvg"])
    if "normalize" in sections:
        sums = np.expm1(adata.X.astype(np.float64)).sum(axis=1)
        counts = ad.read_zarr(store)[adata.obs_names, adata.var_names].X.sum(axis=1)
        np.testing.assert_allclose(np.asarray(sums).ravel(), np.median(np.asarray(counts)), rtol=1e-5)
    if "filter" in sections:
        assert adata.shape == ad.read_zarr(store).shape
    if "qc" in sections:
        assert adata.var["mt"].sum() == sum(g.startswith("gene_00") for g in adata.var_names) > 0
        assert not any("in_top" in c for c in adata.obs)


@pytest.mark.usefixtures("no_figures")
def test_run__repeated_symbols_of_10x_are_numbered(store: Path, tmp_path: Path) -> None:
    adata = counts_in_memory(store)
    adata.var_names = ["DUP" if i < 3 else g for i, g in enumerate(adata.var_names)]
    source = WRITERS["10x h5"](adata, tmp_path)
    made = ad.read_zarr(run_small(source, tmp_path / "out" / "result.zarr").store)
    assert {"DUP", "DUP-1", "DUP-2"} <= set(made.var_names)


@pytest.mark.usefixtures("no_figures")
def test_run__one_cluster_has_no_markers(store: Path, tmp_path: Path) -> None:
    run_small(store, tmp_path / "result.zarr")
    settings = with_settings(leiden={"resolution": 1e-9})
    result = run_small(store, tmp_path / "result.zarr", settings=settings, overwrite=True)
    assert result.markers is None
    assert not (tmp_path / "markers.csv").exists()
    assert "rank_genes_groups" not in ad.read_zarr(result.store).uns


@pytest.mark.usefixtures("no_figures")
def test_run__overwrite_replaces(store: Path, finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "out")
    out = tmp_path / "out" / "result.zarr"
    with pytest.raises(sd.errors.StoreError, match="is there already.*--overwrite"):
        run_small(store, out, settings=with_settings(pca={"n_comps": 5}))
    assert differences(ad.read_zarr(out), finished.adata) == []
    result = run_small(store, out, settings=with_settings(pca={"n_comps": 5}), overwrite=True)
    assert ad.read_zarr(result.store).obsm["X_pca"].shape[1] == 5
    assert left_over(tmp_path / "out") == set()


def test_run__two_at_once_are_refused(store: Path, tmp_path: Path) -> None:
    class Second:
        """Starts the same run from within."""

        def on_stage(self, stage: sd.log.Stage) -> None:
            if stage.name == "hvg":
                run_small(store, tmp_path / "result.zarr")

        def on_end(self, stage: sd.log.Stage) -> None: ...
        def on_pass(self, stage: str, label: str, n_blocks: int) -> None: ...
        def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None: ...

    with pytest.raises(sd.errors.StoreError, match="another run works in .*result.zarr.work"):
        run_small(store, tmp_path / "result.zarr", listener=Second())


def test_csv__is_plain(finished: Finished) -> None:
    text = Path(str(finished.result.markers)).read_text()
    assert text.splitlines()[0].startswith("group,names,scores,logfoldchanges,pvals,pvals_adj")
    assert pd.read_csv(io.StringIO(text)).notna().all().all()


def test_result__settings_may_be_an_object(store: Path) -> None:
    with pytest.raises(InputError, match="unknown section"):
        sd.pipeline.run(store, "never.zarr", settings={"nothing": {}})
