"""One realisation of a gene-regulatory network: Boolean rules as Hill kinetics, step after step, with noise.

A gene is driven by the sum, over the on-off patterns of its parents for which its rule is true, of the product of
activating (on) and inhibiting (off) Hill functions of the parents (Wittmann et al. 2009, doi:10.1186/1752-0509-3-98),
and decays with its own level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Network:
    """A network as arrays; gene ``g`` has parents ``parent_ptr[g]:parent_ptr[g + 1]``, and patterns likewise."""

    parent_ptr: Array  # int64 (n_genes + 1)
    parents: Array  # int64: the gene that a parent is
    thresholds: Array  # float64: the level at which it is half on
    pattern_ptr: Array  # int64 (n_genes + 1)
    patterns: Array  # int64: bit j tells whether the gene's parent j is on
    rate: float  # what a unit of drive changes in one step

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.parent_ptr) - 1


def trajectory(network: Network, start: Array, noise: Array) -> Array:
    """Return the levels at every step.

    Parameters
    ----------
    network
        The network.
    start
        float64 (n_genes,): levels at the beginning.
    noise
        float64 (n_steps, n_genes): added in each step, the first to ``start``.

    Returns
    -------
    float64 (n_steps, n_genes).
    """
    out = np.array(noise)
    if len(out):
        out[0] = start + noise[0]
        n = network
        _advance(out, n.parent_ptr, n.parents, n.thresholds**2, n.pattern_ptr, n.patterns, n.rate)
    return out


@numba.njit(nogil=True, cache=True)
def _advance(
    out: Array,
    parent_ptr: Array,
    parents: Array,
    squares: Array,
    pattern_ptr: Array,
    patterns: Array,
    rate: float,
) -> None:
    """Fill the rows of ``out`` after the first; they hold their noise."""
    hill = np.empty((2, max(1, len(parents))))
    for t in range(1, out.shape[0]):
        before, now = out[t - 1], out[t]
        for k in range(len(parents)):
            square = before[parents[k]] * before[parents[k]]
            hill[0, k] = squares[k] / (square + squares[k])
            hill[1, k] = square / (square + squares[k])
        for g in range(out.shape[1]):
            first, last = parent_ptr[g], parent_ptr[g + 1]
            change = 0.0
            if last > first:
                drive = 0.0
                for p in range(pattern_ptr[g], pattern_ptr[g + 1]):
                    product = 1.0
                    for j in range(last - first):
                        product *= hill[(patterns[p] >> j) & 1, first + j]
                    drive += product
                change = rate * (drive - before[g])
            now[g] = (before[g] + change) + now[g]
