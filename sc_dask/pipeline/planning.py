"""What a run will cost, told before it runs: passes, bytes, tasks and projected peak memory of every stage."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import config
from sc_dask.array.engine import run, segments
from sc_dask.errors import MemoryBudgetError
from sc_dask.graph.neighbors import EXACT_BELOW, EXACT_BELOW_OTHERWISE, IVF_METRICS
from sc_dask.kernels.compiled import are_compiled
from sc_dask.pipeline.inputs import is_read_in_place
from sc_dask.pipeline.progress import size

if TYPE_CHECKING:
    from sc_dask.io.info import Info
    from sc_dask.pipeline.settings import Settings

MIB = 2**20
MIN_BLOCK_BYTES = 2 * MIB
# What the process holds beside data: libraries, code that has yet to be compiled (numba's cache is empty), what reading
# text or other formats adds, and what each stage's own libraries and compiled code add. All numbers here are fitted to
# peaks of runs with the cache full, of PBMC3k, 50,000 simulated cells, 100,000 and 1.3 million of PBMC3k's kind; what
# they are said to be of is where they were put, not something measured by itself. Between stages of a run the process
# gives back what it does not use, so what an earlier stage took is not counted again.
_AT_START, _BASE, _COMPILING = 270 * MIB, 285 * MIB, 130 * MIB
_CONVERTED, _HVG, _GRAPH, _PYNNDESCENT, _LEIDEN, _UMAP, _FIGURES = (n * MIB for n in (60, 50, 60, 265, 40, 15, 60))
_FILTER, _MARKERS, _WRITE = 45 * MIB, 25 * MIB, 40 * MIB
_POINTS, _ALL_POINTS = 118 * MIB, 100_000  # of figures: from so many cells on it grows no more
_INDEX = 95 * MIB  # of pynndescent while it is built
_QC_CELL_BYTES, _CELL_BYTES = 330, 235  # obs and its names: while X is read for QC columns, and later
_TABLE_BYTES = 470  # the same while these columns go into obs, and while a filter copies it: no blocks are there then
# Of a neighbour and cell, both directions: while neighbours are searched and weighed, and what clusters and layout
# take, by who makes them; then what is left of it.
_EDGE_BYTES, _LATER, _LAST = 12, 30, 18
_LEIDEN_EDGE = {"sc_dask": 24, "igraph": 225, "leidenalg": 225}
_UMAP_EDGE = {"umap": 0, "umap-learn": 107}
_GENES = 2000  # that cut-offs choose, before they are known
_GROUPS = 250  # clusters, likewise: 4 and a quarter of the root of the number of cells, up to this
_GROUP_BYTES = 40  # of a gene's figures in a group, beside the sums of each state
_TILE_ROWS = 1024  # of the Gram matrix's dense tiles
_SPLIT = 0.8  # of a Gram matrix's room is what one of frequent and rare genes takes


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


@dataclass(frozen=True)
class _Sizes:
    """What the stages' memory is made of, in bytes."""

    streams: int  # blocks that are worked on at once
    held: int  # states of a reduction in memory at once
    stream_block: int  # a block that each worker stream holds
    decoded: int
    float_work: int  # blocks as they are stored, and their float32 copies
    genes: int
    n_obs: int
    scores: int
    edges: int  # a count
    exact_search: bool


