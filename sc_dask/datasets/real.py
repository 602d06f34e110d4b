"""Real cells: PBMC3k of 10x Genomics, and what the demonstration runs on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from sc_dask.datasets.simulated import simulate
from sc_dask.errors import FormatError, ScDaskError, StoreError
from sc_dask.io.read import read
from sc_dask.preferences import settings

PBMC3K_URL = "https://cf.10xgenomics.com/samples/cell-exp/1.1.0/pbmc3k/pbmc3k_filtered_gene_bc_matrices.tar.gz"
PBMC3K_SHA256 = "847d6ebd9a1ec9a768f2be7e40ca42cbfe75ebeb6d76a4c24167041699dc28b5"
_PBMC3K_FOLDER = Path("filtered_gene_bc_matrices", "hg19")
_PBMC3K_FILES = {
    "barcodes.tsv": "58c2a224a2b4258f7e8799a18890bda6d23824b247b80db2b08a0dcc36a4c660",
    "genes.tsv": "8778dd78085086be6dcafa8334f95f7cf76b25526e8ef2b63186db5127a1492c",
    "matrix.mtx": "7d92358b9d29128a225c50f2a662d6ccca9c71bc665e0af82692ed1361eb94e4",
}
_SIMULATED: dict[str, Any] = {"n_obs": 20_000, "n_vars": 5_000, "n_groups": 8, "n_batches": 2, "seed": 0}


def pbmc3k_folder(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of 2,700 blood cells x 32,738 genes of 10x Genomics (CC BY 4.0), as Cell Ranger 1.1 wrote them.

    Taken from ``$SC_DASK_DATA/pbmc3k`` where that is set and has it, else downloaded once (7.3 MB) and checked:
    the archive and each file in it by SHA-256.

    Parameters
    ----------
    path
        Folder to keep the download in; None: looks at ``SC_DASK_DATA``, then uses ``settings.datasetdir``.

    Returns
    -------
    Folder with ``matrix.mtx``, ``genes.tsv`` and ``barcodes.tsv``, for ``sc_dask.convert``.

    Raises
    ------
    StoreError
        It is not there and cannot be downloaded.
    FormatError
        What came is not the published file.
    """
    given = os.environ.get("SC_DASK_DATA")
    if path is None and given:
        folder = Path(given) / "pbmc3k" / _PBMC3K_FOLDER
        if folder.is_dir():
            return folder
    import pooch

    needed = "pbmc3k" / _PBMC3K_FOLDER
    cache = Path(path) if path is not None else settings.datasetdir
    try:
        pooch.retrieve(
            PBMC3K_URL,
            known_hash=f"sha256:{PBMC3K_SHA256}",
            fname="pbmc3k_filtered_gene_bc_matrices.tar.gz",
            path=cache,
            processor=pooch.Untar(extract_dir="pbmc3k"),
            downloader=pooch.HTTPDownloader(timeout=30),
        )
    except ValueError as error:  # pooch's word for a wrong checksum
        raise FormatError(
            f"found another file at {PBMC3K_URL}",
            f"SHA-256 {PBMC3K_SHA256}",
            f"remove what is in {cache} and try again, or set SC_DASK_DATA to a folder that has {needed}",
        ) from error
    except OSError as error:
        raise StoreError(
            f"could not download {PBMC3K_URL} ({type(error).__name__})",
            "a network, or the data on this machine",
            f"set SC_DASK_DATA to a folder that has {needed}, or use sc_dask.datasets.simulate",
        ) from error
    folder = cache / "pbmc3k" / _PBMC3K_FOLDER
    for name, expected in _PBMC3K_FILES.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise FormatError(
                    f"found a changed {folder / name}", f"SHA-256 {expected}", f"remove {cache} and try again"
                )
    return folder


def demo_source(folder: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return the input of the demonstration and a sentence that says what it is.

    PBMC3k where `pbmc3k_folder` finds it; else, without a network, 20,000 simulated cells written under ``folder``.
    """
    try:
        return pbmc3k_folder(), "input: PBMC3k, 2,700 blood cells (10x Genomics)"
    except StoreError as err:
        path = Path(folder) / "simulated.zarr"
        if path.exists() and not _is_of_demo(path):
            raise StoreError(
                f"{path} is there already, and holds no cells of the demonstration",
                "a free place",
                "--out OTHER/pbmc3k.zarr",
            ) from err
        if not path.exists():
            simulate(**_SIMULATED, out=path)
        return path, f"input: 20,000 simulated cells, because PBMC3k is not here: {err.found}"


def _is_of_demo(path: Path) -> bool:
    """Tell whether an earlier demonstration has written the store."""
    try:
        made = read(path).uns["simulation"]
        return all(int(made[name]) == value for name, value in _SIMULATED.items())
    except (ScDaskError, KeyError, TypeError, ValueError):
        return False
