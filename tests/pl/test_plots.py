"""Every plot of a lazy AnnData holds what scanpy's own plot of the same data in memory holds."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import numpy as np
import pytest
from packaging.version import Version

mpl.use("Agg")
import matplotlib.pyplot as plt

import sc_dask as sd
from sc_dask.pl.table import PLOTS
from sc_dask.testing import lazy, source_of
from tests.pl.cases import CALLS, differences, drawn, simulated

IDS = [f"{name}-{'-'.join(args)}"[:60] for name, args in CALLS]


@pytest.fixture(scope="module")
def data() -> ad.AnnData:
    return simulated()


@pytest.fixture(scope="module")
def path(data: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pl") / "cells.h5ad"
    data.write_h5ad(path)
    return path


def draw(module: Any, name: str, adata: ad.AnnData, given: dict[str, Any]) -> tuple[Any, Any]:
    """Draw once; return what the figures hold, and what came back."""
    plt.close("all")
    np.random.seed(0)  # noqa: NPY002 (of jitter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        more = {} if given.get("return_fig") or name in ("highly_variable_genes", "paga_adjacency") else {"show": False}
        result = getattr(module, name)(adata, **given, **more)
        if hasattr(result, "make_figure"):
            result.add_totals().make_figure()
        return drawn(), result


def expected(name: str, adata: ad.AnnData, given: dict[str, Any]) -> tuple[Any, Any, ad.AnnData]:
    import scanpy as sc

    adata = adata.copy()
    if name in ("dpt_timeseries", "sim"):  # scanpy's want a dense X
        adata.X = adata.X.toarray()
    held, result = draw(sc.pl, name, adata, given)
    return held, result, adata


def holds_the_same(name: str, ours: ad.AnnData, theirs: ad.AnnData, given: dict[str, Any]) -> None:
    import scanpy as sc

    if name == "dpt_groups_pseudotime" and Version(version("scanpy")) < Version("1.12"):
        for module, adata in ((sd, ours), (sc, theirs)):  # it indexes a Series as pandas no longer does
            with pytest.raises(ValueError, match="Multi-dimensional indexing"):
                draw(module.pl, name, adata, given)
        return
    want, want_result, theirs = expected(name, theirs, given)
    got, got_result = draw(sd.pl, name, ours, given)
    assert want  # something was drawn
    assert not list(differences(want, got))
    assert kind_of(want_result) == kind_of(got_result)
    for key in theirs.uns:
        if key.endswith("_colors"):
            assert list(theirs.uns[key]) == list(ours.uns[key])
    assert set(theirs.uns) == set(ours.uns)


def kind_of(result: Any) -> Any:
    if isinstance(result, dict):
        return sorted(result)
    return [kind_of(r) for r in result] if isinstance(result, list | tuple) else type(result).__name__


@pytest.mark.parametrize(("name", "given"), CALLS, ids=IDS)
def test_plot__of_a_lazy_x_is_scanpys(name: str, given: dict[str, Any], data: ad.AnnData) -> None:
    adata = lazy(data, 3)
    source, layer = source_of(adata), source_of(adata.layers["counts"])
    x = adata.X
    holds_the_same(name, adata, data, given)
    assert adata.X is x
    most = 2 if name == "highest_expr_genes" else 1
    both = name == "scatter" and given.get("layers") is not None  # X and a layer
    assert source.passes <= most and layer.passes <= most
    assert both or not (source.passes and layer.passes)


SOME = [i for i, (name, _) in enumerate(CALLS) if name != CALLS[i - 1][0]]  # the first call of each plot
WITH_RAW = ["umap", "scatter", "dotplot", "violin", "heatmap", "rank_genes_groups_violin", "paga"]


@pytest.mark.parametrize("i", SOME, ids=[IDS[i] for i in SOME])
def test_plot__of_a_file_with_lazy_obs_is_scanpys(i: int, data: ad.AnnData, path: Path) -> None:
    holds_the_same(CALLS[i][0], sd.read(path, lazy_obs=True), data, CALLS[i][1])


@pytest.mark.parametrize("name", ["umap", "dotplot", "violin", "rank_genes_groups_dotplot", "paga", "pca_loadings"])
def test_plot__of_a_lazy_view_is_scanpys(name: str, data: ad.AnnData, path: Path) -> None:
    given = next(given for n, given in CALLS if n == name)
    keep = np.arange(data.n_obs) % 7 != 0
    holds_the_same(name, sd.read(path)[keep], data[keep].copy(), given)


@pytest.mark.parametrize("edges", [False, True])
def test_plot__of_anndatas_own_lazy_reader_is_scanpys(edges: bool, data: ad.AnnData, path: Path) -> None:
    given = {"color": ["g1", "kind"], "edges": edges}
    holds_the_same("umap", ad.experimental.read_lazy(path), data, given)


@pytest.mark.parametrize("name", WITH_RAW)
@pytest.mark.parametrize("use_raw", [None, True, False])
def test_plot__of_raw_is_scanpys(name: str, use_raw: bool | None, data: ad.AnnData) -> None:
    """Raw holds other values, of more genes: what is drawn tells which of them were read."""
    full = data.copy()
    full.X = full.X * 3
    theirs = full[:, 5:].copy()
    theirs.raw = data
    given = {**next(given for n, given in CALLS if n == name)}
    given |= {} if use_raw is None else {"use_raw": use_raw}
    genes = {
        "umap": "color",
        "paga": "color",
        "scatter": "x",
        "violin": "keys",
        "rank_genes_groups_violin": "gene_names",
    }
    given[genes.get(name, "var_names")] = "g7" if name in ("umap", "paga", "scatter") else ["g7"]
    holds_the_same(name, lazy(theirs), theirs, given)


def test_plots__every_name_of_scanpy_has_one() -> None:
    import types

    import scanpy as sc

    public = {n for n in dir(sc.pl) if not n.startswith("_") and not isinstance(getattr(sc.pl, n), types.ModuleType)}
    public -= {"annotations", "deprecated", "Deprecation"}  # what scanpy imports for itself
    assert public <= set(dir(sd.pl))
    assert {name for name, _ in CALLS} >= {n for n, p in PLOTS.items() if p.genes != "no adata"} - {
        "paga_adjacency",  # reads keys of uns that no scanpy of today writes
        "DotPlot",
        "MatrixPlot",
        "StackedViolin",
    }


def test_plots__the_documentation_lists_what_each_reads() -> None:
    rows = (Path(__file__).parents[2] / "docs" / "plots.md").read_text().splitlines()
    assert [r for r in rows if r.startswith("| `")] == [f"| `{n}` | {p.reads} |" for n, p in PLOTS.items()]
