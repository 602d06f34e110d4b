"""Marker genes at real size: ``python -m benchmarks.scale.markers --store STORE``.

Every test in a process of its own, after QC and normalising, with the seconds of that part alone: a bare decode pass,
Welch's t-test, Wilcoxon's test with its gene-major copy to make, and with the copy there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench_pca import RESULTS
from benchmarks.measure import machine, run_job
from benchmarks.tables import markdown, mib, rounded, write_csv

JOBS = ("decode", "t-test", "wilcoxon", "wilcoxon again", "wilcoxon reference")
_WARM_ROWS = 3000
Row = dict[str, Any]


def job(name: str, store: str, n_groups: int, work: str) -> dict[str, Any]:
    """Run one test; its kernels are compiled on a few rows first."""
    import dask

    with dask.config.set({"sc-dask.work-dir": work}):
        _run(_prepared(store, n_groups, _WARM_ROWS), name)
        adata = _prepared(store, n_groups, None)
        before, cpu, start = _tree_bytes(work), time.process_time(), time.perf_counter()
        _run(adata, name)
        found = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    return found | {"n_obs": adata.n_obs, "n_vars": adata.n_vars, "disk_bytes": _tree_bytes(work) - before}


def _prepared(store: str, n_groups: int, n_rows: int | None) -> Any:
    import numpy as np
    import pandas as pd

    import sc_dask as sd

    adata = sd.read(store)
    if n_rows is not None:
        adata = adata[:n_rows].copy()
    codes = np.arange(adata.n_obs) % n_groups
    adata.obs["marker_group"] = pd.Categorical.from_codes(codes, [f"g{i}" for i in range(n_groups)])
    sd.pp.filter_cells(adata, min_genes=1)  # learns the sums, as QC does
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    return adata


def _run(adata: Any, name: str) -> None:
    import sc_dask as sd
    from sc_dask import get
    from sc_dask.array.blocks import each_block
    from sc_dask.array.engine import run

    if name == "decode":
        x = get.matrix(adata)
        while x.expression.steps:
            x = type(x)(
                type(x.expression)(x.expression.source, x.expression.bounds, x.expression.rows, x.expression.steps[:-1])
            )
        run.compute(each_block(_nothing, x))
        return
    reference = "g0" if name.endswith("reference") else "rest"
    sd.tl.rank_genes_groups(adata, "marker_group", method=name.split()[0], reference=reference)


def _nothing(block: Any, index: int) -> int:
    return int(block.shape[0])


def _tree_bytes(folder: str) -> int:
    return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())


def measure(store: Path, n_groups: int, n_threads: int, work: Path) -> list[Row]:
    """Return a row for each test, and against the bare decode pass of the same run."""
    folder = tempfile.mkdtemp(dir=work)
    rows: list[Row] = []
    try:
        for name in JOBS:
            m = run_job("scale.markers", "--job", name, "--store", str(store), "--groups", str(n_groups),
                        "--work", folder, n_threads=n_threads)  # fmt: skip
            row = {"test": name, **{k: m.report[k] for k in ("n_obs", "n_vars")}, "groups": n_groups}
            row |= {"seconds": rounded(m.report["seconds"]), "cpu_s": rounded(m.report["cpu_s"])}
            row["decode_passes"] = rounded(m.report["seconds"] / (rows[0]["seconds"] if rows else m.report["seconds"]))
            row |= {"peak_mib": mib(m.peak_rss_bytes), "disk_mib": mib(m.report["disk_bytes"])}
            rows.append(row)
            print(f"{name}: {row['seconds']} s, {row['peak_mib']} MiB", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale.markers", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="counts as AnnData zarr or h5ad")
    parser.add_argument("--groups", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=RESULTS / "data", help="where the gene-major copy goes meanwhile")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the tables go")
    parser.add_argument("--job", choices=JOBS, help="run one test in this process and print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write ``markers.csv`` and ``markers.md``, and print."""
    args = _parser().parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.job:
        print(json.dumps(job(args.job, str(args.store), args.groups, str(args.work))))
        return
    rows = measure(args.store, args.groups, args.threads, args.work)
    write_csv(rows, args.out / "markers.csv")
    text = f"# Marker genes\n\n{', '.join(f'{k}: {v}' for k, v in machine().items())}\n\n{markdown(rows)}"
    (args.out / "markers.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
