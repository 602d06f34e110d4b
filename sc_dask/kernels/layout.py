"""One epoch of UMAP's optimisation for some of the nodes of a graph.

Every node reads where the others stood at the end of the last epoch and moves itself only, so that any number of
threads gives the same coordinates (umap-learn moves both ends of an edge at once, in an order that threads change).
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numba import types
from numba.extending import intrinsic

# The curve's two coefficients are looked up by squared distance: the exponent and the top bits of the mantissa of
# float32.
_DROPPED_BITS = 17  # of 23: 64 steps an octave
_LEAST = np.float32(2.0**-20)
_OCTAVES = 48  # up to 2^28
_MOST = np.float32(2.0**27)
TABLE_SIZE = (_OCTAVES << (23 - _DROPPED_BITS)) + 1
_OFFSET = (127 - 20) << (23 - _DROPPED_BITS)
_CLIP = np.float32(4)
# Rates are shares of the heaviest weight in 1 / 65,536.
RATE_BITS = 16
# Nodes that lie in a row in memory are repelled by samples of one window of the shuffled nodes, another one in every
# epoch: so many positions stay in cache.
_WINDOW = 1 << 15
_STRETCH_BITS = 13
_FAST = {"contract", "nnan", "ninf", "nsz", "reassoc"}


def tables(a: float, b: float, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of the difference of two positions, attracting and repelling, by squared distance."""
    bits = (np.arange(TABLE_SIZE, dtype=np.uint32) + np.uint32(_OFFSET)) << np.uint32(_DROPPED_BITS)
    low = bits.view(np.float32).astype(np.float64)
    d2 = low * (1 + 0.5 / (1 << (23 - _DROPPED_BITS)))
    power = d2**b
    attract = -2.0 * a * b * power / d2 / (1.0 + a * power)
    repel = 2.0 * gamma * b / ((0.001 + d2) * (1.0 + a * power))
    return attract.astype(np.float32), repel.astype(np.float32)


