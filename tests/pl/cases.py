"""Calls of every plot, and what a drawn figure holds: the artists' data, not pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp

G = [f"g{i}" for i in range(60)]
GROUPS = {"first": G[:3], "second": G[10:12]}
SYMBOLS = [f"S{i}" for i in (3, 14, 15)]

# name of the plot, arguments; in the order of docs/plots.md
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("embedding", {"basis": "umap", "color": [G[1], "kind", "total"]}),
    ("embedding", {"basis": "X_umap", "color": G[1], "layer": "counts", "vmin": "p1", "vmax": ["p99"]}),
    ("umap", {}),
    ("umap", {"color": "kind", "legend_loc": "on data", "groups": ["a", "c"], "na_color": "#eeeeee"}),
    ("umap", {"color": SYMBOLS, "gene_symbols": "symbol", "sort_order": False, "use_raw": False}),
    ("umap", {"color": [G[2], "words"], "mask_obs": "flag", "cmap": "magma", "ncols": 1, "add_outline": True}),
    ("umap", {"color": "kind", "palette": "Set2", "edges": True, "frameon": False, "title": "cells"}),
    ("umap", {"color": [G[3]], "return_fig": True, "size": 20, "vcenter": 1.0, "cmap": "RdBu_r"}),
    ("tsne", {"color": ["kind", G[4]], "dimensions": [(0, 1), (1, 0)]}),
    ("diffmap", {"color": G[5], "components": ["1,2", "2,3"]}),
    ("pca", {"color": ["kind", G[1]], "annotate_var_explained": True}),
    ("pca", {"color": "kind", "projection": "3d"}),
    ("pca_scatter", {"color": G[2]}),
    ("draw_graph", {"color": [G[2]], "layout": "fr"}),
    ("spatial", {"color": [G[2], "kind"], "spot_size": 0.5}),
    ("scatter", {"x": G[1], "y": "total", "color": "kind"}),
    ("scatter", {"x": G[1], "y": G[2], "color": G[3], "layers": ("counts", None, None), "use_raw": False}),
    ("scatter", {"x": "means", "y": "dispersions"}),
    ("scatter", {"basis": "umap", "color": ["kind", G[7]]}),
    ("scatter", {"x": "c3", "y": "c4"}),
    ("embedding_density", {"basis": "umap", "key": "umap_density_kind", "group": ["a", "b"]}),
    ("dotplot", {"var_names": GROUPS, "groupby": "kind", "dendrogram": True}),
    ("dotplot", {"var_names": G[:4], "groupby": "words", "swap_axes": True, "standard_scale": "var", "use_raw": False}),
    ("dotplot", {"var_names": SYMBOLS, "groupby": ["kind", "words"], "gene_symbols": "symbol"}),
    ("dotplot", {"var_names": G[5], "groupby": "total", "num_categories": 4, "layer": "counts", "log": True}),
    ("dotplot", {"var_names": GROUPS, "groupby": "kind", "return_fig": True, "expression_cutoff": 0.5}),
    ("matrixplot", {"var_names": GROUPS, "groupby": "kind", "dendrogram": "tree", "cmap": "Blues"}),
    (
        "matrixplot",
        {"var_names": G[:4], "groupby": "kind", "categories_order": list("dcba"), "standard_scale": "group"},
    ),
    ("stacked_violin", {"var_names": GROUPS, "groupby": "kind", "dendrogram": True}),
    ("stacked_violin", {"var_names": G[:3], "groupby": "kind", "swap_axes": True, "layer": "counts"}),
    ("heatmap", {"var_names": GROUPS, "groupby": "kind", "dendrogram": True, "show_gene_labels": True}),
    ("heatmap", {"var_names": G[:3], "groupby": "kind", "swap_axes": True, "standard_scale": "var", "vmax": 2}),
    ("tracksplot", {"var_names": GROUPS, "groupby": "kind", "dendrogram": True}),
    ("violin", {"keys": [G[1], "total"], "groupby": "kind", "rotation": 90}),
    ("violin", {"keys": ["total", G[2]], "jitter": 0.4, "multi_panel": True, "use_raw": False}),
    ("violin", {"keys": G[3], "groupby": "kind", "stripplot": False, "order": ["b", "a"], "log": True}),
    ("correlation_matrix", {"groupby": "kind", "show_correlation_numbers": True}),
    ("dendrogram", {"groupby": "kind", "orientation": "left"}),
    ("clustermap", {"obs_keys": "kind", "use_raw": False}),
    ("rank_genes_groups", {"n_genes": 5, "sharey": False}),
    ("rank_genes_groups", {"n_genes": 4, "gene_symbols": "symbol", "groups": ["a", "b"]}),
    ("rank_genes_groups_dotplot", {"n_genes": 3}),
    ("rank_genes_groups_dotplot", {"n_genes": 2, "values_to_plot": "logfoldchanges", "min_logfoldchange": 0.1}),
    ("rank_genes_groups_dotplot", {"var_names": GROUPS, "gene_symbols": None, "dendrogram": False}),
    ("rank_genes_groups_matrixplot", {"n_genes": -2, "gene_symbols": "symbol", "standard_scale": "var"}),
    ("rank_genes_groups_stacked_violin", {"n_genes": 2, "groups": ["a", "b"]}),
    ("rank_genes_groups_heatmap", {"n_genes": 3, "swap_axes": True, "show_gene_labels": True}),
    ("rank_genes_groups_tracksplot", {"n_genes": 2}),
    ("rank_genes_groups_violin", {"groups": ["a"], "n_genes": 3, "strip": False}),
    ("rank_genes_groups_violin", {"groups": ["b"], "gene_names": G[:2], "jitter": False}),
    ("highest_expr_genes", {"n_top": 7, "layer": "counts"}),
    ("highest_expr_genes", {"n_top": 5, "gene_symbols": "symbol", "log": True}),
    ("highly_variable_genes", {}),
    ("pca_loadings", {"components": "1,2", "n_points": 8}),
    ("pca_variance_ratio", {"log": True, "n_pcs": 8}),
    ("pca_overview", {"color": G[1]}),
    ("ranking", {"attr": "varm", "keys": "PCs", "indices": [0, 1], "n_points": 6}),
    ("scrublet_score_distribution", {}),
    ("paga", {"color": G[1], "add_pos": True}),
    ("paga", {"threshold": 0.001, "fontsize": 8, "layout": "fr"}),
    ("paga_compare", {"basis": "umap", "color": G[2]}),
    ("paga_compare", {}),
    ("paga_path", {"nodes": ["a", "b", "c"], "keys": [G[1], G[2], "total"], "n_avg": 5}),
    ("dpt_groups_pseudotime", {}),
    ("dpt_timeseries", {"as_heatmap": True}),
    ("sim", {"tmax_realization": 60, "as_heatmap": True}),
]


def drawn() -> list[dict[str, Any]]:
    """Return what the open figures hold, and close them."""
    out = []
    for number in plt.get_fignums():
        figure = plt.figure(number)
        figure.canvas.draw()
        out.extend(_axes(ax) for ax in figure.axes)
        out.append({"size": figure.get_size_inches(), "texts": [t.get_text() for t in figure.texts]})
    plt.close("all")
    return out


def _axes(ax: Any) -> dict[str, Any]:
    held: dict[str, Any] = {
        "place": ax.get_position().bounds,
        "limits": [*ax.get_xlim(), *ax.get_ylim()],
        "scales": [ax.get_xscale(), ax.get_yscale()],
        "labels": [ax.get_xlabel(), ax.get_ylabel(), ax.get_title()],
        "ticks": [t.get_text() for t in (*ax.get_xticklabels(), *ax.get_yticklabels())],
        "texts": [t.get_text() for t in ax.texts],
        "legend": [t.get_text() for t in ax.get_legend().get_texts()] if ax.get_legend() else [],
        "lines": [(line.get_xydata(), line.get_color()) for line in ax.lines],
        "images": [(np.ma.filled(im.get_array(), np.nan), im.get_clim(), im.get_cmap().name) for im in ax.images],
        "patches": [(p.get_path().vertices, p.get_facecolor()) for p in ax.patches],
        "collections": [],
    }
    for c in ax.collections:
        sizes = c.get_sizes() if hasattr(c, "get_sizes") else []
        places = np.ma.filled(np.ma.asarray(c.get_offsets(), float), np.nan)
        paths = [p.vertices for p in c.get_paths()[:50]]
        held["collections"].append((places, c.get_facecolor(), c.get_edgecolor(), sizes, c.get_linewidth(), paths))
    return held


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Yield where two figures differ: text exactly, numbers to 1e-5."""
    if isinstance(a, dict):
        for key in a:
            yield from differences(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple) and not (len(a) and isinstance(a[0], float | np.floating)):
        if len(a) != len(b):
            yield f"{where}: {len(a)} and {len(b)} parts"
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f"{where}[{i}]")
    elif isinstance(a, str):
        if a != b:
            yield f"{where}: {a!r} and {b!r}"
    else:
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape:
            yield f"{where}: shapes {x.shape} and {y.shape}"
        elif x.dtype.kind in "fiub" and not np.allclose(x, y, rtol=1e-5, atol=1e-5, equal_nan=True):
            yield f"{where}: numbers differ by {np.nanmax(np.abs(x.astype(float) - y)):g}"


