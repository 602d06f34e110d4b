"""``sd.progress()``: what a call does while it runs, on a terminal or in a notebook."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sc_dask import log
from sc_dask.pipeline.progress import display


@contextlib.contextmanager
def progress(label: str = "sc_dask") -> Iterator[log.Stage]:
    """Show passes over X that are made inside the ``with`` block.

    Bars on a terminal and in a notebook (rich): pass, blocks, rate and time left; in a pipe or a log a line a minute.
    Afterwards one line says what it took.

    Parameters
    ----------
    label
        What is written before the pass.

    Yields
    ------
    The running figures: ``seconds``, ``passes``, ``bytes_read``, ``peak_rss_bytes``.

    Examples
    --------
    >>> import sc_dask as sd
    >>> adata = sd.datasets.simulate(200, 300, seed=1)
    >>> with sd.progress("quality") as seen:  # doctest: +ELLIPSIS
    ...     sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    quality ...
    >>> seen.passes
    1.0
    """
    shown = display()
    with shown, log.stage(label, shown) as stage:
        yield stage
