"""CellTypist's model files, read without running anything that stands in them.

A pickle is a small program: it may call whatever function it names. Here no name leads to a real function or class.
Those that such files contain (numpy's arrays, scikit-learn's estimators) lead to inert classes that remember what they
were given; arrays are made of that afterwards, by ourselves. Any other name is refused.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from sc_dask.errors import FormatError, InputError
from sc_dask.io.blobs.store import Location, open_file
from sc_dask.io.model import AnnotationModel

_NUMPY = {"numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric", "numpy"}
_NUMPY_NAMES = {"_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype"}
# What CellTypist trains with, where old and new scikit-learn keep it, and what these hold that nobody needs here.
_SKLEARN = {"LogisticRegression", "SGDClassifier", "StandardScaler", "Log", "CyHalfBinomialLoss"}
_COPYREG = {("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")}
_NUMBERS = "biuf"


class _Inert:
    """Stands for an object: keeps the arguments that it was made of and the state that it was given."""

    name = ""
    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self.args = args
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Object(_Inert):
    """Stands for ``object``, of which old protocols make instances of other classes."""


class _Reconstructor(_Inert):
    """Stands for ``copyreg._reconstructor(class, base, state)``."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 3 or not (isinstance(args[0], type) and issubclass(args[0], _Inert)) or args[1] is not _Object:
            raise pickle.UnpicklingError("a class of its own")
        return args[0].__new__(args[0])


class _Encode(_Inert):
    """Stands for ``_codecs.encode(text, "latin1")``, which old protocols write bytes with."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("text in another encoding than latin1")
        return args[0].encode("latin1")


class _Reader(pickle.Unpickler):
    """An unpickler that knows inert classes only, new ones for each file."""

    def __init__(self, raw: bytes, where: str) -> None:
        super().__init__(io.BytesIO(raw), encoding="latin1")
        self._where = where
        self._classes: dict[str, type[_Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        known: type[_Inert]
        if (module, name) in _COPYREG:
            known = _Reconstructor
        elif (module, name) == ("_codecs", "encode"):
            known = _Encode
        elif (module, name) in {("builtins", "object"), ("__builtin__", "object")}:
            return _Object
        elif module in _NUMPY and name in _NUMPY_NAMES or module.startswith("sklearn.") and name in _SKLEARN:
            known = _Inert
        else:
            raise FormatError(
                f"{self._where} names {module}.{name}, which no model of CellTypist needs; nothing was run",
                "arrays, LogisticRegression or SGDClassifier, StandardScaler and text",
                "do not load this file with anything else; get the model from its makers",
            )
        return self._classes.setdefault(f"{module}.{name}", type(name, (known,), {"name": name}))

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to something outside of the file")


def read_celltypist(
    path: str | os.PathLike[str] | Location, *, storage_options: Mapping[str, Any] | None = None
) -> AnnotationModel:
    """Read a model file of CellTypist (``.pkl``) without running anything that stands in it.

    Parameters
    ----------
    path
        A path or any fsspec URL.
    storage_options
        For the URL's filesystem.

    Returns
    -------
    A model for ``tl.annotate``; its ``write`` makes a file that needs no such care.

    Raises
    ------
    FormatError
        The file names anything but arrays, text, scikit-learn's logistic regression and its scaler, or is no model.
    StoreError
        It is missing.
    """
    location = Location.parse(path, storage_options)
    with open_file(location) as f:
        raw = f.read()
    try:
        found = _Reader(raw, str(location)).load()
        return _model(found)
    except FormatError:
        raise
    except Exception as err:  # a damaged or malicious pickle may fail in any way
        raise FormatError(
            f"{location} cannot be read: {err}",
            "a model of CellTypist: Model, Scaler_ and description",
            "download it again",
        ) from err


def _model(found: Any) -> AnnotationModel:
    classifier, scaler = (_state(found[key]) for key in ("Model", "Scaler_"))
    coef, intercept = _array(classifier["coef_"]), _array(classifier["intercept_"])
    classes, features = _array(classifier["classes_"]), _array(classifier["features"])
    if len(classes) == 2 and len(coef) == 1:  # one row for two labels
        coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
    scale = np.ones(len(features)) if scaler["scale_"] is None else _array(scaler["scale_"])
    centred = scaler.get("with_mean", True) and scaler["mean_"] is not None
    mean = _array(scaler["mean_"]) if centred else np.zeros(len(features))
    description = {str(k): str(_plain(v)) for k, v in dict(found.get("description") or {}).items()}
    return AnnotationModel(coef, intercept, classes, features, mean, scale, description)


def _state(stand_in: Any) -> dict[str, Any]:
    if not isinstance(stand_in, _Inert) or not isinstance(stand_in.state, dict):
        raise InputError(f"a {type(stand_in).__name__} where an estimator should be")
    return stand_in.state


def _plain(value: Any) -> Any:
    return _array(value).item() if isinstance(value, _Inert) else value


def _array(value: Any) -> np.ndarray:
    """Make an array of what its pickle says of it: numbers or text, nothing else."""
    if not isinstance(value, _Inert):
        return np.asarray(value)
    if value.name == "_frombuffer":
        buffer, dtype, shape, order = value.args
        return np.frombuffer(_bytes(buffer), _dtype(dtype)).reshape(shape, order=order).copy()
    if value.name == "scalar":
        dtype, buffer = value.args
        return np.frombuffer(_bytes(buffer), _dtype(dtype)).reshape(())
    if value.name != "_reconstruct":
        raise InputError(f"a {value.name} where an array should be")
    _, shape, dtype, fortran, content = value.state
    if isinstance(content, list):
        if not all(isinstance(item, str) for item in content):
            raise InputError("an array of objects that are not text")
        return np.array(content, dtype=str).reshape(shape, order="F" if fortran else "C")
    return np.frombuffer(_bytes(content), _dtype(dtype)).reshape(shape, order="F" if fortran else "C").copy()


def _bytes(content: Any) -> bytes:
    if not isinstance(content, bytes | bytearray):
        raise InputError(f"a {type(content).__name__} where the bytes of an array should be")
    return bytes(content)


def _dtype(stand_in: Any) -> np.dtype[Any]:
    """Return the type of numbers or of text of a fixed width that a pickle of it says."""
    code, order = str(stand_in.args[0]), stand_in.state[1]
    if code[:1] not in f"{_NUMBERS}U" or not code[1:].isdigit() or order not in ("<", ">", "|", "="):
        raise InputError(f"an array of type {code!r}")
    return np.dtype(("" if order in "|=" else order) + code)
