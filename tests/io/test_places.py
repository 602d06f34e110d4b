"""A path is a path, whatever characters it has: read, written, overwritten, converted; links stay links."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import fsspec
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.errors import InputError, StoreError
from sc_dask.io.blobs.store import Location, exists
from sc_dask.io.info import info
from sc_dask.io.writing import commit

ODD = ["a::b", "what?", "50%20#", "s*r", "[1]", " a:b ", "é漢😀", "-x", "~", "data:x", "a\nb"]


def small(value: float = 1.0) -> ad.AnnData:
    adata = ad.AnnData(sp.csr_matrix(np.eye(6, 4, dtype=np.float32) * value))
    adata.obs["g"] = pd.Categorical(["a", "b"] * 3)
    return adata


def first(adata: ad.AnnData) -> float:
    return float(adata.to_memory().X[0, 0])


@pytest.mark.parametrize("name", ODD)
def test_any_name__is_read_and_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    neighbour = tmp_path / "s_r.zarr"  # which a pattern would fit
    sd.write(small(7), neighbour)
    for suffix in (".zarr", ".H5AD"):
        path = f"{name}{suffix}"
        sd.write(small(), path)
        assert os.path.lexists(path), os.listdir()
        with pytest.raises(StoreError, match="already"):
            sd.write(small(), path)
        sd.write(small(2), path, overwrite=True)
        assert first(sd.read(path)) == first(sd.read(tmp_path / path)) == 2 and info(path).shape == (6, 4)
    adata = sd.read(f"{name}.zarr", lazy_obs=True)
    adata.obsm["X_pca"] = np.ones((6, 2))
    sd.write(adata, f"{name}.zarr", update=True)
    converted = sd.convert(f"{name}.H5AD", f"{name}-2.zarr")
    assert first(converted) == 2 and first(sd.read(neighbour)) == 7
    assert "X_pca" in ad.read_zarr(tmp_path / f"{name}.zarr").obsm
    Path(f"{name}.csv").write_text(",g1,g2\nc1,1,2\n")
    Path(f"{name}.CSV.GZ").write_bytes(gzip.compress(b",g1,g2\nc1,1,2\n"))
    for suffix in (".csv", ".CSV.GZ"):
        found = sd.convert(f"{name}{suffix}", f"{name}-t.zarr", overwrite=True)
        assert found.to_memory().X.toarray().tolist() == [[1, 2]]
    assert not [p for p in os.listdir() if p.startswith(".")]  # nothing half done is left


FORMS: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "Path": lambda p: p,
    "bytes": os.fsencode,
    "slash at the end": lambda p: f"{p}/",
    "file://": lambda p: f"file://{p}",
    "FILE://": lambda p: f"FILE://{p}",
    "local://": lambda p: f"local://{p}",
    "relative": lambda p: os.path.relpath(p),
    "dots": lambda p: p.parent / "x" / ".." / p.name,
}


@pytest.mark.parametrize("form", FORMS)
def test_any_way_to_name_it__is_the_same_place(form: str, tmp_path: Path) -> None:
    path = tmp_path / "what? a::b%20#.zarr"
    sd.write(small(), FORMS[form](path))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert first(sd.read(FORMS[form](path))) == first(ad.read_zarr(path)) == 1
    sd.write(small(3), FORMS[form](path), overwrite=True)
    assert first(sd.convert(FORMS[form](path), tmp_path / "b.zarr")) == 3


def test_home__is_where_a_tilde_points_unless_there_is_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert Location.parse("~/a.zarr").path == tmp_path / "home" / "a.zarr"
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "a.zarr").mkdir()
    assert Location.parse("~/a.zarr").path == tmp_path / "~" / "a.zarr"


def test_chains_and_urls__stay_what_they_are(tmp_path: Path) -> None:
    for url in ("zip::s3://b/a.zip", "simplecache::https://x/a.h5ad", "zip://a.zarr::/tmp/b.zip", "s3://b/a::b.zarr"):
        assert Location.parse(url).url == url and not Location.parse(url).is_local
    assert Location.parse("https://x/a.zarr?token=1").name == "a.zarr"
    assert Location.parse("s3://b/what?.csv").name == "what?.csv"


@pytest.mark.parametrize("suffix", [".zarr", ".h5ad"])
def test_link__stays_a_link_and_what_it_points_to_is_replaced(suffix: str, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    real, link = there / f"real{suffix}", here / f"link{suffix}"
    link.symlink_to(real)  # to nothing yet
    sd.write(small(), link)
    assert link.is_symlink() and first(sd.read(real)) == 1
    sd.write(small(2), link, overwrite=True)
    assert link.is_symlink() and first(sd.read(real)) == first(sd.read(link)) == 2
    if suffix == ".zarr":
        adata = sd.read(link)
        adata.obs["new"] = 1
        sd.write(adata, link, update=True)
        assert "new" in ad.read_zarr(real).obs
        assert first(sd.convert(real, here / "copy.zarr")) == 2
        (here / "copy.zarr").rename(there / "copy.zarr")
        (here / "copy.zarr").symlink_to(there / "copy.zarr")
        sd.convert(real, here / "copy.zarr", overwrite=True)
        assert (here / "copy.zarr").is_symlink()
        (there / "copy.zarr").rename(tmp_path / "gone")
    assert [p.name for p in there.iterdir()] == [real.name]
    assert {p.name for p in here.iterdir()} <= {link.name, "copy.zarr"}


@pytest.mark.parametrize("url", ["s3://bucket", "gs://atlas.zarr/", "az://container", "S3://bucket/"])
def test_bucket__as_a_whole_is_no_place_to_write(url: str, tmp_path: Path) -> None:
    sd.write(small(), tmp_path / "x.zarr")
    for write in (
        lambda: sd.write(small(), url, overwrite=True),
        lambda: sd.convert(tmp_path / "x.zarr", url),
        lambda: sd.pipeline.run(tmp_path / "x.zarr", url),
    ):
        with pytest.raises(InputError, match="found the bucket .* expected a name in it; next: .*/atlas.zarr"):
            write()


def test_bucket__names_that_are_patterns_touch_nothing_else() -> None:
    fs = fsspec.filesystem("memory")
    try:
        for name in ("s*r", "[1]", "w?t"):
            others = {"s*r": "star", "[1]": "1", "w?t": "wit"}
            for place in (name, others[name]):
                sd.write(small(7), f"memory://odd/{place}.zarr")
            sd.write(small(2), f"memory://odd/{name}.zarr", overwrite=True)
            assert first(sd.read(f"memory://odd/{name}.zarr")) == 2
            assert first(sd.read(f"memory://odd/{others[name]}.zarr")) == 7
            commit.remove(Location.parse(f"memory://odd/{name}.zarr"))
            assert not exists(Location.parse(f"memory://odd/{name}.zarr"))
            assert first(sd.read(f"memory://odd/{others[name]}.zarr")) == 7
    finally:
        fs.rm("/odd", recursive=True)
