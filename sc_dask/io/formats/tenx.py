"""10x Genomics: feature-barcode matrices as HDF5 (Cell Ranger 2 and 3+) and as folders of Matrix Market and tsv files.

The HDF5 form is a csr matrix of cells by genes and is read in place. Names, columns and choices equal
``scanpy.read_10x_h5`` (names may repeat) and ``scanpy.read_10x_mtx`` (names are made unique). Beyond scanpy, the
files of a folder may be plain or gzipped in any combination, as STARsolo and others write them.
"""

from __future__ import annotations

import posixpath
from typing import Any

import anndata.utils
import numpy as np
import pandas as pd
from anndata import AnnData

from sc_dask.array.blocks import from_source
from sc_dask.array.chunks import cut_row_pieces, default_block_bytes
from sc_dask.errors import FormatError, InputError, NothingThereError
from sc_dask.io.blobs.store import Location, open_h5
from sc_dask.io.formats.h5ad import H5CSRSource
from sc_dask.io.formats.spill import Spill
from sc_dask.io.formats.text import open_stream, stream_mtx

GENE_EXPRESSION = "Gene Expression"
_ROLES = {"matrix": ("matrix.mtx",), "genes": ("genes.tsv", "features.tsv"), "barcodes": ("barcodes.tsv",)}
_NOT_COLUMNS = ("name", "feature_type", "id", "gene_id", "_all_tag_keys")


# -- HDF5 ----------------------------------------------------------------------------------------


def read_h5(location: Location, *, genome: str | None = None, gex_only: bool = True) -> AnnData:
    """Open a 10x HDF5 file; X stays in the file.

    Parameters
    ----------
    location
        ``filtered_feature_bc_matrix.h5`` or ``filtered_gene_bc_matrices_h5.h5``.
    genome
        Which genome: needed for a file of Cell Ranger 2 that holds several; in later ones it keeps that genome's genes.
    gex_only
        Keep features of type "Gene Expression" only (Cell Ranger 3 and later).

    Raises
    ------
    InputError
        A genome that is not there, or several and none was chosen.
    FormatError
        A required dataset is missing.
    """
    with open_h5(location) as f:
        if "matrix" in f:
            obs, var, x = _read_v3(f["matrix"], location)
            keep = np.ones(len(var), bool)
            if genome is not None:
                if "genome" not in var or genome not in set(var["genome"]):
                    found = sorted(set(var["genome"])) if "genome" in var else []
                    raise InputError(f"genome {genome!r} is not in {location}", f"one of {found}", "give genome=")
                keep &= (var["genome"] == genome).to_numpy()
            if gex_only:
                keep &= (var["feature_types"] == GENE_EXPRESSION).to_numpy()
            if not keep.all():
                x, var = x[:, keep], var[keep]
        else:
            obs, var, x = _read_v2(f, location, genome)
    return AnnData(x, obs=obs, var=var)


def _read_v3(group: Any, location: Location) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    if "features" not in group:
        raise FormatError(f"{location} has no /matrix/features", "a file of Cell Ranger 3 or later")
    features, (n_vars, n_obs) = group["features"], shape_of(group, location)
    id_key = "gene_id" if "gene_id" in features else "id"
    var = {"gene_ids": _text(features, id_key, location, n_vars)}
    if id_key == "gene_id":
        var["probe_ids"] = _text(features, "id", location, n_vars)
    var["feature_types"] = _text(features, "feature_type", location, n_vars)
    for key, item in features.items():
        if hasattr(item, "dtype") and key not in _NOT_COLUMNS and item.shape == features[id_key].shape:
            var[key] = item[()].astype(bool) if item.dtype.kind == "b" else _text(features, key, location, n_vars)
    obs = {}
    if "filtered_barcodes" in group:
        _check_length(group, "filtered_barcodes", location, n_obs)
        obs["filtered_barcodes"] = group["filtered_barcodes"][()].astype(bool)
    return (
        pd.DataFrame(obs, index=_names(_text(group, "barcodes", location, n_obs))),
        pd.DataFrame(var, index=_names(_text(features, "name", location, n_vars))),
        _matrix(group, location),
    )


