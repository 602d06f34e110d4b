"""One chunk of cells of Harmony: soft assignment to clusters under a penalty for batches that are there already."""

from __future__ import annotations

import numba as nb
import numpy as np

# Sums of a row may be taken in any order; nothing is NaN or infinite.
_FAST = {"nnan", "ninf", "nsz", "reassoc", "contract", "arcp"}


@nb.njit(nogil=True, cache=True, fastmath=_FAST)
def gather(x, scale, rows, out):  # type: ignore[no-untyped-def]
    """Copy ``rows`` of ``x`` (``n_obs x n_dims``), each times its ``scale``, to ``out``."""
    for i in range(len(rows)):
        source, target, factor = x[rows[i]], out[i], scale[rows[i]]
        for d in range(out.shape[1]):
            target[d] = source[d] * factor


@nb.njit(nogil=True, cache=True, fastmath=_FAST)
def exponents(dots, width, highest):  # type: ignore[no-untyped-def]
    """Turn cosines into ``-2 (1 - cosine) / width``, less the highest of each row, in place.

    Parameters
    ----------
    dots
        ``n_rows x n_clusters``.
    width
        Of each cluster.
    highest
        ``n_rows``: what was taken off.
    """
    one, two = np.float32(1), np.float32(2)
    for i in range(dots.shape[0]):
        row = dots[i]
        top = np.float32(-3.0e38)
        for k in range(len(row)):
            row[k] = two * (row[k] - one) / width[k]
            top = max(top, row[k])
        for k in range(len(row)):
            row[k] -= top
        highest[i] = top


@nb.njit(nogil=True, cache=True, fastmath=_FAST)
def assign(weights, highest, rows, batch, penalty, width, r, sums):  # type: ignore[no-untyped-def]
    """Assign cells to clusters: apply the penalty, bring rows to the sum 1, store them, add them to batch sums.

    Parameters
    ----------
    weights
        ``n_rows x n_clusters``, changed in place.
    highest
        From `exponents`.
    rows, batch
        Numbers of the cells, and the batch of every cell (``n_obs``).
    penalty
        ``n_batches x n_clusters``.
    width
        Of each cluster.
    r
        ``n_obs x n_clusters``: rows ``rows`` are written.
    sums
        ``n_batches x n_clusters`` float64: the rows are added.

    Returns
    -------
    Sum over the rows of ``(highest + log(sum before)) * (mean width of the row)``, which the objective needs.
    """
    energy = 0.0
    for i in range(len(rows)):
        row, target = weights[i], r[rows[i]]
        factor, into = penalty[batch[rows[i]]], sums[batch[rows[i]]]
        total = np.float32(0)
        for k in range(len(row)):
            row[k] *= factor[k]
            total += row[k]
        share = np.float32(1) / total
        mean_width = np.float32(0)
        for k in range(len(row)):
            value = row[k] * share
            row[k] = value
            target[k] = value
            into[k] += value
            mean_width += value * width[k]
        energy += (np.float64(highest[i]) + np.log(np.float64(total))) * mean_width
    return energy


@nb.njit(nogil=True, cache=True)
def batch_sums(r, rows, batch, sums):  # type: ignore[no-untyped-def]
    """Add ``rows`` of ``r`` (``n_obs x n_clusters``) to the sums of their batches."""
    for i in range(len(rows)):
        source, into = r[rows[i]], sums[batch[rows[i]]]
        for k in range(len(source)):
            into[k] += source[k]
