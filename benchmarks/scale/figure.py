"""One picture of a comparison: seconds of every engine by stage with the floor as lines, peak memory beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale.results import Floor, Rows

_NAMES = {"sc_dask": "sc_dask", "scanpy": "scanpy\nin memory", "scanpy_dask": "scanpy\non Dask"}
# Okabe and Ito's colours, told apart by everybody
_COLOURS = {
    "start": "#BBBBBB",
    "load": "#999999",
    "qc": "#56B4E9",
    "filter": "#F0E442",
    "normalize": "#009E73",
    "hvg": "#E69F00",
    "pca": "#0072B2",
}


def draw(engines: Rows, stages: Rows, floor: Floor, title: str, path: Path) -> None:
    """Write the picture as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    measured = [row for row in engines if row["kind"] == "measured"]
    with plt.rc_context({"font.size": 12}):
        height = 2.9 + 0.8 * len(measured)
        fig, (left, right) = plt.subplots(
            1, 2, figsize=(13, height), sharey=True, width_ratios=(2.2, 1), layout="constrained"
        )
        _bars(left, measured, stages)
        _floors(left, floor)
        _memory(right, measured)
        left.set_yticks(range(len(measured)), [_NAMES[row["engine"]] for row in measured])
        left.set_ylim(len(measured) - 0.4, -0.6)
        left.set_xlabel("seconds, whole process (median; line: smallest to largest)")
        right.set_xlabel("peak memory, GiB")
        for ax in (left, right):
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(axis="y", length=0)
        fig.suptitle(title, fontsize=13)
        fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=11)
        fig.savefig(path, dpi=120)
        plt.close(fig)


def _bars(ax: Any, measured: Rows, stages: Rows) -> None:
    ends = [0.0] * len(measured)
    places = {row["engine"]: i for i, row in enumerate(measured)}
    for stage, colour in _COLOURS.items():
        rows = [r for r in stages if r["stage"] == stage and r["engine"] in places]
        at = [places[r["engine"]] for r in rows]
        widths = [max(r["seconds"], 0.0) for r in rows]
        ax.barh(at, widths, left=[ends[i] for i in at], height=0.6, color=colour, label=stage)
        for i, width in zip(at, widths, strict=True):
            ends[i] += width
    longest = max(row["max_s"] for row in measured)
    for i, row in enumerate(measured):
        ax.plot([row["min_s"], row["max_s"]], [i, i], color="black", linewidth=1.5)
        ax.text(max(row["max_s"], ends[i]) + 0.015 * longest, i, f"{row['seconds']:.1f} s", va="center")
    ax.set_xlim(0, 1.14 * longest)


def _floors(ax: Any, floor: Floor) -> None:
    lines = ((floor.zarr, "zarr's decode", "--", "#D55E00"), (floor.own, "sc_dask's decode", ":", "black"))
    for seconds, of, style, colour in lines:
        ax.axvline(seconds, color=colour, linestyle=style, linewidth=2, label=f"floor, {of}: {seconds:.1f} s")


def _memory(ax: Any, measured: Sequence[Any]) -> None:
    gib = [float(row["memory"].removesuffix(" MiB")) / 1024 for row in measured]
    ax.barh(range(len(gib)), gib, height=0.6, color="#CC79A7")
    for i, value in enumerate(gib):
        ax.text(value + 0.015 * max(gib), i, f"{value:.2f}", va="center")
    ax.set_xlim(0, 1.18 * max(gib))
