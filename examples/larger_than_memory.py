"""An atlas larger than memory, from counts to clusters, their markers and a map, on one machine.

    python examples/larger_than_memory.py                                    # 20,000 simulated cells, minutes
    python examples/larger_than_memory.py --n-obs 2_000_000 --memory 12GiB   # 33 GB of counts, hours
    python examples/larger_than_memory.py atlas.zarr --memory 8GiB           # your own counts, zarr or h5ad, or a URL

X stays in its file. A pass reads it in row blocks, as many at a time as there are threads. What an analysis keeps in
memory is small: tables of cells and genes, 50 numbers per cell, and the neighbour graph.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
from dask.utils import format_bytes, parse_bytes

import sc_dask as sd
from sc_dask.io.info import info
from sc_dask.pipeline.figures import make_figures


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("atlas", nargs="?", help="path or URL of counts (AnnData zarr or h5ad); none: simulated cells")
    parser.add_argument("--n-obs", type=int, default=20_000, help="simulated cells (%(default)s)")
    parser.add_argument("--n-vars", type=int, default=20_000, help="simulated genes (%(default)s)")
    parser.add_argument("--memory", type=parse_bytes, default="1GiB", help="budget of this process (%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path("larger_than_memory"), help="for what is made (%(default)s)"
    )
    return parser.parse_args()


@contextmanager
def stage(name: str, peaks: list[int]) -> Iterator[None]:
    """Print what a step cost, as the library measures it: how often X was read, and the system's peak memory."""
    with sd.log.stage(name) as s:
        yield
    peaks.append(s.peak_rss_bytes)
    read = format_bytes(s.bytes_read)
    print(f"{name:<12}{s.seconds:>9.1f} s{s.passes:>8.2f}{read:>13}{format_bytes(s.peak_rss_bytes):>13}", flush=True)


def simulated(folder: Path, n_obs: int, n_vars: int) -> Path:
    """Write simulated counts block by block; all of them are never in memory."""
    path = folder / f"atlas_{n_obs}x{n_vars}.zarr"
    if not path.exists():  # a store gets its name once it is whole
        sd.datasets.simulate(n_obs, n_vars, n_groups=12, n_batches=4, out=path)
    return path


def main() -> None:
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)

    # the budget, and the largest block of rows: small ones suit a small budget and cost little time
    dask.config.set({"sc-dask.memory": args.memory, "sc-dask.block-bytes": "16MiB"})
    peaks: list[int] = []
    print(f"{'step':<12}{'time':>11}{'passes':>8}{'read':>13}{'peak memory':>13}")
    if args.atlas is None:
        with stage("simulate", peaks):
            args.atlas = simulated(args.folder, args.n_obs, args.n_vars)

    with stage("plan", peaks):  # refuses now, not after hours, what cannot fit; else says how large blocks may be
        plan = sd.pipeline.plan(info(args.atlas), sd.pipeline.Settings())

    with stage("read", peaks):
        adata = sd.read(args.atlas, block_bytes=plan.block_bytes)  # obs and var; X becomes lazy row blocks
    n_obs, n_vars = adata.shape

    with stage("qc", peaks):
        adata.var["mt"] = adata.var_names.str.upper().str.startswith("MT-")
        sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)
    n_values = int(adata.obs["n_genes_by_counts"].sum())

    with stage("filter", peaks):
        sd.pp.filter_cells(adata, min_genes=100)
        sd.pp.filter_genes(adata, min_cells=3)

    with stage("normalise", peaks):  # nothing is read: two steps that every later pass takes on its blocks
        sd.pp.normalize_total(adata, target_sum=1e4)
        sd.pp.log1p(adata)

    with stage("hvg", peaks):
        sd.pp.highly_variable_genes(adata, n_top_genes=min(2000, adata.n_vars // 2))

    with stage("pca", peaks):
        sd.pp.pca(adata)

    with stage("neighbors", peaks):
        sd.pp.neighbors(adata)

    with stage("leiden", peaks):
        sd.tl.leiden(adata, flavor="sc_dask", n_iterations=2)

    with stage("umap", peaks):
        sd.tl.umap(adata, init_pos="multilevel")

    with stage("markers", peaks):
        sd.tl.rank_genes_groups(adata, "leiden", pts=True)

    with stage("write", peaks):
        results = args.folder / "results.zarr"
        sd.write(adata, results, overwrite=True)

    with stage("figures", peaks):
        for name, png in make_figures(adata).items():
            (args.folder / name).write_bytes(png)

    print(f"\n{adata.n_obs:,} of {n_obs:,} cells and {adata.n_vars:,} of {n_vars:,} genes were kept")
    clusters = adata.obs["leiden"].cat.categories
    print(f"{len(clusters)} clusters; the first markers of each:")
    for cluster in clusters:
        top = sd.get.rank_genes_groups_df(adata, cluster)["names"].head(3)
        print(f"  {cluster:>3}  {', '.join(top)}")
    if "true_label" in adata.obs:
        from sklearn.metrics import adjusted_rand_score

        agreement = adjusted_rand_score(adata.obs["true_label"], adata.obs["leiden"])
        print(f"agreement with the simulated groups (adjusted Rand index): {agreement:.3f}")
    print(f"memory budget {format_bytes(args.memory)}, row blocks of {format_bytes(plan.block_bytes)}")
    print(f"X as a dense float32 array would take {format_bytes(4 * n_obs * n_vars)}")
    print(f"X as a sparse float32 matrix would take {format_bytes(8 * n_values + 8 * n_obs)}")
    peak, verdict = max(peaks), "within" if max(peaks) <= args.memory else "OVER"
    print(f"peak memory {format_bytes(peak)} (planned {format_bytes(plan.peak_bytes)}), {verdict} the budget")
    print(f"results {results}")


if __name__ == "__main__":
    main()
