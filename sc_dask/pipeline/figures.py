"""The figures of a run, drawn from obs, var, obsm and uns alone: X is never read."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sc_dask import get
from sc_dask.pipeline import scatter
from sc_dask.price import MIB

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
_MT = "pct_counts_mt"
# column of obs, what it says, whether a logarithmic axis suits it
QC_COLUMNS = (
    ("n_genes_by_counts", "genes per cell", True),
    ("total_counts", "counts per cell", True),
    (_MT, "mitochondrial counts (%)", False),
)
_JITTER_CELLS, _VIOLIN_BINS = 2_000, 256
_LEGEND_ROWS, _LEGEND_GROUPS = 24, 120
_BLUE, _GREY, _RED = "#3b6ea8", "#bdbdbd", "#c8453b"
_STYLE = {
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.dpi": DPI,
    "figure.titlesize": 12,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the same picture everywhere
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
# vega's 20, zeileis' 28 and godsnot's 102, as scanpy orders them
_TWENTY = (
    "1f77b4ff7f0e279e68d62728aa40fc8c564be377c2b5bd6117becfaec7e8"
    "ffbb7898df8aff9896c5b0d5c49c94f7b6d2dbdb8d9edae5ad494a8c6d31"
)
_TWENTY_EIGHT = (
    "023fa57d87b9bec1d4d6bcc0bb77848e063b4a6fe38595e1b5bbe3e6afb9e07b91d33f6a11c6388dd593"
    "c6dec7ead3c6f0b98def97080fcfc09cded6d5eae7f3e1ebf6c4e1f79cd47f7f7fc7c7c71ce6ff336600"
)

_HUNDRED_AND_TWO = (
    "ffff001ce6ffff34ffff4a46008941006fa6a30059ffdbe57a49000000a663ffacb79762004d438fb0ff997d875a0007809693"
    "6a3a4c1b44004fc6013b5dff4a3b53ff2f8061615aba09006b790000c2a0ffaa92ff90c9b903aad16100ddefff0000357b4f4b"
    "a1c2993000180aa6d801334900846f372101ffb500c2ffeda079bfcc0744c0b9b2c2ff99001e0900489c6f00620cbd66eec3ff"
    "456d75b77b687a87a1788d66885578fad09fff8a9ad157a0bec4594566480086ed886f4c34362db4a8bd00a6aa452c2c636375"
    "a3c8c9ff913f938a8157532900fecfb05b6f8cd0ff3b970004f757c8a1a11e6e007900d7a775006367a9a058376b002c772600"
    "d790ff9b9700549e79fff69f20162572418fbc23ff99adc03a24659223295b4534fde8dc404e550089a3cb7e98a4e804324e72"
)


def default_colors(n: int) -> np.ndarray:
    """Return n colours as ``#rrggbb``: scanpy's up to 102 groups; beyond, where it has grey alone, hues that differ."""
    from matplotlib.colors import to_hex

    for hexes in (_TWENTY, _TWENTY_EIGHT, _HUNDRED_AND_TWO):
        if 6 * n <= len(hexes):
            return np.array([f"#{hexes[6 * i : 6 * i + 6]}" for i in range(n)])
    return np.array([to_hex(c) for c in _hues(n)])


def memory(n_obs: int) -> int:
    """Return the bytes that drawing takes; from 100,000 cells on it grows no more."""
    return int(60 * MIB + 118 * MIB * min(1, n_obs / 100_000) ** 2)


