"""Every public function that works on an AnnData, with what it promises: the laws run for whatever stands here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from packaging.version import Version

import sc_dask as sd
from sc_dask.io.model import AnnotationModel
from tests.stack import SCANPY

N_OBS, N_VARS = 90, 60
MODULES: dict[str, ModuleType] = {"pp": sd.pp, "tl": sd.tl}


def public() -> dict[str, Callable[..., Any]]:
    """``{"pp.pca": pca, ...}``."""
    return {f"{m}.{name}": getattr(module, name) for m, module in MODULES.items() for name in module.__all__}


@functools.cache
def _counts() -> ad.AnnData:
    rng = np.random.default_rng(0)
    group, batch = rng.integers(0, 3, N_OBS), rng.integers(0, 2, N_OBS)
    mean = np.exp(rng.normal(0.3, 1.0, (3, N_VARS)))[group] * np.exp(rng.normal(0, 0.2, (2, N_VARS)))[batch]
    counts = rng.negative_binomial(2, 2 / (2 + mean * rng.lognormal(0, 0.4, N_OBS)[:, None])).astype(np.float32)
    counts[:, 7] = 0  # a gene that nobody has
    obs = {"group": pd.Categorical.from_codes(group, ["a", "b", "c"]), "batch": batch.astype(str)}
    obs |= {"depth": counts.sum(axis=1), "load": rng.normal(50, 5, N_OBS), "kept": np.arange(N_OBS) % 3 > 0}
    var = {"mt": np.arange(N_VARS) % 10 == 0, "picked": np.arange(N_VARS) % 2 == 0}
    names = [[f"{kind}{i}" for i in range(n)] for kind, n in (("cell", N_OBS), ("gene", N_VARS))]
    adata = ad.AnnData(sp.csr_matrix(counts), pd.DataFrame(obs, names[0]), pd.DataFrame(var, names[1]))
    adata.layers["spare"] = adata.X.copy()
    adata.obsm["X_other"] = rng.normal(size=(N_OBS, 2))
    adata.uns["note"] = {"kept": [1, 2]}
    return adata


def counts() -> ad.AnnData:
    """Counts of 90 cells x 60 genes (csr, float32), three groups, two batches."""
    return _counts().copy()


@functools.cache
def _deep() -> ad.AnnData:
    rng = np.random.default_rng(1)
    mean = np.exp(rng.normal(2.0, 0.8, 260)) * rng.lognormal(0, 0.2, (N_OBS, 1))
    mean[:, :30] = 2_000  # most of every cell, so that the means of the others are as low as a mammal's
    adata = ad.AnnData(sp.csr_matrix(rng.negative_binomial(2, 2 / (2 + mean)).astype(np.float32)))
    adata.layers["spare"] = adata.X.copy()
    return adata


def deep() -> ad.AnnData:
    """Counts of 90 cells with 200 genes each and more, which some recipes ask for."""
    return _deep().copy()


def logged() -> ad.AnnData:
    """The same, normalised and logarithmised with numpy."""
    adata = counts()
    x = adata.X.toarray()
    adata.X = sp.csr_matrix(np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4).astype(np.float32))
    return adata


def reduced() -> ad.AnnData:
    """The same with principal components."""
    adata = logged()
    x = adata.X.toarray()
    adata.obsm["X_pca"] = ((x - x.mean(axis=0)) @ np.linalg.svd(x - x.mean(axis=0))[2][:5].T).astype(np.float32)
    return adata


def embedded() -> ad.AnnData:
    """The same with positive numbers in obsm."""
    adata = reduced()
    adata.obsm["X_pca"] = np.abs(adata.obsm["X_pca"])
    return adata


def connected() -> ad.AnnData:
    """The same with a neighbour graph."""
    adata = reduced()
    sd.pp.neighbors(adata, n_neighbors=10)
    return adata


def rooted() -> ad.AnnData:
    """The same with a root cell."""
    adata = connected()
    adata.uns["iroot"] = 3
    return adata


@functools.cache
def _reference() -> ad.AnnData:
    adata = reduced()
    x = adata.X.toarray()
    adata.varm["PCs"] = np.linalg.svd(x - x.mean(axis=0))[2][:5].T
    adata.uns["pca"] = {"params": {"zero_center": True}}
    adata.obs["depth"] = np.asarray(counts().X.sum(axis=1)).ravel()
    sd.pp.neighbors(adata, n_neighbors=10)
    sd.tl.umap(adata)
    return adata


def reference() -> ad.AnnData:
    """The same with loadings, a neighbour graph and a layout: what new cells are compared with."""
    return _reference().copy()


def ranked() -> ad.AnnData:
    """Logarithms with a marker table."""
    adata = logged()
    sd.tl.rank_genes_groups(adata, "group")
    return adata


def grouped() -> ad.AnnData:
    """The same with a graph of groups."""
    adata = connected()
    sd.tl.paga(adata, "group")
    return adata


@dataclass(frozen=True, eq=False)
class Case:
    """One call of a public function and what it promises.

    ``computes`` is the number of graphs that are run; how often X is read is what the function's price says.
    ``exact`` says that every number is made of integers alone and does not change by a bit, ``dense`` that the matrix
    becomes dense. ``made`` are arguments that are made anew for every call (a reference). With ``returns`` nothing is
    written, and what is returned is compared.
    """

    function: str
    computes: int
    start: Callable[[], ad.AnnData]
    kwargs: dict[str, Any] = field(default_factory=dict)
    exact: bool = False
    made: dict[str, Callable[[], Any]] = field(default_factory=dict)
    dense: bool = False
    returns: bool = False

    @property
    def id(self) -> str:
        named = ((k, "..." if isinstance(v, np.ndarray) else v) for k, v in self.kwargs.items())
        return " ".join([self.function, *(f"{k}={v}" for k, v in named)])

    @property
    def reads(self) -> bool:
        """Whether X has a part in it."""
        return self.start in (counts, deep, logged, ranked) and self.function != "tl.marker_gene_overlap"

    def passes(self, adata: ad.AnnData) -> int:
        """What the function's price says of this call."""
        made = {k: make() for k, make in self.made.items()}
        return sd.explain(adata, self.function, **made, **self.kwargs).passes

    def run(self, adata: ad.AnnData) -> ad.AnnData:
        made = {k: make() for k, make in self.made.items()}
        returned = public()[self.function](adata, **made, **self.kwargs)
        if self.returns:
            adata.uns["returned"] = vars(returned)
        return adata


