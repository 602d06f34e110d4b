"""The benchmark of conversion runs, its engines write equal stores, and it would say so if they did not."""

from __future__ import annotations

from pathlib import Path

import pytest
import zarr

from benchmarks import bench_convert
from benchmarks.bench_pca import atlas


def test_bench_convert__engines_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_convert, "RESULTS", tmp_path)
    source = bench_convert.gzipped(atlas(300, 200, tmp_path), tmp_path)
    bench_convert.main(["--source", str(source), "--cache", str(tmp_path), "--runs", "1"])
    text = (tmp_path / f"convert-{source.stem}.md").read_text()
    assert text.count("| nothing |") == 2
    ours, peer = (bench_convert.store_of(tmp_path, e) for e in ("sc_dask", "anndata"))
    zarr.open_array(peer, path="X/indices", mode="r+")[5] += 1
    assert bench_convert.differences(peer, ours) == ["X/indices"]
