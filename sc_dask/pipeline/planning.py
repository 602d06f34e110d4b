"""What a run will cost, told before it runs: passes, bytes, tasks and projected peak memory of every stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sc_dask import config, pp, tl
from sc_dask.array.engine import run, segments
from sc_dask.errors import MemoryBudgetError
from sc_dask.io.convert import convert
from sc_dask.io.write import write
from sc_dask.kernels.compiled import are_compiled
from sc_dask.pipeline import figures
from sc_dask.pipeline.inputs import is_read_in_place
from sc_dask.price import MIB, Price, Size, price_of, readable

if TYPE_CHECKING:
    from sc_dask.io.info import Info
    from sc_dask.pipeline.settings import Settings

MIN_BLOCK_BYTES = 2 * MIB
_STREAMS = (8, 4, 2, 1)  # blocks at once that a budget is shared among, the first that fits
# What the process of a run holds beside data: libraries, until X has been filtered and later; code that has yet to be
# compiled (numba's cache is empty). Fitted to peaks of runs of PBMC3k, 50,000 simulated cells, 100,000 and 1.3 million
# of PBMC3k's kind. Between stages the process gives back what it does not use, so what an earlier stage took is not
# counted again; what it kept is (`Price.kept`).
_AT_START, _BASE, _COMPILING = 270 * MIB, 285 * MIB, 130 * MIB
_GENES = 2000  # that cut-offs choose, before they are known
_BATCHES = 8  # of hvg.batch_key, before they are known


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
        return _peak(self.stages)

    @property
    def total_bytes(self) -> int:
        """Return all bytes that will be read."""
        return sum(s.bytes_read for s in self.stages)


def _size_of(file_info: Info, s: Settings, block: int, threads: int, n_genes: int | None) -> Size:
    """Return what the stages work on, as far as metadata tell."""
    n_obs, n_vars = file_info.shape or (0, 0)
    # a conversion narrows whole numbers; of the rest the type is known
    value_bytes = np.dtype(file_info.dtype).itemsize if file_info.dtype and is_read_in_place(file_info) else 1
    size = Size(
        n_obs=n_obs,
        n_vars=n_vars,
        n_values=n_obs * n_vars if file_info.n_nonzeros is None else file_info.n_nonzeros,
        value_bytes=value_bytes,
        index_bytes=0 if file_info.layout == "dense" else 4,
        block=block,
        genes=min(n_genes or s.hvg.n_top_genes or _GENES, n_vars),
        n_comps=s.pca.n_comps or 50,
        n_edges=n_obs * s.neighbors.n_neighbors * 2,
        levels_of={} if s.hvg.batch_key is None else {s.hvg.batch_key: _BATCHES},
        spills=run.client() is None or config.get("work-dir") is not None,  # as `array.spill.possible` has it
    )
    n_blocks = max(1, -(-size.decoded // block))
    streams = min(threads, n_blocks)
    return replace(size, streams=streams, states=segments.states_held(n_blocks, streams))


def _prices(file_info: Info, s: Settings, size: Size) -> dict[str, Price]:
    """Return what the calls of each stage cost."""
    by_qc = frozenset({"cell sums", "cell counts"})  # of genes no longer, once cells were dropped
    after_qc = replace(size, known=by_qc)
    filters = [price_of(pp.filter_cells, after_qc)]
    if s.filter.min_cells is not None:
        filters.append(price_of(pp.filter_genes, after_qc))
    target = s.normalize.target_sum
    with_counts = s.write.x == "normalized" and s.write.counts
    out = (
        {}
        if is_read_in_place(file_info)
        else {"convert": price_of(convert, size, by_columns=bool(file_info.by_columns))}
    )
    out |= {
        "qc": price_of(pp.calculate_qc_metrics, size),
        "filter": Price(sum(f.passes for f in filters), max(f.memory for f in filters)),
        "normalize": price_of(pp.normalize_total, size, target_sum=target),
        "hvg": price_of(pp.highly_variable_genes, size, **s.section("hvg")),
        "pca": price_of(pp.pca, size, **s.section("pca")),
        "neighbors": price_of(pp.neighbors, size, **s.section("neighbors")),
        "leiden": price_of(tl.leiden, size, **s.section("leiden")),
        "umap": price_of(tl.umap, size, **s.section("umap")),
        "markers": price_of(tl.rank_genes_groups, size, groupby="leiden", **s.section("markers")),
        "write": price_of(write, size, n_twins=int(with_counts)) if s.write.x != "none" else Price(),
        "figures": Price(0, figures.memory(size.n_obs)),
    }
    return out


def _stages(file_info: Info, s: Settings, block: int, threads: int, n_genes: int | None) -> tuple[StagePlan, ...]:
    size = _size_of(file_info, s, block, threads, n_genes)
    n_tasks = 2 * len(segments.cut(max(1, -(-size.decoded // block)))) - 1  # a segment each, and the merges
    stored = file_info.stored_bytes or size.decoded // 3
    compiling = 0 if are_compiled() else _COMPILING
    kept, rows = 0, []
    for name, price in _prices(file_info, s, size).items():
        libraries = _AT_START if name in ("convert", "qc", "filter") else _BASE
        peak = libraries + compiling + kept + price.memory
        rows.append(StagePlan(name, price.passes, price.passes * stored, price.passes * n_tasks, peak))
        kept += price.kept
    return tuple(rows)


def _peak(stages: tuple[StagePlan, ...]) -> int:
    return max(st.peak_bytes for st in stages)


def plan(info: Info, settings: Settings, memory: int | None = None, *, n_genes: int | None = None) -> RunPlan:
    """Return the plan of a run: blocks as large as the memory allows, and as many threads as it then allows.

    The size of the blocks hangs on the input, the settings and the memory, not on the number of threads: sums are
    taken block by block, so that a run on any number of threads gives the same digits.

    Parameters
    ----------
    info
        The input (``io.info``); nothing of its matrix is read.
    settings
        Options of the run.
    memory
        Budget of this process in bytes; None: the option ``sc-dask.memory``, else no limit.
    n_genes
        How many genes are highly variable, once it is known: X is open by then, and its blocks are as they are.

    Returns
    -------
    RunPlan, whose peaks are meant from above (see docs/decisions/023).

    Raises
    ------
    MemoryBudgetError
        No block size fits; names the stage and what to change.
    """
    memory = config.n_bytes("memory") if memory is None else memory
    in_client = run.client() is not None
    threads = max(1, run.n_workers() // max(1, run.n_processes())) if in_client else run.n_workers()
    block = config.n_bytes("block-bytes") or 48 * MIB
    if memory is not None and n_genes is None:
        block = _block_for(memory, lambda block, streams: _stages(info, settings, block, streams, None), block)
    while True:
        stages = _stages(info, settings, block, threads, n_genes)
        if memory is None or _peak(stages) <= memory:
            return RunPlan(stages, block, threads, memory)
        if threads == 1 or in_client:  # whose workers have the threads that they have
            break
        threads -= 1
    worst = max(stages, key=lambda st: st.peak_bytes)
    needed = f"{int(worst.peak_bytes / 2**30 * 10 + 1.5) / 10:.1f}GiB"
    others = ", or workers with fewer threads" if in_client and threads > 1 else ""
    if worst.name == "pca":
        others += ", or fewer genes (hvg.n_top_genes)"
    raise MemoryBudgetError(
        f"stage {worst.name} needs {readable(worst.peak_bytes)} {_reason(n_genes)}",
        f"at most {readable(memory)}",
        f"--memory {needed}{others}",
    )


def _block_for(memory: int, stages: Callable[[int, int], tuple[StagePlan, ...]], largest: int) -> int:
    """Return the size of blocks for a budget, else the size that needs least; the threads at hand do not count."""
    sizes = [largest]
    while sizes[-1] > MIN_BLOCK_BYTES:
        sizes.append(max(MIN_BLOCK_BYTES, sizes[-1] // 2))
    for streams in _STREAMS:
        for block in sizes:
            if _peak(stages(block, streams)) <= memory:
                return block
    return min(sizes, key=lambda block: _peak(stages(block, 1)))


def threads_of(made: RunPlan) -> dict[str, int]:
    """Return the Dask option that holds this process to the threads of the plan; nothing where it has no more."""
    return {"num_workers": made.n_threads} if run.client() is None and made.n_threads < run.n_workers() else {}


def _reason(n_genes: int | None) -> str:
    return "whatever the size of its blocks" if n_genes is None else f"with {n_genes:,} highly variable genes"


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


def as_text(made: RunPlan, file_info: Info) -> str:
    """Return the plan as a table for people."""
    lines = [file_info.url]
    if file_info.shape is not None:
        values = "" if file_info.n_nonzeros is None else f", {file_info.n_nonzeros:,} stored values"
        lines.append(f"{file_info.shape[0]:,} cells x {file_info.shape[1]:,} genes{values}")
    budget = "no memory budget" if made.memory is None else f"memory budget {readable(made.memory)}"
    lines += [f"{made.n_threads} threads, blocks of {readable(made.block_bytes)}, {budget}", ""]
    lines.append(f"{'stage':<11}{'passes':>7}{'to read':>12}{'tasks':>9}{'peak memory':>14}")
    for st in made.stages:
        q, read, tasks = (str(st.passes), readable(st.bytes_read), f"{st.tasks:,}") if st.passes else ("-", "-", "-")
        lines.append(f"{st.name:<11}{q:>7}{read:>12}{tasks:>9}{readable(st.peak_bytes):>14}")
    passes, tasks_of_all = sum(st.passes for st in made.stages), sum(st.tasks for st in made.stages)
    lines.append(
        f"{'all':<11}{passes:>7}{readable(made.total_bytes):>12}{tasks_of_all:>9,}{readable(made.peak_bytes):>14}"
    )
    return "\n".join(lines)