@functools.cache
def model() -> AnnotationModel:
    """A model of the three groups, of half of the genes and two more."""
    rng = np.random.default_rng(1)
    genes = [*(f"gene{i}" for i in range(0, N_VARS, 2)), "lost", "gone"]
    mean, scale = rng.random((2, len(genes))) + 0.5
    return AnnotationModel(rng.normal(size=(3, len(genes))), np.zeros(3), np.array(list("abc")), genes, mean, scale)


def _apart() -> np.ndarray:
    """Distances of all cells."""
    where = np.random.default_rng(2).normal(size=(N_OBS, 3))
    return np.linalg.norm(where[:, None] - where, axis=2)


_REF, _MODEL = {"adata_ref": reference}, {"model": model}
_QC, _FC, _FG = "pp.calculate_qc_metrics", "pp.filter_cells", "pp.filter_genes"
_ANNOTATE, _TRAIN = "tl.annotate", "tl.train_annotation"
_VOTED = {"majority_voting": True, "over_clustering": "batch", "keep": ["decisions", "probabilities"]}
_NT, _HVG, _PCA, _RANK = "pp.normalize_total", "pp.highly_variable_genes", "pp.pca", "tl.rank_genes_groups"
_REGRESS = "pp.regress_out"
_SCORE, _TWO_SETS = "tl.score_genes", {"x": ["gene1", "gene5", "gene40"], "y": [f"gene{i}" for i in range(10, 16)]}
CASES = (
    Case(_QC, 1, counts, {"qc_vars": ["mt"], "percent_top": (5, 20), "inplace": True}, exact=True),
    Case(_QC, 1, counts, {"percent_top": None, "layer": "spare", "log1p": False, "inplace": True}, exact=True),
    Case(_FC, 1, counts, {"min_genes": 1}, exact=True),
    Case(_FC, 1, counts, {"max_counts": 1e6}, exact=True),
    Case(_FG, 1, counts, {"max_cells": 1000}, exact=True),
    Case(_FG, 1, counts, {"min_counts": 0}, exact=True),
    Case(_NT, 0, counts, {"target_sum": 1e4}, exact=True),
    Case(_NT, 1, counts, {"key_added": "factor"}, exact=True),
    Case(_NT, 0, counts, {"target_sum": 1e4, "layer": "spare"}, exact=True),
    Case(_NT, 3, counts, {"exclude_highly_expressed": True, "max_fraction": 0.1}, exact=True),
    Case("pp.log1p", 0, counts, exact=True),
    Case("pp.log1p", 0, counts, {"base": 2, "layer": "spare"}, exact=True),
    Case("pp.log1p", 1, embedded, {"obsm": "X_pca"}),
    Case(_NT, 2, embedded, {"obsm": "X_pca"}),
    Case(_HVG, 1, logged),
    Case(_HVG, 1, logged, {"batch_key": "batch", "n_top_genes": 20}),
    Case(_HVG, 1, logged, {"flavor": "cell_ranger", "n_top_genes": 20}),
    Case(_HVG, 1, logged, {"flavor": "cell_ranger", "batch_key": "batch"}),
    Case(_HVG, 2, counts, {"flavor": "seurat_v3", "n_top_genes": 20}),
    Case(_HVG, 2, counts, {"flavor": "seurat_v3_paper", "n_top_genes": 20, "batch_key": "batch", "span": 0.5}),
    Case(_PCA, 2, logged, {"n_comps": 5}),
    Case(_PCA, 2, logged, {"n_comps": 5, "zero_center": False, "key_added": "raw_pca", "mask_var": "picked"}),
    Case(_PCA, 2, logged, {"n_comps": 5, "svd_solver": "randomized"}),
    Case(_PCA, 3, logged, {"n_comps": 5, "svd_solver": "incremental", "chunk_size": 20, "dtype": "float64"}),
    Case(_PCA, 2, reduced, {"n_comps": 2, "obsm": "X_pca"}),
    Case(_REGRESS, 1, logged, {"keys": ["depth", "load"]}, dense=True),
    Case(_REGRESS, 1, logged, {"keys": "batch", "layer": "spare"}, dense=True),
    Case(_HVG, 2, counts, {"flavor": "pearson_residuals", "n_top_genes": 20}),
    Case(_HVG, 2, counts, {"flavor": "pearson_residuals", "n_top_genes": 20, "batch_key": "batch", "theta": 10}),
    Case("pp.normalize_pearson_residuals", 1, counts, dense=True),
    Case("pp.normalize_pearson_residuals", 1, counts, {"layer": "spare", "clip": 3.0}, dense=True),
    Case(_HVG, 1, logged, {"filter_unexpressed_genes": True, "n_top_genes": 20}),
    Case("pp.recipe_seurat", 4, deep, dense=True),
    Case("pp.recipe_zheng17", 5, deep, {"n_top_genes": 40}, dense=True),
    Case("pp.recipe_weinreb17", 6, counts, {"n_pcs": 5, "cv_threshold": 0.5, "svd_solver": "full"}),
    Case("pp.normalize_per_cell", 1, counts, {"counts_per_cell_after": 1e4}, exact=True),
    Case("pp.filter_genes_dispersion", 1, counts, {"n_top_genes": 20}),
    Case("pp.filter_genes_dispersion", 1, counts, {"flavor": "cell_ranger", "subset": False, "log": False}),
    Case("pp.scale", 1, logged, {"max_value": 2.0}, dense=True),
    Case("pp.scale", 1, logged, {"zero_center": False, "layer": "spare"}),
    Case("pp.scale", 1, logged, {"mask_obs": "kept"}, dense=True),
    Case("pp.scale", 2, reduced, {"obsm": "X_pca"}),
    Case(_RANK, 1, logged, {"groupby": "group"}),
    Case(_RANK, 1, logged, {"groupby": "group", "reference": "b", "pts": True, "key_added": "vs_b"}),
    Case("pp.combat", 1, logged, dense=True),
    Case("pp.combat", 1, logged, {"covariates": ["group", "load"]}, dense=True),
    Case("pp.harmony_integrate", 0, reduced, {"key": "batch"}),
    Case("pp.harmony_integrate", 0, reduced, {"key": ["batch", "group"], "adjusted_basis": "joined", "theta": 2}),
    Case(_RANK, 2, logged, {"groupby": "group", "method": "wilcoxon", "tie_correct": True, "pts": True}),
    Case("tl.filter_rank_genes_groups", 1, ranked, {"min_fold_change": 0.1, "max_out_group_fraction": 0.9}),
    Case("tl.marker_gene_overlap", 0, ranked, {"reference_markers": {"A": ["gene1", "gene2"]}, "inplace": True}),
    Case("pp.sqrt", 0, counts, exact=True),
    Case("pp.downsample_counts", 0, counts, {"counts_per_cell": 50, "random_state": 1}, exact=True),
    Case("pp.downsample_counts", 1, counts, {"total_counts": 3000, "replace": True}, exact=True),
    Case("pp.sample", 0, counts, {"n": 120, "rng": 3, "replace": True}, exact=True),
    Case("pp.sample", 0, counts, {"fraction": 0.5, "rng": 3, "p": "picked", "axis": "var"}, exact=True),
    Case("pp.subsample", 0, counts, {"n_obs": 50}, exact=True),
    Case(_SCORE, 2, logged, {"gene_list": ["gene1", "gene5", "gene40"], "ctrl_size": 5, "n_bins": 5}),
    Case(_SCORE, 2, logged, {"gene_list": _TWO_SETS, "layer": "spare", "ctrl_as_ref": False, "score_name": "s"}),
    Case("tl.score_genes_cell_cycle", 2, logged, {"s_genes": _TWO_SETS["x"], "g2m_genes": _TWO_SETS["y"]}),
    Case("pp.bbknn", 0, reduced),
    Case("pp.bbknn", 0, reduced, {"metric": "cosine", "trim": 5, "set_op_mix_ratio": 0.5, "local_connectivity": 2}),
    Case("pp.scrublet", 4, counts, {"n_prin_comps": 5, "threshold": 0.3}),
    Case("pp.scrublet", 6, counts, {"n_prin_comps": 5, "threshold": 0.3, "batch_key": "batch"}),
    Case("pp.neighbors", 0, reduced, {"n_neighbors": 10}),
    Case("pp.neighbors", 0, reduced, {"n_neighbors": 10, "key_added": "mine"}),
    Case("pp.neighbors", 0, reduced, {"n_neighbors": 10, "method": "gauss", "knn": False}),
    Case("pp.neighbors", 0, reduced, {"n_neighbors": 10, "distances": _apart()}),
    Case("pp.neighbors", 2, logged, {"n_neighbors": 10, "n_pcs": 5}),
    Case("pp.neighbors", 9, reduced, {"n_neighbors": 10, "compact": True}),
    Case("pp.neighbors", 9, reduced, {"n_neighbors": 10, "compact": True, "key_added": "mine"}),
    Case("tl.leiden", 0, connected),
    Case("tl.leiden", 0, connected, {"resolution": [0.5, 2], "flavor": "sc_dask"}),
    Case("tl.louvain", 0, connected),
    Case("tl.louvain", 0, connected, {"flavor": "sc_dask", "use_weights": True}),
    Case("tl.umap", 0, connected),
    Case("tl.umap", 0, connected, {"key_added": "map", "maxiter": 20, "init_pos": "multilevel"}),
    Case("tl.umap", 0, connected, {"maxiter": 20, "method": "umap-learn"}),
    Case("tl.tsne", 0, reduced, {"perplexity": 5, "n_jobs": 1}),
    Case("tl.tsne", 0, reduced, {"perplexity": 5, "n_jobs": 1, "key_added": "map", "use_rep": "X_other"}),
    Case("tl.dendrogram", 0, reduced, {"groupby": "group"}),
    Case("tl.dendrogram", 1, logged, {"groupby": "group", "use_rep": "X", "key_added": "tree"}),
    Case("tl.dendrogram", 1, logged, {"groupby": ["group", "batch"], "var_names": ["gene3", "gene9", "gene4"]}),
    Case("tl.embedding_density", 0, reduced, {"basis": "other"}),
    Case("tl.embedding_density", 0, reduced, {"basis": "pca", "groupby": "group", "components": "2,3"}),
    Case("tl.embedding_density", 0, reduced, {"basis": "pca", "key_added": "crowd"}),
    Case("tl.umap", 0, grouped, {"maxiter": 20, "init_pos": "paga"}),
    Case("tl.paga", 0, connected, {"groups": "group"}),
    Case("tl.paga", 0, connected, {"groups": "batch", "model": "v1.0"}),
    Case("tl.draw_graph", 0, connected, {"layout": "fr"}),
    Case("tl.draw_graph", 0, grouped, {"layout": "drl", "init_pos": "paga", "key_added_ext": "mine"}),
    Case("tl.diffmap", 0, connected, {"n_comps": 10}),
    Case("tl.dpt", 0, rooted),
    Case("tl.dpt", 0, rooted, {"n_branchings": 1}),
    Case("tl.ingest", 2, logged, {"obs": "group"}, made=_REF),  # one of them over the reference
    Case(_ANNOTATE, 1, logged, _VOTED, made=_MODEL),
    Case(_ANNOTATE, 1, logged, {"mode": "prob match", "key_added": "mine", **_VOTED}, made=_MODEL),
    Case(_ANNOTATE, 1, logged, {"check_expression": False, "layer": "spare"}, made=_MODEL),
    Case(_TRAIN, 1, logged, {"labels": "group", "description": {"date": "today"}}, returns=True),
    Case(_TRAIN, 1, logged, {"labels": "group", "method": "sgd", "n_top_genes": 9, "epochs": 2}, returns=True),
    Case("tl.transfer_labels", 0, reduced, {"obs": ["group", "depth"], "key_added": ["kind", "sum"]}, made=_REF),
)
READING = tuple(c for c in CASES if c.reads)
# One call of each function that stands for its others where only the way that it is run or stored differs.
FIRST = tuple({c.function: c for c in reversed(CASES)}.values())
KEEPING = {"pp.sample", "pp.subsample"}  # they keep some cells or genes of every slot and write none
MAKERS = {"tl.sim", "pp.scrublet_simulate_doublets"}  # they make an AnnData, and write no slots of another

