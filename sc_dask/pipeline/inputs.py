"""The input of a run: a name for its state, and the checks that need no pass over X."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad

from sc_dask import get, slots
from sc_dask.errors import InputError
from sc_dask.io.blobs.store import ZARR_KEYS, Location, fingerprint
from sc_dask.io.formats.tenx import has_companions
from sc_dask.io.info import Info
from sc_dask.io.read import read
from sc_dask.log import logger

if TYPE_CHECKING:
    from anndata import AnnData

    from sc_dask.pipeline.settings import Settings

IN_PLACE = ("zarr", "h5ad")
# what a run writes: of these, nothing old may stay among the new
_WRITERS = ("pp.highly_variable_genes", "pp.log1p", "pp.pca", "pp.neighbors", "tl.umap")
_OLD_UNS = ("leiden", "leiden_colors", "rank_genes_groups", "dendrogram_leiden")


def is_read_in_place(file_info: Info) -> bool:
    """Tell whether rows can be read from the file as it is; else it is converted first (csc: turned into rows)."""
    return file_info.kind in IN_PLACE and not file_info.by_columns


def state_of(source: Location) -> str:
    """Return a text that changes when any file of the input is written again.

    Of a folder on this machine every file is looked at, and of a ``matrix.mtx`` those beside it that name its rows and
    columns; of a folder in a bucket the metadata, which every writer renews.
    """
    if not source.is_local:
        fs, path = source.fs()
        keys = [
            "",
            *(f"{at}{key}" for at in ("", "X/", "X/data/", "obs/", "layers/") for key in (*ZARR_KEYS, ".zattrs")),
        ]
        if not any(fs.exists(f"{path}/{key}") for key in ZARR_KEYS):
            found = fs.find(path, detail=True) if fs.isdir(path) else {}
            keys = ["", *(name[len(path) :].lstrip("/") for name in found)]
        return ";".join(fingerprint(source, key) for key in keys)
    top = source.path if source.path.is_dir() else source.path.parent
    states = (f"{os.path.relpath(file, top)},{s.st_size},{s.st_mtime_ns}" for file, s in _files(source.path).items())
    return ";".join(sorted(states))


def summary_of(source: Location) -> str:
    """Return the state of an input for people: of files on this machine their number, size, and when last written."""
    if not source.is_local:
        return "in a bucket"
    stats = _files(source.path).values()
    last = datetime.fromtimestamp(max((s.st_mtime for s in stats), default=0.0))
    files = f"{len(stats)} file{'s' * (len(stats) != 1)} of {sum(s.st_size for s in stats):,} bytes"
    return f"{files}, last written {last.isoformat(' ', 'milliseconds')}"


def _files(source: Path) -> dict[str, os.stat_result]:
    """Return the files that an input is made of."""
    beside = ("barcodes", "genes", "features")
    if source.is_dir():
        found = [os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names]
    elif has_companions(Location(str(source))):
        found = [str(p) for p in source.parent.iterdir() if p == source or any(n in p.name for n in beside)]
    else:
        found = [str(source)]
    stats = {}
    for file in found:
        with contextlib.suppress(FileNotFoundError):  # a link that points nowhere
            stats[file] = os.stat(file)
    return stats


def check_info(file_info: Info, s: Settings) -> None:
    """Refuse what the shape alone tells.

    Raises
    ------
    InputError
        No cells, no genes, or more components than either.
    """
    if file_info.kind in IN_PLACE and file_info.shape is None:
        raise InputError(f"{file_info.url} has no X", "a count matrix in X", _elsewhere(file_info))
    layer = s.input.layer
    if file_info.kind not in IN_PLACE and (s.input.use_raw or (layer is not None and layer not in file_info.layers)):
        found = "input.use_raw" if s.input.use_raw else f"input.layer: {layer}"
        raise InputError(
            f"{found}, but {file_info.url} is a {file_info.kind} file without it", "its only matrix", "leave it out"
        )
    if file_info.shape is None:
        return
    for n, what in zip(file_info.shape, ("cells", "genes"), strict=True):
        if n == 0:
            raise InputError(f"{file_info.url} has no {what}", "at least one", f"sc-dask info {file_info.url}")
    if s.pca.n_comps and s.pca.n_comps > min(file_info.shape):
        n_obs, n_vars = file_info.shape
        raise InputError(
            f"pca.n_comps is {s.pca.n_comps} and {file_info.url} has {n_obs} cells and {n_vars} genes",
            f"at most {min(file_info.shape)}",
            f"pca: {{n_comps: {min(50, min(file_info.shape))}}}",
        )
    if (
        s.hvg.batch_key is not None
        and file_info.kind in IN_PLACE
        and file_info.obs
        and s.hvg.batch_key not in file_info.obs
    ):
        raise InputError(
            f"{file_info.url} has no column obs[{s.hvg.batch_key!r}]", f"one of: {', '.join(file_info.obs)}"
        )


def _elsewhere(file_info: Info) -> str:
    if file_info.layers:
        return f"input: {{layer: {file_info.layers[0]}}}"
    return "input: {use_raw: true}" if file_info.has_raw else f"sc-dask info {file_info.url}"


@contextlib.contextmanager
def repeated_names() -> Iterator[None]:
    """Leave out anndata's warnings of names that occur more than once: `open_input` makes or refuses them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* names are not unique")
        yield


