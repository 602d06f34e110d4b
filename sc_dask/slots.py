"""Every slot of AnnData that sc_dask writes, declared once; and the one place where they are written.

obs and var may be lazy: ``sc_dask.tables`` is what differs, but for the colours of categories that a subset loses.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sc_dask import log, work
from sc_dask.array.blocks import RowBlocks, restored
from sc_dask.array.engine import batch
from sc_dask.errors import InputError
from sc_dask.outside.anndata import (
    keep_class_in_views,
    make_actual,
    named_layers,
    subset_inplace,
    write_lazy,
    write_whole,
)
from sc_dask.tables import Column as Column  # tables are part of what slots are: one name for both
from sc_dask.tables import HeldColumn as HeldColumn
from sc_dask.tables import add_column, columns, is_lazy, load
from sc_dask.tables import in_memory as in_memory
from sc_dask.tables import lazy_columns as lazy_columns
from sc_dask.tables import lazy_variable as lazy_variable
from sc_dask.tables import names as names

if TYPE_CHECKING:
    from anndata import AnnData


keep_class_in_views(RowBlocks)
write_lazy(RowBlocks)
write_whole(work.replacing)


@dataclass(frozen=True)
class Slot:
    """One slot: where it is, its dimensions and type, which function writes it, and what it holds.

    ``key`` may contain ``{}``, which stands for a name that the user chooses (``key_added``, a gene set).
    """

    attr: str
    key: str
    dims: str
    dtype: str
    writer: str
    doc: str

    def matches(self, attr: str, key: str) -> bool:
        """Tell whether ``adata.<attr>[key]`` is this slot."""
        pattern = re.escape(self.key).replace(r"\{\}", r".+")
        return attr == self.attr and re.fullmatch(pattern, key) is not None


_QC, _HVG = "pp.calculate_qc_metrics", "pp.highly_variable_genes"
_CYCLE, _PEARSON = "tl.score_genes_cell_cycle", "pp.normalize_pearson_residuals"
_ON_LAYERS = ("pp.normalize_total", "pp.log1p", "pp.regress_out", "pp.scale", _PEARSON)
_ON_OBSM = ("pp.normalize_total", "pp.log1p", _PEARSON)
_SCALING = ("pp.scale", "pp.recipe_seurat", "pp.recipe_zheng17")
_PER_CELL, _DISPERSION, _WEINREB = "pp.normalize_per_cell", "pp.filter_genes_dispersion", "pp.recipe_weinreb17"
_DOUBLETS = "pp.scrublet_simulate_doublets"
_DISPERSIONS = (
    ("means", "mean per gene"),
    ("dispersions", "dispersion per gene"),
    ("dispersions_norm", "dispersion against genes of a like mean"),
)
_SCALED = (
    ("X", "", "n_obs x n_vars", "float32", "genes of unit variance"),
    ("var", "mean", "n_vars", "float64", "mean before scaling"),
    ("var", "std", "n_vars", "float64", "standard deviation before scaling"),
)
SLOTS: tuple[Slot, ...] = (
    Slot("obs", "n_{}_by_{}", "n_obs", "int64", _QC, "features with a non-zero value in the cell"),
    Slot("obs", "log1p_n_{}_by_{}", "n_obs", "float64", _QC, "log(1 + the above)"),
    Slot("obs", "total_{}", "n_obs", "float", _QC, "sum over all features, or over those of a gene set"),
    Slot("obs", "log1p_total_{}", "n_obs", "float", _QC, "log(1 + the above)"),
    Slot("obs", "pct_{}_in_top_{}_{}", "n_obs", "float64", _QC, "per cent of the cell's sum in its top features"),
    Slot("obs", "pct_{}_{}", "n_obs", "float", _QC, "per cent of the cell's sum in a gene set"),
    Slot("var", "n_cells_by_{}", "n_vars", "int64", _QC, "cells with a non-zero value"),
    Slot("var", "mean_{}", "n_vars", "float", _QC, "mean over all cells"),
    Slot("var", "log1p_mean_{}", "n_vars", "float", _QC, "log(1 + the above)"),
    Slot("var", "pct_dropout_by_{}", "n_vars", "float64", _QC, "per cent of cells with zero"),
    Slot("var", "total_{}", "n_vars", "float", _QC, "sum over all cells"),
    Slot("var", "log1p_total_{}", "n_vars", "float", _QC, "log(1 + the above)"),
    Slot("obs", "n_genes", "n_obs", "int64", "pp.filter_cells", "genes with a value above 0"),
    Slot("obs", "n_counts", "n_obs", "float", "pp.filter_cells", "sum of the cell"),
    Slot("var", "n_cells", "n_vars", "int64", "pp.filter_genes", "cells with a value above 0"),
    Slot("var", "n_counts", "n_vars", "float", "pp.filter_genes", "sum of the gene"),
    Slot("X", "", "n_obs x n_vars", "float32", "pp.normalize_total", "every cell brought to the same sum"),
    Slot("X", "", "n_obs x n_vars", "float32", "pp.log1p", "log(1 + x)"),
    Slot("X", "", "n_obs x n_vars", "float32", "pp.sqrt", "square root of X"),
    Slot("X", "", "n_obs x n_vars", "number", "pp.downsample_counts", "some of the counts, in their own type"),
    Slot("X", "", "n_obs x n_vars", "float32", "pp.combat", "values without batch effects"),
    Slot("obs", "{}", "n_obs", "category", "pp.combat", "the batches, if their column was text"),
    Slot("obs", "{}", "n_obs", "float", "pp.normalize_total", "the sum before, under key_added"),
    Slot("layers", "sc_dask_counts", "n_obs x n_vars", "number", "pipeline", "the counts, lazy, while a run is on"),
    Slot("layers", "counts", "n_obs x n_vars", "number", "pipeline", "the counts beside normalised X"),
    Slot("uns", "leiden_colors", "n_clusters", "str", "pipeline", "colours of the clusters, scanpy's"),
    Slot("var", "mt", "n_vars", "bool", "pipeline", "mitochondrial genes"),
    Slot("uns", "sc_dask", "", "dict", "pipeline", "version, input and settings of the run"),
    Slot("uns", "hvg", "", "dict", _HVG, "flavor"),
    Slot("var", "highly_variable", "n_vars", "bool", _HVG, "chosen genes"),
    Slot("var", "means", "n_vars", "float64", _HVG, "mean per gene"),
    Slot("var", "dispersions", "n_vars", "float64", _HVG, "dispersion per gene"),
    Slot("var", "dispersions_norm", "n_vars", "float", _HVG, "dispersion against genes of a like mean"),
    Slot("var", "variances", "n_vars", "float64", _HVG, "variance per gene (seurat_v3)"),
    Slot("var", "variances_norm", "n_vars", "float64", _HVG, "variance of clipped standardised counts (seurat_v3)"),
    Slot("var", "residual_variances", "n_vars", "float64", _HVG, "variance of Pearson residuals"),
    Slot("var", "highly_variable_rank", "n_vars", "float", _HVG, "rank among chosen genes (seurat_v3)"),
    Slot("var", "highly_variable_nbatches", "n_vars", "int64", _HVG, "batches in which the gene was chosen"),
    Slot("var", "highly_variable_intersection", "n_vars", "bool", _HVG, "chosen in every batch"),
    Slot("X", "", "n_obs x n_vars", "float32", "pp.regress_out", "residuals"),
    Slot("obsm", "{}", "n_obs x n_dims", "float", "pp.scale", "the same, of an element of obsm"),
    Slot("var", "mean{}", "n_vars", "float64", "pp.scale", "mean before scaling, of all or some cells"),
    Slot("var", "std{}", "n_vars", "float64", "pp.scale", "standard deviation before scaling"),
    Slot("X", "", "n_obs x n_vars", "float32", _PEARSON, "Pearson residuals"),
    Slot("uns", "pearson_residuals_normalization", "", "dict", _PEARSON, "theta, clip and computed_on"),
    *(Slot("layers", "{}", "n_obs x n_vars", "float32", w, "the same, of a layer") for w in _ON_LAYERS),
    *(Slot("obsm", "{}", "n_obs x n_dims", "float", w, "the same, of an element of obsm") for w in _ON_OBSM),
    *(Slot("uns", "log1p", "", "dict", w, "base of the logarithm") for w in ("pp.log1p", *_SCALING[1:])),
    *(Slot(a, k, d, t, w, doc) for w in _SCALING for a, k, d, t, doc in _SCALED),
    Slot("obs", "n_genes", "n_obs", "int64", "pp.recipe_seurat", "genes with a value above 0"),
    Slot("var", "n_cells", "n_vars", "int64", "pp.recipe_seurat", "cells with a value above 0"),
    Slot("obs", "n_counts_all", "n_obs", "float", "pp.recipe_zheng17", "sum before, over the median"),
    Slot("var", "n_counts", "n_vars", "float", "pp.recipe_zheng17", "sum of the gene"),
    Slot("obs", "{}", "n_obs", "float", _PER_CELL, "sum of the cell before"),
    Slot("X", "", "n_obs x n_vars", "float32", _PER_CELL, "every cell brought to the same sum"),
    Slot("layers", "{}", "n_obs x n_vars", "float32", _PER_CELL, "the same, of a layer"),
    *(Slot("var", k, "n_vars", "float32", _DISPERSION, doc) for k, doc in _DISPERSIONS),
    Slot("var", "highly_variable", "n_vars", "bool", _DISPERSION, "chosen genes"),
    Slot("X", "", "n_obs x n_vars", "float32", _WEINREB, "every cell brought to the same sum"),
    Slot("obsm", "X_pca", "n_obs x n_comps", "float32", _WEINREB, "principal components of the cells"),
    Slot("uns", "log1p", "", "dict", _WEINREB, "base of the logarithm"),
    Slot("obs", "n_counts", "n_obs", "float", _DOUBLETS, "sum of the doublet"),
    Slot("obsm", "doublet_parents", "n_obs x 2", "int64", _DOUBLETS, "the two cells that it is made of"),
    Slot("uns", "scrublet", "", "dict", _DOUBLETS, "parameters"),
    Slot("obsm", "X_pca", "n_obs x n_comps", "float", "pp.pca", "principal components of the cells"),
    Slot("varm", "PCs", "n_vars x n_comps", "float", "pp.pca", "loadings"),
    Slot("uns", "pca", "", "dict", "pp.pca", "params, variance and variance_ratio"),
    Slot("obsm", "{}", "n_obs x n_comps", "float", "pp.pca", "the same, under key_added"),
    Slot("varm", "{}", "n_vars x n_comps", "float", "pp.pca", "the same, under key_added"),
    Slot("uns", "{}", "", "dict", "pp.pca", "the same, under key_added"),
    Slot("obs", "doublet_score", "n_obs", "float64", "pp.scrublet", "how much the cell looks like a doublet"),
    Slot("obs", "predicted_doublet", "n_obs", "bool", "pp.scrublet", "whether it is above the threshold"),
    Slot(
        "uns", "scrublet", "", "dict", "pp.scrublet", "scores and parents of simulated doublets, threshold, parameters"
    ),
    Slot("obsm", "X_pca_harmony", "n_obs x n_comps", "float32", "pp.harmony_integrate", "components without batches"),
    Slot("obsm", "{}", "n_obs x n_comps", "float32", "pp.harmony_integrate", "the same, under adjusted_basis"),
    Slot("obsp", "distances", "n_obs x n_obs", "float", "pp.neighbors", "distances to the k - 1 nearest cells"),
    Slot("obsp", "connectivities", "n_obs x n_obs", "float", "pp.neighbors", "weights of the neighbour graph"),
    Slot("uns", "neighbors", "", "dict", "pp.neighbors", "params with the measured recall"),
    Slot("obsp", "{}_distances", "n_obs x n_obs", "float", "pp.neighbors", "the same, under key_added"),
    Slot("obsp", "{}_connectivities", "n_obs x n_obs", "float", "pp.neighbors", "the same, under key_added"),
    Slot("uns", "{}", "", "dict", "pp.neighbors", "the same, under key_added"),
    Slot("obsp", "distances", "n_obs x n_obs", "float", "pp.bbknn", "distances to the nearest cells of every batch"),
    Slot("obsp", "connectivities", "n_obs x n_obs", "float32", "pp.bbknn", "weights of the neighbour graph"),
    Slot("uns", "neighbors", "", "dict", "pp.bbknn", "params with the measured recall"),
    Slot("obsm", "X_pca", "n_obs x n_comps", "float", "pp.neighbors", "principal components, where there were none"),
    Slot("varm", "PCs", "n_vars x n_comps", "float", "pp.neighbors", "their loadings"),
    Slot("uns", "pca", "", "dict", "pp.neighbors", "their params, variance and variance_ratio"),
    Slot("obs", "landmark", "n_obs", "int32", "pp.neighbors", "landmark of the cell in a landmark graph"),
    Slot("obs", "{}_landmark", "n_obs", "int32", "pp.neighbors", "the same, under key_added"),
    Slot("obs", "{}", "n_obs", "category", "tl.leiden", "cluster of the cell"),
    Slot("uns", "{}", "", "dict", "tl.leiden", "params and modularity, one entry per key"),
    Slot("obs", "{}", "n_obs", "category", "tl.louvain", "cluster of the cell"),
    Slot("uns", "{}", "", "dict", "tl.louvain", "params and modularity, one entry per key"),
    Slot("obsm", "X_umap", "n_obs x n_components", "float32", "tl.umap", "positions"),
    Slot("uns", "umap", "", "dict", "tl.umap", "params a and b"),
    Slot("obsm", "{}", "n_obs x n_components", "float32", "tl.umap", "the same, under key_added"),
    Slot("uns", "{}", "", "dict", "tl.umap", "the same, under key_added"),
    Slot("obsm", "X_tsne", "n_obs x 2", "float", "tl.tsne", "positions"),
    Slot("uns", "tsne", "", "dict", "tl.tsne", "params"),
    Slot("obsm", "{}", "n_obs x 2", "float", "tl.tsne", "the same, under key_added"),
    Slot("uns", "{}", "", "dict", "tl.tsne", "the same, under key_added"),
    Slot("uns", "dendrogram_{}", "", "dict", "tl.dendrogram", "linkage, correlation_matrix and order of groups"),
    Slot("uns", "{}", "", "dict", "tl.dendrogram", "the same, under key_added"),
    Slot("obs", "{}_density", "n_obs", "float64", "tl.embedding_density", "density of cells, from 0 to 1"),
    Slot("obs", "{}_density_{}", "n_obs", "float64", "tl.embedding_density", "the same, in the cell's own group"),
    Slot("obs", "{}", "n_obs", "float64", "tl.embedding_density", "the same, under key_added"),
    Slot("uns", "{}_params", "", "dict", "tl.embedding_density", "covariate and components"),
    Slot("uns", "paga", "", "dict", "tl.paga", "connectivities of groups, their tree, transitions_confidence, groups"),
    Slot("uns", "{}_sizes", "n_groups", "int64", "tl.paga", "cells of each group"),
    Slot("obsm", "X_draw_graph_{}", "n_obs x 2", "float64", "tl.draw_graph", "positions"),
    Slot("uns", "draw_graph", "", "dict", "tl.draw_graph", "params"),
    Slot("obsm", "X_diffmap", "n_obs x n_comps", "float", "tl.diffmap", "diffusion components of the cells"),
    Slot("uns", "diffmap_evals", "n_comps", "float", "tl.diffmap", "their eigenvalues, falling"),
    Slot("obs", "dpt_pseudotime", "n_obs", "float", "tl.dpt", "diffusion distance from the root, at most 1"),
    Slot("obs", "dpt_groups", "n_obs", "category", "tl.dpt", "branch of the cell"),
    Slot("obs", "dpt_order", "n_obs", "int64", "tl.dpt", "place of the cell by branch and pseudotime"),
    Slot("obs", "dpt_order_indices", "n_obs", "int64", "tl.dpt", "cell at the place"),
    Slot("uns", "dpt_changepoints", "n_changes", "int64", "tl.dpt", "places where another branch begins"),
    Slot("uns", "dpt_grouptips", "n_groups x 2", "int64", "tl.dpt", "the two ends of each branch"),
    Slot("obsm", "X_diffmap", "n_obs x n_comps", "float", "tl.dpt", "as of tl.diffmap, if it was not there"),
    Slot("uns", "diffmap_evals", "n_comps", "float", "tl.dpt", "as of tl.diffmap, if it was not there"),
    Slot("obs", "{}", "n_obs", "category", "tl.ingest", "label of the reference"),
    Slot("obsm", "X_pca", "n_obs x n_comps", "float", "tl.ingest", "along the components of the reference"),
    Slot("obsm", "X_umap", "n_obs x n_components", "float32", "tl.ingest", "in the layout of the reference"),
    Slot("obs", "{}", "n_obs", "category or float64", "tl.transfer_labels", "label or number of the reference"),
    Slot("obs", "{}_uncertainty", "n_obs", "float64", "tl.transfer_labels", "how unsure it is"),
    Slot("obs", "predicted_labels", "n_obs", "category", "tl.annotate", "label of the model"),
    Slot("obs", "conf_score", "n_obs", "float64", "tl.annotate", "its probability"),
    Slot("obs", "over_clustering", "n_obs", "category", "tl.annotate", "small cluster of the cell"),
    Slot("obs", "majority_voting", "n_obs", "category", "tl.annotate", "label of most cells of that cluster"),
    Slot("obsm", "decisions", "n_obs x n_labels", "float32", "tl.annotate", "score of every label, on request"),
    Slot(
        "obsm", "probabilities", "n_obs x n_labels", "float32", "tl.annotate", "probability of each label, on request"
    ),
    Slot("uns", "annotate", "", "dict", "tl.annotate", "params, labels in their order and genes that were used"),
    Slot("obs", "{}_{}", "n_obs", "category", "tl.annotate", "the same labels, under key_added"),
    Slot("obs", "{}_conf_score", "n_obs", "float64", "tl.annotate", "the same, under key_added"),
    Slot("obsm", "{}_{}", "n_obs x n_labels", "float32", "tl.annotate", "the same, under key_added"),
    Slot("uns", "{}_annotate", "", "dict", "tl.annotate", "the same, under key_added"),
    Slot("uns", "transfer_labels", "", "dict", "tl.transfer_labels", "params with the measured recall"),
    Slot("obs", "{}", "n_obs", "float64", "tl.score_genes", "mean of a set of genes less that of its controls"),
    Slot("obs", "S_score", "n_obs", "float64", _CYCLE, "score of the genes of the S phase"),
    Slot("obs", "G2M_score", "n_obs", "float64", _CYCLE, "score of the genes of the G2M phase"),
    Slot("obs", "phase", "n_obs", "object or str", _CYCLE, "S, G2M or G1"),
    Slot(
        "uns", "{}", "", "dict", "tl.rank_genes_groups", "names, scores, pvals, pvals_adj, logfoldchanges, pts, params"
    ),
    Slot("obs", "{}", "n_obs", "category", "tl.rank_genes_groups", "the groups, if their column was text"),
    Slot("uns", "{}", "", "dict", "tl.filter_rank_genes_groups", "the same, with empty names of genes taken out"),
    Slot("uns", "{}", "", "DataFrame", "tl.marker_gene_overlap", "cell types x groups"),
    Slot("uns", "{}_colors", "n_categories", "str", "pl", "colours of the categories of a column"),
    Slot("uns", "paga", "", "dict", "pl", "the same, with the positions of the groups (pos)"),
    Slot("uns", "{}", "", "", "pl", "what else scanpy keeps of a plot"),
    Slot("obs", "{}", "n_obs", "category", "pl", "a column of text that was drawn"),
)
FROM_OUTSIDE = tuple(
    Slot(attr, "{}", "", "any", "external", "what another library wrote into an AnnData that was handed to it")
    for attr in ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")
)


@dataclass(frozen=True)
class Event:
    """One change to an AnnData: a slot written, or an axis subset (``key`` is then ``obs`` or ``var``)."""

    attr: str
    key: str
    value: Any


_journal: ContextVar[list[Event] | None] = ContextVar("sc_dask_journal", default=None)


@contextlib.contextmanager
def journal() -> Iterator[list[Event]]:
    """Collect every change made inside; `replay` makes them again on a fresh AnnData of the same file."""
    events: list[Event] = []
    token = _journal.set(events)
    try:
        yield events
    finally:
        _journal.reset(token)


def replay(adata: AnnData, events: list[Event]) -> None:
    """Make recorded changes again."""
    for event in events:
        if event.attr == "subset":
            subset(adata, event.key, event.value)
        else:
            write(adata, {(event.attr, event.key): event.value})


def _note(attr: str, key: str, value: Any) -> None:
    events = _journal.get()
    if events is not None:
        events.append(Event(attr, key, value))


def of(writer: str) -> tuple[Slot, ...]:
    """Return the slots that a function (``"pp.pca"``) may write."""
    return tuple(s for s in (*SLOTS, *FROM_OUTSIDE) if s.writer == writer)


def write(
    adata: AnnData, writes: Mapping[tuple[str, str], Any], *, writer: str | None = None, since: float | None = None
) -> None:
    """Write slots of ``adata``: ``{("obsm", "X_pca"): array, ...}``.

    Parameters
    ----------
    adata
        Annotated matrix; changed in place.
    writes
        ``(attribute, key)`` to value; ``("X", "")`` is X itself.
    writer
        The function that writes, as in `SLOTS`.
    since
        When the step began (`log.begin`): it is said that it ended, and what it wrote.

    Raises
    ------
    KeyError
        A slot is not declared (for that writer): a mistake in sc_dask, not in your data.
    InputError
        In a batch: another call names the slot.
    """
    declared = of(writer) if writer else SLOTS
    for attr, key in writes:
        if not any(s.matches(attr, key) for s in declared):
            raise KeyError(f"slot {attr}[{key!r}] is not declared for {writer or 'any function'} in sc_dask/slots.py")
    participant = batch.participant()
    if participant is not None and participant.may_write is not None:
        for attr, key in writes:
            participant.may_write(attr, key)
    make_actual(adata)
    for (attr, key), value in writes.items():
        _note(attr, key, value)
        if attr == "X":
            adata.X = value
        elif attr in ("obs", "var") and is_lazy(getattr(adata, attr)):
            add_column(getattr(adata, attr), key, value)
        else:
            getattr(adata, attr)[key] = value
    if since is not None:
        log.finished(since, [_told(declared, attr, key) for attr, key in writes])


def _told(declared: tuple[Slot, ...], attr: str, key: str) -> str:
    """Return what was written, for the user: its name, what it is, and where."""
    slot = next(s for s in declared if s.matches(attr, key))
    return f"X, {slot.doc}" if attr == "X" else f"{key!r}, {slot.doc} (adata.{attr})"


def subset(adata: AnnData, axis: str, keep: Any) -> None:
    """Keep some cells (``axis="obs"``) or genes (``"var"``) in place; ``keep`` is a mask, or positions."""
    if axis not in ("obs", "var"):
        raise InputError(f"axis {axis!r}", "'obs' or 'var'")
    _note("subset", axis, keep)
    coloured = _coloured(adata)
    subset_inplace(adata, axis, keep)
    _restore(adata)
    _keep_colors(adata, coloured)


def _restore(adata: AnnData) -> None:
    """Give X and layers the class of a lazy X again: anndata 0.13 hands back plain Dask arrays."""
    if (x := restored(adata.X)) is not adata.X:
        adata.X = x
    for key, layer in list(named_layers(adata)):
        if (x := restored(layer)) is not layer:
            adata.layers[key] = x


def drop(adata: AnnData, attr: str, key: str) -> None:
    """Remove a slot; ``("X", "")`` is X itself, ``("raw", "")`` all of raw."""
    if attr == "X":
        adata.X = None
    elif attr == "raw":
        del adata.raw
    elif attr in ("obs", "var") and is_lazy(getattr(adata, attr)):
        if key in columns(getattr(adata, attr)):
            del getattr(adata, attr).ds[key]
    elif key in getattr(adata, attr):
        del getattr(adata, attr)[key]


def versions(*packages: str) -> dict[str, str]:
    """Return installed versions, for ``uns[key]["params"]``."""
    out = {}
    for name in packages:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "unknown"
    return out


def _coloured(adata: AnnData) -> dict[tuple[str, str], pd.Index]:
    """Return the categories of columns of lazy tables that have colours in uns."""
    out = {}
    for axis in ("obs", "var"):
        table = getattr(adata, axis)
        for key in columns(table) if is_lazy(table) else ():
            if f"{key}_colors" in adata.uns:
                values = load(table, key)
                if isinstance(values.dtype, pd.CategoricalDtype):
                    out[axis, key] = values.cat.categories
    return out


def _keep_colors(adata: AnnData, before: Mapping[tuple[str, str], pd.Index]) -> None:
    """Keep the colours of the categories that are left, as AnnData does for tables in memory."""
    for (axis, key), categories in before.items():
        colors = np.atleast_1d(adata.uns[f"{key}_colors"])
        if np.ndim(adata.uns[f"{key}_colors"]) == 0:
            adata.uns[f"{key}_colors"] = colors
        elif len(colors) != len(categories):
            del adata.uns[f"{key}_colors"]
        else:
            left = load(getattr(adata, axis), key).cat.categories
            adata.uns[f"{key}_colors"] = colors[np.isin(categories, left)]
