"""What each plot of scanpy reads of an AnnData, declared once: only that is brought into memory.

A plot that is not declared here is not drawn. `docs/plots.md` shows this table, and a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Genes = Literal["none", "named", "ranked", "all", "own", "no adata"]


@dataclass(frozen=True)
class Plot:
    """What one plot reads.

    Parameters
    ----------
    genes
        Which genes of X, a layer or raw: ``"none"``, those that arguments name (``"named"``), the best of a marker
        table (``"ranked"``), ``"all"`` of them, or what a function of ours reads (``"own"``). ``"no adata"``: the plot
        takes no AnnData, or only a result.
    keys
        Arguments that hold names of genes or of columns of obs, in any nesting of lists and dicts.
    obs
        Columns of obs that are read whatever the arguments are; ``"{}"`` stands for any text.
    bases
        Keys of obsm, without ``X_``, that are read whatever the arguments are.
    basis
        The argument that names a key of obsm, and whether the plot needs it before it looks at genes.
    uns
        Results without which there is no plot.
    raw
        ``"asked"``: ``use_raw``, else raw where it is and no layer is named; ``"there"``: raw where it is, unless
        ``use_raw=False``; ``"ranked"``: as the marker table was made, else as asked.
    colors
        Whether colours (``"red"``) may stand among the names.
    dendrogram
        The default of the argument ``dendrogram``; None: the plot has none. ``"always"``: it is what is drawn.
    sampled
        Draw at most `CELLS` cells.
    points
        It may draw a point for each cell, which becomes an image from `POINTS` on.
    obsp
        It may draw edges of the graph of neighbours.
    reads
        The same in words, for the documentation.
    """

    genes: Genes
    keys: tuple[str, ...] = ()
    obs: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    basis: str | None = None
    uns: tuple[str, ...] = ()
    raw: Literal["asked", "there", "ranked"] = "asked"
    colors: bool = False
    dendrogram: bool | Literal["always"] | None = None
    sampled: bool = False
    points: bool = False
    obsp: bool = False
    reads: str = ""


CELLS = 50_000  # of a heatmap or tracksplot: more than a screen or a page has columns
POINTS = 100_000  # from here on points are an image between axes and text that stay vectors

_POSITIONS = "positions, colours: columns of obs, genes"
_GENES = "its genes, the groups"
_RANKED = "the marker table, its best genes, the groups"


def _embedding(*bases: str, basis: str | None = None) -> Plot:
    return Plot("named", ("color",), (), bases, basis, points=True, obsp=True, reads=_POSITIONS)


def _of_groups(*, sampled: bool = False) -> Plot:
    reads = f"{_GENES}; a sample of {CELLS:,} cells" if sampled else _GENES
    return Plot("named", ("var_names",), dendrogram=False, sampled=sampled, reads=reads)


def _of_ranked(*, sampled: bool = False) -> Plot:
    reads = f"{_RANKED}; a sample of {CELLS:,} cells" if sampled else _RANKED
    return Plot("ranked", ("var_names",), dendrogram=True, sampled=sampled, reads=reads)


PLOTS: dict[str, Plot] = {
    # cells on a plane
    "embedding": _embedding(basis="basis"),
    "umap": _embedding("umap"),
    "tsne": _embedding("tsne"),
    "diffmap": _embedding("diffmap"),
    "pca": _embedding("pca"),
    "pca_scatter": _embedding("pca"),
    "draw_graph": _embedding("draw_graph_{}"),
    "spatial": _embedding("spatial", basis="basis"),
    "scatter": Plot(
        "named",
        ("x", "y", "color"),
        (),
        (),
        "basis",
        uns=("paga",),
        colors=True,
        points=True,
        reads="x, y and colours: obs, genes, var",
    ),
    "embedding_density": Plot(
        "none", obs=("{}_density", "{}_density_{}"), basis="basis", points=True, reads="positions, the densities"
    ),
    # genes in groups
    "dotplot": _of_groups(),
    "matrixplot": _of_groups(),
    "stacked_violin": _of_groups(),
    "heatmap": _of_groups(sampled=True),
    "tracksplot": _of_groups(sampled=True),
    "violin": Plot("named", ("keys",), points=True, reads="its genes and columns of obs"),
    "DotPlot": Plot("named", ("var_names",), reads=_GENES),
    "MatrixPlot": Plot("named", ("var_names",), reads=_GENES),
    "StackedViolin": Plot("named", ("var_names",), reads=_GENES),
    "correlation_matrix": Plot("none", dendrogram="always", reads="the tree of the groups"),
    "dendrogram": Plot("none", dendrogram="always", reads="the tree of the groups"),
    "clustermap": Plot("all", reads="all of X, if memory holds it"),
    # marker genes
    "rank_genes_groups": Plot("none", reads="the marker table"),
    "rank_genes_groups_dotplot": _of_ranked(),
    "rank_genes_groups_matrixplot": _of_ranked(),
    "rank_genes_groups_stacked_violin": _of_ranked(),
    "rank_genes_groups_heatmap": _of_ranked(sampled=True),
    "rank_genes_groups_tracksplot": _of_ranked(sampled=True),
    "rank_genes_groups_violin": Plot("ranked", ("gene_names",), raw="ranked", points=True, reads=_RANKED),
    # genes
    "highest_expr_genes": Plot("own", reads="one pass for the shares of all genes, then the highest"),
    "highly_variable_genes": Plot("none", reads="var"),
    "filter_genes_dispersion": Plot("no adata", reads="the result that it is given"),
    "pca_loadings": Plot("none", reads="varm"),
    "pca_variance_ratio": Plot("none", reads="uns"),
    "pca_overview": Plot("own", reads=f"{_POSITIONS}; varm, uns"),
    "ranking": Plot("none", reads="the scores that it names"),
    "scrublet_score_distribution": Plot("none", obs=("doublet_score",), reads="the scores of cells and of doublets"),
    # paths and trees
    "paga": Plot(
        "named",
        ("color",),
        uns=("paga",),
        raw="there",
        colors=True,
        reads="the graph of groups, colours: obs, genes",
    ),
    "paga_compare": Plot(
        "named",
        ("color",),
        (),
        ("draw_graph_fa", "umap", "tsne", "draw_graph_fr"),
        "basis",
        uns=("paga",),
        colors=True,
        points=True,
        reads=f"the graph of groups; {_POSITIONS}",
    ),
    "paga_path": Plot(
        "named", ("keys",), ("dpt_pseudotime",), raw="there", reads="its genes, the groups, the pseudotime"
    ),
    "paga_adjacency": Plot("none", reads="uns"),
    "dpt_groups_pseudotime": Plot(
        "none", obs=("dpt_groups", "dpt_order", "dpt_pseudotime"), points=True, reads="columns of tl.dpt"
    ),
    "dpt_timeseries": Plot("all", obs=("dpt_order_indices",), reads="all of X, if memory holds it"),
    "sim": Plot("all", reads="all of X, if memory holds it"),
    # no AnnData
    "matrix": Plot("no adata", reads="the matrix that it is given"),
    "timeseries": Plot("no adata", reads="the matrix that it is given"),
    "timeseries_as_heatmap": Plot("no adata", reads="the matrix that it is given"),
    "timeseries_subplot": Plot("no adata", reads="the matrix that it is given"),
    "dogplot": Plot("no adata", reads="nothing"),
    "palettes": Plot("no adata", reads="nothing"),
    "set_rcParams_defaults": Plot("no adata", reads="nothing"),
    "set_rcParams_scanpy": Plot("no adata", reads="nothing"),
}
