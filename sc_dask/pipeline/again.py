"""The same run again: whether a store is what this very run would write, and if not, what differs."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import anndata as ad

from sc_dask import __version__
from sc_dask.errors import FormatError, StoreError
from sc_dask.io.blobs.store import Location, open_group
from sc_dask.io.formats.zarr import is_complete

if TYPE_CHECKING:
    from sc_dask.pipeline.settings import Settings


def about(source: Location, summary: str, settings: Settings, key: str) -> dict[str, Any]:
    """Return what ``uns["sc_dask"]`` of the result says of its run.

    Parameters
    ----------
    summary
        Of the state of the input, for people (`sc_dask.pipeline.inputs.summary_of`).
    key
        A name of all that decides the result.
    """
    sections = {f.name: settings.sections([f.name]) for f in fields(settings)}
    return {
        "version": __version__,
        "run": key,
        "input": str(source),
        "input_state": summary,
        "settings": json.dumps(sections, allow_nan=False),
    }


def read_about(out: Location) -> dict[str, Any] | None:
    """Return what a whole store says of its run; None if it is not whole, or of no run."""
    try:
        root = open_group(out)
        if not is_complete(root, out):  # of an unfinished store: StoreError
            return None
        found = ad.io.read_elem(root["uns/sc_dask"])
        return found if "run" in found else None
    except (OSError, StoreError, FormatError, KeyError, TypeError, ValueError):
        return None


def difference(out: Location, now: dict[str, Any]) -> str:
    """Say how the run that made a store differs from this one, which `about` has told of."""
    then = read_about(out)
    if then is None:
        return "no result of sc-dask run"
    found = _settings_that_differ(then, now)
    if str(then["version"]) != now["version"]:
        found.append(f"sc_dask was {then['version']} and is {now['version']}")
    if str(then["input"]) != now["input"]:
        found.append(f"input was {then['input']} and is {now['input']}")
    elif str(then.get("input_state")) != now["input_state"]:
        found.append(f"input {now['input']} was {then.get('input_state')} and is {now['input_state']}")
    if not found:
        found.append(f"input {now['input']} was written again since")
    more = f", and {len(found) - 4} more" if len(found) > 4 else ""
    return f"made by another run: {', '.join(found[:4])}{more}"


def _settings_that_differ(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    try:
        before = json.loads(str(then["settings"]))
    except (KeyError, ValueError):
        return []
    out = []
    for section, options in json.loads(now["settings"]).items():
        for name, value in options.items():
            was = before.get(section, {}).get(name)
            if was != value:
                out.append(f"{section}.{name} was {json.dumps(was)} and is {json.dumps(value)}")
    return out
