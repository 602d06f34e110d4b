"""The loss of logistic regression and its gradient on one block, as scikit-learn's ``LogisticRegression`` has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from sc_dask.kernels.csr import Block


@dataclass(frozen=True)
class Loss:
    """Sums over cells; blocks are added up."""

    value: float
    gradient: NDArray[np.float64]  # n_rows x (n_vars + 1): of the coefficients, then of the intercept


def softmax_loss(block: Block, classes: NDArray[np.int32], coef: NDArray[np.float64]) -> Loss:
    """Return minus the log-likelihood of the classes of cells, and its gradient.

    Parameters
    ----------
    block
        n_obs x n_vars.
    classes
        int32 of n_obs in ``[0, n_classes)``; -1: not looked at.
    coef
        n_classes x (n_vars + 1), the intercept last; 1 x (n_vars + 1) for two classes, of which it tells the second.

    Memory: ``8 n_classes`` bytes a cell and the gradient.
    """
    used = classes >= 0
    block, classes = (block, classes) if used.all() else (block[used], classes[used])
    raw = np.asarray(block @ coef[:, :-1].T, np.float64) + coef[:, -1]
    if len(coef) == 1:
        second = (classes == 1)[:, None]
        value = float(np.sum(np.logaddexp(0, raw) - second * raw))
        wrong = expit(raw) - second
    else:
        total = logsumexp(raw, axis=1, keepdims=True)
        at = np.arange(len(classes)), classes
        value = float(np.sum(total) - np.sum(raw[at]))
        wrong = np.exp(raw - total)
        wrong[at] -= 1
    gradient = np.hstack([np.asarray((block.T @ wrong).T, np.float64), wrong.sum(axis=0)[:, None]])
    return Loss(value, gradient)


def add_losses(a: Loss, b: Loss) -> Loss:
    """Return the sums over the cells of both."""
    return Loss(a.value + b.value, a.gradient + b.gradient)