def _read_v2(f: Any, location: Location, genome: str | None) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    genomes = sorted(f)
    if genome is None and len(genomes) > 1:
        raise InputError(
            f"{location} holds the genomes {', '.join(genomes)}", "one of them", f"give genome={genomes[0]!r}"
        )
    if genome is not None and genome not in genomes:
        raise InputError(f"genome {genome!r} is not in {location}", f"one of {genomes}", "give genome=")
    group = f[genome or genomes[0]]
    n_vars, n_obs = shape_of(group, location)
    obs = pd.DataFrame(index=_names(_text(group, "barcodes", location, n_obs)))
    gene_names = _names(_text(group, "gene_names", location, n_vars))
    var = pd.DataFrame({"gene_ids": _text(group, "genes", location, n_vars)}, index=gene_names)
    return obs, var, _matrix(group, location)


def shape_of(group: Any, location: Location) -> tuple[int, int]:
    """Return how many genes and cells a 10x matrix says that it has.

    Raises
    ------
    FormatError
        It does not say so.
    """
    if "shape" not in group or group["shape"].shape != (2,):
        raise FormatError(f"{location} has no {group.name}/shape of two numbers", "a 10x feature-barcode matrix")
    n_vars, n_obs = (int(n) for n in group["shape"][()])
    return n_vars, n_obs


def _check_length(group: Any, key: str, location: Location, n: int) -> None:
    if key not in group:
        raise FormatError(f"{location} has no {group.name}/{key}", "a 10x feature-barcode matrix")
    if group[key].shape != (n,):
        raise FormatError(
            f"{location}: {group.name}/{key} has shape {group[key].shape}",
            f"{n} values, as the shape of the matrix says",
            "fetch the file again",
        )


def _text(group: Any, key: str, location: Location, n: int) -> np.ndarray:
    _check_length(group, key, location, n)
    values = group[key][()]
    if values.dtype.kind in "SO":
        try:
            values = np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values], dtype=object)
        except UnicodeDecodeError as e:
            raise FormatError(f"{location}: {group.name}/{key} holds text that is not UTF-8: {e}", "UTF-8") from e
    return values.astype(str).astype(object)  # type: ignore[no-any-return]


def _names(values: np.ndarray) -> pd.Index:
    return pd.Index(values, dtype=object)


def _matrix(group: Any, location: Location) -> Any:
    n_vars, n_obs = shape_of(group, location)
    source = H5CSRSource.of(location, group, (n_obs, n_vars))
    nnz_bytes = 4 + source.dtype.itemsize
    return from_source(source, cut_row_pieces(source.opened().indptr_pieces(), default_block_bytes(), nnz_bytes))


# -- a folder ------------------------------------------------------------------------------------


