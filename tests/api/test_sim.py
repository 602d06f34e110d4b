"""Simulated networks: scanpy's numbers, any number of cells, and rule files that say what is wrong with them."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pytest

import sc_dask as sd
from sc_dask.array.blocks import RowBlocks
from sc_dask.array.engine import run
from sc_dask.errors import FormatError, InputError, ScDaskWarning
from sc_dask.tl import networks

pytestmark = pytest.mark.filterwarnings("ignore:Observation names are not unique")
ALL: dict[str, Any] = {
    "params_file": False,
    "tmax": 20,
    "branching": False,
    "nrRealizations": 2,
    "noiseObs": 0,
    "noiseDyn": 0.01,
    "step": 3,
    "seed": 1,
}
HEAD = "# modelType = hill\n# invTimeStep = 0.1\n"


def written(tmp_path: Path, text: str, name: str = "mine") -> Path:
    path = tmp_path / f"{name}.txt"
    path.write_text(text)
    return path


# -- scanpy's ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["krumsiek11", "toggleswitch"])
def test_sim__gives_scanpys_numbers_to_the_last_decimal(model: str, golden_dir: Path) -> None:
    """The files are what scanpy wrote for the seed 0: a column of steps, then the genes."""
    expected = np.loadtxt(golden_dir / f"{model}.txt")
    found = sd.tl.sim(model)
    np.testing.assert_array_equal(found.X, expected[:, 1:].astype(np.float32))
    assert found.X.dtype == np.float32
    assert [int(n) for n in found.obs_names] == expected[:, 0].astype(int).tolist()
    assert dict(found.uns) == {"tmax_write": {"krumsiek11": 160.0, "toggleswitch": 100.0}[model], "iroot": 0}


def test_sim__options_and_seeds_are_scanpys_too(tmp_path: Path) -> None:
    import scanpy as sc

    options = {"tmax": 30, "noiseObs": 0.02, "noiseDyn": 0.005, "step": 4, "seed": 5, "nrRealizations": 3}
    expected = sc.tl.sim("toggleswitch", branching=False, writedir=tmp_path, **options)
    found = sd.tl.sim("toggleswitch", branching=False, **options)
    np.testing.assert_array_equal(found.X, expected.X)
    assert list(found.obs_names) == list(expected.obs_names) and list(found.var_names) == list(expected.var_names)
    assert found.uns == dict(expected.uns)


def test_sim__branches_end_in_different_states() -> None:
    found = sd.tl.sim("krumsiek11", seed=2)
    ends = found.X.reshape(4, 160, 11)[:, -1]
    assert found.var_names[0] == "Gata2"
    for a, b in itertools.combinations(ends, 2):
        assert np.partition(np.abs(a - b), -2)[-2] >= 0.25


def test_sim__more_branches_than_there_are_warn() -> None:
    with pytest.warns(ScDaskWarning, match="found 2 of 3 branches in 1003 realisations.*next: fewer"):
        found = sd.tl.sim("toggleswitch", nrRealizations=3, tmax=60)
    assert found.n_obs == 120


def test_sim__a_copy_of_a_shipped_rule_file_is_the_same(tmp_path: Path) -> None:
    for name in ("toggleswitch.txt", "toggleswitch_params.txt"):
        (tmp_path / name).write_text((networks.SHIPPED / name).read_text())
    np.testing.assert_array_equal(sd.tl.sim(tmp_path / "toggleswitch.txt").X, sd.tl.sim("toggleswitch").X)
    assert sd.tl.sim("toggleswitch.txt", tmax=9, branching=False).n_obs == 18


# -- any number of cells -------------------------------------------------------------------------


def test_sim__n_obs_is_lazy_and_the_same_however_it_is_cut() -> None:
    options: dict[str, Any] = {"n_obs": 1234, "tmax": 50, "step": 7, "noiseObs": 0.01, "seed": 3}
    found = sd.tl.sim("toggleswitch", **options)
    assert isinstance(found.X, RowBlocks) and found.shape == (1234, 2)
    assert found.obs["realization"].iloc[-1] == 1233 // 8 and found.obs["time"].max() == 49
    assert found.obs_names.is_unique and found.uns["iroot"] == 0
    x = run.materialise(found.X)
    with dask.config.set({"sc-dask.block-bytes": 300}):
        cut = sd.tl.sim("toggleswitch", **options)
    assert cut.X.expression.n_blocks > 30 and np.all(np.diff(cut.X.expression.bounds)[:-1] % 8 == 0)
    np.testing.assert_array_equal(run.materialise(cut.X), x)
    np.testing.assert_array_equal(cut.X.evaluator().evaluate(5, 131), x[5:131])
    np.testing.assert_array_equal(run.materialise(sd.tl.sim("toggleswitch", **options | {"n_obs": 100}).X), x[:100])
    other = run.materialise(sd.tl.sim("toggleswitch", **options | {"seed": 4}).X)
    assert not np.array_equal(other, x) and len(np.unique(x[::8], axis=0)) > 150


def test_sim__n_obs_has_scanpys_statistics() -> None:
    """Both genes fall together, then either wins; scanpy's realisations and ours agree in mean and spread."""
    many = run.materialise(sd.tl.sim("toggleswitch", n_obs=40_000).X).reshape(400, 100, 2)
    kept = sd.tl.sim("toggleswitch", nrRealizations=400, branching=False, seed=1).X.reshape(400, 100, 2)
    for t in (0, 5, 20, 99):
        np.testing.assert_allclose(
            np.sort(many[:, t], axis=1).mean(axis=0), np.sort(kept[:, t], axis=1).mean(axis=0), atol=0.02
        )
    won = (many[:, -1, 0] > many[:, -1, 1]).mean()
    assert 0.4 < won < 0.6


