"""What others report of the same job on machines of theirs. Shown beside our figures, never divided by them."""

from __future__ import annotations

from typing import Any

_BRAIN = 1_306_127
_ROWS: tuple[dict[str, Any], ...] = (
    {
        "engine": "BPCells",
        "n_obs": _BRAIN,
        "seconds": 46,
        "memory": "1.7 GiB",
        "machine": "16 cores",
        "source": "BPCells' own benchmarks (normalisation and PCA of 1.3 M cells)",
    },
    {
        "engine": "scanpy on Dask",
        "n_obs": _BRAIN,
        "seconds": 100,
        "memory": "40 GiB",
        "machine": "8 threads",
        "source": "reported for 1.3 M cells",
    },
)


def rows(n_obs: int) -> list[dict[str, Any]]:
    """Return published rows of about so many cells (within a factor of two)."""
    return [{"kind": "published", **row} for row in _ROWS if 0.5 <= row["n_obs"] / n_obs <= 2]