def open_input(source: Location, s: Settings, *, name: str, block_bytes: int, make_unique: bool = False) -> AnnData:
    """Return the lazy input with the chosen counts as X and without what an earlier analysis left.

    Parameters
    ----------
    source
        AnnData zarr or h5ad.
    name
        What messages call it.
    make_unique
        Append -1, -2, ... to names of genes that occur more than once (10x h5, whose symbols always repeat).

    Raises
    ------
    InputError
        A name occurs more than once, or the counts or the column of batches are not there.
    """
    with repeated_names():
        adata = read(source, block_bytes=block_bytes)
    if s.input.use_raw:
        x = get.stored(adata, use_raw=True)
        slots_kept: dict[str, Any] = {k: dict(getattr(adata, k)) for k in ("obsm", "obsp", "uns")}
        adata = ad.AnnData(x, obs=adata.obs, var=adata.raw.var, **slots_kept)
    elif s.input.layer is not None:
        slots.write(adata, {("X", ""): get.stored(adata, s.input.layer)})
    if adata.raw is not None:
        slots.drop(adata, "raw", "")  # its genes are those of another X; X holds the counts that are analysed
    for writer in _WRITERS:
        for slot in slots.of(writer):
            if "{" not in slot.key and slot.attr != "X":
                slots.drop(adata, slot.attr, slot.key)
    for key in _OLD_UNS:
        slots.drop(adata, "uns", key)
    if make_unique and not adata.var_names.is_unique:
        n_twice = int(adata.var_names.duplicated().sum())
        logger.warning(
            "%d names of genes in %s are not the first of their kind: -1, -2, ... is appended", n_twice, name
        )
        adata.var_names_make_unique()
    _check_names(adata, name)
    if s.hvg.batch_key is not None:
        get.batches(adata, s.hvg.batch_key)
    if s.qc.gene_symbols is not None:
        get.column(adata, s.qc.gene_symbols, axis="var")
    return adata


def _check_names(adata: AnnData, name: str) -> None:
    for axis, names in (("cells", adata.obs_names), ("genes", adata.var_names)):
        if not names.is_unique:
            twice = names[names.duplicated()][0]
            raise InputError(
                f"names of {axis} in {name} are not unique ({twice!r} occurs more than once)",
                "unique names",
                f"adata.{'obs' if axis == 'cells' else 'var'}_names_make_unique() and write the file again",
            )
