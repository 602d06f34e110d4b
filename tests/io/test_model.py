from __future__ import annotations

import io
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sc_dask as sd
from sc_dask.errors import FormatError, InputError, StoreError
from sc_dask.io.celltypist import read_celltypist
from sc_dask.io.model import AnnotationModel, read_model

GENES = ["CD3E", "CD79A", "gène"]


def made(n_labels: int = 3) -> AnnotationModel:
    rng = np.random.default_rng(0)
    classes = np.array(["T", "B", "NK|x"][:n_labels])
    coef, intercept = rng.normal(size=(n_labels, 3)), rng.normal(size=n_labels)
    return AnnotationModel(coef, intercept, classes, np.array(GENES), rng.random(3), rng.random(3) + 1, {"date": "now"})


def assert_same(a: AnnotationModel, b: AnnotationModel) -> None:
    for name, value in vars(a).items():
        np.testing.assert_array_equal(getattr(b, name), value, err_msg=name)


@pytest.mark.parametrize("where", ["file", "memory"])
def test_model__written_and_read_back(where: str, tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "kinds.npz") if where == "file" else "memory://models/kinds.npz"
    for n_labels in (2, 3):  # the second one replaces the first
        made(n_labels).write(path)
        assert_same(made(n_labels), sd.read_model(path))
    if where == "file":
        assert os.listdir(tmp_path / "new") == ["kinds.npz"]
        with np.load(path, allow_pickle=False) as arrays:
            assert json.loads(arrays["header"].tobytes())["features"] == GENES


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"coef": np.ones((3, 2))}, "arrays of the shapes"),
        ({"classes": ["T"], "coef": np.ones((1, 3)), "intercept": [1]}, "two or more"),
        ({"scale": [0, 1, 1]}, "not positive"),
        ({"mean": [np.nan, 1, 1]}, "not finite"),
        ({"features": ["a", "a", "b"]}, "features that occur twice"),
        ({"classes": ["a", "a", "b"]}, "classes that occur twice"),
    ],
)
def test_model__what_does_not_fit(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AnnotationModel(**{**vars(made()), **changed})


def test_read__what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing\.npz"):
        read_model(tmp_path / "nothing.npz")
    path = tmp_path / "x.npz"
    for content in (b"", b"PK\x03\x04 damaged", b"text"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="cannot be read"):
            read_model(path)
    np.savez(path, coef=np.ones(3))
    with pytest.raises(FormatError, match="cannot be read"):
        read_model(path)
    np.savez(path, header=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(FormatError, match="allow_pickle=False"):
        read_model(path)
    made().write(path)
    with np.load(path) as arrays:
        parts = dict(arrays)
    header = json.loads(parts["header"].tobytes()) | {"version": 99}
    np.savez(path, **{**parts, "header": np.frombuffer(json.dumps(header).encode(), np.uint8)})
    with pytest.raises(FormatError, match="version 99; expected 'sc_dask annotation model', version 1"):
        read_model(path)
    path.write_bytes(pickle.dumps({}))
    with pytest.raises(FormatError, match=r"is a pickle, which can run any code.*read_celltypist\(path\)"):
        read_model(path)


# -- files of CellTypist -------------------------------------------------------------------------


def theirs(kind: str, n_labels: int, with_mean: bool = True) -> dict[str, Any]:
    """What CellTypist keeps: estimators of scikit-learn in a dict."""
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)) + 2, np.array(["T", "B", "NK"][:n_labels] * (60 // n_labels), dtype=object)
    scaler = StandardScaler(with_mean=with_mean).fit(x)
    model = LogisticRegression() if kind == "logreg" else SGDClassifier(loss="log_loss")
    model.fit(scaler.transform(x), y)
    model.features = np.array(GENES, dtype=object if n_labels == 3 else str)
    description = {"date": "2022", "details": "x", "version": "v1", "number_celltypes": np.int64(n_labels)}
    return {"Model": model, "Scaler_": scaler, "description": description}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("kind", ["logreg", "sgd"])
@pytest.mark.parametrize("n_labels", [2, 3])
def test_celltypist__reads_what_pickle_wrote(protocol: int, kind: str, n_labels: int, tmp_path: Path) -> None:
    content = theirs(kind, n_labels, with_mean=n_labels == 3)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_celltypist(tmp_path / "model.pkl")
    model, scaler = content["Model"], content["Scaler_"]
    assert found.classes.tolist() == model.classes_.tolist() and found.features.tolist() == GENES
    np.testing.assert_array_equal(found.scale, scaler.scale_)
    np.testing.assert_array_equal(found.mean, scaler.mean_ if n_labels == 3 else np.zeros(3))
    np.testing.assert_array_equal(found.coef[-1:], model.coef_[-1:])
    x = np.random.default_rng(1).normal(size=(5, 3))
    expected = model.decision_function(x)
    expected = np.column_stack([-expected, expected]) if expected.ndim == 1 else expected
    np.testing.assert_allclose(x @ found.coef.T + found.intercept, expected)
    assert found.description["number_celltypes"] == str(n_labels)
    found.write(tmp_path / "safe.npz")
    assert_same(found, read_model(tmp_path / "safe.npz"))


def test_celltypist__arrays_in_any_order_of_bytes_and_axes(tmp_path: Path) -> None:
    content = theirs("logreg", 3)
    coef = content["Model"].coef_
    for other in (np.asfortranarray(coef), coef.astype(">f8"), coef.astype(np.float32)):
        content["Model"].coef_ = other
        for protocol in (2, 5):
            (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol))
            np.testing.assert_array_equal(read_celltypist(tmp_path / "model.pkl").coef, other)


RAN: list[str] = []


def ran(what: str) -> str:
    """What a malicious file would call."""
    RAN.append(what)
    return what


class Evil:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("evil", "named"),
    [
        (Evil(os.system, "touch ran"), "(posix|nt).system"),
        (Evil(eval, "1"), "builtins.eval"),
        (Evil(ran, "here"), "test_model.ran"),
        (Evil(getattr, np.ndarray, "fromfile"), "builtins.getattr"),
        (Evil(np.load, "x"), "numpy.*load"),
        (Evil(pickle.loads, b"x"), "pickle.loads"),
        (OrderedDict(a=1), "collections.OrderedDict"),
    ],
    ids=lambda v: "" if isinstance(v, str) else type(v).__name__,
)
@pytest.mark.parametrize("place", ["alone", "inside"])
@pytest.mark.parametrize("protocol", [0, 4])
def test_celltypist__refuses_whatever_else_is_named(
    evil: Any, named: str, place: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = evil if place == "alone" else {**theirs("logreg", 2), "more": evil}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    named = named.replace("builtins", "(builtins|__builtin__)")
    with pytest.raises(FormatError, match=rf"model.pkl names \S*{named}, which no model .* nothing was run"):
        read_celltypist(path)
    assert not RAN and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"no pickle",
        b"\x80\x04K\x01.",  # a number
        b"\x80\x04}.",  # an empty dict
        pickle.dumps(theirs("logreg", 2))[:-30],  # cut off
        b"cnumpy\ndtype\n(dbtR.",  # no state
        b"cnumpy\nndarray\n}b.",  # a state for a class
        b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(S'f8'\nI0\nI1\ntRI99\ntR.",
        b"ccopyreg\n_reconstructor\n(cnumpy\ndtype\ncnumpy\ndtype\nNtR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"Pan id\n.",
    ],
)
def test_celltypist__other_damage_is_a_format_error(program: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(program)
    with pytest.raises(FormatError, match=r"model\.pkl cannot be read"):
        read_celltypist(tmp_path / "model.pkl")


def test_celltypist__arrays_that_lie(tmp_path: Path) -> None:
    content = theirs("logreg", 2)
    content["Model"].features = np.array([len, max, min], dtype=object)  # of objects that are not text
    buffer = io.BytesIO(pickle.dumps(content))
    (tmp_path / "model.pkl").write_bytes(buffer.getvalue())
    with pytest.raises(FormatError, match="builtins.len"):
        read_celltypist(tmp_path / "model.pkl")
    content["Model"].features = np.array([1, "a", None], dtype=object)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(FormatError, match="objects that are not text"):
        read_celltypist(tmp_path / "model.pkl")
    content["Model"].features = np.zeros(3, dtype="datetime64[s]")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(FormatError, match="an array of type 'M8'"):
        read_celltypist(tmp_path / "model.pkl")
