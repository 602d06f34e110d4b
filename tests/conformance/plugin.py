"""A pytest plugin that puts our functions in scanpy's place and writes what became of each test.

``SC_DASK_CONFORMANCE`` says whose functions are tested: ``ours`` or ``theirs``. Only the public names of scanpy's
modules are replaced; what scanpy's own code has imported from its inside stays scanpy's.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MODULES = ("pp", "tl", "get", "pl", "metrics", "experimental.pp")
_OUTCOMES: dict[str, dict[str, str]] = {}


def module(package: str, name: str) -> ModuleType | None:
    """Return ``package.name``; None where there is no such module (yet)."""
    value: Any = importlib.import_module(package)
    for part in name.split("."):
        value = getattr(value, part, None)
        if value is None:
            return None
    return value if isinstance(value, ModuleType) else None


def rebind() -> list[str]:
    """Put our public functions in the place of scanpy's, and return their names."""
    import scanpy.experimental  # noqa: F401, it is not imported with scanpy

    replaced = []
    for name in MODULES:
        theirs, ours = module("scanpy", name), module("sc_dask", name)
        if theirs is None or ours is None:
            continue
        for function in (n for n in dir(theirs) if not n.startswith("_")):
            mine = getattr(ours, function, None)
            if callable(mine) and callable(getattr(theirs, function)) and mine.__module__.startswith("sc_dask"):
                setattr(theirs, function, mine)
                replaced.append(f"{name}.{function}")
    return replaced


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the outcome of a test; an error of its fixtures counts as a failure."""
    noted = _OUTCOMES.setdefault(report.nodeid, {"outcome": "passed", "message": ""})
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash is not None else str(report.longrepr)
        noted |= {"outcome": "failed", "message": " ".join(message.split())[:300]}
    elif report.skipped:
        noted["outcome"] = "xfailed" if hasattr(report, "wasxfail") else "skipped"


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a file that cannot be collected."""
    if report.failed:
        lines = [line for line in str(report.longrepr).splitlines() if line.strip()]
        _OUTCOMES[report.nodeid] = {"outcome": "failed", "message": lines[-1].strip()[:300] if lines else ""}


def pytest_sessionstart() -> None:
    """Rebind before a test file is imported: some import functions by name."""
    if os.environ["SC_DASK_CONFORMANCE"] == "ours":
        rebind()


def pytest_sessionfinish() -> None:
    """Write the outcomes."""
    Path(os.environ["SC_DASK_OUTCOMES"]).write_text(json.dumps(_OUTCOMES, indent=0, sort_keys=True))
