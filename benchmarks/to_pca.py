"""The job that is compared: a store of counts to X_pca. ``python -m benchmarks.to_pca ENGINE STORE`` prints JSON.

Every engine goes through the same stages, imports done. A stage's figures are its seconds, its CPU seconds (all
threads) and its peak memory; of ours also passes over X and bytes read. A lazy engine does a stage's work where it is
asked for the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

N_TOP_GENES, N_COMPS = 2000, 50
STAGES = ("load", "qc", "filter", "normalize", "hvg", "pca")


class Stages:
    """Figures of the stages that were run so far."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        from sc_dask import log

        cpu = time.process_time()
        with log.stage(name) as s:
            yield
        self.found[name] = {
            "seconds": s.seconds,
            "cpu_s": time.process_time() - cpu,
            "passes": s.passes,
            "bytes_read": s.bytes_read,
            "peak_rss_bytes": s.peak_rss_bytes,
        }

    def report(self) -> dict[str, Any]:
        """Return the stages and what they come to."""
        stages = self.found.values()
        return {
            "stages": self.found,
            "peak_rss_bytes": max(s["peak_rss_bytes"] for s in stages),
            "passes": sum(s["passes"] for s in stages),
            "bytes_read": sum(s["bytes_read"] for s in stages),
        }


def sc_dask(path: str, min_genes: int = 200) -> dict[str, Any]:
    """Run our own verbs."""
    from sc_dask import pp, read

    stage = Stages()
    with stage("load"):
        adata = read(path)
        adata.var["mt"] = adata.var_names.str.startswith("MT-")
    with stage("qc"):
        pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
    with stage("filter"):
        pp.filter_cells(adata, min_genes=min_genes)
        pp.filter_genes(adata, min_cells=3)
    with stage("normalize"):
        pp.normalize_total(adata, target_sum=1e4)
        pp.log1p(adata)
    with stage("hvg"):
        pp.highly_variable_genes(adata, n_top_genes=N_TOP_GENES)
    with stage("pca"):
        pp.pca(adata, n_comps=N_COMPS)
    return stage.report() | _result(adata)


def _scanpy(adata: Any, stage: Stages) -> dict[str, Any]:
    import scanpy as sc

    with stage("qc"):
        adata.var["mt"] = adata.var_names.str.startswith("MT-")
        sc.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
    with stage("filter"):
        sc.pp.filter_cells(adata, min_genes=200)
        sc.pp.filter_genes(adata, min_cells=3)
    with stage("normalize"):
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    with stage("hvg"):
        sc.pp.highly_variable_genes(adata, n_top_genes=N_TOP_GENES)
    with stage("pca"):
        sc.pp.pca(adata, n_comps=N_COMPS)
        if hasattr(adata.obsm["X_pca"], "compute"):
            adata.obsm["X_pca"] = adata.obsm["X_pca"].compute()
    report = stage.report()
    for figures in (report, *report["stages"].values()):  # only we count these
        del figures["passes"], figures["bytes_read"]
    return report | _result(adata)


def scanpy(path: str) -> dict[str, Any]:
    """Run scanpy in memory."""
    import anndata as ad
    import numpy as np

    stage = Stages()
    with stage("load"):
        adata = ad.read_zarr(path)
        adata.X = adata.X.astype(np.float32)
    return _scanpy(adata, stage)


def scanpy_dask(path: str) -> dict[str, Any]:
    """Run scanpy on Dask, as its own tutorial does."""
    import anndata as ad
    import numpy as np
    import zarr

    stage = Stages()
    with stage("load"):
        group = zarr.open_group(path, mode="r")
        x = ad.experimental.read_elem_lazy(group["X"])
        x = x.rechunk({0: 10_000}).map_blocks(
            lambda b: b.astype(np.float32), dtype=np.float32, meta=x._meta.astype(np.float32)
        )
        adata = ad.AnnData(X=x, obs=ad.io.read_elem(group["obs"]), var=ad.io.read_elem(group["var"]))
    return _scanpy(adata, stage)


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
