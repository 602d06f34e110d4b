"""Tasks of Dask's graphs, as far as we look into them."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from sc_dask.outside import dask as outside


def test_has_sparse_blocks__by_what_blocks_are() -> None:
    dense = da.ones((4, 3), chunks=(2, 3))
    assert not outside.has_sparse_blocks(dense)
    assert outside.has_sparse_blocks(dense.map_blocks(sp.csr_matrix))


@pytest.mark.parametrize("index", [np.s_[1:3], np.s_[[0, 3]], np.s_[:, [2, 0]], np.s_[:, 1:]], ids=str)
def test_slicing_tasks__of_slices_and_positions_alone(index: Any) -> None:
    x = da.from_array(np.arange(12).reshape(4, 3), chunks=(2, 3), name="below")
    found = x[index]
    tasks = outside.slicing_tasks(found.dask, [found.name])
    assert tasks is not None
    tasks |= {("below", i, 0): outside.data(np.arange(12).reshape(4, 3)[2 * i : 2 * i + 2]) for i in range(2)}
    keys = [(found.name, i, j) for i in range(found.numblocks[0]) for j in range(found.numblocks[1])]
    blocks = outside.run_here(tasks, keys)
    assert sum(b.size for b in blocks) == found.size and sum(b.sum() for b in blocks) == found.sum().compute()
    changed = found + 1
    assert outside.slicing_tasks(changed.dask, [changed.name]) is None
    mapped = x.map_blocks(lambda b: b)
    assert outside.slicing_tasks(mapped.dask, [mapped.name]) is None


def test_values_in__a_fused_task() -> None:
    marker = np.array([7])
    x = da.ones(4, chunks=4).map_blocks(lambda b, m: b * m, m=marker) + 1
    (optimised,) = dask.optimize(x)
    values = list(outside.values_in(optimised.dask[x.name, 0]))
    assert values


def test_fused__each_block_is_made_by_the_task_that_takes_it() -> None:
    x = da.ones((4, 2), chunks=(2, 2)) * 3
    steps = {("pass", i): (np.sum, (x.name, i, 0)) for i in range(2)}
    dsk: dict[Any, Any] = {**steps, "end": (sum, [("pass", 0), ("pass", 1)])}
    graph = outside.fused(x, dsk, steps)
    assert not [key for key in graph if isinstance(key, tuple) and key[0] == x.name]
    assert dask.get(graph, "end") == 24
