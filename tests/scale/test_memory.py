"""Memory stays bounded at a size that does not fit: slow, needs 2 GB of disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench_pca import atlas
from benchmarks.measure import run_job

pytestmark = pytest.mark.slow
GIB = 2**30


@pytest.fixture(scope="module")
def large_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return atlas(200_000, 20_000, tmp_path_factory.mktemp("large"))


def test_to_pca__200_000_cells_stay_under_one_and_a_half_gib(large_store: Path) -> None:
    found = run_job("to_pca", "sc_dask", str(large_store))
    assert found.report["shape"][0] == 200_000
    assert found.report["passes"] <= 4
    assert found.peak_rss_bytes < 1.5 * GIB
