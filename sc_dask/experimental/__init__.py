"""scanpy's experimental names: they are those of ``pp`` here."""

from sc_dask.experimental import pp

__all__ = ["pp"]
