"""The merge law: every Reduction gives the same for any split of the rows and any order of merging."""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import sc_dask.array
from sc_dask.array import aggregate, combat, hvg, logistic, normalize, pearson, qc, regress_out, score
from sc_dask.array.blocks import Reduction
from sc_dask.array.gene_major import genes
from sc_dask.array.pca import components, gram, krylov
from sc_dask.kernels.regress_out import correct
from sc_dask.testing import count_matrices, row_bounds

RTOL = 1e-9
N_GROUPS = 3


@dataclass(frozen=True)
class Merge:
    """A Reduction with its row vectors and constants for a matrix; ``scans`` if a block gives rows too."""

    reduction: Reduction[Any, Any]
    rows: Callable[[Any], tuple[np.ndarray, ...]] = lambda x: ()
    const: Callable[[Any], dict[str, Any]] = lambda x: {}
    scans: bool = False
    sparse_only: bool = False


def groups(x: Any) -> tuple[np.ndarray, ...]:
    return ((np.arange(x.shape[0]) * 7 % (N_GROUPS + 1) - 1).astype(np.int32),)  # -1: in no group


def shift(x: Any) -> dict[str, Any]:
    p = x.shape[1]
    return {"levels": np.ones((1, p)), "coefficients": np.empty((0, p)), "factor": np.full(p, 0.5), "high": 10.0}


def basis(x: Any) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(x.shape[1], 2))


MERGES = {
    "qc.POSITIVE_CELLS": Merge(qc.POSITIVE_CELLS),
    "qc.GENES": Merge(qc.GENES),
    "qc.CELLS_AND_GENES": Merge(
        qc.CELLS_AND_GENES,
        const=lambda x: {"qc_masks": np.arange(x.shape[1])[None, :] % 2 == 0, "percent_top": (1,)},
        scans=True,
    ),
    "hvg.MOMENTS": Merge(hvg.MOMENTS, groups, lambda x: {"n_groups": N_GROUPS}),
    "hvg.LOG_MOMENTS": Merge(
        hvg.LOG_MOMENTS,
        lambda x: (np.asarray(x.sum(axis=1), np.float64).ravel(), *groups(x)),
        lambda x: {"n_groups": N_GROUPS, "target_sum": 1e4, "base": None, "expm1": True, "expm1_base": None},
        sparse_only=True,
    ),
    "genes.GENE_BYTES": Merge(genes.GENE_BYTES),
    "logistic.LOSS": Merge(
        logistic.LOSS,
        groups,
        lambda x: {"coef": np.random.default_rng(0).normal(size=(N_GROUPS, x.shape[1] + 1)) / (1 + abs(x).sum())},
    ),
    "hvg.CLIPPED": Merge(hvg.CLIPPED, groups, lambda x: {"clip": np.full((N_GROUPS, x.shape[1]), 2.5)}),
    "gram.GRAM": Merge(gram.GRAM, const=lambda x: {"dtype": np.float64}),
    "gram.TILED_GRAM": Merge(
        gram.TILED_GRAM,
        lambda x: (np.empty((x.shape[0], 0)), np.zeros(x.shape[0], np.int32)),
        lambda x: {"step": correct, "options": shift(x), "dtype": np.float64},
    ),
    "regress_out.CROSS": Merge(
        regress_out.CROSS,
        lambda x: (np.arange(2.0 * x.shape[0]).reshape(-1, 2), (np.arange(x.shape[0]) % 3).astype(np.int32)),
        lambda x: {"n_levels": 3},
    ),
    "combat.PRODUCTS": Merge(
        combat.PRODUCTS,
        lambda x: (np.arange(2.0 * x.shape[0]).reshape(-1, 2), (np.arange(x.shape[0]) % 3).astype(np.int32)),
        lambda x: {"n_batches": 3},
    ),
    "score.TOTALS": Merge(score.TOTALS),
    "score.NAN_TOTALS": Merge(score.NAN_TOTALS),
    "score.LOG_TOTALS": Merge(
        score.LOG_TOTALS,
        lambda x: (np.asarray(x.sum(axis=1), np.float64).ravel(),),
        lambda x: {"target_sum": 1e4, "base": 2.0},
        sparse_only=True,
    ),
    "aggregate.SUMS": Merge(aggregate.SUMS, groups, lambda x: {"n_groups": N_GROUPS, "depth": 4}),
    "pearson.CHANGES": Merge(
        pearson.CHANGES,
        lambda x: (np.asarray(x.sum(axis=1), np.float64).ravel(), (np.arange(x.shape[0]) % 3).astype(np.int32)),
        lambda x: {"share": np.full((3, x.shape[1]), 0.1), "theta": 100.0, "clip": np.array([0.5, 2.0, 9.0])},
    ),
    "krylov.TIMES_GRAM": Merge(krylov.TIMES_GRAM, const=lambda x: {"basis": basis(x)}),
    "components.SCORES": Merge(
        components.SCORES,
        const=lambda x: {"basis": basis(x), "offset": np.array([1.0, -2.0]), "dtype": np.float64},
        scans=True,
    ),
    "normalize.ANY_CELL": Merge(
        normalize.ANY_CELL, lambda x: (np.asarray(x.sum(axis=1)).ravel(),), lambda x: {"max_fraction": 0.4}
    ),
}
SEQUENTIAL = {"incremental.FOLD"}  # never merged: blocks come in their order


