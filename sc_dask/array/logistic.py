"""Logistic regression of the classes of cells on all genes, in memory where X fits and block by block where not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from sc_dask import config
from sc_dask.array.blocks import Reduction, RowBlocks, reduce_rows
from sc_dask.array.engine import run
from sc_dask.array.gene_major import genes
from sc_dask.array.source import Block
from sc_dask.errors import InputError
from sc_dask.kernels.logistic import Loss, add_losses, softmax_loss

IN_MEMORY_BYTES = 2 << 30  # an X of up to so many is brought together for scikit-learn
STREAMED = {"C": 1.0, "max_iter": 100, "tol": 1e-4, "fit_intercept": True}  # scikit-learn's defaults


def _loss(block: Block, classes: np.ndarray, *, coef: np.ndarray) -> Loss:
    return softmax_loss(block, classes, coef)


LOSS: Reduction[Loss, Loss] = Reduction(_loss, add_losses)


def fit(x: RowBlocks, classes: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """Return the coefficients (n_classes, n_vars), or (1, n_vars) for two classes.

    Parameters
    ----------
    x
        Lazy matrix (n_obs, n_vars).
    classes
        int32 (n_obs,), every number from 0 to n_classes - 1 once at least; -1: the cell is left out.
    options
        Of ``sklearn.linear_model.LogisticRegression``.

    Passes: 1, and 1 more to see whether X fits into `IN_MEMORY_BYTES` (a quarter of the option ``memory``, if set);
    where it does not, one for each step of the minimiser, some hundred.
    """
    if _fits(x):
        return _of_sklearn(x, classes, options)
    return _streamed(x, classes, options)


def in_memory_bytes() -> int:
    """Return how large an X may be to be brought together."""
    memory = config.n_bytes("memory")
    return IN_MEMORY_BYTES if memory is None else memory // 4


def _fits(x: RowBlocks) -> bool:
    most = in_memory_bytes()
    if x.shape[0] * x.shape[1] * (x.dtype.itemsize + 4 * x.expression.is_sparse) <= most:
        return True
    return int(run.compute(reduce_rows(genes.GENE_BYTES, x), label="size").sum()) <= most


def _of_sklearn(x: RowBlocks, classes: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    used = np.flatnonzero(classes >= 0)
    whole = run.materialise(x.select_rows(used), label="logreg")
    whole = sp.csr_matrix(whole) if sp.issparse(whole) else np.asarray(whole)
    _check_finite(whole.data if sp.issparse(whole) else whole)
    return np.asarray(LogisticRegression(**options).fit(whole, classes[used]).coef_)


def _check_finite(values: Any) -> None:
    if not np.isfinite(values).all():
        raise InputError("NaN or infinite values in X", "finite numbers", "mask_var=a mask of var without them")


def _streamed(x: RowBlocks, classes: np.ndarray, options: Mapping[str, Any]) -> np.ndarray:
    """Minimise what scikit-learn minimises, with the same minimiser, from the same start."""
    from scipy.optimize import minimize

    unknown = set(options) - set(STREAMED)
    if unknown:
        raise InputError(
            f"{', '.join(sorted(unknown))} for an X that does not fit into memory",
            f"one of: {', '.join(STREAMED)}",
            'dask.config.set({"sc-dask.memory": ...}) to four times the size of X',
        )
    o = STREAMED | dict(options)
    n, n_classes = int((classes >= 0).sum()), int(classes.max()) + 1
    shape = (1 if n_classes == 2 else n_classes, x.shape[1] + 1)
    penalty = 1.0 / (o["C"] * n)

    def value(w: np.ndarray) -> tuple[float, np.ndarray]:
        coef = w.reshape(shape)
        loss = run.compute(reduce_rows(LOSS, x, classes, coef=coef), label="logreg")
        _check_finite(loss.value)
        gradient = loss.gradient / n
        gradient[:, :-1] += penalty * coef[:, :-1]
        if not o["fit_intercept"]:
            gradient[:, -1] = 0
        return loss.value / n + 0.5 * penalty * float((coef[:, :-1] ** 2).sum()), gradient.ravel()

    how = {"maxiter": o["max_iter"], "maxls": 50, "gtol": o["tol"], "ftol": 64 * np.finfo(float).eps}
    found = minimize(value, np.zeros(shape[0] * shape[1]), method="L-BFGS-B", jac=True, options=how)
    return np.asarray(found.x.reshape(shape)[:, :-1])
