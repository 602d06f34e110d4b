"""Options of a run: defaults, YAML's types, and what is refused before anything is read."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict

import numpy as np
import pytest
import yaml

import sc_dask as sd
from sc_dask.errors import InputError
from sc_dask.pipeline.settings import Settings


def test_settings__defaults_are_those_of_the_verbs() -> None:
    verbs = {
        "hvg": sd.pp.highly_variable_genes,
        "neighbors": sd.pp.neighbors,
        "umap": sd.tl.umap,
        "leiden": sd.tl.leiden,
    }
    differing = set()
    for section, verb in verbs.items():
        parameters = inspect.signature(verb).parameters
        for name, value in Settings().section(section).items():
            assert name in parameters, (section, name)
            if parameters[name].default != value:
                differing.add(f"{section}.{name}")
    # What scanpy asks its users to choose, and what takes minutes instead of hours at a million cells.
    assert differing == {"leiden.flavor", "leiden.n_iterations", "umap.init_pos"}


def test_settings__unnamed_keep_their_default() -> None:
    assert Settings.of(None) == Settings.of({}) == Settings()
    made = Settings.of({"pca": {"n_comps": 30}})
    assert made.pca.n_comps == 30
    assert made.section("hvg") == Settings().section("hvg")


def test_settings__types_of_yaml() -> None:
    text = """
    normalize: {target_sum: 1e4}
    filter: {min_genes: null, max_pct_mt: 5}
    hvg:
      max_disp: .inf
      min_disp: 1
    qc: {percent_top: [10, 20], gene_symbols: symbol}
    leiden:
    """
    made = Settings.of(yaml.safe_load(text))
    assert made.normalize.target_sum == 10000.0
    assert made.filter.min_genes is None
    assert made.filter.max_pct_mt == 5.0
    assert made.hvg.max_disp == np.inf
    assert isinstance(made.hvg.min_disp, float)
    assert made.qc.percent_top == (10, 20)
    assert made.leiden == Settings().leiden


def test_settings__null_percent_top_is_none_of_them() -> None:
    assert Settings.of({"qc": {"percent_top": None}}).qc.percent_top == ()


def test_settings__go_through_json_and_back() -> None:
    made = Settings.of({"hvg": {"n_top_genes": 500, "batch_key": "donor"}, "write": {"x": "none"}})
    text = json.dumps({name: made.sections([name]) for name in asdict(made)}, allow_nan=False)
    assert Settings.of(json.loads(text)) == made


def test_settings__several_sections_as_one() -> None:
    assert Settings().sections(("input", "write")) == {
        "layer": None,
        "use_raw": False,
        "x": "normalized",
        "counts": True,
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pcs": {}}, ["unknown section 'pcs'", "one of: input, qc", "did you mean 'pca'?"]),
        ({1: {}}, ["unknown section 1"]),
        ({"pca": {"n_components": 3}}, ["unknown option pca.n_components", "n_comps"]),
        ({"hvg": {"n_top_gene": 3}}, ["unknown option hvg.n_top_gene", "did you mean 'n_top_genes'?"]),
        ({"pca": 30}, ["section 'pca' is 30", "pca: {...}"]),
        ({"pca": {"n_comps": "many"}}, ["pca.n_comps is 'many'", "a whole number or null"]),
        ({"pca": {"n_comps": 2.5}}, ["pca.n_comps is 2.5", "a whole number"]),
        ({"pca": {"n_comps": True}}, ["pca.n_comps is True", "a whole number"]),
        ({"leiden": {"resolution": None}}, ["leiden.resolution is None", "a number"]),
        ({"leiden": {"resolution": "high"}}, ["leiden.resolution is 'high'", "a number"]),
        ({"markers": {"pts": 1}}, ["markers.pts is 1", "true or false"]),
        ({"qc": {"percent_top": 50}}, ["qc.percent_top is 50", "a list of whole numbers"]),
        ({"qc": {"percent_top": [1.5]}}, ["a list of whole numbers"]),
        ({"input": {"layer": 3}}, ["input.layer is 3", "a text or null"]),
    ],
)
def test_settings__unknown_names_and_types(given: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Settings.of(given)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        ("qc", "mt_prefix", ""),
        ("qc", "percent_top", [0]),
        ("filter", "min_genes", -1),
        ("filter", "max_pct_mt", float("nan")),
        ("normalize", "target_sum", 0),
        ("normalize", "target_sum", float("inf")),
        ("hvg", "flavor", "seurat_v4"),
        ("hvg", "n_top_genes", 0),
        ("hvg", "n_bins", 1),
        ("pca", "n_comps", 0),
        ("pca", "svd_solver", "lobpcg"),
        ("neighbors", "n_neighbors", 1),
        ("neighbors", "n_pcs", 0),
        ("neighbors", "metric", "euclid"),
        ("neighbors", "min_recall", 95),
        ("neighbors", "random_state", -1),
        ("leiden", "resolution", -1),
        ("leiden", "flavor", "louvain"),
        ("leiden", "n_iterations", 0),
        ("umap", "min_dist", -0.1),
        ("umap", "n_components", 0),
        ("umap", "maxiter", 0),
        ("markers", "method", "wilcoxon"),
        ("markers", "n_genes", 0),
        ("write", "x", "dense"),
    ],
)
def test_settings__out_of_range(section: str, option: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{section}.{option} is ") as caught:
        Settings.of({section: {option: value}})
    assert caught.value.expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"input": {"layer": "counts", "use_raw": True}}, "both input.layer and input.use_raw"),
        ({"hvg": {"n_top_genes": 500, "min_disp": 1}}, "hvg.min_disp together with hvg.n_top_genes"),
        ({"hvg": {"flavor": "seurat_v3", "max_mean": 5}}, "hvg.max_mean together with hvg.flavor: seurat_v3"),
        ({"hvg": {"flavor": "seurat_v3", "n_bins": 10}}, "hvg.n_bins"),
        ({"umap": {"method": "umap-learn"}}, "umap.method is umap-learn and umap.init_pos multilevel"),
        ({"hvg": {"span": 0.5}}, "hvg.span"),
        ({"pca": {"random_state": 1, "svd_solver": "gram"}}, "pca.random_state"),
        ({"pca": {"n_comps": 30}, "hvg": {"n_top_genes": 20}}, "pca.n_comps is 30 and hvg.n_top_genes 20"),
        ({"neighbors": {"n_pcs": 60}}, "neighbors.n_pcs is 60 and pca.n_comps 50"),
        ({"umap": {"min_dist": 2}}, "umap.min_dist is 2 and umap.spread 1"),
    ],
)
def test_settings__options_that_exclude_each_other(given: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Settings.of(given)


def test_settings__made_in_python_are_checked_too() -> None:
    from sc_dask.pipeline.settings import HVG

    with pytest.raises(InputError, match="hvg.flavor"):
        Settings(hvg=HVG(flavor="best"))
