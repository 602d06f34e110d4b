"""The files of other writers that are read in place, what reads them right, and the ones that are refused."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import zarr

from sc_dask.outside.anndata import named_layers

Oracle = Callable[[], ad.AnnData]


def _stores(data_dir: Path) -> list[Path]:
    found: list[Path] = []
    for folder, subfolders, files in os.walk(Path(data_dir) / "formats"):
        for name in [n for n in subfolders if n.endswith(".zarr")]:
            subfolders.remove(name)
            found.append(Path(folder) / name)
        found += [Path(folder) / n for n in files if n.endswith((".h5ad", ".zarr.zip"))]
    return sorted(found)


def _refused(path: Path) -> bool:
    return "partials" in path.parts or path.name.startswith("mudata-")


def h5ad_and_zarr_cases(data_dir: Path) -> list[tuple[Path, Oracle]]:
    """Every zarr and h5ad file that anndata reads, and how it reads it."""
    return [(path, partial(_read_with_anndata, path)) for path in _stores(data_dir) if not _refused(path)]


def refused_cases(data_dir: Path) -> list[Path]:
    """Files that anndata refuses too: stores without a group, MuData, Excel."""
    return [p for p in _stores(data_dir) if _refused(p)] + sorted((Path(data_dir) / "formats").rglob("*.xlsx"))


def _read_with_anndata(path: Path) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".h5ad":
            return ad.read_h5ad(path)
        return ad.read_zarr(zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else path)


def dense(x: object) -> np.ndarray:
    """A lazy or in-memory, sparse or dense matrix as an ndarray."""
    if hasattr(x, "compute"):
        x = x.compute()
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def differences(found: ad.AnnData, wanted: ad.AnnData) -> list[str]:
    """What of X, layers, raw, names, columns and the other slots is not equal."""
    out = []
    for axis in ("obs", "var"):
        a, b = getattr(found, axis), getattr(wanted, axis)
        if not a.index.equals(b.index):
            out.append(f"{axis}_names")
        if list(a.columns) != list(b.columns) or not a.dtypes.equals(b.dtypes) or not a.equals(b):
            out.append(f"{axis} columns")
    for slot in ("obsm", "varm", "obsp", "varp", "uns"):
        if sorted(getattr(found, slot)) != sorted(getattr(wanted, slot)):
            out.append(slot)
    layers, wanted_layers = dict(named_layers(found)), dict(named_layers(wanted))
    if sorted(layers) != sorted(wanted_layers):
        out.append("layers")
    pairs = [("X", found.X, wanted.X), *((f"layers/{k}", layers.get(k), x) for k, x in wanted_layers.items())]
    if (found.raw is None) != (wanted.raw is None):
        out.append("raw")
    elif wanted.raw is not None:
        pairs.append(("raw.X", found.raw.X, wanted.raw.X))
        if not found.raw.var.equals(wanted.raw.var):
            out.append("raw.var")
    for name, a, b in pairs:
        if a is None or b is None:
            out += [] if a is b else [name]
        elif a.dtype != b.dtype or not np.array_equal(dense(a), dense(b)):
            out.append(name)
    return out


def forget_consolidated(store: Path) -> None:
    """Take zarr v3's copy of all metadata out of the root's: what was deleted still stands there."""
    root = store / "zarr.json"
    if root.exists():
        metadata = json.loads(root.read_text())
        del metadata["consolidated_metadata"]
        root.write_text(json.dumps(metadata))
