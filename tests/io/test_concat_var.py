"""``sd.concat(axis="var")`` is ``anndata.concat``, with a lazy X: genes beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.errors import InputError
from sc_dask.io.read import read


def made(n_vars: int, cells: list[int], seed: int, *, kind: Any = sp.csr_matrix, dtype: str = "float32") -> ad.AnnData:
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.7, (len(cells), n_vars)).astype(dtype)
    batch = pd.Categorical(list("ab" * 60)[: len(cells)])
    obs = pd.DataFrame({"batch": batch, f"own{seed}": rng.normal(size=len(cells))})
    obs.index = pd.Index([f"c{i:03}" for i in cells])
    var = pd.DataFrame({"score": rng.normal(size=n_vars)}, index=[f"g{seed}_{i}" for i in range(n_vars)])
    adata = ad.AnnData(kind(x), obs=obs, var=var, obsm={"X_pca": rng.normal(size=(len(cells), 2))})
    adata.layers["counts"] = kind(x * 2)
    adata.varm["PCs"] = rng.normal(size=(n_vars, 3))
    adata.obsp["g"] = sp.identity(len(cells), format="csr")
    adata.varp["v"] = sp.identity(n_vars, format="csr")
    adata.uns["same"] = 1
    return adata


def dense(x: Any) -> np.ndarray:
    x = x.to_memory() if isinstance(x, RowBlocks) else x
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def check_equal(found: ad.AnnData, wanted: ad.AnnData) -> None:
    assert isinstance(found.X, RowBlocks)
    np.testing.assert_array_equal(dense(found.X), dense(wanted.X))
    assert sp.issparse(found.X.to_memory()) == sp.issparse(wanted.X)
    pd.testing.assert_frame_equal(found.obs, wanted.obs)
    pd.testing.assert_frame_equal(found.var, wanted.var)
    for slot in ("obsm", "varm", "obsp", "varp"):
        mine, theirs = dict(getattr(found, slot)), dict(getattr(wanted, slot))
        assert list(mine) == list(theirs)
        for key in mine:
            np.testing.assert_array_equal(dense(mine[key]), dense(theirs[key]))
    assert sorted(k for k in found.layers if k) == sorted(k for k in wanted.layers if k)
    for key in (k for k in found.layers if k):
        np.testing.assert_array_equal(dense(found.layers[key]), dense(wanted.layers[key]))
    assert dict(found.uns) == dict(wanted.uns)


SAME, FEWER, OTHERS = list(range(100)), list(range(10, 95, 2)), list(range(5, 110))
LISTS = {"same": (SAME, SAME), "fewer": (SAME, FEWER), "others": (SAME, OTHERS), "apart": (SAME, list(range(100, 130)))}
CHOICES: list[dict[str, Any]] = [
    {},
    {"merge": "same", "uns_merge": "same"},
    {"merge": "unique", "label": "kind", "keys": ["rna", "adt"], "index_unique": "-"},
    {"merge": "first", "pairwise": True},
    {"fill_value": 3},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kinds", [(sp.csr_matrix, sp.csr_matrix), (np.asarray, np.asarray), (sp.csr_matrix, np.asarray)]
)
@pytest.mark.parametrize("join", ["inner", "outer"])
@pytest.mark.parametrize("cells", LISTS)
def test_concat__is_anndatas(cells: str, join: str, kinds: Any, tmp_path: Path) -> None:
    parts = [made(n, c, i, kind=k) for i, (n, c, k) in enumerate(zip((12, 5), LISTS[cells], kinds, strict=True))]
    lazy = []
    for i, part in enumerate(parts):
        part.write_zarr(tmp_path / f"{i}.zarr")
        lazy.append(read(tmp_path / f"{i}.zarr", block_bytes=200))
    for options in CHOICES:
        wanted = ad.concat(parts, axis="var", join=join, **options)
        check_equal(sd.concat(lazy, axis="var", join=join, **options), wanted)
        check_equal(sd.concat(parts, axis=1, join=join, **options), wanted)


def test_concat__blocks_are_cut_as_before(tmp_path: Path) -> None:
    parts = [made(8, SAME, 0), made(3, SAME, 1)]
    for i, part in enumerate(parts):
        part.write_zarr(tmp_path / f"{i}.zarr")
    lazy = [read(tmp_path / f"{i}.zarr", block_bytes=b) for i, b in enumerate((300, 10_000))]
    found = sd.concat(lazy, axis="var")
    assert found.X.numblocks[0] == lazy[0].X.numblocks[0] > 3
    chosen = found[10:40:3, ["g1_2", "g0_5"]]
    wanted = ad.concat(parts, axis="var")[10:40:3, ["g1_2", "g0_5"]]
    np.testing.assert_array_equal(dense(chosen.X), dense(wanted.X))
    sd.pp.log1p(found)
    sd.write(found, tmp_path / "both.zarr")
    logged = np.log1p(dense(ad.concat(parts, axis=1).X))
    np.testing.assert_allclose(dense(ad.read_zarr(tmp_path / "both.zarr").X), logged)


def test_concat__genes_of_a_model_are_padded(tmp_path: Path) -> None:
    """What is done before a model of other genes: add those that lack, as zeros, and put all in its order."""
    query = made(6, SAME, 0)
    query.write_zarr(tmp_path / "q.zarr")
    model = ["new1", "g0_3", "g0_1", "new2"]
    zeros = sp.csr_matrix((100, 2), dtype=np.float32)
    lacking = ad.AnnData(zeros, obs=query.obs[[]], var=pd.DataFrame(index=["new1", "new2"]))
    both = sd.concat([sd.read(tmp_path / "q.zarr"), lacking], axis="var", merge="first")
    found = both[:, model]
    wanted = ad.concat([query, lacking], axis="var", merge="first")[:, model]
    np.testing.assert_array_equal(dense(found.X), dense(wanted.X))
    assert list(found.var_names) == model


def test_concat__types_and_refusals(tmp_path: Path) -> None:
    parts = [made(4, SAME, 0, dtype="uint8"), made(4, SAME, 1, dtype="float64")]
    assert sd.concat(parts, axis=1).X.dtype == np.float64
    turned = made(4, SAME[::-1], 2)
    turned.write_zarr(tmp_path / "t.zarr")
    wanted = ad.concat([parts[1], turned], axis=1)
    check_equal(sd.concat([parts[1], turned], axis=1), wanted)  # in memory
    with pytest.raises(InputError, match=r"another order.*sd\.write\(adatas\[1\]\[order\]"):
        sd.concat([parts[1], tmp_path / "t.zarr"], axis=1)
    sd.write(sd.read(tmp_path / "t.zarr")[parts[1].obs_names], tmp_path / "right.zarr")  # as it says
    check_equal(sd.concat([parts[1], tmp_path / "right.zarr"], axis=1), wanted)
    twice = made(4, [*SAME[:-1], 0], 3)
    with pytest.raises(InputError, match=r"obs_names of '1' repeat 'c000'.*obs_names_make_unique"):
        sd.concat([parts[0], twice], axis=1)
    with pytest.raises(InputError, match="axis='genes'"):
        sd.concat(parts, axis="genes")  # type: ignore[arg-type]
