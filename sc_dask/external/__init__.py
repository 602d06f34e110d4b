"""scanpy's wrappers of other libraries: ours where we have the method, else handed over to scanpy."""

from sc_dask.external import exporting, pl, pp, tl

__all__ = ["exporting", "pl", "pp", "tl"]
