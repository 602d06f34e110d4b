"""Files that change under a lazy X, and places that several writers want: an error, never other numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import sc_dask as sd
from sc_dask import work
from sc_dask.errors import FormatError, InputError, StoreError
from sc_dask.io.blobs.store import Location
from sc_dask.io.writing import commit

CSR = sp.random(600, 40, 0.3, format="csr", random_state=1, dtype=np.float32)
OTHER = CSR[::-1].tocsr()


def dense(m: sp.csr_matrix) -> np.ndarray:
    out: np.ndarray = m.toarray()
    return out


KINDS: dict[str, Callable[[sp.csr_matrix], Any]] = {"csr": lambda m: m, "dense": dense, "csc": sp.csc_matrix}
WRITERS: dict[str, Callable[[ad.AnnData, Path], Any]] = {
    "h5ad": lambda a, p: a.write_h5ad(p),
    "zarr": lambda a, p: a.write_zarr(p),
    "ours": lambda a, p: sd.write(a, p, overwrite=True),
}


def values(x: Any) -> np.ndarray:
    found = x.compute(scheduler="sync")
    return found.toarray() if sp.issparse(found) else np.asarray(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("used", [False, True])
def test_rewritten__is_an_error_and_read_again_is_right(kind: str, writer: str, used: bool, tmp_path: Path) -> None:
    path = tmp_path / ("a.h5ad" if writer == "h5ad" else "a.zarr")
    WRITERS[writer](ad.AnnData(KINDS[kind](CSR)), path)
    old = sd.read(path)
    if used:
        np.testing.assert_array_equal(values(old.X), CSR.toarray())
    time.sleep(0.02)
    WRITERS[writer](ad.AnnData(KINDS[kind](OTHER)), path)
    if kind == "csc":  # turned to rows when it was read, in files of our own
        np.testing.assert_array_equal(values(old.X), CSR.toarray())
    else:
        with pytest.raises((StoreError, FormatError), match=r"written again|missing|damaged"):
            values(old.X)
    new = sd.read(path)
    assert new.X.name != old.X.name
    np.testing.assert_array_equal(values(new.X), OTHER.toarray())


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_chunks_changed_in_place__have_another_name_and_are_refused_by_who_read_before(
    kind: str, zarr_format: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.zarr"
    with ad.settings.override(zarr_write_format=zarr_format):
        ad.AnnData(KINDS[kind](CSR)).write_zarr(path)
    old = sd.read(path)
    values(old.X)
    time.sleep(0.02)
    array = zarr.open_group(path, mode="r+", use_consolidated=False)["X/data" if kind == "csr" else "X"]
    assert isinstance(array, zarr.Array)
    array[:] = np.asarray(array[:]) * 2
    with pytest.raises(StoreError, match=r"written again .* next: read it again"):
        values(old.X)
    new = sd.read(path)
    assert new.X.name != old.X.name
    np.testing.assert_array_equal(values(new.X), CSR.toarray() * 2)


def test_chunks_changed_in_place__gene_major_copies_are_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    ad.AnnData(CSR).write_zarr(path)

    def scores(work_dir: str) -> pd.Series:
        with dask.config.set({"sc-dask.work-dir": str(tmp_path / work_dir)}):
            adata = sd.read(path)
            adata.obs["half"] = pd.Categorical(np.where(np.arange(600) < 300, "a", "b"))
            sd.tl.rank_genes_groups(adata, "half", method="wilcoxon")
        found = adata.uns["rank_genes_groups"]
        return pd.Series(found["scores"]["a"], index=found["names"]["a"]).sort_index()

    first = scores("one")
    time.sleep(0.02)
    data = zarr.open_group(path, mode="r+", use_consolidated=False)["X/data"]
    changed = np.asarray(data[:])  # type: ignore[index]
    changed[: CSR.indptr[300]] += 50
    data[:] = changed  # type: ignore[index]
    again = scores("one")
    pd.testing.assert_series_equal(again, scores("two"))
    assert not np.allclose(first, again)


@pytest.mark.parametrize("n_bytes", [4, 400, 3996])
@pytest.mark.parametrize("compressed", [False, True])
def test_chunk_cut_short__is_an_error(n_bytes: int, compressed: bool, tmp_path: Path) -> None:
    path, x = tmp_path / "a.zarr", np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)
    with ad.settings.override(zarr_write_format=3):
        ad.AnnData(x).write_zarr(path)
    root = zarr.open_group(path, mode="r+")
    attributes = dict(root["X"].attrs)
    del root["X"]
    codec = zarr.codecs.ZstdCodec() if compressed else None
    array = root.create_array("X", shape=x.shape, chunks=(100, 10), dtype=x.dtype, compressors=codec)
    array[:] = x
    array.attrs.update(attributes)
    zarr.consolidate_metadata(root.store)
    chunk = next(p for p in (path / "X").rglob("*") if p.is_file() and p.name != "zarr.json")
    os.truncate(chunk, min(n_bytes, chunk.stat().st_size - 1))
    with pytest.raises((StoreError, FormatError)):
        values(sd.read(path).X)


def test_inner_chunks_of_zeros__may_be_left_out_of_a_foreign_shard(tmp_path: Path) -> None:
    path, n = tmp_path / "a.zarr", 6_000
    csr = sp.csr_matrix((np.ones(n, np.float32), np.zeros(n, np.int32), np.arange(n + 1)), shape=(n, 5))
    with ad.settings.override(zarr_write_format=3):
        ad.AnnData(csr).write_zarr(path)
    root = zarr.open_group(path, mode="r+")
    del root["X/indices"]
    array = root.create_array("X/indices", shape=(n,), chunks=(2_000,), shards=(6_000,), dtype=np.int32)
    columns = np.where(np.arange(n) < 4_000, 0, 1)  # two chunks of zeros, which zarr leaves out
    array[:] = columns
    zarr.consolidate_metadata(root.store)
    expected = np.zeros((n, 5), np.float32)
    expected[np.arange(n), columns] = 1
    np.testing.assert_array_equal(values(sd.read(path).X), expected)
    next(p for p in (path / "X" / "indices").rglob("*") if p.name != "zarr.json" and p.is_file()).unlink()
    with pytest.raises(StoreError, match="is missing"):
        values(sd.read(path).X)


# -- one place under several names ---------------------------------------------------------------


@pytest.mark.parametrize("through", ["link", "linked parent", "dots", "trailing slash"])
def test_write__refuses_what_x_is_read_from_under_any_name(through: str, tmp_path: Path) -> None:
    store = tmp_path / "data" / "a.zarr"
    sd.write(ad.AnnData(CSR), store)
    (tmp_path / "link.zarr").symlink_to(store)
    (tmp_path / "other").symlink_to(tmp_path / "data")
    names = {
        "link": tmp_path / "link.zarr",
        "linked parent": tmp_path / "other" / "a.zarr",
        "dots": f"{tmp_path}/data/../data/a.zarr",
        "trailing slash": f"{store}/",
    }
    for read_from, written in ((store, names[through]), (names[through], store)):
        lazy = sd.read(read_from)
        with pytest.raises(InputError, match="read lazily from"):
            sd.write(lazy, written, overwrite=True)
        with pytest.raises(InputError, match="as input and output"):
            sd.convert(read_from, written, overwrite=True)
        np.testing.assert_array_equal(values(lazy.X), CSR.toarray())
        lazy.obs["new"] = 1
        sd.write(lazy, written, update=True)
    assert "new" in sd.read(store).obs


def test_write__refuses_a_place_inside_what_is_read_or_around_it(tmp_path: Path) -> None:
    outer = tmp_path / "a.zarr"
    sd.write(ad.AnnData(CSR), outer)
    sd.write(ad.AnnData(CSR), outer / "inner.zarr")
    with pytest.raises(InputError, match="inside the other"):
        sd.write(sd.read(outer), outer / "x.zarr")
    with pytest.raises(InputError, match="inside the other"):
        sd.write(sd.read(outer / "inner.zarr"), outer, overwrite=True)
    with pytest.raises(InputError, match="inside the other"):
        sd.convert(outer / "inner.zarr", outer, overwrite=True)


# -- several writers -----------------------------------------------------------------------------


def test_writing__a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.zarr"
    adata = ad.AnnData(CSR)
    with commit.writing(Location.parse(target)):
        for call in (lambda: sd.write(adata, target), lambda: sd.write(adata, target, overwrite=True)):
            with pytest.raises(StoreError, match=f"being written by process {os.getpid()} of .* next: wait for it"):
                call()
    assert not list(tmp_path.iterdir())  # nothing was written, nothing is left
    sd.write(adata, target)
    assert sorted(p.name for p in target.parent.iterdir()) == ["a.zarr"]


def test_writing__a_killed_writer_keeps_nobody_away(tmp_path: Path) -> None:
    code = (
        "import os, sys; from sc_dask.io.writing import commit; from sc_dask.io.blobs.store import Location\n"
        "with commit.writing(Location.parse(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    target = tmp_path / "a.zarr"
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -9
    assert (tmp_path / ".a.zarr.lock").exists()
    sd.write(ad.AnnData(CSR), target)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_update__what_somebody_else_wrote_meanwhile_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    sd.write(ad.AnnData(CSR), path)
    one, two = sd.read(path), sd.read(path)
    one.obs["one"], two.obs["two"] = 1, 2
    sd.write(one, path, update=True)
    with pytest.raises(StoreError, match=r"written into .* by somebody else .* next: read it again"):
        sd.write(two, path, update=True)
    one.obsm["X_more"] = np.ones((600, 2))
    sd.write(one, path, update=True)  # its own earlier results are no news
    three = sd.read(path)
    three.obs["two"] = 2
    sd.write(three, path, update=True)
    found = ad.read_zarr(path)
    assert {"one", "two"} <= set(found.obs) and "X_more" in found.obsm


def test_bucket__a_writer_whose_place_was_taken_gives_up(tmp_path: Path) -> None:
    target = Location.parse("memory://bucket/taken.zarr")
    draft = commit.draft(target, overwrite=False)
    draft.begin()
    draft.check_own()
    other = commit.draft(target, overwrite=False)
    other.begin()
    with pytest.raises(StoreError, match="another process writes"):
        draft.check_own()
    with pytest.raises(StoreError, match="another process writes"):
        draft.publish()
    other.check_own()


# -- work folders --------------------------------------------------------------------------------


def test_work_folder__goes_with_its_owner_and_not_with_a_copy(tmp_path: Path) -> None:
    import pickle

    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
        folder = work.WorkFolder.make("test")
        borrowed = pickle.loads(pickle.dumps(folder))
        borrowed.remove()
        del borrowed
        assert folder.path.is_dir()
        child = os.fork()
        if child == 0:
            folder.remove()  # the parent's
            os._exit(0)
        os.waitpid(child, 0)
        assert folder.path.is_dir()
        path = folder.path
        del folder
    assert not path.exists()


def test_work_folder__those_of_killed_processes_are_removed_by_the_next_and_no_others(tmp_path: Path) -> None:
    code = (
        "import os, dask; dask.config.set({'sc-dask.work-dir': os.environ['WORK']}); from sc_dask import work\n"
        "made = work.WorkFolder.make('dead'); (made.path / 'big').write_text('x'); os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, "WORK": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == -9
    (dead,) = tmp_path.iterdir()
    (tmp_path / "sc-dask-mine").mkdir()  # no marker: not ours to remove
    with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
        living = work.WorkFolder.make("alive")
        another = work.WorkFolder.make("alive")
    assert not dead.exists()
    assert (tmp_path / "sc-dask-mine").is_dir() and living.path.is_dir() and another.path.is_dir()
    assert living.path != another.path


def test_scratch__is_a_disk_and_dasks_own_where_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    kinds = {"/tmp": "tmpfs", "/var/tmp": "ext4"}
    monkeypatch.setattr(work, "_filesystem", lambda path: kinds.get(path, "ext4"))
    monkeypatch.setattr(work.tempfile, "gettempdir", lambda: "/tmp")
    with dask.config.set({"temporary-directory": None}):
        assert work.scratch() == "/var/tmp"
        kinds["/var/tmp"] = "tmpfs"
        assert work.scratch() == "/tmp"
    with dask.config.set({"temporary-directory": "/scratch"}):
        assert work.scratch() == "/scratch"
        with dask.config.set({"sc-dask.work-dir": str(tmp_path)}):
            assert work.scratch() == str(tmp_path)


def test_partial__names_are_unique(tmp_path: Path) -> None:
    assert len({work.partial(tmp_path / "a") for _ in range(100)}) == 100