def test_sim__travels_to_workers() -> None:
    found = sd.tl.sim("toggleswitch", n_obs=300)
    again = pickle.loads(pickle.dumps(found.X))
    assert again.name == found.X.name != sd.tl.sim("toggleswitch", n_obs=300, noiseDyn=0.1).X.name
    np.testing.assert_array_equal(run.materialise(again), run.materialise(found.X))


def test_sim__writes_stores_side_by_side(tmp_path: Path) -> None:
    first = sd.tl.sim("toggleswitch", writedir=tmp_path / "out", tmax=10)
    second = sd.tl.sim("toggleswitch", writedir=tmp_path / "out", tmax=10, n_obs=35)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["sim_000000.zarr", "sim_000001.zarr"]
    np.testing.assert_array_equal(ad.read_zarr(tmp_path / "out" / "sim_000000.zarr").X, first.X)
    assert isinstance(second.X, RowBlocks) and second.uns["tmax_write"] == 10
    lazy = sd.tl.sim("toggleswitch", tmax=10, n_obs=35)
    np.testing.assert_array_equal(run.materialise(second.X), run.materialise(lazy.X))
    assert second.obs.equals(lazy.obs)


# -- rule files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "true"),
    [
        ("b and not c.1", [(1, 0)]),
        ("not (b or c.1)", [(0, 0)]),
        ("(b or c.1) and not (b and c.1)", [(0, 1), (1, 0)]),
        ("not b and b or c.1", [(0, 1), (1, 1)]),  # a gene named twice is one parent (scanpy counts it twice)
        ("b and c.1 and not b", []),
    ],
)
def test_rules__are_tables_of_what_is_true(tmp_path: Path, rule: str, true: list[tuple[int, int]]) -> None:
    text = f"{HEAD}a = {rule}\nb =\nc.1 = \n# coupling list:\na b 2\na c.1 -0.5\n"
    found = networks.read(written(tmp_path, text))
    assert found.genes == ("a", "b", "c.1") and found.network.parents.tolist() == [1, 2]
    assert [(p & 1, p >> 1) for p in found.network.patterns.tolist()] == true
    np.testing.assert_allclose(found.network.thresholds, [0.05, 0.2])
    assert found.network.parent_ptr.tolist() == [0, 2, 2, 2] and found.network.rate == 0.1


def test_rules__names_may_contain_the_words(tmp_path: Path) -> None:
    """scanpy takes ``or``, ``and`` and ``not`` out of names too: Gandor would become G."""
    text = f"{HEAD}Gandor = Gandor and not Notch\nNotch = \n# coupling list:\nGandor Gandor 1\nGandor Notch -1\n"
    found = sd.tl.sim(written(tmp_path, text), **ALL)
    assert list(found.var_names) == ["Gandor", "Notch"] and found.n_obs == 14


