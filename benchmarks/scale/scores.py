"""Scores and pseudobulk at real size: ``python -m benchmarks.scale.scores --store STORE``.

Every job in a process of its own, each time in turn with a bare decode pass, kernels compiled before:

- ``score``: a set of 50 genes scored on lazily normalised counts, whose gene means are not known (2 passes).
- ``score again``: another set on the same X (1 pass).
- ``cell cycle``: the two sets of `score_genes_cell_cycle` (2 passes).
- ``score counts``: a set scored on counts whose gene sums QC has found (1 pass).
- ``aggregate``: sum, mean, var and count_nonzero of counts by 30 groups x 10 samples (1 pass).
- ``aggregate sum``: the sum alone (1 pass).
- ``median``: the median of counts by the same groups (2 passes).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench_pca import RESULTS
from benchmarks.measure import machine, run_job
from benchmarks.tables import markdown, mib, rounded, write_csv

FUNCTIONS = ("sum", "mean", "var", "count_nonzero")
JOBS = ("score", "score again", "cell cycle", "score counts", "aggregate", "aggregate sum", "median")
_N_GROUPS, _N_SAMPLES, _WARM_ROWS = 30, 10, 3000
Row = dict[str, Any]


def job(name: str, store: str, n_runs: int) -> dict[str, Any]:
    """Run one job and a decode pass in turn; the first time, on a few rows, compiles."""
    _timed(_call(_prepared(store, name, _WARM_ROWS), name))
    found: dict[str, Any] = {"decode": [], "job": []}
    for _ in range(n_runs):
        adata = _prepared(store, name, None)
        found["decode"].append(_timed(lambda: _decode(store)))
        found["job"].append(_timed(_call(adata, name)))
    return found | {"n_obs": adata.n_obs, "n_vars": adata.n_vars}


def _timed(call: Callable[[], Any]) -> dict[str, float]:
    from sc_dask.log import stage

    cpu, start = time.process_time(), time.perf_counter()
    with stage("job") as s:
        call()
    return {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "passes": s.passes}


def _decode(store: str) -> None:
    import sc_dask as sd
    from sc_dask import get
    from sc_dask.array.blocks import each_block
    from sc_dask.array.engine import run

    run.compute(each_block(_nothing, get.matrix(sd.read(store))))


def _nothing(block: Any, index: int) -> int:
    return int(block.shape[0])


def _prepared(store: str, name: str, n_rows: int | None) -> Any:
    import numpy as np
    import pandas as pd

    import sc_dask as sd

    adata = sd.read(store)
    if n_rows is not None:
        adata = adata[:n_rows].copy()
    rng = np.random.default_rng(0)
    for key, n in (("bench_group", _N_GROUPS), ("bench_sample", _N_SAMPLES)):
        adata.obs[key] = pd.Categorical.from_codes(rng.integers(0, n, adata.n_obs), [f"{i}" for i in range(n)])
    if name == "score counts":
        sd.pp.filter_genes(adata, min_cells=0)  # finds the sums
    elif name.startswith("score") or name == "cell cycle":
        sd.pp.normalize_total(adata, target_sum=1e4)
        sd.pp.log1p(adata)
    if name == "score again":
        sd.tl.score_genes(adata, _genes(adata, 1), score_name="before")
    return adata


def _genes(adata: Any, seed: int) -> list[str]:
    import numpy as np

    picked = np.random.default_rng(seed).choice(adata.n_vars, size=min(50, adata.n_vars // 4), replace=False)
    return list(adata.var_names[picked])


def _call(adata: Any, name: str) -> Callable[[], Any]:
    import sc_dask as sd

    if name == "cell cycle":
        s, g2m = _genes(adata, 2), _genes(adata, 3)
        return lambda: sd.tl.score_genes_cell_cycle(adata, s_genes=s, g2m_genes=g2m)
    if name.startswith("score"):
        genes = _genes(adata, 2)
        return lambda: sd.tl.score_genes(adata, genes)
    func = {"aggregate": FUNCTIONS, "aggregate sum": ("sum",), "median": ("median",)}[name]
    return lambda: sd.get.aggregate(adata, ["bench_group", "bench_sample"], func)


def measure(store: Path, jobs: Sequence[str], n_runs: int, n_threads: int) -> list[Row]:
    """Return a row for each job: medians, and against the decode passes that ran in turn with it."""
    rows: list[Row] = []
    for name in jobs:
        m = run_job("scale.scores", "--job", name, "--store", str(store), "--runs", str(n_runs), n_threads=n_threads)
        own, decode = (
            {k: median(r[k] for r in m.report[part]) for k in ("seconds", "cpu_s", "passes")}
            for part in ("job", "decode")
        )
        row: Row = {"job": name, "n_obs": m.report["n_obs"], "n_vars": m.report["n_vars"], "passes": own["passes"]}
        row |= {"seconds": rounded(own["seconds"]), "cpu_s": rounded(own["cpu_s"])}
        row |= {"decode_s": rounded(decode["seconds"]), "decode_cpu_s": rounded(decode["cpu_s"])}
        row["in_decodes"] = rounded(own["seconds"] / decode["seconds"])
        row["in_decodes_cpu"] = rounded(own["cpu_s"] / max(decode["cpu_s"], 1e-9))
        row["peak_mib"] = mib(m.peak_rss_bytes)
        rows.append(row)
        print(f"{name}: {row['seconds']} s, {row['in_decodes']} decodes", file=sys.stderr, flush=True)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale.scores", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True, help="counts as AnnData zarr or h5ad")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the tables go")
    parser.add_argument("--job", choices=JOBS, help="run one job in this process and print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write ``scores.csv`` and ``scores.md``, and print."""
    args = _parser().parse_args(argv)
    if args.job:
        print(json.dumps(job(args.job, str(args.store), args.runs)))
        return
    rows = measure(args.store, args.jobs, args.runs, args.threads)
    write_csv(rows, args.out / "scores.csv")
    text = f"# Scores and pseudobulk\n\n{', '.join(f'{k}: {v}' for k, v in machine().items())}\n\n{markdown(rows)}"
    (args.out / "scores.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
