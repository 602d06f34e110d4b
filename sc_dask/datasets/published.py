"""Published cells under scanpy's names: taken from ``SC_DASK_DATA``, from an installed scanpy, or downloaded once.

Files whose published checksum is known are checked against it. The others are checked by their shape and names; what
is downloaded stands in ``settings.datasetdir`` and is not fetched again.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from sc_dask.datasets.real import pbmc3k_folder
from sc_dask.errors import FormatError, InputError
from sc_dask.io.blobs.download import download
from sc_dask.io.blobs.store import Location, open_h5
from sc_dask.io.files import read, read_10x_mtx
from sc_dask.io.sheets import read_excel
from sc_dask.outside import scanpy
from sc_dask.preferences import settings

_SCANPY = "https://raw.githubusercontent.com/scverse/scanpy/1.11.5/src/scanpy/datasets"
_EBI = "https://www.ebi.ac.uk/gxa/sc/experiment"
_WITH_SCANPY = {  # file that scanpy ships: its SHA-256, and its name in SC_DASK_DATA
    "10x_pbmc68k_reduced.h5ad": (
        "e71d41e737c941559b7c57c9243bdb3d2c889c2adfdf00e3422ac6b46783676f",
        "golden/pbmc68k_reduced.h5ad",
    ),
    "krumsiek11.txt": ("a49c6d04bd77f61028133a9b787222ebf00c4fc02dbf8e2b8edda493a0d5dc93", "golden/krumsiek11.txt"),
    "toggleswitch.txt": ("11b70a557b9a9c942ba15f8c89d070d914d373d3e76f91f4472c5d8e14dc74e2", "golden/toggleswitch.txt"),
}
_ERY = ["Ery"] * 6
_CELL_TYPES = [*_ERY, "MEP", "Mk", "GMP", "GMP", "DC", "Baso", "Baso", "Mo", "Mo", "Neu", "Neu", "Eos", "Lymph"]
_EXP_GROUPS = {"HF": "#D7A83E", "NP": "#7AAE5D", "PS": "#497ABC", "4SG": "#AF353A", "4SFG": "#765099"}


def pbmc3k() -> AnnData:
    """Return 2,700 blood cells x 32,738 genes of 10x Genomics (CC BY 4.0), X lazy: the file of the tutorials.

    The folder of `pbmc3k_folder` (7.3 MB are downloaded once), converted once; genes are named by symbols that are made
    unique, var has ``gene_ids``.

    Raises
    ------
    StoreError
        It is not there and cannot be downloaded.
    FormatError
        What came is not the published file.
    """
    return read_10x_mtx(pbmc3k_folder())


def pbmc3k_processed() -> AnnData:
    """Return 2,638 of these cells x 1,838 genes as scanpy's tutorial leaves them, X lazy (25 MB are downloaded once).

    With clusters (``louvain``), principal components, UMAP, t-SNE, and the graph; raw has the logarithms.
    """
    url = "https://raw.githubusercontent.com/chanzuckerberg/cellxgene/main/example-dataset/pbmc3k.h5ad"
    path = _given("pbmc3k/pbmc3k_processed.h5ad") or download(url, settings.datasetdir / "pbmc3k_processed.h5ad")
    return _checked(read(path), (2638, 1838), path)


def pbmc68k_reduced() -> AnnData:
    """Return 700 blood cells x 765 genes, processed (10x Genomics), in memory."""
    path = _with_scanpy("10x_pbmc68k_reduced.h5ad")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*Moving element.*")
        return anndata.read_h5ad(path)


def krumsiek11() -> AnnData:
    """Return 640 simulated blood progenitors x 11 genes (Krumsiek 2011), in memory; ``tl.sim`` makes such data.

    obs ``cell_type``; uns ``iroot`` and ``highlights``. Names of cells repeat.
    """
    adata = _quietly(lambda: anndata.io.read_text(_with_scanpy("krumsiek11.txt"), first_column_names=True))
    kinds = np.full(adata.n_obs, "progenitor", dtype=object)
    for start, kind in ((80, "Mo"), (240, "Ery"), (400, "Mk"), (560, "Neu")):
        kinds[start : start + 80] = kind
    obs = pd.DataFrame({"cell_type": pd.Categorical(kinds)}, index=adata.obs_names)
    uns = {"iroot": 0, "highlights": {0: "Stem", 159: "Mo", 319: "Ery", 459: "Mk", 619: "Neu"}}
    return _quietly(lambda: AnnData(adata.X, obs=obs, var=adata.var, uns=uns))


def toggleswitch() -> AnnData:
    """Return 200 simulated cells x 2 genes that shut each other off (Gardner 2000), in memory."""
    adata = _quietly(lambda: anndata.io.read_text(_with_scanpy("toggleswitch.txt"), first_column_names=True))
    return _quietly(lambda: AnnData(adata.X, obs=adata.obs, var=adata.var, uns={"iroot": 0}))


def blobs(
    *,
    n_variables: int = 11,
    n_centers: int = 5,
    cluster_std: float = 1.0,
    n_observations: int = 640,
    random_state: int = 0,
) -> AnnData:
    """Return points of Gaussian clusters, in memory; obs ``blobs`` says of which.

    Examples
    --------
    >>> import sc_dask as sd
    >>> sd.datasets.blobs(n_observations=50).shape
    (50, 11)
    """
    from sklearn.datasets import make_blobs

    x, labels = make_blobs(
        n_samples=n_observations,
        n_features=n_variables,
        centers=n_centers,
        cluster_std=cluster_std,
        random_state=random_state,
    )
    names = pd.RangeIndex(n_observations).astype(str)
    return AnnData(x, obs=pd.DataFrame({"blobs": labels.astype(str)}, index=names))


def paul15() -> AnnData:
    """Return 2,730 blood progenitors of mice x 3,451 genes (Paul 2015), counts, in memory (10 MB are downloaded once).

    obs ``paul15_clusters``; uns ``iroot``, a cell to begin a pseudotime with.
    """
    given = _given("paul15/paul15_counts.h5ad")
    if given is not None:
        return _paul15_of_h5ad(given)
    path = download("https://falexwolf.de/data/paul15.h5", settings.datasetdir / "paul15" / "paul15.h5")
    with open_h5(Location.parse(path)) as f:
        x = f["data.debatched"][()].astype(np.float32).T
        genes, cells, chosen = (
            f[key][()].astype(str)
            for key in ("data.debatched_rownames", "data.debatched_colnames", "info.genes_strings")
        )
        clusters = f["cluster.id"][()].ravel().astype(int)
    names = pd.Index([g.split(";")[0] for g in genes])
    kept = np.intersect1d(chosen, names)
    labels = pd.Categorical([f"{i}{_CELL_TYPES[i - 1]}" for i in clusters])
    labels = labels.reorder_categories(_natural(labels.categories))
    obs = pd.DataFrame({"paul15_clusters": labels}, index=cells)
    columns = names.get_indexer(kept)
    adata = AnnData(x[:, columns], obs=obs, var=pd.DataFrame(index=kept), uns={"iroot": 840})
    return _checked(adata, (2730, 3451), path)


def _paul15_of_h5ad(path: Path) -> AnnData:
    adata = anndata.read_h5ad(path)
    x = adata.X if isinstance(adata.X, np.ndarray) else adata.X.toarray()
    labels = adata.obs["paul15_clusters"].astype(str).astype("category")
    obs = pd.DataFrame({"paul15_clusters": labels.cat.reorder_categories(_natural(labels.cat.categories))})
    uns = {"iroot": int(np.ravel(adata.uns["iroot"])[0])}
    return _checked(AnnData(x.astype(np.float32), obs=obs, var=adata.var[[]], uns=uns), (2730, 3451), path)


def _natural(names: Any) -> list[str]:
    from natsort import natsorted

    return list(natsorted(names))


def moignard15() -> AnnData:
    """Return 3,934 cells of mouse embryos x 42 genes by qRT-PCR (Moignard 2015), in memory; needs openpyxl.

    obs ``exp_groups`` with colours in uns; uns ``iroot``.
    """
    url = (
        "https://static-content.springer.com/esm/art%3A10.1038%2Fnbt.3154/MediaObjects/"
        "41587_2015_BFnbt3154_MOESM4_ESM.xlsx"
    )
    path = _given("moignard15/nbt.3154-S3.xlsx")
    path = path or download(url, settings.datasetdir / "moignard15" / "nbt.3154-S3.xlsx")
    adata = read_excel(path, "dCt_values.txt")
    adata = adata[:, ~adata.var_names.isin(["Eif2b1", "Mrpl19", "Polr2a", "Ubc"])]
    groups = [next(g for g in _EXP_GROUPS if name.startswith(g)) for name in adata.obs_names]
    obs = pd.DataFrame({"exp_groups": pd.Categorical(groups, list(_EXP_GROUPS))}, index=adata.obs_names)
    uns = {"iroot": 532, "exp_groups_colors": list(_EXP_GROUPS.values())}
    return _checked(AnnData(adata.X.copy(), obs=obs, var=adata.var[[]], uns=uns), (3934, 42), path)


def burczynski06() -> AnnData:
    """Return 127 blood samples x 22,283 genes by microarray (Burczynski 2006), in memory; obs ``groups``."""
    url = "ftp://ftp.ncbi.nlm.nih.gov/geo/datasets/GDS1nnn/GDS1615/soft/GDS1615_full.soft.gz"
    path = _given("burczynski06/GDS1615_full.soft.gz")
    path = path or download(url, settings.datasetdir / "burczynski06" / "GDS1615_full.soft.gz")
    return _checked(read(path), (127, 22283), path)


def ebi_expression_atlas(accession: str, *, filter_boring: bool = False) -> AnnData:
    """Return an experiment of the EBI Single Cell Expression Atlas, X lazy.

    Parameters
    ----------
    accession
        Of the experiment, for instance ``"E-MTAB-4888"``.
    filter_boring
        Leave out columns of obs with one value, or another in every cell.
    """
    if not accession.replace("-", "").isalnum():
        raise InputError(f"found the accession {accession!r}", "one such as 'E-MTAB-4888'")
    folder = settings.datasetdir / accession
    base = f"{_EBI}/{accession}/download"
    design = download(f"{base}?accessKey=&fileType=experiment-design", folder / "experimental_design.tsv")
    archive = download(f"{base}/zip?accessKey=&fileType=quantification-raw", folder / "expression_archive.zip")
    adata = read_10x_mtx(_unpacked(archive, folder / "counts"), var_names="gene_ids")
    obs = pd.read_csv(design, sep="\t", index_col=0).reindex(adata.obs_names)
    if filter_boring:
        n_values = obs.nunique(dropna=False)
        obs = obs.loc[:, (n_values != 1) & (n_values != len(obs))]
    return AnnData(adata.X, obs=obs, var=pd.DataFrame(index=adata.var["gene_symbols"].rename(None)))


def _unpacked(archive: Path, folder: Path) -> Path:
    """Unpack the three files of an experiment under the names that 10x has for them."""
    names = {".mtx": "matrix.mtx", ".mtx_rows": "genes.tsv", ".mtx_cols": "barcodes.tsv"}
    with zipfile.ZipFile(archive) as packed:
        for suffix, name in names.items():
            found = [i for i in packed.infolist() if i.filename.endswith(suffix)]
            if len(found) != 1:
                raise FormatError(f"{archive} has {len(found)} files *{suffix}", "one", f"remove {archive}")
            target = folder / name
            if target.is_file() and target.stat().st_size == found[0].file_size:
                continue
            folder.mkdir(parents=True, exist_ok=True)
            with packed.open(found[0]) as source, target.open("wb") as f:
                while part := source.read(1 << 20):
                    f.write(part)
    return folder


def _given(name: str) -> Path | None:
    """Return a file of ``SC_DASK_DATA``."""
    folder = os.environ.get("SC_DASK_DATA")
    path = Path(folder, name) if folder else None
    return path if path is not None and path.is_file() else None


def _with_scanpy(name: str) -> Path:
    sha256, given = _WITH_SCANPY[name]
    found = _given(given) or scanpy.data_file("datasets", name)
    return found or download(f"{_SCANPY}/{name}", settings.datasetdir / name, sha256)


def _checked(adata: AnnData, shape: tuple[int, int], path: Path) -> AnnData:
    if adata.shape != shape:
        raise FormatError(f"found {adata.shape} in {path}", f"{shape}", f"remove {path} and try again")
    return adata


def _quietly(make: Callable[[], AnnData]) -> AnnData:
    """Make an AnnData whose names repeat, as published, without being told so each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        return make()
