"""The stages of a run: each one changes an AnnData by the public verbs alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import get, pp, slots, tl
from sc_dask.array.qc import not_counts
from sc_dask.errors import InputError
from sc_dask.log import logger
from sc_dask.pipeline.figures import default_colors

if TYPE_CHECKING:
    from anndata import AnnData

    from sc_dask.pipeline.settings import Filter, Settings


Kept = dict[str, Any]  # what a bound has left: bound, n_obs, n_vars
COUNTS = "sc_dask_counts"  # the lazy layer of counts while a run is on


@dataclass(frozen=True)
class PipelineStep:
    """A stage: its name, what it does, the sections of the settings that it reads, and whether it reads X.

    A ``lazy`` step reads nothing and is made again on resume instead of being stored.
    """

    name: str
    run: Callable[[AnnData, Settings], list[Kept] | None]
    sections: tuple[str, ...]
    lazy: bool = False


def qc(adata: AnnData, s: Settings) -> None:
    """QC metrics of the cells and genes, with the mitochondrial share."""
    if s.qc.gene_symbols is None:
        names = adata.var_names
    else:
        names = get.column(adata, s.qc.gene_symbols, axis="var").astype(str)
    prefix = s.qc.mt_prefix.upper()
    mt = np.array([str(n).upper().startswith(prefix) for n in names])
    if not mt.any():
        logger.warning("no gene name starts with %r: pct_counts_mt is 0 (qc.mt_prefix, qc.gene_symbols)", prefix)
    slots.write(adata, {("var", "mt"): mt})
    tops = tuple(n for n in s.qc.percent_top if n <= adata.n_vars)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=tops or None, inplace=True)
    found = not_counts(get.matrix(adata))
    if found:
        raise InputError(
            f"X is not a count matrix: it holds {found}",
            "raw counts (whole numbers from 0 up)",
            "name where the counts are: input.layer or input.use_raw in the configuration",
        )
    _check_filter(adata, s)
    for w in caught:  # what was refused above needs no warning beside the error
        warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


_CELL_BOUNDS = (
    ("min_genes", "n_genes_by_counts"),
    ("min_counts", "total_counts"),
    ("max_genes", "n_genes_by_counts"),
    ("max_counts", "total_counts"),
    ("max_pct_mt", "pct_counts_mt"),
)


def _kept_cells(adata: AnnData, f: Filter, names: tuple[str, ...]) -> np.ndarray:
    keep = np.ones(adata.n_obs, bool)
    for name, column in _CELL_BOUNDS:
        bound = getattr(f, name)
        if name in names and bound is not None:
            found = adata.obs[column].to_numpy()
            keep &= found >= bound if name.startswith("min_") else found <= bound
            if not keep.any():
                raise InputError(
                    f"filter.{name} {bound:g} and the bounds before it keep none of {adata.n_obs} cells "
                    f"({column} is {found.min():g} to {found.max():g})",
                    "bounds that keep some", f"loosen filter.{name} in the configuration",
                )  # fmt: skip
    return keep


def _check_filter(adata: AnnData, s: Settings) -> None:
    """Find out as soon as the metrics tell that no cell or gene would be left."""
    _kept_cells(adata, s.filter, tuple(name for name, _ in _CELL_BOUNDS))
    most = int(adata.var["n_cells_by_counts"].max())
    if s.filter.min_cells is not None and most < s.filter.min_cells:
        raise InputError(
            f"filter.min_cells {s.filter.min_cells} keeps none of {adata.n_vars} genes (at most {most} cells)",
            "a bound that keeps some", "loosen filter.min_cells in the configuration",
        )  # fmt: skip


def filter_cells_and_genes(adata: AnnData, s: Settings) -> list[Kept]:
    """Drop cells with too little, then genes in too few cells, then cells with too much; tell what each bound left."""
    f, kept = s.filter, []
    for name in ("min_genes", "min_counts", "min_cells"):
        bound = getattr(f, name)
        if bound is not None:
            verb = pp.filter_genes if name == "min_cells" else pp.filter_cells
            verb(adata, **{name: bound})
            kept.append({"bound": f"{name} {bound:g}", "n_obs": adata.n_obs, "n_vars": adata.n_vars})
    most = ("max_genes", "max_counts", "max_pct_mt")
    keep = np.ones(adata.n_obs, bool)
    for i, name in enumerate(most):
        if getattr(f, name) is not None:
            keep = _kept_cells(adata, f, most[: i + 1])
            kept.append({"bound": f"{name} {getattr(f, name):g}", "n_obs": int(keep.sum()), "n_vars": adata.n_vars})
    if not keep.all():
        slots.subset(adata, "obs", keep)
    return kept


def normalize(adata: AnnData, s: Settings) -> None:
    """Keep the counts as a lazy layer, bring cells to one sum and take the logarithm; reads nothing."""
    slots.write(adata, {("layers", COUNTS): adata.X})
    pp.normalize_total(adata, target_sum=s.normalize.target_sum)
    pp.log1p(adata)


def hvg(adata: AnnData, s: Settings) -> None:
    """Highly variable genes; of the counts for seurat_v3."""
    options = s.section("hvg")
    if options["n_top_genes"] is not None or options["flavor"].startswith("seurat_v3"):
        for unused in ("min_mean", "max_mean", "min_disp", "max_disp"):
            options.pop(unused)
    layer = COUNTS if options["flavor"].startswith("seurat_v3") else None
    pp.highly_variable_genes(adata, layer=layer, **options)


def pca(adata: AnnData, s: Settings) -> None:
    """Principal components of the highly variable genes."""
    n_genes = int(adata.var["highly_variable"].sum())
    if n_genes == 0:
        raise InputError("no gene is highly variable", "some", "hvg: {n_top_genes: 2000} in the configuration")
    pp.pca(adata, **s.section("pca"))


def neighbors(adata: AnnData, s: Settings) -> None:
    """The neighbour graph of the cells."""
    pp.neighbors(adata, **s.section("neighbors"))


def leiden(adata: AnnData, s: Settings) -> None:
    """Clusters of the graph."""
    tl.leiden(adata, **s.section("leiden"))


def umap(adata: AnnData, s: Settings) -> None:
    """Positions for the eye."""
    tl.umap(adata, **s.section("umap"))


def markers(adata: AnnData, s: Settings) -> None:
    """Genes that tell the clusters apart; clusters of one cell are left out."""
    cells = get.groups(adata, "leiden", missing="drop", unused="keep", max_groups=None)
    groups = [name for name, size in zip(cells.names, cells.sizes, strict=True) if size > 1]
    if len(cells) < 2 or not groups:
        logger.warning("one cluster: no markers")
        return
    tl.rank_genes_groups(adata, "leiden", groups=groups, use_raw=False, **s.section("markers"))


STEPS: tuple[PipelineStep, ...] = (
    PipelineStep("qc", qc, ("input", "qc")),
    PipelineStep("filter", filter_cells_and_genes, ("filter",)),
    PipelineStep("normalize", normalize, ("normalize",), lazy=True),
    PipelineStep("hvg", hvg, ("hvg",)),
    PipelineStep("pca", pca, ("pca",)),
    PipelineStep("neighbors", neighbors, ("neighbors",)),
    PipelineStep("leiden", leiden, ("leiden",)),
    PipelineStep("umap", umap, ("umap",)),
    PipelineStep("markers", markers, ("markers",)),
)


def finish(adata: AnnData, s: Settings) -> None:
    """Give X, the layers and the colours of clusters what the result is to hold."""
    counts = adata.layers[COUNTS]
    slots.drop(adata, "layers", COUNTS)
    if s.write.x == "counts":
        slots.write(adata, {("X", ""): counts})
    if s.write.x == "normalized" and s.write.counts:
        if "counts" not in adata.layers:
            slots.write(adata, {("layers", "counts"): counts})
        elif s.input.layer != "counts":
            logger.warning("layers['counts'] of the input stays as it is; what was analysed was something else")
    if s.write.x != "normalized":
        slots.drop(adata, "uns", "log1p")
    if s.write.x == "none":
        slots.drop(adata, "X", "")
    n_clusters = len(adata.obs["leiden"].cat.categories)
    slots.write(adata, {("uns", "leiden_colors"): default_colors(n_clusters)})
