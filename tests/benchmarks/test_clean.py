"""The benchmark of cleaning, run at a tiny size: its table is whole. No time is judged."""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.scale import clean


def test_clean__has_a_row_for_each_way(tmp_path: Path) -> None:
    import sc_dask as sd

    store = tmp_path / "small.zarr"
    sd.datasets.simulate(700, 2_500, mean_counts=2_000, seed=0, out=store)
    ways = [clean.ALONE, "regress_out, scale cut, pca"]
    clean.main(["--store", str(store), "--runs", "1", "--ways", *ways, "--out", str(tmp_path)])
    with (tmp_path / "clean-small.csv").open() as f:
        alone, cleaned = csv.DictReader(f)
    assert [alone["way"], cleaned["way"]] == ways
    assert (float(alone["passes"]), float(cleaned["passes"])) == (1, 2)
    assert float(alone["times_pca"]) == 1 and float(cleaned["cpu_times_pca"]) > 0
    assert int(cleaned["peak_rss_mib"]) > 0 and cleaned["cells"] == "700" and int(cleaned["genes"]) > 1_000
    assert (tmp_path / "clean-small.md").read_text().startswith("small, 2 threads")
