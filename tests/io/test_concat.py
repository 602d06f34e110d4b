"""What ``sd.concat`` gives is what ``anndata.concat`` gives of loaded copies, and nothing of X is read for it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import dask.array as da
import fsspec
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.experimental.backed import Dataset2D
from packaging.version import Version

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import InputError, ScDaskWarning
from sc_dask.outside.anndata import named_layers
from sc_dask.testing import compute_counter, lazy, source_of
from tests.io.cases import dense
from tests.stack import ANNDATA

pytestmark = pytest.mark.filterwarnings("ignore:Observation names are not unique")
GENES = [f"g{i}" for i in range(8)]


def sample(n: int, genes: list[str], seed: int, dtype: Any = np.float32, kind: Any = sp.csr_matrix) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    x = kind(rng.poisson(0.8, (n, len(genes))).astype(dtype))
    obs = pd.DataFrame(
        {
            "group": pd.Categorical(rng.choice(list("abcd")[: 2 + seed], n)),
            "score": rng.normal(size=n),
            "n": rng.integers(0, 9, n).astype(np.int32 if seed else np.int64),
            "good": rng.random(n) < 0.5,
            "text": np.array([f"t{i}" for i in range(n)], object),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    if seed == 1:
        obs["extra"] = np.arange(n)
        obs["yes"] = True
    var = pd.DataFrame({"symbol": [g.upper() for g in genes], "rank": np.arange(len(genes)) + seed}, index=genes)
    adata = ad.AnnData(x, obs, var)
    adata.layers["both"] = x.copy() * 2
    adata.layers[f"own{seed}"] = x.copy()
    adata.obsm["X_pca"], adata.obsm[f"own{seed}"] = rng.normal(size=(n, 2 + seed)), rng.normal(size=(n, 2))
    adata.obsm["frame"] = pd.DataFrame({"a": rng.normal(size=n), f"b{seed}": 1.0}, index=obs.index)
    adata.varm["ones"], adata.varm["rand"] = np.ones((len(genes), 2)), rng.normal(size=(len(genes), 2))
    adata.obsp["near"] = sp.random(n, n, 0.2, format="csr", random_state=seed)
    adata.uns |= {"same": {"a": 1, "b": seed}, f"own{seed}": [1, 2]}
    adata.raw = adata[:, : len(genes) - seed]
    return adata


SAMPLES: dict[str, Callable[[], list[ad.AnnData]]] = {
    "same genes": lambda: [sample(11, GENES, 0), sample(7, GENES, 1), sample(4, GENES, 2)],
    "other order and genes": lambda: [sample(11, GENES, 0), sample(7, GENES[:1:-1], 1, np.int32)],
    "dense": lambda: [sample(11, GENES, 0, kind=np.asarray), sample(7, [*GENES[2:], "z"], 1, np.int16, np.asarray)],
    "dense and sparse": lambda: [sample(5, GENES, 0, np.uint8, np.asarray), sample(6, ["z", *GENES], 1, np.int16)],
    "csc and no cells": lambda: [sample(5, GENES, 0, kind=sp.csc_matrix), sample(0, ["z", *GENES], 1)],
}
WORDS: tuple[dict[str, Any], ...] = (
    {},
    {"join": "outer", "label": "from", "merge": "same", "uns_merge": "unique"},
    {"index_unique": "-", "keys": None, "merge": "unique", "uns_merge": "same", "pairwise": True},
    {"join": "outer", "merge": "first", "uns_merge": "first", "fill_value": 0, "pairwise": True},
    {"join": "outer", "merge": "only", "uns_merge": "only", "fill_value": 1.5, "label": "from"},
    {"join": "outer", "fill_value": np.nan, "merge": lambda ds: {k: ds[0][k] for k in ds[0] if k != "rank"}},
)


ANNDATA_WIDENS = Version("0.13") <= ANNDATA


def assert_same(found: ad.AnnData, wanted: ad.AnnData) -> None:
    assert found.shape == wanted.shape
    for axis in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(found, axis), getattr(wanted, axis))
    layers, wanted_layers = dict(named_layers(found)), dict(named_layers(wanted))
    assert sorted(layers) == sorted(wanted_layers) and (found.raw is None) == (wanted.raw is None)
    pairs = [("X", found.X, wanted.X), *((k, layers[k], x) for k, x in wanted_layers.items())]
    if wanted.raw is not None:
        pairs.append(("raw", found.raw.X, wanted.raw.X))
        pd.testing.assert_frame_equal(found.raw.var, wanted.raw.var)
    for name, a, b in pairs:
        assert isinstance(a, RowBlocks), name
        values = a.compute(scheduler="sync")
        assert a.dtype == values.dtype and sp.issparse(values) == sp.issparse(b), name
        # anndata 0.13 makes float64 and int64 of dense matrices to which it adds columns
        widened = ANNDATA_WIDENS and not sp.issparse(b) and np.can_cast(a.dtype, b.dtype)
        assert a.dtype == b.dtype or widened, name
        np.testing.assert_array_equal(dense(values), dense(b), err_msg=name)
    for slot in ("obsm", "varm", "obsp"):
        assert sorted(getattr(found, slot)) == sorted(getattr(wanted, slot))
        for key, b in getattr(wanted, slot).items():
            a = getattr(found, slot)[key]
            assert type(a) is type(b)
            if isinstance(b, pd.DataFrame):
                pd.testing.assert_frame_equal(a, b)
            else:
                np.testing.assert_array_equal(dense(a), dense(b))
    assert json.dumps(found.uns, default=str) == json.dumps(wanted.uns, default=str)


# -- what anndata gives --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of pandas, about empty parts
@pytest.mark.parametrize("words", WORDS, ids=lambda w: " ".join(f"{k}={v}" for k, v in w.items() if k != "merge"))
@pytest.mark.parametrize("which", SAMPLES)
def test_concat__gives_what_anndata_gives(which: str, words: dict[str, Any]) -> None:
    expected = ad.concat(SAMPLES[which](), **words)
    assert_same(sd.concat(SAMPLES[which](), **words), expected)
    cut = [lazy(a, bounds=[0, a.n_obs // 3, a.n_obs]) for a in SAMPLES[which]()]
    with compute_counter() as counted:
        found = sd.concat(cut, **words)
    assert counted.n == 0 and all(source_of(a).rows_read == 0 for a in cut)
    assert_same(found, expected)


def test_concat__a_mapping_gives_the_keys_and_a_label_of_them() -> None:
    named = dict(zip("xyz", SAMPLES["same genes"](), strict=True))
    words = {"label": "from", "index_unique": "+"}
    assert_same(sd.concat(named, **words), ad.concat(named, **words))
    listed = list(named.values())
    assert_same(sd.concat(listed, keys=[3, 1, 2], **words), ad.concat(listed, keys=[3, 1, 2], **words))


def test_concat__without_x() -> None:
    without = [ad.AnnData(obs=a.obs, var=a.var) for a in SAMPLES["same genes"]()]
    found = sd.concat(without)
    assert found.X is None and found.obs.equals(ad.concat(without).obs)


def test_concat__names_that_repeat_are_told_of_once() -> None:
    with pytest.warns(UserWarning, match="Observation names are not unique") as told:
        sd.concat(SAMPLES["same genes"]())
    assert sum("Observation names" in str(w.message) for w in told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The '.*' option is deprecated")  # anndata's, of pandas 3
        sd.concat(SAMPLES["same genes"](), index_unique="-")


def test_concat__raw_of_some_only_is_told_of_and_dropped() -> None:
    some = SAMPLES["same genes"]()
    del some[1].raw
    with pytest.warns(ScDaskWarning, match="only some AnnData have raw"):
        assert sd.concat(some).raw is None


def test_concat__steps_and_picks_of_the_parts_stay() -> None:
    def prepared(adata: ad.AnnData) -> ad.AnnData:
        adata = adata[adata.obs["good"].to_numpy(), 1:].copy()
        sd.pp.normalize_total(adata, target_sum=100)
        sd.pp.log1p(adata)
        return adata

    cut = [prepared(lazy(a, 2)) for a in SAMPLES["other order and genes"]()]
    loaded = [prepared(a) for a in SAMPLES["other order and genes"]()]
    found = sd.concat(cut, join="outer")
    np.testing.assert_allclose(found.X.compute().toarray(), ad.concat(loaded, join="outer").X.toarray(), rtol=1e-6)


# -- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Zarr, h5ad, one in memory and one behind a URL; no test changes them."""
    folder = tmp_path_factory.mktemp("parts")
    a, b, c = SAMPLES["same genes"]()
    sd.write(a, folder / "a.zarr")
    b.write_h5ad(folder / "b.h5ad")
    sd.write(sample(9, GENES[::-1], 1), "memory://concat/d.zarr", overwrite=True)
    return [folder / "a.zarr", str(folder / "b.h5ad"), c, "memory://concat/d.zarr"]


