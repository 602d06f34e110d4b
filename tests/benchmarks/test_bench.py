"""The benchmarks run, and all engines find the same genes and components on a small store."""

from __future__ import annotations

import pytest

from benchmarks import bench_pca
from benchmarks.to_pca import ENGINES


@pytest.mark.slow
def test_bench_pca__engines_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_pca, "RESULTS", tmp_path)
    path = bench_pca.atlas(3_000, 3_000, tmp_path)
    found = bench_pca.compare(path, list(ENGINES), 1, 2)
    table = bench_pca.rows(found)
    assert all(row["same_genes"] for row in table)
    ours = found["sc_dask"][0].report["variance_ratio_5"]
    for ms in found.values():
        assert ms[0].report["variance_ratio_5"] == pytest.approx(ours, rel=1e-3)
    text = bench_pca.write(table, "small", "small")
    assert "scanpy_dask" in text and (tmp_path / "small.csv").exists()


def test_to_pca__our_engine(tmp_path):
    path = bench_pca.atlas(500, 2_500, tmp_path)
    report = ENGINES["sc_dask"](str(path))
    assert report["n_hvg"] == 2000 and report["passes"] <= 4
