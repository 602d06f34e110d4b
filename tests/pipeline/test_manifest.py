"""Checkpoints: what is stored comes back, and what is not whole does not count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sc_dask import work
from sc_dask.errors import StoreError
from sc_dask.io.blobs.store import Location
from sc_dask.pipeline.manifest import Manifest, key_of, read_bytes, write_bytes
from sc_dask.slots import Event
from tests.laws.compare import leaves

EVENTS = [
    Event("subset", "obs", np.array([True, False, True])),
    Event("obs", "leiden", pd.Categorical(["1", "10", "2"], categories=["1", "2", "10"])),
    Event("obs", "n_genes", np.arange(3)),
    Event("var", "highly_variable", np.array([True, False])),
    Event("obsm", "X_pca", np.arange(6, dtype=np.float32).reshape(3, 2)),
    Event("obsp", "distances", sp.csr_matrix(np.eye(3, dtype=np.float32))),
    Event("uns", "pca", {"params": {"mask_var": None, "zero_center": True}, "variance": np.array([2.0, 1.0])}),
    Event("uns", "pts", {"pts": pd.DataFrame({"0": [0.5, 1.0]}, index=["a", "b"])}),
    Event("uns", "names", {"names": np.array([("a", "b")], dtype=[("0", "U1"), ("1", "U1")])}),
]


@pytest.fixture
def place(tmp_path: Path) -> Location:
    return Location(str(tmp_path / "result.zarr.work"))


def test_events__come_back(place: Location) -> None:
    manifest = Manifest.open(place, "input")
    lazy = [Event("X", "", object()), Event("layers", "counts", object())]
    manifest.add("qc", "key", {"seconds": 1.0}, [lazy[0], *EVENTS, lazy[1]])
    found = Manifest.open(place, "input").events("qc")
    assert found is not None
    assert [(e.attr, e.key) for e in found] == [(e.attr, e.key) for e in EVENTS]
    for event, expected in zip(found, EVENTS, strict=True):
        left, right = leaves(event.value), leaves(expected.value)
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    assert isinstance(found[1].value, pd.Categorical)
    assert list(found[1].value.categories) == ["1", "2", "10"]


def test_finished__by_place_name_and_key(place: Location) -> None:
    manifest = Manifest.open(place, "input")
    for name in ("qc", "filter", "hvg"):
        manifest.add(name, f"key of {name}", {"seconds": 1.0}, [])
    again = Manifest.open(place, "input")
    assert again.finished(0, "qc", "key of qc") == {"seconds": 1.0}
    assert again.holds("hvg", "key of hvg")
    assert again.finished(1, "filter", "another key") is None
    assert not again.holds("hvg", "key of hvg")  # all later stages stood on it
    assert again.finished(0, "qc", "key of qc") is not None
    assert again.finished(7, "hvg", "key of hvg") is None


def test_finished__a_checkpoint_that_the_manifest_does_not_name_does_not_count(place: Location) -> None:
    manifest = Manifest.open(place, "input")
    manifest.add("qc", "key", {}, EVENTS)
    text = read_bytes(place / "manifest.json")
    manifest.add("filter", "key", {}, EVENTS)
    write_bytes(place / "manifest.json", text)  # as if killed before the second entry
    again = Manifest.open(place, "input")
    assert [s["name"] for s in again.stages] == ["qc"]


def test_open__of_another_input_is_empty(place: Location) -> None:
    Manifest.open(place, "input").add("qc", "key", {}, [])
    other = Manifest.open(place, "another input")
    assert other.stages == []
    assert other.result is None


def test_open__something_else(place: Location) -> None:
    place.path.mkdir()
    (place.path / "manifest.json").write_text(json.dumps({"input": "input", "stages": []}))
    with pytest.raises(StoreError, match="in the way: sc-dask did not make it; .* next: move it away"):
        Manifest.open(place, "input")
    (place.path / "manifest.json").unlink()
    work.claim(place.path)
    for text in ("not json", "[]", json.dumps({"stages": 3}), json.dumps({"stages": []})):
        (place.path / "manifest.json").write_text(text)
        with pytest.raises(StoreError, match=f"rm -r {place}"):
            Manifest.open(place, "input")


def test_events__of_a_damaged_checkpoint(place: Location, caplog: pytest.LogCaptureFixture) -> None:
    manifest = Manifest.open(place, "input")
    manifest.add("qc", "key", {}, EVENTS)
    for file in (place.path / "qc.zarr").rglob("c/*"):
        if file.is_file():
            file.write_bytes(b"x")
    assert manifest.events("qc") is None
    assert manifest.events("never") is None
    assert "checkpoint of stage qc is damaged" in caplog.text


def test_discard__leaves_nothing(place: Location) -> None:
    manifest = Manifest.open(place, "input")
    manifest.add("qc", "key", {}, EVENTS)
    manifest.discard({"store": "result.zarr"})
    assert not place.path.exists()


def test_discard__leaves_what_it_did_not_make(place: Location) -> None:
    place.path.mkdir()  # empty: the run may use it, and leaves it there
    for mine in ({}, {"notes.txt": "mine", "thesis.zarr": "mine too"}):
        manifest = Manifest.open(place, "input")
        with manifest.locked():
            manifest.add("qc", "key", {}, EVENTS)
            for name, text in mine.items():
                (place.path / name).write_text(text)
            manifest.discard({"store": "result.zarr"})
        assert {p.name: p.read_text() for p in place.path.iterdir()} == mine


def test_locked__one_at_a_time(place: Location) -> None:
    with Manifest.open(place, "input").locked():
        with pytest.raises(StoreError, match="another run works in"), Manifest.open(place, "input").locked():
            pass
        assert place.path.is_dir()
    with Manifest.open(place, "input").locked():
        pass


def test_locked__where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match="cannot be written: Not a directory"),
        Manifest(Location(str(tmp_path / "file" / "work")), "input").locked(),
    ):
        pass


def test_locked__in_a_bucket(tmp_path: Path) -> None:
    place = Location("memory://manifest-test/result.zarr.work")
    with Manifest.open(place, "input").locked():
        manifest = Manifest.open(place, "input")
        manifest.add("qc", "key", {"seconds": 1.0}, EVENTS)
    assert Manifest.open(place, "input").finished(0, "qc", "key") == {"seconds": 1.0}
    manifest.discard({})
    assert Manifest.open(place, "input").stages == []


def test_write_bytes__whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = Location(str(tmp_path / "deep" / "report.json"))
    write_bytes(at, b"first")

    def fail(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(OSError, match="No space"):
            write_bytes(at, b"second")
    assert read_bytes(at) == b"first"
    write_bytes(at, b"third")
    assert [p.name for p in at.path.parent.iterdir()] == ["report.json"]


def test_key_of__every_part_counts() -> None:
    assert key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1})
    assert len({key_of("a"), key_of("b"), key_of("a", 1), key_of("a", "1"), key_of(["a"]), key_of("a", None)}) == 6
