"""Linear models that name cell types: in memory, and on disk as an npz file without any pickle.

The file holds the arrays ``coef``, ``intercept``, ``mean`` and ``scale``, and ``header``: JSON in UTF-8 with the names
of genes and labels. `sc_dask.io.celltypist` reads the files of CellTypist.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sc_dask import work
from sc_dask.errors import FormatError, InputError
from sc_dask.io.blobs.store import Location, open_file

FORMAT, VERSION = "sc_dask annotation model", 1
_ARRAYS = ("coef", "intercept", "mean", "scale")


@dataclass(frozen=True, eq=False)
class AnnotationModel:
    """One against the rest for each label: ``sigmoid(min((x - mean) / scale, 10) @ coef.T + intercept)``.

    Made by ``tl.train_annotation``, `read_model` or ``io.celltypist.read_celltypist``.
    """

    coef: NDArray[np.float64]  # n_classes x n_features
    intercept: NDArray[np.float64]  # n_classes
    classes: NDArray[np.str_]  # n_classes
    features: NDArray[np.str_]  # n_features, names of genes
    mean: NDArray[np.float64]  # n_features
    scale: NDArray[np.float64]  # n_features, positive
    description: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        for name in ("classes", "features"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)).astype(str))
        shapes = {name: getattr(self, name).shape for name in (*_ARRAYS, "classes", "features")}
        n_classes, n_features = len(self.classes), len(self.features)
        expected = {"coef": (n_classes, n_features), "intercept": (n_classes,), "classes": (n_classes,)}
        expected |= dict.fromkeys(("features", "mean", "scale"), (n_features,))
        if shapes != expected or n_classes < 2 or n_features < 1:
            raise InputError(f"found arrays of the shapes {shapes}", "one row a label, two or more, one column a gene")
        if any(not np.isfinite(getattr(self, name)).all() for name in _ARRAYS) or (self.scale <= 0).any():
            raise InputError("found numbers that are not finite, or scales that are not positive", "finite numbers")
        for name in ("classes", "features"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"found {name} that occur twice", "different names")

    def __repr__(self) -> str:
        return f"AnnotationModel({len(self.classes)} labels, {len(self.features)} genes, {dict(self.description)})"

    def write(
        self, path: str | os.PathLike[str] | Location, *, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        """Write the model as one npz file to a path or fsspec URL; what is there is replaced when it is whole."""
        location = Location.parse(path, storage_options)
        header = {"format": FORMAT, "version": VERSION, "description": dict(self.description)}
        header |= {"classes": self.classes.tolist(), "features": self.features.tolist()}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        whole = io.BytesIO()
        np.savez_compressed(whole, **arrays)
        if not location.is_local:
            fs, key = location.fs()
            fs.pipe_file(key, whole.getvalue())
            return
        location.path.parent.mkdir(parents=True, exist_ok=True)
        partial = work.partial(location.path)
        partial.write_bytes(whole.getvalue())
        partial.replace(location.path)


def read_model(
    path: str | os.PathLike[str] | Location, *, storage_options: Mapping[str, Any] | None = None
) -> AnnotationModel:
    """Read a model that `AnnotationModel.write` wrote. Nothing is ever unpickled.

    Parameters
    ----------
    path
        A path or any fsspec URL.
    storage_options
        For the URL's filesystem.

    Raises
    ------
    FormatError
        The file is damaged or not ours.
    StoreError
        It is missing.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> one = np.ones((2, 1))
    >>> model = AnnotationModel(one, one[:, 0], ["a", "b"], ["CD3E"], one[0], one[0])
    >>> model.write(f"{tempfile.gettempdir()}/kinds.npz")
    >>> read_model(f"{tempfile.gettempdir()}/kinds.npz")
    AnnotationModel(2 labels, 1 genes, {})
    """
    location = Location.parse(path, storage_options)
    with open_file(location) as f:
        raw = f.read()
    if raw[:1] == b"\x80" or str(location).endswith(".pkl"):
        raise FormatError(
            f"{location} is a pickle, which can run any code when it is loaded",
            "a model that sc_dask wrote",
            "of CellTypist: sc_dask.io.celltypist.read_celltypist(path), which runs none, then model.write(other)",
        )
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            found = {name: arrays[name] for name in _ARRAYS}
        if (header["format"], header["version"]) != (FORMAT, VERSION):
            raise FormatError(
                f"{location} is a {header['format']!r} of version {header['version']}", f"{FORMAT!r}, version {VERSION}"
            )
        return AnnotationModel(
            **found,
            classes=np.asarray(header["classes"]),
            features=np.asarray(header["features"]),
            description=header["description"],
        )
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as err:
        raise FormatError(f"{location} cannot be read: {err}", "an npz file that model.write wrote") from err
