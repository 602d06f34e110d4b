"""Tables of results as CSV and Markdown."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Row = Mapping[str, Any]


def columns(rows: Iterable[Row]) -> list[str]:
    """Return the names of all rows in the order in which they first come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows; what a row does not have stays empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, columns(rows), restval="")
        writer.writeheader()
        writer.writerows(rows)


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table."""
    names = columns(rows)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(n, "")) for n in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Return median, smallest and largest, named as columns are."""
    return {
        "seconds": round(median(values), digits),
        "min_s": round(min(values), digits),
        "max_s": round(max(values), digits),
    }


def rounded(value: float) -> float:
    """Return a number with three figures that count, for ratios and short times."""
    return float(f"{value:.3g}")


def mib(n_bytes: float) -> int:
    """Return bytes as whole MiB."""
    return round(n_bytes / 2**20)
