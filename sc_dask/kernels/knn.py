"""Nearest neighbours within one block of rows: distances by tiles, and neighbours of neighbours.

Distances are squared Euclidean ones in float32 throughout. A missing neighbour is index -1 at distance infinity, and
always last.
"""

from __future__ import annotations

import numba as nb
import numpy as np

# Minima of tiles may be taken in any order; no distance is NaN, and infinity marks missing neighbours.
_FAST = {"nnan", "nsz", "reassoc", "contract", "arcp"}
_GROUP = 32


@nb.njit(nogil=True, cache=True, inline="always")
def _insert(indices, distances, i, index, distance):  # type: ignore[no-untyped-def]
    """Put a neighbour into row ``i``, which stays sorted; the last one drops out. Equal distances: first come first."""
    j = distances.shape[1] - 1
    while j > 0 and distances[i, j - 1] > distance:
        distances[i, j] = distances[i, j - 1]
        indices[i, j] = indices[i, j - 1]
        j -= 1
    distances[i, j] = distance
    indices[i, j] = index
    return j


@nb.njit(nogil=True, cache=True, fastmath=_FAST)
def gather(x, starts, clusters, centre, rows, norms, names):  # type: ignore[no-untyped-def]
    """Copy the rows of some clusters, seen from ``centre``; return how many there are.

    Parameters
    ----------
    x, starts
        ``n_rows x n_dims``, and where the rows of each cluster begin.
    rows, norms, names
        Long enough: the copies, their squared lengths and their numbers in ``x``.
    """
    n_dims = x.shape[1]
    n = 0
    for c in clusters:
        for i in range(starts[c], starts[c + 1]):
            total = np.float32(0)
            for d in range(n_dims):
                diff = x[i, d] - centre[d]
                rows[n, d] = diff
                total += diff * diff
            norms[n] = total
            names[n] = i
            n += 1
    return n


@nb.njit(nogil=True, cache=True, fastmath=_FAST)
def take_nearest(dots, own_norms, norms, own, names, indices, distances):  # type: ignore[no-untyped-def]
    """Offer the rows of a tile to the nearest of each of its queries.

    Parameters
    ----------
    dots
        ``n_queries x n_rows`` inner products.
    own_norms, norms
        Squared lengths of queries and rows.
    own, names
        Number of the first query, and numbers of the rows: a query is not its own neighbour.
    indices, distances
        ``n_queries x k``, changed in place.
    """
    n_queries, n_rows = dots.shape
    last = distances.shape[1] - 1
    for i in range(n_queries):
        length = own_norms[i]
        row = dots[i]
        for start in range(0, n_rows, _GROUP):
            stop = min(start + _GROUP, n_rows)
            bound = distances[i, last] - length
            nearer = 0
            if stop - start == _GROUP:  # a loop of known length, which the compiler unrolls
                for j in range(_GROUP):
                    nearer += norms[start + j] - np.float32(2) * row[start + j] < bound
            else:
                nearer = 1
            if nearer == 0:
                continue
            for j in range(start, stop):
                distance = max(norms[j] - np.float32(2) * row[j] + length, np.float32(0))
                if distance < distances[i, last] and names[j] != own + i:
                    _insert(indices, distances, i, names[j], distance)


@nb.njit(nogil=True, cache=True)
def reverse(indices, fresh, back, back_fresh):  # type: ignore[no-untyped-def]
    """Fill ``back`` (``n_rows x k``) with rows that have each row as a neighbour: nearest ranks first, then -1."""
    n_rows, k = indices.shape
    n_back = back.shape[1]
    count = np.zeros(n_rows, np.int32)
    back[:] = -1
    for j in range(k):
        for i in range(n_rows):
            u = indices[i, j]
            if u >= 0 and count[u] < n_back:
                back[u, count[u]] = i
                back_fresh[u, count[u]] = fresh[i, j]
                count[u] += 1


