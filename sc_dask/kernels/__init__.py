from sc_dask.kernels.cache import prepare


def _probe() -> None:
    """Stand for the kernels of this folder."""


prepare(_probe)
