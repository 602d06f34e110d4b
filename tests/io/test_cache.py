"""Copies of files that cannot be read in place: found again, made anew, shared, and bounded."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.errors import InputError
from sc_dask.io import cache, convert

ROOT = Path(__file__).resolve().parents[2]


def table(path: Path, value: int = 1, n: int = 3) -> Path:
    rows = [f"c{i},{value},{i}" for i in range(n)]
    path.write_text("\n".join(["cell,a,b", *rows]) + "\n")
    return path


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every conversion."""
    made: list[str] = []

    def noted(src: object, *args: object, **kwargs: object) -> object:
        made.append(str(src))
        return convert.convert(src, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "convert", noted)
    return made


def forget() -> None:
    """Do as the end of the process does."""
    while cache._IN_USE:
        cache._IN_USE.popitem()[1].close()


def copies(folder: Path) -> list[str]:
    return sorted(p.name.rsplit("-", 1)[0] for p in folder.iterdir())


def test_copy__is_found_again(tmp_path: Path, times: list[str]) -> None:
    path, folder = table(tmp_path / "a.csv"), tmp_path / "cache"
    for _ in range(2):
        assert sd.read(path, cache_dir=folder).X.to_memory().toarray()[0, 0] == 1
        forget()
    assert sd.read(path, cache_dir=folder, delimiter=",").shape == (3, 2)  # other options: another copy
    assert len(times) == 2
    assert copies(folder) == ["sc-dask-copy-a.csv"] * 2
    assert "a.csv" in next(folder.glob("*/.sc-dask-copy.json")).read_text()


def test_copy__is_made_anew_when_the_file_changes(tmp_path: Path, times: list[str]) -> None:
    path, folder = table(tmp_path / "a.csv"), tmp_path / "cache"
    sd.read(path, cache_dir=folder)
    table(path, value=7)
    os.utime(path, ns=(1, 1))
    assert sd.read(path, cache_dir=folder).X.to_memory().toarray()[0, 0] == 7
    assert len(times) == 2


def test_copy__of_another_pandas_is_not_taken(
    tmp_path: Path, times: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = table(tmp_path / "a.csv"), tmp_path / "cache"
    for text in ("object", "str", "object"):
        monkeypatch.setattr(cache, "text_type", lambda text=text: text)
        sd.read(path, cache_dir=folder)
        forget()
    assert len(times) == len(copies(folder)) == 2


@pytest.mark.parametrize("changed", ["matrix.mtx", "genes.tsv", "barcodes.tsv"])
def test_copy__is_made_anew_when_any_file_of_a_folder_changes(changed: str, tmp_path: Path, times: list[str]) -> None:
    source = tmp_path / "cells"
    source.mkdir()
    (source / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n2 2 2\n1 1 3\n2 2 4\n")
    (source / "genes.tsv").write_text("g1\tA\ng2\tB\n")
    (source / "barcodes.tsv").write_text("x\ny\n")
    sd.read_10x_mtx(source, cache_dir=tmp_path / "cache")
    new = (source / changed).read_text().replace("2 2 4", "2 2 9").replace("\tB", "\tNEW").replace("y", "z")
    (source / changed).write_text(new)
    os.utime(source / changed, ns=(1, 1))
    found = sd.read_10x_mtx(source, cache_dir=tmp_path / "cache")
    assert len(times) == 2
    assert (found.X.to_memory()[1, 1], found.var_names[1], found.obs_names[1]) != (4, "B", "y")


def test_copy__without_a_cache_goes_with_the_process(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv")
    code = f"""
import dask, sc_dask as sd
dask.config.set({{"sc-dask.work-dir": {str(tmp_path / "work")!r}, "sc-dask.cache-dir": {str(tmp_path / "cache")!r}}})
a = sd.read({str(path)!r}, cache=False)
import os
assert os.listdir({str(tmp_path / "work")!r})
print(a.X.to_memory().sum())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["6.0"]
    assert not (tmp_path / "cache").exists()
    assert os.listdir(tmp_path / "work") == []
    with pytest.raises(InputError, match="cache=False and a cache_dir"):
        sd.read(path, cache=False, cache_dir=tmp_path)


def test_copies__the_oldest_go_first_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "mine.txt").write_text("x" * 10_000)
    (folder / "sc-dask-copy-not-ours").mkdir()  # no mark in it
    for i, name in enumerate("abc"):
        sd.read(table(tmp_path / f"{name}.csv"), cache_dir=folder)
        forget()
        mark = next(folder.glob(f"*{name}.csv*/.sc-dask-copy.json"))
        os.utime(mark, (time.time() - 100 + i, time.time() - 100 + i))
    sd.read(tmp_path / "a.csv", cache_dir=folder)  # used now: no longer the oldest
    forget()
    size = cache._size(next(folder.glob("*a.csv*")))
    with dask.config.set({"sc-dask.cache-bytes": int(2.5 * size)}):
        found = sd.read(table(tmp_path / "d.csv"), cache_dir=folder)
    assert copies(folder) == ["mine.txt", "sc-dask-copy-a.csv", "sc-dask-copy-d.csv", "sc-dask-copy-not"]
    assert found.X.to_memory().shape == (3, 2)


def test_copies__one_in_use_stays(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    found = sd.read(table(tmp_path / "a.csv"), cache_dir=folder)
    with dask.config.set({"sc-dask.cache-bytes": 1}):
        other = sd.read(table(tmp_path / "b.csv"), cache_dir=folder)
    np.testing.assert_array_equal(found.X.to_memory().toarray(), other.X.to_memory().toarray())
    assert len(copies(folder)) == 2


def test_copies__two_processes_make_one(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", n=2000)
    read = f"sd.read({str(path)!r}, cache_dir={str(tmp_path / 'cache')!r})"
    code = f"import sc_dask as sd; print({read}.X.to_memory().sum())"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in "ab"]
    said = [run.communicate(timeout=300)[0].strip() for run in runs]
    assert said == ["2.001e+06"] * 2
    assert copies(tmp_path / "cache") == ["sc-dask-copy-a.csv"]


def test_copy__a_killed_conversion_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = table(tmp_path / "a.csv"), tmp_path / "cache"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(convert, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            sd.read(path, cache_dir=folder)
    assert sd.read(path, cache_dir=folder).X.to_memory().sum() == 6
    assert len(copies(folder)) == 1
