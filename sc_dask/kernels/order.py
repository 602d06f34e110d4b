"""An order of a graph's nodes in which neighbours are near, and the graph in that order."""

from __future__ import annotations

import numba as nb
import numpy as np


@nb.njit(nogil=True, cache=True)
def breadth_first(indptr, indices, size):  # type: ignore[no-untyped-def]
    """Return the nodes in breadth-first order, begun anew after every ``size`` nodes, near where the last part ended.

    Parts of this size stay in cache; a single breadth-first order of all nodes would be as wide as the graph.
    """
    n = indptr.size - 1
    order = np.empty(n, np.int32)
    where = np.zeros(n, np.uint8)  # 1: seen, 2: in order
    frontier = np.empty(n, np.int32)  # nodes that earlier parts have seen but not taken; the last is the next start
    queue = np.empty(size, np.int32)
    done, n_frontier, start = 0, 0, 0
    while done < n:
        first = -1
        while n_frontier > 0 and first < 0:
            n_frontier -= 1
            if where[frontier[n_frontier]] != 2:
                first = frontier[n_frontier]
        while first < 0:
            if where[start] != 2:
                first = start
            start += 1
        queue[0] = first
        where[first] = 2
        head, length = 0, 1
        while head < length:
            i = queue[head]
            head += 1
            order[done] = i
            done += 1
            for t in range(indptr[i], indptr[i + 1]):
                j = indices[t]
                if where[j] == 2:
                    continue
                if length < size:
                    where[j] = 2
                    queue[length] = j
                    length += 1
                elif where[j] == 0:
                    where[j] = 1
                    frontier[n_frontier] = j
                    n_frontier += 1
    return order


@nb.njit(nogil=True, cache=True)
def row_sizes(indptr, order, begin, end, sizes):  # type: ignore[no-untyped-def]
    """Write the lengths of the rows at ``order[begin:end]``."""
    for i in range(begin, end):
        sizes[i] = indptr[order[i] + 1] - indptr[order[i]]


@nb.njit(nogil=True, cache=True)
def copy_rows(indptr, indices, weights, order, rank, begin, end, out_indptr, out_indices, out_weights):  # type: ignore[no-untyped-def]
    """Copy the rows at ``order[begin:end]``, columns renamed by ``rank`` (and so no longer sorted)."""
    for i in range(begin, end):
        place = out_indptr[i]
        for t in range(indptr[order[i]], indptr[order[i] + 1]):
            out_indices[place] = rank[indices[t]]
            out_weights[place] = weights[t]
            place += 1
