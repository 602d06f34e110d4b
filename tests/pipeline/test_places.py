"""What a run does to files that are not its own: nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import pytest
from click.testing import CliRunner

import sc_dask as sd
from sc_dask.cli import main
from sc_dask.errors import StoreError
from sc_dask.pipeline import runner
from tests.pipeline.runs import SETTINGS, WRITERS, Finished, counts_in_memory, run_small, with_settings


def state(folder: Path) -> dict[str, Any]:
    """Everything in a folder: bytes, times and targets of links."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name, stat = str(path.relative_to(folder)), path.lstat()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = (stat.st_mtime_ns, path.read_bytes() if path.is_file() else None)
    return found


@pytest.fixture(autouse=True)
def _figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small figures in no time: the one of markers only where there are markers."""

    def make_figures(adata: ad.AnnData) -> dict[str, bytes]:
        names = ["umap_leiden.png", *(["markers_dotplot.png"] if "rank_genes_groups" in adata.uns else [])]
        return dict.fromkeys(names, b"ours")

    monkeypatch.setattr("sc_dask.pipeline.runner.make_figures", make_figures)


@pytest.fixture
def sc_dask(tmp_path: Path) -> Callable[..., Any]:
    """``sc-dask run`` with quick settings."""
    (tmp_path / "quick.yaml").write_text(json.dumps(SETTINGS))

    def run(source: object, out: object, *more: object) -> Any:
        command = ["run", source, "--out", out, "--config", tmp_path / "quick.yaml", *more]
        return CliRunner().invoke(main, [str(a) for a in command], catch_exceptions=False)

    return run


@pytest.fixture
def source(store: Path, tmp_path: Path) -> Path:
    shutil.copytree(store, tmp_path / "in.zarr")
    return tmp_path / "in.zarr"


def refused(done: Any, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in (*words, "; expected ", "; next: "):
        assert word in done.stderr


# -- what is in the way --------------------------------------------------------------------------

IN_THE_WAY = {
    "run.json": "is no report of a run",
    "markers.csv": "markers.csv is there already, and no run of",
    "figures/umap_leiden.png": "figures/umap_leiden.png is there already, and no run of",
    "figures/qc_violins.png": "qc_violins.png is there already",
    "figures": "figures is a file",
    "out.zarr.work/thesis.txt": "out.zarr.work is in the way: sc-dask did not make it",
    "out.zarr.work/manifest.json": "is in the way",
    "out.zarr.work": "is in the way",
    ".out.zarr.partial/thesis.txt": ".out.zarr.partial is in the way",
    ".out.zarr.partial": "is in the way",
    ".out.zarr.lock": "is in the way",
    ".out.zarr.lock/thesis.txt": "is in the way",
    ".sc-dask-run.lock": "is in the way",
    "out.zarr/thesis.txt": "no result of sc-dask run",
    "out.zarr": "no result of sc-dask run",
}


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_in_the_way__is_refused_at_once(name: str, sc_dask: Any, source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "o" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    before = state(tmp_path)
    done = sc_dask(source, tmp_path / "o" / "out.zarr")
    refused(done, IN_THE_WAY[name])
    assert state(tmp_path) | {"o": None} == before | {"o": None}
    done = sc_dask(source, tmp_path / "o" / "out.zarr", "--overwrite")  # does not cover what no run has made
    assert done.exit_code == 2
    assert state(tmp_path) | {"o": None} == before | {"o": None}


def test_hidden_neighbours__stay(sc_dask: Any, source: Path, tmp_path: Path) -> None:
    mine = [tmp_path / "o" / f".out.zarr.{name}" / "thesis.txt" for name in ("old", "update", "spill")]
    for path in mine:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    assert sc_dask(source, tmp_path / "o" / "out.zarr").exit_code == 0
    before = state(tmp_path / "o")
    refused(sc_dask(source, tmp_path / "o" / "out.zarr", "--overwrite"), ".out.zarr.old is in the way")
    assert state(tmp_path / "o") == before
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_neighbours_of_sd__stay(source: Path, tmp_path: Path) -> None:
    adata = sd.read(source).to_memory()
    out = tmp_path / "a.zarr"
    for suffix in ("partial", "spill", "old", "update"):
        mine = tmp_path / f".a.zarr.{suffix}"
        for link in (False, True):
            (tmp_path / "elsewhere").mkdir(exist_ok=True)
            (tmp_path / "elsewhere" / "thesis.txt").write_text("mine")
            if link:
                mine.symlink_to(tmp_path / "elsewhere")
            else:
                mine.mkdir()
                (mine / "thesis.txt").write_text("mine")
            writes = {
                "partial": lambda: sd.write(adata, out),
                "spill": lambda: sd.convert(WRITERS["csv"](counts_in_memory(source), tmp_path), out),
                "old": lambda: sd.write(adata, out, overwrite=True),
                "update": lambda: sd.write(sd.read(out), out, update=True),
            }
            if suffix in ("old", "update") and not out.exists():
                mine.rename(tmp_path / "later")
                sd.write(adata, out)
                (tmp_path / "later").rename(mine)
            with pytest.raises(StoreError, match=f".a.zarr.{suffix} is in the way"):
                writes[suffix]()
            assert (mine / "thesis.txt").read_text() == "mine"
            mine.unlink() if link else shutil.rmtree(mine)
    assert (ad.read_zarr(out).X != adata.X).nnz == 0
    assert {p.name for p in tmp_path.iterdir()} == {"in.zarr", "a.zarr", "elsewhere", "counts.csv"}


# -- links ---------------------------------------------------------------------------------------


def test_links__mean_what_they_point_to(sc_dask: Any, source: Path, tmp_path: Path) -> None:
    real, work = tmp_path / "big" / "real.zarr", tmp_path / "scratch"
    real.parent.mkdir()
    work.mkdir()
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "out.zarr").symlink_to(real)
    (tmp_path / "big" / "real.zarr.work").symlink_to(work)
    for more in ([], ["--overwrite"]):
        done = sc_dask(source, tmp_path / "o" / "out.zarr", *more)
        assert done.exit_code == 0, done.output
        assert f"store    {real}" in done.stdout
        assert (tmp_path / "o" / "out.zarr").is_symlink() and not real.is_symlink()
        assert ad.read_zarr(tmp_path / "o" / "out.zarr").n_obs == ad.read_zarr(real).n_obs
        assert {p.name for p in real.parent.iterdir()} == {
            "real.zarr", "real.zarr.work", "figures", "markers.csv", "run.json"
        }  # fmt: skip
        assert list(work.iterdir()) == []
    refused(sc_dask(real, tmp_path / "o" / "out.zarr", "--overwrite"), "input and output are both")


def test_links__of_writers(source: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a.zarr").symlink_to(tmp_path / "real" / "b.zarr")
    sd.convert(source, tmp_path / "a.zarr")
    sd.write(sd.read(source), tmp_path / "a.zarr", overwrite=True)
    adata = sd.read(tmp_path / "a.zarr")
    adata.obs["n"] = range(adata.n_obs)
    sd.write(adata, tmp_path / "a.zarr", update=True)
    assert (tmp_path / "a.zarr").is_symlink()
    assert ad.read_zarr(tmp_path / "real" / "b.zarr").obs["n"].tolist() == list(range(adata.n_obs))
    assert {p.name for p in (tmp_path / "real").iterdir()} == {"b.zarr"}


@pytest.mark.parametrize("name", ["figures", "out.zarr.work", ".out.zarr.partial", "run.json", "markers.csv"])
def test_links__to_what_is_not_ours_are_not_followed(name: str, sc_dask: Any, source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    (tmp_path / "o").mkdir()
    is_file = name in ("run.json", "markers.csv")
    (tmp_path / "o" / name).symlink_to(mine / "thesis.txt" if is_file else mine)
    before = state(tmp_path)
    done = sc_dask(source, tmp_path / "o" / "out.zarr")
    assert done.exit_code == 2
    assert state(tmp_path) | {"o": None} == before | {"o": None}


# -- places that exclude each other --------------------------------------------------------------


def test_places__that_lie_in_each_other(sc_dask: Any, source: Path, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    out = tmp_path / "o" / "out.zarr"
    mtx = WRITERS["10x mtx"](counts_in_memory(source), tmp_path)
    shutil.copytree(source, tmp_path / "o" / "b.zarr.work" / "in.zarr")
    (tmp_path / "link").symlink_to(tmp_path / "o" / "b.zarr.work")
    before = state(tmp_path)
    refused(sc_dask(tmp_path / "o" / "b.zarr.work" / "in.zarr", tmp_path / "o" / "b.zarr"), "is in", "b.zarr.work")
    refused(sc_dask(tmp_path / "link" / "in.zarr", tmp_path / "o" / "b.zarr"), "is in", "b.zarr.work")
    refused(sc_dask(mtx, mtx / "out.zarr"), "inside the other")
    refused(sc_dask(source, out, "--json", source / "run.json"), "is in the input")
    refused(sc_dask(source, out, "--json", out / "run.json"), "is in the output")
    refused(sc_dask(source, out, "--json", f"{out}.work/run.json"), "is in the work area")
    refused(sc_dask(source, out, "--json", out), "is the output")
    refused(sc_dask(source, out, "--json", tmp_path / "o" / "markers.csv"), "the report and markers.csv are both")
    refused(sc_dask(mtx, out, "--json", mtx / "genes.tsv"), "is in the input")
    refused(sc_dask(mtx / "matrix.mtx", out, "--json", mtx / "matrix.mtx"), "is the input")
    refused(sc_dask(mtx / "matrix.mtx", out, "--json", mtx / "genes.tsv"), "genes.tsv is there already")
    refused(sc_dask(source, out, "--json", tmp_path / "quick.yaml"), "is no report of a run", "--json OTHER.json")
    refused(sc_dask(source, out, "--json", tmp_path / "quick.yaml" / "a.json"), "is under a file")
    for folder in (source, source / "sub", out, f"{out}.work"):
        with dask.config.set({"sc-dask.work-dir": str(folder)}):
            refused(sc_dask(source, out), f"work-dir {folder} is in")
    assert state(tmp_path) | {"o": None} == before | {"o": None}


def test_work_dir__with_the_users_files(sc_dask: Any, source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "w" / "sc-dask-notes" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with dask.config.set({"sc-dask.work-dir": str(tmp_path / "w")}):
        assert sc_dask(source, tmp_path / "o" / "out.zarr").exit_code == 0
    assert mine.read_text() == "mine" and os.listdir(tmp_path / "w") == ["sc-dask-notes"]
    with dask.config.set({"sc-dask.work-dir": str(tmp_path / "new" / "w")}):
        assert sc_dask(source, tmp_path / "p" / "out.zarr").exit_code == 0
    assert not (tmp_path / "new").exists()


def test_paths__have_any_characters(sc_dask: Any, source: Path, tmp_path: Path) -> None:
    at = tmp_path / "s3:" / "a::b 50% what?#1 x*[y]"
    at.mkdir(parents=True)
    source.rename(at / "in ?::#.zarr")
    for more in ([], ["--overwrite"]):
        done = sc_dask(at / "in ?::#.zarr", at / "o&ut?::#.zarr", *more)
        assert done.exit_code == 0, done.output
    assert ad.read_zarr(at / "o&ut?::#.zarr").n_obs
    assert {p.name for p in at.iterdir()} == {"in ?::#.zarr", "o&ut?::#.zarr", "figures", "markers.csv", "run.json"}
    counts_in_memory(at / "in ?::#.zarr").write_h5ad(at / "in::?.h5ad")
    assert sd.convert(at / "in::?.h5ad", at / "c::d.zarr").n_obs


# -- two runs ------------------------------------------------------------------------------------


def test_two_outputs_in_one_folder(sc_dask: Any, source: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert sc_dask(source, results / "a.zarr").exit_code == 0
    before = state(results)
    for more in ([], ["--overwrite"]):
        done = sc_dask(source, results / "b.zarr", *more)
        refused(done, f"run.json is the report of the run that made {results}/a.zarr", "a folder of its own")
        assert done.stderr.endswith(f"next: --out {results}/b/b.zarr\n")
        assert state(results) == before
    refused(sc_dask(source, results / "b.zarr", "--json", results / "b.json"), "umap_leiden.png is there already")
    assert state(results) == before
    assert sc_dask(source, results / "b" / "b.zarr").exit_code == 0


def test_two_outputs_in_one_folder__at_once(source: Path, tmp_path: Path) -> None:
    refusals = []

    class Second:
        """Starts another run beside it from within."""

        def on_stage(self, stage: sd.log.Stage) -> None:
            if stage.name == "hvg":
                with pytest.raises(StoreError, match=r"another run \(process \d+ of .*--out .*/o/b/b.zarr") as caught:
                    run_small(source, tmp_path / "o" / "b.zarr")
                refusals.append(caught.value)

        def on_end(self, stage: sd.log.Stage) -> None: ...
        def on_pass(self, stage: str, label: str, n_blocks: int) -> None: ...
        def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None: ...

    run_small(source, tmp_path / "o" / "a.zarr", listener=Second())
    assert len(refusals) == 1
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"a.zarr", "figures", "markers.csv", "run.json"}


def test_what_appears_meanwhile__is_not_replaced(sc_dask: Any, source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "o" / "markers.csv"

    class Meanwhile:
        """Puts a file where the run will."""

        def on_stage(self, stage: sd.log.Stage) -> None:
            if stage.name == "markers":
                mine.write_text("mine")

        def on_end(self, stage: sd.log.Stage) -> None: ...
        def on_pass(self, stage: str, label: str, n_blocks: int) -> None: ...
        def on_block(self, stage: str, done: int, n_blocks: int, bytes_read: int) -> None: ...

    with pytest.raises(StoreError, match=r"markers.csv is there already") as caught:
        run_small(source, tmp_path / "o" / "out.zarr", listener=Meanwhile())
    assert "the same command goes on from there" in caught.value.__notes__[0]
    assert mine.read_text() == "mine"
    mine.rename(tmp_path / "mine.csv")
    result = run_small(source, tmp_path / "o" / "out.zarr")
    assert [s["name"] for s in result.report["stages"] if not s.get("resumed")] == ["figures"]


def test_overwrite__replaces_what_the_report_lists(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "o" / "out.zarr"
    first = run_small(source, out)
    (tmp_path / "o" / "figures" / "mine.png").write_text("mine")
    listed = json.loads(Path(first.json).read_text())["files"]
    assert {str(tmp_path / "o" / name) for name in listed} == {*first.figures, str(first.markers)}
    (tmp_path / "o").rename(tmp_path / "moved")
    one_cluster = with_settings(leiden={"resolution": 1e-9})
    result = run_small(source, tmp_path / "moved" / "out.zarr", settings=one_cluster, overwrite=True)
    assert result.markers is None and not (tmp_path / "moved" / "markers.csv").exists()
    assert not (tmp_path / "moved" / "figures" / "markers_dotplot.png").exists()
    assert (tmp_path / "moved" / "figures" / "mine.png").read_text() == "mine"
    shutil.rmtree(tmp_path / "moved" / "out.zarr")
    with pytest.raises(StoreError, match="the report of an earlier run of .* next: add --overwrite"):
        run_small(source, tmp_path / "moved" / "out.zarr")


# -- the same run again --------------------------------------------------------------------------


def test_again__does_nothing(sc_dask: Any, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "o" / "out.zarr"
    assert sc_dask(source, out).exit_code == 0
    (tmp_path / "link.zarr").symlink_to(source)
    before = state(tmp_path)
    line = f"nothing to do: {out} is the result of this very run (same input, options and version)\n"
    for same in (source, tmp_path / "link.zarr"):
        done = sc_dask(same, out)
        assert (done.exit_code, done.stdout, done.stderr) == (0, line, "")
        assert state(tmp_path) == before
    result = run_small(source, out, memory=2**33)
    assert result.was_there and result.store == str(out)
    assert result.report == json.loads((tmp_path / "o" / "run.json").read_text())
    assert {Path(name) for name in result.figures} == set((tmp_path / "o" / "figures").iterdir())
    assert state(tmp_path) == before
    refused(sc_dask(source, out, "--json", tmp_path / "new.json"), "its report is not at", "leave --json out")
    shutil.rmtree(tmp_path / "o" / "figures")
    (tmp_path / "o" / "run.json").unlink()
    before = state(tmp_path)
    assert sc_dask(source, out).stdout == line
    assert state(tmp_path) == before


def test_again__says_what_differs(sc_dask: Any, source: Path, tmp_path: Path) -> None:
    out, yaml = tmp_path / "o" / "out.zarr", tmp_path / "quick.yaml"
    assert sc_dask(source, out).exit_code == 0
    before = state(tmp_path / "o")
    yaml.write_text(json.dumps(with_settings(leiden={"resolution": 0.5}, pca={"n_comps": 9})))
    refused(
        sc_dask(source, out),
        f"{out} (made by another run: pca.n_comps was 10 and is 9, leiden.resolution was 1.0 and is 0.5)",
        "is there already; expected a free place; next: add --overwrite, or name another --out",
    )  # fmt: skip
    yaml.write_text(json.dumps(SETTINGS))
    shutil.copytree(source, tmp_path / "other.zarr")
    refused(sc_dask(tmp_path / "other.zarr", out), f"input was {source} and is {tmp_path}/other.zarr")
    group = next(p for p in source.rglob("zarr.json") if p.parent.name == "uns")
    group.write_bytes(group.read_bytes() + b"\n")
    refused(sc_dask(source, out), f"input {source} was ", " files of ", "last written", "and is ")
    assert state(tmp_path / "o") == before
    sd.write(sd.read(source).to_memory(), tmp_path / "p" / "out.zarr")
    refused(sc_dask(source, tmp_path / "p" / "out.zarr"), "(no result of sc-dask run) is there already")


def test_again__of_genes_beside_a_matrix(source: Path, sc_dask: Any, tmp_path: Path) -> None:
    mtx = WRITERS["10x mtx"](counts_in_memory(source), tmp_path)
    assert sc_dask(mtx / "matrix.mtx", tmp_path / "o" / "out.zarr").exit_code == 0
    assert sc_dask(mtx / "matrix.mtx", tmp_path / "o" / "out.zarr").stdout.startswith("nothing to do")
    genes = (mtx / "genes.tsv").read_text()
    (mtx / "genes.tsv").write_text(genes.replace("MT-", "mt-"))
    refused(sc_dask(mtx / "matrix.mtx", tmp_path / "o" / "out.zarr"), "3 files of")


def test_again__of_another_process(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "o", copy_function=shutil.copy2)
    (tmp_path / "run.yaml").write_text(json.dumps(SETTINGS))
    before = state(tmp_path)
    command = ["run", str(finished.source), "--out", "o/result.zarr", "--config", "run.yaml"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "sc_dask.cli", *command], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert done.stdout.startswith("nothing to do: ")
    assert state(tmp_path) == before


# -- the demonstration ---------------------------------------------------------------------------


def test_demo__replaces_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sc_dask.pipeline.runner.make_figures", lambda adata: {})
    monkeypatch.setattr("sc_dask.datasets.demo_source", lambda folder: (source, "input: cells"))
    monkeypatch.setattr("sc_dask.cli._DEMO_SETTINGS", SETTINGS)
    out = tmp_path / "demo" / "mine.zarr"
    sd.write(sd.read(source).to_memory(), out)
    before = state(tmp_path)
    done = CliRunner().invoke(main, ["demo", "--out", str(out)])
    assert done.exit_code == 2 and "is there already; expected a free place; next: add --overwrite" in done.stderr
    assert state(tmp_path) | {"demo": None} == before | {"demo": None}


def test_demo__cells_of_somebody_else(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise StoreError("no network")

    monkeypatch.setattr("sc_dask.datasets.real.pbmc3k_folder", none)
    shutil.copytree(store, tmp_path / "simulated.zarr")
    before = state(tmp_path)
    with pytest.raises(StoreError, match=r"simulated.zarr is there already, .* next: --out OTHER/pbmc3k.zarr"):
        sd.datasets.demo_source(tmp_path)
    assert state(tmp_path) == before


# -- what a run says of its own ------------------------------------------------------------------


def test_overwrite__of_the_same_run_writes_the_store_again(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "o" / "out.zarr"
    run_small(store, out)
    adata = sd.read(out)
    right = adata.obs["leiden"].tolist()
    adata.obs["leiden"] = "wrong"
    sd.write(adata, out, update=True)
    run_small(store, out, overwrite=True)
    assert sd.read(out).obs["leiden"].tolist() == right


def test_same_run__is_found_after_another_was_begun_and_interrupted(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "o" / "out.zarr"
    run_small(store, out)

    class Stop:
        def on_stage(self, stage: Any) -> None:
            if stage.name == "neighbors":
                raise KeyboardInterrupt

        def on_pass(self, *_: Any) -> None: ...
        def on_block(self, *_: Any) -> None: ...
        def on_end(self, *_: Any) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        run_small(store, out, overwrite=True, settings={"filter": {"min_genes": 41}}, listener=Stop())
    assert run_small(store, out).was_there


def test_report__of_the_user_is_not_that_of_a_killed_run(store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out, notes = tmp_path / "o" / "out.zarr", tmp_path / "notes.json"
    with monkeypatch.context() as m:
        m.setattr(runner.json, "dumps", lambda *a, **k: (_ for _ in ()).throw(OSError("disk is full")))
        with pytest.raises(OSError, match="disk is full"):
            run_small(store, out)
    notes.write_text("{}")
    with pytest.raises(StoreError, match="notes.json is there already"):
        run_small(store, out, json_path=notes)
    assert notes.read_text() == "{}"
    run_small(store, out)
