"""What plots read, refuse, write and return; classes; a sample; many points."""

from __future__ import annotations

import base64
import inspect
import io
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")
import dask
import matplotlib.pyplot as plt

import sc_dask as sd
from sc_dask.array.gene_major import genes
from sc_dask.errors import MemoryBudgetError
from sc_dask.pl import sample
from sc_dask.pl.draw import arguments
from sc_dask.pl.shown import names_in, small
from sc_dask.pl.table import PLOTS
from sc_dask.testing import lazy, source_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture
def cells() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"kind": pd.Categorical(rng.choice(list("abc"), 90))}, index=[f"c{i}" for i in range(90)])
    obs["text"] = pd.Series(rng.choice(["x", "y"], 90), index=obs.index, dtype=object)
    adata = ad.AnnData(
        rng.poisson(1.0, (90, 70)).astype(np.float32), obs, pd.DataFrame(index=[f"g{i}" for i in range(70)])
    )
    adata.obsm["X_umap"] = rng.normal(size=(90, 2)).astype(np.float32)
    adata.obsm["X_pca"] = rng.normal(size=(90, 5)).astype(np.float32)
    yield adata
    plt.close("all")


def test_small__holds_the_genes_that_are_shown_only(cells: ad.AnnData) -> None:
    adata = lazy(cells)
    part = small(adata, PLOTS["umap"], {"color": ["g5", "kind", ("g60",)]})
    assert list(part.var_names) == ["g5", "g60"]
    np.testing.assert_array_equal(part.X, cells.X[:, [5, 60]])
    assert source_of(adata).passes == 1


def test_small__without_a_gene_reads_nothing(cells: ad.AnnData) -> None:
    adata = lazy(cells)
    sd.pl.umap(adata, color=["kind", None], show=False)
    assert source_of(adata).passes == 0


def test_small__genes_are_not_read_again_where_there_is_a_gene_major_copy(cells: ad.AnnData) -> None:
    adata = lazy(cells)
    genes.map_cols(lambda tile: np.asarray(tile.sum(axis=0)).ravel(), adata.X)  # makes the copy
    try:
        source_of(adata).forget()
        part = small(adata, PLOTS["umap"], {"color": ["g9", "g3"]})
        assert source_of(adata).passes == 0
        np.testing.assert_array_equal(part.X, cells.X[:, [3, 9]])
    finally:
        genes.forget()


def test_names_in__any_nesting() -> None:
    value = {"a": ["x", ("y",)], "b": pd.Index(["z"]), "c": np.array(["u"]), "d": pd.Series(["v"]), "e": 3}
    assert list(names_in(value)) == ["x", "y", "z", "u", "v"]
    assert list(names_in(np.arange(3))) == []


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("umap", {"color": ["g1", "nothing"]}),
    ("umap", {"color": "g1", "layer": "nothing"}),
    ("umap", {"color": "g1", "use_raw": True}),
    ("embedding", {"basis": "nothing", "color": "g1"}),
    ("scatter", {"x": "g1", "y": "nothing"}),
    ("dotplot", {"var_names": ["g1", "nothing"], "groupby": "kind"}),
    ("dotplot", {"var_names": "g1", "groupby": "kind", "layer": "nothing"}),
    ("violin", {"keys": ["g1", "nothing"]}),
    ("heatmap", {"var_names": "nothing", "groupby": "kind"}),
    ("rank_genes_groups_dotplot", {}),
    ("rank_genes_groups_violin", {"key": "nothing"}),
    ("paga", {"color": "g1"}),
    ("draw_graph", {"color": "g1", "layout": "fr"}),
]


@pytest.mark.parametrize(("name", "given"), REFUSED, ids=[f"{n}-{list(g)}" for n, g in REFUSED])
def test_plot__bad_input_is_refused_as_scanpy_does_before_a_pass(
    name: str, given: dict[str, Any], cells: ad.AnnData
) -> None:
    import scanpy as sc

    with pytest.raises(Exception) as theirs:
        getattr(sc.pl, name)(cells.copy(), **given, show=False)
    adata = lazy(cells)
    with pytest.raises(theirs.type):
        getattr(sd.pl, name)(adata, **given, show=False)
    assert source_of(adata).passes == 0


