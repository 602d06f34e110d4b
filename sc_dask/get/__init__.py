"""The only reader of AnnData: matrices as lazy row blocks, embeddings, graphs and tables."""

from sc_dask.get.aggregates import aggregate
from sc_dask.get.arrays import alone, is_array, is_held, is_in_memory, is_lazy, part, put_back, slot
from sc_dask.get.columns import (
    as_stored,
    batches,
    column,
    gene_values,
    groups,
    in_memory,
    listed,
    matrix,
    names,
    obs_df,
    rank_genes_groups_df,
    stored,
    text_as_category,
    var_df,
    var_mask,
)
from sc_dask.get.graphs import distances, embedding, embedding_rows, graph, landmark_graph

__all__ = [
    "aggregate",
    "alone",
    "as_stored",
    "batches",
    "column",
    "landmark_graph",
    "distances",
    "embedding",
    "embedding_rows",
    "gene_values",
    "graph",
    "groups",
    "in_memory",
    "is_array",
    "is_held",
    "is_in_memory",
    "is_lazy",
    "listed",
    "matrix",
    "names",
    "obs_df",
    "part",
    "put_back",
    "rank_genes_groups_df",
    "slot",
    "stored",
    "text_as_category",
    "var_df",
    "var_mask",
]
