"""What a run will cost, told before it runs: passes, bytes, tasks and projected peak memory of every stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sc_dask import config
from sc_dask.array import run
from sc_dask.errors import MemoryBudgetError

if TYPE_CHECKING:
    from sc_dask.io.info import Info
    from sc_dask.pipeline.settings import Settings

MIB = 2**20
# measured with the versions in pyproject.toml: what a process holds before any data
_BASE_BYTES = {"arrays": 330 * MIB, "graph": 560 * MIB}
_HVG_GENES = 2000  # of a pass whose genes are not chosen yet
_GROUPS = 30  # clusters, likewise
MIN_BLOCK_BYTES = 2 * MIB


@dataclass(frozen=True)
class StagePlan:
    """One row of the plan; ``passes`` over X, ``tasks`` of the Dask graph."""

    name: str
    passes: int
    bytes_read: int
    tasks: int
    peak_bytes: int


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run on this many threads with blocks of this size."""

    stages: tuple[StagePlan, ...]
    block_bytes: int
    n_threads: int
    memory: int | None

    @property
    def peak_bytes(self) -> int:
        """Return the highest of the stages."""
        return max(s.peak_bytes for s in self.stages)

    @property
    def total_bytes(self) -> int:
        """Return all bytes that will be read."""
        return sum(s.bytes_read for s in self.stages)


def _stages(
    n_obs: int, n_vars: int, n_values: int, stored_bytes: int, itemsize: int, s: Settings, block: int, threads: int
) -> tuple[StagePlan, ...]:
    decoded = n_values * itemsize
    n_blocks = max(1, -(-decoded // block))
    # a block, its raw chunks, and the float32 copy that normalising makes
    work = threads * min(block, max(decoded, 1)) * 3
    p = min(s.hvg.n_top_genes or _HVG_GENES, n_vars)
    cells = n_obs * 8
    k = s.neighbors.n_neighbors
    comps = s.pca.n_comps or 50
    arrays, graph = _BASE_BYTES["arrays"], _BASE_BYTES["graph"]
    table = 20 * cells  # obs with its names and QC columns
    scores = n_obs * comps * 4
    edges = n_obs * k * 2
    gram = (
        8 * p * p * (threads + 3) + threads * 2048 * p * 8 if s.pca.svd_solver == "gram" else 8 * p * (comps + 20) * 4
    )
    filtered = s.filter.min_cells is not None
    curve = s.hvg.flavor.startswith("seurat_v3")
    rows: list[tuple[str, int, int]] = [
        ("qc", 1, arrays + work + table + threads * 24 * n_vars),
        ("filter", int(filtered), arrays + work + table + threads * 24 * n_vars),
        ("normalize", int(s.normalize.target_sum is None), arrays + work + table),
        ("hvg", 2 if curve else 1, arrays + work + table + threads * 48 * n_vars * (8 if s.hvg.batch_key else 1)),
        ("pca", 4 if s.pca.svd_solver == "randomized" else 1, arrays + work + table + gram + 2 * scores),
        ("neighbors", 0, graph + table + scores * 3 + edges * 40),
        ("leiden", 0, graph + table + scores + edges * 140),
        ("umap", 0, graph + table + scores + edges * 48),
        ("markers", 1, graph + work + table + scores + threads * 48 * n_vars * _GROUPS + edges * 12),
        ("write", 0 if s.write.x == "none" else 2, graph + work + table + scores + edges * 12 + threads * 64 * MIB),
        ("figures", 0, graph + table + scores + edges * 12),
    ]
    return tuple(StagePlan(n, q, q * stored_bytes, q * (n_blocks + 3), m) for n, q, m in rows)


def plan(info: Info, settings: Settings, memory: int | None = None) -> RunPlan:
    """Return the plan of a run, with blocks as large as the memory allows.

    Parameters
    ----------
    info
        The input (``io.info``); nothing of its matrix is read.
    settings
        Options of the run.
    memory
        Budget of this process in bytes; None: the option ``sc-dask.memory``, else no limit.

    Raises
    ------
    MemoryBudgetError
        No block size fits; names the stage and what to change.
    """
    memory = config.n_bytes("memory") if memory is None else memory
    n_obs, n_vars = info.shape or (0, 0)
    n_values = info.n_nonzeros or 0
    itemsize = 4 if info.layout == "dense" else 8
    stored = info.stored_bytes or n_values * 3
    threads = run.n_workers() if run.client() is None else max(1, run.n_workers() // max(1, run.n_processes()))
    largest = config.n_bytes("block-bytes") or 48 * MIB
    block = largest
    while True:
        stages = _stages(n_obs, n_vars, n_values, stored, itemsize, settings, block, threads)
        made = RunPlan(stages, block, threads, memory)
        if memory is None or made.peak_bytes <= memory:
            return made
        if block <= MIN_BLOCK_BYTES:
            break
        block = max(MIN_BLOCK_BYTES, block // 2)
    worst = max(stages, key=lambda st: st.peak_bytes)
    raise MemoryBudgetError(
        f"stage {worst.name} needs {worst.peak_bytes / 2**30:.2f} GiB with the smallest blocks",
        f"at most {memory / 2**30:.2f} GiB",
        f"--memory {int(worst.peak_bytes / 2**30 * 10 + 1.5) / 10:.1f}GiB, or fewer threads (DASK_NUM_WORKERS=1)"
        + (
            ", or write.x: none"
            if worst.name == "write"
            else ", or fewer genes (hvg.n_top_genes)"
            if worst.name == "pca"
            else ""
        ),
    )


def as_table(made: RunPlan) -> list[dict[str, Any]]:
    """Return the plan's rows as plain data."""
    return [
        {
            "stage": st.name,
            "passes": st.passes,
            "bytes_read": st.bytes_read,
            "tasks": st.tasks,
            "peak_bytes": st.peak_bytes,
        }
        for st in made.stages
    ]
