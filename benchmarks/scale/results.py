"""Tables of a comparison: engines, stages, and the floor under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dask.utils import parse_bytes

from benchmarks.measure import Measured
from benchmarks.scale.budget import Known
from benchmarks.scale.floor import PASSES, floor_s
from benchmarks.tables import mib, rounded, spread
from benchmarks.to_pca import ENGINES, N_TOP_GENES

Found = Mapping[str, Sequence[Measured]]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Floor:
    """Medians of what was measured alone, and the floors they make; of wall or of CPU seconds.

    ``rate`` is cells x genes^2 a second.
    """

    decode_zarr: float
    decode_own: float
    qc: float
    rate: float
    gram: float
    zarr: float
    own: float


def _inner(runs: Sequence[Measured], name: str) -> list[float]:
    return [float(m.report[name]) for m in runs]


def floor_of(found: Found, facts: Known, figure: str = "seconds") -> Floor:
    """Return the floor of a store, in ``seconds`` or in ``cpu_s``."""
    zarr, own, qc = (median(_inner(found[k], figure)) for k in ("decode_zarr", "decode_own", "qc"))
    rate = median(m.report["value"] / m.report[figure] for m in found["ssyrk"])
    p = min(N_TOP_GENES, facts.n_vars)
    floors = [floor_s(facts.n_obs, p, s, rate) for s in (zarr, own)]
    return Floor(zarr, own, qc, rate, facts.n_obs * p**2 / rate, *floors)


def floor_rows(found: Found, wall: Floor, cpu: Floor) -> Rows:
    """Return a row for each part of the floor, then both floors."""
    parts = {
        "decode_zarr": ("one bare decode pass, zarr", wall.decode_zarr, cpu.decode_zarr),
        "decode_own": ("one bare decode pass, sc_dask's reader", wall.decode_own, cpu.decode_own),
        "qc": ("the QC pass alone, sc_dask", wall.qc, cpu.qc),
    }
    rows: Rows = []
    for job, (what, wall_s, cpu_s) in parts.items():
        row = {"what": what, **spread(_inner(found[job], "seconds")), "cpu_s": round(cpu_s, 2)}
        row |= {
            "in_decodes_zarr": rounded(wall_s / wall.decode_zarr),
            "in_decodes_own": rounded(wall_s / wall.decode_own),
        }
        row |= {
            "cpu_in_decodes_zarr": rounded(cpu_s / cpu.decode_zarr),
            "cpu_in_decodes_own": rounded(cpu_s / cpu.decode_own),
        }
        rows.append(row)
    way = found["ssyrk"][0].report["way"]
    for what, wall_s, cpu_s in (
        (f"Gram matrix at {wall.rate:.3g} cells x genes^2 / s ({way})", wall.gram, cpu.gram),
        (f"floor: {PASSES} zarr decode passes + Gram matrix", wall.zarr, cpu.zarr),
        (f"floor: {PASSES} sc_dask decode passes + Gram matrix", wall.own, cpu.own),
    ):
        rows.append({"what": what, "seconds": round(wall_s, 2), "cpu_s": round(cpu_s, 2)})
    return rows


def engine_rows(found: Found, wall: Floor, cpu: Floor, memory: str | None = None) -> Rows:
    """Return a row for each engine that ran; ratios are of medians of this very run. ``memory``: the budget of ours."""
    engines = [e for e in ENGINES if e in found]
    middle = {e: (median(m.seconds for m in found[e]), median(m.peak_rss_bytes for m in found[e])) for e in engines}
    own, rows = middle.get("sc_dask"), []
    genes = found[engines[0]][0].report["genes"] if engines else None
    for e in engines:
        seconds, rss = middle[e]
        cpu_s = median(m.cpu_s for m in found[e])
        first = found[e][0].report
        rows.append(
            {
                "kind": "measured",
                "engine": e,
                **spread([m.seconds for m in found[e]]),
                "stages_s": round(median(_stages_s(m) for m in found[e]), 2),
                "cpu_s": round(cpu_s, 2),
                "memory": f"{mib(rss)} MiB",
                "times_ours": rounded(seconds / own[0]) if own else "",
                "memory_times_ours": rounded(rss / own[1]) if own else "",
                "times_floor_zarr": rounded(seconds / wall.zarr),
                "times_floor_own": rounded(seconds / wall.own),
                "cpu_times_floor_zarr": rounded(cpu_s / cpu.zarr),
                "cpu_times_floor_own": rounded(cpu_s / cpu.own),
                "passes": round(first["passes"], 2) if "passes" in first else "",
                "same_genes": all(m.report["genes"] == genes for m in found[e]),
            }
        )
        if memory is not None and e == "sc_dask":
            rows[-1] |= {"budget": memory, "within_budget": rss <= parse_bytes(memory)}
    return rows


def _stages_s(m: Measured) -> float:
    return sum(s["seconds"] for s in m.report["stages"].values())


def stage_rows(found: Found, wall: Floor) -> Rows:
    """Return a row for each stage of each engine; ``start`` is what the process takes besides (imports, the end)."""
    rows: Rows = []
    for e in (e for e in ENGINES if e in found):
        runs = found[e]
        rows.append({"engine": e, "stage": "start", **spread([m.seconds - _stages_s(m) for m in runs])})
        for stage in runs[0].report["stages"]:
            every = [m.report["stages"][stage] for m in runs]
            middle = {k: median(s[k] for s in every) for k in every[0]}
            row = {"engine": e, "stage": stage, **spread([s["seconds"] for s in every])}
            row |= {"cpu_s": round(middle["cpu_s"], 2), "peak_rss_mib": mib(middle["peak_rss_bytes"])}
            if "passes" in middle:
                row |= {"passes": round(middle["passes"], 2), "bytes_read_mib": mib(middle["bytes_read"])}
                row |= {"in_decodes_own": rounded(middle["seconds"] / wall.decode_own)}
            rows.append(row)
    return rows
