"""The comparison at real sizes, run at a tiny one: what it writes is whole and adds up. No time is judged."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure import JobError, Measured, run_command
from benchmarks.scale import budget, compare, generator, memory, published, results, shapes, stores
from benchmarks.scale.floor import floor_s
from benchmarks.tables import markdown

N_OBS = 2_000


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sc_dask as sd

    path = tmp_path_factory.mktemp("source") / "source.zarr"
    sd.datasets.simulate(300, 3_000, n_groups=4, mean_counts=3_000, seed=0, out=path)
    return path


@pytest.fixture(scope="module")
def compared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    command = [
        "--size",
        str(N_OBS),
        "--source",
        str(source),
        "--runs",
        "1",
        "--warm-ups",
        "0",
        "--engines",
        "sc_dask",
        "scanpy",
    ]
    compare.main([*command, "--memory", "2GiB", "--cache", str(folder / "data"), "--out", str(folder)])
    return folder


def test_compare__engines_choose_the_same_genes(compared: Path) -> None:
    ours, scanpy = read_csv(compared / f"scale-atlas-{N_OBS}-source-2GiB.engines.csv")
    assert (ours["engine"], scanpy["engine"]) == ("sc_dask", "scanpy")
    assert ours["same_genes"] == scanpy["same_genes"] == "True"
    assert float(ours["times_ours"]) == 1 and float(scanpy["times_ours"]) > 0
    assert 2 <= float(ours["passes"]) <= 4 and ours["budget"] == "2GiB" and ours["within_budget"] == "True"
    for row in (ours, scanpy):
        assert 0 < float(row["min_s"]) <= float(row["seconds"]) <= float(row["max_s"])


def test_compare__stages_come_to_the_whole(compared: Path) -> None:
    engines = read_csv(compared / f"scale-atlas-{N_OBS}-source-2GiB.engines.csv")
    stages = read_csv(compared / f"scale-atlas-{N_OBS}-source-2GiB.stages.csv")
    for engine in engines:
        own = [r for r in stages if r["engine"] == engine["engine"]]
        assert [r["stage"] for r in own] == ["start", "load", "qc", "filter", "normalize", "hvg", "pca"]
        assert sum(float(r["seconds"]) for r in own) == pytest.approx(float(engine["seconds"]), abs=0.1)
        peaks = [int(r["peak_rss_mib"]) for r in own[1:]]
        assert max(peaks) <= int(engine["memory"].removesuffix(" MiB"))
    (qc,) = (r for r in stages if (r["engine"], r["stage"]) == ("sc_dask", "qc"))
    assert float(qc["passes"]) == 1 and float(qc["in_decodes_own"]) > 0


def test_compare__floors_are_made_of_their_parts(compared: Path) -> None:
    rows = {r["what"]: r for r in read_csv(compared / f"scale-atlas-{N_OBS}-source-2GiB.floor.csv")}
    seconds = {what.split(" at ")[0]: float(r["seconds"]) for what, r in rows.items()}
    for name, of in (("zarr", "zarr"), ("sc_dask", "sc_dask's reader")):
        floor = seconds[f"floor: 3 {name} decode passes + Gram matrix"]
        assert floor == pytest.approx(3 * seconds[f"one bare decode pass, {of}"] + seconds["Gram matrix"], abs=0.03)
    assert float(rows["one bare decode pass, zarr"]["in_decodes_zarr"]) == 1
    assert float(rows["one bare decode pass, sc_dask's reader"]["in_decodes_own"]) == 1


def test_compare__writes_a_picture_and_one_text(compared: Path) -> None:
    picture = (compared / f"scale-atlas-{N_OBS}-source-2GiB.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    text = (compared / f"scale-atlas-{N_OBS}-source-2GiB.md").read_text()
    assert all(f"## {name}" in text for name in ("engines", "stages", "floor")) and "load_1min" in text


def test_compare__every_program_reads_the_same_values(compared: Path) -> None:
    from benchmarks.scale.floor import decode_own, decode_zarr

    path = compared / "data" / f"atlas-{N_OBS}-source.zarr"
    n = budget.facts_of(path).n_nonzeros
    assert decode_own(str(path), 1)["value"] == n
    assert decode_zarr(str(path), 1)["value"] == n * (4 + 2)  # int32 columns, uint16 counts


@pytest.mark.parametrize(("size", "n_obs"), [("100k", 100_000), ("1.3M", 1_306_127), ("2000", 2_000)])
def test_n_cells__names_and_numbers(size: str, n_obs: int) -> None:
    assert stores.n_cells(size) == n_obs


@pytest.mark.parametrize(
    "command", [["--size", "huge"], ["--size", "0"], ["--runs", "0"], ["--store", "a", "--source", "b"]]
)
def test_compare__refuses_before_anything_runs(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare.main(command)
    assert "expected" in capsys.readouterr().err


def test_refusal__names_the_engine_and_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    brain = budget.Known(1_306_127, 13_714, 2_500_000_000)
    monkeypatch.setattr(budget, "memory_bytes", lambda: 24 * 2**30)
    for engine in ("scanpy", "scanpy_dask"):
        line = budget.refusal(engine, brain)
        assert line is not None and line.startswith(f"{engine} is skipped") and "has 24 GiB" in line
    assert budget.refusal("sc_dask", brain) is None
    assert budget.refusal("scanpy", budget.Known(100_000, 13_714, 195_000_000)) is None


def test_options__a_small_budget_gives_small_blocks(compared: Path) -> None:
    path = compared / "data" / f"atlas-{N_OBS}-source.zarr"
    sizes = [int(budget.options(path, m, 2)["DASK_SC_DASK__BLOCK_BYTES"]) for m in ("1MiB", "64GiB")]
    assert sizes[0] < sizes[1] and budget.options(path, None, 2) == {}


def test_published__are_never_in_ratios() -> None:
    rows = published.rows(1_306_127)
    assert len(rows) == 2 and all(r["kind"] == "published" and r["source"] and r["machine"] for r in rows)
    assert not any("times_ours" in r or "times_floor_zarr" in r for r in rows)
    assert not published.rows(100_000) and not published.rows(5_000)


def test_engine_rows__ratios_of_medians_and_other_genes_are_told() -> None:
    def run(seconds: float, rss: int, genes: str) -> Measured:
        stages = {"pca": {"seconds": seconds / 2, "cpu_s": seconds, "peak_rss_bytes": rss}}
        return Measured("to_pca", seconds, seconds, rss, {"stages": stages, "genes": genes})

    found = {
        "sc_dask": [run(s, 2**30, "a") for s in (4.0, 2.0, 9.0)],
        "scanpy": [run(s, 3 * 2**30, "b") for s in (8.0, 1.0, 8.0)],
    }
    floor = results.Floor(0.5, 0.25, 0.5, 1.0, 0.5, 2.0, 1.0)
    ours, scanpy = results.engine_rows(found, floor, floor)
    assert (ours["seconds"], ours["min_s"], ours["max_s"]) == (4.0, 2.0, 9.0)
    assert (ours["times_floor_zarr"], ours["times_floor_own"]) == (2.0, 4.0)
    assert (ours["cpu_times_floor_zarr"], ours["cpu_times_floor_own"]) == (2.0, 4.0)
    assert (scanpy["times_ours"], scanpy["memory_times_ours"]) == (2.0, 3.0)
    assert ours["same_genes"] and not scanpy["same_genes"]


def test_floor__is_three_passes_and_a_gram_matrix() -> None:
    assert floor_s(1_000, 2_000, 1.5, 4e9) == pytest.approx(3 * 1.5 + 1.0)


def test_run_command__late_is_killed_and_errors_are_told() -> None:
    with pytest.raises(JobError) as late:
        run_command("late", [sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.5)
    assert late.value.code < 0
    with pytest.raises(JobError, match="seen") as ended:
        run_command("wrong", [sys.executable, "-c", "print('seen'); raise SystemExit(3)"])
    assert ended.value.code == 3
    told = run_command(
        "told", [sys.executable, "-c", "import os; print('{\"n\": %s}' % os.environ['X'])"], options={"X": "5"}
    )
    assert told.report == {"n": 5} and told.peak_rss_bytes > 2**20 and "X" not in os.environ


def test_shape_source__is_canonical_wherever_it_is_cut() -> None:
    source = generator.ShapeSource(700, 400, 60)
    whole = source.read(0, 700)
    assert whole.has_canonical_format and whole.indices.dtype == whole.indptr.dtype == np.int32
    assert 40 <= whole.nnz / 700 <= 60 and whole.data.min() >= 1
    assert (source.read(250, 520) != whole[250:520]).nnz == 0 and source.read(5, 5).shape == (0, 400)


@pytest.mark.slow
def test_shapes__every_bound_at_a_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SHAPES", {shapes.STANDARD: (2_500, 300), "50 non-zeros a cell": (2_500, 50)})
    bounds = ["--bounds", "hvg", "shapes", "graph", "plan"]
    size = ["--nonzeros", "100000", "--cells", "50000", "--blocks", "60", "--runs", "1"]
    shapes.main([*bounds, *size, "--cache", str(tmp_path), "--out", str(tmp_path)])
    rows = read_csv(tmp_path / "shapes.csv")
    assert {r["bound"] for r in rows} == {"hvg", "shapes", "graph", "plan"}
    of_shape = [r for r in rows if r["what"].startswith("50 non-zeros")]
    assert len(of_shape) == 6
    for r in of_shape:
        assert float(r["ratio"]) == pytest.approx(float(r["value"]) / float(r["reference"]), rel=0.02)
    (tasks,) = (r for r in rows if r["what"] == "most tasks a block and pass")
    assert 1 <= float(tasks["value"]) <= 4 and tasks["met"] == "yes"


def test_declare__plan_reads_what_is_there_only(tmp_path: Path) -> None:
    import zarr

    n = generator.declare(1_000, 50, tmp_path / "declared.zarr")
    facts = budget.facts_of(tmp_path / "declared.zarr")
    assert (facts.n_obs, facts.n_vars, facts.n_nonzeros) == (1_000, 50, n)
    indptr = zarr.open_group(tmp_path / "declared.zarr", mode="r")["X/indptr"][:]
    assert indptr[0] == 0 and indptr[-1] == n and (np.diff(indptr) > 0).all()
    assert not list((tmp_path / "declared.zarr" / "X" / "data").glob("c*"))


@pytest.mark.slow
def test_memory__projected_beside_measured(compared: Path, tmp_path: Path) -> None:
    store = compared / "data" / f"atlas-{N_OBS}-source.zarr"
    refused = memory.measure(store, "16MiB", 2, tmp_path)
    assert [r["stage"] for r in refused] == ["refused by the plan"]
    rows = memory.measure(store, "2GiB", 2, tmp_path)
    assert [r["stage"] for r in rows][0] == "qc" and rows[-1]["stage"] == "whole run" and not list(tmp_path.iterdir())
    for r in rows:
        assert r["measured_mib"] > 50 and r["within_budget"] is True
        assert r["projected_over_measured"] == pytest.approx(r["projected_mib"] / r["measured_mib"], rel=0.02)


def test_markdown__empty_where_a_row_has_nothing() -> None:
    assert markdown([{"a": 1}, {"b": None, "a": 2}]).splitlines()[2:] == ["| 1 |  |", "| 2 |  |"]
