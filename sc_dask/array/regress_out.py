"""Residuals of a regression as a lazy step, and the one pass that finds its coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sc_dask.array import hvg
from sc_dask.array.blocks import Lazy, Reduction, RowBlocks, map_rows, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.source import Block
from sc_dask.errors import InputError
from sc_dask.kernels.moments import Moments, without_rounding
from sc_dask.kernels.regress_out import correct, cross, float_of

_NOTHING = 1e-12  # of a gene's variance: what rounding leaves where covariates explain all of it


@dataclass(frozen=True, eq=False)
class Correction:
    """``(x - levels[codes] - design @ coefficients) * factor``, cut to ``low`` and ``high``."""

    design: np.ndarray  # n_obs x q
    codes: np.ndarray  # n_obs
    levels: np.ndarray  # n_levels x n_vars
    coefficients: np.ndarray  # q x n_vars
    factor: np.ndarray  # n_vars
    low: float = -np.inf
    high: float = np.inf

    @property
    def is_linear(self) -> bool:
        """Whether nothing is cut, so that sums of products of the result follow from those of x."""
        return self.low == -np.inf and self.high == np.inf


def _cross(block: Block, design: np.ndarray, codes: np.ndarray, *, n_levels: int) -> np.ndarray:
    return cross(block, design, codes, n_levels)


CROSS: Reduction[np.ndarray, np.ndarray] = Reduction(_cross, np.add)


def shift(n_obs: int, levels: np.ndarray, factor: np.ndarray | None = None, **bounds: float) -> Correction:
    """Return the correction that takes the same from all cells, and multiplies genes by ``factor``."""
    p = len(levels)
    factor = np.ones(p) if factor is None else factor
    none, zeros = np.empty((n_obs, 0)), np.zeros(n_obs, np.int32)
    return Correction(none, zeros, levels[None, :], np.empty((0, p)), factor, **bounds)


def regressed(x: RowBlocks, design: np.ndarray, codes: np.ndarray | None, n_levels: int) -> RowBlocks:
    """Return the residuals of ``x`` after a linear regression, lazily; 1 pass for the coefficients.

    ``design`` (n_obs, q) is orthonormal and centred; ``codes`` (int32, n_obs) name groups, each with a mean of its own,
    and go without a design. Mean and squared deviations of the residuals are kept with the result.
    """
    wanted: list[Lazy[Any]] = [
        reduce_rows(hvg.MOMENTS, x, *(() if codes is None else (codes,)), n_groups=n_levels),
    ]
    zeros = np.zeros(x.shape[0], np.int32)
    if design.shape[1]:
        wanted.append(reduce_rows(CROSS, x, design, zeros, n_levels=1))
    found = run.compute(*wanted, label="regression")
    moments: Moments = found[0] if design.shape[1] else found
    coefficients = found[1][1:] if design.shape[1] else np.empty((0, x.shape[1]))
    if not (np.isfinite(moments.m2).all() and np.isfinite(coefficients).all()):
        raise InputError("X holds NaN or infinite values", "finite numbers", "look at the genes' sums for NaN")
    left = _left(moments, coefficients)
    factor = np.where(left > 0, 1.0, 0.0)  # 0: rounding errors of a gene of which nothing is left are no residuals
    out = corrected(x, Correction(design, zeros if codes is None else codes, moments.mean, coefficients, factor))
    out.known.cols.update(mean=np.zeros(x.shape[1]), m2=left)
    return out


def _left(m: Moments, coefficients: np.ndarray) -> np.ndarray:
    """Return each gene's squared residuals; 0 where they are but rounding errors of what was there."""
    n = max(float(m.n.sum()), 1.0)
    whole = m.m2.sum(axis=0)
    left = whole - (coefficients**2).sum(axis=0)
    size = np.sqrt(m.n @ m.mean**2 / n)
    return np.where(left > _NOTHING * whole, without_rounding(left / n, size) * n, 0.0)


def correction_of(x: RowBlocks) -> Correction | None:
    """Return the correction that the last step of ``x`` makes, or None where it is another step."""
    last = x.expression.last
    if last is None or last.role != "correction":
        return None
    design, codes = (r.values for r in last.rows)
    assert design is not None and codes is not None
    return Correction(design, codes, **last.const)


def corrected(x: RowBlocks, c: Correction) -> RowBlocks:
    """Describe ``x`` with a correction; after another one that cuts nothing, both become one step."""
    before = correction_of(x)
    if before is not None and before.is_linear:
        joined = _joined(before, c)
        if joined is not None:
            x, c = RowBlocks(x.expression.before(1)), joined
    return map_rows(
        correct,
        x,
        np.ascontiguousarray(c.design),
        c.codes,
        dtype=float_of(x.dtype),
        is_sparse=False,
        columnwise=True,
        by_col=("levels", "coefficients", "factor"),
        role="correction",
        levels=c.levels,
        coefficients=c.coefficients,
        factor=c.factor,
        low=c.low,
        high=c.high,
    )


def _joined(a: Correction, b: Correction) -> Correction | None:
    """Return the correction that does what ``a`` and then ``b`` do; None where both have groups.

    Genes of which ``a`` leaves nothing (factor 0) stay so: ``b`` was found from their zeros, and adds none.
    """
    if len(a.levels) > 1 and len(b.levels) > 1:
        return None
    codes = a.codes if len(a.levels) > 1 else b.codes
    undone = np.divide(1, a.factor, out=np.zeros(len(a.factor)), where=a.factor != 0)
    return Correction(
        np.hstack([a.design, b.design]),
        codes,
        a.levels + b.levels * undone,
        np.vstack([a.coefficients, b.coefficients * undone]),
        a.factor * b.factor,
        b.low,
        b.high,
    )
