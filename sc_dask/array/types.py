"""A lazy X with values of another type, or sparse where it was dense."""

from __future__ import annotations

from typing import Any

import numpy as np

from sc_dask.array.blocks import RowBlocks
from sc_dask.array.expr import Expr, Step
from sc_dask.kernels.concat import as_csr, cast


def as_type(x: RowBlocks, dtype: Any) -> RowBlocks:
    """Return a lazy matrix with values of ``dtype``; nothing is read."""
    wanted = np.dtype(dtype)
    if x.dtype == wanted:
        return x
    return RowBlocks(x.expression.then(cast_step(x.expression, wanted)))


def as_sparse(x: RowBlocks) -> RowBlocks:
    """Return a lazy matrix whose blocks are csr; nothing is read."""
    return x if x.expression.is_sparse else RowBlocks(x.expression.then(csr_step(x.expression)))


def cast_step(expr: Expr, dtype: np.dtype[Any]) -> Step:
    """Return the step that changes the type of the values of ``expr``."""
    name, const = f"cast-{dtype.str}", {"dtype": dtype}
    return Step(cast, name, dtype, expr.shape[1], expr.is_sparse, const=const, columnwise=True, keeps_pattern=True)


def csr_step(expr: Expr) -> Step:
    """Return the step that makes csr of the dense blocks of ``expr``."""
    return Step(as_csr, "as-csr", expr.dtype, expr.shape[1], True, columnwise=True)