def make_figures(adata: AnnData, *, leiden_key: str = "leiden") -> dict[str, bytes]:
    """Draw what a run has found, as PNG files of 150 dots per inch.

    Parameters
    ----------
    adata
        Annotated matrix (n_obs, n_vars); X may be anything, it is not looked at.
    leiden_key
        Column of obs with the clusters.

    Returns
    -------
    File name to PNG bytes; the same input gives the same bytes. A figure whose slots are missing, or hold no finite
    number, is left out, as is a panel of QC whose column is, and that of mitochondrial counts where no cell has any:

    - ``qc_violins.png``: obs ``n_genes_by_counts``, ``total_counts``, ``pct_counts_mt``
    - ``qc_scatter.png``: obs ``total_counts`` and ``n_genes_by_counts``; ``pct_counts_mt`` colours it if there
    - ``hvg_scatter.png``: var ``highly_variable``, ``means`` and dispersions, or variances (seurat_v3)
    - ``pca_variance_ratio.png``: uns ``pca`` with ``variance_ratio``
    - ``umap_leiden.png``: obsm ``X_umap`` and obs ``leiden_key``; colours of uns ``{leiden_key}_colors`` if there
    - ``umap_qc.png``: obsm ``X_umap`` and any of the QC columns
    - ``markers_dotplot.png``: uns ``rank_genes_groups``; the size of a dot needs its ``pts``

    Passes: none. Memory: 100 bytes per cell, and 50 MB for the pictures.
    """
    import matplotlib.style

    out = {}
    with matplotlib.style.context(["default", _STYLE]):
        for name, drawn in _FIGURES.items():
            figure = drawn(adata, leiden_key)
            if figure is not None:
                out[name] = _png(figure)
    return out


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _figure(width: float, height: float, n_panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure (inches) with panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.05)  # type: ignore[union-attr, call-arg]
    return figure, list(np.atleast_1d(figure.subplots(1, n_panels)))


def _numbers(table: pd.DataFrame, key: str) -> np.ndarray | None:
    """Return a column as float64 with NaN for what is not finite; None if it is not there or has no number."""
    if key not in table or not pd.api.types.is_numeric_dtype(table[key]):
        return None
    values = table[key].to_numpy(dtype=np.float64, na_value=np.nan)
    values = np.where(np.isfinite(values), values, np.nan)
    return None if np.isnan(values).all() else values


def _uns(adata: AnnData, key: str) -> dict[str, Any]:
    found = adata.uns.get(key)
    return dict(found) if isinstance(found, Mapping) else {}


def _qc(adata: AnnData) -> list[tuple[str, bool, np.ndarray]]:
    found = [(label, log, _qc_column(adata, key)) for key, label, log in QC_COLUMNS]
    return [(label, log, values) for label, log, values in found if values is not None]


def _qc_column(adata: AnnData, key: str) -> np.ndarray | None:
    """Return a column of QC; None if it is not there, or of mitochondrial counts that no cell has: no such genes."""
    values = _numbers(adata.obs, key)
    return None if values is not None and key == _MT and not np.nanmax(values) > 0 else values


def _log(ax: Axes, which: str, values: np.ndarray) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2, 5 (or decades where there are many)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    getattr(ax, f"set_{which}scale")("log")
    axis = getattr(ax, f"{which}axis")
    many = values.max() / values.min() > 2000
    axis.set_major_locator(LogLocator(10, subs=(1.0,) if many else (1.0, 2.0, 5.0), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 100 else f"{v:g}"))
    axis.set_minor_locator(NullLocator())


# -- quality control -----------------------------------------------------------------------------


def _qc_violins(adata: AnnData, _: str) -> Figure | None:
    panels = _qc(adata)
    if not panels:
        return None
    figure, axes = _figure(2.9 * len(panels) + 0.3, 3.8, len(panels))
    for ax, (label, log, values) in zip(axes, panels, strict=True):
        known = values[np.isfinite(values)]
        _violin(ax, known, log and known.min() > 0)
        ax.set_ylabel(label)
        ax.set_title(f"median {np.median(known):,.0f}" if log else f"median {np.median(known):.2f} %")
    figure.suptitle(f"Quality of {adata.n_obs:,} cells")
    return figure