# Functions that scanpy does not have.
OURS = {"tl.annotate", "tl.train_annotation", "tl.transfer_labels"}
# Parameters of scanpy that are left out, and why.
ABSENT = {
    "pp.bbknn": {
        *("use_annoy", "annoy_n_trees", "use_faiss", "pynndescent_n_neighbors", "pynndescent_random_state", "kwargs"),
    },  # of packages that search otherwise
}
# Parameters whose default is another one.
OTHER_DEFAULTS = {
    "pp.neighbors": {"metric"},  # None from 1.12 on, which is euclidean
    "tl.leiden": {"flavor"},  # None from 1.12 on, which is leidenalg
    "tl.louvain": {"flavor"},  # scanpy's needs the package louvain
}
# Parameters that came with scanpy 1.12.
NEWER = {
    "pp.highly_variable_genes": {"filter_unexpressed_genes"},
    "pp.normalize_pearson_residuals": {"obsm"},
    "pp.neighbors": {"distances"},
    "pp.normalize_total": {"obsm"},
    "pp.pca": {"obsm"},
    "tl.tsne": {"n_components"},
}
# Parameters that scanpy does not have.
OWN = {
    "pp.highly_variable_genes": {"theta", "clip", "chunksize"},  # of scanpy's experimental.pp
    "pp.neighbors": {"compact", "min_recall"},
    "tl.sim": {"n_obs"},
}
if Version("1.12") > SCANPY:
    OWN |= {name: OWN.get(name, set()) | newer for name, newer in NEWER.items()}
