"""A lazy X is known again by its graph, whatever class it has lost on the way."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from distributed.protocol import deserialize, serialize

import sc_dask as sd
from sc_dask.array import qc
from sc_dask.array.blocks import RowBlocks, from_array
from sc_dask.array.engine import run
from sc_dask.array.layer import ForeignSource, layer_of
from sc_dask.testing import lazy, source_of
from tests.laws.registry import counts

N_OBS, N_VARS = 60, 8
DENSE = np.random.default_rng(0).poisson(0.7, (N_OBS, N_VARS)).astype(np.float32)
EVEN, SOME = np.flatnonzero(np.arange(N_OBS) % 2 == 0), np.array([1, 4, 6])


def plain(x: da.Array) -> da.Array:
    """The same graph as a Dask array of Dask's own class, as anndata 0.13 hands it back."""
    return da.Array(x.dask, x.name, x.chunks, meta=x._meta)


def make(kind: str = "sparse", n_blocks: int = 4) -> RowBlocks:
    return lazy(sp.csr_matrix(DENSE) if kind == "sparse" else DENSE, n_blocks)


def values(x: RowBlocks) -> np.ndarray:
    out = run.materialise(x)
    return out.toarray() if sp.issparse(out) else out


SAME: dict[str, Callable[[RowBlocks], da.Array]] = {
    "as it is": lambda x: x,
    "plain": plain,
    "its copy": lambda x: plain(x).copy(),
    "pickled": lambda x: pickle.loads(pickle.dumps(plain(x))),
    "pickled as it is": lambda x: pickle.loads(pickle.dumps(x)),
    "sent": lambda x: deserialize(*serialize(plain(x))),
    "optimised": lambda x: dask.optimize(plain(x))[0],
    "optimised as it is": lambda x: dask.optimize(x)[0],
}


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("n_blocks", [1, 4])
@pytest.mark.parametrize("how", SAME)
def test_known__the_whole(how: str, kind: str, n_blocks: int) -> None:
    x = make(kind, n_blocks)
    qc.cell_statistics(x)
    again = from_array(SAME[how](x))
    assert isinstance(again, RowBlocks) and again.name == x.name
    np.testing.assert_array_equal(again.known.rows["totals"], DENSE.sum(axis=1))
    assert ("pickled" in how or how == "sent") or again.known is x.known  # what is learnt of one is known of the other
    np.testing.assert_array_equal(values(again), DENSE)
    assert source_of(again).times_read().max() <= 2  # blocks of the source, none of a Dask graph upon it


PICKED: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "slice": (lambda x: x[10:40], np.s_[10:40]),
    "every second": (lambda x: x[::2], np.s_[::2]),
    "mask": (lambda x: x[np.arange(N_OBS) % 2 == 0], np.s_[::2]),
    "positions": (lambda x: x[EVEN], np.s_[EVEN]),
    "genes": (lambda x: x[:, SOME], np.s_[:, SOME]),
    "genes in another order": (lambda x: x[:, SOME[::-1]], np.s_[:, SOME[::-1]]),
    "slice of genes": (lambda x: x[:, 2:5], np.s_[:, 2:5]),
    "cells, then genes": (lambda x: x[EVEN][:, SOME], np.ix_(EVEN, SOME)),
    "cells twice": (lambda x: x[5:50][3:20], np.s_[8:25]),
    "one cell": (lambda x: x[7:8], np.s_[7:8]),
}


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("how", PICKED)
def test_known__a_selection_that_dask_made(how: str, kind: str) -> None:
    pick, index = PICKED[how]
    x = make(kind)
    qc.cell_statistics(x)
    picked = pick(plain(x))
    assert type(picked) is da.Array
    found = from_array(picked)
    assert not isinstance(found.expression.source, ForeignSource)
    np.testing.assert_array_equal(values(found), DENSE[index])
    if "gene" not in how:
        np.testing.assert_array_equal(found.known.rows["totals"], DENSE[index].sum(axis=1))
    qc.gene_statistics(found)
    assert "totals" in from_array(pick(plain(x))).known.cols  # remembered: the same selection, made again