def _sizes(facts: Info, s: Settings, block: int, threads: int, n_genes: int | None) -> _Sizes:
    n_obs, n_vars = facts.shape or (0, 0)
    n_values = n_obs * n_vars if facts.n_nonzeros is None else facts.n_nonzeros
    # a conversion narrows whole numbers; of the rest the type is known
    itemsize = np.dtype(facts.dtype).itemsize if facts.dtype and is_read_in_place(facts) else 1
    index_bytes = 0 if facts.layout == "dense" else 4
    decoded = max(1, n_values * (index_bytes + itemsize))
    n_blocks = max(1, -(-decoded // block))
    streams = min(threads, n_blocks)
    stream_block = min(block, decoded)
    copied = 1.2 + (index_bytes + 4) / (index_bytes + itemsize)
    return _Sizes(
        streams=streams,
        held=segments.states_held(n_blocks, streams),
        stream_block=stream_block,
        decoded=decoded,
        float_work=int(streams * stream_block * copied),
        genes=min(n_genes or s.hvg.n_top_genes or _GENES, n_vars),
        n_obs=n_obs,
        scores=n_obs * (s.pca.n_comps or 50) * 4,
        edges=n_obs * s.neighbors.n_neighbors * 2,
        exact_search=n_obs < EXACT_BELOW.get(s.neighbors.metric, EXACT_BELOW_OTHERWISE),
    )


def _peaks(facts: Info, s: Settings, z: _Sizes) -> dict[str, int]:
    """Return the projected peak of every stage in bytes."""
    n_vars = (facts.shape or (0, 0))[1]
    compiling = 0 if are_compiled() else _COMPILING
    start = _AT_START + compiling
    converted = 0 if is_read_in_place(facts) else _CONVERTED
    first = start + _QC_CELL_BYTES * z.n_obs
    table = start + converted + _TABLE_BYTES * z.n_obs
    base = _BASE + compiling + _CELL_BYTES * z.n_obs
    batches = 8 if s.hvg.batch_key else 1
    if s.pca.svd_solver == "randomized":
        pca = 8 * z.genes * min(9 * max(s.pca.n_comps or 50, 50), z.genes) * (z.held + 6)
    elif s.pca.svd_solver == "incremental":
        kept = min(8 * max(s.pca.n_comps or 50, 50), 1000)
        pca = 8 * z.genes * (1000 + 3 * kept) + 16 * min(1000 + kept, z.genes) ** 2
    else:
        pca = int(8 * z.genes**2 * (_SPLIT * z.held + 3)) + z.streams * _TILE_ROWS * z.genes * 4
    # a block, what is left of it when cells were dropped, and the chosen genes of it, unpacked and packed
    pca += int((1.2 + 2.9 * z.genes / max(n_vars, 1)) * z.streams * z.stream_block) + z.scores
    graph = base + _GRAPH + z.scores
    searched = 0 if z.exact_search or s.neighbors.metric in IVF_METRICS else _PYNNDESCENT
    after = graph + searched + z.edges * _LATER + _UMAP
    last = after - z.edges * (_LATER - _LAST)
    shards = min(140 * MIB + 90 * MIB * z.streams, int(2.2 * z.decoded))
    blocks = z.streams * z.stream_block
    tests = (z.held * 32 + _GROUP_BYTES) * n_vars * min(_GROUPS, 4 + math.isqrt(z.n_obs) // 4)
    drawn = int(_POINTS * min(1, z.n_obs / _ALL_POINTS) ** 2)
    return {
        "convert": start + converted + z.n_obs * _CELL_BYTES + min(2 * blocks, z.float_work) + shards,
        "qc": max(table, first + converted + int(1.5 * blocks) + z.held * 24 * n_vars),
        "filter": max(table, first + _FILTER + int(1.8 * blocks) + z.held * 24 * n_vars),
        "normalize": base + (int(1.5 * blocks) if s.normalize.target_sum is None else 0),
        "hvg": base + _HVG + int(1.5 * blocks) + z.held * 56 * n_vars * batches,
        "pca": base + pca,
        "neighbors": graph
        + 2 * z.scores
        + z.edges * _EDGE_BYTES
        + searched
        + (_INDEX if searched == _PYNNDESCENT else 0),
        "leiden": after
        - _UMAP
        + (8 * MIB if s.leiden.flavor == "sc_dask" else _LEIDEN)
        + z.edges * (_LEIDEN_EDGE[s.leiden.flavor] - _LATER),
        "umap": after + z.edges * _UMAP_EDGE[s.umap.method],
        "markers": last + _MARKERS + int(1.3 * blocks) + tests,
        "write": last + (0 if s.write.x == "none" else _WRITE + int(1.3 * shards)),
        "figures": last + _FIGURES + drawn,
    }


def _stages(facts: Info, s: Settings, block: int, threads: int, n_genes: int | None) -> tuple[StagePlan, ...]:
    z = _sizes(facts, s, block, threads, n_genes)
    n_tasks = 2 * len(segments.cut(max(1, -(-z.decoded // block)))) - 1  # a segment each, and the merges
    stored = facts.stored_bytes or z.decoded // 3
    aside = run.client() is None or config.get("work-dir") is not None  # as `array.spill.possible` has it
    passes = {
        "convert": 0 if is_read_in_place(facts) else 4 if facts.by_columns else 3,
        "qc": 1,
        "filter": int(s.filter.min_cells is not None),
        "normalize": int(s.normalize.target_sum is None),
        "hvg": 2 if s.hvg.flavor.startswith("seurat_v3") else 1,
        "pca": 1 if aside else 4 if s.pca.svd_solver == "randomized" else 2,
        "markers": 1,
        "write": 0 if s.write.x == "none" else 2,
    }
    peaks = _peaks(facts, s, z)
    names = [name for name in peaks if name != "convert" or passes["convert"]]
    rows = [(name, passes.get(name, 0), peaks[name]) for name in names]
    return tuple(StagePlan(n, q, q * stored, q * n_tasks, m) for n, q, m in rows)


def plan(info: Info, settings: Settings, memory: int | None = None, *, n_genes: int | None = None) -> RunPlan:
    """Return the plan of a run, with blocks as large as the memory allows.

    Parameters
    ----------
    info
        The input (``io.info``); nothing of its matrix is read.
    settings
        Options of the run.
    memory
        Budget of this process in bytes; None: the option ``sc-dask.memory``, else no limit.
    n_genes
        How many genes are highly variable, once it is known.

    Returns
    -------
    RunPlan, whose peaks are from above: 1 to 1.25 times what was measured (see docs/decisions/023).

    Raises
    ------
    MemoryBudgetError
        No block size fits; names the stage and what to change.
    """
    memory = config.n_bytes("memory") if memory is None else memory
    threads = run.n_workers() if run.client() is None else max(1, run.n_workers() // max(1, run.n_processes()))
    block = config.n_bytes("block-bytes") or 48 * MIB
    while True:
        stages = _stages(info, settings, block, threads, n_genes)
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