def simulated() -> ad.AnnData:
    """240 cells, 60 genes, of 4 kinds, with everything that plots look at, as the tutorials make them."""
    import sc_dask as sd

    rng = np.random.default_rng(0)
    kind = np.repeat(list("abcd"), 60)
    rates = rng.gamma(1.0, 1.0, (4, 60)) * np.where(np.arange(60) // 15 == np.arange(4)[:, None], 1.7, 1.0)
    counts = rng.poisson(rates[np.repeat(np.arange(4), 60)]).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(counts), pd.DataFrame(index=[f"c{i}" for i in range(240)]), pd.DataFrame(index=G))
    order = rng.permutation(240)
    adata = adata[order].copy()
    adata.obs["kind"] = pd.Categorical(kind[order])
    adata.obs["words"] = pd.Categorical(rng.choice(["one", "two", "three"], 240))
    adata.obs["flag"] = rng.random(240) < 0.7
    adata.obs["total"] = counts[order].sum(1)
    adata.var["symbol"] = [f"S{i}" for i in range(60)]
    adata.layers["counts"] = adata.X.copy()
    sd.pp.scrublet(adata, n_prin_comps=10, threshold=0.2)
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata, n_top_genes=30)
    sd.pp.pca(adata, n_comps=10)
    sd.pp.neighbors(adata, n_neighbors=10)
    sd.tl.umap(adata)
    adata.obsm["X_tsne"] = adata.obsm["X_umap"][:, ::-1].copy()
    adata.obsm["X_draw_graph_fr"] = adata.obsm["X_umap"] * 2
    adata.obsm["spatial"] = adata.obsm["X_umap"] * 3
    adata.uns["iroot"] = 0
    sd.tl.diffmap(adata)
    sd.tl.dpt(adata, n_branchings=1)
    sd.tl.paga(adata, groups="kind")
    adata.uns["paga"]["pos"] = rng.random((4, 2))
    sd.tl.embedding_density(adata, basis="umap", groupby="kind")
    sd.tl.rank_genes_groups(adata, "kind", method="t-test")
    sd.tl.dendrogram(adata, "kind", key_added="tree")
    return adata
