"""Projected against measured peak memory of every stage of a run: ``python -m benchmarks.scale.memory``.

For each store and budget, ``sc-dask plan --json`` projects and ``sc-dask run`` measures, each a process of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench_pca import RESULTS
from benchmarks.measure import JobError, Measured, machine, run_command
from benchmarks.scale import stores
from benchmarks.tables import markdown, mib, rounded, write_csv

NONE = "none"
_REFUSED = 2  # what the command line ends with when a plan does not fit
Row = dict[str, Any]


def _sc_dask(command: str, *args: str, n_threads: int) -> Measured:
    program = str(Path(sys.executable).parent / "sc-dask")
    return run_command(f"sc-dask {command}", [program, command, *args], n_threads=n_threads, timeout_s=6 * 3600)


def measure(store: Path, memory: str, n_threads: int, work: Path) -> list[Row]:
    """Return a row for each stage, and one for the whole process; one row alone where the plan does not fit.

    The run writes its results to ``work`` and they are removed again.
    """
    head = {"store": store.stem, "budget": memory}
    budget = () if memory == NONE else ("--memory", memory)
    try:
        plan = _sc_dask("plan", str(store), "--json", *budget, n_threads=n_threads).report
    except JobError as err:
        if err.code != _REFUSED:
            raise
        return [{**head, "stage": "refused by the plan"}]
    head["block_mib"] = mib(plan["block_bytes"])
    out = Path(tempfile.mkdtemp(dir=work))
    try:
        m = _sc_dask("run", str(store), "--out", str(out / "result.zarr"), *budget, n_threads=n_threads)
        report = json.loads((out / "run.json").read_text())
    finally:
        shutil.rmtree(out)
    projected = {s["stage"]: s["peak_bytes"] for s in plan["stages"]}
    rows = [
        head | _row(s["name"], projected[s["name"]], s["peak_rss_bytes"], memory) | {"seconds": round(s["seconds"], 1)}
        for s in report["stages"]
    ]
    whole = max(m.peak_rss_bytes, *(s["peak_rss_bytes"] for s in report["stages"]))
    return [*rows, head | _row("whole run", plan["peak_bytes"], whole, memory) | {"seconds": round(m.seconds, 1)}]


def _row(stage: str, projected: int, measured: int, memory: str) -> Row:
    from dask.utils import parse_bytes

    return {
        "stage": stage,
        "projected_mib": mib(projected),
        "measured_mib": mib(measured),
        "projected_over_measured": rounded(projected / measured),
        "from_above": measured <= projected,
        "within_budget": "" if memory == NONE else measured <= parse_bytes(memory),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale.memory", description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=["20000"], help="100k, 300k, 1.3M or numbers of cells")
    parser.add_argument("--stores", nargs="*", type=Path, help="measure these AnnData zarr stores instead")
    parser.add_argument("--memory", nargs="+", metavar="SIZE", default=[NONE, "1GiB", "2GiB", "4GiB"])
    parser.add_argument("--source", type=Path, help="real counts that atlases are made from [PBMC3k]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=RESULTS / "data", help="where atlases are kept")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the tables go")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write ``memory.csv`` and ``memory.md``, and print."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.stores and args.source is not None:
        parser.error("found --stores and --source; expected one of them: a store is measured as it is")
    args.cache.mkdir(parents=True, exist_ok=True)
    paths = args.stores or [
        stores.atlas(stores.n_cells(size), args.source, args.cache, args.threads) for size in args.sizes
    ]
    rows: list[Row] = []
    for path in paths:
        for memory in args.memory:
            rows += measure(path, memory, args.threads, args.cache)
            print(f"{path.stem}, budget {memory}: {rows[-1]['stage']}", file=sys.stderr, flush=True)
    write_csv(rows, args.out / "memory.csv")
    text = (
        f"# Projected and measured memory\n\n{', '.join(f'{k}: {v}' for k, v in machine().items())}\n\n{markdown(rows)}"
    )
    (args.out / "memory.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
