from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
from dask.utils import parse_bytes

import sc_dask as sd

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
N_OBS, N_VARS = 1500, 2500
PASSES = {  # over X; what is not here reads none of it
    "qc": 1,
    "hvg": 1,
    "pca": 1,
    "markers": 1,
}


def run_story(*args: str | Path, story: str = "larger_than_memory.py") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / story), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("story")
    done = run_story("--n-obs", f"{N_OBS:_}", "--n-vars", str(N_VARS), "--folder", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_larger_than_memory__tells_passes_and_memory(told: tuple[Path, str]) -> None:
    rows = re.findall(r"^(\w+) +[\d.]+ s +([\d.]+) +[\d.]+ \S+ +([\d.]+ \S+)$", told[1], re.MULTILINE)
    assert [name for name, _, _ in rows][:3] == ["simulate", "plan", "read"]
    assert {name: float(n) for name, n, _ in rows if name in PASSES} == PASSES
    assert all(
        float(n) == 0 for name, n, _ in rows if name in {"plan", "read", "normalise", "leiden", "umap", "figures"}
    )
    peak = max(parse_bytes(size) for _, _, size in rows)
    said = re.search(r"peak memory (.+?) \(planned (.+?)\), (\w+) the budget", told[1])
    assert said is not None
    assert parse_bytes(said[1]) == peak
    assert 100e6 < peak < parse_bytes("1GiB") and said[3] == "within"


def test_larger_than_memory__tells_the_size_of_x(told: tuple[Path, str]) -> None:
    dense = re.search(r"X as a dense float32 array would take (.+)", told[1])
    sparse = re.search(r"X as a sparse float32 matrix would take (.+)", told[1])
    assert dense is not None and sparse is not None
    assert parse_bytes(dense[1]) == pytest.approx(4 * N_OBS * N_VARS, rel=0.01)
    x = ad.read_zarr(told[0] / f"atlas_{N_OBS}x{N_VARS}.zarr").X
    assert parse_bytes(sparse[1]) == pytest.approx(8 * x.nnz + 8 * N_OBS, rel=0.01)


def test_larger_than_memory__finds_the_simulated_groups(told: tuple[Path, str]) -> None:
    folder, text = told
    agreement = re.search(r"adjusted Rand index\): ([\d.]+)", text)
    assert agreement is not None and float(agreement[1]) > 0.8
    results = ad.read_zarr(folder / "results.zarr")
    kept = re.search(r"([\d,]+) of 1,500 cells and ([\d,]+) of 2,500 genes were kept", text)
    assert kept is not None
    assert results.shape == tuple(int(n.replace(",", "")) for n in kept.groups())
    clusters = results.obs["leiden"].cat.categories
    assert f"{len(clusters)} clusters;" in text
    assert {"X_pca", "X_umap"} <= set(results.obsm)
    told_markers = dict(re.findall(r"^ +(\d+)  (\S+), \S+, \S+$", text, re.MULTILINE))
    names = results.uns["rank_genes_groups"]["names"]
    assert told_markers == {c: names[c][0] for c in clusters}
    assert (folder / "umap_leiden.png").read_bytes().startswith(b"\x89PNG")


def test_larger_than_memory__refuses_a_budget_that_cannot_hold(told: tuple[Path, str]) -> None:
    folder = told[0]
    done = run_story(folder / f"atlas_{N_OBS}x{N_VARS}.zarr", "--memory", "100MiB", "--folder", folder)
    assert done.returncode != 0
    assert "MemoryBudgetError" in done.stderr and "--memory" in done.stderr
    assert "\nqc " not in done.stdout  # before anything is read


# -- the tutorial of blood cells -----------------------------------------------------------------


@pytest.mark.parametrize("name", [p.name for p in EXAMPLES.glob("*.py")])
def test_examples__import_no_other_tool_of_the_field(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert not re.search(r"import (scanpy|anndata|dask_ml|celltypist)", text)


def test_pbmc3k__gives_what_the_tutorial_prints(tmp_path: Path, data_dir: Path) -> None:
    done = run_story("--folder", tmp_path, story="pbmc3k.py")
    assert done.returncode == 0, done.stderr
    for line in (
        "2,700 cells x 32,738 genes",
        "13,714 genes are in at least 3 cells",
        "2,638 cells are left, 1,838 genes vary",
    ):
        assert line in done.stdout
    told = dict(re.findall(r"^  \d+  ([\w+ 0-9]+?) +\d+ cells  (.+)$", done.stdout, re.MULTILINE))
    assert {"CD4 T", "B", "CD14+ Monocytes", "NK", "CD8 T", "FCGR3A+ Monocytes", "Dendritic", "Megakaryocytes"} <= set(
        told
    )
    tops = {
        "B": "CD74, CD79A",
        "FCGR3A+ Monocytes": "LST1, FCER1G, AIF1",
        "CD8 T": "CCL5, NKG7",
        "Megakaryocytes": "PF4",
    }
    assert all(told[name].startswith(top) for name, top in tops.items())

    results = ad.read_zarr(tmp_path / "results.zarr")
    published = ad.read_h5ad(data_dir / "pbmc3k" / "pbmc3k_processed_reference.h5ad", backed="r").obs["louvain"]
    assert list(results.obs_names) == list(published.index)
    assert sd.metrics.ari(published, results.obs["leiden"]) > 0.85
    assert {"rank_genes_groups", "rank_genes_groups_filtered", "t-test", "logreg", "paga"} <= set(results.uns)
    assert results.raw.n_vars == 13_714 and {"X_pca", "X_umap"} <= set(results.obsm)
    markers = pd.read_csv(tmp_path / "markers.csv")
    assert len(markers) == 13_714 * results.obs["leiden"].nunique()
    dots = pd.read_csv(tmp_path / "dotplot.csv", header=[0, 1], index_col=0)
    assert dots["share"].loc["B", "CD79A"] > 0.8 > 0.2 > dots["share"].loc["NK", "CD79A"]


# -- cell types for new cells --------------------------------------------------------------------


def agreement(text: str) -> dict[str, float]:
    return {name: float(n) for name, n in re.findall(r"^  (\w+) +([\d.]+) of them as known$", text, re.MULTILINE)}


def test_annotation__names_simulated_cells(tmp_path: Path) -> None:
    done = run_story("--folder", tmp_path, story="annotation.py")
    assert done.returncode == 0, done.stderr
    found = agreement(done.stdout)
    assert set(found) == {"predicted_labels", "majority_voting", "transferred"} and min(found.values()) > 0.95
    labelled = ad.read_zarr(tmp_path / "labelled.zarr")
    assert labelled.obs["transferred_uncertainty"].between(0, 1).all()
    assert sum(c.startswith("group_") and c.endswith("_score") for c in labelled.obs) == 6
    dots = pd.read_csv(tmp_path / "dotplot.csv", header=[0, 1], index_col=0)
    assert dots["share"].to_numpy().max() <= 1 and len(dots) == labelled.obs["majority_voting"].nunique()


def test_annotation__takes_files(tmp_path: Path, data_dir: Path) -> None:
    kang = ad.read_h5ad(next((data_dir / "kang").glob("*.h5ad")))
    paths = []
    for sample in (101, 107, 1016):
        paths.append(tmp_path / f"{sample}.h5ad")
        kang[kang.obs["sample_id"] == sample].write_h5ad(paths[-1])
    options = ["--query", paths[-1], "--labels", "cluster_id", "--folder", tmp_path]
    done = run_story(*paths[:-1], *options, story="annotation.py")
    assert done.returncode == 0, done.stderr
    assert min(agreement(done.stdout).values()) > 0.7  # of eight types, from two donors
