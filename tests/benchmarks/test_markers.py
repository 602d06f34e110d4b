from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import Measured
from benchmarks.scale import markers


def test_markers__a_row_for_each_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sc_dask as sd

    def here(job: str, *args: str, n_threads: int) -> Measured:  # instead of in a process of its own
        given = dict(zip(args[::2], args[1::2], strict=True))
        report: dict[str, Any] = markers.job(given["--job"], given["--store"], int(given["--groups"]), given["--work"])
        return Measured(job, 1.0, 1.0, 2**30, report)

    monkeypatch.setattr(markers, "run_job", here)
    store, work = tmp_path / "cells.zarr", tmp_path / "work"
    sd.datasets.simulate(400, 300, n_groups=3, seed=0, out=store)
    markers.main(["--store", str(store), "--groups", "4", "--work", str(work), "--out", str(tmp_path)])
    with (tmp_path / "markers.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [r["test"] for r in rows] == list(markers.JOBS)
    assert all(float(r["seconds"]) > 0 and r["peak_mib"] == "1024" and r["n_obs"] == "400" for r in rows)
    assert not list(work.iterdir())
