"""``sd.settings``: scanpy's settings, each of which does here what it says.

Resources are options of Dask's configuration (`sc_dask.config`); what concerns figures is handed to scanpy, which draws
them; what says how much is told is the level of the logger ``sc_dask``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, TextIO

import dask.config

from sc_dask import config
from sc_dask.errors import InputError
from sc_dask.log import HINT, logger
from sc_dask.outside import scanpy

_LEVELS = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "hint": HINT,
    "debug": logging.DEBUG,
}
_MARKS = {logging.INFO: "", HINT: "--> ", logging.DEBUG: "    "}
_OF_FIGURES: dict[str, Any] = {
    "autosave": False,
    "autoshow": True,
    "categories_to_ignore": ["N/A", "dontknow", "no_gate", "?"],
    "figdir": Path("./figures"),
    "file_format_figs": "pdf",
    "plot_suffix": "",
}


class Verbosity(IntEnum):
    """How much is told, as in scanpy: each level tells what those before it tell, and more."""

    error = 0
    warning = 1
    info = 2
    hint = 3
    debug = 4

    def __eq__(self, other: object) -> bool:
        return self.name == other if isinstance(other, str) else int(self) == other

    __hash__ = IntEnum.__hash__

    @property
    def level(self) -> int:
        """The level of the standard library's ``logging``."""
        return _LEVELS[self.name]

    @contextlib.contextmanager
    def override(self, verbosity: Verbosity | str | int) -> Iterator[Verbosity]:
        """Set another verbosity inside a ``with`` block, and this one after it."""
        settings.verbosity = verbosity
        try:
            yield self
        finally:
            settings.verbosity = self


def _in_notebook() -> bool:
    return "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


