"""The command line: what it prints, and one sentence with exit code 2 for what is the user's to mend."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner, Result
from packaging.version import Version

from sc_dask.cli import main
from sc_dask.errors import ScDaskWarning
from tests.io.cases import forget_consolidated
from tests.pipeline.runs import SETTINGS, WRITERS, Finished, counts_in_memory, left_over
from tests.stack import ANNDATA


def sc_dask(*arguments: object) -> Result:
    """One command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def said(result: Result) -> str:
    """The one sentence of an error: everything on stderr, without a traceback and with nothing on stdout."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    if not lines[0].startswith("Usage"):
        assert len(lines) == 1, lines
        assert lines[0].startswith("sc-dask: ")
    return lines[-1]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The quick settings as options of the command line; figures are left out."""
    monkeypatch.setattr("sc_dask.pipeline.runner.make_figures", lambda adata: {})
    (tmp_path / "quick.yaml").write_text(json.dumps(SETTINGS))
    return ["--config", str(tmp_path / "quick.yaml")]


# -- what works ----------------------------------------------------------------------------------


def test_run__says_what_was_done(store: Path, quick: list[str], tmp_path: Path) -> None:
    done = sc_dask("run", store, "--out", tmp_path / "out" / "result.zarr", *quick)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    stages = [line.split()[0] for line in lines[:11]]
    assert stages == [
        "qc",
        "filter",
        "normalize",
        "hvg",
        "pca",
        "neighbors",
        "leiden",
        "umap",
        "markers",
        "write",
        "figures",
    ]
    assert re.fullmatch(r"qc +\d+\.\d s +1 pass +\d+ [KM]?i?B read +[\d.]+ [MG]iB memory", lines[0])
    assert re.fullmatch(r"neighbors +\d+\.\d s +[\d.]+ [MG]iB memory", lines[5])
    summary = r"done in (\d+ min )?\d+ s: \d passes over X, \d+ [KM]?i?B read, peak memory [\d.]+ [MG]iB"
    assert re.fullmatch(summary, lines[11])
    assert lines[12:] == [
        f"store    {tmp_path}/out/result.zarr",
        f"markers  {tmp_path}/out/markers.csv",
        f"report   {tmp_path}/out/run.json",
    ]
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert left_over(tmp_path / "out") == set()
    assert set(ad.read_zarr(tmp_path / "out" / "result.zarr").layers) - {None} == {"counts"}
    other = sc_dask("run", store, "--out", tmp_path / "out" / "result.zarr", *quick, "--no-counts")
    assert "write.counts was true and is false" in said(other)


def test_info__of_every_kind(store: Path, tmp_path: Path) -> None:
    text = sc_dask("info", store).stdout
    for words in (
        "AnnData zarr",
        "cells    420",
        "genes    300",
        "csr of uint",
        "obs      true_label, batch, true_depth",
    ):
        assert words in text
    facts = json.loads(sc_dask("info", store, "--json").stdout)
    assert facts["shape"] == [420, 300]
    assert facts["obs"] == ["true_label", "batch", "true_depth"]
    assert "known once it is converted" in sc_dask("info", WRITERS["csv"](counts_in_memory(store), tmp_path)).stdout


def test_plan__as_table_and_as_json(store: Path) -> None:
    text = sc_dask("plan", store, "--memory", "8GiB").stdout
    lines = text.splitlines()
    assert lines[1].startswith("420 cells x 300 genes, ")
    assert lines[2].endswith("memory budget 8.00 GiB")
    assert re.fullmatch(r"stage +passes +to read +tasks +peak memory", lines[4])
    assert re.fullmatch(r"qc +1 +\d+ KiB +\d+ +\d+ MiB", lines[5])
    assert lines[-1].startswith("all ")
    plan = json.loads(sc_dask("plan", store, "--json").stdout)
    without = json.loads(sc_dask("plan", store, "--json", "--no-counts").stdout)
    writes = [{s["stage"]: s for s in p["stages"]}["write"] for p in (plan, without)]
    assert writes[0]["peak_bytes"] > writes[1]["peak_bytes"] and writes[0]["passes"] == writes[1]["passes"]
    assert [s["stage"] for s in plan["stages"]][0] == "qc"
    assert plan["peak_bytes"] == max(s["peak_bytes"] for s in plan["stages"])
    assert set(plan["stages"][0]) == {"stage", "passes", "bytes_read", "tasks", "peak_bytes"}


