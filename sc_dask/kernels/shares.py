"""Which share of a cell's counts each gene has."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from sc_dask.kernels.csr import Block
from sc_dask.kernels.normalize import scale_rows


def percent_of_cell(block: Block) -> Block:
    """Return values in per cent of their cell's sum; a cell without counts stays zero."""
    totals = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel() if sp.issparse(block) else block.sum(1, np.float64)
    return scale_rows(block, 100 / np.where(totals == 0, 1, totals))
