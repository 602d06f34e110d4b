"""Harmony at real sizes: ``python -m benchmarks.graph.harmony --x X_pca.npy`` shifts batches apart and joins them.

Every batch is moved by a vector of its own, and in each of five parts of the component space by another one. Prints
seconds, CPU seconds, peak memory, rounds, and how well a cell's neighbours mix batches: the entropy of the batches
among 30 neighbours of 1,000 cells, 1 where they are as frequent as in all, before the shift, after it and corrected.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

_N_SAMPLE, _N_NEIGHBORS = 1000, 30


def shifted(x: np.ndarray, n_batches: int, size: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return cells with batch effects (float32) and the batch of each cell."""
    rng = np.random.default_rng(seed)
    batch = rng.choice(n_batches, len(x), p=rng.dirichlet(np.full(n_batches, 5.0)))
    spread = x[:: max(1, len(x) // 10_000)].std(axis=0) * size
    own = rng.normal(size=(n_batches, x.shape[1])) * spread
    local = rng.normal(size=(n_batches, 5, x.shape[1])) * spread / 2
    part = np.digitize(x[:, 0], np.quantile(x[::100, 0], [0.2, 0.4, 0.6, 0.8]))
    return (x + (own[:, None] + local).astype(np.float32)[batch, part]).astype(np.float32), batch


def mixing(x: np.ndarray, batch: np.ndarray, seed: int = 0) -> float:
    """Return the mean entropy of batches among neighbours, relative to that of all cells."""
    rows = np.random.default_rng(seed).choice(len(x), min(_N_SAMPLE, len(x)), replace=False)
    norms = np.einsum("ij,ij->i", x, x)
    shares = np.bincount(batch) / len(batch)
    found = []
    for part in np.array_split(rows, max(1, len(rows) // 20)):
        near = np.argpartition(norms - 2 * (x[part] @ x.T), _N_NEIGHBORS, axis=1)[:, :_N_NEIGHBORS]
        for own in batch[near]:
            p = np.bincount(own, minlength=len(shares)) / _N_NEIGHBORS
            found.append(-(p[p > 0] * np.log(p[p > 0])).sum())
    return float(np.mean(found) / -(shares * np.log(shares)).sum())


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--x", type=Path, required=True, help="n_obs x n_dims float32 .npy")
    parser.add_argument("--cells", type=int, default=None, help="the first so many only")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--shift", type=float, default=1.0, help="of a component's deviation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--theta", type=float, default=1.0)
    args = parser.parse_args()

    from sc_dask.graph import harmony as engine

    whole = np.load(args.x)[: args.cells]
    x, batch = shifted(whole, args.batches, args.shift)
    report: dict[str, object] = {"n_obs": len(x), "n_dims": x.shape[1], "threads": args.threads}
    report["mixing_without_shift"] = round(mixing(whole, batch), 3)
    report["mixing_before"] = round(mixing(x, batch), 3)
    del whole
    n_clusters = max(1, min(round(len(x) / 30), 100))
    options = engine.Options(
        np.full(args.batches, args.theta), np.ones(args.batches), np.full(n_clusters, 0.1), 0.05, 10, 20, 1e-5, 1e-4, 0
    )
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    found = engine.harmony(x, engine.batches([batch]), options, n_jobs=args.threads)
    report["seconds"] = round(time.perf_counter() - start, 1)
    after = resource.getrusage(resource.RUSAGE_SELF)
    report["cpu_s"] = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
    report["peak_mib"] = after.ru_maxrss // 1024
    report["rounds"] = list(found.rounds)
    report["mixing_after"] = round(mixing(found.x, batch), 3)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
