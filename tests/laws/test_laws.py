"""The laws (CONTRIBUTING.md), over the registry of all functions: lazy, passes, chunk, slot, signature, docstring."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sc_dask as sd
from sc_dask import slots
from sc_dask.array.blocks import RowBlocks
from sc_dask.array.gene_major import genes
from sc_dask.log import stage
from sc_dask.outside.anndata import named_layers
from sc_dask.testing import compute_counter, lazy, source_of
from tests.laws.compare import differ, differences, leaves, slots_of
from tests.laws.registry import (
    ABSENT,
    CASES,
    FIRST,
    KEEPING,
    MAKERS,
    N_OBS,
    N_VARS,
    OTHER_DEFAULTS,
    OURS,
    OWN,
    READING,
    Case,
    counts,
    public,
)

pytestmark = pytest.mark.filterwarnings("ignore::sc_dask.errors.ScDaskWarning")
RTOL = 1e-6
CUTS = {
    "one": [0, N_OBS],
    "many": list(range(N_OBS + 1)),
    "ragged": [0, 1, 40, 43, 89, N_OBS],
    "empty": [0, 0, 30, 30, 30, 77, N_OBS, N_OBS],
}
MEMORY = {"ndarray": lambda x: x.toarray(), "csr": sp.csr_matrix, "csc": sp.csc_matrix, "csr_array": sp.csr_array}


@functools.cache
def expected(case: Case, n_blocks: int = 4) -> ad.AnnData:
    """Return the result in one thread."""
    with dask.config.set(scheduler="synchronous", num_workers=1):
        return case.run(lazy(case.start(), n_blocks))


@pytest.fixture(autouse=True)
def no_copy_is_left() -> None:
    """A gene-major copy that another test has made would spare a pass."""
    genes.forget()


cases = functools.partial(pytest.mark.parametrize, "case", ids=lambda c: c.id)


def recast(adata: ad.AnnData, kind: Any) -> ad.AnnData:
    adata.X = kind(adata.X)
    for k, layer in list(named_layers(adata)):
        adata.layers[k] = kind(layer)
    return adata


# -- lazy and passes -----------------------------------------------------------------------------


def test_registry__has_every_public_function() -> None:
    assert {c.function for c in CASES} == set(public()) - MAKERS


@cases(argvalues=CASES)
@pytest.mark.parametrize("cut", ["one", "ragged"])
def test_lazy__computes_and_reads_no_more_than_declared(case: Case, cut: str) -> None:
    adata = lazy(case.start(), bounds=CUTS[cut])
    layer = case.kwargs.get("layer")
    source, spare = source_of(adata if layer is None else adata.layers[layer]), source_of(adata.layers["spare"])
    with compute_counter() as explained:
        passes = case.passes(adata)
    assert (explained.n, source.rows_read) == (0, 0)
    with compute_counter() as counted, stage("law") as s:
        case.run(adata)
    assert counted.n == case.computes
    assert source.times_read().tolist() == [passes] * N_OBS  # the loader's count
    assert spare.rows_read == (0 if layer is None else N_OBS * passes)
    assert s.passes == pytest.approx(passes)  # what a stage reports
    assert (s.bytes_read > 0) == (passes > 0)


@pytest.mark.parametrize("function", ["pp.normalize_total", "pp.log1p", "pp.regress_out", "pp.scale", "pp.combat"])
def test_lazy__normalising_keeps_x_lazy(function: str) -> None:
    for case in CASES:
        if case.function == function:
            adata = case.run(lazy(case.start()))
            assert isinstance(adata.X, RowBlocks)
            assert isinstance(adata.layers["spare"], RowBlocks)


# -- chunk ---------------------------------------------------------------------------------------


@cases(argvalues=READING)
@pytest.mark.parametrize("cut", CUTS)
def test_chunk__how_rows_are_cut_does_not_matter(case: Case, cut: str) -> None:
    got = case.run(lazy(case.start(), bounds=CUTS[cut]))
    assert differences(got, expected(case), 0 if case.exact else RTOL) == []


@cases(argvalues=READING)
@pytest.mark.parametrize("kind", MEMORY)
def test_chunk__memory_gives_the_same_and_stays_what_it_was(case: Case, kind: str) -> None:
    adata = recast(case.start(), MEMORY[kind])
    types = {None: type(adata.X), "spare": type(adata.layers["spare"])}
    if case.dense:
        types[case.kwargs.get("layer")] = np.ndarray
    with dask.config.set({"sc-dask.block-bytes": 1000}):
        got = case.run(adata)
    assert types == {None: type(got.X), "spare": type(got.layers["spare"])}
    assert differences(got, expected(case), RTOL) == []  # sums of dense rows are rounded in another order


@cases(argvalues=READING)
def test_chunk__lazy_dense_gives_the_same(case: Case) -> None:
    got = case.run(lazy(recast(case.start(), MEMORY["ndarray"]), bounds=CUTS["ragged"]))
    assert isinstance(got.X._meta, np.ndarray)
    assert differences(got, expected(case), RTOL) == []


# -- digits --------------------------------------------------------------------------------------


@cases(argvalues=CASES)
@pytest.mark.parametrize("n_threads", [2, 3, 5])
def test_digits__do_not_depend_on_threads(case: Case, n_threads: int) -> None:
    with dask.config.set(scheduler="threads", num_workers=n_threads):
        got = case.run(lazy(case.start(), 30))
        assert differences(got, expected(case, 30)) == []


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@cases(argvalues=[c for c in FIRST if c.reads])
def test_digits__do_not_depend_on_processes(case: Case, pool: ProcessPoolExecutor) -> None:
    with dask.config.set(scheduler="processes", pool=pool, num_workers=2), stage("law") as s:
        adata = lazy(case.start(), 30)
        passes = case.passes(adata)
        got = case.run(adata)
        assert s.passes == pytest.approx(passes)  # counted in the processes, where it is read
        assert differences(got, expected(case, 30)) == []


@pytest.fixture(scope="module")
def threads_client() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(processes=False, **options) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


@cases(argvalues=[c for c in FIRST if c.reads])
def test_digits__do_not_depend_on_a_cluster(case: Case, threads_client: Any) -> None:
    with threads_client.as_current(), dask.config.set(scheduler=threads_client):
        got = case.run(lazy(case.start(), 30))
        assert differences(got, expected(case, 30)) == []


def analysed(adata: ad.AnnData) -> ad.AnnData:
    """Counts to principal components and markers."""
    sd.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=(5,), inplace=True)
    sd.pp.filter_cells(adata, min_genes=20)
    sd.pp.filter_genes(adata, min_cells=3)
    sd.pp.normalize_total(adata, target_sum=1e4)
    sd.pp.log1p(adata)
    sd.pp.highly_variable_genes(adata, n_top_genes=30)
    sd.pp.pca(adata, n_comps=5)
    sd.tl.rank_genes_groups(adata, "group")
    sd.tl.rank_genes_groups(adata, "group", method="wilcoxon", key_added="wilcoxon")
    return adata


def test_chunk__a_cluster_of_processes_gives_the_same(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    alone = analysed(lazy(counts(), 3))
    assert alone.shape < (N_OBS, N_VARS)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        LocalCluster(processes=True, **options) as cluster,
        Client(cluster),
        dask.config.set({"sc-dask.work-dir": str(tmp_path)}),  # where both workers lay blocks aside
    ):
        with stage("pca") as s:
            got = analysed(lazy(counts(), 6))
        assert differences(got, alone, RTOL) == []
    assert s.passes == pytest.approx(5)  # qc, moments, pca, markers and the gene-major copy


# -- slot ----------------------------------------------------------------------------------------


def check_slot(slot: slots.Slot, value: Any, shape: tuple[int, ...] | None, dims: dict[str, int]) -> None:
    if slot.dims:
        names = slot.dims.split(" x ")
        assert shape is not None and len(shape) == len(names)
        assert all(n == dims.get(name, n) for n, name in zip(shape, names, strict=True))
    if slot.dtype == "dict":
        assert isinstance(value, dict) and all(isinstance(k, str) for k in value)
    elif slot.dtype == "DataFrame":
        assert isinstance(value, pd.DataFrame)
    elif slot.dtype in ("float", "number"):
        assert value.dtype.kind in {"float": "f", "number": "iuf"}[slot.dtype]
    else:
        assert str(value.dtype) in slot.dtype.split(" or ")


@cases(argvalues=CASES)
def test_slot__writes_what_is_declared_and_nothing_else(case: Case) -> None:
    got = case.run(lazy(case.start(), bounds=CUTS["ragged"]))
    untouched = lazy(case.start())
    if got.shape != untouched.shape:  # what was dropped has dropped everywhere
        untouched = untouched[got.obs_names, got.var_names].copy()
    before, after = {k: leaves(v) for k, v in slots_of(untouched).items()}, slots_of(got)
    if case.function in KEEPING:
        assert after.keys() == before.keys()
        return
    changed = []
    for key, value in after.items():
        new = leaves(value)
        old = before.pop(key, None)
        if old is None or old.keys() != new.keys() or any(differ(new[p], old[p], 0) for p in new):
            changed.append(key)
    assert not before, f"went: {list(before)}"
    if case.returns:
        assert changed == [("uns", "returned")] and not slots.of(case.function)
        return
    declared = slots.of(case.function)
    for attr, key in changed:
        # the most special declaration counts: the one with the longest fixed text
        matching = sorted((s for s in declared if s.matches(attr, key)), key=lambda s: len(s.key.replace("{}", "")))
        assert matching, f"{attr}[{key!r}] is not declared"
        dims = {"n_obs": got.n_obs, "n_vars": got.n_vars}
        check_slot(matching[-1], after[attr, key], getattr(after[attr, key], "shape", None), dims)
    assert changed


def test_slot__every_declared_slot_is_written_by_some_case() -> None:
    written = {(c.function, key) for c in CASES for key in slots_of(expected(c))}
    idle = [
        (s.writer, s.attr, s.key)
        for s in slots.SLOTS
        if s.writer in public().keys() - MAKERS and not any(w == s.writer and s.matches(*key) for w, key in written)
    ]
    assert idle == []


def test_slot__every_function_declares_its_slots() -> None:
    exempt = KEEPING | MAKERS | {c.function for c in CASES if c.returns}
    assert {s.writer for s in slots.SLOTS} >= set(public()) - exempt


@cases(argvalues=[c for c in CASES if "copy" in inspect.signature(public()[c.function]).parameters])
def test_slot__copy_leaves_the_original_alone(case: Case) -> None:
    adata = lazy(case.start())
    with dask.config.set(scheduler="synchronous"):
        copied = public()[case.function](adata, copy=True, **case.kwargs)
    assert differences(adata, case.start()) == []
    assert differences(copied, expected(case)) == []


# -- signature and docstring ---------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(public().keys() - OURS))
def test_signature__has_scanpys_names_and_defaults(name: str) -> None:
    import scanpy as sc
    import scanpy.external as sce

    module, function = name.split(".")
    ours = inspect.signature(public()[name]).parameters
    homes = [getattr(package, module) for package in (sc, sce, sc.experimental) if hasattr(package, module)]
    theirs = inspect.signature(next(getattr(h, function) for h in homes if hasattr(h, function))).parameters
    assert set(ours) - set(theirs) == OWN.get(name, set())
    assert set(theirs) - set(ours) == ABSENT.get(name, set())
    for key in (set(ours) & set(theirs)) - OTHER_DEFAULTS.get(name, set()):
        if type(theirs[key].default).__name__ == "Empty":  # "not given", which is not None
            assert type(ours[key].default).__name__ == "_Unset"
        else:
            assert ours[key].default == theirs[key].default, key
    positional = [
        [k for k, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD] for parameters in (ours, theirs)
    ]
    assert positional[0] == positional[1][: len(positional[0])]


@pytest.mark.parametrize("name", public())
def test_docstring__tells_parameters_writes_passes_memory_and_errors(name: str) -> None:
    function = public()[name]
    doc = inspect.getdoc(function) or ""
    for section in ("Parameters", "Returns", "Writes", "Raises", "Examples"):
        assert re.search(rf"^{section}\n-+$", doc, re.M), section
    told = re.search(r"^Passes: (.*?)(?:Memory:|\n\n)", doc, re.M | re.S)
    assert told, "Passes"
    numbers = set(re.findall(r"\d+", told[1]))
    promised = {str(c.passes(lazy(c.start()))) for c in CASES if c.function == name}
    assert promised <= numbers, "the price of a case is not told"
    assert re.search(r"\bMemory: ", doc)
    summary = doc.split("\n\n")[0]
    assert len(summary.splitlines()) == 1 and summary.endswith(".")
    parameters = doc.split("Parameters\n")[1].split("\n\n")[0]
    described = {n.strip() for line in re.findall(r"^(?=\S)(.+)$", parameters, re.M) for n in line.split(",")}
    assert set(inspect.signature(function).parameters) <= described