def loaded() -> list[ad.AnnData]:
    return [*SAMPLES["same genes"](), sample(9, GENES[::-1], 1)]


def test_concat__of_files_of_all_kinds(files: list[Any]) -> None:
    found = sd.concat(files, join="outer", label="from", index_unique="-")
    assert_same(found, ad.concat(loaded(), join="outer", label="from", index_unique="-"))
    assert fsspec.filesystem("memory").exists("/concat/d.zarr")


@pytest.mark.parametrize("join", ["inner", "outer"])
@pytest.mark.parametrize("shard_bytes", [200, 64 << 20], ids=["many shards", "one shard"])
def test_concat__is_written_in_parallel_and_read_back(
    files: list[Any], tmp_path: Path, join: Any, shard_bytes: int
) -> None:
    found = sd.concat(files, join=join, label="from", index_unique="-")
    sd.write(found, tmp_path / "all.zarr", shard_bytes=shard_bytes)
    back, expected = ad.read_zarr(tmp_path / "all.zarr"), ad.concat(loaded(), join=join, label="from", index_unique="-")
    assert back.obs["from"].equals(expected.obs["from"]) and back.obs["score"].equals(expected.obs["score"])
    assert list(back.obs_names) == list(expected.obs_names) and list(back.var_names) == list(expected.var_names)
    np.testing.assert_array_equal(back.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(back.layers["both"].toarray(), expected.layers["both"].toarray())
    np.testing.assert_array_equal(back.raw.X.toarray(), expected.raw.X.toarray())


def test_concat__is_written_without_counting_where_no_gene_goes(files: list[Any], tmp_path: Path) -> None:
    found = sd.concat(files[:3], index_unique="-")
    del found.layers["both"], found.raw
    with compute_counter() as counted:
        sd.write(found, tmp_path / "all.zarr")
    assert counted.labels == ["write"]


def test_concat__does_not_overwrite_what_it_reads(files: list[Any]) -> None:
    found = sd.concat(files, index_unique="-")
    with pytest.raises(InputError, match="read lazily from .*a.zarr"):
        sd.write(found, files[0], overwrite=True)
    with pytest.raises(InputError, match="X is not read from"):
        sd.write(found, files[0], update=True)


def test_concat__on_a_cluster_of_processes(files: list[Any]) -> None:
    from distributed import Client, LocalCluster

    found = sd.concat([*files[:3], sample(9, GENES[::-1], 1)], join="outer", index_unique="-")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(processes=True, **options) as cluster, Client(cluster):
        sd.pp.calculate_qc_metrics(found, percent_top=None, inplace=True)
    sums = ad.concat(loaded(), join="outer").X.sum(axis=1)
    np.testing.assert_array_equal(found.obs["total_counts"], np.asarray(sums).ravel())


# -- lazy obs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_concat__a_lazy_obs_stays_lazy(files: list[Any], tmp_path: Path, join: Any) -> None:
    words = {"join": join, "label": "from", "index_unique": "-"}
    found = sd.concat([sd.read(f, lazy_obs=True) for f in (*files[:2], files[3])], **words)
    expected = ad.concat([loaded()[i] for i in (0, 1, 3)], **words)
    assert isinstance(found.obs, Dataset2D) and isinstance(found.var, pd.DataFrame)
    picked = found[expected.obs["from"].to_numpy() != "0"]
    for key in expected.obs:
        pd.testing.assert_series_equal(sd.get.column(found, key), expected.obs[key], check_names=False)
        kept = expected.obs[key][expected.obs["from"] != "0"]
        if isinstance(kept.dtype, pd.CategoricalDtype):
            kept = kept.cat.remove_unused_categories()
        pd.testing.assert_series_equal(sd.get.column(picked, key), kept, check_names=False)
    assert list(found.obs.to_memory().columns) == list(expected.obs.columns)
    sd.write(found, tmp_path / "all.zarr")
    pd.testing.assert_frame_equal(ad.read_zarr(tmp_path / "all.zarr").obs, expected.obs)


def test_concat__one_obs_in_memory_brings_all(files: list[Any]) -> None:
    found = sd.concat([sd.read(files[0], lazy_obs=True), files[2]], index_unique="-")
    assert found.obs.equals(ad.concat([loaded()[0], loaded()[2]], index_unique="-").obs)


# -- errors --------------------------------------------------------------------------------------


def test_concat__says_what_is_wrong_before_anything_is_read() -> None:
    a, b, _ = SAMPLES["same genes"]()
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, "nothing to concatenate; expected at least one"),
        (a, {}, "found one AnnData; expected a list"),
        ("a.zarr", {}, "found one str; expected a list"),
        ([a, 3], {}, "found a int as '1'; expected an AnnData, or a path"),
        ([a, b], {"axis": "genes"}, r"axis='genes'"),
        ([a, b], {"axis": "cells"}, "axis='cells'; expected 'obs'"),
        ([a, b], {"join": "left"}, "join='left'; expected 'inner' or 'outer'"),
        ([a, b], {"merge": "all"}, "merge='all'"),
        ([a, b], {"uns_merge": "all"}, "uns_merge='all'"),
        ([a, b], {"keys": ["x"]}, r"keys \['x'\] for 2 AnnData"),
        ([a, b], {"keys": ["x", "x"]}, "expected one for each, all different"),
        ({"x": a, "y": b}, {"keys": ["x", "y"]}, "keys together with a mapping"),
        ([a, b], {"fill_value": "none"}, "fill_value='none'; expected a number"),
        ([a, b], {"storage_options": {"anon": True}}, "storage_options and no URL"),
        ([a, ad.AnnData(obs=b.obs, var=b.var)], {}, "'1' has no X and others have one"),
    ]
    for adatas, words, match in wrong:
        with pytest.raises(InputError, match=match):
            sd.concat(adatas, **words)


def test_concat__gene_names_that_repeat() -> None:
    a = sample(5, GENES, 0)
    a.var_names = [*GENES[:-1], "g0"]
    with pytest.raises(InputError, match=r"var_names of 'y' repeat 'g0'.*var_names_make_unique"):
        sd.concat({"x": sample(5, GENES, 0), "y": a})


def test_concat__a_dask_array_made_elsewhere() -> None:
    a = ad.AnnData(da.from_array(np.ones((4, 3), np.float32), chunks=(2, 3)))
    with pytest.raises(InputError, match="made elsewhere.*next: sd.write"):
        sd.concat([a, a], index_unique="-")
