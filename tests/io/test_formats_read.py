"""Every zarr and h5ad file of other writers is read equal to anndata, or refused as anndata refuses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import FormatError
from sc_dask.io.read import read
from tests.io.cases import differences, h5ad_and_zarr_cases, refused_cases


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block_bytes", [None, 64], ids=["one block", "many blocks"])
def test_read__equals_anndata_on_every_format(data_dir: Path, block_bytes: int | None) -> None:
    cases = h5ad_and_zarr_cases(data_dir)
    rows = []
    for path, oracle in cases:
        wanted, found = oracle(), read(path, block_bytes=block_bytes)
        assert wanted.X is None or isinstance(found.X, RowBlocks)
        rows.append((str(path.relative_to(data_dir)), differences(found, wanted)))
    assert len(rows) >= 30
    assert [r for r in rows if r[1]] == []


def test_read__refuses_what_anndata_refuses(data_dir: Path) -> None:
    cases = refused_cases(data_dir)
    assert len(cases) >= 8
    for path in cases:
        with pytest.raises(FormatError) as err:
            read(path)
        assert path.name in str(err.value)
        assert np.size(str(err.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        "loom/test.loom",
        "anndata_archives/adata.csv",
        "anndata_archives/umi_tools.tsv.gz",
        "bpcells/double_mat.mtx",
        "bpcells/int_mat.mtx.gz",
        "seurat_10x/cr3.0",
        "seurat_10x/visium/filtered_feature_bc_matrix.h5",
    ],
)
def test_read__names_convert_for_other_formats(formats_dir: Path, name: str) -> None:
    with pytest.raises(FormatError, match=r"next: sd\.convert\("):
        read(formats_dir / name)
