"""``sd.queries``: gene names and enrichment from web services, through scanpy."""

from __future__ import annotations

from typing import Any

from sc_dask.outside import scanpy

__all__ = ["biomart_annotations", "enrich", "gene_coordinates", "mitochondrial_genes"]


def biomart_annotations(*args: Any, **kwargs: Any) -> Any:
    """Ask Ensembl's Biomart for attributes of genes (``scanpy.queries.biomart_annotations``; needs pybiomart)."""
    return scanpy.module("queries").biomart_annotations(*args, **kwargs)


def gene_coordinates(*args: Any, **kwargs: Any) -> Any:
    """Ask Ensembl's Biomart where a gene lies (``scanpy.queries.gene_coordinates``; needs pybiomart)."""
    return scanpy.module("queries").gene_coordinates(*args, **kwargs)


def mitochondrial_genes(*args: Any, **kwargs: Any) -> Any:
    """Ask Ensembl's Biomart for mitochondrial genes (``scanpy.queries.mitochondrial_genes``; needs pybiomart)."""
    return scanpy.module("queries").mitochondrial_genes(*args, **kwargs)


def enrich(*args: Any, **kwargs: Any) -> Any:
    """Ask g:Profiler for the terms of a list of genes, or of a group of ``tl.rank_genes_groups`` of an AnnData.

    ``scanpy.queries.enrich``; needs gprofiler-official. X is not read.
    """
    return scanpy.module("queries").enrich(*args, **kwargs)
