"""A lazy X with values of another type, or sparse where it was dense."""

from __future__ import annotations

from typing import Any

import numpy as np

from sc_dask.array.blocks import RowBlocks
from sc_dask.array.expr import Step
from sc_dask.kernels.concat import as_csr, cast


def as_type(x: RowBlocks, dtype: Any) -> RowBlocks:
    """Return a lazy matrix with values of ``dtype``; nothing is read."""
    wanted = np.dtype(dtype)
    if x.dtype == wanted:
        return x
    e = x.expression
    step = Step(
        cast,
        f"cast-{wanted.str}",
        wanted,
        e.shape[1],
        e.is_sparse,
        const={"dtype": wanted},
        columnwise=True,
        keeps_pattern=True,
    )
    return RowBlocks(e.then(step))


def as_sparse(x: RowBlocks) -> RowBlocks:
    """Return a lazy matrix whose blocks are csr; nothing is read."""
    e = x.expression
    return x if e.is_sparse else RowBlocks(e.then(Step(as_csr, "as-csr", e.dtype, e.shape[1], True, columnwise=True)))
