"""Loom files: genes by cells, dense, in HDF5. Read by columns, which are the cells, into csr blocks.

Equals ``anndata.io.read_loom`` with its defaults, with two differences: X has the type that the file has (anndata
makes it float32), and an attribute called ``_index``, a name that AnnData's spec reserves, becomes ``index``.
Layers are kept; graphs are not. X stays in the file; HDF5's own chunks (usually 64 x 64) are read once per block.
"""

from __future__ import annotations

import html
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from dask.base import tokenize

from sc_dask.array.blocks import RowBlocks, from_source
from sc_dask.array.chunks import cut_dense, default_block_bytes
from sc_dask.array.source import METER, Block
from sc_dask.errors import FormatError
from sc_dask.io.blobs.fetch import written_again
from sc_dask.io.blobs.store import Location, fingerprint, open_h5
from sc_dask.io.formats.csr import block_dtype
from sc_dask.io.formats.stored import StoredSource
from sc_dask.kernels.csr import canonical

_LOCK = threading.Lock()  # h5py has one anyway
GENE_ROWS_BYTES = 16 << 20  # genes are read in strips of about this size


@dataclass(frozen=True)
class LoomSource(StoredSource):
    """Cells of one matrix of a loom file (a ``BlockSource``)."""

    location: Location
    path: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    stamp: str

    @property
    def is_sparse(self) -> bool:
        return True

    @property
    def read_once(self) -> bool:
        """Spilling rows is cheaper than reading them again: their zeros are stored too, and h5py has one lock."""
        return True

    @property
    def token(self) -> str:
        return tokenize(type(self).__name__, self.location.url, self.path, self.stamp, str(self.dtype))

    def read(self, start: int, stop: int) -> Block:
        strips = []
        with _LOCK, open_h5(self.location) as f:
            if fingerprint(self.location) != self.stamp:
                raise written_again(str(self.location))
            data = f[self.path]
            rows = data.chunks[0] if data.chunks else 1
            strip = max(1, GENE_ROWS_BYTES // max(1, (stop - start) * data.dtype.itemsize * rows)) * rows
            for first in range(0, self.shape[1], strip):
                part = data[first : first + strip, start:stop]
                METER.add(n_bytes=part.nbytes)
                strips.append(sp.csr_matrix(part.astype(self.dtype, copy=False)))
        METER.add(rows=stop - start)
        if not strips:
            return sp.csr_matrix((stop - start, self.shape[1]), dtype=self.dtype)
        out = sp.vstack(strips, format="csr").T.tocsr()
        return canonical(out.data, out.indices, out.indptr, self.shape[1])


def read(
    location: Location,
    *,
    obs_names: str = "CellID",
    var_names: str = "Gene",
    X_name: str = "spliced",
) -> AnnData:
    """Open a loom file; X and layers stay in the file.

    Parameters
    ----------
    location
        The file.
    obs_names, var_names
        Column and row attributes that name cells and genes; numbered when they are not there.
    X_name
        The layer that becomes X if there is one (it stays a layer too); the main matrix is then the layer ``matrix``.

    Raises
    ------
    FormatError
        No ``matrix``, ``row_attrs`` or ``col_attrs``, or lengths that disagree.
    """
    with open_h5(location) as f:
        for key in ("matrix", "row_attrs", "col_attrs"):
            if key not in f:
                raise FormatError(f"{location} has no {key}", "a loom file")
        n_vars, n_obs = (int(n) for n in f["matrix"].shape)
        obs, obsm = _attributes(f["col_attrs"], obs_names, n_obs, location)
        var, varm = _attributes(f["row_attrs"], var_names, n_vars, location)
        stored = {key: f"layers/{key}" for key in f.get("layers", ())}
        x_path = stored.get(X_name, "matrix")
        if x_path != "matrix":
            stored["matrix"] = "matrix"
        x = _matrix(f, x_path, location, (n_obs, n_vars))
        layers = {key: _matrix(f, path, location, (n_obs, n_vars)) for key, path in stored.items()}
    return AnnData(x, obs=obs, var=var, obsm=obsm, varm=varm, layers=layers)


def _matrix(f: Any, path: str, location: Location, shape: tuple[int, int]) -> RowBlocks:
    data = f[path]
    if data.shape != shape[::-1] or data.dtype.kind not in "iufb":
        raise FormatError(f"{location}: {path} has shape {data.shape} and type {data.dtype}", f"{shape[::-1]} numbers")
    dtype = block_dtype(data.dtype, f"{location}: {path}")
    source = LoomSource(location, path, shape, dtype, fingerprint(location))
    row_chunk = data.chunks[1] if data.chunks else 1
    return from_source(source, cut_dense(shape[0], shape[1], data.dtype.itemsize, default_block_bytes(), row_chunk))


def _attributes(group: Any, names: str, n: int, location: Location) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    columns: dict[str, np.ndarray] = {}
    wide: dict[str, np.ndarray] = {}
    for key in group:
        values = _decoded(group[key][()], f"{location}: {group.name}/{key}")
        if values.ndim == 0 or len(values) != n:
            raise FormatError(f"{location}: {group.name}/{key} has shape {values.shape}", f"{n} values")
        if values.ndim > 1 and values.shape[1] > 1:
            wide[key] = values
        else:
            columns["index" if key == "_index" else key] = values.reshape(n)
    index = columns.pop(names, None)
    frame_index = None if index is None else pd.Index(index.astype(str).astype(object), name=names)
    if frame_index is None:
        frame_index = pd.Index(np.arange(n).astype(str).astype(object))
    return pd.DataFrame(columns, index=frame_index), wide


def _decoded(values: np.ndarray, name: str) -> np.ndarray:
    """Return text with XML entities resolved, as loompy does, which writes ASCII; others write UTF-8."""
    if values.dtype.kind not in "SUO":
        return values
    try:
        words = [v.decode() if isinstance(v, bytes) else str(v) for v in values.ravel()]
    except UnicodeDecodeError as e:
        raise FormatError(f"{name} holds text that is not UTF-8: {e}", "UTF-8", "write the attribute again") from e
    return np.array([html.unescape(w) for w in words], dtype=object).reshape(values.shape)
