"""Counts to X_pca at a real size: every engine and every part of the floor in turn, each in a process of its own.

``python -m benchmarks.scale --size 100k|300k|1.3M`` writes tables (CSV, Markdown) and a picture (PNG).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench_pca import RESULTS
from benchmarks.measure import Measured, machine, run_job
from benchmarks.scale import budget, published, results, stores
from benchmarks.scale.figure import draw
from benchmarks.scale.floor import JOBS
from benchmarks.tables import markdown, write_csv
from benchmarks.to_pca import ENGINES


@dataclass(frozen=True)
class Job:
    """One process: a module of this package, its arguments and its environment."""

    name: str
    module: str
    args: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)


def jobs_of(path: Path, engines: Sequence[str], n_threads: int, own: Mapping[str, str]) -> list[Job]:
    """Return what is run in every round; ``own`` are options of ours."""
    floor = [Job(name, "scale.floor", (name, str(path), str(n_threads))) for name in JOBS]
    return floor + [Job(e, "to_pca", (e, str(path)), own if e == "sc_dask" else {}) for e in engines]


def rounds(jobs: Sequence[Job], n_runs: int, n_threads: int, n_warm_ups: int = 1) -> dict[str, list[Measured]]:
    """Run all jobs in turn, ``n_runs`` times after a round that compiles and fills the page cache."""
    found: dict[str, list[Measured]] = {job.name: [] for job in jobs}
    for i in range(1 - n_warm_ups, n_runs + 1):
        for job in jobs:
            m = run_job(job.module, *job.args, n_threads=n_threads, timeout_s=6 * 3600, options=job.options)
            said = "warm-up" if i < 1 else f"run {i} of {n_runs}"
            print(f"{said}: {job.name}, {m.seconds:.1f} s", file=sys.stderr, flush=True)
            if i > 0:
                found[job.name].append(m)
    return found


def compare(
    path: Path,
    engines: Sequence[str],
    n_runs: int,
    n_threads: int,
    memory: str | None,
    out: Path,
    n_warm_ups: int = 1,
) -> dict[str, Path]:
    """Measure, and write ``scale-<store>.md``, ``.png`` and three ``.csv``; returns where they are."""
    facts = budget.facts_of(path)
    refused = {e: line for e in engines if (line := budget.refusal(e, facts)) is not None}
    for line in refused.values():
        print(line, file=sys.stderr)
    own = budget.options(path, memory, n_threads) if "sc_dask" in engines else {}
    jobs = jobs_of(path, [e for e in engines if e not in refused], n_threads, own)
    found = rounds(jobs, n_runs, n_threads, n_warm_ups)
    wall, cpu = (results.floor_of(found, facts, figure) for figure in ("seconds", "cpu_s"))
    engine_rows = results.engine_rows(found, wall, cpu, memory)
    tables = {
        "engines": engine_rows
        + [{"kind": "skipped", "engine": e, "source": line} for e, line in refused.items()]
        + published.rows(facts.n_obs),
        "stages": results.stage_rows(found, wall),
        "floor": results.floor_rows(found, wall, cpu),
    }
    title = (
        f"Counts to X_pca: {facts.n_obs:,} cells x {facts.n_vars:,} genes, {facts.n_nonzeros / 1e6:,.0f} M non-zeros, "
        f"{n_threads} threads, median of {n_runs}{f', {memory} for sc_dask' if memory else ''}"
    )
    stem = f"scale-{path.stem}{f'-{memory}' if memory else ''}"
    places = {name: out / f"{stem}.{name}.csv" for name in tables}
    for name, rows in tables.items():
        write_csv(rows, places[name])
    places |= {"text": out / f"{stem}.md"}
    places["text"].write_text(_text(title, tables))
    if engine_rows:
        places |= {"picture": out / f"{stem}.png"}
        draw(engine_rows, tables["stages"], wall, title, places["picture"])
    return places


def _text(title: str, tables: Mapping[str, results.Rows]) -> str:
    parts = [f"# {title}\n", ", ".join(f"{k}: {v}" for k, v in machine().items()) + "\n"]
    parts += [f"## {name}\n\n{markdown(rows)}" for name, rows in tables.items() if rows]
    return "\n".join(parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--size", default="100k", help="100k, 300k, 1.3M, or a number of cells; made once")
    parser.add_argument("--store", type=Path, help="measure this AnnData zarr store instead")
    parser.add_argument("--source", type=Path, help="real counts that the atlas is made from [PBMC3k]")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--warm-ups", type=int, default=1, help="rounds before, which are thrown away")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--memory", metavar="SIZE", help="budget of sc_dask, for instance 1GiB: smaller blocks")
    parser.add_argument("--cache", type=Path, default=RESULTS / "data", help="where atlases are kept")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where tables and the picture go")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.store is not None and args.source is not None:
        parser.error("found --store and --source; expected one of them: a store is measured as it is")
    if args.runs < 1 or args.threads < 1 or args.warm_ups < 0:
        parser.error(f"found --runs {args.runs} --threads {args.threads}; expected 1 or more (--warm-ups: 0 or more)")
    try:
        n_obs = stores.n_cells(args.size)
    except ValueError as err:
        parser.error(str(err))
    path = args.store or stores.atlas(n_obs, args.source, args.cache, args.threads)
    places = compare(path, args.engines, args.runs, args.threads, args.memory, args.out, args.warm_ups)
    print(places["text"].read_text())
    print("\n".join(f"{name:<8} {place}" for name, place in places.items()))
