"""Every file of other writers, through ``sd.read`` and ``sd.convert``: equal to its own reader, or refused by name."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.errors import FormatError, InputError
from sc_dask.io.read import read as read_in_place
from tests.io.cases import dense, differences, h5ad_and_zarr_cases, refused_cases

Table = list[tuple[str, str, str]]
Oracle = Callable[[], ad.AnnData]

pytestmark = pytest.mark.filterwarnings("ignore")


def against(found: ad.AnnData, wanted: ad.AnnData) -> list[str]:
    """What differs, when X may have a smaller type with the same values."""
    out = []
    for axis in ("obs", "var"):
        a, b = getattr(found, axis), getattr(wanted, axis)
        if list(a.index) != list(b.index):
            out.append(f"{axis}_names")
        if list(a.columns) != list(b.columns) or any(list(a[c]) != list(b[c]) for c in b.columns):
            out.append(f"{axis} columns")
    pairs = [("X", found.X, wanted.X), *((k, found.layers.get(k), wanted.layers[k]) for k in wanted.layers)]
    for name, a, b in pairs:
        if (a is None) != (b is None) or (b is not None and not np.array_equal(dense(a).astype(b.dtype), dense(b))):
            out.append(name)
    return out


def gzipped_copy(folder: Path, to: Path) -> Path:
    """A 10x folder as scanpy wants it: every file gzipped."""
    to.mkdir()
    for path in folder.iterdir():
        if path.suffix == ".gz":
            shutil.copy(path, to)
        else:
            with gzip.open(to / f"{path.name}.gz", "wb") as f:
                f.write(path.read_bytes())
    return to


def with_text_ids(oracle: Oracle) -> ad.AnnData:
    """What scanpy reads, with the ids as the file has them: pandas makes numbers of them."""
    wanted = oracle()
    wanted.var["gene_ids"] = wanted.var["gene_ids"].astype(str)
    return wanted


def loom_oracle(path: Path) -> ad.AnnData:
    wanted = ad.io.read_loom(path)
    wanted.obs = wanted.obs.rename(columns={"_index": "index"})  # AnnData's spec cannot store this name
    return wanted


def other_cases(formats: Path, tmp: Path) -> list[tuple[Path, dict[str, Any], Oracle]]:
    import scanpy as sc

    tenx = formats / "scanpy" / "10x_data"
    v2 = tenx / "1.2.0" / "filtered_gene_bc_matrices" / "hg19_chr21"
    v3, ids, cr3 = tenx / "3.0.0" / "filtered_feature_bc_matrix", tenx / "int-ids", formats / "seurat_10x" / "cr3.0"
    old = formats / "anndata_archives"
    out: list[tuple[Path, dict[str, Any], Oracle]] = [
        (old / "adata.csv", {}, partial(ad.io.read_csv, old / "adata.csv")),
        (old / "adata-comments.tsv", {}, partial(ad.io.read_text, old / "adata-comments.tsv")),
        (old / "umi_tools.tsv.gz", {}, partial(ad.io.read_umi_tools, old / "umi_tools.tsv.gz")),
        (v2, {}, partial(sc.read_10x_mtx, v2)),
        (v2 / "matrix.mtx", {"var_names": "gene_ids"}, partial(sc.read_10x_mtx, v2, var_names="gene_ids")),
        (v3, {}, partial(sc.read_10x_mtx, v3)),
        (v3 / "matrix.mtx.gz", {"make_unique": False}, partial(sc.read_10x_mtx, v3, make_unique=False)),
        (ids, {}, partial(with_text_ids, partial(sc.read_10x_mtx, gzipped_copy(ids, tmp / "ids")))),
        (cr3, {}, partial(sc.read_10x_mtx, cr3)),
        (cr3, {"gex_only": False}, partial(sc.read_10x_mtx, cr3, gex_only=False)),
        (
            tenx / "3.0.0/filtered_feature_bc_matrix.h5",
            {},
            partial(sc.read_10x_h5, tenx / "3.0.0/filtered_feature_bc_matrix.h5"),
        ),
    ]
    for genome in ("hg19_chr21", "another_genome"):
        path = tenx / "1.2.0" / "multiple_genomes.h5"
        out.append((path, {"genome": genome}, partial(sc.read_10x_h5, path, genome=genome)))
    path = tenx / "1.2.0" / "filtered_gene_bc_matrices_h5.h5"
    out.append((path, {}, partial(sc.read_10x_h5, path)))
    for path in sorted((formats / "seurat_10x").rglob("*.h5")):
        out += [(path, o, partial(sc.read_10x_h5, path, **o)) for o in ({}, {"gex_only": False})]
    out += [(p, {}, partial(ad.io.read_mtx, p)) for p in sorted((formats / "bpcells").glob("*.mtx*"))]
    out += [(p, {}, partial(loom_oracle, p)) for p in sorted((formats / "loom").glob("*.loom"))]
    path = formats / "seurat_10x" / "visium" / "spatial" / "tissue_positions_list.csv"
    return [*out, (path, {}, partial(ad.io.read_csv, path))]


def test_formats__anndata_stores(data_dir: Path, tmp_path: Path, formats_table: Table) -> None:
    rows: Table = []
    for i, (path, oracle) in enumerate(h5ad_and_zarr_cases(data_dir)):
        wanted = oracle()
        name = str(path.relative_to(data_dir / "formats"))
        rows.append((name, "read", ", ".join(differences(sd.read(path), wanted)) or "equal"))
        found = sd.convert(path, tmp_path / f"{i}.zarr")
        rows.append((name, "convert", ", ".join(against(found, wanted)) or "equal"))
        again = against(ad.read_zarr(tmp_path / f"{i}.zarr"), wanted)
        rows.append((name, "convert, anndata.read_zarr", ", ".join(again) or "equal"))
    formats_table += rows
    assert len(rows) >= 90
    assert [r for r in rows if r[2] != "equal"] == []


def test_formats__10x_loom_and_text(data_dir: Path, tmp_path: Path, formats_table: Table) -> None:
    rows: Table = []
    for i, (path, options, oracle) in enumerate(other_cases(data_dir / "formats", tmp_path)):
        wanted = oracle()
        name = str(path.relative_to(data_dir / "formats"))
        tried = "convert" + "".join(f", {k}={v}" for k, v in options.items())
        with pytest.raises(FormatError, match=r"sd\.convert\("):
            read_in_place(path)
        sd.convert(path, tmp_path / f"{i}.zarr", **options)
        rows.append((name, tried, ", ".join(against(ad.read_zarr(tmp_path / f"{i}.zarr"), wanted)) or "equal"))
    formats_table += rows
    assert len(rows) >= 25
    assert [r for r in rows if r[2] != "equal"] == []


def test_formats__refused_by_name(data_dir: Path, tmp_path: Path, formats_table: Table) -> None:
    formats = data_dir / "formats"
    lists = [p for p in formats.rglob("*.tsv*") if p.name.split(".")[0] in ("barcodes", "genes", "features")]
    assert len(lists) >= 8
    for path in [*refused_cases(data_dir), *sorted(lists)]:
        with pytest.raises(FormatError) as err:
            sd.convert(path, tmp_path / "out.zarr")
        assert path.name in str(err.value)
        reason = str(err.value).replace(str(data_dir), "").split("; ")[0]
        formats_table.append((str(path.relative_to(formats)), "convert", f"refused: {reason}"[:100]))
    path = formats / "scanpy" / "10x_data" / "1.2.0" / "multiple_genomes.h5"
    with pytest.raises(InputError, match="another_genome, hg19_chr21"):
        sd.convert(path, tmp_path / "out.zarr")
    assert list(tmp_path.iterdir()) == []
