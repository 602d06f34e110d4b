"""Real data for the tests: found through SC_DASK_DATA, never copied into the repository."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import anndata as ad

NO_DATA = "real data needed: set SC_DASK_DATA to its folder"
DATA_REQUIRED = os.environ.get("SC_DASK_REQUIRE_DATA") == "1"


def _no_data(what: str) -> None:
    """Skip, or fail where continuous integration has promised the data."""
    (pytest.fail if DATA_REQUIRED else pytest.skip)(what)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Where data is promised, a skip for want of it is a failure, whoever asked for the skip."""
    report = yield
    if DATA_REQUIRED and report.skipped and "SC_DASK_DATA" in str(report.longrepr):
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data."""
    value = os.environ.get("SC_DASK_DATA")
    if not value or not Path(value).is_dir():
        _no_data(NO_DATA)
    return Path(str(value))


def _part(data_dir: Path, name: str) -> Path:
    path = data_dir / name
    if not path.exists():
        _no_data(f"{NO_DATA} (it has no {name})")
    return path


@pytest.fixture(scope="session")
def pbmc3k_dir(data_dir: Path) -> Path:
    """PBMC3k as Cell Ranger wrote it: matrix.mtx, genes.tsv, barcodes.tsv."""
    return _part(data_dir, "pbmc3k/filtered_gene_bc_matrices/hg19")


@pytest.fixture(scope="session")
def golden_dir(data_dir: Path) -> Path:
    """Tables made by R and by scanpy."""
    return _part(data_dir, "golden")


@pytest.fixture(scope="session")
def formats_dir(data_dir: Path) -> Path:
    """Files of many writers."""
    return _part(data_dir, "formats")


@pytest.fixture(scope="session")
def _pbmc3k(pbmc3k_dir: Path) -> ad.AnnData:
    import scanpy as sc

    adata = sc.read_10x_mtx(pbmc3k_dir)  # (2,700, 32,738) float32 csr
    adata.var_names_make_unique()
    return adata


@pytest.fixture(scope="session")
def _pbmc3k_filtered(_pbmc3k: ad.AnnData) -> ad.AnnData:
    import scanpy as sc

    adata = _pbmc3k.copy()
    sc.pp.filter_cells(adata, min_genes=200)
    sc.pp.filter_genes(adata, min_cells=3)
    adata.var["mt"] = adata.var_names.str.startswith("MT-")
    sc.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, log1p=False, inplace=True)
    kept = (adata.obs["n_genes_by_counts"] < 2500) & (adata.obs["pct_counts_mt"] < 5)
    return adata[kept.to_numpy()].copy()  # (2,638, 13,714)


@pytest.fixture
def pbmc3k_counts(_pbmc3k: ad.AnnData) -> ad.AnnData:
    """All of PBMC3k, 2,700 x 32,738 counts (csr, float32), read by scanpy; a copy, so a test may change it."""
    return _pbmc3k.copy()


@pytest.fixture
def pbmc3k_filtered(_pbmc3k_filtered: ad.AnnData) -> ad.AnnData:
    """PBMC3k after the cut-offs of scanpy's tutorial, 2,638 x 13,714 counts, filtered by scanpy; a copy."""
    return _pbmc3k_filtered.copy()


@pytest.fixture(scope="session")
def _paul15(data_dir: Path) -> ad.AnnData:
    import anndata

    import sc_dask as sd

    full = anndata.read_h5ad(_part(data_dir, "paul15/paul15_counts.h5ad"))
    root = int(full.uns["iroot"].item())
    adata = anndata.AnnData(full.X.astype("float32"), full.obs[[]], full.var[[]], uns={"iroot": root})
    adata.obs["group"] = full.obs["paul15_clusters"].astype("category").to_numpy()
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.pca(adata, n_comps=20)
    sd.pp.neighbors(adata, n_neighbors=20)
    return adata


@pytest.fixture
def paul15(_paul15: ad.AnnData) -> ad.AnnData:
    """2,730 blood cells of 19 groups with components, a graph and a root; a copy."""
    return _paul15.copy()


@pytest.fixture
def formats_table(record_property: Callable[[str, object], None]) -> Iterator[list[tuple[str, str, str]]]:
    """Rows (file, tried, outcome) of the table that is printed when the tests are done."""
    rows: list[tuple[str, str, str]] = []
    yield rows
    record_property("formats_table", [list(row) for row in rows])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for found in terminalreporter.stats.values() for r in found if getattr(r, "when", "") == "teardown"]
    table = [row for r in reports for name, rows in r.user_properties if name == "formats_table" for row in rows]
    if not table:
        return
    terminalreporter.section("formats of other writers: file, tried, outcome")
    widths = [max(len(row[i]) for row in table) for i in range(2)]
    for name, tried, outcome in sorted(table):
        terminalreporter.write_line(f"{name:<{widths[0]}}  {tried:<{widths[1]}}  {outcome}")