@nb.njit(nogil=True, cache=True, fastmath=_FAST, inline="always")
def _offer(x, i, u, indices, distances, fresh):  # type: ignore[no-untyped-def]
    """Take row ``u`` into the list of row ``i``, marked as fresh, if it is nearer than the last; return 1 if it is."""
    distance = np.float32(0)
    for d in range(x.shape[1]):
        diff = x[i, d] - x[u, d]
        distance += diff * diff
    if distance >= distances[i, -1]:
        return 0
    place = _insert(indices, distances, i, u, distance)
    for j in range(fresh.shape[1] - 1, place, -1):
        fresh[i, j] = fresh[i, j - 1]
    fresh[i, place] = 1
    return 1


@nb.njit(nogil=True, cache=True, fastmath=_FAST)
def descend(x, indices, fresh, back, back_fresh, begin, end, new_indices, new_distances, new_fresh, seen):  # type: ignore[no-untyped-def]
    """Offer to rows ``begin`` to ``end`` the neighbours of their neighbours, both ways (Dong, Moses & Li 2011).

    Reads the lists of the last round only, so that any number of threads gives the same lists.

    Parameters
    ----------
    x
        ``n_rows x n_dims``.
    indices, fresh
        ``n_rows x k`` neighbours of the last round, and 1 for those found in it: two that are both old were offered
        before.
    back, back_fresh
        As ``reverse`` fills them.
    new_indices, new_distances, new_fresh
        The lists of this round; on entry rows ``begin`` to ``end`` hold those of the last, and no fresh ones.
    seen
        ``n_rows``, without any of ``begin`` to ``end`` in it.

    Returns the number of neighbours that were replaced.
    """
    k = indices.shape[1]
    n_changed = 0
    for i in range(begin, end):
        seen[i] = i
        for j in range(k):
            if new_indices[i, j] >= 0:
                seen[new_indices[i, j]] = i
        for side in range(2):
            hops, hops_fresh = (indices, fresh) if side == 0 else (back, back_fresh)
            for j in range(hops.shape[1]):
                u = hops[i, j]
                if u < 0:
                    break
                all_of_them = hops_fresh[i, j] == 1
                if side == 1 and seen[u] != i and all_of_them:
                    seen[u] = i
                    n_changed += _offer(x, i, u, new_indices, new_distances, new_fresh)
                for t in range(2 * k):
                    v = indices[u, t] if t < k else back[u, t - k]
                    if v < 0:
                        if t < k:
                            continue
                        break
                    if seen[v] == i or not (all_of_them or (fresh[u, t] if t < k else back_fresh[u, t - k]) == 1):
                        continue
                    seen[v] = i
                    n_changed += _offer(x, i, v, new_indices, new_distances, new_fresh)
    return n_changed


@nb.njit(nogil=True, cache=True)
def finalize(x, indices, rows, begin, end, out_indices, out_distances):  # type: ignore[no-untyped-def]
    """Write the neighbours of ``begin`` to ``end`` where they belong: self first, then by distance and number.

    Parameters
    ----------
    x
        ``n_rows x n_dims``; distances are taken anew, difference by difference.
    indices
        ``n_rows x k``.
    rows
        ``n_rows``: where each row belongs in the results, and its name there.
    out_indices, out_distances
        ``(number of rows) x (k + 1)``; distances are not squared here.
    """
    n_dims = x.shape[1]
    k = indices.shape[1]
    for i in range(begin, end):
        row = rows[i]
        out_indices[row, 0] = row
        out_distances[row, 0] = 0
        n = 1
        for j in range(k):
            u = indices[i, j]
            if u < 0:
                out_indices[row, n:] = -1
                out_distances[row, n:] = np.inf
                break
            total = np.float32(0)
            for d in range(n_dims):
                diff = x[i, d] - x[u, d]
                total += diff * diff
            distance, name = np.sqrt(total), np.int32(rows[u])
            place = n
            while place > 1 and (
                out_distances[row, place - 1] > distance
                or (out_distances[row, place - 1] == distance and out_indices[row, place - 1] > name)
            ):
                out_distances[row, place] = out_distances[row, place - 1]
                out_indices[row, place] = out_indices[row, place - 1]
                place -= 1
            out_distances[row, place] = distance
            out_indices[row, place] = name
            n += 1
