"""The job that is compared: a store of counts to X_pca. ``python -m benchmarks.to_pca ENGINE STORE`` prints JSON."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

N_TOP_GENES, N_COMPS = 2000, 50


class _Clock:
    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._since = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.stages[name] = now - self._since
        self._since = now


def sc_dask(path: str) -> dict[str, Any]:
    """Run our own verbs."""
    import sc_dask as sd
    from sc_dask import log

    clock = _Clock()
    with log.stage("to_pca") as s:
        adata = sd.read(path)
        clock("load")
        adata.var["mt"] = adata.var_names.str.startswith("MT-")
        sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
        sd.pp.filter_cells(adata, min_genes=200)
        sd.pp.filter_genes(adata, min_cells=3)
        clock("qc+filter")
        sd.pp.normalize_total(adata, target_sum=1e4)
        sd.pp.log1p(adata)
        sd.pp.highly_variable_genes(adata, n_top_genes=N_TOP_GENES)
        clock("norm+hvg")
        sd.pp.pca(adata, n_comps=N_COMPS)
        clock("pca")
    return {"stages": clock.stages, "passes": s.passes, "bytes_read": s.bytes_read} | _result(adata)


def _scanpy(adata: Any, clock: _Clock) -> dict[str, Any]:
    import scanpy as sc

    adata.var["mt"] = adata.var_names.str.startswith("MT-")
    sc.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
    sc.pp.filter_cells(adata, min_genes=200)
    sc.pp.filter_genes(adata, min_cells=3)
    clock("qc+filter")
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=N_TOP_GENES)
    clock("norm+hvg")
    sc.pp.pca(adata, n_comps=N_COMPS)
    if hasattr(adata.obsm["X_pca"], "compute"):
        adata.obsm["X_pca"] = adata.obsm["X_pca"].compute()
    clock("pca")
    return {"stages": clock.stages} | _result(adata)


def scanpy(path: str) -> dict[str, Any]:
    """Run scanpy in memory."""
    import anndata as ad
    import numpy as np

    clock = _Clock()
    adata = ad.read_zarr(path)
    adata.X = adata.X.astype(np.float32)
    clock("load")
    return _scanpy(adata, clock)


def scanpy_dask(path: str) -> dict[str, Any]:
    """Run scanpy on Dask, as its own tutorial does."""
    import anndata as ad
    import numpy as np
    import zarr

    clock = _Clock()
    group = zarr.open_group(path, mode="r")
    x = ad.experimental.read_elem_lazy(group["X"])
    x = x.rechunk({0: 10_000}).map_blocks(
        lambda b: b.astype(np.float32), dtype=np.float32, meta=x._meta.astype(np.float32)
    )
    adata = ad.AnnData(X=x, obs=ad.io.read_elem(group["obs"]), var=ad.io.read_elem(group["var"]))
    clock("load")
    return _scanpy(adata, clock)


def _result(adata: Any) -> dict[str, Any]:
    genes = adata.var_names[adata.var["highly_variable"]]
    ratio = adata.uns["pca"]["variance_ratio"]
    ratio = ratio.compute() if hasattr(ratio, "compute") else ratio
    return {
        "shape": list(adata.shape),
        "n_hvg": len(genes),
        "genes": hashlib.sha256("\n".join(sorted(genes)).encode()).hexdigest()[:16],
        "variance_ratio_5": [float(v) for v in ratio[:5]],
    }


ENGINES = {"sc_dask": sc_dask, "scanpy": scanpy, "scanpy_dask": scanpy_dask}


def main() -> None:
    """Run one engine on one store."""
    engine, path = sys.argv[1:]
    print(json.dumps(ENGINES[engine](path)))


if __name__ == "__main__":
    main()