def read_mtx(
    location: Location,
    spill: Spill,
    *,
    var_names: str = "gene_symbols",
    make_unique: bool = True,
    gex_only: bool = True,
    prefix: str | None = None,
) -> AnnData:
    """Read a 10x folder, streaming its matrix into ``spill``.

    Parameters
    ----------
    location
        The folder, or its ``matrix.mtx`` (``.gz``).
    spill
        Where the rows are spilled.
    var_names
        ``"gene_symbols"`` or ``"gene_ids"``: what names the genes; the other becomes a column.
    make_unique
        Append -1, -2, ... to symbols that repeat.
    gex_only
        Keep features of type "Gene Expression" only (files with a column of types).
    prefix
        What stands before ``matrix.mtx``, ``barcodes.tsv`` and so on; needed when a folder holds several matrices.

    Raises
    ------
    FormatError
        A file is missing or damaged, or the three disagree on their lengths.
    """
    if var_names not in ("gene_symbols", "gene_ids"):
        raise InputError(f"found var_names={var_names!r}", "'gene_symbols' or 'gene_ids'")
    folder, files = folder_files(location, prefix)
    genes = _tsv(folder / files["genes"])
    barcodes = _tsv(folder / files["barcodes"])
    obs = pd.DataFrame(index=_names(barcodes[0].to_numpy()))
    symbols = genes[1 if genes.shape[1] > 1 else 0]
    if var_names == "gene_symbols":
        index = _names(symbols.to_numpy())
        index = anndata.utils.make_index_unique(index) if make_unique else index
        var = pd.DataFrame({"gene_ids": genes[0].to_numpy()}, index=index)
    else:
        var = pd.DataFrame({"gene_symbols": symbols.to_numpy()}, index=_names(genes[0].to_numpy()))
    is_legacy = files["genes"].removesuffix(".gz").endswith("genes.tsv")
    if not is_legacy and genes.shape[1] > 2:
        var["feature_types"] = genes[2].to_numpy()
    matrix = folder / files["matrix"]
    n_obs, n_vars = stream_mtx(matrix, spill, transpose=True)
    if (n_obs, n_vars) != (len(obs), len(var)):
        raise FormatError(
            f"{matrix} is {n_vars} x {n_obs}, beside {len(var)} features and {len(obs)} barcodes",
            "three files of one matrix",
        )
    source = spill.finish(n_obs, n_vars)
    x = from_source(source, source.cuts())
    if gex_only and "feature_types" in var:
        keep = (var["feature_types"] == GENE_EXPRESSION).to_numpy()
        x, var = x[:, keep], var[keep]
    return AnnData(x, obs=obs, var=var)


def folder_files(location: Location, prefix: str | None) -> tuple[Location, dict[str, str]]:
    """Return the folder and the names of its matrix, genes and barcodes files."""
    if location.name.lower().endswith((".mtx", ".mtx.gz")):
        if prefix is None:
            prefix = location.name.removesuffix(".gz").removesuffix("matrix.mtx")
        location = Location(posixpath.dirname(location.url), location.storage_options)
    fs, path = location.fs()
    try:
        names = sorted(posixpath.basename(str(p).rstrip("/")) for p in fs.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError) as e:
        raise NothingThereError(
            f"there is no folder {location}", "a folder of Cell Ranger", "check the spelling"
        ) from e
    if prefix is None:
        found = [n for n in names if n.endswith(("matrix.mtx", "matrix.mtx.gz"))]
        prefixes = sorted({n.removesuffix(".gz").removesuffix("matrix.mtx") for n in found})
        if len(prefixes) > 1:
            raise InputError(f"{location} holds several matrices: {', '.join(found)}", "one of them", "give prefix=")
        prefix = prefixes[0] if prefixes else ""
    files = {}
    for role, stems in _ROLES.items():
        wanted = [f"{prefix}{stem}{gz}" for stem in stems for gz in ("", ".gz")]
        present = [w for w in wanted if w in names]
        if not present:
            raise FormatError(
                f"{location} has no {prefix}{' or '.join(stems)} (plain or .gz)", "a folder of Cell Ranger"
            )
        files[role] = present[0]
    return location, files


def has_companions(location: Location) -> bool:
    """Return whether the folder of a ``matrix.mtx`` has genes and barcodes beside it."""
    if not location.name.removesuffix(".gz").endswith("matrix.mtx"):
        return False
    try:
        folder_files(location, None)
    except (FormatError, NotImplementedError):
        return False
    return True


def _tsv(location: Location) -> pd.DataFrame:
    with open_stream(location) as f:
        try:
            table = pd.read_csv(f, sep="\t", header=None, na_filter=False, dtype=str)  # 00017 is a name, not 17
        except pd.errors.EmptyDataError as e:
            raise FormatError(f"{location} is empty", "a name in each line") from e
    return table
