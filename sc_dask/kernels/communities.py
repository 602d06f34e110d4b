"""Communities of one weighted graph: moving nodes, refining and aggregating, the three parts of Leiden (Traag 2019).

A graph is a symmetric CSR matrix: ``indptr``, ``indices``, ``weights``; both directions of a pair are stored. What
lies within a node of an aggregated graph stands on the diagonal, both directions counted. ``strengths`` are the sums
of rows. Quality is modularity with a resolution: a node's gain in a community is ``w - resolution * k * K / total``.
"""

from __future__ import annotations

import numba as nb
import numpy as np

# As igraph and leidenalg: nearly greedy, and yet every partition can be reached.
_RANDOMNESS = 0.01
_STRETCH = 4096


@nb.njit(nogil=True, cache=True, inline="always")
def _next(state):  # type: ignore[no-untyped-def]
    """Advance a generator of 64 bits (xorshift64*)."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return x * np.uint64(2685821657736338717)


@nb.njit(nogil=True, cache=True)
def shuffled(n, state):  # type: ignore[no-untyped-def]
    """Return the numbers below ``n`` in random order; ``state`` (1 uint64, not 0) advances.

    Beyond some thousand, stretches of numbers are in random order, and so is each within itself: what is visited in a
    row stays near in memory.
    """
    order = np.empty(n, np.int32)
    n_stretches = (n + _STRETCH - 1) // _STRETCH
    stretches = np.arange(n_stretches)
    _shuffle(stretches, state)
    place = 0
    for stretch in stretches:
        begin, end = stretch * _STRETCH, min((stretch + 1) * _STRETCH, n)
        for i in range(begin, end):
            order[place + i - begin] = i
        _shuffle(order[place : place + end - begin], state)
        place += end - begin
    return order


@nb.njit(nogil=True, cache=True)
def _shuffle(values, state):  # type: ignore[no-untyped-def]
    for i in range(values.size - 1, 0, -1):
        j = np.int64((_next(state) >> np.uint64(33)) % np.uint64(i + 1))
        values[i], values[j] = values[j], values[i]


@nb.njit(nogil=True, cache=True)
def sums_of_rows(indptr, weights):  # type: ignore[no-untyped-def]
    """Return the sum of every row in float64."""
    sums = np.zeros(indptr.size - 1)
    for i in range(sums.size):
        for t in range(indptr[i], indptr[i + 1]):
            sums[i] += weights[t]
    return sums


@nb.njit(nogil=True, cache=True)
def move(indptr, indices, weights, strengths, sizes, labels, resolution, total, max_size, state):  # type: ignore[no-untyped-def]
    """Move nodes to the neighbouring community where they gain most until none gains; return how many moves there were.

    Parameters
    ----------
    strengths, sizes
        ``n``: sums of rows, and nodes of the first graph in each node.
    labels
        ``n`` communities from 0 to ``n - 1``, changed in place.
    total
        Sum of all strengths of the first graph.
    max_size
        No community grows beyond it; 0: no bound.
    """
    n = indptr.size - 1
    community_strength = np.zeros(n)
    community_size = np.zeros(n, np.int64)
    members = np.zeros(n, np.int32)
    for i in range(n):
        community_strength[labels[i]] += strengths[i]
        community_size[labels[i]] += sizes[i]
        members[labels[i]] += 1
    empty = np.empty(n, np.int32)
    n_empty = 0
    for c in range(n - 1, -1, -1):
        if members[c] == 0:
            empty[n_empty] = c
            n_empty += 1
    to = np.zeros(n)  # weight from the node in hand to each community
    touched = np.empty(n, np.int32)
    queue = shuffled(n, state)
    waiting = np.ones(n, np.uint8)
    head, length, n_moves = 0, n, 0
    factor = resolution / total if total > 0 else 0.0
    while length > 0:
        i = queue[head]
        head = head + 1 if head + 1 < n else 0
        length -= 1
        waiting[i] = 0
        n_touched = 0
        for t in range(indptr[i], indptr[i + 1]):
            j = indices[t]
            if j == i:
                continue
            c = labels[j]
            if to[c] == 0.0:
                touched[n_touched] = c
                n_touched += 1
            to[c] += weights[t]
        own = labels[i]
        community_strength[own] -= strengths[i]
        community_size[own] -= sizes[i]
        members[own] -= 1
        best, best_gain = own, to[own] - factor * strengths[i] * community_strength[own]
        for t in range(n_touched):
            c = touched[t]
            gain = to[c] - factor * strengths[i] * community_strength[c]
            if gain > best_gain + 1e-12 and (max_size == 0 or community_size[c] + sizes[i] <= max_size):
                best, best_gain = c, gain
            to[c] = 0.0
        to[own] = 0.0
        if best_gain < 0 and members[own] > 0 and n_empty > 0:
            n_empty -= 1
            best = empty[n_empty]
        if best != own and members[own] == 0:
            empty[n_empty] = own
            n_empty += 1
        labels[i] = best
        community_strength[best] += strengths[i]
        community_size[best] += sizes[i]
        members[best] += 1
        if best == own:
            continue
        n_moves += 1
        for t in range(indptr[i], indptr[i + 1]):
            j = indices[t]
            if labels[j] != best and waiting[j] == 0:
                waiting[j] = 1
                place = head + length
                queue[place if place < n else place - n] = j
                length += 1
    return n_moves


@nb.njit(nogil=True, cache=True)
def refine(indptr, indices, weights, strengths, labels, resolution, total, state):  # type: ignore[no-untyped-def]
    """Return well connected communities within ``labels``: nodes that stand alone join others of their community.

    A node joins with a probability that grows with what is gained, and never where something is lost, so that an
    aggregated graph can still come apart where a community was held together by a node that has left it.
    """
    n = indptr.size - 1
    factor = resolution / total if total > 0 else 0.0
    refined = np.arange(n).astype(np.int32)
    strength = strengths.copy()  # of refined communities
    whole = np.zeros(n)  # of communities
    for i in range(n):
        whole[labels[i]] += strengths[i]
    outward = np.zeros(n)  # weight from a refined community to the rest of its community
    for i in range(n):
        for t in range(indptr[i], indptr[i + 1]):
            if indices[t] != i and labels[indices[t]] == labels[i]:
                outward[i] += weights[t]
    alone = np.ones(n, np.uint8)
    to = np.zeros(n)
    touched = np.empty(n, np.int32)
    gains = np.empty(n)
    for i in shuffled(n, state):
        own = labels[i]
        if alone[i] == 0 or outward[i] < factor * strengths[i] * (whole[own] - strengths[i]):
            continue
        n_touched = 0
        for t in range(indptr[i], indptr[i + 1]):
            j = indices[t]
            if j == i or labels[j] != own:
                continue
            c = refined[j]
            if to[c] == 0.0:
                touched[n_touched] = c
                n_touched += 1
            to[c] += weights[t]
        best = 0.0
        for t in range(n_touched):
            c = touched[t]
            gains[t] = to[c] - factor * strengths[i] * strength[c]
            if outward[c] < factor * strength[c] * (whole[own] - strength[c]):
                gains[t] = -1.0
            best = max(best, gains[t])
        chance = np.exp(-best / _RANDOMNESS)  # of staying alone, which gains nothing
        for t in range(n_touched):
            if gains[t] >= 0:
                chance += np.exp((gains[t] - best) / _RANDOMNESS)
        draw = (_next(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0) * chance - np.exp(-best / _RANDOMNESS)
        chosen, with_chosen = i, 0.0
        for t in range(n_touched):
            c = touched[t]
            if draw >= 0 and gains[t] >= 0:
                chosen, with_chosen = c, to[c]
                draw -= np.exp((gains[t] - best) / _RANDOMNESS)
            to[c] = 0.0
        if chosen != i:
            refined[i] = chosen
            alone[i] = 0
            alone[chosen] = 0
            strength[chosen] += strengths[i]
            strength[i] = 0.0
            outward[chosen] += outward[i] - 2 * with_chosen
    return refined


@nb.njit(nogil=True, cache=True)
def renumber(labels):  # type: ignore[no-untyped-def]
    """Number the labels (0 to ``n - 1``) anew, in order of first appearance and in place; return how many there are."""
    names = np.full(labels.size, -1, np.int32)
    n = 0
    for i in range(labels.size):
        if names[labels[i]] < 0:
            names[labels[i]] = n
            n += 1
        labels[i] = names[labels[i]]
    return n


@nb.njit(nogil=True, cache=True)
def members_of(labels, n_groups):  # type: ignore[no-untyped-def]
    """Return the nodes sorted by label, and where each label begins (``n_groups + 1``)."""
    starts = np.zeros(n_groups + 1, np.int64)
    for i in range(labels.size):
        starts[labels[i] + 1] += 1
    for c in range(n_groups):
        starts[c + 1] += starts[c]
    place = starts[:-1].copy()
    nodes = np.empty(labels.size, np.int32)
    for i in range(labels.size):
        nodes[place[labels[i]]] = i
        place[labels[i]] += 1
    return nodes, starts


@nb.njit(nogil=True, cache=True)
def aggregate_sizes(indptr, indices, labels, n_labels, nodes, starts, begin, end, sizes):  # type: ignore[no-untyped-def]
    """Count the neighbours, itself included if it has inner weight, of each of the groups ``begin`` to ``end``."""
    seen = np.full(n_labels, -1, np.int32)
    for c in range(begin, end):
        for at in range(starts[c], starts[c + 1]):
            i = nodes[at]
            for t in range(indptr[i], indptr[i + 1]):
                d = labels[indices[t]]
                if seen[d] != c:
                    seen[d] = c
                    sizes[c] += 1


@nb.njit(nogil=True, cache=True)
def aggregate(  # type: ignore[no-untyped-def]
    indptr, indices, weights, labels, n_labels, nodes, starts, begin, end, out_indptr, out_indices, out_weights
):
    """Add up the weights between groups ``begin`` to ``end`` and all others, columns sorted."""
    to = np.zeros(n_labels)
    seen = np.full(n_labels, -1, np.int32)
    for c in range(begin, end):
        n = out_indptr[c]
        for at in range(starts[c], starts[c + 1]):
            i = nodes[at]
            for t in range(indptr[i], indptr[i + 1]):
                d = labels[indices[t]]
                if seen[d] != c:
                    seen[d] = c
                    to[d] = 0.0
                    out_indices[n] = d
                    n += 1
                to[d] += weights[t]
        out_indices[out_indptr[c] : n].sort()
        for t in range(out_indptr[c], n):
            out_weights[t] = to[out_indices[t]]


@nb.njit(nogil=True, cache=True)
def inner_weight(indptr, indices, weights, labels, n_groups):  # type: ignore[no-untyped-def]
    """Return the weight within groups, both directions and diagonal counted, and each group's strength."""
    inside = 0.0
    strengths = np.zeros(n_groups)
    for i in range(labels.size):
        for t in range(indptr[i], indptr[i + 1]):
            strengths[labels[i]] += weights[t]
            if labels[indices[t]] == labels[i]:
                inside += weights[t]
    return inside, strengths


