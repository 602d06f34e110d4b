"""The rules of groups.py: one test for each line of its table and each choice; commands in messages are run."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_dask as sd
from sc_dask import groups
from sc_dask.errors import InputError
from sc_dask.groups import Name

N = 6
CATEGORIES = ["b", "c10", "c2", "z"]
# type of column -> values, names in "sorted" order, names in "natural" order, code of each row in "sorted" order
TABLE: dict[str, tuple[Any, list[str], list[str], list[int]]] = {
    "category": (
        pd.Categorical(["c10", "b", "c2", "b", "c2", None], categories=CATEGORIES[:3]),
        ["b", "c10", "c2"],
        ["b", "c10", "c2"],
        [1, 0, 2, 0, 2, -1],
    ),
    "category in its own order": (
        pd.Categorical(["low", "high"] * 3, categories=["low", "high"], ordered=True),
        ["low", "high"],
        ["low", "high"],
        [0, 1] * 3,
    ),
    "category of numbers": (
        pd.Categorical([10, 2, 10, 2, 2, 2], categories=[10, 2]),
        ["10", "2"],
        ["10", "2"],
        [0, 1, 0, 1, 1, 1],
    ),
    "text": (["c10", "b", "c2", "b", "c2", ""], ["", "b", "c10", "c2"], ["", "b", "c2", "c10"], [2, 1, 3, 1, 3, 0]),
    "text of pandas": (
        pd.array(["c10", "b", "c2", None, "c2", "nan"], dtype="string"),
        ["b", "c10", "c2", "nan"],
        ["b", "c2", "c10", "nan"],
        [1, 0, 2, -1, 2, 3],
    ),
    "text and missing": (
        np.array(["c10", None, "c2", np.nan, "c2", pd.NA], object),
        ["c10", "c2"],
        ["c2", "c10"],
        [0, -1, 1, -1, 1, -1],
    ),
    "text and other things": (
        np.array(["b", True, None, 1, np.nan, "b"], object),
        ["1", "True", "b"],
        ["1", "True", "b"],
        [2, 1, -1, 0, -1, 2],
    ),
    "bool": ([True, False, True, True, True, True], ["False", "True"], ["False", "True"], [1, 0, 1, 1, 1, 1]),
    "one bool": ([True] * N, ["True"], ["True"], [0] * N),
    "bool with missing": (
        pd.array([True, False, None, True, True, True], dtype="boolean"),
        ["False", "True"],
        ["False", "True"],
        [1, 0, -1, 1, 1, 1],
    ),
    "object of bool": (
        np.array([True, False, None, True, True, True], object),
        ["False", "True"],
        ["False", "True"],
        [1, 0, -1, 1, 1, 1],
    ),
    "int": ([10, 9, -1, 10, 9, 9], ["-1", "9", "10"], ["-1", "9", "10"], [2, 1, 0, 2, 1, 1]),
    "int with missing": (
        pd.array([10, 9, None, 10, 9, 9], dtype="Int64"),
        ["9", "10"],
        ["9", "10"],
        [1, 0, -1, 1, 0, 0],
    ),
    "float": (
        [10.0, 9.5, np.nan, 10.0, 9.5, -1.0],
        ["-1.0", "9.5", "10.0"],
        ["-1.0", "9.5", "10.0"],
        [2, 1, -1, 2, 1, 0],
    ),
    "nothing": (np.array([None] * N, object), [], [], [-1] * N),
}


def column(values: Any) -> pd.Series:
    return pd.Series(values, index=[f"cell{i}" for i in range(N)], name="kind")


@pytest.mark.parametrize("order", ["sorted", "natural"])
@pytest.mark.parametrize("kind", TABLE)
def test_table__names_codes_and_missing(kind: str, order: Any) -> None:
    values, by_code_point, natural, codes = TABLE[kind]
    found = groups.of_column(column(values), Name("kind"), missing="drop", order=order)
    expected = by_code_point if order == "sorted" else natural
    assert found.names == expected and [str(v) for v in found.values] == expected
    texts = [by_code_point[c] if c >= 0 else None for c in codes]
    assert [found.names[c] if c >= 0 else None for c in found.codes] == texts
    assert found.codes.dtype == np.int32 and found.n_missing == codes.count(-1)
    assert found.sizes.tolist() == [texts.count(n) for n in expected]
    assert [None if pd.isna(v) else str(v) for v in found.categorical()] == texts


@pytest.mark.parametrize("kind", TABLE)
def test_table__agrees_with_pandas(kind: str) -> None:
    values = column(TABLE[kind][0])
    found = groups.of_column(values, Name("kind"), missing="drop").categorical()
    if kind == "text and other things":  # pandas calls True and 1 the same
        values = values.map(str, na_action="ignore")
    expected = pd.Categorical(values).remove_unused_categories()
    assert found.ordered == expected.ordered
    assert list(found.categories) == list(expected.categories) and list(found.codes) == list(expected.codes)


@pytest.mark.parametrize("kind", TABLE)
def test_missing__refused_dropped_or_a_group_of_its_own(kind: str) -> None:
    values, names, _, codes = TABLE[kind]
    n_missing = codes.count(-1)
    own = groups.of_column(column(values), Name("kind"), missing="own group")
    assert own.codes.tolist() == [len(names) if c < 0 else c for c in codes]
    assert own.names == names and own.sizes.tolist() == [codes.count(g) for g in range(len(names))]
    if n_missing:
        first = f"'cell{codes.index(-1)}'"
        with pytest.raises(InputError, match=rf"obs\['kind'\] has {n_missing} missing values.*{first}.*next: adata = "):
            groups.of_column(column(values), Name("kind"), missing="refuse")
    else:
        assert groups.of_column(column(values), Name("kind"), missing="refuse").codes.tolist() == codes


def test_unused__dropped_kept_or_refused() -> None:
    values = column(pd.Categorical(["c2", "b", "c2", None, "b", "b"], categories=["z", *CATEGORIES[:3]]))
    dropped = groups.of_column(values, Name("kind"), missing="drop")
    assert dropped.names == ["b", "c2"] and dropped.codes.tolist() == [1, 0, 1, -1, 0, 0]
    kept = groups.of_column(values, Name("kind"), missing="own group", unused="keep")
    assert kept.names == ["z", "b", "c10", "c2"] and kept.codes.tolist() == [3, 1, 3, 4, 1, 1]
    assert kept.sizes.tolist() == [0, 3, 0, 2]
    with pytest.raises(InputError, match=r"groups of obs\['kind'\] without cells: z, c10; .*remove_unused_categories"):
        groups.of_column(values, Name("kind"), missing="drop", unused="refuse")


@pytest.mark.parametrize(
    "values",
    [[0.5] * N, np.float32([1, 2, 3, 1, 2, np.nan]), pd.array([0.5] * N, dtype="Float64"), [1j] * N, [0.5, None] * 3],
)
def test_floats__are_measurements_where_that_is_asked(values: Any) -> None:
    values = column(values if not isinstance(values, list) else np.array(values, object if None in values else None))
    with pytest.raises(InputError, match=r"obs\['kind'\] holds numbers of type .*kind_bins.* = pd.cut"):
        groups.of_column(values, Name("kind"), missing="drop", floats="refuse")
    assert len(groups.of_column(values, Name("kind"), missing="drop")) >= 1
    as_category = values.astype("category")
    assert len(groups.of_column(as_category, Name("kind"), missing="drop", floats="refuse")) >= 1


@pytest.mark.parametrize(
    "values",
    [np.array([1, "1", "b", 1, 1, 1], object), pd.Categorical([1, "1"] * 3), np.array([True, "True"] * 3, object)],
    ids=["object", "category", "bool and text"],
)
def test_names__two_groups_of_one_name_are_refused(values: Any) -> None:
    with pytest.raises(InputError, match=r"two groups of obs\['kind'\] are called '(1|True)'.*astype\(str\)"):
        groups.of_column(column(values), Name("kind"), missing="drop")


def test_bounds__of_groups_and_cells() -> None:
    values = column(["a", "a", "b", "b", "b", "c"])
    with pytest.raises(InputError, match=r"obs\['kind'\] has 3 groups: a, b, c; expected at most 2"):
        groups.of_column(values, Name("kind"), missing="drop", max_groups=2)
    with pytest.raises(InputError, match=r"obs\['kind'\] has 1 group\(s\): a; expected at least 2"):
        groups.of_column(column(["a"] * N), Name("kind"), missing="drop", min_groups=2)
    with pytest.raises(
        InputError, match=r"fewer than two cells: c; expected at least two .*obs\['kind'\]; next: adata"
    ):
        groups.of_column(values, Name("kind"), missing="drop", min_cells=2)
    found = groups.of_column(values, Name("kind"), missing="drop")
    found.check_sizes(2, of=[0, 1])
    with pytest.raises(InputError, match="fewer than 3 cells: a; expected at least 3"):
        found.check_sizes(3, of=[1, 0])


def test_messages__of_many_groups_stay_short() -> None:
    many = pd.Series([f"barcode{i}" for i in range(20_000)])
    with pytest.raises(InputError, match=r"has 20000 groups: barcode0, .*, \.\.\.; expected at most 10000") as error:
        groups.of_column(many, Name("kind"), missing="drop")
    assert len(str(error.value)) < 300
    with pytest.raises(InputError, match=r"fewer than two cells: barcode0, .*, \.\.\.;") as error:
        groups.of_column(many, Name("kind"), missing="drop", max_groups=None, min_cells=2)
    assert len(str(error.value)) < 300


COMMANDS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "missing": (["a", "b", None, "a", "b", "b"], {"missing": "refuse"}, 5),
    "missing in a category": (pd.Categorical(["a", "b", None, "a", "b", "b"]), {"missing": "refuse"}, 5),
    "small": (["a", "a", "b", "b", "c", "d"], {"missing": "drop", "min_cells": 2}, 4),
    "small of a category": (pd.Categorical(["a", "a", "b", "b", "c", "d"]), {"missing": "drop", "min_cells": 2}, 4),
    "unused": (pd.Categorical(["a", "b"] * 3, categories=["a", "b", "c"]), {"missing": "drop", "unused": "refuse"}, 6),
    "no name": (pd.Categorical(["a", ""] * 3), {"missing": "drop", "empty_name": "refuse"}, 6),
    "no name of text": (["a", "", *"bcde"], {"missing": "drop", "empty_name": "refuse"}, 6),
}


@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy obs"])
@pytest.mark.parametrize("kind", COMMANDS)
def test_commands__do_what_they_say(kind: str, lazy: bool, tmp_path: Any) -> None:
    values, choices, n_left = COMMANDS[kind]
    adata = ad.AnnData(np.eye(N, dtype=np.float32), obs=column(values).to_frame())
    if lazy:
        sd.write(adata, tmp_path / "x.zarr")
        adata = sd.read(tmp_path / "x.zarr", lazy_obs=True)
    with pytest.raises(InputError) as error:
        sd.get.groups(adata, "kind", **choices)
    scope = {"adata": adata, "pd": pd, "sc_dask": sd}
    exec(str(error.value).split("; next: ")[1], scope)
    changed: Any = scope["adata"]
    assert changed.n_obs == n_left
    assert sd.get.groups(changed, "kind", **choices).n_missing == 0


def test_commands__of_numbers(tmp_path: Any) -> None:
    adata = ad.AnnData(np.eye(N, dtype=np.float32), obs=column(np.arange(N) / 3).to_frame())
    sd.write(adata, tmp_path / "x.zarr")
    for a in (adata, sd.read(tmp_path / "x.zarr", lazy_obs=True)):
        with pytest.raises(InputError) as error:
            sd.get.groups(a, "kind", missing="drop", floats="refuse")
        exec(str(error.value).split("; next: ")[1], {"adata": a, "pd": pd, "sc_dask": sd})
        assert len(sd.get.groups(a, "kind_bins", missing="drop", floats="refuse")) == 5


# anndata writes no objects of several types, and missing texts only to zarr or as categories
UNWRITTEN = ("text and other things", "object of bool", "nothing")
WRITTEN = [(k, ".zarr") for k in TABLE if k not in UNWRITTEN]
WRITTEN += [(k, ".h5ad") for k in TABLE if k not in (*UNWRITTEN, "text of pandas", "text and missing")]


@pytest.mark.parametrize(("kind", "suffix"), WRITTEN)
def test_lazy_obs__has_the_groups_of_memory(kind: str, suffix: str, tmp_path: Any) -> None:
    adata = ad.AnnData(np.eye(N, dtype=np.float32), obs=column(TABLE[kind][0]).to_frame())
    path = tmp_path / f"x{suffix}"
    sd.write(adata, path)
    lazy = sd.get.groups(sd.read(path, lazy_obs=True), "kind", missing="drop")
    memory = sd.get.groups(sd.read(path), "kind", missing="drop")
    assert lazy.names == memory.names and lazy.codes.tolist() == memory.codes.tolist()
    assert lazy.is_category == memory.is_category and lazy.ordered == memory.ordered
    assert len(memory) == len(set(TABLE[kind][1]))
