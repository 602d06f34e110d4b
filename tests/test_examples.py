from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import pytest
from dask.utils import parse_bytes

ROOT = Path(__file__).resolve().parents[1]
STORY = ROOT / "examples" / "larger_than_memory.py"
N_OBS, N_VARS = 1500, 2500
PASSES = {  # over X; what is not here reads none of it
    "qc": 1,
    "hvg": 1,
    "pca": 1,
    "markers": 1,
}


def run_story(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(STORY), *map(str, args)],
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
