from __future__ import annotations

import http.server
import io
import pickle
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from sc_dask import datasets
from sc_dask.array.source import METER, BlockSource
from sc_dask.datasets import SimulatedSource, simulate
from sc_dask.errors import FormatError, InputError, StoreError

SMALL: dict[str, Any] = {"n_obs": 700, "n_vars": 400, "n_groups": 4, "n_batches": 2, "seed": 3}


def source(**changes: Any) -> SimulatedSource:
    return simulate(**(SMALL | changes)).X.expression.source


def whole(s: SimulatedSource) -> sp.csr_matrix:
    return s.read(0, s.n_obs)


@pytest.fixture(scope="module")
def cells() -> tuple[Any, sp.csr_matrix]:
    adata = simulate(3000, 2000, n_groups=5, n_batches=2, seed=1)
    return adata, whole(adata.X.expression.source)


def test_simulate__block_size_does_not_matter() -> None:
    s = source()
    x = whole(s)
    for cuts in ([0, 1, 63, 64, 65, 300, 700], [0, 128, 128, 256, 700]):
        parts = [s.read(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
        assert (sp.vstack(parts, format="csr") != x).nnz == 0


def test_simulate__number_of_cells_does_not_matter() -> None:
    longer, shorter = simulate(**SMALL), simulate(**SMALL | {"n_obs": 333})
    assert (longer.X.expression.source.read(0, 333) != whole(shorter.X.expression.source)).nnz == 0
    assert (longer.obs["true_label"].to_numpy()[:333] == shorter.obs["true_label"].to_numpy()).all()


def test_simulate__blocks_keep_the_contract() -> None:
    s = source()
    assert isinstance(s, BlockSource)
    METER.empty()
    b = s.read(10, 200)
    assert METER.empty().rows == 190
    assert isinstance(b, sp.csr_matrix) and b.shape == (190, 400) and b.dtype == np.float32
    assert b.indices.dtype == b.indptr.dtype == np.int32
    assert b.has_canonical_format and (b.data >= 1).all() and (b.data == np.round(b.data)).all()
    assert s.read(5, 5).shape == (0, 400)


def test_simulate__is_lazy_and_x_is_what_the_source_reads() -> None:
    METER.empty()
    adata = simulate(**SMALL)
    assert METER.empty().rows == 0
    assert (sp.csr_matrix(adata.X.compute()) != whole(adata.X.expression.source)).nnz == 0


def test_simulate__seed_and_pickle() -> None:
    s = source()
    again = pickle.loads(pickle.dumps(s))
    assert again == s and again.token == s.token
    assert (whole(again) != whole(s)).nnz == 0
    other = source(seed=4)
    assert other.token != s.token
    assert (whole(other) != whole(s)).nnz > 0


def test_simulate__blocks_fit_the_byte_budget() -> None:
    import dask

    with dask.config.set({"sc-dask.block-bytes": "1MiB"}):
        adata = simulate(5000, 2000)
    chunks = adata.X.chunks[0]
    assert len(chunks) > 1 and sum(chunks) == 5000
    s = adata.X.expression.source
    assert 0.5 * 2**20 < s.read(0, chunks[0]).nnz * 8 < 1.1 * 2**20


def test_simulate__library_sizes(cells: tuple[Any, sp.csr_matrix]) -> None:
    adata, x = cells
    totals = np.asarray(x.sum(1)).ravel()
    assert totals.mean() == pytest.approx(500, rel=0.1)
    log_totals = np.log(totals)
    assert 0.25 < log_totals.std() < 0.7
    assert abs(stats.skew(log_totals)) < 0.5 < stats.skew(totals)
    assert stats.pearsonr(log_totals, np.log(adata.obs["true_depth"])).statistic > 0.9


def test_simulate__counts_are_overdispersed_within_a_group_and_batch() -> None:
    # cells of one kind and nearly equal depth: a Poisson gene would have variance = mean
    adata = simulate(6000, 400, n_groups=1, mean_counts=4000, seed=2)
    x = whole(adata.X.expression.source)
    depth = adata.obs["true_depth"].to_numpy()
    x = x[np.abs(depth / np.median(depth) - 1) < 0.05].toarray()
    mean, var = x.mean(0), x.var(0)
    seen = mean > 3
    r = mean[seen] ** 2 / (var[seen] - mean[seen])
    assert seen.sum() > 50
    assert (var[seen] > 1.5 * mean[seen]).all()
    assert np.median(r) == pytest.approx(2.5, rel=0.25)


def test_simulate__sparsity_is_realistic() -> None:
    s = simulate(256, 20_000).X.expression.source
    assert 1500 < whole(s).nnz / 256 < 2500


def test_simulate__markers_are_up_in_their_group(cells: tuple[Any, sp.csr_matrix]) -> None:
    adata, x = cells
    share = x.multiply(1 / x.sum(1)).tocsr()
    label, marker = adata.obs["true_label"].to_numpy(), adata.var["true_marker_of"].to_numpy()
    for group in adata.obs["true_label"].cat.categories:
        genes = marker == group
        inside, outside = share[label == group][:, genes].sum(1).mean(), share[label != group][:, genes].sum(1).mean()
        assert genes.sum() == 39 and inside > 2 * outside


def test_simulate__groups_separate(cells: tuple[Any, sp.csr_matrix]) -> None:
    # half of the cells give each group its mean; the other half are told apart by it, blind to their labels
    adata, x = cells
    often = np.argsort(-np.asarray(x.sum(0)).ravel())[:500]
    totals = np.asarray(x.sum(1))
    logged = np.log1p(x[:, often].toarray() * (500 / totals))
    codes = adata.obs["true_label"].cat.codes.to_numpy()
    learn = np.arange(len(codes)) % 2 == 0
    means = np.stack([logged[learn & (codes == k)].mean(0) for k in range(5)])
    distance = (means**2).sum(1) - 2 * logged[~learn] @ means.T
    assert (distance.argmin(1) == codes[~learn]).mean() > 0.97


def test_simulate__batches_differ_gene_by_gene(cells: tuple[Any, sp.csr_matrix]) -> None:
    adata, x = cells
    batch = adata.obs["batch"].to_numpy()
    assert list(adata.obs["batch"].cat.categories) == ["batch_0", "batch_1"]
    sums = np.stack([np.asarray(x[batch == b].sum(0)).ravel() for b in ("batch_0", "batch_1")])
    often = sums.min(0) > 500
    ratio = np.diff(np.log(sums[:, often] / sums.sum(1)[:, None]), axis=0)
    assert often.sum() > 100
    assert ratio.std() == pytest.approx(0.25 * np.sqrt(2), rel=0.25)


def test_simulate__one_batch_has_no_batch_effect() -> None:
    assert (whole(source(n_batches=1, batch_sd=0.0)) != whole(source(n_batches=1, batch_sd=0.9))).nnz == 0


def test_simulate__mitochondrial_genes(cells: tuple[Any, sp.csr_matrix]) -> None:
    adata, x = cells
    mt = adata.var_names.str.startswith("MT-")
    assert mt.sum() == 13 and mt[-13:].all() and adata.var_names.is_unique
    share = np.asarray(x[:, np.flatnonzero(mt)].sum(1)).ravel() / np.asarray(x.sum(1)).ravel()
    assert 0.01 < np.median(share) < 0.04
    assert (share > 0.05).mean() > 0.03  # some cells for quality control to find


@pytest.mark.parametrize("n_vars", [1, 4, 19, 20, 39])
def test_simulate__few_genes(n_vars: int) -> None:
    adata = simulate(100, n_vars, n_groups=1, mean_counts=50)
    assert whole(adata.X.expression.source).shape == (100, n_vars)
    assert len(adata.var_names.unique()) == n_vars


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_obs": 0},
        {"n_vars": 0},
        {"n_groups": 0},
        {"n_batches": 0},
        {"n_groups": 401},
        {"seed": -1},
        {"mean_counts": 0},
        {"mean_counts": float("nan")},
        {"marker_fold": 0.5},
        {"batch_sd": -1},
        {"ambient": 1.0},
    ],
)
def test_simulate__refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        simulate(**SMALL | wrong)
    assert next(iter(wrong)) in str(caught.value) or "groups" in str(caught.value)
    assert caught.value.expected and caught.value.fix


