from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.graph import __main__ as graph
from benchmarks.graph import atlas


@pytest.fixture(scope="module")
def representation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(8, 10))
    x = centres[rng.integers(8, size=1500)] + rng.normal(size=(1500, 10))
    path = tmp_path_factory.mktemp("x") / "x.npy"
    np.save(path, x.astype(np.float32))
    return path


def test_graph__a_table_of_steps_and_peers(
    representation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ["neighbours", "leiden", "igraph_leiden", "umap_multilevel"]
    graph.main(["--x", str(representation), "--steps", *steps, "--runs", "1", "--out", str(tmp_path)])
    assert "warm-up: neighbours" in capsys.readouterr().out
    lines = (tmp_path / "graph-1500.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    found = {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}
    assert list(found) == steps
    assert float(found["leiden"]["peer_over_ours"]) > 0 and found["neighbours"]["peer_over_ours"] == ""
    assert float(found["neighbours"]["recall"]) == 1
    assert float(found["leiden"]["modularity"]) > float(found["igraph_leiden"]["modularity"]) - 0.02
    assert 0.5 < float(found["umap_multilevel"]["trustworthiness"]) <= 1


def test_atlas__rows_are_those_of_the_source_with_noise(representation: Path, tmp_path: Path) -> None:
    out = tmp_path / "many.npy"
    atlas.make(representation, out, 4000)
    x, many = np.load(representation), np.load(out)
    assert many.shape == (4000, 10) and many.dtype == np.float32
    nearest = np.sqrt(((many[:50, None] - x) ** 2).sum(axis=2)).min(axis=1)
    assert 0 < nearest.max() < 0.2 * np.linalg.norm(x.std(axis=0))