def _violin(ax: Axes, values: np.ndarray, log: bool) -> None:
    if log:
        _log(ax, "y", values)
    if np.ptp(values) > 0:
        at, width = _density(np.log(values) if log else values)
        width *= 0.42 / width.max()
        y = np.exp(at) if log else at
        ax.fill_betweenx(y, -width, width, color=_BLUE, alpha=0.35, linewidth=0, zorder=1)
        ax.plot(np.r_[-width, width[::-1]], np.r_[y, y[::-1]], color=_BLUE, linewidth=0.8, zorder=3)
    dots = values[np.random.default_rng(0).choice(len(values), min(len(values), _JITTER_CELLS), replace=False)]
    x = np.random.default_rng(1).uniform(-0.3, 0.3, len(dots))
    ax.scatter(x, dots, s=1.2, color="black", alpha=0.35, linewidths=0, zorder=2)
    low, mid, high = np.percentile(values, [25, 50, 75])
    ax.plot([0, 0], [low, high], color="black", linewidth=3, solid_capstyle="butt", zorder=4)
    ax.scatter([0], [mid], s=18, color="white", edgecolors="black", linewidths=1, zorder=5)
    ax.set_xlim(-0.5, 0.5)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)


def _density(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where, and a Gaussian kernel density of all values (Scott's bandwidth) made from a histogram."""
    counts, edges = np.histogram(values, _VIOLIN_BINS)
    step = edges[1] - edges[0]
    bandwidth = max(step, values.std() * len(values) ** -0.2)
    reach = min(_VIOLIN_BINS, int(4 * bandwidth / step) + 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / bandwidth) ** 2)
    # mirrored at both ends: no mass is lost where the values stop
    return (edges[:-1] + edges[1:]) / 2, np.convolve(np.pad(counts.astype(float), reach, "symmetric"), kernel, "valid")


def _qc_scatter(adata: AnnData, _: str) -> Figure | None:
    counts, genes = _numbers(adata.obs, "total_counts"), _numbers(adata.obs, "n_genes_by_counts")
    if counts is None or genes is None:
        return None
    shown = (counts > 0) & (genes > 0)  # what a logarithmic axis has room for; False where NaN
    if not shown.any():
        return None
    mt = _qc_column(adata, _MT)
    xy = np.column_stack([counts[shown], genes[shown]])
    figure, (ax,) = _figure(5.8 if mt is not None else 5.0, 4.6)
    _log(ax, "x", xy[:, 0])
    _log(ax, "y", xy[:, 1])
    scatter.frame(ax, xy)
    ax.set_xlabel("counts per cell")
    ax.set_ylabel("genes per cell")
    ax.set_title(f"Counts and genes of {len(xy):,} cells")
    if mt is None or np.isnan(mt[shown]).all():
        scatter.draw(ax, xy, np.zeros(len(xy), np.uint8), _rgb([_BLUE]))
    else:
        scatter.draw(ax, xy, *_coloured(ax, mt[shown], "mitochondrial counts (%)"))
    return figure


# -- genes and components ------------------------------------------------------------------------


def _hvg_scatter(adata: AnnData, _: str) -> Figure | None:
    flavor = _uns(adata, "hvg").get("flavor")
    curve = "variances_norm" in adata.var and (flavor is None or str(flavor).startswith("seurat_v3"))
    y_name = "variance" if curve else "dispersion"
    means = _numbers(adata.var, "means")
    normalised = _numbers(adata.var, f"{y_name}s_norm")
    raw = _numbers(adata.var, f"{y_name}s")
    if means is None or normalised is None or raw is None or "highly_variable" not in adata.var:
        return None
    chosen = (adata.var["highly_variable"] == True).to_numpy(dtype=bool, na_value=False)  # noqa: E712 (may hold NA)
    logged = flavor == "seurat"  # its means and dispersions are logarithms already
    figure, axes = _figure(9.2, 4.4, 2)
    for ax, y, label in zip(axes, (normalised, raw), (f"normalised {y_name}", y_name), strict=True):
        log_y = not logged and (curve or y is raw)
        shown = np.isfinite(means) & np.isfinite(y) & (logged | (means > 0)) & (not log_y or y > 0)
        if not shown.any():
            return None
        if not logged:
            _log(ax, "x", means[shown])
        if log_y:
            _log(ax, "y", y[shown])
        for mask, colour, text in ((~chosen, _GREY, "other"), (chosen, _RED, "highly variable")):
            drawn = f"{text} ({int(mask.sum()):,})"
            at = mask & shown
            ax.scatter(means[at], y[at], s=5, color=colour, alpha=0.7, linewidths=0, label=drawn)
        scatter.frame(ax, np.column_stack([means[shown], y[shown]]))
        ax.set_xlabel("mean expression" + (" (log)" if logged else ""))
        ax.set_ylabel(label + (" (log)" if logged and y is raw else ""))
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, markerscale=2.5, handletextpad=0.2)
    title = f"{int(chosen.sum()):,} highly variable of {adata.n_vars:,} genes"
    figure.suptitle(f"{title} ({flavor})" if flavor else title)
    return figure


