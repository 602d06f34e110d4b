"""The benchmark of scores, run at a tiny size: what it writes is whole. No time is judged."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import sc_dask as sd
from benchmarks.measure import Measured
from benchmarks.scale import scores


def test_scores__a_row_for_each_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(name: str, *args: str, n_threads: int) -> Measured:
        given = dict(zip(args[::2], args[1::2], strict=True))
        report: dict[str, Any] = scores.job(given["--job"], given["--store"], int(given["--runs"]))
        return Measured(name, 1.0, 1.0, 1 << 20, report)

    monkeypatch.setattr(scores, "run_job", here)
    store = tmp_path / "counts.zarr"
    sd.datasets.simulate(400, 800, n_groups=3, mean_counts=800, seed=0, out=store)
    scores.main(["--store", str(store), "--runs", "1", "--out", str(tmp_path)])
    with (tmp_path / "scores.csv").open() as f:
        rows = {r["job"]: r for r in csv.DictReader(f)}
    assert list(rows) == list(scores.JOBS)
    passes = {name: float(row["passes"]) for name, row in rows.items()}
    assert passes.pop("median") in (1, 2)
    twice = {"score", "cell cycle"}
    assert passes == {name: 2 if name in twice else 1 for name in scores.JOBS if name != "median"}
    assert "# Scores and pseudobulk" in (tmp_path / "scores.md").read_text()