def flat(state: Any) -> list[np.ndarray]:
    if hasattr(state, "__dataclass_fields__"):
        state = tuple(vars(state).values())
    if isinstance(state, tuple):
        return [leaf for part in state for leaf in flat(part)]
    return [np.asarray(state)]


def assert_same(a: Any, b: Any) -> None:
    for left, right in zip(flat(a), flat(b), strict=True):
        scale = float(np.abs(right[np.isfinite(right)]).max(initial=0)) if right.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(left, right, rtol=RTOL, atol=RTOL * scale)


def test_merge__knows_every_reduction() -> None:
    found = {
        f"{module.name.split('.')[-1]}.{name}"
        for module in pkgutil.walk_packages(sc_dask.array.__path__, "sc_dask.array.")
        for name, value in vars(import_module(module.name)).items()
        if isinstance(value, Reduction)
    }
    assert found == set(MERGES) | SEQUENTIAL


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("name", MERGES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_merge__any_split_and_order_gives_the_whole(name: str, dense: bool, data: st.DataObject) -> None:
    m = MERGES[name]
    if m.sparse_only and dense:
        return
    csr = data.draw(count_matrices())
    x = csr.toarray() if dense else csr
    vectors, const = m.rows(csr), m.const(csr)
    bounds = data.draw(row_bounds(x.shape[0]))
    parts = []
    for lo, hi in zip(bounds[:-1], bounds[1:], strict=True):
        block = x[lo:hi] if dense else canonical(x[lo:hi])
        parts.append((block, tuple(v[lo:hi] for v in vectors)))
    per_row, states = [], []
    for block, rows in parts:
        found = m.reduction.block(block, *rows, **const)
        if m.scans:
            per_row.append(found[0])
            found = found[1]
        states.append(found)
    whole = m.reduction.block(x, *vectors, **const)
    if m.scans:
        for i, leaf in enumerate(flat(whole[0])):
            np.testing.assert_allclose(np.concatenate([flat(p)[i] for p in per_row]), leaf, rtol=RTOL, atol=1e-300)
        whole = whole[1]
    before = copy.deepcopy(states)
    originals = list(states)
    while len(states) > 1:  # any tree
        i = data.draw(st.integers(0, len(states) - 2))
        states[i : i + 2] = [m.reduction.merge(states[i], states[i + 1])]
    assert_same(m.reduction.finalize(states[0]), m.reduction.finalize(whole))
    for kept, now in zip(before, originals, strict=True):
        assert all(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(flat(kept), flat(now), strict=True)
        )

    shuffled = data.draw(st.permutations(originals))  # any order is right, too
    state = shuffled[0]
    for other in shuffled[1:]:
        state = m.reduction.merge(state, other)
    assert_same(m.reduction.finalize(state), m.reduction.finalize(whole))

    if m.reduction.merge_inplace is not None:
        for a, b in zip(originals, originals[1:], strict=False):
            copied, in_place = m.reduction.merge(a, b), m.reduction.merge_inplace(*copy.deepcopy((a, b)))
            assert all(x.tobytes() == y.tobytes() for x, y in zip(flat(copied), flat(in_place), strict=True))

    if m.reduction.updated_copy is not None:
        state = originals[0]
        for block, rows in parts[1:]:
            state = m.reduction.updated_copy(state, block, *rows, **const)
        assert_same(m.reduction.finalize(state), m.reduction.finalize(whole))


def canonical(block: Any) -> Any:
    out = sp.csr_matrix(block)
    out.indices, out.indptr = out.indices.astype(np.int32), out.indptr.astype(np.int32)
    return out
