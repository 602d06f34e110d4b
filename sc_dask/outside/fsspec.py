"""fsspec: what its versions cannot do."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fsspec.spec import AbstractFileSystem
from packaging.version import Version

READS_ZIP_BEHIND_URL = "2026.9"  # zarr finds nothing in a zip behind a URL with older ones


def reads_zip_behind_url() -> bool:
    """Tell whether zarr can read a zip file that another filesystem holds."""
    return Version(version("fsspec")) >= Version(READS_ZIP_BEHIND_URL)


# whose ``cat_file`` takes a negative start for the last bytes; adlfs takes it for an offset, others are not known
_LAST_BYTES = {"s3", "s3a", "gs", "gcs", "http", "https", "memory", "file", "local", "zip"}


def takes_negative_start(fs: Any) -> bool:
    """Tell whether a filesystem gives the last ``n`` bytes of a file for ``start=-n``."""
    fs = getattr(fs, "sync_fs", fs)  # what zarr wraps
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    is_default = not fs.async_impl and type(fs).cat_file is AbstractFileSystem.cat_file
    return bool(_LAST_BYTES & set(protocols)) or is_default
