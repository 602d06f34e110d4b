"""Whether the kernels are compiled already: numba keeps its machine code beside the sources or in NUMBA_CACHE_DIR."""

from __future__ import annotations

from pathlib import Path

from sc_dask.kernels import gram


def are_compiled() -> bool:
    """Tell whether an earlier process has left the machine code of the largest kernels, which then is only loaded."""
    folder = gram._multiply.stats.cache_path
    return folder is not None and any(Path(folder).glob("gram._multiply-*.nbi"))
