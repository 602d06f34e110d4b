"""Write stores with every Python environment given and read each with all: by sc_dask, anndata and scanpy, equal.

``python tools/exchange.py PYTHON PYTHON ...`` says which pair differs in what, and then ends with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()


def made() -> Any:
    """Return an AnnData with a column of every kind, the same on every environment."""
    import anndata as ad
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    n, m = 300, 40
    x = sp.csr_matrix(rng.poisson(0.5, (n, m)).astype(np.float32))
    i = np.arange(n)
    obs = pd.DataFrame(
        {
            "number": i,
            "share": (i / 7).astype(np.float32),
            "good": i % 3 == 0,
            "kind": pd.Categorical.from_codes(i % 2, ["b", "a"]),
            "some": pd.Categorical(np.where(i % 5 == 0, None, "x").astype(object)),
            "whole": pd.array([None if k % 5 == 0 else int(k) for k in i], "Int64"),
            "text": [f"t{k}" for k in i],
            "note": pd.array([None if k % 6 == 0 else f"n{k}" for k in i], "string"),
        },
        index=[f"cell{k}" for k in i],
    )
    adata = ad.AnnData(x, obs, pd.DataFrame({"symbol": [f"S{k}" for k in range(m)]}, [f"g{k}" for k in range(m)]))
    adata.layers["dense"] = x.toarray() / 2
    adata.layers["columns"] = sp.csc_matrix(x)
    adata.obsm["X_pca"] = rng.normal(size=(n, 3))
    adata.obsp["near"] = sp.csr_matrix(np.triu(rng.random((n, n)) > 0.99).astype(np.float32))
    adata.uns |= {"colors": np.array(["red", "blue"]), "name": "exchange", "deep": {"x": 1.5, "none": None}}
    adata.raw = adata
    return adata


def write(folder: Path) -> None:
    """Write the same cells as sc_dask and as anndata write them."""
    import anndata as ad

    import sc_dask as sd

    adata = made()
    sd.write(adata, folder / "ours.zarr")
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.copy().write_h5ad(folder / "theirs.h5ad")
        adata.copy().write_zarr(folder / "theirs.zarr")


def digest(adata: Any) -> dict[str, str]:
    """Return a hash of the values of every part; the type of text does not count."""
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    def of(value: Any) -> str:
        if hasattr(value, "compute"):
            value = value.compute(scheduler="sync")
        if sp.issparse(value):
            value = value.toarray()
        if isinstance(value, pd.Series | pd.Index):
            missing = np.asarray(pd.isna(value))
            value = np.where(missing, "<missing>", np.asarray(value.astype(str), object)).astype(str)
        value = np.asarray(value)
        if value.dtype.kind in "OUST":
            value = np.array([str(v) for v in value.ravel().tolist()])
        else:
            value = np.round(value.astype(np.float64), 6)
        return hashlib.sha256(repr((value.shape, value.tolist())).encode()).hexdigest()[:16]

    parts = {"X": adata.X, "raw": adata.raw.X, "obs_names": adata.obs_names, "var_names": adata.var_names}
    parts |= {f"layers/{k}": adata.layers[k] for k in adata.layers if k is not None}
    parts |= {f"obs/{k}": adata.obs[k] for k in adata.obs} | {f"var/{k}": adata.var[k] for k in adata.var}
    parts |= {f"obsm/{k}": v for k, v in adata.obsm.items()} | {f"obsp/{k}": v for k, v in adata.obsp.items()}
    parts |= {"uns/colors": adata.uns["colors"], "uns/name": str(adata.uns["name"]), "uns/deep": adata.uns["deep"]["x"]}
    return {name: of(value) for name, value in parts.items()}


def read(folder: Path) -> dict[str, dict[str, str]]:
    """Return what every reader makes of every store of a folder."""
    import anndata as ad
    import scanpy as sc

    import sc_dask as sd

    out = {}
    for path in sorted(folder.iterdir()):
        theirs = ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)
        out[f"{path.name} by anndata"] = digest(theirs)
        out[f"{path.name} by sc_dask"] = digest(sd.read(path))
        sc.pp.calculate_qc_metrics(theirs, percent_top=None, inplace=True)
        lazy = sd.read(path)
        sd.pp.calculate_qc_metrics(lazy, percent_top=None, inplace=True)
        for name, adata in (("scanpy", theirs), ("sc_dask", lazy)):
            totals = adata.obs["total_counts"].to_numpy(float).round(3).tolist()
            out[f"{path.name} counted by {name}"] = {"totals": hashlib.sha256(repr(totals).encode()).hexdigest()[:16]}
    return out


def exchange(pythons: list[str]) -> int:
    """Return the number of differences between all writers and readers, and print each."""
    wrong = n = 0
    expected: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, python in enumerate(pythons):
            (Path(folder) / str(i)).mkdir()
            subprocess.run([python, str(HERE), "--write", f"{folder}/{i}"], check=True)
        for writer in range(len(pythons)):
            for reader, python in enumerate(pythons):
                said = subprocess.run(
                    [python, str(HERE), "--read", f"{folder}/{writer}"], check=True, capture_output=True, text=True
                )
                for how, parts in json.loads(said.stdout.splitlines()[-1]).items():
                    for name, found in parts.items():
                        n += 1
                        if expected.setdefault(name, found) != found:
                            wrong += 1
                            print(f"written by {pythons[writer]}, read by {pythons[reader]}: {how}: {name} differs")
    print(f"{len(pythons)} environments, every store read by all: {n - wrong} of {n} parts are equal")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    parser.add_argument("--read", type=Path, metavar="FOLDER")
    parser.add_argument("pythons", nargs="*")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.write:
        write(given.write)
    elif given.read:
        print(json.dumps(read(given.read)))
    else:
        sys.exit(bool(exchange(given.pythons)))


if __name__ == "__main__":
    main()
