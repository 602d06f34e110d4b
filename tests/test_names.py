"""Every public name of the installed scanpy is here, or raises one sentence that says what to use."""

from __future__ import annotations

import importlib
import types
from typing import Any

import pytest
import scanpy as sc

import sc_dask as sd

MODULES = ["", "pp", "tl", "get", "datasets", "metrics", "experimental", "experimental.pp", "queries", "logging"]
MODULES += ["external", "external.pp", "external.tl", "external.pl", "external.exporting", "settings"]
# what stands in scanpy's modules because they import it
IMPORTED = {
    "TYPE_CHECKING",
    "Version",
    "annotate_doc_types",
    "annotations",
    "old_positionals",
    "deprecated",
    "Deprecation",
}
IMPORTED |= {
    "sys",
    "version",
    "overload",
    "partial",
    "update_wrapper",
    "datetime",
    "timedelta",
    "timezone",
    "UTC",
    "getdoc",
}


def at(root: Any, name: str) -> Any:
    for part in filter(None, name.split(".")):
        root = getattr(root, part)
    return root


def public(name: str) -> list[str]:
    """Return the public names of one of scanpy's modules, without what it imports from elsewhere."""
    module = at(sc, name)
    listed = getattr(module, "__all__", None) or dir(module)
    found = []
    for n in (n for n in listed if not n.startswith("_")):
        value = getattr(module, n)
        home = getattr(value, "__module__", None)
        foreign = isinstance(home, str) and not home.startswith(("scanpy", "anndata"))
        outside = isinstance(value, types.ModuleType) and not value.__name__.startswith("scanpy")
        if n not in IMPORTED and not foreign and not outside:
            found.append(n)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_names__of_scanpy_are_here_or_explained(name: str) -> None:
    mine, lacking = at(sd, name), []
    for n in public(name):
        try:
            value = getattr(mine, n)
        except AttributeError as err:
            if "; next: " not in str(err):
                lacking.append(n)
            continue
        assert value is not None or name == "settings"
    if name.startswith("external.pl") or name == "external.exporting":  # modules without __all__: what they define
        lacking = [n for n in lacking if n in mine.__all__]
    assert not lacking


def test_long_names__are_the_short_ones() -> None:
    assert sd.preprocessing is sd.pp
    assert sd.tools is sd.tl
    assert (
        importlib.import_module("sc_dask.experimental.pp").normalize_pearson_residuals
        is sd.pp.normalize_pearson_residuals
    )


@pytest.mark.parametrize("name", ["read_visium", "readwrite"])
def test_left_out__is_an_attribute_error_with_one_sentence(name: str) -> None:
    with pytest.raises(AttributeError, match="; next: "):
        getattr(sd, name)
    assert not hasattr(sd, name)
