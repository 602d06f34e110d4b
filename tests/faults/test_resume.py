"""Runs that end before their end, and the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from tests.laws.compare import differences
from tests.pipeline.runs import (
    BLOCK_BYTES,
    NAMES,
    SETTINGS,
    WRITERS,
    Finished,
    counts_in_memory,
    left_over,
    run_small,
    with_settings,
)

# A run that kills its own process at a moment: ("block", "hvg", 2) is when the second block of hvg's pass is done,
# ("end", "write", 0) between the store's last byte and its entry in the manifest.
KILLED_RUN = """
import json, os, signal, sys
import dask
from sc_dask.pipeline import run

source, out, settings, block_bytes, moment = json.loads(sys.argv[1])

class Killer:
    def _at(self, *now):
        if list(now) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    def on_stage(self, stage): self._at("stage", stage.name, 0)
    def on_end(self, stage): self._at("end", stage.name, 0)
    def on_pass(self, stage, label, n_blocks): self._at("pass", stage, label)
    def on_block(self, stage, done, n_blocks, bytes_read): self._at("block", stage, done)

dask.config.set({"sc-dask.block-bytes": block_bytes})
run(source, out, settings=settings, listener=Killer())
"""
Moment = tuple[str, str, Any]


class Seen:
    """A listener that notes which stages ran, and interrupts at one of them."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.ran: list[str] = []
        self._stop_at = stop_at

    def on_stage(self, stage: sd.log.Stage) -> None:
        if stage.name == self._stop_at:
            raise KeyboardInterrupt
        if not stage.params.get("resumed"):
            self.ran.append(stage.name)

    def on_end(self, stage: sd.log.Stage) -> None: ...
    def on_pass(self, stage: str, label: str, n_blocks: int) -> None: ...
    def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None: ...


def kill_at(moment: Moment, source: Path, out: Path, settings: dict[str, Any] | None = None) -> Path:
    """Run until the moment; returns the folder that the process had for temporary files."""
    temporary = out.parent.parent / "temporary"
    temporary.mkdir()
    argument = json.dumps([str(source), str(out), settings or SETTINGS, BLOCK_BYTES, moment])
    env = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, argument], env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return temporary


def finish(source: Path, out: Path, **options: Any) -> tuple[ad.AnnData, list[str]]:
    """Run to the end; returns the result and the stages that ran."""
    seen = Seen()
    result = run_small(source, out, listener=seen, **options)
    stages = result.report["stages"]
    assert [s["name"] for s in stages if not s.get("resumed")] == seen.ran
    assert result.report["total"]["passes"] == pytest.approx(sum(s["passes"] for s in stages))
    assert left_over(out.parent) == set()
    return ad.read_zarr(result.store), seen.ran


# -- killed --------------------------------------------------------------------------------------

SLOW_MOMENTS: list[tuple[Moment, str | None]] = [
    (("stage", "qc", 0), "qc"),
    (("block", "qc", 2), "qc"),
    (("end", "qc", 0), "qc"),
    (("block", "filter", 2), "filter"),
    (("stage", "normalize", 0), "normalize"),
    (("block", "pca", 2), "pca"),
    (("end", "pca", 0), "pca"),
    (("stage", "neighbors", 0), "neighbors"),
    (("stage", "leiden", 0), "leiden"),
    (("end", "umap", 0), "umap"),
    (("block", "markers", 3), "markers"),
    (("stage", "write", 0), "write"),
    (("pass", "write", "write"), "write"),
    (("stage", "figures", 0), "figures"),
    (("end", "figures", 0), "figures"),
]
MOMENTS: list[tuple[Moment, str | None]] = [
    (("pass", "pca", "scores"), "pca"),
    (("end", "write", 0), "write"),
]