def test_simulate__out_writes_what_it_describes(tmp_path: Path) -> None:
    described, stored = simulate(**SMALL), simulate(**SMALL, out=tmp_path / "cells.zarr")
    assert (sp.csr_matrix(stored.X.compute()) != sp.csr_matrix(described.X.compute())).nnz == 0
    assert list(stored.obs_names) == list(described.obs_names) and list(stored.var_names) == list(described.var_names)
    for key in ("true_label", "batch", "true_depth"):
        assert (stored.obs[key].to_numpy() == described.obs[key].to_numpy()).all()
    assert stored.var["true_marker_of"].isna().sum() == described.var["true_marker_of"].isna().sum() > 0
    assert stored.uns["simulation"]["seed"] == 3
    with pytest.raises(StoreError):
        simulate(**SMALL, out=tmp_path / "cells.zarr")


# -- PBMC3k --------------------------------------------------------------------------------------


def test_pbmc3k__from_the_data_folder(pbmc3k_dir: Path) -> None:
    assert datasets.pbmc3k_folder() == pbmc3k_dir


def archive_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"filtered_gene_bc_matrices/hg19/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a local server publishes; ``cells.tar.gz`` in it is what pbmc3k downloads."""
    import os

    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=os.fspath(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(datasets.real, "PBMC3K_URL", f"http://127.0.0.1:{server.server_address[1]}/cells.tar.gz")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def publish(site: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
    import hashlib

    content = archive_of(files)
    (site / "cells.tar.gz").write_bytes(content)
    monkeypatch.setattr(datasets.real, "PBMC3K_SHA256", hashlib.sha256(content).hexdigest())


def test_pbmc3k__downloads_once_and_checks(
    site: Path, tmp_path: Path, pbmc3k_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(site, monkeypatch, {p.name: p.read_bytes() for p in pbmc3k_dir.iterdir()})
    folder = datasets.pbmc3k_folder(tmp_path / "cache")
    assert sorted(p.name for p in folder.iterdir()) == ["barcodes.tsv", "genes.tsv", "matrix.mtx"]
    shutil.rmtree(site)  # the second time nothing is fetched
    assert datasets.pbmc3k_folder(tmp_path / "cache") == folder


def test_pbmc3k__refuses_other_content(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(site, monkeypatch, {"matrix.mtx": b"1", "genes.tsv": b"2", "barcodes.tsv": b"3"})
    with pytest.raises(FormatError, match="barcodes.tsv"):
        datasets.pbmc3k_folder(tmp_path / "cache")


def test_pbmc3k__refuses_another_archive(site: Path, tmp_path: Path) -> None:
    (site / "cells.tar.gz").write_bytes(b"not the cells")
    with pytest.raises(FormatError, match="SHA-256"):
        datasets.pbmc3k_folder(tmp_path / "cache")


def test_pbmc3k__says_when_there_is_no_network(site: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="simulate"):  # the server has no such file
        datasets.pbmc3k_folder(tmp_path / "cache")
