"""Draw cells of an atlas from real ones: counts of a cell and some of its neighbours, thinned and summed."""

from __future__ import annotations

import math

import numba
import numpy as np

DEPTH_SD = 0.35  # log-normal spread of the depth of new cells
MAX_KEEP = 0.98
N_AMBIENT = 20  # ambient molecules of a cell of mean depth


@numba.njit(cache=True, nogil=True)
def draw_cells(
    rng: np.random.Generator,
    n: int,
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    near: np.ndarray,
    n_parents: int,
    keep: float,
    n_vars: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return data, indices, indptr of ``n`` new cells, and the row of each one's first parent.

    Parameters
    ----------
    data, indices, indptr
        Counts of the real cells, csr.
    near
        int32 (n_cells, k): the neighbours of each.
    n_parents
        Cells that are summed into a new one.
    keep
        Mean probability that a count of a parent is kept.
    """
    n_cells, k = near.shape
    row = np.zeros(n_vars, np.int64)
    touched = np.empty(n_vars, np.int32)
    capacity = 2048 * max(n, 1)
    out_data, out_indices = np.empty(capacity, np.uint16), np.empty(capacity, np.int32)
    out_indptr, parents = np.zeros(n + 1, np.int64), np.empty(n, np.int32)
    at = 0
    for i in range(n):
        n_touched = 0
        parent = rng.integers(0, n_cells)
        parents[i] = parent
        depth = math.exp(rng.normal(0.0, DEPTH_SD))
        p = min(MAX_KEEP, keep * depth)
        for t in range(n_parents):
            r = parent if t == 0 else near[parent, rng.integers(0, k)]
            for j in range(indptr[r], indptr[r + 1]):
                c = np.int64(data[j])
                kept = (1 if rng.random() < p else 0) if c == 1 else rng.binomial(c, p)
                if kept:
                    g = indices[j]
                    if row[g] == 0:
                        touched[n_touched] = g
                        n_touched += 1
                    row[g] += kept
        for _ in range(int(N_AMBIENT * depth)):
            g = indices[rng.integers(0, len(indices))]
            if row[g] == 0:
                touched[n_touched] = g
                n_touched += 1
            row[g] += 1
        if at + n_touched > capacity:
            capacity = 2 * (at + n_touched)
            grown_data, grown_indices = np.empty(capacity, np.uint16), np.empty(capacity, np.int32)
            grown_data[:at], grown_indices[:at] = out_data[:at], out_indices[:at]
            out_data, out_indices = grown_data, grown_indices
        genes = np.sort(touched[:n_touched])
        for g in genes:
            out_indices[at] = g
            out_data[at] = min(row[g], 65535)
            row[g] = 0
            at += 1
        out_indptr[i + 1] = at
    return out_data[:at].copy(), out_indices[:at].copy(), out_indptr, parents