@pytest.mark.parametrize(
    "changed",
    [
        lambda x: x + 1,
        lambda x: x.map_blocks(lambda b: b[:, ::-1]),
        lambda x: (x + 1)[:10],
        lambda x: x[:10] * 2,
        lambda x: x[[5, 3, 9]],
        lambda x: da.concatenate([x, x]),
        lambda x: x.T.T.rechunk((20, N_VARS)) * 1,
    ],
    ids=["sum", "blocks turned", "sum, then cells", "cells, then twice", "out of order", "twice", "turned"],
)
def test_known__nothing_else(changed: Callable[[Any], Any]) -> None:
    x = plain(make("dense"))
    found = from_array(changed(x))
    assert isinstance(found.expression.source, ForeignSource)
    np.testing.assert_array_equal(values(found), changed(da.from_array(DENSE, chunks=x.chunks)).compute())


def test_known__values_set_in_place_are_another_matrix() -> None:
    x = make("dense")
    copied = x.copy()
    copied[:3] = 0
    assert layer_of(copied) is None and layer_of(x) is not None
    expected = np.where(np.arange(N_OBS)[:, None] < 3, 0, DENSE)
    np.testing.assert_array_equal(values(from_array(copied)), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(copied)).compute(), expected)
    np.testing.assert_array_equal(copied[:5].compute(), expected[:5])
    np.testing.assert_array_equal(values(x), DENSE)


def test_known__no_more_selections_are_remembered_than_some() -> None:
    x = make()
    for i in range(30):
        from_array(plain(x)[i : i + 5])
    assert len(x.known.selections) <= 8


def to_components(adata: ad.AnnData, step: Callable[[ad.AnnData], ad.AnnData]) -> ad.AnnData:
    """Counts to components as tutorials write it; ``step`` is what happens to the AnnData between."""
    sd.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    adata = step(adata)
    sd.pp.filter_cells(adata, min_genes=20)
    adata = step(adata)
    sd.pp.filter_genes(adata, min_cells=3)
    adata = step(adata[adata.obs["total_counts"] > 0])
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    adata = step(adata)
    sd.pp.highly_variable_genes(adata, n_top_genes=30)
    adata = step(adata)
    sd.pp.pca(adata, n_comps=5)
    return adata


def as_plain(adata: ad.AnnData) -> ad.AnnData:
    out = adata.copy()
    if isinstance(out.X, da.Array):
        out.X = plain(out.X)
    return out


STEPS: dict[str, Callable[[ad.AnnData], ad.AnnData]] = {
    "nothing": lambda a: a,
    "copy": lambda a: a.copy(),
    "view and copy": lambda a: a[np.ones(a.n_obs, bool)].copy(),
    "view of genes and copy": lambda a: a[:, a.var_names.sort_values()][:, a.var_names].copy(),
    "plain Dask": as_plain,
    "plain Dask, picked": lambda a: as_plain(a)[5:].copy()[: a.n_obs - 8].copy(),
    "pickle": lambda a: pickle.loads(pickle.dumps(a)),
}


@pytest.mark.parametrize("how", STEPS)
def test_anndata__counts_to_components_in_three_reads(how: str) -> None:
    adata = lazy(counts(), 3)
    source = source_of(adata)
    with sd.log.stage("way") as s:
        found = to_components(adata, STEPS[how])
    most = 3 if how != "plain Dask, picked" else 4
    assert s.passes <= most, s.passes
    if how != "pickle":  # a pickled source counts for itself
        assert source.times_read().max() <= most
    alone = to_components(counts(), STEPS[how] if "picked" not in how else lambda a: a[5:][: a.n_obs - 8].copy())
    np.testing.assert_allclose(np.abs(found.obsm["X_pca"]), np.abs(alone.obsm["X_pca"]), atol=1e-3)