@intrinsic  # type: ignore[misc]
def _bits(typing_context, number):  # type: ignore[no-untyped-def]
    """Return the bits of a float32 as uint32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), generate


@nb.njit(nogil=True, cache=True, inline="always")
def _place(d2):  # type: ignore[no-untyped-def]
    """Return the place of a squared distance in the tables."""
    bits = _bits(min(max(d2, _LEAST), _MOST))  # type: ignore[call-arg, var-annotated]
    return (bits >> np.uint32(_DROPPED_BITS)) - np.uint32(_OFFSET)


@nb.njit(nogil=True, cache=True, inline="always")
def _clipped(value):  # type: ignore[no-untyped-def]
    return min(max(value, -_CLIP), _CLIP)


@nb.njit(nogil=True, cache=True, inline="always")
def _seeded(seed, i, t):  # type: ignore[no-untyped-def]
    """Return the state of a generator for one node in one epoch (splitmix64)."""
    x = np.uint64(seed) ^ (np.uint64(i) * np.uint64(0x9E3779B97F4A7C15))
    x ^= np.uint64(t + 1) * np.uint64(0xD1B54A32D192ED03)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)


@nb.njit(nogil=True, cache=True, inline="always")
def _window(seed, i, t, n, window):  # type: ignore[no-untyped-def]
    """Return where the random nodes begin that some thousand nodes in a row are repelled by in one epoch."""
    if window == n:
        return 0
    x = _seeded(seed, -1 - (i >> _STRETCH_BITS), t)
    return np.int64(((x >> np.uint64(32)) * np.uint64(n - window + 1)) >> np.uint64(32))


@nb.njit(nogil=True, cache=True, inline="always")
def _advanced(x):  # type: ignore[no-untyped-def]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    return x


@nb.njit(nogil=True, cache=True, fastmath=_FAST)
def epoch(  # type: ignore[no-untyped-def]
    indptr,
    indices,
    rates,
    old,
    shuffled,
    new,
    attract,
    repel,
    begin,
    end,
    t,
    alpha,
    n_negative,
    seed,
    base,
):
    """Move nodes ``begin`` to ``end`` by the edges that are due in epoch ``t``.

    An edge of rate ``r`` is due ``r`` times an epoch. It attracts the node twice (umap-learn meets it from either
    end), and in between the node is repelled by ``n_negative`` random nodes.

    Parameters
    ----------
    indptr, indices, rates
        Symmetric CSR, of the nodes from ``base`` on; ``rates`` uint16.
    old, new
        ``n x n_components`` positions; ``old`` is only read.
    shuffled
        ``old``, or some thousand of it, in random order: neighbours in memory are a random sample.
    attract, repel
        As ``tables`` gives them.
    alpha
        Learning rate of this epoch.
    """
    n, n_components = shuffled.shape
    step = np.float32(alpha)
    here, push = np.empty(n_components, np.float32), np.empty(n_components, np.float32)
    window = min(n, _WINDOW)
    span = np.uint64(max(1, window - n_negative + 1))
    for i in range(begin, end):
        for d in range(n_components):
            here[d] = old[i, d]
        x = _seeded(seed, i, t)
        low = _window(seed, i, t, n, window)
        high = low + window
        for e in range(indptr[i - base], indptr[i - base + 1]):
            rate = np.int64(rates[e])
            if (rate * t + rate) >> RATE_BITS == (rate * t) >> RATE_BITS:
                continue
            x = _advanced(x)
            at = low + np.int64(((x >> np.uint64(32)) * span) >> np.uint64(32))
            for turn in range(2):
                d2 = np.float32(0)
                for d in range(n_components):
                    diff = here[d] - old[indices[e], d]
                    d2 += diff * diff
                factor = attract[_place(d2)]
                for d in range(n_components):
                    here[d] += step * _clipped(factor * (here[d] - old[indices[e], d]))
                if turn == 1:
                    break
                push[:] = 0
                for s in range(at, min(at + n_negative, high)):
                    d2 = np.float32(0)
                    for d in range(n_components):
                        diff = here[d] - shuffled[s, d]
                        d2 += diff * diff
                    factor = repel[_place(d2)]
                    for d in range(n_components):
                        push[d] += _clipped(factor * (here[d] - shuffled[s, d]))
                for d in range(n_components):
                    here[d] += step * push[d]
        for d in range(n_components):
            new[i, d] = here[d]


@nb.njit(nogil=True, cache=True, fastmath=_FAST)
def epoch_in_plane(  # type: ignore[no-untyped-def]
    indptr,
    indices,
    rates,
    old,
    shuffled,
    new,
    attract,
    repel,
    begin,
    end,
    t,
    alpha,
    n_negative,
    seed,
    base,
):
    """Do what ``epoch`` does in two dimensions, where positions stay in registers."""
    n = shuffled.shape[0]
    step = np.float32(alpha)
    window = min(n, _WINDOW)
    span = np.uint64(max(1, window - n_negative + 1))
    for i in range(begin, end):
        a, b = old[i, 0], old[i, 1]
        x = _seeded(seed, i, t)
        low = _window(seed, i, t, n, window)
        high = low + window
        for e in range(indptr[i - base], indptr[i - base + 1]):
            rate = np.int64(rates[e])
            if (rate * t + rate) >> RATE_BITS == (rate * t) >> RATE_BITS:
                continue
            other_a, other_b = old[indices[e], 0], old[indices[e], 1]
            da, db = a - other_a, b - other_b
            factor = attract[_place(da * da + db * db)]
            a += step * _clipped(factor * da)
            b += step * _clipped(factor * db)
            x = _advanced(x)
            at = low + np.int64(((x >> np.uint64(32)) * span) >> np.uint64(32))
            push_a, push_b = np.float32(0), np.float32(0)
            for s in range(at, min(at + n_negative, high)):
                da, db = a - shuffled[s, 0], b - shuffled[s, 1]
                factor = repel[_place(da * da + db * db)]
                push_a += _clipped(factor * da)
                push_b += _clipped(factor * db)
            a += step * push_a
            b += step * push_b
            da, db = a - other_a, b - other_b
            factor = attract[_place(da * da + db * db)]
            a += step * _clipped(factor * da)
            b += step * _clipped(factor * db)
        new[i, 0], new[i, 1] = a, b


@nb.njit(nogil=True, cache=True)
def scatter(values, rank, begin, end, out):  # type: ignore[no-untyped-def]
    """Write rows ``begin`` to ``end`` to the rows of ``out`` that ``rank`` names."""
    for i in range(begin, end):
        for d in range(values.shape[1]):
            out[rank[i], d] = values[i, d]


@nb.njit(nogil=True, cache=True)
def count_edges(indptr, weights, order, least, begin, end, sizes):  # type: ignore[no-untyped-def]
    """Count the edges of at least ``least`` of the nodes at ``order[begin:end]``."""
    for i in range(begin, end):
        row = order[i]
        for t in range(indptr[row], indptr[row + 1]):
            sizes[i] += weights[t] >= least


@nb.njit(nogil=True, cache=True)
def copy_edges(indptr, indices, weights, order, rank, least, heaviest, begin, end, out_indptr, out_indices, rates):  # type: ignore[no-untyped-def]
    """Copy edges of at least ``least`` in a new order of nodes, weights as rates."""
    for i in range(begin, end):
        row = order[i]
        place = out_indptr[i]
        for t in range(indptr[row], indptr[row + 1]):
            if weights[t] >= least:
                out_indices[place] = rank[indices[t]]
                rates[place] = min(65535, np.int64(weights[t] / heaviest * 65536.0 + 0.5))
                place += 1
