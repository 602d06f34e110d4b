"""Known of files: equal to what is read, and nothing of a matrix is touched."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import sc_dask as sd
from sc_dask.errors import FormatError, MissingKeyError, StoreError
from sc_dask.io.info import as_text, info
from tests.io.cases import forget_consolidated
from tests.pipeline.runs import WRITERS

N_OBS, N_VARS = 40, 30


@pytest.fixture
def counts() -> ad.AnnData:
    x = sp.random(N_OBS, N_VARS, 0.2, "csr", dtype=np.float32, random_state=0)
    x.data = np.ceil(x.data * 9).astype(np.float32)
    obs = pd.DataFrame({"donor": ["a", "b"] * 20}, index=[f"cell{i}" for i in range(N_OBS)])
    return ad.AnnData(x, obs=obs, var=pd.DataFrame({"symbol": "s"}, index=[f"gene{i}" for i in range(N_VARS)]))


@pytest.mark.parametrize("kind", WRITERS)
def test_info__equals_what_is_read(kind: str, counts: ad.AnnData, tmp_path: Path) -> None:
    path = WRITERS[kind](counts, tmp_path)
    facts = info(path)
    assert facts.url == str(path)
    json.dumps(asdict(facts))
    if kind == "csv":
        assert facts.shape is None
        return
    assert facts.shape == (N_OBS, N_VARS)
    layout = {"h5ad csc": "csc", "zarr csc": "csc", "h5ad dense": "dense", "loom": "dense"}.get(kind, "csr")
    assert facts.layout == layout
    assert facts.n_nonzeros == {"h5ad dense": N_OBS * N_VARS, "loom": None}.get(kind, counts.X.nnz)
    assert facts.stored_bytes is not None
    assert facts.stored_bytes > 0
    assert facts.by_columns == (("X",) if layout == "csc" else ())
    if kind in ("h5ad", "h5ad dense"):
        assert (facts.obs, facts.var, facts.layers, facts.has_raw) == (("donor",), ("symbol",), (), False)


def test_info__of_our_stores(counts: ad.AnnData, tmp_path: Path) -> None:
    sd.write(counts, tmp_path / "a.zarr", narrow=True)
    facts = info(tmp_path / "a.zarr")
    assert facts.dtype == "uint8"
    assert facts.chunks is not None
    on_disk = sum(p.stat().st_size for p in (tmp_path / "a.zarr" / "X").rglob("*") if p.is_file())
    assert facts.stored_bytes is not None
    assert 0 < facts.stored_bytes <= on_disk


def test_info__of_layers_and_raw(counts: ad.AnnData, tmp_path: Path) -> None:
    whole = counts.copy()
    counts.raw = whole
    made = counts[:, :10].copy()
    made.layers["dense"] = made.X.toarray()
    made.layers["columns"] = sp.csc_matrix(made.X)
    made.write_h5ad(tmp_path / "a.h5ad")
    made.write_zarr(tmp_path / "a.zarr")
    for path in (tmp_path / "a.h5ad", tmp_path / "a.zarr"):
        facts = info(path)
        assert facts.shape == (N_OBS, 10)
        assert facts.layers == ("columns", "dense")
        assert facts.has_raw
        assert facts.by_columns == ("layers/columns",)
        assert info(path, use_raw=True).shape == (N_OBS, N_VARS)
        assert info(path, layer="dense").layout == "dense"
        with pytest.raises(MissingKeyError, match="no layer 'counts'; expected one of: columns, dense"):
            info(path, layer="counts")
    with pytest.raises(MissingKeyError, match="has no raw"):
        whole.write_h5ad(tmp_path / "b.h5ad")
        info(tmp_path / "b.h5ad", use_raw=True)


def test_info__without_x(counts: ad.AnnData, tmp_path: Path) -> None:
    ad.AnnData(obs=counts.obs, var=counts.var).write_zarr(tmp_path / "a.zarr")
    facts = info(tmp_path / "a.zarr")
    assert facts.shape is None
    assert facts.obs == ("donor",)
    assert "X        none" in as_text(facts)


def test_info__reads_no_chunk(counts: ad.AnnData, tmp_path: Path) -> None:
    counts.write_zarr(tmp_path / "a.zarr")
    expected = info(tmp_path / "a.zarr")
    for path in (tmp_path / "a.zarr" / "X").rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            path.write_bytes(b"x" * path.stat().st_size)
    assert info(tmp_path / "a.zarr") == expected


def test_info__of_a_url(counts: ad.AnnData, tmp_path: Path) -> None:
    import fsspec

    counts.write_zarr(tmp_path / "a.zarr")
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path / "a.zarr"), "/info-test/a.zarr", recursive=True)
    facts = info("memory://info-test/a.zarr")
    assert facts.shape == (N_OBS, N_VARS)
    assert facts.stored_bytes is None  # not known cheaply
    fs.rm("/info-test", recursive=True)


def test_info__damage(counts: ad.AnnData, tmp_path: Path) -> None:
    counts.write_zarr(tmp_path / "a.zarr")
    root = zarr.open_group(tmp_path / "a.zarr", mode="r+", use_consolidated=False)
    del root["X/data"]
    (tmp_path / "a.zarr" / ".zmetadata").unlink(missing_ok=True)
    forget_consolidated(tmp_path / "a.zarr")
    with pytest.raises(FormatError, match="has no array data"):
        info(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="there is no file"):
        info(tmp_path / "none.zarr")


def test_info__several_genomes_are_left_to_the_reader(formats_dir: Path) -> None:
    folder = formats_dir / "scanpy" / "10x_data" / "1.2.0"
    assert info(folder / "multiple_genomes.h5").shape is None
    facts = info(folder / "filtered_gene_bc_matrices_h5.h5")
    made = info(folder / "filtered_gene_bc_matrices" / "hg19_chr21")
    assert facts.shape == made.shape
    assert facts.n_nonzeros == made.n_nonzeros


def test_as_text__for_people(counts: ad.AnnData, tmp_path: Path) -> None:
    counts.raw = counts
    counts.layers["columns"] = sp.csc_matrix(counts.X)
    counts.write_zarr(tmp_path / "a.zarr")
    lines = dict(line.split(maxsplit=1) for line in as_text(info(tmp_path / "a.zarr")).splitlines())
    assert lines["kind"] == "AnnData zarr"
    assert lines["cells"] == "40"
    assert lines["X"] == "csr of float32"
    assert lines["values"] == f"{counts.X.nnz:,} stored ({counts.X.nnz / 1200:.1%} of all)"
    assert lines["layers"] == "columns"
    assert lines["raw"] == "yes"
    assert lines["csc"].startswith("layers/columns (stored by genes")
