"""The job that is compared: an h5ad to a zarr store. ``python -m benchmarks.to_zarr ENGINE H5AD STORE`` prints JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

SLICE_ROWS = 10_000


def sc_dask(source: str, out: str) -> dict[str, Any]:
    """Convert with our own verb."""
    from sc_dask import log
    from sc_dask.io.blobs.h5chunks import INFLATER
    from sc_dask.io.convert import convert

    start = time.perf_counter()
    with log.stage("convert") as s:
        convert(source, out)
    call_s = time.perf_counter() - start
    return {"call_s": call_s, "passes": s.passes, "inflater": INFLATER.__name__.partition(".")[0]}


def anndata(source: str, out: str) -> dict[str, Any]:
    """Convert as anndata does out of core: slices of rows, the first written and the others appended."""
    import h5py
    import zarr
    from anndata.io import read_elem, sparse_dataset, write_elem

    begun = time.perf_counter()
    with h5py.File(source) as f:
        root = zarr.open_group(out, mode="w", zarr_format=3)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for key in f:
            if key != "X":
                write_elem(root, key, read_elem(f[key]))
        stored = sparse_dataset(f["X"])
        write_elem(root, "X", stored[:SLICE_ROWS])
        target = sparse_dataset(root["X"])
        for start in range(SLICE_ROWS, stored.shape[0], SLICE_ROWS):
            target.append(stored[start : start + SLICE_ROWS])
    return {"call_s": time.perf_counter() - begun}


ENGINES = {"sc_dask": sc_dask, "anndata": anndata}


def main() -> None:
    """Run one engine on one file."""
    engine, source, out = sys.argv[1:]
    print(json.dumps(ENGINES[engine](source, out)))


if __name__ == "__main__":
    main()
