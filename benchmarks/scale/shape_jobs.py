"""One bound each, measured in a process of its own: ``python -m benchmarks.scale.shape_jobs JOB ARGS`` prints JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.scale.generator import ShapeSource, declare, write
from benchmarks.to_pca import sc_dask

N_BATCHES, _REPEATS = 10, 3


def make(n_obs: str, n_vars: str, per_cell: str, out: str) -> dict[str, Any]:
    """Write a store of a shape."""
    write(ShapeSource(int(n_obs), int(n_vars), int(per_cell)), Path(out))
    return {}


def declared(n_obs: str, n_vars: str, out: str) -> dict[str, Any]:
    """Make a store that is declared only."""
    return {"n_nonzeros": declare(int(n_obs), int(n_vars), Path(out))}


def shape(path: str) -> dict[str, Any]:
    """Take counts to X_pca; cells with any gene stay."""
    from sc_dask.io.info import info

    return sc_dask(path, min_genes=1) | {"n_nonzeros": info(path).n_nonzeros}


def hvg(path: str) -> dict[str, Any]:
    """Choose genes with and without batches in turn, each time from a store opened anew."""
    found: dict[str, Any] = {"one": [], "batches": []}
    for i in range(_REPEATS + 1):
        for name, key in (("one", None), ("batches", "batch_of_ten")):
            figures = _choose(path, key)
            if i:
                found[name].append(figures)
    return found


def _choose(path: str, batch_key: str | None) -> dict[str, float]:
    import numpy as np
    import pandas as pd

    from sc_dask import pp, read

    adata = read(path)
    codes = np.random.default_rng(0).integers(0, N_BATCHES, adata.n_obs)
    adata.obs["batch_of_ten"] = pd.Categorical.from_codes(codes, [f"batch{i}" for i in range(N_BATCHES)])
    pp.filter_cells(adata, min_genes=1)  # learns the sums, as QC does
    pp.normalize_total(adata, target_sum=1e4)
    pp.log1p(adata)
    cpu, start = time.process_time(), time.perf_counter()
    pp.highly_variable_genes(adata, n_top_genes=2000, batch_key=batch_key)
    return {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}


def workers(path: str, n_workers: str, work_dir: str) -> dict[str, Any]:
    """Take counts to X_pca on so many worker processes of one thread each; the first time warms them up."""
    import dask

    from sc_dask import cluster

    with dask.config.set({"sc-dask.work-dir": work_dir, "num_workers": int(n_workers)}), cluster.client("processes"):
        sc_dask(path, min_genes=1)
        return sc_dask(path, min_genes=1)


def graph(n_blocks: str) -> dict[str, Any]:
    """Take ``n_blocks`` tiny blocks to X_pca; returns the tasks of every pass, and how long its graph took to make."""
    from unittest import mock

    import anndata as ad
    import numpy as np

    from sc_dask import pp
    from sc_dask.array.blocks import from_source
    from sc_dask.array.engine import passes

    n, rows, made = int(n_blocks), 4, []
    build = passes.graph

    def timed(name: str, xs: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        dsk = build(name, xs, *args, **kwargs)
        made.append({"seconds": time.perf_counter() - start, "tasks": len(dsk), "n_blocks": xs[0].expression.n_blocks})
        return dsk

    start = time.perf_counter()
    with mock.patch.object(passes, "graph", timed):
        adata = ad.AnnData(from_source(ShapeSource(rows * n, 200, 20), np.arange(n + 1) * rows))
        pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
        pp.filter_genes(adata, min_cells=3)
        pp.normalize_total(adata, target_sum=1e4)
        pp.log1p(adata)
        pp.highly_variable_genes(adata, n_top_genes=50)
        pp.pca(adata, n_comps=10)
    return {"passes": made, "seconds": time.perf_counter() - start}


JOBS = {f.__name__: f for f in (make, declared, shape, hvg, workers, graph)}


def main() -> None:
    """Run one job and print what it found."""
    job, *args = sys.argv[1:]
    print(json.dumps(JOBS[job](*args)))


if __name__ == "__main__":
    main()
