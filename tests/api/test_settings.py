"""``sd.settings``, ``sd.logging``: each setting does what it says, and messages look as scanpy's do."""

from __future__ import annotations

import inspect
import io
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dask
import pytest
import scanpy as sc

import sc_dask as sd
from sc_dask import config
from sc_dask.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    """Put everything back as it was."""
    logger, theirs = logging.getLogger("sc_dask"), sc.settings
    level, handlers = logger.level, list(logger.handlers)
    names = ("verbosity", "figdir", "autosave", "autoshow", "file_format_figs", "plot_suffix", "categories_to_ignore")
    before = {n: getattr(theirs, n) for n in names}
    state = dict(sd.settings._state)
    with dask.config.set({}):
        yield
    for n, value in before.items():
        setattr(theirs, n, value)
    sd.settings._state.update(state)
    logger.setLevel(level)
    logger.handlers[:] = handlers


def told(call: Any, module: Any) -> str:
    """Return what a call of ``logging`` writes."""
    module.settings.logfile = file = io.StringIO()
    call(module.logging)
    module.settings.logfile = None
    return file.getvalue()


@pytest.mark.parametrize("verbosity", [0, 1, 2, 3, 4, "error", "warning", "info", "hint", "debug"])
def test_logging__tells_what_scanpy_tells(verbosity: int | str) -> None:
    earlier = datetime.now(UTC) - timedelta(seconds=75, milliseconds=300)

    def calls(log: Any) -> None:
        for name in ("error", "warning", "info", "hint", "debug"):
            say = getattr(log, name)
            say("100 % of {x}")
            say("finished", time=earlier)
            say("finished ({time_passed}) now", time=earlier)
            say("added", deep="'X_pca', the components")

    for module in (sd, sc):
        module.settings.verbosity = verbosity
    assert told(calls, sd) == told(calls, sc)


def test_logging__returns_the_time_and_fills_in_extra() -> None:
    sd.settings.verbosity = 3
    start = sd.logging.info("begin")
    assert abs((datetime.now(UTC) - start).total_seconds()) < 5
    assert told(lambda log: log.info("{a} of {b}", extra={"a": 1, "b": 2}), sd) == "1 of 2\n"


def test_logging__does_not_shadow_the_standard_library() -> None:
    code = "import sc_dask.logging, logging, sc_dask.log; assert logging.getLogger and sc_dask.log.logging is logging"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_logging__has_the_shapes_of_scanpys() -> None:
    for name in ("error", "warning", "info", "hint", "debug", "print_header", "print_version_and_date"):
        mine, theirs = (inspect.signature(getattr(m.logging, name)).parameters for m in (sd, sc))
        assert [(p.name, p.kind) for p in mine.values()] == [(p.name, p.kind) for p in theirs.values()]
    assert (sd.logging.HINT, sd.logging.INFO) == (sc.logging.HINT, sc.logging.INFO)


def test_logging__is_shown_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sd.settings.verbosity = 2
    sd.logging.info("alone")
    assert capsys.readouterr().err == "alone\n"
    own = logging.StreamHandler(sys.stderr)  # as logging.basicConfig makes it
    monkeypatch.setattr(logging.getLogger(), "handlers", [own])
    sd.logging.info("by the program")
    assert capsys.readouterr().err == "by the program\n"


def test_print_header__names_versions(capsys: pytest.CaptureFixture[str]) -> None:
    sd.logging.print_header()
    sd.print_header()
    found = capsys.readouterr().out.splitlines()
    assert found[0] == found[1]
    assert re.match(r"sc_dask==\S+ scanpy==\S+ anndata==\S+ ", found[0])
    sd.logging.print_version_and_date(file=(file := io.StringIO()))
    assert file.getvalue().startswith(f"sc_dask {sd.__version__}, 2")


def test_verbosity__compares_as_scanpys() -> None:
    for value in (0, 3, "hint", "error"):
        for module in (sd, sc):
            module.settings.verbosity = value
        mine, theirs = sd.settings.verbosity, sc.settings.verbosity
        assert mine == int(theirs)
        assert mine == theirs.name
        assert mine.level == theirs.level
        assert mine != "nothing"
    with sd.settings.verbosity.override("debug"):
        assert sd.settings.verbosity == "debug"
    assert sd.settings.verbosity == "error"
    for wrong in (5, "loud"):
        with pytest.raises(InputError, match="verbosity"):
            sd.settings.verbosity = wrong  # type: ignore[assignment]