def test_plot__more_than_memory_is_refused_before_a_pass(cells: ad.AnnData) -> None:
    adata = lazy(cells)
    with dask.config.set({"sc-dask.memory": "1KiB"}), pytest.raises(MemoryBudgetError, match="genes of 90 cells"):
        sd.pl.umap(adata, color="g1", show=False)
    assert source_of(adata).passes == 0


def test_plot__writes_colours_and_text_as_category(cells: ad.AnnData) -> None:
    import scanpy as sc

    adata = lazy(cells)
    sd.pl.umap(adata, color=["kind", "text"], show=False)
    sc.pl.umap(cells, color=["kind", "text"], show=False)
    for key in ("kind", "text"):
        assert list(adata.uns[f"{key}_colors"]) == list(cells.uns[f"{key}_colors"])
    pd.testing.assert_series_equal(adata.obs["text"], cells.obs["text"])


def test_plot__keeps_what_uns_held_nested(cells: ad.AnnData) -> None:
    cells.uns["paga"] = {"groups": "kind", "mine": 1}
    adata = lazy(cells)
    part = small(adata, PLOTS["paga"], {"color": None})
    part.uns["paga"]["pos"] = 1
    assert "pos" not in adata.uns["paga"]  # it is written by slots, if at all


def test_dendrogram__is_that_of_all_genes(cells: ad.AnnData) -> None:
    import scanpy as sc

    adata = lazy(cells)
    plot = sd.pl.dotplot(adata, ["g1", "g2"], "kind", return_fig=True)
    assert "dendrogram_kind" not in adata.uns
    plot.add_dendrogram().make_figure()
    sc.tl.dendrogram(cells, "kind")
    want, got = cells.uns["dendrogram_kind"], adata.uns["dendrogram_kind"]
    np.testing.assert_allclose(got["correlation_matrix"], want["correlation_matrix"], atol=1e-6)


@pytest.mark.parametrize("name", ["DotPlot", "MatrixPlot", "StackedViolin"])
def test_classes__are_scanpys_on_what_they_show(name: str, cells: ad.AnnData) -> None:
    import scanpy as sc

    adata = lazy(cells)
    ours, theirs = (getattr(m.pl, name)(a, ["g3", "g1"], groupby="kind") for m, a in ((sd, adata), (sc, cells)))
    assert isinstance(ours, getattr(sc.pl, name))
    pd.testing.assert_frame_equal(ours.obs_tidy, theirs.obs_tidy)
    assert ours.adata.n_vars == 2 and source_of(adata).passes == 1
    ours.add_totals().add_dendrogram().style().make_figure()
    lower = {"DotPlot": "dotplot", "MatrixPlot": "matrixplot", "StackedViolin": "stacked_violin"}[name]
    made = getattr(sd.pl, lower)(lazy(cells), ["g3"], "kind", return_fig=True)
    assert isinstance(made, getattr(sd.pl, name))
    assert isinstance(getattr(sd.pl, name)(cells, ["g3"], groupby="kind"), getattr(sc.pl, name))


def test_signature__is_scanpys() -> None:
    import scanpy as sc

    for name in set(PLOTS) & set(dir(sc.pl)):
        theirs = getattr(sc.pl, name)
        if inspect.isfunction(theirs):
            assert inspect.signature(getattr(sd.pl, name)) == inspect.signature(theirs)
    assert list(arguments(sc.pl.violin, (1, "g1"), {"show": False}))[:2] == ["adata", "keys"]


def test_backed__is_drawn_without_reading_all(cells: ad.AnnData, tmp_path: Path) -> None:
    cells.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    sd.pl.umap(backed, color="g1", show=False)
    np.testing.assert_allclose(np.sort(plt.gcf().axes[0].collections[0].get_array()), np.sort(cells.X[:, 1]))
    assert backed.isbacked


