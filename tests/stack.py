"""Versions of the libraries that tests compare with: where one does something else, the test says since when."""

from __future__ import annotations

from importlib.metadata import version

from packaging.version import Version

ANNDATA, PANDAS, SCANPY, ZARR = (Version(version(name)) for name in ("anndata", "pandas", "scanpy", "zarr"))
