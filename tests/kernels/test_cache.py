"""numba finds a place for its machine code where neither the installation nor a home can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sc_dask
from sc_dask.kernels import cache

CODE = """
import numba, os, warnings
warnings.simplefilter("always")
import sc_dask.graph
from sc_dask.kernels.csr import nnz_per_row
import numpy as np, scipy.sparse as sp
assert nnz_per_row(sp.csr_matrix(np.eye(3))).tolist() == [1, 1, 1]
print(numba.config.CACHE_DIR, os.environ.get("NUMBA_CACHE_DIR"), sep="|")
"""


@pytest.fixture
def read_only(tmp_path: Path) -> dict[str, Any]:
    """A copy of the package in which nothing can be made, also by root, and an environment without a home."""
    root = tmp_path / "site"
    shutil.copytree(Path(sc_dask.__file__).parent, root / "sc_dask", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [root / "sc_dask", *(p for p in (root / "sc_dask").rglob("*") if p.is_dir())]:
        (folder / "__pycache__").write_text("")
    (tmp_path / "tmp").mkdir()
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1"}
    return {"env": env | nowhere | {"PYTHONPATH": str(root), "TMPDIR": str(tmp_path / "tmp")}, "cwd": root}


def run(read_only: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, **read_only)


def test_read_only__machine_code_goes_to_a_folder_of_the_user(read_only: dict[str, Any]) -> None:
    told = run(read_only)
    assert told.returncode == 0, told.stderr
    folder = Path(read_only["env"]["TMPDIR"]) / f"sc-dask-numba-{os.getuid()}"
    assert told.stdout.strip() == f"{folder}|{folder}" and "Warning" not in told.stderr
    assert folder.stat().st_mode & 0o777 == 0o700


def test_read_only__a_folder_of_somebody_else_is_not_used(read_only: dict[str, Any]) -> None:
    theirs = Path(read_only["env"]["TMPDIR"]) / f"sc-dask-numba-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)  # anybody could put code there
    told = run(read_only)
    assert told.returncode == 0, told.stderr
    assert told.stderr.count("export NUMBA_CACHE_DIR") == 1
    assert list(theirs.iterdir()) == [] and list(theirs.parent.iterdir()) == [theirs]  # ours is gone again


def test_writable__nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_own_folder", lambda: pytest.fail("there is a place"))
    cache.prepare(run)


def test_nowhere__names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise OSError("read-only")

    monkeypatch.setattr(cache, "_has_place", lambda probe: False)
    monkeypatch.setattr(cache, "_own_folder", nowhere)
    with pytest.raises(sc_dask.errors.ScDaskError, match="export NUMBA_CACHE_DIR"):
        cache.prepare(run)