def test_convert__and_again(store: Path, tmp_path: Path) -> None:
    source = WRITERS["10x mtx"](counts_in_memory(store), tmp_path)
    out = tmp_path / "made.zarr"
    done = sc_dask("convert", source, out)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == f"{out}: 420 cells x 300 genes"
    assert f"{out} already" in said(sc_dask("convert", source, out))
    assert "--overwrite" in said(sc_dask("convert", source, out))
    assert sc_dask("convert", source, out, "--overwrite", "--option", "var_names=gene_ids").exit_code == 0
    assert ad.read_zarr(out).var_names[0] == "ENSG0"
    assert "'speed'" in said(sc_dask("convert", source, tmp_path / "b.zarr", "--option", "speed=1"))
    assert "resume" in said(sc_dask("convert", source, tmp_path / "b.zarr", "--option", "resume=false"))
    assert not (tmp_path / "b.zarr").exists()


def test_concat__of_files_and_again(store: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other.h5ad", tmp_path / "both.zarr"
    counts = counts_in_memory(store)[:100, 50:].copy()
    counts.write_h5ad(other)
    command = ("concat", store, other, "--out", out, "--label", "from", "--keys", "a,b", "--index-unique", "-")
    done = sc_dask(*command)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"{out}: 520 cells x 250 genes"
    made = ad.read_zarr(out)
    assert made.obs["from"].value_counts().to_dict() == {"a": 420, "b": 100} and made.obs_names.is_unique
    assert (made.X[420:] != counts.X).nnz == 0
    assert "--overwrite" in said(sc_dask(*command))
    assert sc_dask(*command, "--join", "outer", "--overwrite").stdout.endswith("520 cells x 300 genes\n")
    assert "keys ['a'] for 2" in said(sc_dask("concat", store, other, "--out", out, "--keys", "a"))
    assert "storage-option" in said(sc_dask("concat", store, other, "--out", out, "--storage-option", "anon=true"))


@pytest.mark.parametrize("command", [[], ["run"], ["plan"], ["info"], ["convert"], ["concat"], ["demo"]])
def test_help__names_the_arguments(command: list[str]) -> None:
    done = sc_dask(*command, "--help")
    assert done.exit_code == 0
    words = {"run": ["INPUT", "--out", "--memory", "--config", "--json", "--scheduler", "--storage-option"]}
    for word in words.get("".join(command), ["--help"]):
        assert word in done.stdout


def test_version() -> None:
    import sc_dask as sd

    assert sc_dask("--version").stdout == f"sc-dask, version {sd.__version__}\n"


def test_storage_options__are_nested_and_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def info(source: str, storage_options: Any) -> Any:
        given.append(storage_options)
        raise OSError(5, "no such bucket", source)

    monkeypatch.setattr("sc_dask.io.info.info", info)
    options = ["anon=true", "client_kwargs.endpoint_url=http://127.0.0.1:1", "client_kwargs.n=3", "key=a=b"]
    done = sc_dask("info", "s3://bucket/a.zarr", *(part for o in options for part in ("--storage-option", o)))
    assert said(done) == "sc-dask: no such bucket: s3://bucket/a.zarr"
    assert given == [{"anon": True, "client_kwargs": {"endpoint_url": "http://127.0.0.1:1", "n": 3}, "key": "a=b"}]


# -- what is refused -----------------------------------------------------------------------------

Make = Callable[[ad.AnnData, Path], Path]


def changed(change: Callable[[ad.AnnData], ad.AnnData | None]) -> Make:
    """A file of the counts after a change."""

    def make(adata: ad.AnnData, folder: Path) -> Path:
        adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
        new = change(adata)
        (adata if new is None else new).write_zarr(folder / "in.zarr")
        return folder / "in.zarr"

    return make


def with_value(value: float) -> Make:
    def change(adata: ad.AnnData) -> None:
        adata.X.data[777] = value

    return changed(change)


def same_names(axis: str) -> Make:
    def change(adata: ad.AnnData) -> None:
        names = list(getattr(adata, f"{axis}_names"))
        setattr(adata, f"{axis}_names", ["TWICE", "TWICE", *names[2:]])

    return changed(change)


def without_x(adata: ad.AnnData) -> ad.AnnData:
    return ad.AnnData(obs=adata.obs, var=adata.var, layers={"counts": adata.X})


def damaged(adata: ad.AnnData, folder: Path) -> Path:
    path = changed(lambda a: None)(adata, folder)
    for file in (path / "X" / "data").rglob("*"):
        if file.is_file() and file.name not in (".zarray", ".zattrs", "zarr.json"):
            file.write_bytes(b"not a chunk" * 10)
    return path


def without_indices(adata: ad.AnnData, folder: Path) -> Path:
    path = changed(lambda a: None)(adata, folder)
    shutil.rmtree(path / "X" / "indices")
    (path / ".zmetadata").unlink(missing_ok=True)
    forget_consolidated(path)
    return path


def a_text(adata: ad.AnnData, folder: Path) -> Path:
    (folder / "notes.md").write_text("cells are small")
    return folder / "notes.md"


def half_h5ad(adata: ad.AnnData, folder: Path) -> Path:
    path = WRITERS["h5ad"](adata, folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


# anndata 0.13 writes shards, whose index is read first
DAMAGED = "damaged shard index" if Version("0.13") <= ANNDATA else "damaged chunk"

INPUTS: dict[str, tuple[Make, list[str]]] = {
    "missing": (lambda a, f: f / "none.zarr", ["there is no file or store at", "none.zarr", "an existing path"]),
    "negative": (with_value(-2), ["not a count matrix", "negative values (-2)", "raw counts", "input.layer"]),
    "NaN": (with_value(np.nan), ["not a count matrix", "NaN"]),
    "infinite": (with_value(np.inf), ["not a count matrix"]),
    "fractions": (with_value(1.5), ["not a count matrix", "fractions"]),
    "cells twice": (same_names("obs"), ["names of cells", "'TWICE'", "obs_names_make_unique"]),
    "genes twice": (same_names("var"), ["names of genes", "'TWICE'", "var_names_make_unique"]),
    "no cells": (changed(lambda a: a[:0].copy()), ["has no cells", "at least one"]),
    "no genes": (changed(lambda a: a[:, :0].copy()), ["has no genes", "at least one"]),
    "no counts": (
        changed(lambda a: ad.AnnData(sp.csr_matrix(a.shape, dtype="f4"), a.obs, a.var)),
        ["filter.min_genes 40 and the bounds before it keep none of 420 cells", "is 0 to 0"],
    ),
    "no X": (changed(without_x), ["has no X", "input: {layer: counts}"]),
    "damaged": (damaged, ["X/data", DAMAGED, "whole chunks"]),
    "no indices": (without_indices, ["has no array indices"]),
    "a text": (a_text, ["notes.md is of an unknown kind", "AnnData zarr or h5ad"]),
    "half a file": (half_h5ad, ["counts.h5ad", "whole"]),
}


@pytest.mark.parametrize("name", INPUTS)
def test_refused__input(name: str, store: Path, quick: list[str], tmp_path: Path) -> None:
    make, words = INPUTS[name]
    folder = tmp_path / "data"
    folder.mkdir()
    source = make(counts_in_memory(store), folder)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    sentence = said(sc_dask("run", source, "--out", tmp_path / "out" / "result.zarr", *quick))
    for word in words:
        assert word in sentence
    assert not (tmp_path / "out").exists()
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


SETTINGS_REFUSED: dict[str, tuple[str, list[str]]] = {
    "unknown section": ("pcs: {n_comps: 3}", ["unknown section 'pcs'", "did you mean 'pca'?"]),
    "unknown option": ("pca: {ncomps: 3}", ["unknown option pca.ncomps", "did you mean 'n_comps'?"]),
    "wrong type": ("pca: {n_comps: many}", ["pca.n_comps is 'many'", "a whole number or null"]),
    "out of range": ("leiden: {resolution: -1}", ["leiden.resolution is -1", "above 0"]),
    "not YAML": ("pca: {n_comps: 3", ["is not YAML", "line 1"]),
    "no sections": ("- pca", ["holds no sections", "pca: {n_comps: 30}"]),
    "no batches": ("hvg: {batch_key: donor}", ["no column obs['donor']", "true_label, batch, true_depth"]),
    "no layer": ("input: {layer: spliced}", ["has no layer 'spliced'", "nothing"]),
    "no raw": ("input: {use_raw: true}", ["has no raw"]),
    "no symbols": ("qc: {gene_symbols: symbol}", ["no column 'symbol' in adata.var"]),
    "too many components": ("pca: {n_comps: 400}", ["pca.n_comps is 400", "420 cells and 300 genes", "at most 300"]),
    "all cells filtered": (
        "filter: {min_genes: 5000}",
        ["filter.min_genes 5000", "none of 420 cells", "n_genes_by_counts is 36 to"],
    ),
    "too tight together": ("filter: {min_genes: 100, max_genes: 90}", ["filter.max_genes 90", "none of 420 cells"]),
    "all genes filtered": ("filter: {min_genes: 0, min_cells: 421}", ["filter.min_cells 421 keeps none of 300 genes"]),
}


@pytest.mark.parametrize("name", SETTINGS_REFUSED)
def test_refused__settings(name: str, store: Path, tmp_path: Path) -> None:
    text, words = SETTINGS_REFUSED[name]
    (tmp_path / "run.yaml").write_text(text)
    arguments = ("run", store, "--out", tmp_path / "out" / "result.zarr", "--config", tmp_path / "run.yaml")
    done = sc_dask(*arguments)
    sentence = said(done)
    assert not (tmp_path / "out").exists()
    for word in words:
        assert word in sentence


def test_refused__places(store: Path, quick: list[str], tmp_path: Path, finished: Finished) -> None:
    def refusal(source: object, out: object, *more: object) -> str:
        return said(sc_dask("run", source, "--out", out, *quick, *more))

    shutil.copytree(store, tmp_path / "in.zarr")
    source, elsewhere = tmp_path / "in.zarr", tmp_path / "out" / "result.zarr"
    (tmp_path / "link.zarr").symlink_to(source)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr" / "thesis.tex").write_text("years of work")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    assert "input and output are both" in refusal(source, source)
    assert "input and output are both" in refusal(source, tmp_path / "link.zarr")
    assert "inside the other" in refusal(source, source / "result.zarr")
    assert "expected a name that ends in .zarr; next: --out result.zarr" in refusal(source, tmp_path / "result.h5ad")
    assert "is no zarr store, so it is not overwritten" in refusal(source, tmp_path / "folder.zarr", "--overwrite")
    assert "is under a file; expected a folder" in refusal(source, tmp_path / "file" / "result.zarr")
    assert "is a folder; expected a file" in refusal(source, elsewhere, "--json", tmp_path)
    assert "is there already; expected a free place; next: add --overwrite" in refusal(source, finished.result.store)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert left_over(finished.folder) == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_refused__folder_that_may_not_be_written(store: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    assert "Permission denied" in said(sc_dask("run", store, "--out", tmp_path / "locked" / "result.zarr"))


def test_refused__options(store: Path, tmp_path: Path) -> None:
    run = ("run", store, "--out", tmp_path / "out" / "result.zarr")
    assert "No such option" in said(sc_dask(*run, "--cores", 3))
    assert "Missing option '--out'" in said(sc_dask("run", store))
    assert "is not a size" in said(sc_dask(*run, "--memory", "plenty"))
    assert "is not a size above 0" in said(sc_dask(*run, "--memory", "0"))
    assert "key=value" in said(sc_dask(*run, "--storage-option", "anon"))
    assert "key=value" in said(sc_dask(*run, "--storage-option", ".a=1"))
    assert "has a value" in said(sc_dask(*run, "--storage-option", "a=1", "--storage-option", "a.b=2"))
    assert "no URL" in said(sc_dask(*run, "--storage-option", "anon=true"))
    assert "scheduler 'fast'" in said(sc_dask(*run, "--scheduler", "fast"))
    assert "cannot be read (No such file" in said(sc_dask(*run, "--config", tmp_path / "none.yaml"))
    assert "cannot be read (Is a directory" in said(sc_dask(*run, "--config", tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not YAML" in said(sc_dask(*run, "--config", tmp_path / "binary.yaml"))
    assert "No such command" in said(sc_dask("start"))
    assert "nosuch" in said(sc_dask("info", "nosuch://bucket/a.zarr"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["zarr", "10x mtx", "csv"])
def test_refused__memory_before_anything_is_read(
    kind: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = store if kind == "zarr" else WRITERS[kind](counts_in_memory(store), tmp_path)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was read")

    for name in ("runner.convert", "inputs.read", "runner.Manifest.open"):
        monkeypatch.setattr(f"sc_dask.pipeline.{name}", never)
    out = tmp_path / "out" / "result.zarr"
    for command in (("run", source, "--out", out), ("plan", source)):
        sentence = said(sc_dask(*command, "--memory", "200MiB"))
        assert re.search(
            r"stage \w+ needs \d+ MiB whatever the size of its blocks; expected at most 200 MiB; "
            r"next: --memory 0\.\dGiB",
            sentence,
        )
    assert not out.parent.exists()


def test_refused__several_genomes(formats_dir: Path, tmp_path: Path) -> None:
    source = formats_dir / "scanpy" / "10x_data" / "1.2.0" / "multiple_genomes.h5"
    sentence = said(sc_dask("run", source, "--out", tmp_path / "out" / "result.zarr"))
    assert "holds the genomes another_genome, hg19_chr21" in sentence
    assert f"sc-dask convert {source} NEW.zarr --option KEY=VALUE" in sentence
    assert not (tmp_path / "out").exists()


def test_warnings__of_ours_in_one_line_and_of_libraries_not_at_all(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def info(*args: Any, **kwargs: Any) -> Any:
        warnings.warn("this will change", FutureWarning, stacklevel=2)
        warnings.warn("these are few cells", ScDaskWarning, stacklevel=2)
        return original(*args, **kwargs)

    from sc_dask.io import info as module

    original = module.info
    monkeypatch.setattr(module, "info", info)
    monkeypatch.setattr(sys, "warnoptions", [])
    assert sc_dask("info", store).stderr == "warning: these are few cells\n"


def test_full_disk__is_one_sentence_and_goes_on(
    store: Path, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device", "/data/chunk")

    out = tmp_path / "out" / "result.zarr"
    with monkeypatch.context() as patch:
        patch.setattr("sc_dask.pipeline.runner.write", full)
        done = sc_dask("run", store, "--out", out, *quick)
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "sc-dask: No space left on device: /data/chunk",
        f"Finished stages are kept in {out}.work: the same command goes on from there.",
    ]
    done = sc_dask("run", store, "--out", out, *quick)
    assert done.exit_code == 0
    assert [line.split()[1:] for line in done.stdout.splitlines()[:9]] == [["done", "before"]] * 9


@pytest.mark.slow
def test_no_scheduler__is_one_sentence(store: Path, tmp_path: Path) -> None:
    done = sc_dask("run", store, "--out", tmp_path / "out" / "result.zarr", "--scheduler", "tcp://127.0.0.1:9")
    assert "no scheduler answers at tcp://127.0.0.1:9" in said(done)
    assert not (tmp_path / "out").exists()