def _pca_variance_ratio(adata: AnnData, _: str) -> Figure | None:
    found = _uns(adata, "pca").get("variance_ratio")
    ratio = np.zeros(0) if found is None else np.asarray(found, float).ravel()
    if not len(ratio) or not np.isfinite(ratio).all():
        return None
    from matplotlib.ticker import MaxNLocator

    number = np.arange(1, len(ratio) + 1)
    figure, (scree, total) = _figure(8.4, 3.8, 2)
    percent = 100 * ratio
    scree.plot(number, percent, "o-", color=_BLUE, markersize=3.5, linewidth=0.8)
    if (percent > 0).all() and np.ptp(percent) > 0:
        _log(scree, "y", percent)
    scree.set_ylabel("variance explained (%)")
    scree.set_title("each component")
    total.fill_between(number, np.cumsum(percent), color=_BLUE, alpha=0.15, linewidth=0)
    total.plot(number, np.cumsum(percent), "o-", color=_BLUE, markersize=3.5, linewidth=0.8)
    total.set_ylim(bottom=0)
    total.set_ylabel("cumulative variance explained (%)")
    total.set_title(f"all {len(ratio)} together: {percent.sum():.3g} %")
    for ax in (scree, total):
        ax.set_xlabel("principal component")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        ax.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        ax.set_axisbelow(True)
    figure.suptitle("Variance explained by principal components")
    return figure


# -- UMAP ----------------------------------------------------------------------------------------


def _plane(adata: AnnData) -> np.ndarray | None:
    """Return the first two columns of X_umap (n_obs, 2); None if it is not there or nothing in it is finite."""
    found = adata.obsm.get("X_umap")
    if found is None or sp.issparse(found) or len(found.shape) != 2 or found.shape[1] < 2:
        return None
    xy = np.asarray(found, np.float32)[:, :2]
    return xy if np.isfinite(xy).all(axis=1).any() else None


def _umap_axes(ax: Axes, xy: np.ndarray) -> None:
    scatter.frame(ax, xy)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("UMAP 1")
    ax.set_ylabel("UMAP 2")