WRONG = {
    "a = a and\n# coupling list:\na a 1": "line 3: 'a and'",
    "a = a b\nb =\n# coupling list:\na a 1": "line 3: 'a b'; expected genes joined",
    "a = a or b": "'b' has none",
    "a = (a\n# coupling list:\na a 1": r"line 3: '\(a'; expected genes joined",
    "a = ()\n# coupling list:": r"line 3: '\(\)'",
    "a = a ( a )\n# coupling list:\na a 1": "expected genes joined by and, or, not",
    "a = __import__('os').system('x')": "has none",
    "a = not": "line 3: 'not'",
    "a = " + "(" * 4000 + "a" + ")" * 4000 + "\n# coupling list:\na a 1": "line 3",
    "a = a": "a line 'a a 1.0' in the coupling list",
    "a =\n# coupling list:\na a 1": "line 5: 'a a'; expected a coupling of a gene with what its rule names",
    "a =\na =": "line 4: 'a ='; expected gene = rule, each gene once",
    "just words": "line 3: 'just words'",
    "a = a\n# coupling list:\na a none": "line 5: 'a a none'; expected gene, parent and a strength",
    "a = a\n# coupling list:\na a 0": "a strength that is not 0",
    "": "has no rules",
    "x = " + " or ".join(f"g{i}" for i in range(13)) + "\n" + "\n".join(f"g{i} =" for i in range(13)): "at most 12",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda t: t[:20])
def test_rules__say_which_line_cannot_be_understood(tmp_path: Path, text: str) -> None:
    with pytest.raises(FormatError, match=WRONG[text]):
        sd.tl.sim(written(tmp_path, HEAD + text + "\n"), **ALL)


@pytest.mark.parametrize(
    ("head", "match"),
    [
        ("# modelType = var\n# invTimeStep = 1\n", "modelType 'var'; expected a line '# modelType = hill'"),
        ("# modelType = hill\n", "invTimeStep None"),
        ("# modelType = hill\n# invTimeStep = fast\n", "invTimeStep 'fast'"),
    ],
)
def test_rules__say_what_the_head_lacks(tmp_path: Path, head: str, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        sd.tl.sim(written(tmp_path, f"{head}a =\n"), **ALL)


def test_sim__says_what_is_wrong(tmp_path: Path) -> None:
    mine = written(tmp_path, f"{HEAD}a = a\n# coupling list:\na a 1\n")
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ("no_such", {}, "no rule file 'no_such'; expected a path, or one of: krumsiek11, toggleswitch"),
        (mine, {}, "mine_params.txt; expected the parameters beside the rule file; next: params_file=False"),
        (mine, {**ALL, "tmax": None}, "found no tmax"),
        (mine, {**ALL, "branching": True}, "branching=True with 1 gene"),
        ("toggleswitch", {"tmax": 0}, "tmax=0; expected a whole number, at least 1"),
        ("toggleswitch", {"step": 1.5}, "step=1.5"),
        ("toggleswitch", {"nrRealizations": True}, "nrRealizations=True"),
        ("toggleswitch", {"seed": -1}, "seed=-1; expected a whole number, at least 0"),
        ("toggleswitch", {"noiseDyn": -0.1}, "noiseDyn=-0.1; expected a number, at least 0"),
        ("toggleswitch", {"noiseObs": np.nan}, "noiseObs=nan"),
        ("toggleswitch", {"branching": "yes"}, "branching='yes'"),
        ("toggleswitch", {"n_obs": 0}, "n_obs=0"),
        ("toggleswitch", {"n_obs": 9, "nrRealizations": 2}, "n_obs together with nrRealizations or branching"),
        ("toggleswitch", {"n_obs": 9, "branching": True}, "n_obs together with"),
        ("toggleswitch", {"writedir": "s3://bucket/out"}, "a folder of this machine; next: sd.write"),
    ]
    for model, options, match in wrong:
        with pytest.raises(InputError, match=match):
            sd.tl.sim(model, **options)
