"""What ``sd.explain`` says of memory and passes holds at 100,000 cells, for every public function: slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import sc_dask as sd
from tests.laws.registry import MAKERS, public

pytestmark = pytest.mark.slow
MIB = 2**20
N_OBS, N_VARS = 100_000, 4_000
COUNTS, LOGGED = "counts", "logged"


@dataclass(frozen=True)
class Call:
    """A call, and what X is before it: counts, or their logarithms (lazy), or with a further function done."""

    function: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    x: str = COUNTS
    before: tuple[tuple[str, dict[str, Any]], ...] = ()
    genes: int | None = None  # keep so many first
    cells: int | None = None  # likewise, of functions whose time grows faster than the cells
    of_others: int = 0  # passes over a reference

    @property
    def id(self) -> str:
        return " ".join([self.function, *(f"{k}={v}" for k, v in self.kwargs.items())])


_RANKED = (("tl.rank_genes_groups", {"groupby": "leiden"}),)
_PAGA = (("tl.paga", {"groups": "leiden"}),)
CALLS = (
    Call("pp.calculate_qc_metrics", {"qc_vars": ["mt"], "inplace": True}),
    Call("pp.filter_cells", {"min_genes": 300}),
    Call("pp.filter_genes", {"min_cells": 30}),
    Call("pp.normalize_total", {"target_sum": 1e4}),
    Call("pp.normalize_total", {}),
    Call("pp.normalize_total", {"exclude_highly_expressed": True}),
    Call("pp.log1p"),
    Call("pp.sqrt"),
    Call("pp.downsample_counts", {"total_counts": 1_000_000}),
    Call("pp.highly_variable_genes", {"n_top_genes": 2000}, LOGGED),
    Call("pp.highly_variable_genes", {"n_top_genes": 2000, "batch_key": "batch"}, LOGGED),
    Call("pp.highly_variable_genes", {"n_top_genes": 2000, "flavor": "seurat_v3"}),
    Call("pp.highly_variable_genes", {"n_top_genes": 2000, "flavor": "pearson_residuals"}),
    Call("pp.normalize_pearson_residuals"),
    Call("pp.pca", {}, LOGGED),
    Call("pp.pca", {"svd_solver": "gram", "mask_var": None}, LOGGED),
    Call("pp.pca", {"svd_solver": "randomized"}, LOGGED),
    Call("pp.pca", {"svd_solver": "incremental"}, LOGGED),
    Call("pp.regress_out", {"keys": ["total_counts"]}, LOGGED),
    Call("pp.scale", {"max_value": 10}, LOGGED),
    Call("pp.combat", {"key": "batch"}, LOGGED),
    Call("pp.recipe_seurat"),
    Call("pp.recipe_zheng17"),
    Call("pp.recipe_weinreb17", {"n_pcs": 20, "cv_threshold": 1}),
    Call("pp.normalize_per_cell", {"counts_per_cell_after": 1e4}),
    Call("pp.filter_genes_dispersion", {"n_top_genes": 2000}),
    Call("pp.sample", {"fraction": 0.5}),
    Call("pp.subsample", {"fraction": 0.5}),
    Call("pp.harmony_integrate", {"key": "batch", "max_iter_harmony": 2}),
    Call("pp.bbknn"),
    Call("pp.scrublet", {"batch_key": "batch", "threshold": 0.3}),
    Call("pp.neighbors"),
    Call("pp.neighbors", {"n_neighbors": 30, "key_added": "more"}),
    Call("pp.neighbors", {"metric": "manhattan", "key_added": "other"}),
    Call("tl.leiden", {"key_added": "again"}),
    Call("tl.leiden", {"flavor": "igraph", "n_iterations": 2, "directed": False, "key_added": "again"}),
    Call("tl.louvain"),
    Call("tl.umap", {"maxiter": 5}),
    Call("tl.umap", {"maxiter": 5, "method": "umap-learn"}),
    Call("tl.rank_genes_groups", {"groupby": "leiden"}, LOGGED),
    Call("tl.rank_genes_groups", {"groupby": "leiden", "method": "wilcoxon"}, LOGGED),
    Call("tl.filter_rank_genes_groups", {}, LOGGED, _RANKED),
    Call("tl.marker_gene_overlap", {"reference_markers": {"A": ["gene_1"]}, "inplace": True}, LOGGED, _RANKED),
    Call("tl.score_genes", {"gene_list": "first 50"}, LOGGED),
    Call("tl.score_genes_cell_cycle", {"s_genes": "first 50", "g2m_genes": "last 50"}, LOGGED),
    Call("tl.dendrogram", {"groupby": "leiden"}),
    Call("tl.dendrogram", {"groupby": "leiden", "use_rep": "X"}, LOGGED),
    Call("tl.embedding_density", {"basis": "umap"}),
    Call("tl.embedding_density", {"basis": "umap", "groupby": "leiden"}),
    Call("tl.paga", {"groups": "leiden"}),
    Call("tl.draw_graph", {"layout": "drl"}, cells=5_000),
    Call("tl.diffmap"),
    Call("tl.dpt", {}, COUNTS, (("tl.diffmap", {}),)),
    Call("tl.ingest", {"adata_ref": "itself", "obs": "leiden", "embedding_method": ()}, LOGGED, of_others=1),
    Call("tl.annotate", {"model": "of these"}, LOGGED),
    Call("tl.train_annotation", {"labels": "leiden", "epochs": 1}, LOGGED),
    Call("tl.transfer_labels", {"adata_ref": "itself", "obs": "leiden", "key_added": "given"}),
    Call("tl.tsne", {}, cells=3_000),
)

CHILD = """
import json, sys, warnings
import numpy as np
import psutil
warnings.simplefilter("ignore")
import sc_dask as sd
from sc_dask import log
from sc_dask.io.blobs.zchunks import give_back
call = json.loads(sys.argv[2])
def find(name):
    module, function = name.split(".")
    return getattr(getattr(sd, module), function)
