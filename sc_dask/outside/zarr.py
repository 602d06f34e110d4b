"""zarr: what an array says of itself, by zarr's specification, and coroutines run where zarr runs its own."""

from __future__ import annotations

from typing import Any

import zarr
from zarr.core.sync import sync  # private: stores of fsspec are bound to the event loop that it runs

__all__ = ["JSON", "metadata_of", "name_of", "options_of", "sync"]

JSON = Any


def metadata_of(array: zarr.Array[Any]) -> dict[str, JSON]:
    """Return the metadata of an array as they are stored (``zarr.json``, ``.zarray``).

    Attributes of codec objects change: ``shuffle`` and ``endian`` were enums before zarr 3.2.
    """
    return dict(array.metadata.to_dict())


def name_of(codec: JSON) -> str:
    """Return the name of a stored codec; the specification allows a plain name for one without options."""
    return codec if isinstance(codec, str) else str(codec["name"])


def options_of(codec: JSON) -> dict[str, JSON]:
    """Return the options of a stored codec."""
    return {} if isinstance(codec, str) else dict(codec.get("configuration") or {})
