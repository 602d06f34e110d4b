"""An atlas in component space, larger than memory should hold: from a representation on disk to clusters and a layout.

``python -m benchmarks.graph.atlas --x X_pca.npy --cells 10000000`` writes so many cells (rows of ``--x`` with noise
between a cell and one of its neighbours), then makes the landmark graph of them on two worker processes, and prints
seconds, peak memory of the driver and of the workers, recall and quality.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

_BLOCK = 100_000


def make(source: Path, out: Path, n_cells: int, noise: float = 0.05, seed: int = 0) -> None:
    """Write ``n_cells`` rows of ``source``, chosen at random, each with a little noise of its own."""
    x = np.load(source, mmap_mode="r")
    spread = np.asarray(x[:10_000]).std(axis=0) * noise
    partial = out.with_suffix(".partial")
    written = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(n_cells, x.shape[1]))
    for begin in range(0, n_cells, _BLOCK):
        rng = np.random.default_rng((seed, begin))
        n = min(_BLOCK, n_cells - begin)
        rows = np.asarray(x[np.sort(rng.integers(x.shape[0], size=n))])
        written[begin : begin + n] = rows + rng.normal(size=rows.shape).astype(np.float32) * spread
    written.flush()
    del written
    partial.replace(out)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--x", type=Path, required=True, help="n x n_dims float32 .npy, for instance X_pca of 1.3 M cells"
    )
    parser.add_argument("--cells", type=int, default=10_000_000)
    parser.add_argument("--noise", type=float, default=0.4, help="of a row, as a share of each component's deviation")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="6GiB", help="of each worker")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/data/atlas"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / f"x{args.cells}-{args.noise:g}.npy"
    if not path.exists():
        make(args.x, path, args.cells, args.noise)

    import anndata as ad
    import dask
    import dask.array as da
    import scipy.sparse as sp
    from distributed import Client, LocalCluster

    import sc_dask as sd

    x = np.load(path, mmap_mode="r")
    n, d = x.shape
    blocks = [
        da.from_delayed(dask.delayed(_read)(str(path), a, min(a + _BLOCK, n)), (min(_BLOCK, n - a), d), np.float32)
        for a in range(0, n, _BLOCK)
    ]
    adata = ad.AnnData(sp.csr_matrix((n, 1), dtype=np.float32))
    adata.obsm["X_pca"] = da.concatenate(blocks)
    report: dict[str, object] = {
        "cells": n,
        "noise": args.noise,
        "dims": d,
        "workers": args.workers,
        "memory": args.memory,
    }
    dask.config.set({"sc-dask.work-dir": str(args.folder / "work"), "sc-dask.stall-timeout-s": 3600})
    local = LocalCluster(
        n_workers=args.workers, threads_per_worker=1, memory_limit=args.memory,
        host="127.0.0.1", dashboard_address="127.0.0.1:0",
    )  # fmt: skip
    with local, Client(local) as client:
        for name, call in (
            ("neighbours", lambda: sd.pp.neighbors(adata)),
            ("leiden", lambda: sd.tl.leiden(adata, flavor="sc_dask", n_iterations=2)),
            ("umap", lambda: sd.tl.umap(adata, init_pos="multilevel")),
        ):
            start = time.perf_counter()
            call()
            report[f"{name}_s"] = round(time.perf_counter() - start, 1)
            report["driver_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            report["worker_peak_mib"] = sorted(client.run(_peak).values())
            print(json.dumps(report), flush=True)
    report["compact"] = {k: v for k, v in adata.uns["neighbors"]["compact"].items() if k != "folder"}
    report["recall"] = adata.uns["neighbors"]["params"]["recall"]
    report["modularity"] = adata.uns["leiden"]["modularity"]
    report["clusters"] = int(adata.obs["leiden"].nunique())
    sample = np.sort(np.random.default_rng(0).choice(n, min(n, 200_000), replace=False))
    report["trustworthiness_of_a_sample"] = sd.metrics.trustworthiness(
        np.asarray(x[sample]), adata.obsm["X_umap"][sample], n_cells=1000
    )
    print(json.dumps(report, indent=1))


def _read(path: str, begin: int, end: int) -> np.ndarray:
    return np.array(np.load(path, mmap_mode="r")[begin:end])


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
