"""Preprocessing on AnnData: quality control to the neighbour graph, with scanpy's names and defaults.

A function and its file may share a name (``pp.pca``): the name is always the function, because it is
imported here, after Python has bound the submodule. Reach a file as ``from sc_dask.pp.pca import ...``.
"""

from __future__ import annotations

from sc_dask.pp.qc import calculate_qc_metrics
from sc_dask.pp.filter import filter_cells, filter_genes
from sc_dask.pp.normalize import log1p, normalize_total, sqrt
from sc_dask.pp.older import filter_genes_dispersion, normalize_per_cell
from sc_dask.pp.downsample import downsample_counts
from sc_dask.pp.sample import sample, subsample
from sc_dask.pp.hvg import highly_variable_genes
from sc_dask.pp.pca import pca
from sc_dask.pp.combat import combat
from sc_dask.pp.pearson import normalize_pearson_residuals
from sc_dask.pp.harmony import harmony_integrate
from sc_dask.pp.regress_out import regress_out
from sc_dask.pp.scale import scale
from sc_dask.pp.recipes import recipe_seurat, recipe_weinreb17, recipe_zheng17
from sc_dask.pp.neighbors import neighbors
from sc_dask.pp.bbknn import bbknn
from sc_dask.pp.scrublet import scrublet, scrublet_simulate_doublets

__all__ = [
    "bbknn",
    "calculate_qc_metrics",
    "combat",
    "downsample_counts",
    "filter_cells",
    "filter_genes",
    "filter_genes_dispersion",
    "harmony_integrate",
    "highly_variable_genes",
    "log1p",
    "neighbors",
    "normalize_per_cell",
    "normalize_pearson_residuals",
    "normalize_total",
    "pca",
    "recipe_seurat",
    "recipe_weinreb17",
    "recipe_zheng17",
    "regress_out",
    "sample",
    "scale",
    "scrublet",
    "scrublet_simulate_doublets",
    "sqrt",
    "subsample",
]
