"""Weights of a neighbour graph: one cell's weights to its neighbours, and both directions of a pair joined."""

from __future__ import annotations

import numba as nb
import numpy as np

# Constants of umap-learn: tolerance of the sum of weights, steps of the bisection, and the least width as a share
# of the mean distance.
_TOLERANCE = 1e-5
_N_STEPS = 64
_MIN_SCALE = 1e-3
_FLOAT_MAX = float(np.finfo(np.float32).max)
UNION, MEAN, MAX = 0, 1, 2
_NONE = np.int32(2**31 - 1)  # beyond all columns


@nb.njit(
    locals={"weight": nb.float32},  # umap-learn's other float32 declarations do not reach into its parallel loop
    nogil=True,
    cache=True,
)
def weights(indices, distances, first, target, mean_of_all, out, n_sure=1.0):  # type: ignore[no-untyped-def]
    """Write UMAP's weights of a block of cells to their neighbours, equal to umap-learn's.

    Parameters
    ----------
    indices, distances
        ``n_rows x k``, self first, ascending.
    first
        Number of the first cell of the block.
    target
        What the weights of a cell add up to.
    mean_of_all
        Mean distance over all cells.
    out
        ``n_rows x k``.
    n_sure
        Neighbours at a distance above 0 that weigh 1 (umap-learn's ``local_connectivity``); between whole numbers,
        between their distances.
    """
    n_rows, k = distances.shape
    whole = int(n_sure)
    for i in range(n_rows):
        row = distances[i]
        rho, last, n_seen = np.float32(0), np.float32(0), 0
        for j in range(k):
            if row[j] > 0:
                n_seen += 1
                if n_seen > whole:
                    if n_sure - whole > _TOLERANCE:
                        rho = np.float32(last + (n_sure - whole) * (row[j] - last))
                    break
                rho = last = row[j]
        lo, hi, mid = 0.0, _FLOAT_MAX, 1.0
        for _ in range(_N_STEPS):
            psum = 0.0
            for j in range(1, k):
                d = row[j] - rho
                if d > 0:
                    psum += np.exp(-(d / mid))
                else:
                    psum += 1.0
            if np.fabs(psum - target) < _TOLERANCE:
                break
            if psum > target:
                hi = mid
                mid = (lo + hi) / 2.0
            else:
                lo = mid
                if hi >= _FLOAT_MAX:
                    mid *= 2
                else:
                    mid = (lo + hi) / 2.0
        sigma = np.float32(max(mid, _MIN_SCALE * (np.mean(row) if rho > 0 else mean_of_all)))
        for j in range(k):
            weight = 1.0
            if indices[i, j] == first + i:
                weight = 0.0
            elif row[j] - rho > 0 and sigma > 0:
                weight = np.exp(-((row[j] - rho) / sigma))
            out[i, j] = weight


@nb.njit(nogil=True, cache=True)
def transpose(indices, weights, into, sources, back):  # type: ignore[no-untyped-def]
    """Turn the edges round: ``sources[into[i]:into[i + 1]]`` are the cells that have ``i`` as a neighbour, ascending.

    Parameters
    ----------
    indices, weights
        ``n_obs x k``.
    into
        ``n_obs + 1``, zeros on entry.
    sources, back
        ``n_obs * k``: cells and the weights that they give.
    """
    n_obs, k = indices.shape
    for i in range(n_obs):
        for j in range(k):
            if indices[i, j] != i:
                into[indices[i, j] + 1] += 1
    for i in range(n_obs):
        into[i + 1] += into[i]
    place = into[:-1].copy()
    for i in range(n_obs):
        for j in range(k):
            u = indices[i, j]
            if u != i:
                sources[place[u]] = i
                back[place[u]] = weights[i, j]
                place[u] += 1


@nb.njit(nogil=True, cache=True)
def _ascending(indices, weights, i, columns, values):  # type: ignore[no-untyped-def]
    """Copy row ``i`` without ``i`` itself, by column; return its length."""
    n = 0
    for j in range(indices.shape[1]):
        u = indices[i, j]
        if u == i:
            continue
        place = n
        while place > 0 and columns[place - 1] > u:
            columns[place] = columns[place - 1]
            values[place] = values[place - 1]
            place -= 1
        columns[place] = u
        values[place] = weights[i, j]
        n += 1
    return n


@nb.njit(nogil=True, cache=True)
def join_sizes(indices, weights, into, sources, begin, end, sizes):  # type: ignore[no-untyped-def]
    """Count the cells that each of ``begin`` to ``end`` is joined with, those of weight 0 among them."""
    columns, values = np.empty(indices.shape[1], np.int32), np.empty(indices.shape[1], np.float32)
    for i in range(begin, end):
        n = _ascending(indices, weights, i, columns, values)
        j, t, size = 0, into[i], 0
        while j < n or t < into[i + 1]:
            left = columns[j] if j < n else _NONE
            right = sources[t] if t < into[i + 1] else _NONE
            j += 1 if left <= right else 0
            t += 1 if right <= left else 0
            size += 1
        sizes[i] = size


@nb.njit(nogil=True, cache=True)
def join(indices, weights, into, sources, back, begin, end, how, indptr, columns_out, data_out):  # type: ignore[no-untyped-def]
    """Write rows ``begin`` to ``end`` of the joined graph, a direction that is not there being 0.

    ``how`` is ``UNION`` (``a + b - ab``), ``MEAN`` or ``MAX``.
    """
    columns, values = np.empty(indices.shape[1], np.int32), np.empty(indices.shape[1], np.float32)
    for i in range(begin, end):
        n = _ascending(indices, weights, i, columns, values)
        j, t, place = 0, into[i], indptr[i]
        while j < n or t < into[i + 1]:
            left = columns[j] if j < n else _NONE
            right = sources[t] if t < into[i + 1] else _NONE
            there = values[j] if left <= right else np.float32(0)
            again = back[t] if right <= left else np.float32(0)
            columns_out[place] = min(left, right)
            if how == UNION:
                data_out[place] = there + again - there * again
            elif how == MEAN:
                data_out[place] = (there + again) / np.float32(2)
            else:
                data_out[place] = max(there, again)
            j += 1 if left <= right else 0
            t += 1 if right <= left else 0
            place += 1


@nb.njit(nogil=True, cache=True)
def jaccard(indices, begin, end, seen, out):  # type: ignore[no-untyped-def]
    """Write the shares of neighbours that each of ``begin`` to ``end`` has in common with its neighbours.

    Parameters
    ----------
    indices
        ``n_obs x k``, self first; self counts as nobody's neighbour.
    seen
        ``n_obs``, without any of ``begin`` to ``end`` in it.
    out
        ``n_obs x k``; column 0 becomes 0.
    """
    k = indices.shape[1]
    for i in range(begin, end):
        for j in range(1, k):
            seen[indices[i, j]] = i
        out[i, 0] = 0
        for j in range(1, k):
            shared = 0
            for t in range(1, k):
                shared += seen[indices[indices[i, j], t]] == i
            out[i, j] = shared / (2 * (k - 1) - shared)


@nb.njit(nogil=True, cache=True)
def least_of_best(data, indptr, n_best, out):  # type: ignore[no-untyped-def]
    """Write the ``n_best``-th largest value of each row; 0 of rows that are not longer."""
    for i in range(len(out)):
        row = data[indptr[i] : indptr[i + 1]]
        out[i] = np.sort(row)[len(row) - n_best] if len(row) > n_best else 0