def test_sample__keeps_shares_and_small_groups(cells: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    kind = np.repeat(["many", "few"], [900, 60])
    adata = ad.AnnData(
        np.zeros((960, 1), np.float32), pd.DataFrame({"kind": kind}, index=[f"c{i}" for i in range(960)])
    )
    rows = sample.cells(adata, "kind", 100)
    assert (np.diff(rows) > 0).all()
    assert dict(zip(*np.unique(kind[rows], return_counts=True), strict=True)) == {"few": 50, "many": 93}
    assert sample.cells(adata, "kind", 960) is None
    assert len(sample.cells(adata, None, 100)) == 100


def test_heatmap__of_more_cells_draws_a_sample_and_reads_no_other(
    cells: ad.AnnData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.arange(0, 90, 3)
    monkeypatch.setattr(sample, "cells", lambda adata, groupby: rows)
    adata = lazy(cells)
    with caplog.at_level("INFO", "sc_dask"):
        sd.pl.heatmap(adata, ["g1", "g2"], "kind", show=False)
    assert "drawing 30 of 90 cells" in caplog.text
    image = next(ax.images[0] for ax in plt.gcf().axes if ax.images and ax.images[0].get_array().shape == (30, 2))
    np.testing.assert_array_equal(np.sort(image.get_array()[:, 0]), np.sort(cells.X[rows, 1]))
    assert source_of(adata).passes <= 1


def test_many_points__look_as_matplotlib_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from sc_dask.pl.points import PointsAsImage, as_image

    rng = np.random.default_rng(0)
    for size in (0.3, 8, 120):
        pictures = []
        for n_points in (10**9, 1):
            figure, ax = plt.subplots(figsize=(3, 3), dpi=100)
            with as_image(n_points):
                xy = np.random.default_rng(1).normal(size=(2000, 2))
                ax.scatter(*xy.T, c=xy[:, 0], s=size, edgecolors="none", marker=".", alpha=0.8)
            figure.canvas.draw()
            pictures.append(np.asarray(figure.canvas.buffer_rgba()).astype(float))
        assert isinstance(ax.collections[0], PointsAsImage)
        assert np.abs(pictures[0] - pictures[1]).mean() < 1.5  # of 255
        assert np.abs(pictures[0].mean() - pictures[1].mean()) < 0.5
    assert rng is not None


def test_many_points__are_an_image_between_text(cells: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    from sc_dask.pl import draw

    monkeypatch.setattr(draw, "POINTS", 50)
    sd.pl.umap(lazy(cells), color="g1", show=False)
    figure, out = plt.gcf(), io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(out, format="svg")
    svg = out.getvalue()
    assert svg.count("<image") >= 1 and ">UMAP1<" in svg and svg.count("<use") < 60  # no marker for each cell
    assert len(figure.axes[0].collections[0].get_offsets()) == 90
    figure.savefig(io.BytesIO(), format="pdf")


def test_many_points__are_as_fine_as_the_file(cells: ad.AnnData) -> None:
    from sc_dask.pl.points import as_image

    widths = []
    figure, ax = plt.subplots(figsize=(3, 3))
    with warnings.catch_warnings(), as_image(1):
        warnings.simplefilter("error")
        ax.scatter([0, 1], [0, 1], s=5, edgecolors="none", marker=".")
    for dpi in (72, 288):
        out = io.StringIO()
        figure.savefig(out, format="svg", dpi=dpi)
        png = base64.b64decode(re.search(r'base64,\s*([^"]+)"', out.getvalue()).group(1))
        widths.append(int.from_bytes(png[16:20], "big"))
    assert 3.5 < widths[1] / widths[0] < 4.5


def test_unknown_plot__is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no plot 'pie'; its plots: .*umap"):
        _ = sd.pl.pie
    assert not hasattr(sd.pl, "_nothing")


def test_without_scanpy__the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['scanpy'] = None\n"
        "import sc_dask as sd\n"
        "assert 'umap' in dir(sd.pl); plot = sd.pl.umap\n"
        "try: plot(None)\n"
        "except ImportError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert "pip install 'sc-dask[plot]'" in done.stdout, done.stderr