class _Handler(logging.Handler):
    """Writes what the logger tells, as scanpy writes it: to a file, or to where the process writes at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.file: TextIO | None = None

    def stream(self) -> TextIO:
        if self.file is not None:
            return self.file
        return sys.stdout if _in_notebook() else sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        stream = self.stream()
        others = (getattr(h, "stream", None) for h in logging.getLogger().handlers)
        if logger.propagate and any(o is stream for o in others):
            return  # the program shows what it logs itself, on the same terminal
        mark = _MARKS.get(record.levelno, f"{record.levelname}: ")
        try:
            print(f"{mark}{record.getMessage()}", file=stream, flush=True)
        except (OSError, ValueError):  # closed
            self.handleError(record)


class Settings:
    """Options of this process; an unknown name is an error."""

    _state: dict[str, Any]

    def __init__(self) -> None:
        state: dict[str, Any] = {"handler": None, "verbosity": Verbosity.warning, "logpath": None}
        state |= {"writedir": Path("./write"), "file_format_data": "h5ad", "figures": {}}
        object.__setattr__(self, "_state", state)

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(getattr(type(self), name, None), property):
            known = ", ".join(n for n in dir(self) if not n.startswith("_"))
            raise InputError(f"there is no setting {name!r}", f"one of: {known}")
        object.__setattr__(self, name, value)

    def __str__(self) -> str:
        names = [n for n in dir(self) if isinstance(getattr(type(self), n, None), property)]
        return "\n".join(f"{n} = {getattr(self, n)!r}" for n in names)

    # -- what is told

    @property
    def verbosity(self) -> Verbosity:
        """How much is told: 0 to 4, or "error", "warning" (default), "info", "hint", "debug"."""
        return self._state["verbosity"]  # type: ignore[no-any-return]

    @verbosity.setter
    def verbosity(self, value: Verbosity | str | int) -> None:
        try:
            chosen = Verbosity[value.lower()] if isinstance(value, str) else Verbosity(value)
        except (KeyError, ValueError):
            raise InputError(f"found the verbosity {value!r}", "0 to 4, or one of: " + ", ".join(_LEVELS)) from None
        self._state["verbosity"] = chosen
        logger.setLevel(chosen.level)
        self._handler()
        if scanpy.is_imported():
            scanpy.settings().verbosity = int(chosen)
        else:
            scanpy.on_import("verbosity", int(chosen))

    @property
    def logfile(self) -> TextIO:
        """Where it is written: an open file; set a path to open one, None for the terminal or notebook."""
        return self._handler().stream()

    @logfile.setter
    def logfile(self, value: str | os.PathLike[str] | TextIO | None) -> None:
        handler = self._handler()
        path = Path(value) if value and isinstance(value, str | os.PathLike) else None
        if self._state["logpath"] is not None and handler.file is not None:
            handler.file.close()
        self._state["logpath"] = path
        opened = path.open("a") if path is not None else value or None
        handler.file = opened  # type: ignore[assignment]

    @property
    def logpath(self) -> Path | None:
        """The path of the file that it is written to, if one was given."""
        return self._state["logpath"]  # type: ignore[no-any-return]

    @logpath.setter
    def logpath(self, value: str | os.PathLike[str] | None) -> None:
        self.logfile = value  # type: ignore[assignment]

    def _handler(self) -> _Handler:
        handler: _Handler | None = self._state["handler"]
        if handler is None:
            handler = self._state["handler"] = _Handler()
            logger.addHandler(handler)
        return handler

    # -- resources

    @property
    def n_jobs(self) -> int:
        """Threads of this process that work on blocks (Dask's ``num_workers``); -1: all usable CPUs."""
        return config.n_threads()

    @n_jobs.setter
    def n_jobs(self, value: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or (value < 1 and value != -1):
            raise InputError(f"found n_jobs={value!r}", "a number of threads, or -1 for all")
        dask.config.set(num_workers=None if value == -1 else value)

    @property
    def max_memory(self) -> float | None:
        """Memory budget of this process in gigabytes (the option ``sc-dask.memory``); None: no limit is enforced."""
        n_bytes = config.n_bytes("memory")
        return None if n_bytes is None else n_bytes / 1e9

    @max_memory.setter
    def max_memory(self, value: float | None) -> None:
        if value is not None and not value > 0:
            raise InputError(f"found max_memory={value!r}", "gigabytes, or None for no limit")
        dask.config.set({"sc-dask.memory": None if value is None else int(value * 1e9)})

    # -- places

    @property
    def cachedir(self) -> Path:
        """Folder for copies of files that cannot be read in place (the option ``sc-dask.cache-dir``)."""
        return _folder("cache-dir")

    @cachedir.setter
    def cachedir(self, value: str | os.PathLike[str]) -> None:
        dask.config.set({"sc-dask.cache-dir": str(Path(value))})

    @property
    def datasetdir(self) -> Path:
        """Folder for what `sc_dask.datasets` downloads (the option ``sc-dask.dataset-dir``)."""
        return _folder("dataset-dir")

    @datasetdir.setter
    def datasetdir(self, value: str | os.PathLike[str]) -> None:
        dask.config.set({"sc-dask.dataset-dir": str(Path(value).resolve())})

    @property
    def writedir(self) -> Path:
        """Folder of files that ``read`` and ``write`` are given without an extension."""
        return self._state["writedir"]  # type: ignore[no-any-return]

    @writedir.setter
    def writedir(self, value: str | os.PathLike[str]) -> None:
        self._state["writedir"] = Path(value)

    @property
    def file_format_data(self) -> Literal["h5ad", "zarr"]:
        """Format of such files."""
        return self._state["file_format_data"]  # type: ignore[no-any-return]

    @file_format_data.setter
    def file_format_data(self, value: str) -> None:
        if value not in ("h5ad", "zarr"):
            raise InputError(f"found file_format_data={value!r}", "'h5ad' or 'zarr'")
        self._state["file_format_data"] = value

    def keyed(self, name: str) -> Path:
        """Return the file in ``writedir`` that a name without an extension stands for."""
        return self.writedir / f"{name}.{self.file_format_data}"

    # -- what is the same for everybody

    @property
    def cache_compression(self) -> None:
        """Copies in the cache are zarr stores with codecs of their own."""
        return None

    @cache_compression.setter
    def cache_compression(self, value: Any) -> None:
        if value is not None:
            raise InputError(
                f"found cache_compression={value!r}", "None: copies in the cache are compressed zarr", "leave it out"
            )

    @property
    def N_PCS(self) -> int:
        """Components that ``pp.pca`` computes unless it is told."""
        return 50

    @N_PCS.setter
    def N_PCS(self, value: int) -> None:
        if value != self.N_PCS:
            raise InputError(f"found N_PCS={value!r}", "50, which does not change", f"pp.pca(adata, n_comps={value!r})")

    # -- figures, which scanpy draws

    def _figure(self, name: str) -> Any:
        if scanpy.is_imported():
            return getattr(scanpy.settings(), name)
        return self._state["figures"].get(name, _OF_FIGURES[name])

    def _set_figure(self, name: str, value: Any) -> None:
        self._state["figures"][name] = value
        if scanpy.is_installed():  # at once: a script that imports scanpy itself finds it there
            setattr(scanpy.settings(), name, value)

    @property
    def figdir(self) -> Path:
        """Folder of saved figures."""
        return Path(self._figure("figdir"))

    @figdir.setter
    def figdir(self, value: str | os.PathLike[str]) -> None:
        self._set_figure("figdir", Path(value))

    @property
    def autosave(self) -> bool:
        """Save every figure in ``figdir`` instead of showing it."""
        return bool(self._figure("autosave"))

    @autosave.setter
    def autosave(self, value: bool) -> None:
        self._set_figure("autosave", bool(value))

    @property
    def autoshow(self) -> bool:
        """Show every figure that is not saved."""
        return bool(self._figure("autoshow"))

    @autoshow.setter
    def autoshow(self, value: bool) -> None:
        self._set_figure("autoshow", bool(value))

    @property
    def file_format_figs(self) -> str:
        """Format of saved figures, for instance ``"pdf"``, ``"svg"``, ``"png"``."""
        return str(self._figure("file_format_figs"))

    @file_format_figs.setter
    def file_format_figs(self, value: str) -> None:
        self._set_figure("file_format_figs", value)

    @property
    def plot_suffix(self) -> str:
        """What is appended to the names of saved figures."""
        return str(self._figure("plot_suffix"))

    @plot_suffix.setter
    def plot_suffix(self, value: str) -> None:
        self._set_figure("plot_suffix", value)

    @property
    def categories_to_ignore(self) -> list[str]:
        """Categories that plots leave out."""
        return list(self._figure("categories_to_ignore"))

    @categories_to_ignore.setter
    def categories_to_ignore(self, value: Iterable[str]) -> None:
        self._set_figure("categories_to_ignore", list(value))

    def set_figure_params(self, *args: Any, **kwargs: Any) -> None:
        """Set how figures look: scanpy's function of that name, with its arguments.

        ``scanpy, dpi, dpi_save, frameon, vector_friendly, fontsize, figsize, color_map, format, facecolor,
        transparent, ipython_format``. Without scanpy nothing is drawn, and a warning says so.
        """
        if not scanpy.is_installed():
            logger.warning("set_figure_params has no effect: scanpy, which draws the figures, is not installed")
            return
        scanpy.module().set_figure_params(*args, **kwargs)


def _folder(option: str) -> Path:
    chosen = config.get(option)
    if chosen:
        return Path(str(chosen))
    import pooch

    return Path(pooch.os_cache("sc_dask"))


settings = Settings()


def set_figure_params(*args: Any, **kwargs: Any) -> None:
    """Set how figures look (`Settings.set_figure_params`)."""
    settings.set_figure_params(*args, **kwargs)
