"""Branches of a process: groups of cells split where distances to two ends stop rising together (Haghverdi 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sc_dask.errors import InputError
from sc_dask.graph.diffusion import Distances
from sc_dask.kernels import kendall

_TOO_LATE = 0.95  # of a group before the split: nearly all of it rises together
_CONNECTED = 0.5  # of the distance between the tips of a group: another group's tip is this near

Indices = NDArray[np.intp]


@dataclass
class Branch:
    """A group of cells, its two ends, and whether it is what a split left undecided."""

    cells: Indices
    tips: Indices  # 2: cells
    undecided: bool = False


@dataclass(frozen=True)
class Branches:
    """Groups of cells, and the cells in the order of the groups and of pseudotime within each."""

    labels: NDArray[np.int32]  # n_obs
    n: int
    tips: Indices  # n x 2
    order: Indices  # n_obs
    changepoints: Indices  # where in the order a group begins
    shifted: bool  # a split was moved away from where it was found


@dataclass
class _Search:
    distances: Distances
    min_size: float
    allow_shift: bool
    branches: list[Branch] = field(default_factory=list)
    shifted: bool = False


def branches(
    distances: Distances,
    n_branchings: int,
    *,
    root: int | None,
    pseudotime: NDArray[np.float32] | None,
    min_size: float,
    allow_shift: bool,
) -> Branches:
    """Split the cells at up to ``n_branchings`` places, each into three branches and what is undecided between them.

    Parameters
    ----------
    root
        Where the process begins; None: at the first cell.
    pseudotime
        Orders the cells of each group; None: no order within groups.
    min_size
        Groups of no more cells are not split.
    allow_shift
        Move a split that would leave nearly nothing behind it.

    Memory: 4 bytes a cell for every cell that was an end of a group (some ten a branching), 60 bytes a cell of the
    group that is split. Time grows with ``n_obs * log(n_obs)**2``.

    Raises
    ------
    InputError
        A group has too few cells to be split, or a branch would have none.
    """
    everything = np.arange(distances.n)
    far = int(np.argmax(distances[0 if root is None else root]))
    start = Branch(everything, np.array([far, np.argmax(distances[far])]), undecided=True)
    search = _Search(distances, min_size, allow_shift, [start])
    for _ in range(n_branchings):
        found = _widest(search)
        if found is None:
            break
        at, tips = found
        trunk, rest = _split(search, search.branches[at], tips)
        search.branches[at] = trunk
        search.branches += rest
    return _ordered(search, pseudotime)


def _widest(search: _Search) -> tuple[int, Indices] | None:
    """Return the group that is least like a line between its tips, and three tips; None if all are too small."""
    scores = np.zeros(len(search.branches))
    tips: list[Indices] = [np.empty(0, np.intp)] * len(search.branches)
    for i, branch in enumerate(search.branches):
        # a tip among the undecided cells belongs to no branch: there is nothing to split it from
        if not np.isin(branch.tips, branch.cells).all():
            continue
        found = _third_tip(search, i)
        if found is not None:
            score, tips[i] = found
            scores[i] = 0 if branch.cells.size <= search.min_size else score
    best = int(np.argmax(scores))
    return None if scores[best] == 0 else (best, tips[best])


def _third_tip(search: _Search, i: int) -> tuple[float, Indices] | None:
    d, branch = search.distances, search.branches[i]
    one, two = branch.tips
    both = d[one][branch.cells] + d[two][branch.cells]
    if not np.isfinite(both).any():
        return None
    third = branch.cells[np.argmax(both)]
    if branch.undecided and _touches_another(search, i):
        both += d[third][branch.cells]
        fourth = branch.cells[np.argmax(both)]
        with np.errstate(invalid="ignore"):
            if fourth not in (one, third):
                two = fourth
                both -= d[two][branch.cells]
            else:
                both -= d[third][branch.cells]
    tips = np.array([one, two, third])
    with np.errstate(invalid="ignore", divide="ignore"):
        score = both[np.searchsorted(branch.cells, third)] / d[one][two]
    return float(score), tips


def _touches_another(search: _Search, i: int) -> bool:
    """Tell whether the inner tip of another group is near a tip of this one."""
    d, tips = search.distances, search.branches[i].tips
    inner = [b.tips[1] for j, b in enumerate(search.branches) if j != i]
    return any(d[other][tip] < _CONNECTED * d[tips[1 - k]][tip] for other in inner for k, tip in enumerate(tips))


def _split(search: _Search, branch: Branch, tips: Indices) -> tuple[Branch, list[Branch]]:
    """Return the trunk of a group and the branches that leave it."""
    cells, d = branch.cells, search.distances
    if cells.size < 2 * kendall.MIN_LENGTH + 2:
        raise InputError(
            f"found a group of {cells.size} cells to split",
            f"at least {2 * kendall.MIN_LENGTH + 2}",
            "use a larger min_group_size, or fewer n_branchings",
        )
    times = np.zeros(cells.size, np.int8)
    heads = [_head(search, cells, np.roll(tips, -k)) for k in range(3)]
    for head in heads:
        times[head] += 1
    parts = []
    for tip, head in zip(tips, heads, strict=True):
        mine = cells[np.sort(head[times[head] == 1])]
        if mine.size == 0:
            raise InputError(
                "found a branch without cells of its own",
                "three ends that differ",
                "use fewer n_branchings, or a larger n_neighbors in pp.neighbors",
            )
        parts.append(Branch(mine, np.array([tip, mine[np.argmax(d[tip][mine])]])))
    undecided = cells[times > 1]
    if undecided.size:
        one = undecided[np.argmax(d[undecided[0]][undecided])]
        two = undecided[np.argmax(d[one][undecided])]
        return Branch(undecided, np.array([one, two]), undecided=True), parts
    trunk = _central(d, parts)
    parts[trunk].undecided = branch.undecided
    return parts[trunk], [p for k, p in enumerate(parts) if k != trunk]


def _head(search: _Search, cells: Indices, tips: Indices) -> Indices:
    """Return the cells near the first tip, up to where distances to the other two stop rising together."""
    d = search.distances
    order = np.argsort(d[tips[0]][cells])
    at = kendall.split(d[tips[1]][cells][order], d[tips[2]][cells][order])
    if at > _TOO_LATE * order.size and search.allow_shift:
        search.shifted = True
        return order[: int(_TOO_LATE * at)]
    return order[: at + 1]


def _central(d: Distances, parts: Sequence[Branch]) -> int:
    """Return which of three branches lies between the other two."""
    nearest = {
        (i, j): parts[j].cells[np.argmin(d[parts[i].tips[0]][parts[j].cells])]
        for i in range(3)
        for j in range(3)
        if i != j
    }
    between = {(i, j): d[nearest[j, i]][nearest[i, j]] for i, j in ((0, 1), (0, 2), (1, 2))}
    added = [np.float64(sum(between[min(i, j), max(i, j)] for j in range(3) if j != i)) for i in range(3)]
    return int(np.argmin(added))


def _ordered(search: _Search, pseudotime: NDArray[np.float32] | None) -> Branches:
    found = search.branches
    labels = np.zeros(search.distances.n, np.int8 if len(found) < 128 else np.int32)
    for i, branch in enumerate(found):
        labels[branch.cells] = i
    tips = np.array([b.tips for b in found])
    order = np.argsort(labels)  # not stable, as in scanpy: without a pseudotime its order shows
    changepoints = np.flatnonzero(np.diff(labels[order]) == 1) + 1
    if pseudotime is not None:
        tips = np.array([t[np.argsort(pseudotime[t])] for t in tips])
        for branch in found:  # not by label: a cell near none of three ends has the label 0 and is in no branch
            mine = np.isin(order, branch.cells)
            order[mine] = order[mine][np.argsort(pseudotime[order[mine]])]
    return Branches(labels.astype(np.int32), len(found), tips, order, changepoints, search.shifted)