def _umap_leiden(adata: AnnData, leiden_key: str) -> Figure | None:
    xy = _plane(adata)
    if xy is None or leiden_key not in adata.obs:
        return None
    names, codes, colours = _groups(adata, leiden_key)
    placed = np.isfinite(xy).all(axis=1)
    sizes = np.bincount(codes, minlength=len(colours))
    used = np.flatnonzero(sizes[:-1])
    listed = np.sort(used[np.argsort(-sizes[used], kind="stable")[:_LEGEND_GROUPS]])
    n_columns = max(1, -(-len(listed) // _LEGEND_ROWS))
    widest = max((len(names[i]) for i in listed), default=0) + 9
    figure, (ax,) = _figure(6.1 + n_columns * (0.3 + 0.075 * widest), 5.8)
    _umap_axes(ax, xy[placed])
    ax.set_title(f"{len(used):,} cluster{'s' * (len(used) != 1)} of {adata.n_obs:,} cells ({leiden_key})")
    lines = [(colours[i], f"{names[i]}  ({sizes[i]:,})") for i in listed]
    if sizes[-1]:
        lines.append((colours[-1], f"none  ({sizes[-1]:,})"))
    handles = [_handle(colour, text) for colour, text in lines]
    if len(used) > len(listed):
        handles.append(_handle((1.0, 1.0, 1.0), f"and {len(used) - len(listed):,} smaller"))
    figure.legend(
        handles=handles, loc="outside right center", ncols=n_columns, title="cluster (cells)", handletextpad=0.1
    )
    scatter.name(ax, xy[placed], codes[placed], names)
    scatter.draw(ax, xy[placed], codes[placed], colours)
    return figure


def _handle(colour: Any, text: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="none", markersize=6, markeredgewidth=0, color=colour, label=text)


def _groups(adata: AnnData, key: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return names of the groups, a code per cell, and colours (n_groups + 1, 3); the last is for cells of no group."""
    cells = get.groups(adata, key, missing="own group", order="natural", unused="keep", max_groups=None)
    colours = _palette(len(cells), adata.uns.get(f"{key}_colors"))
    return cells.names, cells.codes, np.vstack([colours, _rgb(["#d9d9d9"])])


def _palette(n: int, given: Any = None) -> np.ndarray:
    """Return n colours (n, 3): those given if they are n colours, else the default ones."""
    from matplotlib.colors import is_color_like

    if given is not None and len(given) == n and all(is_color_like(c) for c in given):
        return _rgb(list(given))
    return _rgb(list(default_colors(n)))


def _hues(n: int) -> np.ndarray:
    """Return n colours (n, 3) around the circle of hues."""
    from matplotlib.colors import hsv_to_rgb

    i = np.arange(n)
    hue = i * 0.6180339887498949 % 1  # the golden section: neighbours in number are far in hue
    saturation, value = np.array([0.85, 0.45, 0.65])[i % 3], np.array([0.85, 0.9, 0.55, 0.7])[i % 4]
    return np.asarray(hsv_to_rgb(np.column_stack([hue, saturation, value])))


def _rgb(colours: list[Any]) -> np.ndarray:
    from matplotlib.colors import to_rgb

    return np.asarray([to_rgb(c) for c in colours]).reshape(-1, 3)


def _umap_qc(adata: AnnData, _: str) -> Figure | None:
    xy, panels = _plane(adata), _qc(adata)
    if xy is None or not panels:
        return None
    placed = np.isfinite(xy).all(axis=1)
    figure, axes = _figure(4.4 * len(panels), 4.0, len(panels))
    coloured = []
    for ax, (label, _log_axis, values) in zip(axes, panels, strict=True):
        _umap_axes(ax, xy[placed])
        ax.set_title(label)
        coloured.append(_coloured(ax, values[placed]))
    for ax, (codes, palette) in zip(axes, coloured, strict=True):  # when all panels have their place
        scatter.draw(ax, xy[placed], codes, palette)
    return figure


def _coloured(ax: Axes, values: np.ndarray, label: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Return colour codes and palette of values, clipped at 1 and 99 %, and add the bar that explains them."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    known = np.isfinite(values)
    low, high = np.percentile(values[known], [1, 99]) if known.any() else (0.0, 1.0)
    high = high if high > low else low + 1.0
    colours = matplotlib.colormaps["viridis"]
    beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    extend = beyond[bool((values < low).any()), bool((values > high).any())]
    mappable = ScalarMappable(Normalize(low, high), colours)
    bar = ax.figure.colorbar(mappable, ax=ax, extend=extend, shrink=0.8, aspect=25, pad=0.02, label=label)
    bar.outline.set_visible(False)
    scaled = np.clip((values - low) / (high - low), 0, 1)
    codes = np.where(known, np.nan_to_num(scaled) * 255, 256).astype(np.int32)
    return codes, np.vstack([colours(np.arange(256))[:, :3], _rgb(["#d9d9d9"])])


# -- markers -------------------------------------------------------------------------------------


def _markers_dotplot(adata: AnnData, _: str) -> Figure | None:
    found = _uns(adata, "rank_genes_groups")
    if "names" not in found or "logfoldchanges" not in found:
        return None
    groups = list(found["names"].dtype.names)
    per_group = 3 if len(groups) <= 20 else 2 if len(groups) <= 40 else 1
    ranked = {g: [str(name) for name in found["names"][g]] for g in groups}
    genes = list(dict.fromkeys(name for g in groups for name in ranked[g][:per_group]))
    if not genes:
        return None
    change, share = np.full((len(groups), len(genes)), np.nan), None
    for i, g in enumerate(groups):
        of_gene = pd.Series(np.asarray(found["logfoldchanges"][g], float), ranked[g])
        change[i] = of_gene[~of_gene.index.duplicated()].reindex(genes)
    pts = found.get("pts")
    if isinstance(pts, pd.DataFrame) and set(groups) <= set(pts.columns):
        share = pts.loc[~pts.index.duplicated(), groups].reindex(genes).to_numpy(float).T
    figure, ax = _dots(groups, genes, change, share)
    ax.set_ylabel(str(found.get("params", {}).get("groupby", "cluster")))
    ax.set_title("Top marker of each group" if per_group == 1 else f"Top {per_group} markers of each group")
    return figure


def _dots(groups: list[str], genes: list[str], change: np.ndarray, share: np.ndarray | None) -> tuple[Figure, Axes]:
    """Draw a dot per group and gene: colour is the fold change, size the share of cells.

    A gene that is not in a group's table of markers has a share and no fold change: its dot is grey.
    """
    known = np.isfinite(change)
    top = float(np.clip(np.percentile(np.abs(change[known]), 95), 1, 8)) if known.any() else 1.0
    long = max(len(g) for g in genes)
    figure, (ax,) = _figure(2.6 + 0.24 * max(len(genes), 8), 1.4 + 0.075 * long + 0.26 * max(len(groups), 5))
    row, col = np.nonzero(known)
    full = 150.0  # square points of a dot that stands for all cells
    size = np.full(len(row), 0.6) if share is None else np.nan_to_num(share[row, col])
    edge: dict[str, Any] = {"linewidths": 0.4, "edgecolors": "#777777"}
    if share is not None and (rest := ~known & (share > 0)).any():
        at, of = np.nonzero(rest)
        ax.scatter(of, at, s=full * share[at, of], color=_GREY, label="not in the group's table", **edge)
    dots = ax.scatter(col, row, s=full * size, c=change[row, col], cmap="RdBu_r", vmin=-top, vmax=top, **edge)
    ax.set_xlim(-0.7, len(genes) - 0.3)
    ax.set_ylim(len(groups) - 0.3, -0.7)
    ax.set_xticks(range(len(genes)), genes, rotation=90, fontstyle="italic")
    ax.set_yticks(range(len(groups)), groups)
    ax.grid(color="#eeeeee", linewidth=0.6)
    ax.set_axisbelow(True)
    bar = figure.colorbar(dots, ax=ax, extend="both", extendfrac=0.03, aspect=18, pad=0.01, label="log2 fold change")
    bar.outline.set_visible(False)
    if share is not None:
        shown = [ax.scatter([], [], full * s, _GREY, label=f"{100 * s:.0f} %", **edge) for s in (0.25, 0.5, 1.0)]
        figure.legend(handles=shown, loc="outside right center", title="cells with\nthe gene", labelspacing=1.2)
    return figure, ax


_FIGURES: dict[str, Callable[[AnnData, str], Figure | None]] = {
    "qc_violins.png": _qc_violins,
    "qc_scatter.png": _qc_scatter,
    "hvg_scatter.png": _hvg_scatter,
    "pca_variance_ratio.png": _pca_variance_ratio,
    "umap_leiden.png": _umap_leiden,
    "umap_qc.png": _umap_qc,
    "markers_dotplot.png": _markers_dotplot,
}
NAMES = tuple(_FIGURES)