@nb.njit(nogil=True, cache=True)
def is_symmetric(indptr, indices, weights):  # type: ignore[no-untyped-def]
    """Tell whether every entry has its equal across the diagonal; rows need not be sorted."""
    n = indptr.size - 1
    count, total = np.zeros(n, np.int64), np.zeros(n)
    for i in range(n):
        for t in range(indptr[i], indptr[i + 1]):
            # Sums of a random function of the other end: they agree for rows and columns of symmetric matrices only.
            j = indices[t]
            count[j] += 1
            mixed = ((np.uint64(i) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
            total[j] += mixed * weights[t]
            mixed = ((np.uint64(j) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
            count[i] -= 1
            total[i] -= mixed * weights[t]
    for i in range(n):
        scale = 0.0
        for t in range(indptr[i], indptr[i + 1]):
            scale += abs(weights[t])
        if count[i] != 0 or abs(total[i]) > 1e-6 * scale * 2.0**24:
            return False
    return True


@nb.njit(nogil=True, cache=True)
def move_to_best(indptr, indices, weights, strengths, labels, base, community_strengths, resolution, total, out):  # type: ignore[no-untyped-def]
    """Write for some nodes the community where each gains most while all others stay; return how many would move.

    Parameters
    ----------
    indptr, indices, weights, strengths
        Rows of the nodes from ``base`` on.
    labels
        Communities of all nodes.
    community_strengths
        Sums of the strengths of their nodes.
    out
        As many as there are rows.
    """
    to = np.zeros(community_strengths.size)
    touched = np.empty(community_strengths.size, np.int32)
    factor = resolution / total if total > 0 else 0.0
    n_moves = 0
    for i in range(indptr.size - 1):
        own = labels[base + i]
        n_touched = 0
        for t in range(indptr[i], indptr[i + 1]):
            c = labels[indices[t]]
            if indices[t] == base + i:
                continue
            if to[c] == 0.0:
                touched[n_touched] = c
                n_touched += 1
            to[c] += weights[t]
        best = own
        best_gain = to[own] - factor * strengths[i] * (community_strengths[own] - strengths[i])
        for t in range(n_touched):
            c = touched[t]
            gain = to[c] - factor * strengths[i] * community_strengths[c]
            if c != own and gain > best_gain + 1e-12:
                best, best_gain = c, gain
            to[c] = 0.0
        out[i] = best
        n_moves += best != own
    return n_moves
