"""The other bounds, each beside its reference in one run: ``python -m benchmarks.scale.shapes``.

- ``hvg``: genes chosen in ten batches against all cells together.
- ``shapes``: many genes, few and many non-zeros a cell, in time per non-zero, against the standard shape.
- ``workers``: two worker processes of one thread against one.
- ``graph``: the tasks of 10,000 blocks, and how long their graph takes to make.
- ``plan``: ``sc-dask plan`` on 100 million cells, of which only the row sizes are really there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench_pca import RESULTS
from benchmarks.measure import machine, run_command, run_job
from benchmarks.tables import markdown, mib, rounded, write_csv

STANDARD = "standard"
SHAPES = {  # genes, non-zeros a cell
    STANDARD: (13_714, 1_950),
    "60,000 genes": (60_000, 1_950),
    "50 non-zeros a cell": (13_714, 50),
    "20,000 non-zeros a cell": (60_000, 20_000),
}
STAGES = ("qc", "hvg", "pca")
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How large, how often, and where."""

    store: Path | None
    n_nonzeros: int
    n_obs: int
    n_blocks: int
    n_runs: int
    n_threads: int
    cache: Path

    def job(self, name: str, *args: object, n_threads: int | None = None) -> Any:
        """Run one job in a process of its own."""
        m = run_job("scale.shape_jobs", name, *map(str, args), n_threads=n_threads or self.n_threads)
        print(f"{name} {' '.join(map(str, args))}: {m.seconds:.1f} s", file=sys.stderr, flush=True)
        return m

    def shaped(self, name: str) -> Path:
        """Return the store of a shape, made once."""
        n_vars, per_cell = SHAPES[name]
        n_obs = max(1, self.n_nonzeros // per_cell)
        path = self.cache / f"shape-{n_obs}x{n_vars}-{per_cell}.zarr"
        if not path.exists():
            self.job("make", n_obs, n_vars, per_cell, path)
        return path

    def counts(self) -> Path:
        """Return the store that is measured where the shape does not matter."""
        return self.store or self.shaped(STANDARD)


def _bound(bound: str, what: str, value: float, unit: str, **more: Any) -> Row:
    """Return a row; ``most`` or ``least`` is the target of ``judged`` (the value, if there is no ratio)."""
    row = {"bound": bound, "what": what, "value": rounded(value), "unit": unit}
    row |= {"reference": "", "ratio": "", "target": "", "met": ""} | more
    judged = value if row["ratio"] == "" else row["ratio"]
    if "most" in row:
        most = row.pop("most")
        row |= {"target": f"<= {most:g}", "met": "yes" if judged <= most else "no"}
    if "least" in row:
        least = row.pop("least")
        row |= {"target": f">= {least:g}", "met": "yes" if judged >= least else "no"}
    return row


def hvg(s: Settings) -> list[Row]:
    """Genes chosen in ten batches against without, by wall and by CPU time."""
    found = s.job("hvg", s.counts()).report
    rows = []
    for figure in ("seconds", "cpu_s"):
        one, ten = (median(r[figure] for r in found[k]) for k in ("one", "batches"))
        more = {"most": 1.2} if figure == "seconds" else {}
        rows.append(
            _bound("hvg", f"10 batches, {figure}", ten, "s", reference=rounded(one), ratio=rounded(ten / one), **more)
        )
    return rows


def shapes(s: Settings) -> list[Row]:
    """Time per non-zero of the three passes, shape by shape in turn."""
    per: dict[tuple[str, str, str], list[float]] = {}
    for i in range(s.n_runs + 1):
        for name in SHAPES:
            report = s.job("shape", s.shaped(name)).report
            for stage in STAGES:
                for figure in ("seconds", "cpu_s"):
                    value = report["stages"][stage][figure] / report["n_nonzeros"] * 1e9
                    if i:
                        per.setdefault((name, stage, figure), []).append(value)
    rows = []
    for (name, stage, figure), values in per.items():
        value, reference = median(values), median(per[STANDARD, stage, figure])
        more = {} if name == STANDARD else {"reference": rounded(reference), "ratio": rounded(value / reference)}
        rows.append(_bound("shapes", f"{name}: {stage}, {figure}", value, "ns a non-zero", **more))
    return rows


def workers(s: Settings) -> list[Row]:
    """Two one-thread workers against one, by stage and together."""
    path, runs = s.counts(), {"1": [], "2": []}  # type: ignore[var-annotated]
    for _ in range(s.n_runs):
        for n, found in runs.items():
            with tempfile.TemporaryDirectory(dir=s.cache) as folder:
                found.append(s.job("workers", path, n, folder, n_threads=1).report["stages"])
    rows = []
    for what, stages in {**{k: (k,) for k in STAGES}, "together": STAGES}.items():
        one, two = (median(sum(r[k]["seconds"] for k in stages) for r in runs[n]) for n in ("1", "2"))
        more = {"least": 1.7} if what == "together" else {}
        rows.append(
            _bound("workers", f"{what}, 2 workers", two, "s", reference=rounded(one), ratio=rounded(one / two), **more)
        )
    return rows


def graph(s: Settings) -> list[Row]:
    """The graphs of the passes to X_pca over many blocks."""
    found = s.job("graph", s.n_blocks).report
    passes = [p for p in found["passes"] if p["n_blocks"] == s.n_blocks]
    tasks = max(p["tasks"] / p["n_blocks"] for p in passes)
    slowest = max(p["seconds"] for p in passes)
    per_task = found["seconds"] / sum(p["tasks"] for p in passes) * 1e3
    return [
        _bound("graph", f"{s.n_blocks:,} blocks: slowest graph of {len(passes)} passes", slowest, "s", most=1),
        _bound("graph", "most tasks a block and pass", tasks, "tasks", most=4),
        _bound("graph", "whole run, a task", per_task, "ms"),
    ]


def plan(s: Settings) -> list[Row]:
    """The whole process of ``sc-dask plan`` on a store that is declared only."""
    n_vars = 30_000
    path = s.cache / f"declared-{s.n_obs}x{n_vars}.zarr"
    if not path.exists():
        s.job("declared", s.n_obs, n_vars, path)
    command = [str(Path(sys.executable).parent / "sc-dask"), "plan", str(path)]
    runs = [run_command("plan", command, n_threads=s.n_threads) for _ in range(s.n_runs + 1)][1:]
    what = f"sc-dask plan of {s.n_obs:,} x {n_vars:,}"
    return [
        _bound("plan", f"{what}, whole process", median(m.seconds for m in runs), "s", most=10),
        _bound("plan", f"{what}, CPU", median(m.cpu_s for m in runs), "s"),
        _bound("plan", f"{what}, peak memory", mib(median(m.peak_rss_bytes for m in runs)), "MiB", most=500),
    ]


BOUNDS: dict[str, Callable[[Settings], list[Row]]] = {f.__name__: f for f in (hvg, shapes, workers, graph, plan)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale.shapes", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bounds", nargs="+", choices=list(BOUNDS), default=list(BOUNDS))
    parser.add_argument("--store", type=Path, help="counts for hvg and workers [the standard shape]")
    parser.add_argument("--nonzeros", type=int, default=100_000_000, help="about so many in each shape")
    parser.add_argument("--cells", type=int, default=100_000_000, help="of the store that is planned")
    parser.add_argument("--blocks", type=int, default=10_000, help="of the graph")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=RESULTS / "data", help="where stores are kept")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the tables go")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the bounds, write ``shapes.csv`` and ``shapes.md``, and print."""
    args = _parser().parse_args(argv)
    args.cache.mkdir(parents=True, exist_ok=True)
    s = Settings(args.store, args.nonzeros, args.cells, args.blocks, args.runs, args.threads, args.cache)
    rows = [row for bound in args.bounds for row in BOUNDS[bound](s)]
    write_csv(rows, args.out / "shapes.csv")
    text = f"# Bounds\n\n{', '.join(f'{k}: {v}' for k, v in machine().items())}\n\n{markdown(rows)}"
    (args.out / "shapes.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
