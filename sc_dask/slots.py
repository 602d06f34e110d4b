"""Every slot of AnnData that sc_dask writes, declared once; and the one place where they are written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from sc_dask.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData


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
    Slot("obs", "n_genes", "n_obs", "int64", "pp.filter_cells", "genes with a non-zero value"),
    Slot("obs", "n_counts", "n_obs", "float", "pp.filter_cells", "sum of the cell"),
    Slot("var", "n_cells", "n_vars", "int64", "pp.filter_genes", "cells with a non-zero value"),
    Slot("var", "n_counts", "n_vars", "float", "pp.filter_genes", "sum of the gene"),
    Slot("X", "", "n_obs x n_vars", "float32", "pp.normalize_total", "every cell brought to the same sum"),
    Slot("X", "", "n_obs x n_vars", "float32", "pp.log1p", "log(1 + x)"),
    Slot("layers", "{}", "n_obs x n_vars", "float32", "pp.normalize_total", "the same, of a layer"),
    Slot("layers", "{}", "n_obs x n_vars", "float32", "pp.log1p", "the same, of a layer"),
    Slot("obs", "{}", "n_obs", "float", "pp.normalize_total", "the sum before, under key_added"),
    Slot("layers", "sc_dask_counts", "n_obs x n_vars", "number", "pipeline", "the counts, lazy, while a run is on"),
    Slot("var", "mt", "n_vars", "bool", "pipeline", "mitochondrial genes"),
    Slot("uns", "sc_dask", "", "dict", "pipeline", "version, input and settings of the run"),
    Slot("uns", "log1p", "", "dict", "pp.log1p", "base of the logarithm"),
    Slot("uns", "hvg", "", "dict", _HVG, "flavor"),
    Slot("var", "highly_variable", "n_vars", "bool", _HVG, "chosen genes"),
    Slot("var", "means", "n_vars", "float64", _HVG, "mean per gene"),
    Slot("var", "dispersions", "n_vars", "float64", _HVG, "dispersion per gene"),
    Slot("var", "dispersions_norm", "n_vars", "float", _HVG, "dispersion against genes of a like mean"),
    Slot("var", "variances", "n_vars", "float64", _HVG, "variance per gene (seurat_v3)"),
    Slot("var", "variances_norm", "n_vars", "float64", _HVG, "variance of clipped standardised counts (seurat_v3)"),
    Slot("var", "highly_variable_rank", "n_vars", "float", _HVG, "rank among chosen genes (seurat_v3)"),
    Slot("var", "highly_variable_nbatches", "n_vars", "int64", _HVG, "batches in which the gene was chosen"),
    Slot("var", "highly_variable_intersection", "n_vars", "bool", _HVG, "chosen in every batch"),
    Slot("obsm", "X_pca", "n_obs x n_comps", "float", "pp.pca", "principal components of the cells"),
    Slot("varm", "PCs", "n_vars x n_comps", "float", "pp.pca", "loadings"),
    Slot("uns", "pca", "", "dict", "pp.pca", "params, variance and variance_ratio"),
    Slot("obsm", "{}", "n_obs x n_comps", "float", "pp.pca", "the same, under key_added"),
    Slot("varm", "{}", "n_vars x n_comps", "float", "pp.pca", "the same, under key_added"),
    Slot("uns", "{}", "", "dict", "pp.pca", "the same, under key_added"),
    Slot("obsp", "distances", "n_obs x n_obs", "float", "pp.neighbors", "distances to the k - 1 nearest cells"),
    Slot("obsp", "connectivities", "n_obs x n_obs", "float32", "pp.neighbors", "weights of the neighbour graph"),
    Slot("uns", "neighbors", "", "dict", "pp.neighbors", "params with the measured recall"),
    Slot("obsp", "{}_distances", "n_obs x n_obs", "float", "pp.neighbors", "the same, under key_added"),
    Slot("obsp", "{}_connectivities", "n_obs x n_obs", "float32", "pp.neighbors", "the same, under key_added"),
    Slot("uns", "{}", "", "dict", "pp.neighbors", "the same, under key_added"),
    Slot("obs", "{}", "n_obs", "category", "tl.leiden", "cluster of the cell"),
    Slot("uns", "{}", "", "dict", "tl.leiden", "params and modularity, one entry per key"),
    Slot("obsm", "X_umap", "n_obs x n_components", "float32", "tl.umap", "positions"),
    Slot("uns", "umap", "", "dict", "tl.umap", "params a and b"),
    Slot("obsm", "{}", "n_obs x n_components", "float32", "tl.umap", "the same, under key_added"),
    Slot("uns", "{}", "", "dict", "tl.umap", "the same, under key_added"),
    Slot(
        "uns", "{}", "", "dict", "tl.rank_genes_groups", "names, scores, pvals, pvals_adj, logfoldchanges, pts, params"
    ),
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
    return tuple(s for s in SLOTS if s.writer == writer)


def write(adata: AnnData, writes: Mapping[tuple[str, str], Any], *, writer: str | None = None) -> None:
    """Write slots of ``adata``: ``{("obsm", "X_pca"): array, ...}``.

    Parameters
    ----------
    adata
        Annotated matrix; changed in place.
    writes
        ``(attribute, key)`` to value; ``("X", "")`` is X itself.
    writer
        The function that writes, as in `SLOTS`.

    Raises
    ------
    KeyError
        A slot is not declared (for that writer): a mistake in sc_dask, not in your data.
    """
    declared = of(writer) if writer else SLOTS
    for attr, key in writes:
        if not any(s.matches(attr, key) for s in declared):
            raise KeyError(f"slot {attr}[{key!r}] is not declared for {writer or 'any function'} in sc_dask/slots.py")
    if adata.is_view:
        adata._init_as_actual(adata.copy())
    for (attr, key), value in writes.items():
        _note(attr, key, value)
        if attr == "X":
            adata.X = value
        else:
            getattr(adata, attr)[key] = value


def subset(adata: AnnData, axis: str, keep: Any) -> None:
    """Keep some cells (``axis="obs"``) or genes (``"var"``) in place; ``keep`` is a boolean mask."""
    _note("subset", axis, keep)
    if axis == "obs":
        adata._inplace_subset_obs(keep)
    elif axis == "var":
        adata._inplace_subset_var(keep)
    else:
        raise InputError(f"axis {axis!r}", "'obs' or 'var'")


def drop(adata: AnnData, attr: str, key: str) -> None:
    """Remove a slot; ``("X", "")`` is X itself, ``("raw", "")`` all of raw."""
    if attr == "X":
        adata.X = None
    elif attr == "raw":
        del adata.raw
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
