"""Versions of the libraries that tests compare with: where one does something else, the test says since when."""

from __future__ import annotations

from importlib.metadata import version

from packaging.version import Version

_NAMES = ("anndata", "pandas", "scanpy", "umap-learn", "zarr")
ANNDATA, PANDAS, SCANPY, UMAP, ZARR = (Version(version(name)) for name in _NAMES)
# how near weights are to exact ones: its own sums were less exact before
UMAP_WEIGHTS = 1e-6 if Version("0.5.12") <= UMAP else 1e-5
