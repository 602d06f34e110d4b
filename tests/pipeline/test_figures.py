from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from sc_dask.array.blocks import from_source
from sc_dask.array.source import BlockSource
from sc_dask.pipeline import figures, scatter
from sc_dask.pipeline.figures import DPI, make_figures

ALL = {
    "qc_violins.png",
    "qc_scatter.png",
    "hvg_scatter.png",
    "pca_variance_ratio.png",
    "umap_leiden.png",
    "umap_qc.png",
    "markers_dotplot.png",
}
INCHES = {
    "qc_violins.png": (9.0, 3.8),
    "qc_scatter.png": (5.8, 4.6),
    "hvg_scatter.png": (9.2, 4.4),
    "pca_variance_ratio.png": (8.4, 3.8),
    "umap_qc.png": (13.2, 4.0),
}


@dataclass(frozen=True)
class Unreadable(BlockSource):
    """A matrix that nobody may look at."""

    shape: tuple[int, int]
    dtype: np.dtype[Any] = np.dtype(np.float32)
    is_sparse: bool = True
    token: str = "unreadable"

    def read(self, start: int, stop: int) -> Any:
        raise AssertionError("a figure read X")


def atlas(n_obs: int = 400, n_groups: int = 4, n_vars: int = 60, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    codes = np.arange(n_obs) % n_groups
    centres = rng.normal(0, 8, (n_groups, 2))
    counts = rng.lognormal(8, 0.5, n_obs)
    names = [str(i) for i in range(n_groups)]
    genes = [f"gene_{i}" for i in range(n_vars)]
    obs = {
        "total_counts": counts,
        "n_genes_by_counts": (counts**0.85 * rng.lognormal(0, 0.1, n_obs)).astype(int),
        "pct_counts_mt": rng.lognormal(1, 0.5, n_obs),
        "leiden": pd.Categorical.from_codes(codes, names),
    }
    means = rng.lognormal(-1, 1, n_vars)
    var = {
        "means": means,
        "dispersions": means * rng.lognormal(0, 0.5, n_vars),
        "dispersions_norm": rng.normal(size=n_vars).astype(np.float32),
        "highly_variable": np.arange(n_vars) % 3 == 0,
    }
    records = {"names": object, "logfoldchanges": np.float32}
    ranked = {key: np.empty(n_vars, [(g, kind) for g in names]) for key, kind in records.items()}
    for g in names:
        ranked["names"][g], ranked["logfoldchanges"][g] = rng.permutation(genes), np.linspace(4, -4, n_vars)
    pts = pd.DataFrame(rng.random((n_vars, n_groups)), genes, names)
    return ad.AnnData(
        from_source(Unreadable((n_obs, n_vars)), np.asarray([0, n_obs])),
        obs=pd.DataFrame(obs, index=pd.RangeIndex(n_obs).astype(str)),
        var=pd.DataFrame(var, index=genes),
        obsm={"X_umap": (centres[codes] + rng.normal(size=(n_obs, 2))).astype(np.float32)},
        uns={
            "hvg": {"flavor": "cell_ranger"},
            "pca": {"variance_ratio": 0.1 / np.arange(1, 31)},
            "rank_genes_groups": {"params": {"groupby": "leiden"}, **ranked, "pts": pts},
        },
    )


def umap(n_obs: int, n_groups: int) -> ad.AnnData:
    """Clusters and positions alone: one figure."""
    full = atlas(n_obs, n_groups, 2)
    return ad.AnnData(obs=full.obs[["leiden"]], obsm={"X_umap": full.obsm["X_umap"]})


def picture(png: bytes) -> np.ndarray:
    """Return red, green and blue of a PNG (height, width, 3)."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return imread(io.BytesIO(png), format="png")[..., :3]


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    return make_figures(atlas())


def test_figures__all_are_drawn_without_reading_x(drawn: dict[str, bytes]) -> None:
    assert set(drawn) == ALL


@pytest.mark.parametrize("name", sorted(ALL))
def test_figures__are_pictures_on_white(drawn: dict[str, bytes], name: str) -> None:
    rgb = picture(drawn[name])
    assert (rgb[0] == 1).all() and (rgb[:, 0] == 1).all()  # the margin is white: nothing is cut off
    inked = (rgb < 1).any(axis=2)
    assert 0.02 < inked.mean() < 0.6
    assert len(np.unique(rgb[inked], axis=0)) > 20
    if name in INCHES:
        width, height = INCHES[name]
        assert rgb.shape[:2] == (round(height * DPI), round(width * DPI))


def test_figures__neither_follow_nor_change_the_users_settings(drawn: dict[str, bytes]) -> None:
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "figure.dpi": 40}):
        before = dict(matplotlib.rcParams)
        assert make_figures(atlas()) == drawn  # and the same input gives the same bytes
        assert dict(matplotlib.rcParams) == before


RANKED = ("rank_genes_groups",)


def drop(attr: str, *keys: str) -> Callable[[ad.AnnData], None]:
    def change(adata: ad.AnnData) -> None:
        for key in keys:
            del getattr(adata, attr)[key]

    return change


def put(attr: str, key: str, value: Callable[[ad.AnnData], Any]) -> Callable[[ad.AnnData], None]:
    def change(adata: ad.AnnData) -> None:
        getattr(adata, attr)[key] = value(adata)

    return change


QC = ("total_counts", "n_genes_by_counts", "pct_counts_mt")
MISSING = {
    "half": (
        [drop("obs", *QC, "leiden"), drop("var", "dispersions_norm"), drop("uns", "pca")],
        {"markers_dotplot.png"},
    ),
    "the other half": (
        [drop("obsm", "X_umap"), drop("obs", "total_counts"), drop("var", "highly_variable"), drop("uns", *RANKED)],
        {"qc_violins.png", "pca_variance_ratio.png"},
    ),
    "nothing finite": (
        [
            put("obsm", "X_umap", lambda a: np.full((a.n_obs, 2), np.nan)),
            put("obs", "total_counts", lambda a: np.full(a.n_obs, np.nan)),
            put("var", "means", lambda a: np.full(a.n_vars, np.nan)),
            put("uns", "pca", lambda _: {"variance_ratio": np.asarray([0.5, np.nan])}),
            drop("uns", *RANKED),
        ],
        {"qc_violins.png"},
    ),
    "not as expected": (
        [
            put("obsm", "X_umap", lambda a: np.zeros((a.n_obs, 1))),
            put("obs", "total_counts", lambda a: ["many"] * a.n_obs),
            put("uns", "pca", lambda _: "done"),
            put("uns", "rank_genes_groups", lambda _: {"params": {}}),
            put("uns", "hvg", lambda _: {}),
        ],
        {"qc_violins.png", "hvg_scatter.png"},
    ),
    "no room on a logarithmic axis": (
        [
            put("obs", "total_counts", lambda a: np.zeros(a.n_obs)),
            put("var", "dispersions", lambda a: np.zeros(a.n_vars)),
            drop("obsm", "X_umap"),
            drop("uns", *RANKED),
        ],
        {"qc_violins.png", "pca_variance_ratio.png"},
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_figures__missing_slots_leave_figures_out(case: str) -> None:
    changes, left = MISSING[case]
    adata = atlas(60, 2, 20)
    for change in changes:
        change(adata)
    assert set(make_figures(adata)) == left


def test_figures__nothing_to_draw() -> None:
    assert make_figures(ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))) == {}
    assert make_figures(atlas()[:0].copy()).keys() == {
        "hvg_scatter.png",
        "pca_variance_ratio.png",
        "markers_dotplot.png",
    }


def test_qc__a_missing_column_leaves_out_its_panel(drawn: dict[str, bytes]) -> None:
    adata = atlas()
    drop("obs", "pct_counts_mt")(adata)
    fewer = make_figures(adata)
    for name in ("qc_violins.png", "umap_qc.png"):
        assert picture(fewer[name]).shape[1] < 0.72 * picture(drawn[name]).shape[1]


def test_qc__without_mitochondrial_genes_there_is_no_such_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = atlas()
    adata.obs["pct_counts_mt"] = 0.0
    panels: list[int] = []
    real = figures._figure

    def counted(width: float, height: float, n_panels: int = 1) -> Any:
        panels.append(n_panels)
        return real(width, height, n_panels)

    monkeypatch.setattr(figures, "_figure", counted)
    assert figures._qc_violins(adata, "") is not None and figures._umap_qc(adata, "") is not None
    scatter_of_counts = figures._qc_scatter(adata, "")
    assert panels == [2, 2, 1]
    assert scatter_of_counts is not None and len(scatter_of_counts.axes) == 1  # no colour bar


def test_figures__missing_and_infinite_values_are_no_trouble() -> None:
    adata = atlas(80, 3, 30)
    for key in QC:
        adata.obs[key] = adata.obs[key].astype(float)
        adata.obs.iloc[:5, adata.obs.columns.get_loc(key)] = [np.nan, np.inf, -np.inf, 0.0, np.nan]
    adata.obs["leiden"] = adata.obs["leiden"].where(np.arange(80) > 9)
    adata.obsm["X_umap"][3] = np.nan
    for key in ("means", "dispersions", "dispersions_norm"):
        adata.var.iloc[:3, adata.var.columns.get_loc(key)] = np.nan
    adata.uns["rank_genes_groups"]["logfoldchanges"]["0"][:4] = np.nan
    assert set(make_figures(adata)) == ALL


def test_figures__cells_that_are_all_alike() -> None:
    adata = atlas(30, 1)
    for key in QC:
        adata.obs[key] = 2500.0
    adata.obsm["X_umap"][:] = 1.0
    assert set(make_figures(adata)) == ALL


def test_figures__one_cell() -> None:
    assert set(make_figures(atlas(1, 1))) == ALL


def test_umap__colours_are_clipped_at_the_last_percent() -> None:
    def with_outlier(value: float) -> bytes:
        adata = umap(1000, 4)
        adata.obs["total_counts"] = np.where(np.arange(1000) == 7, value, np.linspace(500, 5000, 1000))
        return make_figures(adata)["umap_qc.png"]

    assert with_outlier(1e5) == with_outlier(1e9)
    assert with_outlier(1e5) != with_outlier(3000.0)


def test_umap__a_hundred_clusters_widen_the_legend() -> None:
    few, many = (picture(make_figures(umap(500, k))["umap_leiden.png"]) for k in (5, 100))
    assert few.shape[0] == many.shape[0] and many.shape[1] > 1.4 * few.shape[1]
    assert not np.array_equal(few[:, :800], many[:, :800])


def test_umap__colours_given_in_uns_are_used() -> None:
    adata = umap(100, 2)
    red = (0.9, 0.05, 0.05)

    def n_red() -> int:
        rgb = picture(make_figures(adata)["umap_leiden.png"])
        return int((np.abs(rgb - red).max(axis=2) < 0.15).sum())

    assert n_red() == 0
    adata.uns["leiden_colors"] = np.asarray(["#e60d0d", "#0d0de6"])
    assert n_red() > 500
    adata.uns["leiden_colors"] = np.asarray(["#e60d0d"])  # not of these clusters
    assert n_red() == 0


@pytest.mark.parametrize("kind", [int, str, float])
def test_umap__any_column_can_be_the_clusters(kind: type) -> None:
    adata = umap(60, 3)
    names = adata.obs["leiden"].astype(int).astype(kind)
    adata.obs["mine"] = names
    assert "umap_leiden.png" in make_figures(adata, leiden_key="mine")


@pytest.mark.parametrize("flavor", ["seurat", "seurat_v3"])
def test_hvg__every_flavor(flavor: str, drawn: dict[str, bytes]) -> None:
    full = atlas()
    adata = ad.AnnData(var=full.var, uns={"hvg": {"flavor": flavor}})
    if flavor == "seurat_v3":
        adata.var = adata.var.rename(columns=lambda c: c.replace("dispersions", "variances"))
        adata.var["variances_norm"] = adata.var["variances_norm"].abs()
    assert make_figures(adata)["hvg_scatter.png"] != drawn["hvg_scatter.png"]


def test_markers__without_shares_and_with_few_genes() -> None:
    full = atlas(60, 5)
    adata = ad.AnnData(obs=full.obs[["leiden"]], uns={"rank_genes_groups": full.uns["rank_genes_groups"]})
    found = adata.uns["rank_genes_groups"]
    with_shares = make_figures(adata)["markers_dotplot.png"]
    del found["pts"]
    for key in ("names", "logfoldchanges"):
        found[key] = found[key][:2]
    without = make_figures(adata)["markers_dotplot.png"]
    assert picture(without).shape[1] < picture(with_shares).shape[1]


# -- points --------------------------------------------------------------------------------------

PALETTE = np.asarray([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def axes() -> Any:
    return Figure(figsize=(4, 3), dpi=100, layout="constrained").subplots()


def two_clouds(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = np.arange(n) % 2
    return np.column_stack([10.0 * codes, np.zeros(n)]) + rng.normal(size=(n, 2)), codes


@pytest.mark.parametrize("n", [1000, 300_000])
def test_points__markers_for_some_a_raster_for_many(n: int) -> None:
    ax = axes()
    xy, codes = two_clouds(n)
    scatter.frame(ax, xy)
    scatter.draw(ax, xy, codes, PALETTE)
    many = n > scatter.MARKERS_UP_TO
    assert (len(ax.images), len(ax.collections)) == ((1, 0) if many else (0, 1))
    out = io.BytesIO()
    ax.figure.savefig(out, format="png")
    rgb = picture(out.getvalue())
    left, right = rgb[:, : rgb.shape[1] // 2], rgb[:, rgb.shape[1] // 2 :]
    for half, strong, weak in ((left, 0, 2), (right, 2, 0)):
        coloured = np.ptp(half, axis=2) > 0.2
        assert coloured.sum() > 500
        assert np.mean(half[coloured][:, strong] > half[coloured][:, weak]) > 0.99  # the tails meet


def test_points__figures_of_many_cells_use_the_raster() -> None:
    full = atlas(300_000, 5, 2)
    adata = ad.AnnData(obs=full.obs, obsm={"X_umap": full.obsm["X_umap"]})
    first = make_figures(adata)
    again = make_figures(adata[np.random.default_rng(3).permutation(adata.n_obs)].copy())
    # the raster sums; markers would be drawn in another order
    for name in ("umap_leiden.png", "umap_qc.png", "qc_scatter.png"):
        difference = np.abs(picture(again[name]) - picture(first[name]))
        assert difference.max() <= 2 / 255


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_raster__a_point_is_at_its_place(scale: str) -> None:
    ax = axes()
    ax.set_xscale(scale)
    ax.set_xlim(1, 100)
    ax.set_ylim(0, 1)
    image = scatter.raster(ax, np.asarray([[10.0, 0.25]]), np.asarray([1]), PALETTE)
    rows, cols = np.nonzero(image[..., 3])
    x = 0.5 if scale == "log" else 9 / 99
    assert len(rows) == 4  # 2 x 2
    assert abs(cols.mean() / image.shape[1] - x) < 0.01
    assert abs(rows.mean() / image.shape[0] - 0.25) < 0.01
    assert (image[rows, cols] == [0, 0, 255, 255]).all()


def test_raster__a_pixel_has_the_mean_colour() -> None:
    ax = axes()
    image = scatter.raster(ax, np.full((4, 2), 0.5), np.asarray([0, 0, 0, 1]), PALETTE)
    assert (image[image[..., 3] > 0][:, :3] == [191, 0, 64]).all()


def test_frame__holds_all_points() -> None:
    ax = axes()
    ax.set_xscale("log")
    scatter.frame(ax, np.asarray([[1.0, 5.0], [1000.0, 5.0]]))
    low, high = ax.get_xlim()
    assert 0.5 < low < 1 and 1000 < high < 2000
    assert ax.get_ylim() == (4.5, 5.5)


def test_apart__boxes_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    at = np.vstack([rng.normal(0, 30, (60, 2)), np.zeros((5, 2))])
    sizes = np.column_stack([rng.uniform(8, 20, 65), np.full(65, 9.0)])
    moved = scatter.apart(at, sizes)
    room = np.abs(moved[:, None] - moved[None]) - (sizes[:, None] + sizes[None]) / 2
    assert ((room >= 0).any(axis=2) | np.eye(65, dtype=bool)).all()
    lone = np.asarray([[0.0, 0.0], [100.0, 0.0]])
    assert (scatter.apart(lone, np.full((2, 2), 10.0)) == lone).all()


def test_names__stand_at_medians_of_used_groups() -> None:
    ax = axes()
    xy, codes = two_clouds(400)
    scatter.frame(ax, xy)
    scatter.name(ax, xy, codes * 2, ["a", "unused", "c"])
    assert [t.get_text() for t in ax.texts] == ["a", "c"]
    for text, i in zip(ax.texts, (0, 1), strict=True):
        assert np.allclose(text.get_position(), np.median(xy[codes == i], axis=0))
