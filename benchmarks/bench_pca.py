"""Counts to X_pca beside scanpy in memory and scanpy on Dask: ``python -m benchmarks.bench_pca [--n-obs 100000]``.

Every engine runs in a process of its own on the same store, in turn, several times; medians are compared. Results go to
``benchmarks/results/`` as CSV and Markdown.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.measure import Measured, machine, run_job
from benchmarks.tables import markdown, write_csv
from benchmarks.to_pca import ENGINES

RESULTS = Path(__file__).parent / "results"


def atlas(n_obs: int, n_vars: int, folder: Path) -> Path:
    """Return a simulated store, made once."""
    import sc_dask as sd

    path = folder / f"simulated-{n_obs}x{n_vars}.zarr"
    if not path.exists():
        sd.datasets.simulate(n_obs, n_vars, n_groups=10, seed=0, out=path)
    return path


def compare(path: Path, engines: list[str], n_runs: int, n_threads: int) -> dict[str, list[Measured]]:
    """Run all engines in turn, ``n_runs`` times, after one run each to compile and to fill the page cache."""
    out: dict[str, list[Measured]] = {e: [] for e in engines}
    for i in range(n_runs + 1):
        for engine in engines:
            m = run_job("to_pca", engine, str(path), n_threads=n_threads)
            if i:
                out[engine].append(m)
    return out


def rows(found: dict[str, list[Measured]]) -> list[dict[str, object]]:
    """Return a row per engine: median seconds and peak memory, and both as multiples of ours."""
    middle = {
        e: (statistics.median(m.seconds for m in ms), statistics.median(m.peak_rss_bytes for m in ms), ms)
        for e, ms in found.items()
    }
    own = middle["sc_dask"]
    table = []
    for engine, (seconds, rss, ms) in middle.items():
        stages = {k: statistics.median(m.report["stages"][k]["seconds"] for m in ms) for k in ms[0].report["stages"]}
        table.append(
            {
                "engine": engine,
                "seconds": round(seconds, 2),
                "min_s": round(min(m.seconds for m in ms), 2),
                "max_s": round(max(m.seconds for m in ms), 2),
                "cpu_s": round(statistics.median(m.cpu_s for m in ms), 2),
                "peak_rss_mib": round(rss / 2**20),
                "times_ours": round(seconds / own[0], 2),
                "memory_times_ours": round(rss / own[1], 2),
                "passes": round(ms[0].report.get("passes", float("nan")), 2),
                **{f"{k}_s": round(v, 2) for k, v in stages.items()},
                "same_genes": ms[0].report["genes"] == own[2][0].report["genes"],
            }
        )
    return table


def write(table: list[dict[str, object]], name: str, title: str) -> str:
    """Write the table as CSV and Markdown; returns the Markdown."""
    write_csv(table, RESULTS / f"{name}.csv")
    text = f"# {title}\n\n{', '.join(f'{k}: {v}' for k, v in machine().items())}\n\n{markdown(table)}"
    (RESULTS / f"{name}.md").write_text(text)
    return text


def main(argv: list[str] | None = None) -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-obs", type=int, default=100_000)
    parser.add_argument("--n-vars", type=int, default=13_714)
    parser.add_argument("--store", type=Path, help="use this AnnData zarr instead of simulated counts")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--cache", type=Path, default=RESULTS / "data")
    args = parser.parse_args(argv)
    args.cache.mkdir(parents=True, exist_ok=True)
    path = args.store or atlas(args.n_obs, args.n_vars, args.cache)
    found = compare(path, args.engines, args.runs, args.threads)
    title = f"Counts to X_pca, {path.name}, {args.threads} threads, median of {args.runs}"
    print(write(rows(found), f"to_pca-{path.stem}", title))


if __name__ == "__main__":
    main()
