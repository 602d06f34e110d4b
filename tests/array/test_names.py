"""Names of lazy matrices: they hold everything that decides a value, known or still to be found."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import sc_dask as sd
from sc_dask.array import normalize, qc
from sc_dask.array.blocks import RowBlocks, map_rows
from sc_dask.array.engine import run
from sc_dask.testing import CountingSource, from_source
from tests.laws.registry import counts

N_OBS, N_VARS = 12, 6
RNG = np.random.default_rng(0)
SOURCE = CountingSource(sp.csr_matrix(RNG.poisson(1.5, (N_OBS, N_VARS)).astype(np.float32)))
BOUNDS = np.array([0, 5, 6, N_OBS])
WEIGHTS = RNG.random((3, N_OBS))


def weighed(block: Any, weights: np.ndarray) -> Any:
    return sp.csr_matrix(block.multiply(weights[: block.shape[0], None]))


def values(x: RowBlocks) -> np.ndarray:
    return run.materialise(x).toarray()


OPS = ["qc", "normalise", "normalise less", "log", "weigh", "rows", "fewer rows", "cols", "fewer cols", "read"]


def made(ops: list[str]) -> RowBlocks:
    x = from_source(SOURCE, BOUNDS)
    for op in ops:
        n_obs, n_vars = x.shape
        if op == "qc":
            qc.cell_statistics(x)
        elif op.startswith("normalise"):
            x = normalize.normalize(x, normalize.totals_of(x), 10 if op == "normalise" else 7)
        elif op == "log":
            x = normalize.log1p(x, None)
        elif op == "weigh":
            x = map_rows(weighed, x, WEIGHTS[0, :n_obs], columnwise=True)
        elif op == "rows":
            x = x[:: 2 if n_obs > 4 else 1]
        elif op == "fewer rows":
            x = x[1:] if n_obs > 2 else x
        elif op == "cols":
            x = x[:, [i for i in range(n_vars) if i != 1]]
        elif op == "fewer cols":
            x = x[:, : max(2, n_vars - 1)]
        else:
            values(x)  # sums that steps lacked are known from now on
    return x


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(OPS), max_size=6), st.lists(st.sampled_from(OPS), max_size=6))
def test_names__equal_names_are_equal_values(one: list[str], other: list[str]) -> None:
    a, b = made(one), made(other)
    if a.name == b.name:
        assert a.dtype == b.dtype
        np.testing.assert_allclose(values(a), values(b), rtol=1e-6)
    elif one == other:
        raise AssertionError("the same steps have two names")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(OPS), min_size=1, max_size=6), st.data())
def test_names__do_not_change_when_sums_become_known(ops: list[str], data: st.DataObject) -> None:
    x = made(ops)
    name, token = x.name, x.expression.token()
    values(x)
    assert (x.name, x.expression.token()) == (name, token)
    kept = [op for op in ops if op != "qc"]
    if not any(op in ("cols", "fewer cols") for op in ops):  # a known sum lets a choice of genes move before its step
        assert made([op for op in kept if op != "read"]).name == name


def test_names__kernels_without_a_name_are_told_apart() -> None:
    x = from_source(SOURCE, BOUNDS)
    assert map_rows(lambda b: b * 2, x).name != map_rows(lambda b: b * 3, x).name


@pytest.mark.parametrize("known", [False, True])
def test_batch__a_full_and_a_filtered_anndata_of_one_file_get_their_own(tmp_path: Any, known: bool) -> None:
    """Their names were alike: means of the full one were 42 % off."""
    start = counts()
    x = start.X.toarray()
    x[:, 50:] = RNG.poisson(5, (start.n_obs, 10))
    sd.write(ad.AnnData(sp.csr_matrix(x), start.obs, start.var), tmp_path / "a.zarr")

    def opened(n_genes: int) -> ad.AnnData:
        adata = sd.read(tmp_path / "a.zarr")[:, :n_genes].copy()
        if known:
            sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
        sd.pp.normalize_total(adata, target_sum=1e4)
        sd.pp.log1p(adata)
        return adata

    def means(adata: Any, where: Any = sd) -> Any:
        return where.pp.highly_variable_genes(adata, n_top_genes=20, inplace=False)

    sizes = (60, 50)
    alone = [means(opened(n))["means"].to_numpy() for n in sizes]
    with sd.batch() as batch:
        together = [means(opened(n), batch) for n in sizes]
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(found.value["means"].to_numpy(), expected, rtol=1e-6)
