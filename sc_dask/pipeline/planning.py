"""What a run will cost, told before it runs: passes, bytes, tasks and projected peak memory of every stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sc_dask import config
from sc_dask.array import run
from sc_dask.errors import MemoryBudgetError
from sc_dask.pipeline.inputs import is_read_in_place
from sc_dask.pipeline.progress import size

if TYPE_CHECKING:
    from sc_dask.io.info import Info
    from sc_dask.pipeline.settings import Settings

MIB = 2**20
MIN_BLOCK_BYTES = 2 * MIB
# measured with the versions in pyproject.toml: what a process holds before any data, and how it grows by what is imported
_BASE_BYTES = {"arrays": 460 * MIB, "pca": 520 * MIB, "graph": 560 * MIB, "umap": 620 * MIB}
_HVG_GENES = 2000  # of a pass whose genes are not chosen yet
_GROUPS = 30  # clusters, likewise


@dataclass(frozen=True)
class StagePlan:
    """One row of the plan; ``passes`` over X at most, ``tasks`` of the Dask graph."""

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


def _stages(facts: Info, s: Settings, block: int, threads: int) -> tuple[StagePlan, ...]:
    n_obs, n_vars = facts.shape or (0, 0)
    n_values = n_obs * n_vars if facts.n_nonzeros is None else facts.n_nonzeros
    stored = facts.stored_bytes or n_values * 3
    decoded = max(1, n_values * (4 if facts.layout == "dense" else 8))
    n_blocks = max(1, -(-decoded // block))
    base = _BASE_BYTES
    # a block, its raw chunks, and the float32 copy that normalising makes
    work = threads * min(block, decoded) * 3
    p = min(s.hvg.n_top_genes or _HVG_GENES, n_vars)
    k, comps = s.neighbors.n_neighbors, s.pca.n_comps or 50
    table = 160 * n_obs  # obs with its names and QC columns
    scores, edges = n_obs * comps * 4, n_obs * k * 2
    gram = (
        8 * p * p * (threads + 3) + threads * 2048 * p * 8 if s.pca.svd_solver == "gram" else 8 * p * (comps + 20) * 4
    )
    curve = s.hvg.flavor.startswith("seurat_v3")
    rows: list[tuple[str, int, int]] = [
        ("qc", 1, base["arrays"] + work + table + threads * 24 * n_vars),
        ("filter", int(s.filter.min_cells is not None), base["arrays"] + work + table + threads * 24 * n_vars),
        ("normalize", int(s.normalize.target_sum is None), base["arrays"] + work + table),
        (
            "hvg",
            2 if curve else 1,
            base["arrays"] + work + table + threads * 48 * n_vars * (8 if s.hvg.batch_key else 1),
        ),
        ("pca", 4 if s.pca.svd_solver == "randomized" else 1, base["pca"] + work + table + gram + 2 * scores),
        ("neighbors", 0, base["graph"] + table + scores * 3 + edges * 40),
        ("leiden", 0, base["graph"] + table + scores + edges * 140),
        ("umap", 0, base["umap"] + table + scores + edges * 48),
        ("markers", 1, base["umap"] + work + table + scores + threads * 48 * n_vars * _GROUPS + edges * 12),
        (
            "write",
            0 if s.write.x == "none" else 2,
            base["umap"] + work + table + scores + edges * 12 + threads * 64 * MIB,
        ),
        ("figures", 0, base["umap"] + table + scores + edges * 12),
    ]
    if not is_read_in_place(facts):
        n = 4 if facts.by_columns else 3
        rows.insert(0, ("convert", n, base["arrays"] + work + table + threads * 64 * MIB))
    return tuple(StagePlan(n, q, q * stored, q * (n_blocks + 3), m) for n, q, m in rows)


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
    threads = run.n_workers() if run.client() is None else max(1, run.n_workers() // max(1, run.n_processes()))
    block = config.n_bytes("block-bytes") or 48 * MIB
    while True:
        stages = _stages(info, settings, block, threads)
        made = RunPlan(stages, block, threads, memory)
        if memory is None or made.peak_bytes <= memory:
            return made
        if block <= MIN_BLOCK_BYTES:
            break
        block = max(MIN_BLOCK_BYTES, block // 2)
    worst = max(stages, key=lambda st: st.peak_bytes)
    needed = f"{int(worst.peak_bytes / 2**30 * 10 + 1.5) / 10:.1f}GiB"
    others = ""
    if threads > 1:
        others += ", or fewer threads (DASK_NUM_WORKERS=1)"
    if worst.name == "pca":
        others += ", or fewer genes (hvg.n_top_genes)"
    raise MemoryBudgetError(
        f"stage {worst.name} needs {size(worst.peak_bytes)} with the smallest blocks", f"at most {size(memory)}",
        f"--memory {needed}{others}",
    )  # fmt: skip


def as_dict(made: RunPlan) -> dict[str, Any]:
    """Return the plan as plain data."""
    stages = [{"stage": row.pop("name"), **row} for row in map(asdict, made.stages)]
    return {
        "stages": stages,
        "block_bytes": made.block_bytes,
        "n_threads": made.n_threads,
        "memory_bytes": made.memory,
        "peak_bytes": made.peak_bytes,
        "total_bytes": made.total_bytes,
    }


def as_text(made: RunPlan, facts: Info) -> str:
    """Return the plan as a table for people."""
    lines = [facts.url]
    if facts.shape is not None:
        values = "" if facts.n_nonzeros is None else f", {facts.n_nonzeros:,} stored values"
        lines.append(f"{facts.shape[0]:,} cells x {facts.shape[1]:,} genes{values}")
    budget = "no memory budget" if made.memory is None else f"memory budget {size(made.memory)}"
    lines += [f"{made.n_threads} threads, blocks of {size(made.block_bytes)}, {budget}", ""]
    lines.append(f"{'stage':<11}{'passes':>7}{'to read':>12}{'tasks':>9}{'peak memory':>14}")
    for st in made.stages:
        q, read, tasks = (str(st.passes), size(st.bytes_read), f"{st.tasks:,}") if st.passes else ("-", "-", "-")
        lines.append(f"{st.name:<11}{q:>7}{read:>12}{tasks:>9}{size(st.peak_bytes):>14}")
    passes, tasks_of_all = sum(st.passes for st in made.stages), sum(st.tasks for st in made.stages)
    lines.append(f"{'all':<11}{passes:>7}{size(made.total_bytes):>12}{tasks_of_all:>9,}{size(made.peak_bytes):>14}")
    return "\n".join(lines)
