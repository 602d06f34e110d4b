"""Memory before a run: whether a peer fits this machine at all, and the blocks that a budget leaves us."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import memory_bytes
from benchmarks.to_pca import N_COMPS, N_TOP_GENES, STAGES

_GIB = 2**30
_BASE = 0.5 * _GIB  # a process with scanpy imported
_INT32_MOST = 2**31 - 1
# Whole float32 csr matrices that scanpy holds at its highest, rather too few than too many. In memory because filters
# and logarithms copy; on Dask because its chunks wait for each other (seen: 3 up to 100,000 cells; 40 GiB are reported
# for 1.3 M, which are 2).
_COPIES = {"scanpy": 2.5, "scanpy_dask": 2.0}


@dataclass(frozen=True)
class Known:
    """Sizes of a store."""

    n_obs: int
    n_vars: int
    n_nonzeros: int


def facts_of(path: Path) -> Known:
    """Return the sizes of a store; its matrix is not read."""
    from sc_dask.io.info import info

    found = info(path)
    if found.shape is None or found.n_nonzeros is None:
        raise ValueError(f"found {path} without a sparse X; expected an AnnData zarr store with a csr matrix")
    return Known(*found.shape, found.n_nonzeros)


def needed_bytes(engine: str, facts: Known) -> int:
    """Return what an engine will take at its highest, roughly; 0 for ours, whose memory is bounded."""
    if engine not in _COPIES:
        return 0
    index = 8 if engine == "scanpy" and facts.n_nonzeros > _INT32_MOST else 4  # of a matrix in one piece
    return int(_BASE + _COPIES[engine] * facts.n_nonzeros * (4 + index))


def refusal(engine: str, facts: Known) -> str | None:
    """Return one plain line on why an engine is not run here, or None."""
    needed, there = needed_bytes(engine, facts), memory_bytes()
    if needed <= there:
        return None
    return (
        f"{engine} is skipped: {facts.n_nonzeros:,} non-zeros need about {needed / _GIB:.0f} GiB in it, "
        f"this machine has {there / _GIB:.0f} GiB"
    )


def options(path: Path, memory: str | None, n_threads: int) -> dict[str, str]:
    """Return the environment that gives our verbs a memory budget: blocks as a pipeline's plan would cut them, and one
    malloc arena as a pipeline has."""
    if memory is None:
        return {}
    from dask.utils import parse_bytes

    from sc_dask import malloc

    block, peak = _planned(path, int(parse_bytes(memory)), n_threads)
    if peak > parse_bytes(memory):  # the plan is from above: what was really taken stands in the table
        print(
            f"the plan of sc_dask projects {peak / _GIB:.2f} GiB with its smallest blocks, above {memory}",
            file=sys.stderr,
        )
    given = {"DASK_SC_DASK__MEMORY": parse_bytes(memory), "DASK_SC_DASK__BLOCK_BYTES": block, **malloc.ENVIRONMENT}
    return {key: str(value) for key, value in given.items()}


def _planned(path: Path, memory: int, n_threads: int) -> tuple[int, int]:
    """Return the largest block with which the stages to X_pca should fit (or the smallest), and their peak."""
    import dask

    from sc_dask import config
    from sc_dask.io.info import info
    from sc_dask.pipeline import Settings, plan
    from sc_dask.pipeline.planning import MIN_BLOCK_BYTES

    found = info(path)
    settings = Settings.of({"hvg": {"n_top_genes": N_TOP_GENES}, "pca": {"n_comps": N_COMPS}})
    block = config.n_bytes("block-bytes") or 2**25
    while True:
        with dask.config.set({"sc-dask.memory": None, "sc-dask.block-bytes": block, "num_workers": n_threads}):
            made = plan(found, settings)
        peak = max(s.peak_bytes for s in made.stages if s.name in STAGES)
        if peak <= memory or block <= MIN_BLOCK_BYTES:
            return block, peak
        block = max(MIN_BLOCK_BYTES, block // 2)
