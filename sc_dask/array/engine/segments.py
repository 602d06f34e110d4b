"""The order in which the states of a reduction are put together: it hangs on the number of blocks alone.

Blocks are cut into segments of consecutive blocks. A segment is reduced block after block; the states of segments are
merged as a fixed tree. So a sum has the same rounding on any number of threads, processes and workers, and after a
task was run again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_SEGMENTS, _BLOCKS = 12, 4  # segments at least (where there are blocks), then blocks of a segment at most
_LONG_SEGMENTS, _LONG_BLOCKS = 128, 8  # the same of a long pass, whose scheduler should not see a task a block
FAN_IN = 16  # states merged one after the other at each level of the tree


def cut(n_blocks: int) -> np.ndarray:
    """Return the bounds of the segments (n_segments + 1 block numbers), for at least one block.

    Merging the states of two segments of a Gram matrix of 2,000 genes costs a quarter of a block's products (12 of
    45 ms), so segments have several blocks once there are enough of them to keep all threads busy.
    """
    size = max(1, min(n_blocks // _SEGMENTS, _BLOCKS), min(n_blocks // _LONG_SEGMENTS, _LONG_BLOCKS))
    return np.append(np.arange(0, n_blocks, size), n_blocks)


def merged(values: Sequence[T], merge: Callable[[T, T], T]) -> T:
    """Return all values merged by the fixed tree: `FAN_IN` neighbours in turn, then `FAN_IN` of what they gave.

    At most one value for each level waits for its neighbours where values come in their order.
    """
    level = list(values)
    while len(level) > 1:
        groups = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
        level = []
        for first, *others in groups:
            for other in others:
                first = merge(first, other)
            level.append(first)
    return level[0]


def states_held(n_blocks: int, n_workers: int) -> int:
    """Return how many states of a reduction are in memory at once while segments take about the same time.

    One for each worker and level of the tree, and one that waits for its neighbours.
    """
    n = n_segments = len(cut(n_blocks)) - 1
    levels = 0
    while n > 1:
        n = -(-n // FAN_IN)
        levels += 1
    return min(n_segments, n_workers + levels + 1) if levels else 1