def test_logfile__takes_a_path(tmp_path: Path) -> None:
    sd.settings.verbosity = "info"
    sd.settings.logfile = tmp_path / "log.txt"  # type: ignore[assignment]
    sd.logging.info("here")
    assert sd.settings.logpath == tmp_path / "log.txt"
    sd.settings.logfile = None  # type: ignore[assignment]
    assert sd.settings.logpath is None
    assert (tmp_path / "log.txt").read_text() == "here\n"


def test_resources__are_dasks_options() -> None:
    sd.settings.n_jobs = 3
    assert config.n_threads() == sd.settings.n_jobs == dask.config.get("num_workers") == 3
    sd.settings.n_jobs = -1
    assert sd.settings.n_jobs >= 1
    assert dask.config.get("num_workers") is None
    sd.settings.max_memory = 2
    assert config.n_bytes("memory") == 2_000_000_000
    assert sd.settings.max_memory == 2
    sd.settings.max_memory = None
    assert config.n_bytes("memory") is None
    for name, value in (("n_jobs", 0), ("n_jobs", 1.5), ("max_memory", -1)):
        with pytest.raises(InputError, match=name):
            setattr(sd.settings, name, value)


def test_places__are_options(tmp_path: Path) -> None:
    sd.settings.cachedir = tmp_path / "c"
    sd.settings.datasetdir = str(tmp_path / "d")
    assert config.get("cache-dir") == str(tmp_path / "c")
    assert sd.settings.datasetdir == tmp_path / "d"
    sd.settings.writedir = tmp_path
    assert sd.settings.writedir == tmp_path
    sd.settings.file_format_data = "zarr"
    with pytest.raises(InputError, match="csv"):
        sd.settings.file_format_data = "csv"


def test_figures__are_scanpys(tmp_path: Path) -> None:
    import matplotlib as mpl

    sd.settings.figdir = str(tmp_path)
    sd.settings.autosave, sd.settings.autoshow = True, False
    sd.settings.plot_suffix, sd.settings.file_format_figs = "_x", "svg"
    sd.settings.categories_to_ignore = ["none"]
    for name in ("figdir", "autosave", "autoshow", "plot_suffix", "file_format_figs", "categories_to_ignore"):
        assert getattr(sc.settings, name) == getattr(sd.settings, name)
    assert sc.settings.figdir == tmp_path
    before = mpl.rcParams.copy()
    try:
        for call in (sd.set_figure_params, sd.settings.set_figure_params):
            call(dpi=61, facecolor="white", frameon=False, fontsize=9)
            assert mpl.rcParams["figure.dpi"] == 61
            assert sd.settings.file_format_figs == "pdf"
            mpl.rcParams["figure.dpi"] = 1
    finally:
        sc.set_figure_params(frameon=True)
        mpl.rcParams.update(before)


def test_settings__cost_no_import_of_scanpy() -> None:
    code = (
        "import sys, sc_dask as sd; sd.settings.verbosity = 3; sd.settings.n_jobs = 2; str(sd.settings)\n"
        "sd.logging.info('x'); assert 'scanpy' not in sys.modules, 1; sd.settings.figdir = 'f'\n"
        "import scanpy; assert scanpy.settings.verbosity == 3 and str(scanpy.settings.figdir) == 'f'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_settings__without_scanpy() -> None:
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'scanpy' else find(name, *a)\n"
        "import sc_dask as sd; sd.settings.figdir = 'f'; assert str(sd.settings.figdir) == 'f'\n"
        "sd.settings.verbosity = 1; sd.set_figure_params(dpi=80)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "scanpy, which draws the figures, is not installed" in done.stderr


def test_settings__every_one_of_scanpys_is_there_and_unknown_ones_are_refused() -> None:
    theirs = {n for n in dir(sc.settings) if not n.startswith("_")} - {"getdoc"}
    assert theirs <= set(dir(sd.settings))
    assert {line.split(" = ")[0] for line in str(sd.settings).splitlines()} >= theirs - {"set_figure_params"}
    with pytest.raises(InputError, match="'verbosty'"):
        sd.settings.verbosty = 3  # type: ignore[attr-defined]
    sd.settings.cache_compression = None
    sd.settings.N_PCS = 50
    for name, value in (("cache_compression", "lzf"), ("N_PCS", 30)):
        with pytest.raises(InputError, match=name):
            setattr(sd.settings, name, value)
