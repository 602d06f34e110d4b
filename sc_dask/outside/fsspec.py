"""fsspec: what its versions cannot do."""

from __future__ import annotations

from importlib.metadata import version

from packaging.version import Version

READS_ZIP_BEHIND_URL = "2026.9"  # zarr finds nothing in a zip behind a URL with older ones


def reads_zip_behind_url() -> bool:
    """Tell whether zarr can read a zip file that another filesystem holds."""
    return Version(version("fsspec")) >= Version(READS_ZIP_BEHIND_URL)
