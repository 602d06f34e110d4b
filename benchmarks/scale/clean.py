"""What cleaning costs: ``python -m benchmarks.scale.clean --store STORE``.

PCA of 2,000 highly variable genes alone, after ``regress_out`` of two covariates, and after ``scale(max_value=10)``,
each in a process of its own. Counts to chosen genes, which all have in common, are not part of the figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench_pca import RESULTS
from benchmarks.measure import Measured, machine, run_job
from benchmarks.tables import markdown, mib, rounded, write_csv

ALONE = "pca"
WAYS = (ALONE, "regress_out, pca", "regress_out, scale, pca", "scale cut, pca", "regress_out, scale cut, pca")
Row = dict[str, Any]


def measure(store: Path, ways: Sequence[str], n_runs: int, n_threads: int) -> list[Row]:
    """Return a row for each way, in turns, so that a busy machine is busy for all; medians of the runs."""
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(n_runs):
        for way in ways:
            m = run_job("scale.clean_jobs", way, str(store), n_threads=n_threads, timeout_s=6 * 3600)
            print(f"{way}: {m.report['seconds']:.1f} s", file=sys.stderr, flush=True)
            found[way].append(m)
    first = found[ways[0]]
    return [_row(way, found[way], first) for way in ways]


def _row(way: str, runs: Sequence[Measured], first: Sequence[Measured]) -> Row:
    def middle(of: Sequence[Measured], figure: str) -> float:
        return median(m.report[figure] for m in of)

    reports = [m.report for m in runs]
    return {
        "way": way,
        "seconds": rounded(middle(runs, "seconds")),
        "cpu_s": rounded(middle(runs, "cpu_s")),
        "times_pca": rounded(middle(runs, "seconds") / middle(first, "seconds")),
        "cpu_times_pca": rounded(middle(runs, "cpu_s") / middle(first, "cpu_s")),
        "correct_s": rounded(median(r["stages"]["correct"]["seconds"] for r in reports)),
        "pca_s": rounded(median(r["stages"]["pca"]["seconds"] for r in reports)),
        "passes": round(reports[0]["passes"], 2),
        "peak_rss_mib": mib(max(r["peak_rss_bytes"] for r in reports)),
        "cells": reports[0]["shape"][0],
        "genes": reports[0]["shape"][1],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write ``clean-STORE.csv`` and ``.md``, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale.clean", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="an AnnData zarr store of counts")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the tables go")
    args = parser.parse_args(argv)
    rows = measure(args.store, args.ways, args.runs, args.threads)
    head = ", ".join(f"{k}: {v}" for k, v in machine().items())
    write_csv(rows, args.out / f"clean-{args.store.stem}.csv")
    text = f"{args.store.stem}, {args.threads} threads; {head}\n\n{markdown(rows)}"
    (args.out / f"clean-{args.store.stem}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
