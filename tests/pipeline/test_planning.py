"""The plan: what moves it, when it is refused, and that it holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest

from sc_dask import datasets
from sc_dask.array.engine import run, segments
from sc_dask.array.pca import solvers
from sc_dask.errors import MemoryBudgetError
from sc_dask.io.info import Info, info
from sc_dask.pipeline import RunPlan, Settings, plan, planning, runner
from tests.pipeline.runs import run_small

MIB, GIB = 2**20, 2**30
ATLAS = Info("atlas.zarr", "zarr", (1_000_000, 30_000), "csr", "uint16", 2_000_000_000, 4_000_000_000)
SMALL = Info("small.zarr", "zarr", (2_700, 32_738), "csr", "float32", 2_286_884, 9_000_000)


def peaks(made: RunPlan) -> dict[str, int]:
    return {st.name: st.peak_bytes for st in made.stages}


def of(facts: Info = ATLAS, memory: int | None = None, threads: int = 2, **sections: dict[str, Any]) -> RunPlan:
    with dask.config.set(num_workers=threads):
        return plan(facts, Settings.of(sections), memory)


def test_plan__passes_bytes_and_tasks() -> None:
    made = of()
    assert {st.name: st.passes for st in made.stages} == {
        "qc": 1, "filter": 1, "normalize": 0, "hvg": 1, "pca": 1, "neighbors": 0, "leiden": 0, "umap": 0,
        "markers": 1, "write": 2, "figures": 0,
    }  # fmt: skip
    n_blocks = -(-2_000_000_000 * 6 // (48 * MIB))
    n_segments = len(segments.cut(n_blocks)) - 1
    for st in made.stages:
        assert st.bytes_read == st.passes * 4_000_000_000
        assert st.tasks == st.passes * (2 * n_segments + 1)
    assert made.total_bytes == 7 * 4_000_000_000
    assert made.n_threads == 2


@pytest.mark.parametrize(
    ("sections", "stage", "passes"),
    [
        ({"normalize": {"target_sum": None}}, "normalize", 1),
        ({"hvg": {"flavor": "seurat_v3"}}, "hvg", 2),
        ({"pca": {"svd_solver": "randomized"}}, "pca", 1),
        ({"filter": {"min_cells": None}}, "filter", 0),
        ({"write": {"x": "none"}}, "write", 0),
    ],
)
def test_plan__passes_by_options(sections: dict, stage: str, passes: int) -> None:
    assert {st.name: st.passes for st in of(**sections).stages}[stage] == passes


@pytest.mark.parametrize(("solver", "passes"), [("gram", 2), ("incremental", 2), ("randomized", 4)])
def test_plan__passes_on_a_cluster_without_a_shared_folder(monkeypatch: Any, solver: str, passes: int) -> None:
    monkeypatch.setattr(run, "client", lambda: SimpleNamespace(nthreads=lambda: {"one": 1, "two": 1}))
    assert {st.name: st.passes for st in of(pca={"svd_solver": solver}).stages}["pca"] == passes
    with dask.config.set({"sc-dask.work-dir": "/shared"}):
        assert {st.name: st.passes for st in of(pca={"svd_solver": solver}).stages}["pca"] == 1


def test_plan__a_conversion_is_a_stage() -> None:
    for facts in (
        replace(SMALL, kind="10x-mtx"),
        replace(SMALL, layout="csc", by_columns=("X",)),
        Info("a.csv", "csv"),
    ):
        made = of(facts)
        assert made.stages[0].name == "convert"
        assert made.stages[0].passes >= 3
    assert of(SMALL).stages[0].name == "qc"


def test_plan__what_costs_memory() -> None:
    base = peaks(of())
    assert peaks(of(threads=8))["pca"] > base["pca"]
    gram = {"svd_solver": "gram"}
    assert peaks(of(hvg={"n_top_genes": 10_000}, pca=gram))["pca"] - base["pca"] > 3 * 8 * (10_000**2 - 2_000**2)
    assert peaks(of(hvg={"n_top_genes": 10_000}))["pca"] - base["pca"] < 2 * GIB  # another solver
    assert peaks(of(hvg={"n_top_genes": 500}))["pca"] < base["pca"]
    assert peaks(of(neighbors={"n_neighbors": 50}))["leiden"] > base["leiden"] + 1_000_000 * 70 * 23
    assert peaks(of(leiden={"flavor": "igraph"}))["leiden"] > base["leiden"] + 1_000_000 * 30 * 150
    slow = {"method": "umap-learn", "init_pos": "spectral"}
    assert peaks(of(umap=slow))["umap"] > base["umap"] + 1_000_000 * 30 * 100
    assert peaks(of(replace(ATLAS, shape=(2_000_000, 30_000))))["umap"] > base["umap"] + GIB
    for name, peak in peaks(of(replace(ATLAS, n_nonzeros=20_000_000_000))).items():
        assert peak <= 1.1 * base[name]  # X is never in memory: of ten times the blocks one more state is held
    many = {"n_top_genes": 20_000}
    assert peaks(of(hvg=many))["pca"] < peaks(of(pca=gram, hvg=many))["pca"] - 5 * GIB


def test_plan__n_genes_once_they_are_known() -> None:
    with dask.config.set(num_workers=2):
        gram = Settings.of({"pca": {"svd_solver": "gram"}})
        few, many = (peaks(plan(ATLAS, gram, n_genes=n))["pca"] for n in (1_000, 12_000))
    assert many - few > 8 * (12_000**2 - 1_000**2)


def test_plan__blocks_shrink_to_the_budget() -> None:
    facts = replace(SMALL, shape=(50_000, 20_000), n_nonzeros=100_000_000)
    genes = {"n_top_genes": 4_000}  # their Gram matrix is what takes most, beside the blocks
    free = of(facts, hvg=genes)
    assert free.block_bytes == 48 * MIB
    tight = of(facts, memory=free.peak_bytes - 50 * MIB, hvg=genes)
    assert tight.block_bytes < free.block_bytes
    assert tight.peak_bytes <= free.peak_bytes - 50 * MIB
    assert tight.total_bytes == free.total_bytes


@pytest.mark.parametrize("facts", [SMALL, ATLAS])
def test_plan__the_size_of_blocks_does_not_hang_on_threads(facts: Info) -> None:
    with pytest.raises(MemoryBudgetError) as caught:
        of(facts, threads=1, memory=300 * MIB)
    least = int(float(re.search(r"--memory ([\d.]+)GiB", str(caught.value))[1]) * GIB)  # type: ignore[index]
    for memory in (least, least + 20 * MIB, least + 100 * MIB, least + 500 * MIB, 2 * least, 60 * GIB):
        plans = [of(facts, threads=n, memory=memory) for n in (1, 2, 3, 8, 16, 64)]
        assert len({made.block_bytes for made in plans}) == 1
        assert all(made.peak_bytes <= memory for made in plans)
        assert [made.n_threads for made in plans] == sorted(made.n_threads for made in plans)
    assert plans[-1].n_threads == 64
    if facts is ATLAS:
        assert of(facts, threads=64, memory=least).n_threads < 64


def test_run__is_held_to_the_threads_of_the_plan(store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    planned, finish, seen = planning.plan, runner.finish, []

    def narrow(*args: Any, **options: Any) -> RunPlan:
        return replace(planned(*args, **options), n_threads=3)

    def watched(*args: Any) -> None:
        seen.append(run.n_workers())
        finish(*args)

    monkeypatch.setattr(planning, "plan", narrow)
    monkeypatch.setattr(runner, "finish", watched)
    with dask.config.set(num_workers=5):
        run_small(store, tmp_path / "result.zarr")
        assert seen == [3]
        assert run.n_workers() == 5


def test_plan__takes_the_configured_budget() -> None:
    with dask.config.set({"sc-dask.memory": "300MiB"}), pytest.raises(MemoryBudgetError):
        of(SMALL)
    with dask.config.set({"sc-dask.block-bytes": "6MiB"}):
        assert of(SMALL).block_bytes == 6 * MIB


@pytest.mark.parametrize("facts", [SMALL, ATLAS, Info("a.csv", "csv")])
def test_plan__refusal_names_what_would_do(facts: Info) -> None:
    with pytest.raises(MemoryBudgetError, match="next: --memory .*GiB") as caught:
        of(facts, memory=300 * MIB)
    enough = re.search(r"--memory ([\d.]+)GiB", str(caught.value))
    assert enough is not None
    assert of(facts, memory=int(float(enough[1]) * GIB)).peak_bytes <= float(enough[1]) * GIB


def test_plan__nothing_but_the_libraries_is_refused_too() -> None:
    with pytest.raises(MemoryBudgetError, match=r"expected at most 400 MiB"):
        of(SMALL, memory=400 * MIB)


def test_run__refuses_when_more_genes_were_chosen_than_fit(store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(planning, "_GENES", 1)
    all_genes = {"filter": {"min_genes": 40}, "hvg": {"min_disp": "-inf", "min_mean": 0, "max_mean": "inf"}}
    budget = plan(info(store), Settings.of(all_genes)).peak_bytes
    monkeypatch.setattr(solvers, "TILE_ROWS", 10**6)  # a cost per gene that this small store can show
    with pytest.raises(MemoryBudgetError, match="stage pca") as caught:
        run_small(store, tmp_path / "result.zarr", settings=all_genes, memory=budget + 20 * MIB)
    assert "hvg.n_top_genes" in str(caught.value)
    assert "goes on from there" in caught.value.__notes__[0]


# -- truth ---------------------------------------------------------------------------------------


def measured(source: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The report of a run in a process of its own."""
    out.parent.mkdir()
    (out.parent / "run.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "sc_dask.cli", "run", str(source), "--out", str(out)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([*command, "--config", str(out.parent / "run.yaml")], env=env, check=True, timeout=1800)
    report: dict[str, Any] = json.loads((out.parent / "run.json").read_text())
    return report


def assert_holds(source: Path, report: dict[str, Any], settings: dict[str, Any]) -> None:
    planned = {st.name: st for st in plan(info(source), Settings.of(settings)).stages}
    assert list(planned) == [s["name"] for s in report["stages"]]
    for s in report["stages"]:
        st = planned[s["name"]]
        ratio = st.peak_bytes / s["peak_rss_bytes"]
        assert 1 <= ratio <= 1.25, (
            f"{st.name}: planned {st.peak_bytes / MIB:.0f}, measured {s['peak_rss_bytes'] / MIB:.0f} MiB"
        )
        assert s["passes"] <= st.passes + 1e-6, st.name


@pytest.mark.slow
def test_plan__holds_on_pbmc3k(pbmc3k_dir: Path, tmp_path: Path) -> None:
    settings = {"umap": {"maxiter": 10}}
    assert_holds(pbmc3k_dir, measured(pbmc3k_dir, tmp_path / "out" / "result.zarr", settings), settings)


@pytest.mark.slow
def test_plan__holds_on_50_000_cells(tmp_path: Path) -> None:
    datasets.simulate(50_000, 5_000, n_groups=8, n_batches=3, seed=0, out=tmp_path / "counts.zarr")
    settings = {"umap": {"maxiter": 5}, "hvg": {"n_top_genes": 2000, "batch_key": "batch"}}
    report = measured(tmp_path / "counts.zarr", tmp_path / "out" / "result.zarr", settings)
    assert_holds(tmp_path / "counts.zarr", report, settings)
