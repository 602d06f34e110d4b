"""The atlases that are measured, made once: ``python -m benchmarks.scale.stores N_OBS OUT [SOURCE]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.measure import run_job

SIZES = {"100k": 100_000, "300k": 300_000, "1.3M": 1_306_127}  # the last is that of 10x's brain cells
_MIN_CELLS = 3  # of the source's genes: what is never seen need not be carried along


def n_cells(size: str) -> int:
    """Return the number of cells of a size by name, or of a whole number."""
    if size in SIZES:
        return SIZES[size]
    if size.isdecimal() and int(size) > 0:
        return int(size)
    raise ValueError(f"found size {size!r}; expected one of: {', '.join(SIZES)}, or a number of cells")


def atlas(n_obs: int, source: Path | None, cache: Path, n_threads: int = 2) -> Path:
    """Return the store of ``n_obs`` cells made from ``source`` (None: PBMC3k), written in a process of its own."""
    path = cache / f"atlas-{n_obs}-{'pbmc3k' if source is None else source.stem}.zarr"
    if not path.exists():
        given = () if source is None else (str(source),)
        run_job("scale.stores", str(n_obs), str(path), *given, n_threads=n_threads, timeout_s=6 * 3600)
    return path


def make(n_obs: int, out: Path, source: Path | None) -> None:
    """Write an atlas of real cells' making (`sc_dask.datasets.upscale`); a store that stands there is whole."""
    import sc_dask as sd

    out.parent.mkdir(parents=True, exist_ok=True)
    if source is None:
        source = out.parent / "pbmc3k.zarr"
        if not source.exists():
            sd.convert(sd.datasets.pbmc3k_folder(), source)
    adata = sd.read(source)
    sd.pp.filter_genes(adata, min_cells=_MIN_CELLS)
    sd.datasets.upscale(adata, n_obs, out=out)


def main() -> None:
    """Make one store."""
    n_obs, out, *source = sys.argv[1:]
    make(int(n_obs), Path(out), Path(source[0]) if source else None)
    print(json.dumps({"store": out}))


if __name__ == "__main__":
    main()
