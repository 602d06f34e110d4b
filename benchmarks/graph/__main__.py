"""The graph stage beside its peers: ``python -m benchmarks.graph --x X_pca.npy`` writes a table (CSV, Markdown).

Every step runs in a fresh process, so what is compiled anew in every process counts. All cluster and lay out the
graph that our neighbours made. One round warms up and is thrown away.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.bench_pca import RESULTS
from benchmarks.graph.job import STEPS
from benchmarks.measure import Measured, machine, run_job
from benchmarks.tables import markdown, mib, rounded, spread, write_csv

QUALITIES = ("recall", "modularity", "clusters", "trustworthiness", "preservation")
# What each is compared with.
PEERS = {
    "neighbours": "scanpy_neighbours",
    "leiden": "igraph_leiden",
    "umap": "umap_learn",
    "umap_multilevel": "umap_learn",
}


def rows(found: dict[str, list[Measured]]) -> list[dict[str, Any]]:
    """Return a row a step: seconds of step and process, memory, quality, and how many times as long the peer took."""
    seconds = {step: median(m.report["step_s"] for m in runs) for step, runs in found.items()}
    out = []
    for step, runs in found.items():
        row: dict[str, Any] = {"step": step, **spread([m.report["step_s"] for m in runs])}
        row["process_s"] = round(median(m.seconds for m in runs), 2)
        row["cpu_s"] = round(median(m.cpu_s for m in runs), 1)
        row["peak_mib"] = mib(median(m.report["peak_rss_bytes"] for m in runs))
        peer = PEERS.get(step)
        if peer in seconds:
            row["peer_over_ours"] = rounded(seconds[peer] / seconds[step])
        report = runs[-1].report
        out.append(row | {q: rounded(report[q]) for q in QUALITIES if q in report})
    return out


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--x", type=Path, required=True, help="n_obs x n_dims float32 .npy")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "graph")
    args = parser.parse_args(argv)
    shape = np.load(args.x, mmap_mode="r").shape
    found: dict[str, list[Measured]] = {step: [] for step in args.steps}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.runs + 1):
            for step in ["neighbours", *(s for s in args.steps if s != "neighbours")]:
                measured = run_job("graph.job", step, str(args.x), folder, n_threads=args.threads)
                if i and step in found:
                    found[step].append(measured)
                print(
                    f"{'warm-up' if not i else f'run {i} of {args.runs}'}: {step}, {measured.seconds:.1f} s", flush=True
                )
    table = rows(found)
    name = f"graph-{shape[0]}"
    write_csv(table, args.out / f"{name}.csv")
    text = f"# Graph stage of {shape[0]:,} cells x {shape[1]}, {args.threads} threads, median of {args.runs}\n\n"
    text += ", ".join(f"{k}: {v}" for k, v in machine().items()) + "\n\n" + markdown(table)
    (args.out / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
