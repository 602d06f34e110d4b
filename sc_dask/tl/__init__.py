"""Tools on AnnData: clusters, layouts and marker genes, with scanpy's names and defaults.

A function and its file may share a name (``tl.leiden``): the name is always the function, as in ``sc_dask.pp``.
"""

from __future__ import annotations

from typing import Any

from sc_dask.tl.ingest import ingest
from sc_dask.tl.leiden import leiden
from sc_dask.tl.louvain import louvain
from sc_dask.tl.umap import umap
from sc_dask.tl.tsne import tsne
from sc_dask.tl.diffmap import diffmap
from sc_dask.tl.dpt import dpt
from sc_dask.tl.paga import paga
from sc_dask.tl.draw_graph import draw_graph
from sc_dask.tl.density import embedding_density
from sc_dask.tl.dendrogram import dendrogram
from sc_dask.tl.rank import rank_genes_groups
from sc_dask.tl.transfer import transfer_labels
from sc_dask.tl.markers import filter_rank_genes_groups, marker_gene_overlap
from sc_dask.tl.score import score_genes, score_genes_cell_cycle
from sc_dask.tl.train import train_annotation
from sc_dask.tl.annotate import annotate
from sc_dask.tl.sim import sim

__all__ = [
    "annotate",
    "dendrogram",
    "diffmap",
    "dpt",
    "draw_graph",
    "embedding_density",
    "filter_rank_genes_groups",
    "ingest",
    "leiden",
    "louvain",
    "marker_gene_overlap",
    "paga",
    "rank_genes_groups",
    "score_genes",
    "score_genes_cell_cycle",
    "sim",
    "train_annotation",
    "transfer_labels",
    "tsne",
    "umap",
]

_LEFT_OUT = {
    "Ingest": "tl.ingest(adata, reference) does in one call what the class does",
    "paga_compare_paths": "scanpy.tl.paga_compare_paths(adata, other): it reads uns alone",
    "paga_degrees": "numpy.diff(adata.uns['paga']['connectivities'].indptr)",
    "paga_expression_entropies": "scanpy.tl.paga_expression_entropies(adata.to_memory())",
}


def __getattr__(name: str) -> Any:
    if name == "pca":
        from sys import modules  # scripts of old write tl.pca, and pp and tl do not import each other

        return modules["sc_dask"].pp.pca
    if name in _LEFT_OUT:
        from sc_dask.errors import UnavailableError

        raise UnavailableError(f"sc_dask.tl has no {name!r}", fix=_LEFT_OUT[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
