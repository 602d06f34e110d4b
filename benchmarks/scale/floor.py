"""What no program of this kind can do without, each measured alone.

``python -m benchmarks.scale.floor JOB STORE THREADS`` prints JSON:

- ``decode_zarr``: zarr reads every stored object of X's data and indices, one a call, and nothing else is done.
- ``decode_own``: our reader makes every row block, and nothing else is done.
- ``qc``: our QC pass alone, once its code is compiled and the store is open.
- ``ssyrk``: float32 products of a tile with itself, ``cells x genes^2`` a second, one BLAS thread in each thread.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.to_pca import N_TOP_GENES

PASSES = 3  # of X to X_pca: QC, moments of the genes, the chosen genes
TILE_ROWS = 2048
_WARM_ROWS = 500
_RATE_S = 2.0


def floor_s(n_obs: int, n_genes: int, decode_s: float, rate: float) -> float:
    """Return the seconds (or CPU seconds) of three bare decode passes and of a Gram matrix at BLAS's own rate."""
    return PASSES * decode_s + n_obs * n_genes**2 / rate


def _timed(work: Callable[[], Any]) -> dict[str, Any]:
    cpu, start = time.process_time(), time.perf_counter()
    value = work()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu_s": time.process_time() - cpu, "value": value}


def decode_zarr(path: str, n_threads: int) -> dict[str, Any]:
    """Read the long vectors of X by zarr, a shard (or chunk) a call."""
    import zarr

    zarr.config.set({"threading.max_workers": n_threads})  # codecs have a pool of their own
    group = zarr.open_group(f"{path}/X", mode="r")
    arrays = [a for a in (group["data"], group["indices"]) if isinstance(a, zarr.Array)]
    pieces = []
    for array in arrays:
        step = (array.shards or array.chunks)[0]
        pieces += [(array, lo, min(lo + step, array.shape[0])) for lo in range(0, array.shape[0], step)]

    def read(piece: tuple[Any, int, int]) -> int:
        array, lo, hi = piece
        return int(array[lo:hi].nbytes)

    def work() -> int:
        with ThreadPoolExecutor(n_threads) as pool:
            return sum(pool.map(read, pieces))

    read(pieces[0])  # imports the codecs

    return _timed(work)


def _n_stored(block: Any) -> int:
    return int(block.nnz if hasattr(block, "nnz") else block.size)


def _add(a: int, b: int) -> int:
    return a + b


def decode_own(path: str, n_threads: int) -> dict[str, Any]:
    """Make every row block of X; returns the number of stored values."""
    import sc_dask as sd
    from sc_dask import get
    from sc_dask.array.blocks import Reduction, reduce_rows
    from sc_dask.array.engine import run

    count: Reduction[int, int] = Reduction(_n_stored, _add)
    x = get.matrix(sd.read(path))
    run.compute(reduce_rows(count, x[:_WARM_ROWS]))
    return _timed(lambda: run.compute(reduce_rows(count, x)))


def qc(path: str, n_threads: int) -> dict[str, Any]:
    """Run the QC pass as the comparison does, its code compiled and loaded before."""
    import sc_dask as sd

    def metrics(adata: Any) -> None:
        adata.var["mt"] = adata.var_names.str.startswith("MT-")
        sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, inplace=True)

    metrics(sd.read(path)[:_WARM_ROWS].copy())
    adata = sd.read(path)
    return _timed(lambda: metrics(adata))


def ssyrk(path: str, n_threads: int) -> dict[str, Any]:
    """Measure BLAS's rate in the faster of two ways to say it; ``path`` is not looked at."""
    import numpy as np
    from scipy.linalg.blas import ssyrk as of_scipy
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    tiles = [rng.standard_normal((TILE_ROWS, N_TOP_GENES), dtype=np.float32) for _ in range(n_threads)]
    ways: dict[str, Callable[[Any], Any]] = {
        "matmul": lambda t: np.matmul(t.T, t),
        "ssyrk": lambda t: of_scipy(1.0, t.T),
    }
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(n_threads) as pool:
        found = {name: _products(pool, way, tiles) for name, way in ways.items()}
    best = max(found, key=lambda name: found[name]["value"] / found[name]["seconds"])
    return found[best] | {"way": best}


def _products(pool: ThreadPoolExecutor, way: Callable[[Any], Any], tiles: list[Any]) -> dict[str, Any]:
    """Multiply for some seconds in all threads; ``value`` is cells x genes^2 of all together."""
    list(pool.map(way, tiles))

    def repeat(tile: Any) -> int:
        n, end = 0, time.perf_counter() + _RATE_S
        while time.perf_counter() < end:
            way(tile)
            n += 1
        return n

    return _timed(lambda: sum(pool.map(repeat, tiles)) * TILE_ROWS * N_TOP_GENES**2)


JOBS = {"decode_zarr": decode_zarr, "decode_own": decode_own, "qc": qc, "ssyrk": ssyrk}


def main() -> None:
    """Run one job and print what it found."""
    job, path, n_threads = sys.argv[1:]
    print(json.dumps(JOBS[job](path, int(n_threads))))


if __name__ == "__main__":
    main()