@pytest.mark.parametrize(
    ("moment", "first"), [*MOMENTS, *(pytest.param(*m, marks=pytest.mark.slow) for m in SLOW_MOMENTS)]
)
def test_killed__ends_with_the_same_result(moment: Moment, first: str, finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out" / "result.zarr"
    temporary = kill_at(moment, finished.source, out)
    assert out.exists() == (first in ("figures",) or moment == ("end", "write", 0))
    assert (tmp_path / "out" / "result.zarr.work").is_dir()
    adata, ran = finish(finished.source, out)
    assert ran == list(NAMES[NAMES.index(first) :])
    assert differences(adata, finished.adata) == []
    assert list(temporary.iterdir()) == []
    for name in ("markers.csv", *(f"figures/{p.name}" for p in (finished.folder / "figures").iterdir())):
        assert (out.parent / name).read_bytes() == (finished.folder / name).read_bytes(), name


LANDMARKS = with_settings(neighbors={"compact": True})
IN_EVERY_STAGE: list[Moment] = [
    *(("stage", name, 0) for name in NAMES if name not in ("qc", "leiden")),
    ("end", "neighbors", 0),
    ("end", "write", 0),
]


@pytest.fixture(scope="module")
def with_landmarks(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> ad.AnnData:
    """The result of a run whose graph is one of landmarks, made without a stop."""
    return finish(finished.source, tmp_path_factory.mktemp("landmarks") / "result.zarr", settings=LANDMARKS)[0]


@pytest.mark.parametrize(
    "moment", [("stage", "leiden", 0), *(pytest.param(m, marks=pytest.mark.slow) for m in IN_EVERY_STAGE)]
)
def test_killed__with_a_landmark_graph(
    moment: Moment, finished: Finished, with_landmarks: ad.AnnData, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "result.zarr"
    temporary = kill_at(moment, finished.source, out, LANDMARKS)
    adata, _ = finish(finished.source, out, settings=LANDMARKS)
    assert differences(adata, with_landmarks) == [] and "compact" in adata.uns["neighbors"]
    assert list(temporary.iterdir()) == []
    moved = tmp_path / "moved.zarr"
    out.rename(moved)
    again = sd.read(moved)
    params = again.uns["leiden"]["params"]
    sd.tl.leiden(again, flavor="sc_dask", n_iterations=int(params["n_iterations"]), key_added="again")
    assert again.obs["again"].tolist() == again.obs["leiden"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("pass", "convert", "write"), ("end", "convert", 0), ("block", "hvg", 2)])
def test_killed__conversion(moment: Moment, finished: Finished, tmp_path: Path) -> None:
    source = WRITERS["10x mtx"](counts_in_memory(finished.source), tmp_path)
    expected, _ = finish(source, tmp_path / "straight" / "result.zarr")
    out = tmp_path / "out" / "result.zarr"
    temporary = kill_at(moment, source, out)
    adata, ran = finish(source, out)
    assert ("convert" in ran) == (moment[1] == "convert")
    assert differences(adata, expected) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("appears", [".result.zarr.partial/X", "figures/qc_violins.png", "result.zarr.work/pca.zarr"])
def test_killed__from_outside(appears: str, finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out" / "result.zarr"
    (tmp_path / "run.yaml").write_text(json.dumps(SETTINGS))
    command = [sys.executable, "-m", "sc_dask.cli", "run", str(finished.source), "--out", str(out)]
    env = os.environ | {
        "DASK_SC_DASK__BLOCK_BYTES": str(BLOCK_BYTES),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with subprocess.Popen([*command, "--config", str(tmp_path / "run.yaml")], env=env) as process:
        while process.poll() is None and not (out.parent / appears).exists():
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "result.zarr.work").is_dir()
    adata, ran = finish(finished.source, out)
    assert len(ran) < len(NAMES)
    assert differences(adata, finished.adata) == []


def test_killed__while_the_work_area_is_removed(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "result.zarr"

    def stop(place: Any) -> None:
        if place.name == "hvg.zarr":
            raise KeyboardInterrupt
        original(place)

    from sc_dask.pipeline import manifest

    original = manifest.remove
    with monkeypatch.context() as patch:
        original_discard = manifest.Manifest.discard

        def discard(self: manifest.Manifest, result: dict[str, Any]) -> None:
            patch.setattr(manifest, "remove", stop)
            original_discard(self, result)

        patch.setattr(manifest.Manifest, "discard", discard)
        with pytest.raises(KeyboardInterrupt):
            run_small(finished.source, out)
    assert not (tmp_path / "out" / "result.zarr.work" / "qc.zarr").exists()
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    seen = Seen()
    result = run_small(finished.source, out, listener=seen)
    assert seen.ran == []
    assert result.report == report
    assert left_over(out.parent) == set()
    assert differences(ad.read_zarr(result.store), finished.adata) == []


# -- interrupted, in this process ----------------------------------------------------------------


@pytest.fixture
def stopped_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that runs up to a stage; figures are left out."""
    monkeypatch.setattr("sc_dask.pipeline.runner.make_figures", lambda adata: {})

    def stop(stage: str, source: Path, out: Path, **options: Any) -> list[str]:
        seen = Seen(stage)
        with pytest.raises(KeyboardInterrupt) as caught:
            run_small(source, out, listener=seen, **options)
        note = "the same command goes on from there"
        assert any(note in n for n in getattr(caught.value, "__notes__", [])) == (stage != "qc")
        return seen.ran

    yield stop


def test_interrupted__goes_on_again_and_again(stopped_at: Any, finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out" / "result.zarr"
    assert stopped_at("hvg", finished.source, out) == ["qc", "filter", "normalize"]
    assert stopped_at("leiden", finished.source, out) == ["hvg", "pca", "neighbors"]
    assert stopped_at("figures", finished.source, out) == ["leiden", "umap", "markers", "write"]
    adata, ran = finish(finished.source, out)
    assert ran == ["figures"]
    assert differences(adata, finished.adata) == []


def test_interrupted__before_the_first_checkpoint_nothing_stays(
    stopped_at: Any, finished: Finished, tmp_path: Path
) -> None:
    assert stopped_at("qc", finished.source, tmp_path / "deep" / "folder" / "result.zarr") == []
    assert list(tmp_path.iterdir()) == []


def test_changed_settings__run_again_from_the_first_change(stopped_at: Any, finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out" / "result.zarr"
    stopped_at("write", finished.source, out)
    changed = with_settings(leiden={"resolution": 0.5})
    seen = Seen("write")
    with pytest.raises(KeyboardInterrupt):
        run_small(finished.source, out, listener=seen, settings=changed)
    assert seen.ran == ["leiden", "umap", "markers"]
    with pytest.raises(KeyboardInterrupt):
        run_small(finished.source, out, listener=(seen := Seen("write")), settings=with_settings(pca={"n_comps": 5}))
    assert seen.ran == ["pca", "neighbors", "leiden", "umap", "markers"]
    fresh = run_small(finished.source, tmp_path / "fresh" / "result.zarr", settings=changed)
    adata, ran = finish(finished.source, out, settings=changed)
    assert ran == list(NAMES[NAMES.index("pca") :])
    assert differences(adata, ad.read_zarr(fresh.store)) == []


def test_changed_settings__that_no_stage_reads_before(stopped_at: Any, finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out" / "result.zarr"
    stopped_at("figures", finished.source, out)
    assert out.exists()
    with pytest.raises(sd.errors.StoreError, match="is there already"):  # the store is that of other settings
        run_small(finished.source, out, settings=with_settings(write={"x": "none"}))
    seen = Seen()
    run_small(finished.source, out, listener=seen, settings=with_settings(write={"x": "none"}), overwrite=True)
    assert seen.ran == ["write", "figures"]
    assert ad.read_zarr(out).X is None


def test_changed_input__runs_all_again(stopped_at: Any, finished: Finished, tmp_path: Path) -> None:
    source, out = tmp_path / "counts.zarr", tmp_path / "out" / "result.zarr"
    ad.read_zarr(finished.source).write_zarr(source)
    stopped_at("leiden", source, out)
    import zarr

    data = zarr.open(source, mode="r+")["X/data"]
    data[:50] = data[:50] + 1  # one chunk in place: no metadata and no folder changes
    _, ran = finish(source, out)
    assert ran == list(NAMES)


def test_damaged_checkpoint__runs_again(stopped_at: Any, finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out" / "result.zarr"
    stopped_at("umap", finished.source, out)
    for file in (tmp_path / "out" / "result.zarr.work" / "pca.zarr").rglob("*"):
        if file.is_file() and file.name != "zarr.json":
            file.write_bytes(b"")
    adata, ran = finish(finished.source, out)
    assert ran == list(NAMES[NAMES.index("pca") :])
    assert differences(adata, finished.adata) == []


@pytest.mark.slow
def test_lost_store__is_written_again(stopped_at: Any, finished: Finished, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "out" / "result.zarr"
    stopped_at("figures", finished.source, out)
    shutil.rmtree(out)
    adata, ran = finish(finished.source, out)
    assert ran == ["write", "figures"]
    assert differences(adata, finished.adata) == []


def test_error_in_a_late_stage__can_be_mended(stopped_at: Any, finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out" / "result.zarr"
    too_many = with_settings(pca={"n_comps": 250})
    with pytest.raises(sd.errors.InputError, match="n_comps=250") as caught:
        run_small(finished.source, out, settings=too_many)
    assert "the same command goes on from there" in caught.value.__notes__[0]
    assert not out.exists()
    assert not (tmp_path / "out" / "result.zarr.work" / "scratch").exists()
    adata, ran = finish(finished.source, out)
    assert ran[0] == "pca"
    assert differences(adata, finished.adata) == []


def analysed(store: Path, path: Path) -> Path:
    """A store with raw, layers, an old column of clusters, and logarithms in X."""
    adata = ad.read_zarr(store)
    adata.raw = adata
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.astype(np.float32).log1p()
    adata.obs["leiden"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, "x", "y"))
    adata.uns["log1p"] = {"base": None}
    adata.write_zarr(path)
    return path


VARIATIONS: dict[str, dict[str, Any]] = {
    "median": {"normalize": {"target_sum": None}, "write": {"x": "counts"}},
    "curve": {"hvg": {"flavor": "seurat_v3", "n_top_genes": 100, "batch_key": "batch"}, "input": {"layer": "counts"}},
    "raw": {"input": {"use_raw": True}, "write": {"x": "none"}},
    "old clusters": {"hvg": {"batch_key": "leiden"}, "input": {"layer": "counts"}},
    "no filter": {"filter": {"min_genes": None, "min_cells": None}, "input": {"layer": "counts"}},
    "passes": {"pca": {"svd_solver": "randomized", "random_state": 3}, "input": {"layer": "counts"}},
}


@pytest.mark.parametrize("name", [n if n == "curve" else pytest.param(n, marks=pytest.mark.slow) for n in VARIATIONS])
def test_interrupted__whatever_the_options(name: str, stopped_at: Any, store: Path, tmp_path: Path) -> None:
    settings = with_settings(**VARIATIONS[name])
    source = analysed(store, tmp_path / "counts.zarr") if "input" in settings else store
    expected, _ = finish(source, tmp_path / "straight" / "result.zarr", settings=settings)
    out = tmp_path / "out" / "result.zarr"
    stopped_at("normalize", source, out, settings=settings)
    stopped_at("pca", source, out, settings=settings)
    stopped_at("markers", source, out, settings=settings)
    adata, ran = finish(source, out, settings=settings)
    assert ran == ["markers", "write", "figures"]
    assert differences(adata, expected) == []