def made():
    adata = sd.read(sys.argv[1])
    if call["cells"]:
        adata = adata[: call["cells"]].copy()
        sd.pp.neighbors(adata)
    if call["x"] == "logged":
        sd.pp.normalize_total(adata, target_sum=1e4)
        sd.pp.log1p(adata)
    return adata
adata = made()
for name, kwargs in call["before"]:
    find(name)(adata, **kwargs)
kwargs = call["kwargs"]
genes = list(adata.var_names)
for key, value in kwargs.items():
    if value == "first 50":
        kwargs[key] = genes[:50]
    elif value == "last 50":
        kwargs[key] = genes[-50:]
    elif value == "itself":
        kwargs[key] = made()
    elif value == "of these":
        kwargs[key] = sd.read_model(sys.argv[1] + ".model")
if call["function"] == "tl.dpt":
    adata.uns["iroot"] = 0
told = sd.explain(adata, call["function"], **kwargs)
give_back()
held = psutil.Process().memory_info().rss
with log.stage("call") as s:
    log.reset_peak_rss()
    find(call["function"])(adata, **kwargs)
    peak = log.peak_rss_bytes()
after = psutil.Process().memory_info().rss
out = {"held": held, "peak": peak, "memory": told.memory, "kept": told.kept, "after": after}
print(json.dumps(out | {"passes": (told.passes, s.passes)}))
"""


def measured(store: Path, call: Call) -> dict[str, Any]:
    """Return a process's memory before, at the peak of and after the call, and what it was told before."""
    text = json.dumps(call.__dict__)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "DASK_NUM_WORKERS": "2"}
    command = [sys.executable, "-c", CHILD, str(store), text]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=1200)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("price") / "cells.zarr")


def prepared(path: Path) -> Path:
    """Write counts with all that the calls need: components, a graph, clusters, a layout, a model."""
    adata = sd.datasets.simulate(N_OBS, N_VARS, n_groups=8, n_batches=3, seed=0, out=path.with_suffix(".counts.zarr"))
    adata.var["mt"] = [i % 50 == 0 for i in range(adata.n_vars)]
    counts = adata.X
    sd.pp.calculate_qc_metrics(adata, inplace=True, percent_top=None)
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata, n_top_genes=2000)
    sd.pp.pca(adata)
    sd.pp.neighbors(adata)
    sd.tl.leiden(adata, flavor="sc_dask")
    sd.tl.umap(adata, maxiter=5)
    sd.tl.train_annotation(adata, "leiden", epochs=1, n_top_genes=None).write(str(path) + ".model")
    adata.X = counts
    del adata.uns["log1p"]
    sd.write(adata, path)
    return path


def test_price__every_function_is_measured() -> None:
    assert {c.function for c in CALLS} == set(public()) - MAKERS


@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.id)
def test_price__peak_is_at_most_what_is_told(store: Path, call: Call) -> None:
    found = measured(store, call)
    planned = found["held"] + found["memory"]
    assert 1 <= planned / found["peak"] <= 1.3, {k: round(v / MIB) for k, v in found.items() if k != "passes"}
    assert found["passes"][1] <= found["passes"][0] + call.of_others + 1e-6
