"""A gzipped h5ad to zarr beside anndata's own way out of core: ``python -m benchmarks.bench_convert [--source X.h5ad]``

Every engine runs in a process of its own, in turn, several times; medians are compared, of the whole process and of the
call alone (packages imported), and the two stores: values, indices, indptr, obs and var must be equal. Without a
source, the h5ad is made from simulated counts, once. Results go to ``benchmarks/results/`` as CSV and Markdown.
"""

from __future__ import annotations

import argparse
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from benchmarks.bench_pca import RESULTS, atlas
from benchmarks.measure import Measured, machine, run_job
from benchmarks.tables import markdown, mib, rounded, spread, write_csv
from benchmarks.to_zarr import ENGINES

COMPARED_VALUES = 8 << 20  # read from both stores at a time


def gzipped(store: Path, folder: Path) -> Path:
    """Return a store as a gzipped h5ad with float32 counts, made once, in memory."""
    import anndata as ad
    import numpy as np

    path = folder / f"{store.stem}.h5ad"
    if not path.exists():
        adata = ad.read_zarr(store)
        adata.X = adata.X.astype(np.float32)
        adata.write_h5ad(path, compression="gzip")
    return path


def compare(source: Path, folder: Path, engines: list[str], n_runs: int, n_threads: int) -> dict[str, list[Measured]]:
    """Run all engines in turn, ``n_runs`` times, after one run each to compile and to fill the page cache."""
    found: dict[str, list[Measured]] = {e: [] for e in engines}
    for i in range(n_runs + 1):
        for engine in engines:
            out = store_of(folder, engine)
            shutil.rmtree(out, ignore_errors=True)
            measured = run_job("to_zarr", engine, str(source), str(out), n_threads=n_threads)
            if i:
                found[engine].append(measured)
    return found


def store_of(folder: Path, engine: str) -> Path:
    """Return where an engine writes to."""
    return folder / f"converted-{engine}.zarr"


def differences(a: Path, b: Path) -> list[str]:
    """Return what of X, obs and var differs between two stores; types of numbers may."""
    import numpy as np
    import zarr
    from anndata.io import read_elem

    one, other = zarr.open_group(a, mode="r"), zarr.open_group(b, mode="r")
    out = [axis for axis in ("obs", "var") if not read_elem(one[axis]).equals(read_elem(other[axis]))]
    for name in ("data", "indices", "indptr"):
        x, y = one[f"X/{name}"], other[f"X/{name}"]
        starts = range(0, x.shape[0], COMPARED_VALUES)
        if x.shape != y.shape or not all(
            np.array_equal(x[i : i + COMPARED_VALUES], y[i : i + COMPARED_VALUES]) for i in starts
        ):
            out.append(f"X/{name}")
    return out


def rows(found: dict[str, list[Measured]], folder: Path) -> list[dict[str, object]]:
    """Return a row per engine: seconds, also as multiples of ours, peak memory, disk, and what differs from ours."""
    ours, our_call = (median(of_run(m) for m in found["sc_dask"]) for of_run in (_seconds, _call))
    table: list[dict[str, object]] = []
    for engine, runs in found.items():
        store = store_of(folder, engine)
        table.append(
            {
                "engine": engine,
                **spread([m.seconds for m in runs]),
                "cpu_s": round(median(m.cpu_s for m in runs), 2),
                "peak_rss_mib": mib(max(m.peak_rss_bytes for m in runs)),
                "times_ours": rounded(median(map(_seconds, runs)) / ours),
                "call_s": round(median(map(_call, runs)), 2),
                "call_times_ours": rounded(median(map(_call, runs)) / our_call),
                "store_mib": mib(sum(p.stat().st_size for p in store.rglob("*") if p.is_file())),
                "passes": runs[0].report.get("passes", ""),
                "inflater": runs[0].report.get("inflater", "zlib"),
                "differs": ", ".join(differences(store, store_of(folder, "sc_dask"))) or "nothing",
            }
        )
    return table


def _seconds(m: Measured) -> float:
    return m.seconds


def _call(m: Measured) -> float:
    return float(m.report["call_s"])


def simulated(n_obs: int, n_vars: int, folder: Path) -> Path:
    """Make the source in a process of its own: what it needs is no part of the engines' peaks."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_simulated, n_obs, n_vars, folder).result()


def _simulated(n_obs: int, n_vars: int, folder: Path) -> Path:
    return gzipped(atlas(n_obs, n_vars, folder), folder)


def main(argv: list[str] | None = None) -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-obs", type=int, default=100_000)
    parser.add_argument("--n-vars", type=int, default=13_714)
    parser.add_argument("--source", type=Path, help="use this h5ad instead of simulated counts")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=RESULTS / "data")
    args = parser.parse_args(argv)
    args.cache.mkdir(parents=True, exist_ok=True)
    source = args.source or simulated(args.n_obs, args.n_vars, args.cache)
    found = compare(source, args.cache, list(ENGINES), args.runs, args.threads)
    table = rows(found, args.cache)
    write_csv(table, RESULTS / f"convert-{source.stem}.csv")
    about = ", ".join(f"{k}: {v}" for k, v in machine().items())
    title = f"# {source.name} to zarr, {args.threads} threads, median of {args.runs}"
    text = f"{title}\n\n{about}\n\n{markdown(table)}"
    (RESULTS / f"convert-{source.stem}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
